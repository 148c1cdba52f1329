"""What is on loan, who trains there, and what a trainer must be able to do: the seam between flips and queues."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from tidefleet.api.flipping import TrainingQueue
from tidefleet.cluster.kinds import Kind
from tidefleet.cluster.records import Pod
from tidefleet.cluster.writes import Write

MINIMUM_USEFUL_SECONDS = 600.0
"""A job that says nothing else is not started with less than this left of a loan."""


@dataclass(frozen=True, slots=True)
class LoanType:
    """A type of accelerator that a pool may lend, whether or not a node of it is on loan now.

    Attributes:
        accelerator: name of the AcceleratorType, e.g. ``h100-sxm``.
        resource: the extended resource that pods ask for, e.g. ``nvidia.com/gpu``.
        selector: the AcceleratorType's ``nodeSelector``, which tells its nodes from those of other types.
    """

    accelerator: str
    resource: str
    selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoanedNode:
    """A node on loan, or on its way back.

    Attributes:
        chips: accelerators on it.
        verified: whether it is in phase Training, so that jobs may be on it.
        until: Unix seconds at which the loan ends.
        recall_by: Unix seconds by which a checkpoint is to be written and the node empty, after which what is still
            there is evicted; ``None`` while the node is not recalled.
        labels: the node's labels, which say whether a job's node selector can be met there.
    """

    name: str
    accelerator: str
    resource: str
    chips: int
    verified: bool
    until: float
    recall_by: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether jobs may be started on it."""
        return self.verified and self.recall_by is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lending:
    """All that one pool lends.

    Attributes:
        pool: (namespace, name).
        types: the types the pool may lend; those of its nodes on loan are among them in any case.
        next_window: Unix seconds at which more may be lent, as far as is known.
    """

    pool: tuple[str, str]
    queue: TrainingQueue
    nodes: tuple[LoanedNode, ...]
    types: tuple[LoanType, ...] = ()
    checkpoint_grace_seconds: int = 120
    next_window: float | None = None

    @property
    def all_types(self) -> tuple[LoanType, ...]:
        """The types it may lend or does, by name."""
        found = {one.accelerator: LoanType(one.accelerator, one.resource) for one in self.nodes}
        found |= {one.accelerator: one for one in self.types}
        return tuple(found[name] for name in sorted(found))

    def open_chips(self) -> dict[str, int]:
        """Accelerators on which jobs may be started, by type; every type is there, also those with none."""
        chips = {one.accelerator: 0 for one in self.all_types}
        for node in self.nodes:
            if node.open:
                chips[node.accelerator] += node.chips
        return chips


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """A job that is on loaned nodes, or waits for them. A gang is one job.

    Attributes:
        kind: what it is: a Job, JobSet, TrainJob or PyTorchJob; a Pod when it belongs to nothing we know.
        chips: accelerators that it holds, or wants while it waits.
        nodes: the loaned nodes that its pods are on, the terminating ones included.
        running: whether it is started (not suspended); its pods may still be pending.
        started: Unix seconds; ``None`` while it waits.
        asked: the deadline (Unix seconds) that a checkpoint was asked by.
        checkpointed: Unix seconds of the last checkpoint that the trainer told.
        elastic: least and most pods that it can run with; ``None`` for a fixed number.
        waiting_why: why it is not running, and what would have to change; empty while it runs.
        expected_start: Unix seconds, as far as is known.
        minimum_useful_seconds: it is not started with less than this left.
        termination_seconds: how long its pods may take to end after SIGTERM.
        asked_at: Unix seconds at which that was asked.
        seconds_left: how much longer it says that it will run.
        priority: the higher, the earlier it is started.
        created: Unix seconds.
    """

    kind: Kind
    namespace: str
    name: str
    uid: str
    resource_version: str
    chips: int
    nodes: frozenset[str] = frozenset()
    running: bool = False
    started: float | None = None
    asked: float | None = None
    checkpointed: float | None = None
    elastic: tuple[int, int] | None = None
    waiting_why: str = ""
    expected_start: float | None = None
    minimum_useful_seconds: float = MINIMUM_USEFUL_SECONDS
    termination_seconds: float = 30.0
    asked_at: float | None = None
    seconds_left: float | None = None
    priority: int = 0
    created: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind.kind} {self.namespace}/{self.name}"


class FaultReason(StrEnum):
    """Why training cannot go on as it should."""

    KUEUE_ABSENT = "KueueAbsent"
    QUEUE_NOT_FOUND = "QueueNotFound"
    QUEUE_NOT_IN_COHORT = "QueueNotInCohort"
    QUEUE_WITHOUT_CHECK = "QueueWithoutCheck"
    QUEUE_WITHOUT_FLAVOR = "QueueWithoutFlavor"
    QUEUE_HAS_QUOTA = "QueueHasQuota"
    QUEUE_INACTIVE = "QueueInactive"
    QUOTA_BELOW_USAGE = "QuotaBelowUsage"
    WORKLOAD_STUCK = "WorkloadStuck"
    NAME_TAKEN = "NameTaken"
    MANAGED_BY_ANOTHER = "ManagedByAnother"
    QUEUE_UNREADABLE = "QueueUnreadable"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a queue, with the object, what came, what was expected and an example."""

    reason: FaultReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSeen:
    """What a trainer saw.

    Attributes:
        jobs: those on loaned nodes, and those that wait for them.
        faults: what is wrong; empty when all is well.
        admission_stopped: whether nothing more is let onto loaned nodes, by what is in force on the cluster.
        published_chips: accelerators that the queue may use, by type, by what is in force on the cluster.
        readable: whether the rest can be believed; when not, nothing is written.
        detail: the trainer's own.
    """

    jobs: tuple[TrainingJob, ...] = ()
    faults: tuple[Fault, ...] = ()
    admission_stopped: bool = True
    published_chips: Mapping[str, int] = field(default_factory=dict)
    readable: bool = True
    detail: object = None

    def on(self, node: str) -> tuple[TrainingJob, ...]:
        """The jobs with pods on a node."""
        return tuple(job for job in self.jobs if node in job.nodes)


@dataclass(frozen=True, slots=True)
class Stop:
    """A job that is made to leave.

    Attributes:
        lost_chip_seconds: accelerators times the seconds since the last known checkpoint (else since the start).
        why: in words.
    """

    job: TrainingJob
    lost_chip_seconds: float
    why: str


class Trainer(Protocol):
    """Starts and stops training on loaned nodes, through a queue."""

    def look(self, lending: Lending, pods: Iterable[Pod], now: float) -> TrainingSeen:
        """What there is now. Never raises: what cannot be read is a fault.

        Args:
            lending: what is on loan.
            pods: every pod that is known, terminating ones included; those on nodes that are not on loan say
                where a job has its places already.
            now: Unix seconds.
        """
        ...

    def writes(self, lending: Lending, seen: TrainingSeen, now: float, *, decision_id: str) -> list[Write]:
        """What ought to be written now, in this order; nothing when all is as it should be."""
        ...

    def stops(self, lending: Lending, seen: TrainingSeen, now: float) -> Mapping[str, Stop]:
        """The jobs that those writes stop, by the uid of the object that is written to."""
        ...
