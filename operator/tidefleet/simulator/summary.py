"""What a fleet run comes to as a whole: windows weighed to all requests, and the seconds and dollars of the fluid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tidefleet.economics.energy import prefill_joules, replica_watts
from tidefleet.economics.roofline import decode_step
from tidefleet.simulator.fleet.node import State
from tidefleet.simulator.fleet.timeline import Timeline
from tidefleet.simulator.pools import PoolRun, Sampled
from tidefleet.simulator.result import PERCENTILES, Outcome
from tidefleet.simulator.scenario import BIN_SECONDS
from tidefleet.simulator.windows import Window, estimate, estimate_beside

RECOMPUTED, NOT_TAKEN = "recomputed prefixes", "filler not taken"


def outcome_of(
    pools: Sequence[PoolRun],
    timeline: Timeline,
    windows: Mapping[str, Sequence[Sampled]],
    *,
    without_loans: float | None,
    full: bool,
) -> Outcome:
    """Put a run together."""
    fluid = timeline.utilization()
    lost = dict(fluid.lost)
    utilization, variance = fluid.ratio, 0.0
    paid = timeline.paid
    for pool in pools:
        found = windows[pool.pool.name]
        serving = _serving_seconds(timeline, pool) / paid if paid else 0.0
        times = [_by_time(one, _online(pool)) for one in found]
        aside = [_more_than_planned(timeline, pool, one) for one in found]
        for cause, (mean, error) in (
            (RECOMPUTED, estimate(times, [_recomputed(one) for one in found])),
            (NOT_TAKEN, estimate_beside(times, [_not_taken(one) for one in found], aside)),
        ):
            gone = max(0.0, mean) * serving  # in the long run no more is done than came
            lost[cause] = lost.get(cause, 0.0) + gone
            utilization -= gone
            variance += 0.0 if full else (error * serving) ** 2
    done = sum(float(rates.sum()) for rates in timeline.filler_rate.values()) * BIN_SECONDS
    punctual = 1.0 - timeline.filler_late / done if done else 1.0
    attained, attainment_se = _attainment(pools, windows, punctual=punctual)
    spilled = {one.pool.name: _Spilled.of(one, timeline) for one in pools}
    tokens, by_class, joules = _tokens(pools, spilled)
    api_usd = sum(one.usd for one in spilled.values())
    usd = timeline.usd
    trained = timeline.seconds_in(State.TRAINING) / paid if paid else 0.0
    serving_usd = usd * (1.0 - trained)
    total_needed = sum(one.needed for one in by_class.values())
    each = {
        name: serving_usd * one.needed / total_needed / one.tokens * 1e6
        for name, one in by_class.items()
        if one.tokens > 0.0 and total_needed > 0.0
    }
    every = [one for found in windows.values() for one in found]
    weighed = [
        (one, _asked(pool) * _expansion(one, _online(pool))) for pool in pools for one in windows[pool.pool.name]
    ]
    return Outcome(
        utilization=utilization,
        busy=timeline.busy,
        utilization_without_loans=without_loans,
        utilization_lost={cause: points for cause, points in lost.items() if points},
        slo_attainment=attained,
        prefix_hit_ratio=_ratio(weighed, lambda one: one.hit_tokens, lambda one: one.prompt_tokens),
        load_max_over_mean=_mean(every, lambda one: one.load_max_over_mean),
        usd_per_million_tokens=serving_usd / tokens * 1e6 if tokens and usd else None,
        usd_total=usd + api_usd if usd else None,
        usd_by_class=each if usd else {},
        usd_by_accelerator=_by_accelerator(pools, timeline, by_class) if usd else {},
        joules_per_token=joules,
        training_gpu_hours=timeline.training_gpu_hours,
        training_gpu_hours_lost=timeline.training_gpu_hours_lost,
        flips=float(len([one for one in timeline.flips if one.result == "done"])),
        ttft_seconds=_percentiles(weighed, lambda one: one.ttft),
        tpot_seconds=_percentiles(weighed, lambda one: one.tpot),
        utilization_se=0.0 if full else variance**0.5,
        slo_attainment_se=0.0 if full else attainment_se,
        requests=float(sum(sum(one.requests.values()) for one in every)),
        tokens=tokens,
        figures={
            **timeline.figures,
            "requests_flown": float(sum(one.flown for one in every)),
            "short_replica_seconds": float(sum(timeline.short_seconds.values())),
            "needed_seen_over_planned": _seen(pools, timeline, windows),
            **_spill_figures(spilled.values()),
        },
        ribbon=timeline.ribbon(),
    )


class _Class:
    """Tokens and needed replica-seconds of a class over the whole time."""

    __slots__ = ("needed", "tokens")

    def __init__(self, tokens: float, needed: float) -> None:
        self.tokens, self.needed = tokens, needed


@dataclass(frozen=True, slots=True, eq=False)
class _Spilled:
    """What an external API took of a pool's classes that name one.

    Attributes:
        share: shape (bins,): of their requests; asked, taken: requests.
        usd: what the API charges.
    """

    share: NDArray[np.float64]
    asked: float
    taken: float
    usd: float

    @classmethod
    def of(cls, pool: PoolRun, timeline: Timeline) -> _Spilled:
        """From the seconds that a bin's share holds; a bin is counted by minutes."""
        demand, name = timeline.demand[pool.pool.name], pool.pool.name
        share = np.zeros(len(demand.online))
        if demand.spillable is not None:
            for place in np.flatnonzero(demand.spillable):
                minutes = place * BIN_SECONDS + 60.0 * (np.arange(BIN_SECONDS / 60.0) + 0.5)
                share[place] = np.mean([timeline.spilled(at, name) for at in minutes]) / demand.spillable[place]
        asked = taken = usd = 0.0
        for one in pool.classes:
            if one.spill is None or one.name not in pool.mix.spillable:
                continue
            kind, requests = pool.mix.kinds[one.name], pool.mix.requests(one.name) * BIN_SECONDS
            gone = requests * share
            asked, taken = asked + float(requests.sum()), taken + float(gone.sum())
            usd += float(gone.sum()) * kind.tokens * one.spill.usd_per_million_input_tokens / 1e6
            written = float((gone * pool.mix.answers[one.name]).sum()) * kind.output
            usd += written * one.spill.usd_per_million_output_tokens / 1e6
        return cls(share, asked, taken, usd)


