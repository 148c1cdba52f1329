"""The part of an InferencePool that says when its accelerators may be loaned to training."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from tidefleet.api.base import Model, Rule
from tidefleet.api.leaves import Integer, IntOrText, Many, Text
from tidefleet.api.scalars import (
    Cron,
    LabelMap,
    LabelValue,
    Name,
    PositiveUSD,
    QualifiedName,
    Sentence,
    TimeOfDay,
    TimeZone,
)
from tidefleet.api.vocabulary import Day

Seconds = Annotated[int, Integer(minimum=1, maximum=604_800, expected="a positive integer of seconds", example=600)]


class FlippingPolicy(StrEnum):
    """What decides when accelerators are loaned: nothing, a schedule, or the forecast of demand."""

    NEVER = "Never"
    SCHEDULE = "Schedule"
    FORECAST = "Forecast"


class FlipReason(StrEnum):
    """Why a node is flipped."""

    LOAN = "Loan"
    RECALL = "Recall"
    REBALANCE = "Rebalance"


class DrainTimeout(StrEnum):
    """What happens to requests that outlive the drain: roll the flip back, or kill them."""

    ROLL_BACK = "RollBack"
    KILL = "Kill"


class QueueKind(StrEnum):
    """How training is started and stopped: by Kueue's quota, or by suspending jobs."""

    KUEUE = "Kueue"
    SUSPEND = "Suspend"


class PauseScope(StrEnum):
    """How far a pause goes: not at all, no new loans, or every loan recalled."""

    NONE = "None"
    NEW_LOANS = "NewLoans"
    RECALL_ALL = "RecallAll"


class SelectorOperator(StrEnum):
    """Operators of a label selector."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Window(Model):
    """A time of day at which loans are allowed; it may cross midnight, and keeps to the wall clock through DST."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="end",
            cel="self.start != self.end",
            holds=lambda w: w.start != w.end,
            expected="another time than start",
            example='"06:30"',
        ),
    )

    start: TimeOfDay
    """Beginning, e.g. "22:00" (quoted, since many YAML readers take 22:00 for a number)."""
    end: TimeOfDay = Field(examples=["06:30"])
    """End, e.g. "06:30"; before `start` means the next day."""
    days: Annotated[tuple[Day, ...], Many(maximum=7, unique=True)] = ()
    """Days on which the window begins, e.g. [Mon, Tue]; empty: every day."""
    time_zone: TimeZone
    """Time zone of the IANA database, e.g. Europe/Berlin."""


class Budget(Model):
    """A limit on how many nodes may be in flight at once. Several apply together; the smallest wins."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="durationSeconds",
            cel="has(self.schedule) == has(self.durationSeconds)",
            holds=lambda b: (b.schedule is None) == (b.duration_seconds is None),
            expected="schedule and durationSeconds together, or neither",
            example="3600",
        ),
        Rule(
            field="timeZone",
            cel="!has(self.schedule) || has(self.timeZone)",
            holds=lambda b: b.schedule is None or b.time_zone is not None,
            expected="a time zone beside schedule",
            example='"UTC"',
        ),
    )

    reasons: Annotated[tuple[FlipReason, ...], Many(maximum=3, unique=True)] = ()
    """Flips that the budget limits, e.g. [Loan, Rebalance]; empty: all. Recall: nodes that the
    schedule calls back before their loans end. What serving needs, a loan whose time is over and
    a roll-back are never limited."""
    nodes: Annotated[
        int | str,
        IntOrText(
            minimum=0,
            maximum=100_000,
            pattern="^([0-9]{1,6}|(100|[0-9]{1,2})%)$",
            expected="a number of nodes, or a percentage of the pool's nodes",
            example="20%",
        ),
    ]
    """Nodes at once, as a number or a percentage of the pool's nodes, e.g. "20%" or 2."""
    schedule: Cron | None = None
    """When the budget begins to apply, a cron expression, e.g. "0 22 * * *"; absent: always."""
    duration_seconds: Seconds | None = Field(default=None, examples=[3600])
    """How long it then applies, in seconds, e.g. 3600."""
    time_zone: TimeZone | None = Field(default=None, examples=["UTC"])
    """Time zone of `schedule`, e.g. UTC."""


class Drain(Model):
    """How a replica is emptied before its node changes hands."""

    timeout_seconds: Seconds = 600
    """Longest wait for running requests, in seconds, e.g. 600."""
    on_timeout: DrainTimeout = DrainTimeout.ROLL_BACK
    """What happens then: RollBack gives up the flip, Kill ends the requests."""


