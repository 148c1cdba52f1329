"""A fleet over a long time: every plan and flip as a fluid, and windows of it request by request.

1. Classes get the rates at which they have their shares of the accelerator time and the busiest hour its own. How much
   of a prompt is prefilled again since caches forget is measured first, in a window of the busiest hour.
2. ``fleet`` runs every plan and every flip under that demand.
3. Windows around flips and between them are simulated in detail, through the real pick. They say what share of the
   requests is in time, how often a prefix is found, and how much of the deferrable work that was planned is done;
   what they say is weighed to the whole, with a standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from tidefleet.simulator.checkpoint import Parts
from tidefleet.simulator.engine.facts import facts_of
from tidefleet.simulator.fleet.demand import with_history
from tidefleet.simulator.fleet.planners import PlannerOf
from tidefleet.simulator.fleet.rivals import RIVALS, no_loans
from tidefleet.simulator.fleet.run import described, foreseeing, ours, run_fluid
from tidefleet.simulator.fleet.timeline import Timeline
from tidefleet.simulator.mix import Kind, Mix, carried, demand_of, mix_of
from tidefleet.simulator.policies import POLICIES
from tidefleet.simulator.pools import (
    Beside,
    PoolRun,
    Sampled,
    answers_of,
    busiest,
    from_json,
    kinds_of,
    sampled,
    scaled,
    shapes_of,
    to_json,
    usual,
)
from tidefleet.simulator.result import Outcome
from tidefleet.simulator.run import CannotFit, CannotRun, Progress
from tidefleet.simulator.scenario import BIN_SECONDS, Pool, Scenario
from tidefleet.simulator.summary import outcome_of
from tidefleet.simulator.windows import Window, choose
from tidefleet.simulator.workload import TrainingJob, Workload, backlog, load

PILOT_SECONDS = 45.0
FULL_WINDOW_SECONDS = 1800.0
SEED = 0x7EE7

PLANNERS: Mapping[str, PlannerOf] = {
    "foreseeing": foreseeing,
    **{name.replace("-", "_"): planner for name, planner in RIVALS.items()},
}
"""Planners beside the operator's own, by the name under which a run is compared with them."""

BASELINES = (*(one for one in POLICIES if one != "pick"), *PLANNERS)
"""What a run can be compared with: routers' policies, and planners."""


def run_fleet(
    scenario: Scenario,
    traces: Path | None,
    *,
    seed: int,
    policy: str | None,
    full: bool,
    progress: Progress,
    parts: Parts,
) -> Outcome:
    """Simulate a scenario of kind ``fleet``; ``policy`` is a router's policy or another planner.

    Raises:
        CannotRun: there is no such policy.
        CannotFit: the busiest hour asks for more than the fleet.
        ValueError: a trace or a class is not usable.
    """
    traces = traces or Path()  # a scenario that needs none names files of the user's
    router, planner = _policy(scenario, policy)
    progress(0.0, "reading traces")
    workload = load(scenario, traces, seed=seed)
    pools = []
    for pool in (one for one in scenario.pools if one.serves is None):
        one, workload = _prepared(scenario, pool, workload, router=router, seed=seed, parts=parts)
        pools.append(one)
    demand = {}
    for one in pools:
        mine = demand_of(one.mix, deadline_seconds=_deadline(one))
        if mine.busiest_hour() > one.replicas:
            raise CannotFit(
                f"scenario {scenario.name}: the busiest hour keeps {mine.busiest_hour():.1f} replicas of pool "
                f"{one.pool.name} busy; it has {one.replicas:g}. Lower peakShare, or set more replicas"
            )
        demand[one.pool.name] = with_history(mine, seed=seed)
    progress(0.02, "planning and flips")
    fleet = described(scenario, carries={each.pool.name: each.carries for one in pools for each in one.beside})
    waiting = _training(scenario, traces, seed)
    timeline = run_fluid(fleet, demand, seed=seed, planner=planner, backlog=waiting())
    found: dict[str, list[Sampled]] = {one.pool.name: [] for one in pools}
    todo = [(one, window) for one in pools for window in _windows(scenario, one, timeline, seed=seed, full=full)]
    for done, (one, window) in enumerate(todo):
        progress(0.05 + 0.95 * done / len(todo), f"{one.pool.name}: {window.begin / 3600.0:.1f} h")
        found[one.pool.name].append(_window(scenario, one, workload, timeline, window, parts=parts))
    without = None
    if policy is None:
        without = run_fluid(fleet, demand, seed=seed, planner=no_loans, backlog=waiting()).utilization().ratio
    return outcome_of(pools, timeline, found, without_loans=without, full=full)


def _policy(scenario: Scenario, policy: str | None) -> tuple[str, PlannerOf]:
    """The router's policy and the planner."""
    if policy is None:
        return scenario.router, ours
    if policy in PLANNERS:
        return scenario.router, PLANNERS[policy]
    if policy in POLICIES:
        return policy, ours
    known = sorted([*POLICIES, *PLANNERS])
    raise CannotRun(f"scenario {scenario.name}: no baseline {policy!r}; expected one of {', '.join(known)}")


