"""Which pods would fit onto the loaned nodes: what is free there, and first-fit placement. Pure.

What a terminating pod holds is not free: its process may still run. So a job is let in only where a node is empty for
it, whatever a queue believes about its quota.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tidefleet.cluster.labels import DUTY_LABEL
from tidefleet.cluster.records import Pod
from tidefleet.controller.training.lending import LoanedNode

DUTY_TRAINING = "training"
_OVER = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class PodShape:
    """Some equal pods of a job.

    Attributes:
        count: how many.
        chips: extended resources that each holds.
        selector: the node labels that each wants.
        accelerator: the type that a queue has chosen for them; empty when it has not.
    """

    count: int
    chips: Mapping[str, int]
    selector: Mapping[str, str] = field(default_factory=dict)
    accelerator: str = ""

    @property
    def total(self) -> int:
        """Accelerators that all of them hold."""
        return self.count * sum(self.chips.values())


@dataclass(frozen=True, slots=True)
class Room:
    """What is free on the nodes where jobs may be started.

    Attributes:
        nodes: the loan that ends last comes first.
        free: by name of the node; negative where more is held than there is.
    """

    nodes: Sequence[LoanedNode]
    free: Mapping[str, int]

    @property
    def chips(self) -> int:
        """All that is free."""
        return sum(max(0, one) for one in self.free.values())

    def place(
        self, shapes: Sequence[PodShape], *, until: float = 0.0, already: Mapping[str, int] | None = None
    ) -> Room:
        """Return what is left after these pods; first the widest, each onto the node whose loan ends last.

        Args:
            shapes: the pods of one job, all of which must fit.
            until: only nodes whose loan lasts at least to then (Unix seconds).
            already: chips of these pods that are on nodes and counted there, by resource.

        Raises:
            NoRoom: they do not fit.
        """
        free = dict(self.free)
        placed = dict(already or {})
        for shape in sorted(shapes, key=lambda one: -max(one.chips.values(), default=0)):
            for resource, wanted in shape.chips.items():
                rest = shape.count
                if wanted and placed.get(resource):
                    there = min(rest, placed[resource] // wanted)
                    placed[resource] -= there * wanted
                    rest -= there
                rest -= _take(free, self.nodes, shape, resource, wanted, rest=rest, until=until)
                if rest > 0:
                    raise NoRoom(_why(self, shape, resource, rest=rest, until=until))
        return Room(self.nodes, free)


class NoRoom(Exception):
    """A job does not fit; the message says what would have to change."""


def room_on(nodes: Iterable[LoanedNode], pods: Iterable[Pod]) -> Room:
    """Return what is free on the open ones of the nodes, after all pods that are there, terminating ones included."""
    opened = {node.name: node for node in nodes if node.open}
    free = {name: node.chips for name, node in opened.items()}
    for pod in pods:
        if pod.node in opened and holds(pod):
            free[pod.node] -= pod.chips.get(opened[pod.node].resource, 0)
    return Room(sorted(opened.values(), key=lambda node: (-node.until, node.name)), free)


def holds(pod: Pod) -> bool:
    """Whether a pod may still hold what it was given."""
    return pod.phase not in _OVER


def _take(
    free: dict[str, int],
    order: Sequence[LoanedNode],
    shape: PodShape,
    resource: str,
    wanted: int,
    *,
    rest: int,
    until: float,
) -> int:
    taken = 0
    for node in order:
        if taken >= rest or wanted <= 0:
            break
        if node.until < until:
            break
        there = min(rest - taken, free[node.name] // wanted)
        if there <= 0 or node.resource != resource or not _suits(node, shape):
            continue
        free[node.name] -= there * wanted
        taken += there
    return rest if wanted <= 0 else taken


def _suits(node: LoanedNode, shape: PodShape) -> bool:
    if shape.accelerator and node.accelerator != shape.accelerator:
        return False
    for key, value in shape.selector.items():
        if key == DUTY_LABEL:
            if value != DUTY_TRAINING:
                return False
        elif node.labels and node.labels.get(key) != value:  # labels nobody told us of cannot speak against a node
            return False
    return True


def _why(room: Room, shape: PodShape, resource: str, *, rest: int, until: float) -> str:
    wanted = shape.chips[resource]
    suitable = [node for node in room.nodes if node.resource == resource and _suits(node, shape)]
    pods = "1 pod" if rest == 1 else f"{rest} pods"
    what = f"{pods} of {wanted} {resource} each"
    if not suitable:
        return f"{what}: no node on loan has that and its labels"
    if all(node.until < until for node in suitable):
        return f"{what}: no loan lasts long enough for the job's minimum useful time"
    if max(node.chips for node in suitable) < wanted:
        return f"{what}: no node on loan is that wide"
    if any(room.free[node.name] < node.chips for node in suitable):
        return f"{what}: the nodes on loan are taken, by other jobs or by pods that are still ending"
    return f"{what}: too few nodes are on loan"