def _spill_figures(spilled: Iterable[_Spilled]) -> dict[str, float]:
    """Share of the requests of classes with an external API that went there, and what it cost; none without such."""
    found = [one for one in spilled if one.asked]
    if not found:
        return {}
    asked, taken = sum(one.asked for one in found), sum(one.taken for one in found)
    return {"spilled_requests": taken, "spilled_share": taken / asked, "spilled_usd": sum(one.usd for one in found)}


def _serving_seconds(timeline: Timeline, pool: PoolRun) -> float:
    """Accelerator-seconds in which nodes of a pool, and of those beside it, took requests."""
    return sum(timeline.seconds_in(State.SERVING, one.name) for one in timeline.spec.kinds(pool.pool.name))


def _recomputed(one: Sampled) -> float:
    """Share of serving time that prefilled what a cache had forgotten."""
    return (one.prefill_seconds - one.ideal_seconds) / one.serving_seconds if one.serving_seconds else 0.0


def _not_taken(one: Sampled) -> float:
    """Share of serving time that deferrable work was planned for and did not take; below 0 where it took more.

    Work that one window had no room for waits (a queue of hours is at hand) and is done in one that has more.
    """
    missing = one.planned_filler_seconds - one.filler_seconds
    return missing / one.serving_seconds if one.serving_seconds else 0.0


def _more_than_planned(timeline: Timeline, pool: PoolRun, one: Sampled) -> float:
    """Share of serving time that online requests of a window needed beyond the fluid: 0, over all time."""
    planned = sum(timeline.demand[pool.pool.name].at((one.window.begin + one.window.end) / 2.0)) * one.window.seconds
    return (one.online_seconds - planned) / one.serving_seconds if one.serving_seconds else 0.0


