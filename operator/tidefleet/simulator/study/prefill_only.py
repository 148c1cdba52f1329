"""From which price a prefill-only accelerator wins: its prefill in front of another type's decode, against that type.

Without it: the cheapest configuration of the decoding type alone, aggregated or as a pair. With it: the cheapest pair
of its prefill and that decode. The cost of the pair is linear in the price of the prefill chip, so the price at which
both cost the same follows in closed form, p* = (usd - usd_decode) / (chip-hours of prefill), all per request.
"""

from __future__ import annotations

from dataclasses import replace

from tidefleet import catalogue
from tidefleet.economics.contest import Ask, Contestant, paired, servings, usd_per_chip_hour_to_cost
from tidefleet.economics.money import ChipCost
from tidefleet.economics.serving import CannotServe
from tidefleet.economics.shape import Objective, TokenShape
from tidefleet.simulator.catalogued import chip_of, price_of
from tidefleet.simulator.scenario import Scenario
from tidefleet.simulator.study.finding import BadSetting, Finding, pool_of, settings_of

DEFAULTS = {
    "peakShare": 1.0,  # of the prefill chip's published peaks that is taken: 0.5 if they count sparsity
    "bf16ShareOfFp4": 0.25,  # of the prefill chip's FP4 peak, where its 16-bit peak is not published: as on a B200
    "networkBytesPerSecond": 50e9,  # of a prefill chip, where it is not published
    "ttftSeconds": 10.0,
    "tpotSeconds": 0.05,
    "outputTokens": 1000.0,
}

LENGTHS = (2000, 8000, 32000, 128000)


def study(scenario: Scenario) -> Finding:
    """The break-even price of the first pool's accelerator, in front of the second pool's, by prompt length.

    Raises:
        BadSetting: a pool or the decoding type's price is missing, or nothing can serve.
    """
    values = settings_of(scenario, DEFAULTS, positive=("peakShare", "bf16ShareOfFp4", "networkBytesPerSecond"))
    before, after = pool_of(scenario), pool_of(scenario, 1)
    usd = price_of(after)
    if usd is None:
        raise BadSetting(
            f"scenario {scenario.name}: pools[1].usdPerChipHour is missing, and the catalogue has no price of "
            f"{after.accelerator}; expected a price, e.g. usdPerChipHour: 14.24"
        )
    chip = chip_of(before.accelerator)
    assumed = []
    chip = replace(chip, flops={name: values["peakShare"] * peak for name, peak in chip.flops.items()})
    if "Bf16" not in chip.flops:
        peak = values["bf16ShareOfFp4"] * chip.flops.get("Fp4", 0.0)
        chip = replace(chip, flops={**chip.flops, "Bf16": peak})
        assumed.append(f"{peak / 1e12:g} TFLOP/s in 16 bits")
    if not chip.scale_out_bytes_per_second:
        chip = replace(chip, scale_out_bytes_per_second=values["networkBytesPerSecond"])
        assumed.append(f"{values['networkBytesPerSecond'] / 1e9:g} GB/s of network")
    sender, receiver = Contestant(chip, frozenset({"Prefill"})), Contestant(chip_of(after.accelerator))
    model = catalogue.models()[after.model]
    figures: dict[str, float] = {"decode_usd_per_chip_hour": usd}
    words = [
        f"{after.model} ({after.weights} weights, {after.kv} KV): {before.accelerator} prefills, {after.accelerator} "
        f"at ${usd:g} a chip-hour decodes, against {after.accelerator} alone; TTFT p95 within "
        f"{values['ttftSeconds']:g} s, TPOT within {1e3 * values['tpotSeconds']:g} ms, "
        f"{values['outputTokens']:g} output tokens"
    ]
    if assumed:
        words.append(f"{before.accelerator}: assumed {' and '.join(assumed)}; they are not published")
    objectives = (Objective("TTFT", values["ttftSeconds"]), Objective("TPOT", values["tpotSeconds"]))
    cost = ChipCost(usd)
    for tokens in LENGTHS:
        shape = TokenShape(float(tokens), max(1.0, values["outputTokens"]))
        ask = Ask(model, shape, objectives, weights=(after.weights,), kv=(after.kv,))
        alone, together = servings(ask, receiver), paired(ask, sender, receiver)
        if isinstance(alone, CannotServe) or not together:
            words.append(f"{tokens:,} prompt tokens: one of the two cannot meet the objectives")
            continue
        least = min(one.usd_per_million([cost] * len(one.parts), 1.0) for one in alone)
        prices = [usd_per_chip_hour_to_cost(one, (None, cost), least, 1.0) for one in together]
        best = max(range(len(prices)), key=lambda index: prices[index])
        pair = together[best]
        chips = pair.chip_seconds[0] / pair.chip_seconds[1]
        figures |= {
            f"usd_per_million_tokens_alone_{tokens}": least,
            f"break_even_usd_per_chip_hour_{tokens}": prices[best],
            f"break_even_share_of_decode_price_{tokens}": prices[best] / usd,
            f"prefill_chips_per_decode_chip_{tokens}": chips,
        }
        words.append(
            f"{tokens:,} prompt tokens: wins below ${prices[best]:.2f} a chip-hour, {prices[best] / usd:.0%} of the "
            f"decoding chip's, with {chips:.2f} prefill chips for each of its chips"
        )
    return Finding(figures, tuple(words))
