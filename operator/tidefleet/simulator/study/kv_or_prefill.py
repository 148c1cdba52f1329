"""Fetching a prompt's KV from a tier against prefilling it again: seconds to the first token, and joules.

Again: T_p(S + N, 0). Fetched: l + kappa*S / beta + T_p(N, S) with S tokens in the tier of bandwidth beta and latency l,
and N tokens behind them that nobody has prefilled. Both on an idle replica, so the ratio is of service times; a queue
of prefills multiplies it. Joules likewise: prefill as ``economics.energy`` has it, a fetch by what a bit costs to move.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tidefleet.economics.energy import prefill_joules
from tidefleet.economics.memory import kv_bytes, replica_memory
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import prefill
from tidefleet.simulator import fits
from tidefleet.simulator.catalogued import replica_of
from tidefleet.simulator.scenario import Scenario, Tier
from tidefleet.simulator.study.finding import BadSetting, Finding, pool_of, settings_of

DEFAULTS = {
    "newTokens": 128.0,  # of a prompt, behind what the tier holds
    "picojoulesPerBit": 100.0,  # to read, send and write a bit of KV: storage, network and host. An assumption
    "claimedTtftRatio": 75.0,
    "claimedEnergyRatio": 200.0,
}

LENGTHS = (2048, 8192, 32768, 131072)
_SWEEP: tuple[float, ...] = tuple(np.unique(np.geomspace(256, 1 << 20, 160).round()).tolist())


def again_seconds(replica: Replica, tokens: float, new: float) -> float:
    """Seconds to prefill everything."""
    return float(prefill(replica, tokens + new, 0.0).seconds[0])


def fetched_seconds(
    replica: Replica, tokens: float, new: float, *, bytes_per_second: float, latency_seconds: float
) -> float:
    """Seconds to load the KV of ``tokens`` and to prefill the ``new`` ones behind them."""
    moved = kv_bytes(replica.model, replica.kv, 1, tokens)
    return latency_seconds + moved / bytes_per_second + float(prefill(replica, new, tokens).seconds[0])


def break_even_bytes_per_second(replica: Replica, tokens: float, new: float, latency_seconds: float) -> float:
    """The bandwidth at which fetching and prefilling again take the same; infinite where the latency alone is more."""
    gained = again_seconds(replica, tokens, new) - float(prefill(replica, new, tokens).seconds[0]) - latency_seconds
    return kv_bytes(replica.model, replica.kv, 1, tokens) / gained if gained > 0.0 else math.inf


def energy_ratio(replica: Replica, tokens: float, new: float, joules_per_byte: float) -> float | None:
    """Joules of prefilling everything over those of fetching; chips work for others while the KV is on its way."""
    again, behind = prefill_joules(replica, tokens + new), prefill_joules(replica, new, tokens)
    if again is None or behind is None:
        return None
    return again / (behind + joules_per_byte * kv_bytes(replica.model, replica.kv, 1, tokens))


def _up_to(most: float) -> tuple[float, ...]:
    return tuple(one for one in _SWEEP if one <= most)


def first_reached(claimed: float, ratio: Callable[[float], float | None], most: float) -> float | None:
    """The shortest prompt, in tokens, whose ratio reaches what is claimed; ``None`` up to ``most``."""
    for tokens in _up_to(most):
        found = ratio(tokens)
        if found is not None and found >= claimed:
            return tokens
    return None


def study(scenario: Scenario) -> Finding:
    """The figures of the scenario's first pool and its tiers.

    Raises:
        BadSetting: there is no pool, or it has no tiers.
    """
    values = settings_of(scenario, DEFAULTS)
    pool = pool_of(scenario)
    if not pool.tiers:
        raise BadSetting(
            f"scenario {scenario.name}: pools[0].tiers is empty; expected tiers to fetch from, "
            "e.g. tiers: [{medium: host, tokens: 2000000, bytesPerSecond: 5e10}]"
        )
    replica, new = replica_of(pool), values["newTokens"]
    if cannot := fits.cannot_start(replica):
        raise BadSetting(f"scenario {scenario.name}: pools[0] ({pool.name}): {cannot}")
    most = min(float(replica_memory(replica).max_context_tokens), float(replica.model.context_tokens or math.inf))
    if most < LENGTHS[0]:
        raise BadSetting(
            f"scenario {scenario.name}: {pool.model} in {pool.weights} on {pool.chips_per_replica} chips of "
            f"{pool.accelerator} has no room for {LENGTHS[0]} tokens; expected more, e.g. pools.0.chipsPerReplica=4"
        )
    joules_per_byte = 8e-12 * values["picojoulesPerBit"]
    figures: dict[str, float] = {
        "kv_bytes_per_token": kv_bytes(replica.model, replica.kv, 1, LENGTHS[0]) / LENGTHS[0],
        "longest_prompt_tokens": most,
    }
    words = [
        f"{pool.model} ({pool.weights} weights, {pool.kv} KV) on {pool.chips_per_replica} {pool.accelerator}, idle; "
        f"{new:g} tokens behind the fetched ones are prefilled either way"
    ]
    for tokens in (one for one in LENGTHS if one <= most):
        figures[f"prefill_seconds_{tokens}"] = again_seconds(replica, tokens, new)
        joules = prefill_joules(replica, tokens + new)
        if joules is not None:
            figures[f"prefill_joules_{tokens}"] = joules
        ratio = energy_ratio(replica, tokens, new, joules_per_byte)
        if ratio is not None:
            figures[f"energy_ratio_{tokens}"] = ratio
    for tier in pool.tiers:
        _tier(figures, words, replica, tier, new=new, most=most, claimed=values["claimedTtftRatio"])
    claimed = values["claimedEnergyRatio"]
    reached = first_reached(claimed, lambda tokens: energy_ratio(replica, tokens, new, joules_per_byte), most)
    if reached is not None:
        figures["energy_claim_from_tokens"] = reached
    words.append(
        f"energy: {claimed:g}x less is "
        + (f"reached from {reached:,.0f} tokens" if reached is not None else f"not reached up to {most:,.0f} tokens")
        + f", at {values['picojoulesPerBit']:g} pJ a bit moved and with the chips busy for others during the fetch"
    )
    return Finding(figures, tuple(words))


def _tier(
    figures: dict[str, float],
    words: list[str],
    replica: Replica,
    tier: Tier,
    *,
    new: float,
    most: float,
    claimed: float,
) -> None:
    def ratio(tokens: float) -> float:
        return again_seconds(replica, tokens, new) / fetched_seconds(
            replica, tokens, new, bytes_per_second=tier.bytes_per_second, latency_seconds=tier.latency_seconds
        )

    name = f"{tier.medium}_{tier.bytes_per_second / 1e9:g}_GBps"
    for tokens in (one for one in LENGTHS if one <= most):
        figures[f"ttft_ratio_{name}_{tokens}"] = ratio(float(tokens))
        floor = break_even_bytes_per_second(replica, tokens, new, tier.latency_seconds)
        if math.isfinite(floor):
            figures[f"break_even_gigabytes_per_second_{name}_{tokens}"] = floor / 1e9
    reached = first_reached(claimed, ratio, most)
    if reached is not None:
        figures[f"ttft_claim_from_tokens_{name}"] = reached
    best = max((ratio(tokens), tokens) for tokens in (*_up_to(most), most))
    worth = first_reached(1.0, ratio, most)
    words.append(
        f"{tier.medium} at {tier.bytes_per_second / 1e9:g} GB/s: "
        + (f"fetching is faster from {worth:,.0f} tokens, " if worth is not None else "fetching is never faster, ")
        + f"at most {best[0]:.1f}x at {best[1]:,.0f} tokens; {claimed:g}x "
        + (f"from {reached:,.0f} tokens" if reached is not None else "is not reached")
    )
