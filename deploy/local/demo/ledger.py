"""Where every accelerator-second of a stretch of time went: from what was seen of nodes, pods and engines. Pure.

A node is looked at every moment; between two looks it holds what it held at the first. Its phase is known to the
second, from the journal that the operator keeps on it. What is needed, or lost for one cause, adds up to what is paid.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

OUTBOUND = frozenset({"Cordoned", "Draining", "Verifying"})
HOMEBOUND = frozenset({"Recalling", "Reclaiming", "Warming"})
LENT = "Training"
AWAY = OUTBOUND | HOMEBOUND | {LENT}
_CAUSE_OF_PHASE = {
    "Cordoned": "draining", "Draining": "draining", "Verifying": "verifying", "Reclaiming": "verifying",
    "Recalling": "recalling", "Warming": "warming", "Quarantined": "quarantined",
}  # fmt: skip

CAUSES = (
    "idle", "thin load", "starting", "draining", "verifying", "no job", "work lost", "recalling", "warming",
    "quarantined",
)  # fmt: skip
"""What accelerator-seconds are lost to, in the order in which they are told."""

MEANING = {
    "idle": "serves, and nothing is placed on it",
    "thin load": "a ready replica that has less to do than it could",
    "starting": "a replica that is not ready yet",
    "draining": "on its way to training: replicas elsewhere take over, requests end",
    "verifying": "empty, or nearly: nothing may hold it when it changes sides",
    "no job": "on loan, and no job runs on it",
    "work lost": "trained after the last checkpoint that was kept",
    "recalling": "called back: a checkpoint is written, or was, and the job ends",
    "warming": "back from training: replicas start and are tried",
    "quarantined": "held back for a reason that the operator tells",
}


@dataclass(frozen=True, slots=True)
class Held:
    """What a pod holds of a node.

    Attributes:
        pod: its uid.
        pool: of a serving pod; empty for training.
        ready: a serving pod that is ready, or a training pod that runs.
        busy: share of the time, 0 to 1, in which it runs anything.
    """

    pod: str
    chips: int
    pool: str = ""
    ready: bool = False
    busy: float = 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """Nodes at one time.

    Attributes:
        at: Unix seconds of the fleet's clock.
        held: by node.
        used: of each pool, what its demand needs of its ready replicas, 0 to 1; a pool that is absent is not known.
    """

    at: float
    held: Mapping[str, tuple[Held, ...]]
    used: Mapping[str, float]


@dataclass(slots=True)
class NodeStory:
    """A node and the phases that its journal told of, whenever it was read."""

    name: str
    accelerator: str
    chips: int
    phases: dict[float, str] = field(default_factory=dict)

    def at(self, time: float) -> str:
        """The phase at a time."""
        known = [one for one in self.phases if one <= time]
        return self.phases[max(known)] if known else "Serving"

    def pieces(self, start: float, end: float) -> Iterator[tuple[float, float, str]]:
        """The stretch cut where the phase changes."""
        cuts = sorted({start, end, *(one for one in self.phases if start < one < end)})
        for begin, until in pairwise(cuts):
            yield begin, until, self.at(begin)

    def entered(self, phase: str, start: float, end: float) -> int:
        """How often a phase began within a stretch."""
        return sum(1 for at, told in self.phases.items() if told == phase and start <= at <= end)


@dataclass(slots=True)
class TrainingPod:
    """A pod that trains, as it was seen.

    Attributes:
        first, last: when it was first and last seen running.
        checkpoint: the last one that it told of.
        succeeded: it ended by itself; ``gone`` it is not there any more.
    """

    uid: str
    node: str
    chips: int
    first: float
    last: float
    checkpoint: float | None = None
    succeeded: bool = False
    gone: bool = False

    @property
    def kept_until(self) -> float:
        """Until when its work is kept: all of what ended well or still runs, else up to the last checkpoint."""
        if self.succeeded or not self.gone:
            return float("inf")
        return max(self.first, self.checkpoint or self.first)


@dataclass(frozen=True, slots=True)
class Account:
    """Accelerator-seconds.

    Attributes:
        paid: of all nodes; ``needed_serving``, ``needed_training`` and all of ``lost`` add up to it.
        busy_serving, busy_training: in which anything ran.
        loaned_node_seconds: nodes times the time in which training could use them.
        away_node_seconds: the same, with the ways there and back.
    """

    paid: float
    needed_serving: float
    needed_training: float
    busy_serving: float
    busy_training: float
    loaned_node_seconds: float
    away_node_seconds: float
    lost: Mapping[str, float]

    @property
    def needed_ratio(self) -> float:
        """Needed over paid."""
        return (self.needed_serving + self.needed_training) / self.paid if self.paid else 0.0

    @property
    def busy_ratio(self) -> float:
        """Busy over paid."""
        return (self.busy_serving + self.busy_training) / self.paid if self.paid else 0.0

    @property
    def needed_ratio_without_loans(self) -> float:
        """The same nodes and requests, with every hour away from serving counted as idle."""
        return self.needed_serving / self.paid if self.paid else 0.0

    @property
    def busy_ratio_without_loans(self) -> float:
        """See `needed_ratio_without_loans`."""
        return self.busy_serving / self.paid if self.paid else 0.0


def account(
    looks: Sequence[Look],
    nodes: Iterable[NodeStory],
    training: Mapping[str, TrainingPod],
    *,
    start: float,
    end: float,
) -> Account:
    """Where the time went between two moments; before the first look and after the last one nothing is counted."""
    sums = dict.fromkeys(("paid", "serving", "training", "busy serving", "busy training", "loaned", "away"), 0.0)
    lost = dict.fromkeys(CAUSES, 0.0)
    stories = tuple(nodes)
    for one, later in pairwise(looks):
        begin, until = max(start, one.at), min(end, later.at)
        if until <= begin:
            continue
        for node in stories:
            for left, right, phase in node.pieces(begin, until):
                _add(sums, lost, node, one, training, left=left, right=right, phase=phase)
    return Account(
        sums["paid"], sums["serving"], sums["training"], sums["busy serving"], sums["busy training"],
        sums["loaned"], sums["away"], lost,
    )  # fmt: skip


def _add(
    sums: dict[str, float],
    lost: dict[str, float],
    node: NodeStory,
    look: Look,
    training: Mapping[str, TrainingPod],
    *,
    left: float,
    right: float,
    phase: str,
) -> None:
    """Count one node in one phase over one stretch."""
    seconds, free = right - left, float(node.chips)
    sums["paid"] += node.chips * seconds
    sums["loaned"] += seconds if phase == LENT else 0.0
    sums["away"] += seconds if phase in AWAY else 0.0
    by_phase = _CAUSE_OF_PHASE.get(phase, "")
    for one in look.held.get(node.name, ()):
        chips = min(free, float(one.chips))
        free -= chips
        if one.pool:
            sums["busy serving"] += chips * seconds * one.busy
            if by_phase or phase == LENT:
                lost[by_phase or "no job"] += chips * seconds
            elif not one.ready:
                lost["starting"] += chips * seconds
            else:
                used = min(1.0, max(0.0, look.used.get(one.pool, 0.0)))
                sums["serving"] += chips * seconds * used
                lost["thin load"] += chips * seconds * (1.0 - used)
            continue
        pod = training.get(one.pod)
        sums["busy training"] += chips * seconds * one.busy
        kept = min(seconds, max(0.0, (pod.kept_until if pod else left) - left)) if one.ready else 0.0
        sums["training"] += chips * kept
        other = by_phase or ("work lost" if one.ready else "no job")
        lost[other] += chips * (seconds - kept)
    lost[by_phase or ("no job" if phase == LENT else "idle")] += free * seconds
