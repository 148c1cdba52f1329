"""What ought to become of each Workload: let in, held, recalled, taken out of the queue or put back into it. Pure.

Faults of working with Kueue (0.16) that are met here. A Retry with ``requeueAfterSeconds`` evicts an admitted Workload
only after these seconds, since the reconciler waits for them first: ours is written without. A check that turns to
Retry while the Workload's Evicted is True is not looked at until it has quota again: ours is written before that, and a
watchdog takes out what is stuck. Quota is free as soon as pods begin to end: what they hold is not room. An evicted job
may reserve again what it was evicted from: it is held until there is room on nodes that are not recalled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tidefleet.cluster.kinds import KUEUE_WORKLOAD
from tidefleet.cluster.records import Pod
from tidefleet.controller.training import checkpoint, jobs
from tidefleet.controller.training import kueue_objects as kueue
from tidefleet.controller.training.kueue_objects import Entry
from tidefleet.controller.training.lending import Lending, Stop, TrainingJob
from tidefleet.controller.training.room import NoRoom, Room, room_on

STUCK_SECONDS = 60.0
"""Kueue acts on a check within a second; after this long it does not."""
HELD = "waits for nodes on loan: "
FITS = "fits onto nodes on loan that are verified and empty"
ELSEWHERE = "uses no accelerator on loan"


@dataclass(frozen=True, slots=True)
class SetCheck:
    """Write the state of our check.

    Attributes:
        stop: the job that this makes leave.
    """

    state: str
    message: str
    stop: Stop | None = None


@dataclass(frozen=True, slots=True)
class Park:
    """Take a Workload out of the queue (``spec.active: false``), with our mark."""

    why: str
    stop: Stop | None = None


@dataclass(frozen=True, slots=True)
class Unpark:
    """Take our mark off, and put the Workload back into the queue unless it is there."""

    why: str


Action = SetCheck | Park | Unpark


def decide(
    lending: Lending,
    entries: Sequence[Entry],
    known: Mapping[str, TrainingJob],
    pods: Mapping[str, Sequence[Pod]],
    *,
    now: float,
    real_now: float,
    in_cohort: bool,
    borrows_only: bool = True,
) -> dict[str, Action]:
    """Return what to do about Workloads, by their uid; nothing about those that are as they should be.

    Args:
        lending: what is on loan.
        entries: the Workloads of the ClusterQueue.
        known: the job of each, by the Workload's uid.
        pods: all pods on nodes that hold something, by the uid of their job.
        now: Unix seconds of the fleet.
        real_now: Unix seconds of the API server.
        in_cohort: whether the ClusterQueue borrows from our Cohort.
        borrows_only: whether it has no quota of its own for accelerators on loan.
    """
    found: dict[str, Action] = {}
    room = room_on(lending.nodes, (pod for group in pods.values() for pod in group))
    # Those that are in have their places before anyone is let in.
    for one in sorted(entries, key=lambda each: (each.admitted_at or each.created, each.uid)):
        if _is_in(one) and one.uid in known:
            job = known[one.uid]
            room, action = _stay(one, job, pods.get(job.uid, ()), lending, room, now=now)
            if action is not None:
                found[one.uid] = action
    chips = lending.open_chips()
    for one in sorted(entries, key=lambda each: (-each.priority, each.created, each.uid)):
        until = now + _minimum(one, known.get(one.uid))
        if one.parked or is_stuck(one, real_now):
            action = _parking(one, room, until)
        elif _is_candidate(one):
            none = in_cohort and borrows_only and not any(chips.get(shape.accelerator) for shape in one.shapes)
            room, action = _let_in(one, room, until, lending, in_cohort=in_cohort, gives_back=none)
        else:
            continue
        if action is not None and one.uid not in found:
            found[one.uid] = action
    return found


def is_stuck(one: Entry, real_now: float) -> bool:
    """Whether Kueue does not act on a check that says Retry."""
    return one.state == "Retry" and real_now - one.state_since > STUCK_SECONDS


def why_waiting(one: Entry) -> str:
    """Why a Workload does not run, in words."""
    if one.parked:
        return "recalled; it comes back into the queue when there is room"
    if not one.active:
        return "deactivated by somebody else (spec.active of its Workload is false)"
    if one.evicted and one.reserved:
        return "recalled; its pods are still ending"
    if one.reserved:
        message = str(one.check.get("message") or "")
        return message if message.startswith(HELD) else f"{HELD}the check {kueue.CHECK} is {one.state or 'missing'}"
    return one.waiting or "waits for quota"


def job_of_entry(uid: str, one: Entry, known: jobs.Book, pods: Sequence[Pod], loaned: Iterable[str]) -> TrainingJob:
    """The job of a Workload; the Workload itself when we do not know the kind of its job."""
    running = one.admitted and not one.evicted
    if uid in known.jobs:
        base = jobs.job_of(uid, known, pods, loaned)
    else:
        there = frozenset(pod.node for pod in pods)
        base = TrainingJob(
            kind=KUEUE_WORKLOAD,
            namespace=one.namespace,
            name=one.name,
            uid=uid,
            resource_version=one.resource_version,
            chips=0,
            nodes=there,
        )
    return replace(
        base,
        chips=one.chips,
        running=running,
        started=one.admitted_at if running else None,
        priority=one.priority,
        elastic=None,  # Kueue counts the pods of a job once, when it lets it in
        created=one.created,
        waiting_why="" if running else why_waiting(one),
    )


def _is_in(one: Entry) -> bool:
    return one.active and one.reserved and not one.evicted and (one.admitted or one.state == "Ready")


def _is_candidate(one: Entry) -> bool:
    return one.active and one.reserved and not one.evicted and not one.admitted and one.state == "Pending"


def _stay(
    one: Entry, job: TrainingJob, pods: Sequence[Pod], lending: Lending, room: Room, *, now: float
) -> tuple[Room, Action | None]:
    """The room that is left when a job keeps its place; or what is done when it cannot."""
    why = checkpoint.why_stop(job, lending, now) if one.admitted else ""
    if not why and one.loaned:
        try:
            room = room.place(one.shapes, already=_chips_of(pods))
        except NoRoom as error:
            if not one.admitted:  # it waits for the check of somebody else
                return room, SetCheck("Pending", f"{HELD}{error}")
            if not pods:
                why = f"it has nowhere to run: {error}"
    if not why:
        return room, None
    return room, _leave(one, Stop(job, checkpoint.lost_chip_seconds(job, now) if job.nodes else 0.0, why))


def _leave(one: Entry, stop: Stop) -> Action | None:
    if not one.state:
        return Park(f"recalled, and it has no check: {stop.why}", stop)
    # Written once: what is stuck is the watchdog's.
    return SetCheck("Retry", f"recalled: {stop.why}", stop) if one.state != "Retry" else None


def _let_in(
    one: Entry, room: Room, until: float, lending: Lending, *, in_cohort: bool, gives_back: bool
) -> tuple[Room, Action | None]:
    if not one.loaned:
        return room, SetCheck("Ready", ELSEWHERE)
    if not in_cohort:
        text = f"{HELD}its ClusterQueue is not in the Cohort {kueue.cohort_name(lending.pool)}"
    else:
        try:
            return room.place(one.shapes, until=until), SetCheck("Ready", FITS)
        except NoRoom as error:
            text = f"{HELD}{error}"
    if gives_back:
        # Nothing of its type is on loan, and next time another may be. With quota left it would reserve again at once.
        return room, SetCheck("Retry", text)
    return room, SetCheck("Pending", text) if one.check.get("message") != text else None


def _parking(one: Entry, room: Room, until: float) -> Action | None:
    if not one.parked:
        return Park("Kueue does not act on its check") if one.active else None
    if one.active:
        return Unpark("somebody activated it")
    if one.reserved or not fits(one, room, until):
        return None
    if one.state in ("Retry", "Ready"):
        return SetCheck("Pending", "waits in the queue")
    return Unpark("there is room on loan")


def fits(one: Entry, room: Room, until: float) -> bool:
    """Whether all its pods have room on nodes whose loan lasts at least to then."""
    try:
        room.place(one.shapes, until=until)
    except NoRoom:
        return False
    return True


def _minimum(one: Entry, job: TrainingJob | None) -> float:
    if jobs.MINIMUM_USEFUL in one.annotations or job is None:
        return jobs.read_minimum(one.annotations.get(jobs.MINIMUM_USEFUL))
    return job.minimum_useful_seconds


def _chips_of(pods: Iterable[Pod]) -> dict[str, int]:
    """What a job's pods hold that stay: those of its last run that are still ending are not its places of this one."""
    found: dict[str, int] = {}
    for pod in pods:
        if not pod.deleting:
            for resource, chips in pod.chips.items():
                found[resource] = found.get(resource, 0) + chips
    return found
