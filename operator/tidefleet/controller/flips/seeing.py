"""From the cluster to what the state machine is told of a unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tidefleet.api import InferencePool
from tidefleet.api.flipping import DrainTimeout
from tidefleet.controller.collector import PoolKey
from tidefleet.controller.flips.canary import Canaries, Engine
from tidefleet.controller.flips.pods import is_routable
from tidefleet.controller.flips.units import ServingPod, Unit
from tidefleet.controller.view import PoolView
from tidefleet.flipping.observation import Canary, Observation, Terms
from tidefleet.flipping.phase import Phase

Workload = tuple[PoolKey, str]
"""A pool and the name of one of its workloads, as in ``Served.name``."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests in one engine, running and waiting, when it was last read (Unix seconds)."""

    at: float
    count: float


@dataclass(frozen=True, slots=True)
class Sight:
    """Everything that observations of units are made from, in one pass.

    Attributes:
        planned: replicas that the plan of each pool wants, by workload; absent where no plan is in force.
        ready_at_home: ready replicas by workload, on units that are not on their way out.
        requests: of an engine, by the uid of its pod; ``None`` when it was not read.
        refused: why evictions of pods were refused last, by uid.
        holders: what holds a unit, freshly asked; ``None`` when it is not known.
        published: accelerators that training may use, by type, and how many of them are those of other nodes.
        jobs: training jobs on a node.
        awaited: whether replicas wait for a node of a type.
        cluster_wide: whether pods of all namespaces are watched.
    """

    now: float
    planned: Mapping[Workload, int]
    ready_at_home: Mapping[Workload, int]
    requests: Callable[[str], Requests | None]
    refused: Mapping[str, str]
    holders: Callable[[Unit], int | None]
    admission_stopped: Callable[[Unit], bool]
    jobs: Callable[[Unit], int | None]
    awaited: Callable[[str], bool]
    unhealthy: Mapping[str, str]
    vetoes: Mapping[str, tuple[str, ...]]
    terms: Callable[[Unit], Terms]
    canary: Callable[[Unit], tuple[Canary, str]]
    released: frozenset[str]


def observe(unit: Unit, sight: Sight) -> Observation:
    """What is to be known of a unit in its present phase; its wish is added later."""
    phase = unit.journal.phase
    serving = [one for one in unit.serving if not one.pod.deleting]
    holders: int | None = unit.holders
    if unit.holders <= len(unit.serving) and phase in (Phase.VERIFYING, Phase.RECLAIMING, Phase.QUARANTINED):
        holders = sight.holders(unit)
    canary, words = sight.canary(unit) if phase is Phase.WARMING else (Canary.UNKNOWN, "")
    return Observation(
        terms=sight.terms(unit),
        # A node that was made anew under its name is untainted, and a serving pod may have come to it.
        present=not unit.missing and not (unit.bare and phase not in (Phase.SERVING, Phase.PLANNED)),
        unhealthy=sight.unhealthy.get(unit.name, ""),
        vetoes=sight.vetoes.get(unit.name, ()),
        capacity_kept=capacity_kept(unit, sight),
        routable=sum(1 for one in serving if is_routable(one.pod)),
        serving_pods=len(unit.serving),
        requests=requests_of(serving, unit.journal.since, sight.requests),
        refused=next((sight.refused[one.pod.uid] for one in serving if one.pod.uid in sight.refused), ""),
        holders=holders,
        jobs=sight.jobs(unit),
        admission_stopped=sight.admission_stopped(unit),
        expected=len(serving),
        ready=sum(1 for one in serving if one.pod.ready),
        awaited=sight.awaited(unit.accelerator),
        canary=canary,
        canary_words=words,
        released=unit.name in sight.released,
    )


def capacity_kept(unit: Unit, sight: Sight) -> bool | None:
    """Whether the plan's replicas are ready without those on a unit; ``None`` where no plan is in force.

    Replicas on units that are on their way out do not count.
    """
    known = True
    for workload in {(one.pool, one.served.name) for one in unit.serving}:
        planned = sight.planned.get(workload)
        if planned is None:
            known = False
            continue
        here = 0
        if not unit.journal.phase.is_outbound or unit.journal.phase is Phase.PLANNED:
            here = sum(1 for one in unit.serving if (one.pool, one.served.name) == workload and counts(one))
        if sight.ready_at_home.get(workload, 0) - here < planned:
            return False
    return True if known else None


def counts(one: ServingPod) -> bool:
    """Whether a replica takes part in serving."""
    return one.pod.ready and not one.pod.deleting


def ready_at_home(units: Iterable[Unit], serving: Iterable[ServingPod]) -> dict[Workload, int]:
    """Ready replicas by workload, without those on units that take no further requests, or may soon not."""
    leaving = {
        one.pod.uid
        for unit in units
        if unit.journal.phase not in (Phase.SERVING, Phase.PLANNED)
        for one in unit.serving
    }
    found: dict[Workload, int] = {}
    for one in serving:
        if counts(one) and one.pod.uid not in leaving:
            key = (one.pool, one.served.name)
            found[key] = found.get(key, 0) + 1
    return found


def requests_of(serving: Sequence[ServingPod], since: float, requests: Callable[[str], Requests | None]) -> int | None:
    """Requests in replicas, all read after ``since``; a replica that is not ready takes none."""
    total = 0.0
    for one in serving:
        if not one.pod.ready:
            continue
        found = requests(one.pod.uid)
        if found is None or found.at <= since:
            return None
        total += found.count
    return round(total)


def terms_of(pool: InferencePool | None, *, warm_seconds: float, dwell_seconds: float) -> Terms:
    """How long phases may take for the nodes of a pool; what is usual when it is gone."""
    usual = Terms(warm=warm_seconds, dwell=dwell_seconds)
    if pool is None:
        return usual
    flipping = pool.spec.flipping
    grace = float(flipping.training.checkpoint_grace_seconds) if flipping.training else usual.grace
    return Terms(
        warm=warm_seconds,
        dwell=dwell_seconds,
        replace=max(usual.replace, warm_seconds),
        drain=float(flipping.drain.timeout_seconds),
        kill=flipping.drain.on_timeout is DrainTimeout.KILL,
        grace=grace,
        surge_grace=min(grace, usual.surge_grace),
    )


def canary_of(
    unit: Unit,
    views: Mapping[PoolKey, PoolView],
    everywhere: Iterable[ServingPod],
    canaries: Canaries,
    *,
    bound_seconds: float,
) -> tuple[Canary, str]:
    """What trial requests to the ready replicas on a unit came to, beside the answer of one elsewhere."""
    here = [one for one in unit.serving if counts(one)]
    uids = {one.pod.uid for one in unit.serving}
    workloads = {(one.pool, one.served.option) for one in here}
    peers = [
        one
        for one in everywhere
        if (one.pool, one.served.option) in workloads
        and counts(one)
        and one.pod.uid not in uids
        and is_routable(one.pod)
    ]
    peers.sort(key=lambda one: one.pod.created)
    return canaries.judge(_engines(here, views), _engines(peers[:1], views), bound_seconds=bound_seconds)


def _engines(pods: Iterable[ServingPod], views: Mapping[PoolKey, PoolView]) -> list[Engine]:
    found = []
    for one in pods:
        view = views.get(one.pool)
        if view is not None and one.pod.pod_ip:
            host = f"[{one.pod.pod_ip}]" if ":" in one.pod.pod_ip else one.pod.pod_ip
            found.append(Engine(one.pod.uid, f"http://{host}:{view.pool.spec.serving.engine.port}"))
    return found
