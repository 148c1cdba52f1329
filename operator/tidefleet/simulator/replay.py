"""Every request of a trace, in its own order and times, through one policy: the kind ``replay``.

Open traces keep their arrival times, divided by the scenario's speed. Closed sessions begin one as another ends, so
many live at a time. The profiles of llm-d run in stages, each begun when all of the last one is answered, as the load
generator of the published runs does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tidefleet.simulator.checkpoint import Parts
from tidefleet.simulator.cluster import Cluster
from tidefleet.simulator.driving import Driver
from tidefleet.simulator.engine.facts import Facts, facts_of
from tidefleet.simulator.engine.job import DONE, REFUSED, Job
from tidefleet.simulator.engine.mocker import mocked
from tidefleet.simulator.result import Outcome, percentiles
from tidefleet.simulator.run import Progress
from tidefleet.simulator.scenario import Class, Scenario
from tidefleet.simulator.sessions import Session
from tidefleet.simulator.workload import Workload, load
from tidefleet.simulator.workload.bodies import Templates
from tidefleet.simulator.workload.own import Own
from tidefleet.simulator.workload.shared_prefix import Staged, stages

BROKEN = 3.0
"""The time to the first token is broken where its 90th percentile is so many times that of the fewest live sessions."""

TOLD_EVERY = 200
"""Requests between two words on progress."""


def run_replay(
    scenario: Scenario,
    workload: Workload,
    *,
    seed: int,
    policy: str | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Outcome:
    """Replay the traces of a scenario's classes on its one pool.

    Settings of the scenario: ``sessions``, how many of each trace at most; ``answersKept``, 0 where the KV of an answer
    does not serve the session's next turn (1 unless set); ``prefillFactor`` and ``stepFactor``, an engine's measured
    times over modelled ones (1 unless set), which the router has learned too;
    ``dynamoMocker``, 1 for the speeds of Dynamo's mock workers instead of the pool's model; ``sweepTo``, with which
    live sessions are doubled from ``liveSessions`` up to so many, to find where the time to the first token breaks.

    Raises:
        ValueError: the scenario has not exactly one pool, or a class whose source cannot be replayed.
    """
    if len(scenario.pools) != 1:
        raise ValueError(f"{scenario.name}: a replay has {len(scenario.pools)} pools; expected exactly 1")
    most = scenario.settings.get("sweepTo")
    if most is None:
        return _once(scenario, workload, seed=seed, policy=policy, progress=progress)
    if scenario.live_sessions is None:
        raise ValueError(
            f"{scenario.name}: settings.sweepTo is set without liveSessions; expected where to begin, e.g. 4"
        )
    figures: dict[str, float] = {}
    live, found = scenario.live_sessions, []
    while live <= most:
        step = scenario.model_copy(update={"live_sessions": live})
        found.append(_once(step, workload, seed=seed, policy=policy, progress=progress))
        live *= 2
    least = found[0].figures["ttft_p90_seconds"]
    for one in found:
        ratio, ttft = one.figures["live_kv_over_device_kv"], one.figures["ttft_p90_seconds"]
        figures[f"ttft_p90_seconds_at_{ratio:.2f}"] = ttft
        if ttft > BROKEN * least:
            figures.setdefault("ttft_breaks_at_ratio", ratio)
    return replace(found[-1], figures={**found[-1].figures, **figures})


def run_traces(
    scenario: Scenario,
    traces: Path | None,
    *,
    seed: int,
    policy: str | None,
    full: bool,
    progress: Progress,
    parts: Parts,
) -> Outcome:
    """Replay a scenario on the traces of a directory; always in full, and in one piece."""
    del full, parts
    workload = load(scenario, traces or Path(), seed=seed)
    return run_replay(scenario, workload, seed=seed, policy=policy, progress=progress)


def _once(
    scenario: Scenario,
    workload: Workload,
    *,
    seed: int,
    policy: str | None,
    progress: Callable[[float, str], None] | None,
) -> Outcome:
    """One pass over the traces."""
    pool = scenario.pools[0]
    groups = _groups(scenario, workload, seed)
    total = sum(len(session.turns) for group in groups for session in group)
    facts, timing = _facts(scenario), None
    if scenario.settings.get("dynamoMocker", 0.0) > 0.0:
        facts, timing = mocked(facts, pool.chunk_tokens)
    cluster = Cluster(
        pool,
        scenario.classes,
        policy=policy or scenario.router,
        seed=seed,
        facts=facts,
        timing=timing,
        answers_kept=scenario.settings.get("answersKept", 1.0) > 0.0,
    )
    for number in range(pool.replicas):
        cluster.add(number)
    done = itertools.count(1)

    def told(what: str, job: Job, now: float) -> None:
        if progress is not None and what in {DONE, REFUSED} and (count := next(done)) % TOLD_EVERY == 0:
            progress(count / total, f"request {count:,} of {total:,}")

    jobs: list[Job] = []
    now = 0.0
    for group in groups:
        delay = max(0.0, now - group[0].begins) if group else 0.0
        later = [replace(session, begins=session.begins + delay) for session in group] if delay else group
        driver = Driver(cluster, later, live=scenario.live_sessions, happened=told)
        driver.run()
        now = max(now, driver.now)
        jobs += driver.jobs
    return outcome(scenario, cluster, jobs)


def outcome(scenario: Scenario, cluster: Cluster, jobs: Sequence[Job]) -> Outcome:
    """What all of a cluster's requests came to; one without a last token is out of time."""
    counts = cluster.counts()
    served = [one for one in jobs if one.done < float("inf")]
    if not served:
        raise ValueError(f"{scenario.name}: no request was served; the first one was refused: {jobs[0].refused}")
    names = list(dict.fromkeys(one.session.wclass for one in jobs))
    classes = {one.name: one for one in scenario.classes}
    seconds = max(one.done for one in served) - min(one.came for one in jobs)
    replicas = len(cluster.replicas)
    usd = cluster.facts.usd_per_second * replicas * seconds
    tokens = float(sum(one.tokens + one.output for one in served))
    loads = [one.counts.prompt_tokens + one.counts.output_tokens for one in cluster.replicas.values()]
    ttft = [one.ttft_seconds for one in served]
    output = float(sum(one.output for one in served))
    figures = {
        "ttft_mean_ms": 1e3 * sum(ttft) / len(ttft),
        "ttft_p90_seconds": percentiles(ttft)["p90"],
        "tpot_mean_ms": 1e3 * sum(one.tpot_seconds for one in served) / len(served),
        "requests_per_second": len(served) / seconds,
        "output_tokens_per_second": output / seconds,
        "seconds": seconds,
        "refused": float(len(jobs) - len(served)),
        "preemptions": float(counts.preemptions),
        "recomputed_tokens": float(sum(counts.recomputed_tokens.values())),
        "fetched_tokens": float(sum(counts.hit_tokens[1:])),
    }
    if scenario.live_sessions is not None:
        context = sum(one.tokens + one.output for one in served) / len(served)
        room = cluster.facts.kv_tokens * replicas
        figures["live_kv_over_device_kv"] = scenario.live_sessions * context / room
    return Outcome(
        busy=counts.busy_seconds / (replicas * seconds),
        slo_attainment=attainment(jobs, classes),
        prefix_hit_ratio=sum(counts.hit_tokens) / max(1.0, counts.prompt_tokens),
        load_max_over_mean=max(loads) * len(loads) / max(1.0, sum(loads)),
        usd_per_million_tokens=usd / tokens * 1e6 if usd else None,
        usd_total=usd or None,
        usd_by_accelerator={scenario.pools[0].accelerator: usd / tokens * 1e6} if usd else {},
        ttft_seconds={
            name: percentiles([one.ttft_seconds for one in served if one.session.wclass == name])
            for name in names
            if any(one.session.wclass == name for one in served)
        },
        tpot_seconds={
            name: percentiles([one.tpot_seconds for one in served if one.session.wclass == name])
            for name in names
            if any(one.session.wclass == name for one in served)
        },
        requests=float(len(jobs)),
        tokens=tokens,
        figures=figures,
    )


