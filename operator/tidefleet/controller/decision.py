"""A decision about one pool as a value: replicas, plan, conditions, and one sentence that everything else repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidefleet.api import ConditionStatus, ConditionType, Reason
from tidefleet.controller.view import PoolView, Served
from tidefleet.economics.evidence import Correction
from tidefleet.planning.evidence import ReplicaKey
from tidefleet.planning.options import ClassDemand, Market
from tidefleet.planning.pool import NothingFits, PoolPlan, PoolProblem

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition as this pass sees it."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason
    message: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Replicas of one workload: ``planned`` by the plan, ``desired`` now on the way there."""

    served: Served
    planned: int
    desired: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about a pool, and everything that is told about it.

    Attributes:
        targets: replicas by workload; empty when nothing is to be touched.
        plan: the plan in force, ``None`` when there is none.
        losers: what lost when nothing fits.
        problem: what the plan was asked.
        rate: requests per second planned for; ``classes`` the mix.
        calibrations: what the pool's engines have taught, by kind of replica.
        held: why replicas are held, empty when they are not.
        write: whether workloads may be written (valid, and mode other than Recommend).
        summary: the accelerators of the pool in one phrase.
        flipping: what its status says of flips; ``next_flip`` its column. Empty for a pool that lends nothing.
        trained: chips on loan that training jobs hold, by accelerator type; ``None`` = it is not known.
        host_bytes: room of the KV tier in host memory that engines are to be started with; ``None``: as they are.
    """

    view: PoolView
    verdicts: tuple[Verdict, ...]
    plan: PoolPlan | None = None
    nothing: NothingFits | None = None
    targets: tuple[Target, ...] = ()
    rate: float = 0.0
    classes: tuple[ClassDemand, ...] = ()
    market: Market | None = None
    problem: PoolProblem | None = None
    calibrations: Mapping[ReplicaKey, Correction] = field(default_factory=dict)
    held: str = ""
    write: bool = False
    summary: str = ""
    flipping: Mapping[str, Any] = field(default_factory=dict)
    next_flip: str = ""
    trained: Mapping[str, float] | None = None
    host_bytes: float | None = None

    def verdict(self, kind: ConditionType) -> Verdict | None:
        """The condition of a type."""
        return next((one for one in self.verdicts if one.type is kind), None)

    @property
    def reason(self) -> str:
        """The decision in one sentence."""
        if self.plan is not None:
            return f"{self.plan.reason}; {self.held}" if self.held else self.plan.reason
        if self.nothing is not None:
            return self.nothing.reason
        return self.view.faults[0].message if self.view.faults else self.held
