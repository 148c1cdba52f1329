"""What flips are told by: their number and length, what is lent and lost, and what nobody uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from tidefleet.telemetry.registry import Telemetry

PoolKey = tuple[str, str]
"""Namespace and name."""

Direction = Literal["training", "serving"]
Result = Literal["done", "rolled-back", "called-off", "quarantined"]
FlipCause = Literal["Loan", "Recall", "Surge", "Request", "Health"]
LossCause = Literal["Recall", "Surge", "Health"]

_USUAL: tuple[tuple[Direction, Result, FlipCause], ...] = (
    ("training", "done", "Loan"),
    ("training", "rolled-back", "Loan"),
    ("serving", "done", "Recall"),
    ("serving", "done", "Surge"),
)


@dataclass(frozen=True, slots=True)
class FlipMeter:
    """Writes the metrics of flips; the leader's alone to call.

    Series of a deleted pool go with those of its other metrics (`Telemetry.forget`).
    """

    telemetry: Telemetry

    def appear(self, pool: PoolKey) -> None:
        """Show a pool that may lend: its usual series at 0, so that the first flip is seen as an increase."""
        for direction, result, reason in _USUAL:
            self._add(pool, 0.0, direction=direction, result=result, reason=reason)
        self.overdue(pool, training=0.0, serving=0.0)

    def ended(
        self, pool: PoolKey, *, direction: Direction, result: Result, reason: FlipCause, decision_id: str = ""
    ) -> None:
        """Count a flip that ended, also one that was given up."""
        self._add(pool, 1.0, decision_id, direction=direction, result=result, reason=reason)

    def _add(self, pool: PoolKey, amount: float, decision_id: str = "", **labels: str) -> None:
        self.telemetry.count("flips_total", amount, decision_id=decision_id, namespace=pool[0], pool=pool[1], **labels)

    def left(self, phase: str, seconds: float) -> None:
        """A unit left a phase after so many seconds; a clock that went back counts as 0."""
        self.telemetry.observe("flip_duration_seconds", max(0.0, seconds), phase=phase)

    def allowed(self, pool: PoolKey, nodes: Mapping[str, int]) -> None:
        """Nodes that may set out now, by reason: Loan, Recall, Rebalance."""
        series = {(reason,): float(count) for reason, count in nodes.items()}
        self.telemetry.show("flips_allowed", series, namespace=pool[0], pool=pool[1])

    def overdue(self, pool: PoolKey, *, training: float, serving: float) -> None:
        """Seconds that the slowest flip in each direction is past its deadline; 0 or less while none is."""
        series = {("training",): max(0.0, training), ("serving",): max(0.0, serving)}
        self.telemetry.show("pool_flip_overdue_seconds", series, namespace=pool[0], pool=pool[1])

    def lent(self, pool: PoolKey, nodes: Mapping[str, int]) -> None:
        """Nodes that training may use, by accelerator type; a type that is left out disappears."""
        series = {(accelerator,): float(count) for accelerator, count in nodes.items()}
        self.telemetry.show("pool_loaned_nodes", series, namespace=pool[0], pool=pool[1])

    def training_cost(self, pool: PoolKey, usd: float, *, accelerator: str, capacity_type: str) -> None:
        """Add what lent nodes cost since the last call, in USD; an unknown price is not to be told as 0."""
        self.telemetry.count(
            "training_cost_usd_total",
            usd,
            namespace=pool[0],
            pool=pool[1],
            accelerator=accelerator,
            capacity_type=capacity_type,
        )

    def work_lost(self, pool: PoolKey, chip_seconds: float, cause: LossCause) -> None:
        """Add the work of a recalled job since its last checkpoint, in chip-seconds."""
        self.telemetry.count(
            "training_lost_chip_seconds_total", chip_seconds, namespace=pool[0], pool=pool[1], cause=cause
        )

    def work_lost_so_far(self, pool: PoolKey) -> float:
        """The sum of ``work_lost`` of a pool, in chip-seconds."""
        name = "tidefleet_training_lost_chip_seconds_total"
        told = (self.telemetry.value(name, namespace=pool[0], pool=pool[1], cause=one) for one in get_args(LossCause))
        return sum(one or 0.0 for one in told)

    def idle_cost(self, usd: float, *, accelerator: str, capacity_type: str) -> None:
        """Add what chips cost that no pool holds and training does not use, in USD."""
        self.telemetry.count("fleet_idle_cost_usd_total", usd, accelerator=accelerator, capacity_type=capacity_type)