def attainment(jobs: Iterable[Job], classes: dict[str, Class]) -> dict[str, float]:
    """Share of requests in time, by class with an objective or a deadline, and ``overall``."""
    kept: dict[str, list[bool]] = {}
    for job in jobs:
        wclass = classes.get(job.session.wclass)
        if job.is_deferrable:
            good = job.done - job.came <= (job.session.deadline_seconds or 0.0)
        elif wclass is None or wclass.objective is None:
            continue
        else:
            promise = wclass.objective
            limit = promise.ttft_seconds + promise.ttft_seconds_per_thousand * job.tokens / 1000.0
            good = job.done < float("inf") and job.ttft_seconds <= limit and job.tpot_seconds <= promise.tpot_seconds
        kept.setdefault(job.session.wclass, []).append(good)
    found = {name: sum(values) / len(values) for name, values in kept.items()}
    if kept:
        every = [one for values in kept.values() for one in values]
        found["overall"] = sum(every) / len(every)
    return found


def _facts(scenario: Scenario) -> Facts:
    """Of the pool, with what its engine's times are over the modelled ones."""
    found = facts_of(scenario.pools[0])
    prompt, step = (scenario.settings.get(name, 1.0) for name in ("prefillFactor", "stepFactor"))
    if not prompt > 0.0 or not step > 0.0:
        raise ValueError(
            f"{scenario.name}: settings prefillFactor {prompt} and stepFactor {step}; expected positive, e.g. 1.2"
        )
    rates = found.rates
    rates = replace(
        rates,
        prefill_seconds_per_token=prompt * rates.prefill_seconds_per_token,
        prefill_seconds_per_pair=prompt * rates.prefill_seconds_per_pair,
        prefill_floor_seconds=prompt * rates.prefill_floor_seconds,
        step_seconds=step * rates.step_seconds,
        step_seconds_per_sequence=step * rates.step_seconds_per_sequence,
        step_seconds_per_kv_token=step * rates.step_seconds_per_kv_token,
    )
    return replace(found, rates=rates, prefill_factor=prompt, step_factor=step)


