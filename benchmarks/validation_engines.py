"""Rates, prices and energy that vendors, InferenceX, MLPerf and ML.ENERGY published, by our cost model.

Rows that share a form are read from their own words (``Llama-3.3-70B FP8 H100 TP2 1000/1000``), so further rows of that
form need no code.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache

from benchmarks import economics, economics_energy
from benchmarks.validation_rows import ACCELERATORS, MODELS, PUBLISHED, Check, Row, numbers, ownership

from tidefleet.economics import energy
from tidefleet.economics.disaggregated import Disaggregated, pair
from tidefleet.economics.money import HOUR, MILLION, ChipCost, pair_cost
from tidefleet.economics.replica import Replica, Speculation
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape
from tidefleet.planning.evidence import Evidence

_NAMES = {"H100": "h100-sxm", "H200": "h200-sxm", "B200": "b200-sxm", "GB200": "gb200-nvl72", "GB300": "gb300-nvl72"}
_TRT = "trtllm"
_PRECISIONS = {"FP8": "Fp8", "FP4": "Fp4", "BF16": "Bf16"}


def _replica(
    model: str, chip: str, chips: int, weights: str, *, kv: str = "Fp8", spread: bool = False, engine: str = ""
) -> Replica:
    """A replica on so many chips: tensor parallel, or attention ranks of one chip with experts spread over all."""
    return Replica(
        MODELS[model],
        ACCELERATORS[chip],
        chips,
        weights,
        kv,
        tensor_parallel=1 if spread else chips,
        expert_parallel=chips if spread else 1,
        engine=engine,
    )


def _forms(
    model: str, chip: str, weights: str, sizes: Iterable[int] = (1, 2, 4, 8), engine: str = ""
) -> Iterator[Replica]:
    """Every width, tensor parallel and, for models with experts, spread."""
    for chips in sizes:
        yield _replica(model, chip, chips, weights, engine=engine)
        if MODELS[model].is_moe and chips > 1:
            yield _replica(model, chip, chips, weights, spread=True, engine=engine)


def _rate_per_chip(replica: Replica, shape: TokenShape, tpot: float = math.inf) -> float:
    """Output tokens/s of a chip within a mean time per output token; 0 when it cannot serve."""
    objectives = [Objective("TPOT", tpot)] if math.isfinite(tpot) else []
    found = estimate(replica, shape, objectives, correction=Evidence().correction(replica))
    return found.output_tokens_per_second / replica.chips if isinstance(found, Estimate) else 0.0


def _best_rate(replicas: Iterable[Replica], shape: TokenShape, tpot: float) -> float:
    return max(_rate_per_chip(one, shape, tpot) for one in replicas)


def tensorrt(row: Row) -> list[Check]:
    """TRT-*: the highest output rate per GPU, as TensorRT-LLM's overview gives it (8-bit KV cache)."""
    found = re.match(r"(\S+) (?:(FP8|FP4|BF16) )?(\w+) (TP|DEP)(\d+) (\d+)/(\d+)", row["published_figure"])
    if found is None:
        raise ValueError(f"{row['id']}: {row['published_figure']}; expected e.g. Llama-3.3-70B FP8 H100 TP2 1000/1000")
    name, precision, chip, form, chips, into, out = found.groups()
    model = MODELS[name.lower()]
    weights = _PRECISIONS[precision] if precision else model.native_weights
    replica = _replica(model.name, _NAMES[chip], int(chips), weights, spread=form == "DEP", engine=_TRT)
    return [
        Check("output tokens/s per GPU", float(row["value"]), _rate_per_chip(replica, TokenShape(int(into), int(out))))
    ]


def deepseek_offline(row: Row) -> list[Check]:
    """MLP-01: offline on 72 GB300. The benchmark's prompts have some 800 tokens and its answers 3,880."""
    rates = _forms("deepseek-r1", "gb300-nvl72", "Fp4", (4, 8, 16, 72), _TRT)
    best = _best_rate(rates, TokenShape(800.0, 3880.0), math.inf)
    return [Check("tokens/s of 72 GPUs", numbers(row["value"])[0], 72 * best)]