def _seen(pools: Sequence[PoolRun], timeline: Timeline, windows: Mapping[str, Sequence[Sampled]]) -> float:
    """Replica-seconds that online requests of the windows needed over those that the fluid has there: about 1."""
    seen = planned = 0.0
    for pool in pools:
        demand = timeline.demand[pool.pool.name]
        for one in windows[pool.pool.name]:
            seen += one.online_seconds
            middle = (one.window.begin + one.window.end) / 2.0
            here = sum(demand.at(middle)) - timeline.spilled(middle, pool.pool.name)
            planned += here * one.window.seconds
    return seen / planned if planned else 1.0


def _online(pool: PoolRun) -> list[str]:
    """Classes that people wait for: theirs are the requests of which a window's weight is a share."""
    return [one.name for one in pool.classes if one.name in pool.mix.starts and one.deadline_seconds is None]


def _asked(pool: PoolRun) -> float:
    """Online requests/s of a pool."""
    return sum(pool.mix.starts[name] * pool.mix.kinds[name].turns for name in _online(pool))


def _by_time(one: Sampled, online: Sequence[str]) -> Window:
    """A window that stands for serving time, and not for requests."""
    return replace(one.window, weight=_expansion(one, online) * one.serving_seconds)


def _expansion(one: Sampled, online: Sequence[str]) -> float:
    """Requests of the whole that one request of a window stands for, in a common unit.

    Deferrable requests do not count: how many are in a window says what was planned there, not what it stands for.
    """
    return one.window.weight / max(1, sum(one.requests.get(name, 0) for name in online))


def _attainment(
    pools: Sequence[PoolRun], windows: Mapping[str, Sequence[Sampled]], *, punctual: float
) -> tuple[dict[str, float], float]:
    """Share of requests in time by class and overall, with its standard error.

    Args:
        punctual: share of the deferrable work that the fluid did before its deadline, which no window can see.
    """
    found: dict[str, float] = {}
    rate, variance, total = 0.0, 0.0, 0.0
    for pool in pools:
        mine = windows[pool.pool.name]
        online = _online(pool)
        for name in (one.name for one in pool.classes if one.name in pool.mix.starts):
            asked = sum(_expansion(one, online) * one.requests.get(name, 0) for one in mine)
            if asked:
                found[name] = sum(_expansion(one, online) * one.in_time.get(name, 0) for one in mine) / asked
                if name in pool.mix.deferrable:
                    found[name] *= punctual
        means = [
            sum(one.in_time.get(name, 0) for name in online) / max(1, sum(one.requests.get(name, 0) for name in online))
            for one in mine
        ]
        mean, error = estimate([one.window for one in mine], means)
        weight = _asked(pool)
        rate, variance, total = rate + weight * mean, variance + (weight * error) ** 2, total + weight
    found["overall"] = rate / total if total else 1.0
    return found, variance**0.5 / total if total else 0.0


def _tokens(pools: Sequence[PoolRun], spilled: Mapping[str, _Spilled]) -> tuple[float, dict[str, _Class], float | None]:
    """All tokens that were served here, by class, and the accelerators' joules at work for each."""
    by_class: dict[str, _Class] = {}
    joules: float | None = 0.0
    for pool in pools:
        batch = max(1.0, pool.mix.point.batch)
        step = decode_step(pool.facts.copy, np.array([batch]), _context(pool))
        seconds = float(step.seconds[0])
        watts = replica_watts(
            pool.facts.copy,
            tokens=batch,
            steps_per_second=1.0 / seconds,
            bytes_per_second=float(step.bytes_moved[0]) / seconds,
            flops_per_second=float(step.flops[0]) / seconds,
        )
        for name in pool.mix.starts:
            kind = pool.mix.kinds[name]
            here = pool.mix.requests(name) * BIN_SECONDS
            if name in pool.mix.spillable:
                here *= 1.0 - spilled[pool.pool.name].share
            count = float(here.sum())
            output = kind.output * float((here * pool.mix.answers[name]).sum()) / count if count else kind.output
            tokens = count * (kind.tokens + output)
            each = kind.prefill_seconds + output * pool.mix.point.seconds_per_output_token
            needed = count * each * pool.pool.chips_per_replica
            by_class[name] = _Class(tokens, needed)
            fresh = kind.prefill_seconds / pool.facts.rates.prefill_seconds_per_token
            held = max(0.0, kind.tokens - fresh)
            prompt = prefill_joules(pool.facts.copy, min(fresh, kind.tokens), held)
            if watts is None or prompt is None or pool.beside:
                joules = None
            elif joules is not None:
                decoding = watts * pool.facts.copy.chips * seconds / batch
                joules += count * (prompt + output * decoding)
    total = sum(one.tokens for one in by_class.values())
    return total, by_class, joules / total if joules is not None and total else None