def _training(scenario: Scenario, traces: Path, seed: int) -> Callable[[], Iterable[TrainingJob]]:
    """The backlog of training jobs, anew at each call."""
    if scenario.training.backlog != "philly":
        return lambda: ()
    found = backlog(traces)
    chips = sum(one.replicas * one.chips_per_replica for one in scenario.pools)
    return lambda: found.jobs(chips=chips, begin_seconds=scenario.begin_seconds, seconds=scenario.seconds, seed=seed)


def _deadline(one: PoolRun) -> float:
    return min((each.deadline_seconds for each in one.classes if each.deadline_seconds), default=86_400.0)


def _prepared(
    scenario: Scenario, pool: Pool, workload: Workload, *, router: str, seed: int, parts: Parts
) -> tuple[PoolRun, Workload]:
    """A pool at its rates: the mix if caches forgot nothing, then with what they were seen to forget."""
    classes = tuple(one for one in scenario.classes if one.pool == pool.name)
    facts = facts_of(pool)
    plain = usual(workload)
    kinds = kinds_of(scenario, classes, plain, facts)
    base, shapes = shapes_of(classes, kinds, plain), shapes_of(classes, kinds, workload)
    answers = answers_of(scenario, classes, kinds)

    def at(now: Mapping[str, Kind], replicas: float) -> Mix:
        return mix_of(
            scenario,
            classes,
            now,
            base,
            shapes=shapes,
            answers=answers,
            rates=facts.rates,
            kv_tokens=facts.kv_tokens,
            pool=pool,
            replicas=replicas,
        )

    one = PoolRun(pool, classes, facts, at(kinds, pool.replicas), router, seed)
    beside = [_beside(each, one, scenario, plain) for each in scenario.pools if each.serves == pool.name]
    if beside:
        one = replace(one, beside=tuple(beside))
        one = replace(one, mix=at(kinds, one.replicas))
    trial = scaled(plain if one.mix.spillable else workload, one.mix)
    name = f"pilot {pool.name}"
    factors = parts.get(name)
    if factors is None:
        begin = busiest(one.mix) + BIN_SECONDS
        window = Window(begin, begin + PILOT_SECONDS, 0, False, 1.0)
        moves = one.everything()
        detail = one.run(trial, window, moves, terms=scenario.windows, filler=0.0)
        factors = parts.put(
            name,
            {
                wclass: seen.prefill_seconds / seen.ideal_seconds
                for wclass, seen in detail.seen.items()
                if seen.ideal_seconds > 0.0
            },
        )
    mix = at(one.mix.corrected(factors), one.replicas)
    return replace(one, mix=mix), scaled(workload, mix)


def _beside(pool: Pool, one: PoolRun, scenario: Scenario, plain: Workload) -> Beside:
    """A pool that serves the demand of another, and how much of it a replica carries."""
    facts = facts_of(pool)
    kinds = kinds_of(scenario, one.classes, plain, facts)
    carries = carried(one.mix, one.classes, kinds, rates=facts.rates, kv_tokens=facts.kv_tokens, pool=pool)
    return Beside(pool, facts, carries)


def _windows(scenario: Scenario, one: PoolRun, timeline: Timeline, *, seed: int, full: bool) -> Iterator[Window]:
    rates = np.zeros(math.ceil(scenario.seconds / BIN_SECONDS))
    for name in one.mix.starts:
        if name not in one.mix.deferrable:
            rates += one.mix.starts[name] * one.mix.shapes[name] * one.mix.kinds[name].turns
    upto = np.concatenate([[0.0], np.cumsum(rates * BIN_SECONDS)])
    edges = np.arange(len(upto)) * BIN_SECONDS

    def between(begin: float, end: float) -> float:
        first, last = np.interp((begin, end), edges, upto)
        return float(last - first)

    terms = scenario.windows
    if full:
        count = math.ceil(scenario.seconds / FULL_WINDOW_SECONDS)
        cuts = np.linspace(0.0, scenario.seconds, count + 1).tolist()
        whole = between(0.0, scenario.seconds)
        for number in range(count):
            begin, end = cuts[number], cuts[number + 1]
            yield Window(begin, end, number, False, between(begin, end) / whole)
        return
    flips = [change.at for change in timeline.changes(0.0, scenario.seconds, one.pool.name)]
    yield from choose(
        scenario.seconds,
        count=terms.count,
        seconds=terms.seconds,
        flips=flips,
        requests_between=between,
        rng=np.random.default_rng([seed, SEED]),
    )


def _window(
    scenario: Scenario, one: PoolRun, workload: Workload, timeline: Timeline, window: Window, *, parts: Parts
) -> Sampled:
    name = f"window {one.pool.name} {window.begin:.3f}"
    kept = parts.get(name)
    if kept is None:
        middle = (window.begin + window.end) / 2.0
        filler = timeline.filler_at(middle, one.pool.name) if one.mix.deferrable else 0.0
        warm = window.begin - scenario.windows.warm_seconds
        moves = one.moves(timeline, max(0.0, warm), window.end + 60.0)
        detail = one.run(workload, window, moves, terms=scenario.windows, filler=filler, timeline=timeline)
        kept = parts.put(name, to_json(sampled(one.pool.name, detail, planned_filler=filler)))
    return from_json(kept)