def llama_offline(row: Row) -> list[Check]:
    """MLP-03: OpenOrca, 294 tokens in and out on the mean."""
    best = _best_rate(_forms("llama-2-70b", "gb200-nvl72", "Fp4", (1, 2), _TRT), TokenShape(294.0, 294.0), math.inf)
    return [Check("tokens/s per rack", float(row["value"]), 72 * best)]


_OUTPUT_TOKENS = {"lm-arena-chat": 650.0, "gpqa": 2000.0, "sourcegraph-fim": 250.0}
"""Mean answers where the run itself is not at hand: about those of the measured runs, gpqa without long reasoning."""


def _joules(replica: Replica, batch: float, task: str) -> float:
    """Joules per output token: our power at the throughput measured in the run with this batch.

    The power law's constants are fitted without this model. Where the runs are not at hand, the shipped constants and
    our own throughput stand in.
    """
    path = PUBLISHED.with_name("energy_measured.csv")
    if path.is_file():
        runs = economics_energy.read(path)
        with path.open(newline="", encoding="utf-8") as file:
            tasks = [one["task"] for one in csv.DictReader(file)]
        wanted = (replica.model, replica.accelerator, replica.chips, task, round(batch))
        for of, run in zip(tasks, runs, strict=True):
            if (run.replica.model, run.replica.accelerator, run.replica.chips, of, round(run.batch)) == wanted:
                law = economics_energy.fit_power([one for one in runs if one.architecture != run.architecture])
                return economics_energy.modelled_joules(run, law, run.seconds_per_token)
    prompt, output = economics_energy.PROMPT_TOKENS[task], _OUTPUT_TOKENS[task]
    run = economics_energy.Run(replica, batch, prompt, output, math.nan, math.nan, math.nan)
    seconds = economics_energy.speed(run, economics_energy.ENGINE_COSTS)[1]
    return economics_energy.modelled_joules(run, economics_energy.SHIPPED, seconds)


def energy_per_token(row: Row) -> list[Check]:
    """EN-01, EN-04 and others of their form: joules per output token of each run named, and the ratio of two."""
    words = row["published_figure"].split()
    model = MODELS[words[0].lower()]
    weights = _PRECISIONS.get(words[1].upper(), model.native_weights)
    runs = re.findall(r"([A-Z]+\d+)x(\d+),? batch (\d+)", row["published_figure"])
    published = numbers(row["value"])
    task = row["conditions"].strip()
    ours = [
        _joules(_replica(model.name, _NAMES[chip], int(n), weights, kv="Bf16", engine="vllm"), float(batch), task)
        for chip, n, batch in runs
    ]
    checks = [
        Check(f"J per output token, {chips} {chip}", figure, one)
        for (chip, chips, _), figure, one in zip(runs, published, ours, strict=True)
    ]
    if len(checks) == 2:
        checks.append(Check("the first over the second", published[0] / published[1], ours[0] / ours[1]))
    return checks


def power_share(row: Row) -> list[Check]:
    """EN-05, reported: mean power over TDP of the measured runs, and our error on models left out of the fit."""
    runs = economics_energy.read(economics_energy.MEASURED)
    shares = [economics_energy.watts_share(run) for run in runs]
    error = 100 * economics_energy.measure()["energy_mape"]
    return [
        Check("mean power over TDP", numbers(row["value"])[0], sum(shares) / len(shares)),
        Check("mean error of power on models left out, %", numbers(row["what_a_good_model_should_predict"])[0], error),
    ]


