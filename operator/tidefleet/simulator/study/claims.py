"""The field's claims, as far as the cost model can answer them: each with the conditions under which it holds.

Hopper is an HGX H200, Blackwell a GB300 NVL72, both at what they cost a hyperscaler to own; the request is 8,192 prompt
and 1,024 output tokens of DeepSeek-R1, over speeds from slow to as fast as a node of Hopper can. ``plain`` is one node
of Hopper as it was served at first: tensor-parallel, prefill and decode together, nothing drafted. ``tuned`` has the
same software as Blackwell: experts spread, prefill apart, drafting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tidefleet import catalogue
from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.contest import token_cost_ratio
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step
from tidefleet.economics.shape import KvTier, TierHit, TokenShape
from tidefleet.simulator.catalogued import chip_of, list_price
from tidefleet.simulator.scenario import Scenario
from tidefleet.simulator.study.deepseek import (
    DECODE_SPEED,
    DECODE_TOKENS_PER_NODE,
    day,
    decode_tokens_per_second_per_node,
)
from tidefleet.simulator.study.finding import BadSetting, Finding, settings_of
from tidefleet.simulator.study.generations import MTP, Case, Offer, best_offer

DEFAULTS = {
    "inputTokens": 8192.0,
    "outputTokens": 1024.0,
    "acceptLength": MTP.accept_length,  # tokens that a step with drafting yields
    "claimedTokensPerWattRatio": 50.0,
    "bf16ShareOfFp8": 0.5,  # of Rubin's FP8 peak, where its 16-bit peak is not published: as on Blackwell
}

SPEEDS = (20, 35, 50, 65, 75, 85, 95, 100, 105, 110)
"""Tokens a second that each user gets."""

HOPPER, BLACKWELL, RUBIN = "h200-sxm", "gb300-nvl72", "rubin-vr-nvl72"
MODEL = "deepseek-r1"


def study(scenario: Scenario) -> Finding:
    """The figures of every claim.

    Raises:
        BadSetting: a setting is not usable.
    """
    values = settings_of(scenario, DEFAULTS, positive=("bf16ShareOfFp8", "claimedTokensPerWattRatio"))
    if not 1.0 <= values["acceptLength"] <= MTP.tokens:
        raise BadSetting(
            f"scenario {scenario.name}: settings.acceptLength is {values['acceptLength']:g}; expected from 1 to "
            f"{MTP.tokens}, e.g. acceptLength: {MTP.accept_length:g}"
        )
    figures: dict[str, float] = {}
    words: list[str] = []
    for part in (_generations, _rubin, _software, _memory, _year, _day):
        for found in part(values):
            match found:
                case str():
                    words.append(found)
                case (name, value):
                    figures[name] = value
    return Finding(figures, tuple(words))


Told = Iterator[str | tuple[str, float]]


def _owned(name: str) -> float:
    usd = list_price(name, "Owned")
    if usd is None:
        raise BadSetting(f"the catalogue has no Owned price of {name}")
    return usd


def _case(values: dict[str, float], speed: float) -> Case:
    shape = TokenShape(max(1.0, values["inputTokens"]), max(1.0, values["outputTokens"]))
    drafting = replace(MTP, accept_length=values["acceptLength"])
    return Case(catalogue.models()[MODEL], shape, 1.0 / speed, drafting=drafting)


def _plain(case: Case) -> Case:
    return replace(case, apart=False, spread=False, node_only=True, drafting=None)


def _generations(values: dict[str, float]) -> Told:
    """50 times the tokens per watt, 35 times lower cost."""
    hopper, blackwell = chip_of(HOPPER), chip_of(BLACKWELL)
    price = _owned(BLACKWELL) / _owned(HOPPER)
    most: dict[str, tuple[float, float, float, float]] = {}
    claimed = values["claimedTokensPerWattRatio"]
    reached = 0.0
    for speed in SPEEDS:
        case = _case(values, speed)
        fast = best_offer(replace(case, weights=("Fp4", "Fp8")), blackwell)
        for name, slow in (("plain", best_offer(_plain(case), hopper)), ("tuned", best_offer(case, hopper))):
            if fast is None or slow is None:
                continue
            tokens = fast.output_tokens_per_second / slow.output_tokens_per_second
            watts = fast.output_tokens_per_joule / slow.output_tokens_per_joule
            yield f"tokens_per_watt_ratio_{name}_{speed}_per_second", watts
            yield f"token_cost_ratio_{name}_{speed}_per_second", tokens / price
            if name == "plain" and watts >= claimed and not reached:
                reached = float(speed)
                yield "tokens_per_watt_claim_from_speed_per_second", reached
            most[name] = max(most.get(name, (0.0, 0.0, 0.0, 0.0)), (watts, tokens / price, tokens, float(speed)))
    for name, (watts, cost, tokens, at) in most.items():
        yield f"tokens_per_watt_ratio_{name}_most", watts
        yield f"token_cost_ratio_{name}_most", cost
        yield (
            f"Blackwell (FP4, experts over 64 chips of a rack, drafting) against {name} Hopper: at most {watts:.1f}x "
            f"the tokens per watt, {cost:.1f}x lower cost, {tokens:.1f}x the tokens a chip, at {at:g} tokens/s a user"
        )
    gb200, h100 = chip_of("gb200-nvl72"), chip_of("h100-sxm")
    identity = 1.0 / token_cost_ratio(
        (claimed, 1.0),
        (gb200.facility_watts or 0.0, h100.facility_watts or 0.0),
        (_owned("gb200-nvl72"), _owned("h100-sxm")),
    )
    yield "token_cost_ratio_by_identity", identity
    yield "price_ratio_blackwell_over_hopper", price
    yield f"{claimed:g}x the tokens per watt is {identity:.1f}x lower cost for GB200 against H100: one claim, not two"


def _rubin(values: dict[str, float]) -> Told:
    """Ten times lower token cost than Blackwell."""
    chip, blackwell = chip_of(RUBIN), chip_of(BLACKWELL)
    flops = {"Bf16": values["bf16ShareOfFp8"] * chip.flops["Fp8"], **chip.flops}
    rubin: Accelerator = replace(chip, flops=flops, scale_out_bytes_per_second=blackwell.scale_out_bytes_per_second)
    best = (0.0, 0.0)
    for speed in (50, 100, 150, 200):
        case = replace(_case(values, speed), weights=("Fp4",))
        new, old = best_offer(case, rubin), best_offer(case, blackwell)
        if new is not None and old is not None:
            ratio = new.output_tokens_per_second / old.output_tokens_per_second
            yield f"rubin_tokens_per_chip_ratio_{speed}_per_second", ratio
            best = max(best, (ratio, float(speed)))
    if best[0] > 0.0:
        usd = best[0] * _owned(BLACKWELL)
        yield "rubin_tokens_per_chip_ratio_most", best[0]
        yield "rubin_usd_per_chip_hour_for_10x", usd / 10.0
        yield (
            f"Rubin (as announced, 16-bit peak assumed) gives at most {best[0]:.1f}x the tokens of a Blackwell chip, "
            f"at {best[1]:g} tokens/s a user: tokens at a tenth of the cost need a chip-hour below ${usd / 10.0:.2f}, "
            f"where Blackwell's is ${_owned(BLACKWELL):.2f}"
        )


def _software(values: dict[str, float]) -> Told:
    """Eight times from software in half a year, on the same chips."""
    chip = chip_of("b200-sxm")
    best = (0.0, 0.0)
    for speed in SPEEDS:
        case = _case(values, speed)
        before, after = best_offer(_plain(case), chip), best_offer(replace(case, weights=("Fp4", "Fp8")), chip)
        if before is not None and after is not None:
            best = max(best, (before.chip_seconds / after.chip_seconds, float(speed)))
            if speed == 50:
                yield "software_ratio_50_per_second", before.chip_seconds / after.chip_seconds
    yield "software_ratio_most", best[0]
    replica = Replica(catalogue.models()["llama-3.3-70b"], chip, 1, "Fp8", "Fp8")
    step = decode_step(replica, 128.0, 2048.0)
    kernels = float(step.seconds[0] * replica.memory_bytes_per_second / step.bytes_moved[0])
    yield "kernels_could_gain_at_most_ratio", kernels
    yield (
        f"the same B200: FP4 weights, experts over 64 chips, prefill apart and drafting give {best[0]:.1f}x over a "
        f"plain node at {best[1]:g} tokens/s a user; faster kernels alone could give {kernels:.2f}x (a dense decode "
        "step at the full bandwidth of its memory)"
    )


def _memory(values: dict[str, float]) -> Told:
    """Memory that halves the cost of tokens: more of it beside the same arithmetic, and KV kept in a tier."""
    model, usd = catalogue.models()["llama-3.3-70b"], {name: _owned(name) for name in ("h100-sxm", HOPPER)}
    best = (0.0, "")
    for into, out in ((1024, 1024), (8192, 1024), (32768, 1024), (1024, 8192)):
        for speed in (10, 20, 30, 50):
            case = Case(model, TokenShape(float(into), float(out)), 1.0 / speed, apart=False)
            small, large = (best_offer(case, chip_of(name)) for name in usd)
            if small is not None and large is not None:
                ratio = _usd(small, usd["h100-sxm"]) / _usd(large, usd[HOPPER])
                best = max(best, (ratio, f"{into} in, {out} out, {speed} tokens/s a user"))
    yield "memory_cost_ratio_h200_over_h100_most", best[0]
    yield f"H200 against H100 (the same arithmetic, 1.8x the memory): at most {best[0]:.2f}x lower cost, at {best[1]}"
    tier = KvTier("Host", 100e9, 0.0005)
    base = Case(model, TokenShape(8192.0, 256.0), 0.05, apart=False)
    without = best_offer(base, chip_of(HOPPER))
    for percent in range(5, 100, 5):
        hits = replace(base.shape, tier_hits=(TierHit(tier, percent / 100.0),))
        kept = best_offer(replace(base, shape=hits), chip_of(HOPPER))
        if without is not None and kept is not None and kept.chip_seconds <= without.chip_seconds / 2.0:
            yield "tier_hit_share_that_halves_cost", percent / 100.0
            yield (
                f"a KV tier halves the cost of 8,192-token prompts with 256 output tokens from {percent} % of prompt "
                "tokens found in it (H200, 100 GB/s a replica), what the tier costs left out"
            )
            break


def _usd(offer: Offer, usd_per_chip_hour: float) -> float:
    return offer.usd_per_million_output_tokens(usd_per_chip_hour)


def _year(values: dict[str, float]) -> Told:
    """Ten times a year: from hardware and precision, and from a model that does the same with fewer active weights."""
    shape = TokenShape(2048.0, 512.0)

    def cost(model: str, chip: str, weights: str) -> float | None:
        case = Case(catalogue.models()[model], shape, 0.05, weights=(weights,), kv="Fp8")
        found = best_offer(case, chip_of(chip))
        return None if found is None else _usd(found, _owned(chip))

    then = cost("llama-3.1-405b", "h100-sxm", "Fp8")
    steps = (
        ("hardware", cost("llama-3.1-405b", BLACKWELL, "Fp8")),
        ("precision", cost("llama-3.1-405b", BLACKWELL, "Fp4")),
        ("fewer_active_weights", cost("gpt-oss-120b", BLACKWELL, "Fp4")),
    )
    if then is None:
        return
    told, before = [], then
    for name, now in steps:
        if now is None:
            return
        yield f"year_{name}_ratio", before / now
        told.append(f"{name.replace('_', ' ')} {before / now:.1f}x")
        before = now
    yield "year_total_ratio", then / before
    yield (
        f"from llama-3.1-405b in FP8 on H100 to gpt-oss-120b on GB300: {', '.join(told)}, {then / before:.0f}x "
        "together; whether the two models are equally good is not the cost model's to say"
    )


def _day(values: dict[str, float]) -> Told:
    """DeepSeek's published day, and what following demand saves; its decode rate as the cost model has it."""
    found = day()
    yield from ((f"deepseek_day_{name}", value) for name, value in found.items())
    rate = decode_tokens_per_second_per_node()
    yield "deepseek_decode_tokens_per_second_per_node_predicted", rate
    yield (
        f"the cost model's own decode rate for it: {rate:,.0f} tokens/s a node, at "
        f"{DECODE_SPEED:g} tokens/s a user; published are {DECODE_TOKENS_PER_NODE:,.0f}"
    )
    yield (
        f"DeepSeek's day: {found['mean_nodes']:.2f} nodes on average, ${found['usd_per_day']:,.0f}, margin "
        f"{found['margin_share']:.1%}; {found['saved_share']:.1%} of node-hours saved against the peak all day; were "
        f"the peak paid all day, the margin would be {found['margin_share_if_all_nodes_were_paid']:.0%}"
    )
