"""Which jobs are started, shrunk, grown or suspended, where nothing but ``spec.suspend`` tells them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tidefleet.cluster.labels import DUTY_LABEL
from tidefleet.cluster.records import Pod
from tidefleet.controller.training import checkpoint
from tidefleet.controller.training.lending import Lending, Stop, TrainingJob
from tidefleet.controller.training.room import DUTY_TRAINING, NoRoom, PodShape, Room, room_on

MARK = "tidefleet.io/suspended-by"
"""On a job that is ours to start: we suspended it, or its owner created it suspended for us."""
MARKED = "tidefleet"
_FORGET = {checkpoint.CHECKPOINT_BY: None, checkpoint.ASKED_AT: None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A job that the pool's selector finds.

    Attributes:
        shapes: its pods that hold accelerators.
        marked: whether it is ours to start.
        managed: whether another controller would undo what we write.
        unconfined: why its pods might run elsewhere than on loaned nodes, or not there; empty when all is well.
        parallelism: of a Job; 0 for other kinds.
    """

    job: TrainingJob
    shapes: tuple[PodShape, ...]
    suspended: bool
    marked: bool = False
    managed: bool = False
    unconfined: str = ""
    parallelism: int = 0

    @property
    def ours(self) -> bool:
        """Whether we may start and suspend it."""
        return not self.managed and not self.unconfined and bool(self.shapes)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobWrite:
    """What is written to a job: suspend or start it, change its parallelism, or only its annotations."""

    why: str
    suspend: bool | None = None
    parallelism: int | None = None
    notes: Mapping[str, str | None] = field(default_factory=dict)
    stop: Stop | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """Writes by uid of the job, and the pods that an elastic job gives up one by one, each with the reason."""

    writes: Mapping[str, JobWrite]
    leave: Sequence[tuple[Pod, str]]


def decide(
    lending: Lending, candidates: Sequence[Candidate], pods: Mapping[str, Sequence[Pod]], *, now: float
) -> Decided:
    """Return what to write; nothing about jobs that are as they should be.

    Args:
        lending: what is on loan.
        candidates: the jobs of the pool's selector.
        pods: all pods on nodes that hold something, by the uid of their job.
        now: Unix seconds.
    """
    writes: dict[str, JobWrite] = {}
    leave: list[tuple[Pod, str]] = []
    room = room_on(lending.nodes, (pod for group in pods.values() for pod in group))
    ours = [one for one in candidates if one.ours]
    order = sorted(ours, key=lambda one: (-one.job.priority, one.job.created, one.job.uid))
    growing: list[Candidate] = []
    for one in order:
        there = pods.get(one.job.uid, ())
        if one.suspended or not there:
            continue
        if one.job.elastic is not None and _goes_on(one, there, lending):
            leave += _unwanted(there, lending)
            room, fewer = _shrunk(one, there, lending, room)
            if fewer < one.parallelism:
                writes[one.job.uid] = JobWrite(why=f"there is room for {fewer} of its pods", parallelism=fewer)
            else:
                growing.append(one)
            continue
        why = checkpoint.why_stop(one.job, lending, now)
        if why:
            stop = Stop(one.job, checkpoint.lost_chip_seconds(one.job, now), why)
            writes[one.job.uid] = _suspend(f"recalled: {why}", stop)
            continue
        room = _keep(one, there, room)
    for one in order:
        until = now + one.job.minimum_useful_seconds
        waits = (one.suspended and one.marked) or (not one.suspended and not pods.get(one.job.uid))
        if not waits:
            continue
        try:
            room = room.place(one.shapes, until=until)
        except NoRoom as error:
            smaller = _smaller(one, room, until)
            if smaller is not None and one.suspended:
                writes[one.job.uid] = JobWrite(why=f"fits with {smaller} pods", parallelism=smaller)
            elif not one.suspended:
                writes[one.job.uid] = _suspend(f"there is no room for it yet: {error}", None)
            continue
        if one.suspended:
            notes = {MARK: None, **_FORGET}
            writes[one.job.uid] = JobWrite(why="fits onto nodes on loan", suspend=False, notes=notes)
    for one in growing:
        grown = _grown(one, room, now)
        if grown is not None:
            room, parallelism = grown
            writes[one.job.uid] = JobWrite(why="more is on loan", parallelism=parallelism)
    for one in ours:
        if one.marked and not one.suspended and one.job.uid not in writes:
            writes[one.job.uid] = JobWrite(why="somebody started it", notes={MARK: None})
    return Decided(writes, leave)