def reconfiguration(row: Row) -> list[Check]:
    """EN-07: what following demand saves on DeepSeek's day lies between nothing and DynamoLLM's figures."""
    most = numbers(row["value"])
    peak, mean = 278.0, 226.75
    chip = ACCELERATORS["h800-sxm"]
    busy = energy.chip_watts(chip, batch=88, memory_use=0.4, compute_use=0.1) or 0.0
    idle = chip.idle_watts or 0.1 * (chip.tdp_watts or 0.0)
    static = mean * busy + (peak - mean) * idle
    saved = 100 * (1 - mean * busy / static)
    return [
        Check("energy saved, %", most[0], saved, 0.0 < saved <= most[0]),
        Check("cost saved, %", most[2], 100 * (1 - mean / peak), 100 * (1 - mean / peak) <= most[2]),
    ]


def per_megawatt(row: Row) -> list[Check]:
    """IX-01: gpt-oss-120b at 90 tokens/s a user, 1k in and 8k out, per all-in megawatt; any layout up to a node.

    No check of the model: the efficiencies of these two types were scaled to these two figures, for want of others.
    """
    shape = TokenShape(1024.0, 8192.0)
    published = [float(one) * 1e6 for one in re.findall(r"([\d.]+)M ", row["value"])]
    checks = []
    for chip, per_mw in zip(("mi300x", "mi355x"), published, strict=True):
        watts = ACCELERATORS[chip].facility_watts
        assert watts is not None  # noqa: S101
        forms = _forms("gpt-oss-120b", chip, "Fp4", engine="vllm")
        ours = _best_rate(forms, shape, 1 / 90) / watts * 1e6
        checks.append(Check(f"tokens/s per MW, {chip}", per_mw, ours))
    return checks


_IX_SHAPE = TokenShape(8192.0, 1024.0)


def _least_usd(forms: Sequence[Replica], chip: ChipCost, tokens_per_second: float) -> float:
    """USD per 1M output tokens at a speed, the whole bill over output, shared or with prefill apart."""
    shared = chip.usd_per_chip_hour / (_best_rate(forms, _IX_SHAPE, 1 / tokens_per_second) * HOUR) * MILLION
    objective = [Objective("TPOT", 1 / tokens_per_second)]
    apart = [
        pair_cost(both, chip, chip).usd_per_request / _IX_SHAPE.output_mean * MILLION
        for sender, receiver in itertools.product(forms, repeat=2)
        if isinstance(both := pair(sender, receiver, _IX_SHAPE, objective), Disaggregated)
    ]
    return min(shared, *apart)


def price_of_speed(row: Row) -> list[Check]:
    """IX-03: the whole GPU cost over output tokens at two speeds (their division), and the slope between them.

    InferenceX v2 runs nodes that do both and pools with prefill apart; the cheaper one is on its frontier.
    """
    (slow, at_slow), (fast, at_fast) = ((float(a), float(b)) for a, b in re.findall(r"([\d.]+) @(\d+)", row["value"]))
    rent = ChipCost(numbers(row["conditions"])[0])
    forms = list(_forms("deepseek-r1", "b200-sxm", "Fp4", (4, 8), _TRT))
    ours = [_least_usd(forms, rent, speed) for speed in (at_slow, at_fast)]
    return [
        Check(f"USD per 1M output at {at_slow:g} tokens/s", slow, ours[0]),
        Check(f"USD per 1M output at {at_fast:g} tokens/s", fast, ours[1]),
        Check("price ratio", fast / slow, ours[1] / ours[0]),
    ]