def _context(pool: PoolRun) -> float:
    """Mean context of a token that is decoded."""
    rates = {name: pool.mix.starts[name] * pool.mix.kinds[name].turns for name in pool.mix.starts}
    decoded = sum(rate * pool.mix.kinds[name].output for name, rate in rates.items())
    return sum(
        rate * pool.mix.kinds[name].output * (pool.mix.kinds[name].tokens + pool.mix.kinds[name].output / 2.0)
        for name, rate in rates.items()
    ) / max(1.0, decoded)


def _by_accelerator(pools: Sequence[PoolRun], timeline: Timeline, by_class: Mapping[str, _Class]) -> dict[str, float]:
    """$/1M tokens of each accelerator type: rent of its serving nodes over the tokens of its classes; where types share
    classes, tokens are shared by what their serving nodes carry."""
    usd, tokens = dict[str, float](), dict[str, float]()
    for pool in pools:
        kinds = timeline.spec.kinds(pool.pool.name)
        nodes = {one.name: timeline.seconds_in(State.SERVING, one.name) / one.chips for one in kinds}
        carried = sum(nodes[one.name] * one.units_per_node for one in kinds)
        written = sum(by_class[name].tokens for name in pool.mix.starts)
        for one in kinds:
            share = nodes[one.name] * one.units_per_node / carried if carried else 0.0
            rent = nodes[one.name] * one.usd_per_node_hour / 3600.0
            usd[one.accelerator] = usd.get(one.accelerator, 0.0) + rent
            tokens[one.accelerator] = tokens.get(one.accelerator, 0.0) + written * share
    return {name: usd[name] / count * 1e6 for name, count in tokens.items() if count}


def _mean(found: Sequence[Sampled], value: Callable[[Sampled], float]) -> float:
    return float(sum(one.window.weight * value(one) for one in found) / sum(one.window.weight for one in found))


def _ratio(
    found: Sequence[tuple[Sampled, float]], above: Callable[[Sampled], float], below: Callable[[Sampled], float]
) -> float | None:
    total = sum(weight * below(one) for one, weight in found)
    return float(sum(weight * above(one) for one, weight in found) / total) if total else None


def _percentiles(
    found: Sequence[tuple[Sampled, float]], values: Callable[[Sampled], Mapping[str, Sequence[float]]]
) -> dict[str, dict[str, float]]:
    """By class, each window's values weighed by the requests that they stand for."""
    out: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(name for one, _ in found for name in values(one)):
        pairs = [
            (value, weight * one.requests[name] / len(values(one)[name]))
            for one, weight in found
            for value in values(one).get(name, ())
        ]
        pairs.sort()
        ranked = np.array([value for value, _ in pairs])
        upto = np.cumsum([weight for _, weight in pairs])
        at = {
            f"p{one}": float(ranked[min(len(ranked) - 1, int(np.searchsorted(upto, upto[-1] * one / 100.0)))])
            for one in PERCENTILES
        }
        mean = float(np.average(ranked, weights=[weight for _, weight in pairs]))
        out[name] = {**at, "mean": mean}
    return out