def why_unconfined(templates: Iterable[Mapping[str, Any]]) -> str:
    """Why pods of these templates would not run on loaned nodes and nowhere else; empty when they would.

    Only pods with accelerators matter.
    """
    for template in templates:
        spec = template.get("spec") or {}
        if (spec.get("nodeSelector") or {}).get(DUTY_LABEL) != DUTY_TRAINING:
            got = (spec.get("nodeSelector") or {}).get(DUTY_LABEL, "absent")
            return (
                f"its pods' nodeSelector {DUTY_LABEL} is {got}; expected {DUTY_TRAINING}, so that they run on loaned "
                f"nodes only, e.g. nodeSelector: {{{DUTY_LABEL}: {DUTY_TRAINING}}}"
            )
        if not any(_tolerates(one) for one in spec.get("tolerations") or ()):
            return (
                f"its pods do not tolerate the taint {DUTY_LABEL}={DUTY_TRAINING}:NoSchedule of loaned nodes; expected "
                f"e.g. tolerations: [{{key: {DUTY_LABEL}, operator: Exists}}]"
            )
    return ""


def _tolerates(one: object) -> bool:
    if not isinstance(one, dict):
        return False
    effect, operator, key = one.get("effect"), one.get("operator") or "Equal", one.get("key")
    if effect not in (None, "", "NoSchedule"):
        return False
    if operator == "Exists":
        return key in (None, "", DUTY_LABEL)
    return bool(key == DUTY_LABEL and one.get("value") == DUTY_TRAINING)


def _suspend(why: str, stop: Stop | None) -> JobWrite:
    return JobWrite(why=why, suspend=True, notes={MARK: MARKED}, stop=stop)


def _keep(one: Candidate, there: Sequence[Pod], room: Room) -> Room:
    """The room that is left when the pods of a running job that are still to come have theirs."""
    placed: dict[str, int] = {}
    for pod in there:
        if not pod.deleting:
            for resource, chips in pod.chips.items():
                placed[resource] = placed.get(resource, 0) + chips
    try:
        return room.place(one.shapes, already=placed)
    except NoRoom:
        return room


def _staying(there: Iterable[Pod], lending: Lending) -> list[Pod]:
    """The pods that are neither ending nor on a recalled node."""
    recalled = {node.name for node in lending.nodes if node.recall_by is not None}
    return [pod for pod in there if not pod.deleting and pod.node not in recalled]


def _goes_on(one: Candidate, there: Sequence[Pod], lending: Lending) -> bool:
    """Whether an elastic job has enough pods left without those on recalled nodes."""
    least = one.job.elastic[0] if one.job.elastic is not None else one.parallelism
    return len(_staying(there, lending)) >= least and len(one.shapes) == 1


def _unwanted(there: Sequence[Pod], lending: Lending) -> list[tuple[Pod, str]]:
    """The pods of an elastic job on recalled nodes.

    They are evicted before its parallelism is lowered: the Job controller then takes away the pods that it made in
    their place and that have no node yet, rather than any.
    """
    recalled = {node.name for node in lending.nodes if node.recall_by is not None}
    return [
        (pod, f"node {pod.node} is recalled, and its Job goes on without it")
        for pod in there
        if pod.node in recalled and not pod.deleting
    ]


def _shrunk(one: Candidate, there: Sequence[Pod], lending: Lending, room: Room) -> tuple[Room, int]:
    """The room left by an elastic job, and the pods that it can have, at most as many as now."""
    staying, wanted = len(_staying(there, lending)), one.shapes[0].count
    if staying >= wanted or _unwanted(there, lending):
        return room, one.parallelism
    for extra in range(wanted - staying, 0, -1):
        try:
            left = room.place([replace(one.shapes[0], count=extra)])
        except NoRoom:
            continue
        return left, one.parallelism if extra == wanted - staying else staying + extra
    return room, staying


def _smaller(one: Candidate, room: Room, until: float) -> int | None:
    """The most pods that an elastic job would have room for, if these are enough; ``None`` otherwise."""
    if one.job.elastic is None or len(one.shapes) != 1:
        return None
    for count in range(min(one.parallelism, one.job.elastic[1]) - 1, one.job.elastic[0] - 1, -1):
        try:
            room.place([replace(one.shapes[0], count=count)], until=until)
        except NoRoom:
            continue
        return count
    return None


def _grown(one: Candidate, room: Room, now: float) -> tuple[Room, int] | None:
    """More pods for an elastic job, as many as there is room for."""
    if one.job.elastic is None or len(one.shapes) != 1 or one.shapes[0].count < one.parallelism:
        return None
    for count in range(one.job.elastic[1] - one.parallelism, 0, -1):
        try:
            left = room.place([replace(one.shapes[0], count=count)], until=now + one.job.minimum_useful_seconds)
        except NoRoom:
            continue
        return left, one.parallelism + count
    return None