def speculation(row: Row) -> list[Check]:
    """IX-04: at 150 tokens/s a user, verifying drafted tokens makes tokens cheaper and batches larger."""
    before, after = numbers(row["value"])
    best = {}
    for name, drafting in (("without", None), ("with", Speculation(tokens=4, accept_length=2.7))):
        found = [
            one
            for form in _forms("deepseek-r1", "gb300-nvl72", "Fp4", (4, 8, 16), _TRT)
            if isinstance(
                one := estimate(replace(form, speculation=drafting), _IX_SHAPE, [Objective("TPOT", 1 / 150)]), Estimate
            )
        ]
        best[name] = max(found, key=lambda one: one.output_tokens_per_second / one.replica.chips, default=None)
    plain, drafted = best["without"], best["with"]
    if drafted is None:
        return [Check("serves at 150 tokens/s with speculation", 1.0, 0.0, False)]
    if plain is None:  # only speculation reaches this speed: the strongest form of the order
        return [Check("USD per 1M output, without over with", before / after, math.inf, True)]
    rates = [one.output_tokens_per_second / one.replica.chips for one in (plain, drafted)]
    batches = [one.batch / one.replica.chips for one in (plain, drafted)]
    return [
        Check("USD per 1M output, without over with", before / after, rates[1] / rates[0], rates[1] > rates[0]),
        Check("batch per chip, with over without", 1.0, batches[1] / batches[0], batches[1] > batches[0]),
    ]


def phases_below_the_whole(row: Row) -> list[Check]:
    """IX-06: each published price carries the whole GPU cost, so a price by phase must lie below both."""
    into, out = numbers(row["value"])
    drafting = Speculation(tokens=4, accept_length=2.7)
    sender = _replica("deepseek-r1", "h200-sxm", 8, "Fp8", spread=True)
    receiver = replace(_replica("deepseek-r1", "h200-sxm", 32, "Fp8", spread=True), speculation=drafting)
    both = pair(sender, receiver, _IX_SHAPE, [Objective("TPOT", 1 / 36)])
    if not isinstance(both, Disaggregated):
        return [Check("serves at 36 tokens/s", 1.0, 0.0, False)]
    owned = ChipCost(ownership()["h200-sxm"])
    money = pair_cost(both, owned, owned)
    ours = money.prefill.input or math.inf, money.decode.output or math.inf
    return [
        Check("USD per 1M input", into, ours[0], ours[0] < into),
        Check("USD per 1M output", out, ours[1], ours[1] < out),
    ]


def energy_share(row: Row) -> list[Check]:
    """IX-07: electricity at $0.08/kWh over the total cost of ownership, for the chips whose both are known."""
    most = numbers(row["value"])[0]
    checks = []
    for name, chip in ACCELERATORS.items():
        usd = ownership().get(name)
        if usd is None or chip.facility_watts is None or chip.tdp_watts is None:
            continue
        share = 100 * energy.facility_watts(chip, chip.tdp_watts) / 1000 * 0.08 / usd
        checks.append(Check(f"electricity, % of TCO, {name}", most, share, share < most))
    return checks


CASES = {
    "MLP-01": deepseek_offline,
    "MLP-03": llama_offline,
    "EN-07": reconfiguration,
    "IX-01": per_megawatt,
    "IX-03": price_of_speed,
    "IX-04": speculation,
    "IX-06": phases_below_the_whole,
    "IX-07": energy_share,
}


@cache
def _silicon() -> dict[str, float]:
    """What ``economics.py`` measures; empty where the measured runs are not installed."""
    try:
        return economics.measure()
    except (ImportError, OSError):
        return {}


def silicon(row: Row) -> list[Check]:
    """SIL-*, reported: the figures of ``economics.py`` beside the bounds that the row names, in percent."""
    keys = {
        "SIL-01": ("mape_uncalibrated", "mape_uncalibrated_dense"),
        "SIL-02": ("mape_calibrated_mean", "mape_calibrated_median"),
        "SIL-03": ("pairs_ordered_ratio",),
        "SIL-04": ("ttft_bare_ratio",),
    }[row["id"]]
    bounds = numbers(row["what_a_good_model_should_predict"])
    return [
        Check(f"{key}, %", bound, 100 * _silicon()[key])
        for key, bound in zip(keys, bounds, strict=False)
        if key in _silicon()
    ]


REPORTS = {"EN-05": power_share, **dict.fromkeys(("SIL-01", "SIL-02", "SIL-03", "SIL-04"), silicon)}