class SelectorRequirement(Model):
    """One requirement of a label selector."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="values",
            cel="(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            holds=lambda r: (r.operator in (SelectorOperator.IN, SelectorOperator.NOT_IN)) == bool(r.values),
            expected="values with In and NotIn, none with Exists and DoesNotExist",
            example="[night]",
        ),
    )

    key: QualifiedName = Field(examples=["team"])
    """Label key, e.g. team."""
    operator: SelectorOperator
    """How the label's value is compared: In, NotIn, Exists or DoesNotExist."""
    values: Annotated[
        tuple[LabelValue, ...],
        Many(maximum=32, unique=True),
    ] = ()
    """Values for In and NotIn, e.g. [research]."""


class LabelSelector(Model):
    """A label selector; all of its parts must hold."""

    match_labels: LabelMap = Field(default={}, examples=[{"team": "research"}])
    """Labels and their values, e.g. {team: research}."""
    match_expressions: Annotated[tuple[SelectorRequirement, ...], Many(maximum=16)] = ()
    """Further requirements."""


class TrainingQueue(Model):
    """Who trains on loaned accelerators."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="clusterQueue",
            cel="self.kind != 'Kueue' || has(self.clusterQueue)",
            holds=lambda q: q.kind is not QueueKind.KUEUE or q.cluster_queue is not None,
            expected="the name of a ClusterQueue",
            example='"night"',
        ),
        Rule(
            field="selector",
            cel="self.kind != 'Suspend' || has(self.selector)",
            holds=lambda q: q.kind is not QueueKind.SUSPEND or q.selector is not None,
            expected="a selector of jobs",
            example="{matchLabels: {team: research}}",
        ),
    )

    kind: QueueKind = QueueKind.KUEUE
    """How training is started and stopped: Kueue by quota, Suspend by suspending jobs."""
    cluster_queue: Name | None = Field(default=None, examples=["night"])
    """For Kueue: the ClusterQueue that borrows the loaned accelerators, e.g. night."""
    selector: LabelSelector | None = None
    """For Suspend: which jobs in the pool's namespace."""


class Training(Model):
    """What training on loaned accelerators is worth, and how it is stopped."""

    queue: TrainingQueue
    """Who trains."""
    value_usd_per_chip_hour: PositiveUSD | None = Field(default=None, examples=["1.10"])
    """USD that an hour of training on one accelerator is worth, e.g. "1.10"; absent: loans only by schedule."""
    checkpoint_grace_seconds: Seconds = Field(default=120, examples=[120])
    """Time that training gets to write a checkpoint when it is recalled, in seconds, e.g. 120."""


class Pause(Model):
    """A pause of flipping. It changes nothing that runs, unless its scope says so."""

    scope: PauseScope = PauseScope.NONE
    """How far the pause goes: None, NewLoans (no further loan) or RecallAll (every loan comes back)."""
    by: Annotated[str, Text(maximum=128, expected="who asked", example="alice")] | None = None
    """Who asked for it, e.g. alice."""
    reason: Sentence | None = Field(default=None, examples=["launch day"])
    """Why, e.g. launch day."""


class FlippingSpec(Model):
    """When accelerators of the pool may be loaned to training, and how."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="windows",
            cel="self.policy != 'Schedule' || (has(self.windows) && size(self.windows) > 0)",
            holds=lambda f: f.policy is not FlippingPolicy.SCHEDULE or bool(f.windows),
            expected="at least one window with the policy Schedule",
            example='[{start: "22:00", end: "06:30", timeZone: Europe/Berlin}]',
        ),
    )

    policy: FlippingPolicy = FlippingPolicy.NEVER
    """What decides when accelerators are loaned: Never, Schedule (the windows) or Forecast (the demand)."""
    windows: Annotated[tuple[Window, ...], Many(maximum=32)] = ()
    """Times at which loans are allowed; their end means serving again."""
    budgets: Annotated[tuple[Budget, ...], Many(maximum=16)] = ()
    """Limits on how many nodes may be in flight at once."""
    drain: Drain = Drain()
    """How a replica is emptied before its node changes hands."""
    training: Training | None = None
    """Who trains, and what it is worth."""
    pause: Pause = Pause()
    """A pause of flipping."""