def _groups(scenario: Scenario, workload: Workload, seed: int) -> list[list[Session]]:
    """Sessions that run together, groups one after another."""
    if len(scenario.classes) == 1:
        wclass = scenario.classes[0]
        staged = workload.stream(wclass.name).source
        if isinstance(staged, Staged):
            return stages(staged.profile, wclass.name, seed=seed)
    found: list[Session] = []
    for wclass in scenario.classes:
        source = workload.stream(wclass.name).source
        if not isinstance(source, Templates | Own):
            raise ValueError(
                f"class {wclass.name}: source {wclass.source!r} has no requests of its own to replay; expected a "
                "trace, e.g. mooncake-conversation or claude-code"
            )
        found += sessions_of(source, wclass, scenario.speed)
    found.sort(key=lambda one: (one.begins, one.number))
    most = int(scenario.settings.get("sessions", len(found)))
    return [found[:most]]


def sessions_of(source: Templates | Own, wclass: Class, speed: float) -> list[Session]:
    """The sessions of a trace as they were; in an open one, times are divided by ``speed``."""
    found = []
    for number, begins in enumerate(source.begins.tolist()):
        turns = source.turns(number, 0) if isinstance(source, Own) else source.templates[number].turns(0)
        if not source.closed and speed != 1.0:
            turns = tuple(replace(turn, pause=turn.pause / speed) for turn in turns)
        found.append(
            Session(
                number + 1,
                begins / speed,
                wclass.name,
                source.block_size,
                turns,
                source.closed,
                wclass.deadline_seconds,
            )
        )
    return found
