"""What tests of demand and time share: a wall clock to start at, jobs that stand apart, slots gone through quickly."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from flip_faults import DUTY_TAINT, GPU, TEAM, Ground
from operator_builders import FLEET, WORKLOAD_CLASS, HandClock, Place, eventually

from tidefleet.cluster.kinds import JOB

QUICK = {"dwellSeconds": 0.0, "shortestWarmSeconds": 300.0}
"""Settings of flips with which a node may be lent again at once: whatever keeps it home is something else."""


BERLIN = "Europe/Berlin"


def moment(clock: HandClock, zone: str, text: str) -> float:
    """The next such moment of a zone, e.g. ``03:20`` or ``2026-03-28 22:00``, in Unix seconds."""
    here = ZoneInfo(zone)
    now = datetime.fromtimestamp(clock.now(), here)
    if len(text) > len("03:20"):
        wanted = datetime.fromisoformat(text).replace(tzinfo=here)
    else:
        hour, minute = (int(one) for one in text.split(":"))
        wanted = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        wanted += timedelta(days=1) if wanted <= now else timedelta()
    return wanted.timestamp()


def start_at(clock: HandClock, zone: str, text: str) -> None:
    """Let the clock stand at such a moment, before anything looks at it."""
    clock._now = clock._begun = moment(clock, zone, text)


def wall(clock: HandClock, zone: str) -> str:
    """What the clock on a wall of the zone shows, e.g. ``03:30``."""
    return datetime.fromtimestamp(clock.now(), ZoneInfo(zone)).strftime("%H:%M")


def nightly(zone: str, start: str, end: str, **more: Any) -> dict[str, Any]:
    """The `flipping` of a pool with one window."""
    return {
        "policy": "Schedule",
        "windows": [{"start": start, "end": end, "timeZone": zone}],
        "training": {"queue": {"kind": "Suspend", "selector": {"matchLabels": TEAM}}},
        **more,
    }


def ask_for(place: Place, rate: float, pool: str = "chat") -> None:
    """Declare the demand of a pool's class."""
    place.set_spec(WORKLOAD_CLASS, pool, demand={"requestsPerSecond": f"{rate:g}"})


def train(ground: Ground, name: str, *, workers: int = 1, **notes: str) -> None:
    """A Job of the team with a chip for each worker; it trains until it is stopped."""
    pod = {
        "metadata": {
            "labels": {"tidefleet.io/simulated-training": "true"},
            "annotations": {"tidefleet.io/emulated-stop-seconds": "0"},
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {FLEET: ground.fleet, "tidefleet.io/duty": "training"},
            "tolerations": [DUTY_TAINT | {"operator": "Equal"}],
            "containers": [{"name": "train", "image": "train", "resources": {"limits": {GPU: 1}}}],
        },
    }
    marks = {"labels": TEAM, "annotations": {"tidefleet.io/suspended-by": "tidefleet", **notes}}
    spec = {"parallelism": workers, "completions": workers, "suspend": True, "backoffLimit": 6, "template": pod}
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, **marks}, "spec": spec}
    ground.api.create(ground.place.path(JOB), body)


def nodes_of(ground: Ground, job: str) -> set[str]:
    """The nodes that pods of a job run on."""
    return {
        one["spec"]["nodeName"]
        for one in ground.job_pods(job)
        if one["spec"].get("nodeName") and not one["metadata"].get("deletionTimestamp")
    }


def on(ground: Ground, phase: str) -> list[str]:
    """Names of the nodes in a phase."""
    return [name for name, found in zip(ground.names, ground.phases(), strict=True) if found == phase]


def labels_of(pod: Mapping[str, Any]) -> Mapping[str, str]:
    """A pod's labels."""
    found: Mapping[str, str] = pod["metadata"].get("labels", {})
    return found


def a_lender(ground: Ground, *, least: int = 1, most: int = 8, **spec: Any) -> dict[str, Any]:
    """A pool on a ground's nodes that may grow and shrink."""
    pool = ground.a_pool(**spec)
    pool["spec"]["replicas"] = {"min": least, "max": most}
    return pool


def tick(ground: Ground, seconds: float = 0.0) -> None:
    """Let time pass and wait for one pass after it; the engines are not read, which declared demand does not need."""
    seen = ground.op.passes
    ground.clock.tick(seconds)
    eventually(lambda: ground.op.passes > seen, "another pass", rest=ground.clock.rest)


def pass_by(ground: Ground, seconds: float, *, step: float = 600.0) -> None:
    """Let time pass, with a pass after each step of it."""
    while seconds > 0:
        tick(ground, min(step, seconds))
        seconds -= step


def lent(ground: Ground, count: int, *, step: float = 300.0) -> None:
    """Let quarters of an hour pass until so many nodes are on loan; flips go through while the clock stands."""

    def more() -> bool:
        moving = not set(ground.phases()) <= {"Training", "Serving"}
        tick(ground, 0.0 if moving else step)
        return len(on(ground, "Training")) >= count

    eventually(more, f"{count} nodes on loan", pause=0.0)
