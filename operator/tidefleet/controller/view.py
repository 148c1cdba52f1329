"""What a decision about one pool is taken from: a frozen value, gathered from store and inventory by ``observe``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidefleet.api import AcceleratorType, InferencePool, Reason, WorkloadClass
from tidefleet.cluster.kinds import DEPLOYMENT, LEADER_WORKER_SET, Kind
from tidefleet.cluster.records import Workload
from tidefleet.controller import marks
from tidefleet.controller.ahead import Ahead
from tidefleet.controller.calibrating import Learning, Round
from tidefleet.controller.tier_watch import TierSeen, TierWatch
from tidefleet.controller.trainers import Trainer
from tidefleet.controller.waiting import Waiting
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.evidence import Correction
from tidefleet.planning.calls import Called
from tidefleet.planning.demand import DemandHistory, Known, Lengths, Reading
from tidefleet.planning.evidence import ReplicaKey
from tidefleet.planning.options import Offer, Option, Price
from tidefleet.planning.problem import TierChoices
from tidefleet.planning.reuse_curve import ReuseCurve
from tidefleet.planning.spending import SpendingLedger


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an object cannot be used: a reason of the condition Validated, and the whole story."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Served:
    """A workload that serves a pool, and the option it stands for. ``workload`` is ``None`` while it is missing.

    ``group`` is how many pods on as many nodes make one replica; more than one are a LeaderWorkerSet.
    """

    name: str
    option: Option
    workload: Workload | None
    group: int = 1

    @property
    def kind(self) -> Kind:
        """What the workload is, or will be."""
        if self.workload is not None:
            return self.workload.kind
        return LEADER_WORKER_SET if self.group > 1 else DEPLOYMENT

    @property
    def host_bytes(self) -> int:
        """Room of the KV tier in host memory that we start its engines with; 0 for none."""
        return marks.read_host_tier(self.workload.annotations) if self.workload else 0

    @property
    def desired(self) -> int:
        """Replicas asked for."""
        return self.workload.replicas if self.workload else 0

    @property
    def ready(self) -> int:
        """Replicas that serve."""
        return self.workload.ready_replicas if self.workload else 0


@dataclass(frozen=True, slots=True)
class Chips:
    """Chips that a pool's pods hold or wait for, of one accelerator type and capacity type.

    ``scheduled`` are on a node (and paid for), ``ready`` of them serve; ``leaving`` of those on a node take no further
    requests, ``leaving_ready`` of them are ready. ``waiting`` belong to pods without a node; ``why`` is the scheduler's
    message.
    """

    scheduled: int = 0
    ready: int = 0
    waiting: int = 0
    waiting_pods: int = 0
    why: str = ""
    leaving: int = 0
    leaving_ready: int = 0

    @property
    def warming(self) -> int:
        """Chips on nodes that do not serve yet."""
        return max(0, self.scheduled - self.leaving - self.staying)

    @property
    def staying(self) -> int:
        """Chips that serve and go on serving."""
        return max(0, self.ready - self.leaving_ready)


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool as observed at ``now`` (seconds of the operator's clock).

    Attributes:
        faults: what makes the pool unusable; empty when it can be planned.
        classes: the usable classes of demand that refer to it; ``unreadable_classes`` the names of the others.
        kinds: accelerator types by name; ``offers`` what they offer to this pool, in order of name.
        served: workloads that serve it (adopted ones in the order of the spec).
        conflicts: who else scales an adopted workload, by workload name.
        chips: what its pods hold, by (accelerator, capacity type).
        reading: newest reading of its engines; ``None`` before the first round.
        compare_roles: whether prefill and decode on replicas of their own is priced too where the owner leaves it open.
        measured: what that round measured of each engine, for the calibration.
        utilization: needed over paid accelerator-seconds of the last minutes; ``None`` while it is not known.
        price_fault: why the price book cannot be used as it is; empty when it can, and without one.
        called: what classes of other pools, or of this one, ask of its classes, by name. A declared class's demand has
            it in it.
        trainers: the training jobs that classes of it follow, by class, whose volumes are what the jobs ask for now.
        reserved: chips by accelerator type that are paid for a term and that no other pool holds.
        groups: whether LeaderWorkerSets are served, so that a replica may be wider than a node.
        moving: replicas that leave nodes which are to be lent and are replaced elsewhere first, by workload.
        leaving: those of them that are replaced, take no requests and are the first to go, so that asking for so many
            fewer loses nothing.
        reuse: how far apart the blocks of its prompts are used, as its router saw; ``None`` while no router has told.
        tiers_seen: what its engines found in KV tiers; ``None`` before any was read.
    """

    pool: InferencePool
    now: float
    faults: tuple[Fault, ...] = ()
    classes: tuple[WorkloadClass, ...] = ()
    unreadable_classes: tuple[str, ...] = ()
    architecture: Architecture | None = None
    kinds: Mapping[str, AcceleratorType] = field(default_factory=dict)
    offers: tuple[Offer, ...] = ()
    served: tuple[Served, ...] = ()
    conflicts: Mapping[str, Fault] = field(default_factory=dict)
    chips: Mapping[tuple[str, str], Chips] = field(default_factory=dict)
    reading: Reading | None = None
    measured: Round | None = None
    compare_roles: bool = False
    busy_ratio: float | None = None
    utilization: float | None = None
    price_fault: str = ""
    groups: bool = False
    called: Mapping[str, Called] = field(default_factory=dict)
    trainers: Mapping[str, Trainer] = field(default_factory=dict)
    reserved: Mapping[str, int] = field(default_factory=dict)
    moving: Mapping[str, int] = field(default_factory=dict)
    leaving: Mapping[str, int] = field(default_factory=dict)
    reuse: ReuseCurve | None = None
    tiers_seen: TierSeen | None = None


@dataclass(slots=True)
class TierMemory:
    """Choices of sizes as last made for a pool, the sizes in force (bytes for a replica, by tier), and their watch."""

    at: float = -math.inf
    rate: float = 0.0
    of: object = None
    choices: TierChoices | None = None
    sizes: tuple[float, ...] | None = None
    watch: TierWatch = field(default_factory=TierWatch)
    recalled: bool = False


@dataclass(slots=True)
class PoolMemory:
    """What the operator remembers of a pool between two passes; all of it may be lost at any time.

    A fresh memory never lowers capacity: its history is empty.
    """

    history: DemandHistory
    ledger: SpendingLedger = field(default_factory=SpendingLedger)
    last_known: Known | None = None
    planned_rate: float = 0.0
    lengths: Lengths = field(default_factory=Lengths)
    last_switch: float | None = None
    pending_since: dict[str, float] = field(default_factory=dict)
    starting_since: dict[str, float] = field(default_factory=dict)
    refused_why: dict[str, str] = field(default_factory=dict)
    told_at: float | None = None
    advice: tuple[tuple[str, int], ...] = ()
    refused_until: dict[str, float] = field(default_factory=dict)
    prices: dict[tuple[str, str], Price] = field(default_factory=dict)
    calibrations: dict[ReplicaKey, Correction] = field(default_factory=dict)
    learning: Learning = field(default_factory=Learning)
    refused_writes: dict[str, tuple[str, Any, float]] = field(default_factory=dict)
    measured_classes: frozenset[str] = frozenset()
    ahead: Ahead = field(default_factory=Ahead)
    waiting: Waiting = field(default_factory=Waiting)
    tiers: TierMemory = field(default_factory=TierMemory)
