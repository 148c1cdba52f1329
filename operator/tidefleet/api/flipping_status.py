"""What the operator reports of a pool's loans: nodes needed and lent, each unit's phase, what is blocked and why."""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from tidefleet.api.base import Model
from tidefleet.api.leaves import Integer, Many, Text
from tidefleet.api.scalars import USD, Count, Share

MOST_SLOTS = 96
"""Slots of a day at 15 minutes each."""
MOST_UNITS = 64
MOST_NODES = 64
MOST_CHANGES = 32
MOST_BLOCKED = 16
MOST_WAITING = 16

Sentence = Annotated[str, Text(maximum=512, minimum=0)]
Object = Annotated[str, Text(maximum=320, minimum=0)]
Nodes = Annotated[int, Integer(minimum=0, maximum=1_000_000, example=4)]
Slots = Annotated[tuple[Nodes, ...], Many(maximum=MOST_SLOTS)]


class FlipPhase(StrEnum):
    """Where a unit stands between serving and training."""

    SERVING = "Serving"
    PLANNED = "Planned"
    CORDONED = "Cordoned"
    DRAINING = "Draining"
    VERIFYING = "Verifying"
    TRAINING = "Training"
    RECALLING = "Recalling"
    RECLAIMING = "Reclaiming"
    WARMING = "Warming"
    QUARANTINED = "Quarantined"


class FlippingMode(StrEnum):
    """What decides on loans at present."""

    NEVER = "Never"
    SCHEDULE = "Schedule"
    FORECAST = "Forecast"
    RECOMMEND = "Recommend"


class PhaseChange(Model):
    """The beginning of one phase."""

    at: datetime.datetime
    """When it began, e.g. 2026-11-21T22:00:00Z."""
    phase: FlipPhase
    """The phase that began, e.g. Draining."""


class FlipUnit(Model):
    """A node, or nodes that change hands together: those of a LeaderWorkerSet group or of an NVLink domain."""

    name: Annotated[str, Text(maximum=253, example="node-7")]
    """Name of the unit: its node, or the first of them, e.g. node-7."""
    nodes: Annotated[tuple[Annotated[str, Text(maximum=253)], ...], Many(maximum=MOST_NODES)] = ()
    """Its nodes, e.g. [node-7]."""
    accelerator: Annotated[str, Text(maximum=253, minimum=0)] | None = None
    """AcceleratorType of its nodes, e.g. h100-sxm."""
    phase: FlipPhase
    """Where it stands, e.g. Training."""
    since: datetime.datetime | None = None
    """When the phase began, e.g. 2026-11-21T22:04:10Z."""
    until: datetime.datetime | None = None
    """When the loan ends at the latest, e.g. 2026-11-22T06:30:00Z; absent: it is not lent."""
    why: Sentence | None = None
    """Why it stands there, in one sentence."""
    history: Annotated[tuple[PhaseChange, ...], Many(maximum=MOST_CHANGES)] = ()
    """The last changes of phase, oldest first."""


class BlockedLoan(Model):
    """A loan that would be worth it and is not made."""

    unit: Object = ""
    """The unit, or what else is meant, e.g. node-7."""
    why: Sentence
    """What speaks against it, e.g. it has served for 20 min; expected 60 between two loans."""
    would_have_to_change: Sentence = Field(default="", examples=["wait until 22:40"])
    """What would have to change for the loan to be made, e.g. wait until 22:40."""


class WaitingJob(Model):
    """A training job that waits for accelerators."""

    job: Object
    """The job, as Kind/namespace/name, e.g. Job/research/night-1."""
    chips: Count | None = None
    """Accelerators that it asks for, e.g. 16."""
    expected_start: datetime.datetime | None = None
    """When it is expected to start, e.g. 2026-11-21T22:15:00Z; absent: no loan of the next 24 hours fits it."""
    why: Sentence = ""
    """What it waits for, in words."""


class LoanWorth(Model):
    """Both sides of the sum that decides on a loan."""

    saves_usd: USD | None = None
    """USD that training on the loans planned for the next 24 hours is worth, e.g. "211.20"."""
    costs_usd: USD | None = None
    """USD that these flips cost in accelerator time, work lost and caches refilled, e.g. "8.40"."""
    words: Sentence = ""
    """The same in one sentence."""


class FlippingStatus(Model):
    """Loans of the pool's nodes to training: what is needed, what is lent, and what comes next."""

    mode: FlippingMode = FlippingMode.NEVER
    """What decides on loans at present: Schedule, Forecast, Recommend (loans are told, and nothing is written) or
    Never."""
    needed_nodes: Nodes | None = None
    """Nodes that serving needs now, the reserve included, e.g. 6."""
    serving_nodes: Nodes | None = None
    """Nodes that serve, e.g. 6."""
    loaned_nodes: Nodes | None = None
    """Nodes that training may use, those that it is recalled from included, e.g. 2."""
    moving_nodes: Nodes | None = None
    """Nodes on their way from one to the other, e.g. 1."""
    quarantined_nodes: Nodes | None = None
    """Nodes that failed a check and wait for a release, e.g. 0."""
    allowed_now: Nodes | None = None
    """Nodes that may still set out now, by budgets and gates, e.g. 1."""
    held_by: Sentence = ""
    """The budget or gate that allows no more, in words; empty: none does."""
    quantile: Share | None = None
    """The quantile of demand for which nodes are kept, e.g. "0.96"; absent: loans follow the windows alone."""
    slot_start: datetime.datetime | None = None
    """When the first slot of `needed` and `loaned` begins, e.g. 2026-11-21T21:45:00Z."""
    slot_seconds: Annotated[int, Integer(minimum=60, maximum=86_400, example=900)] = 900
    """Length of a slot in seconds, e.g. 900."""
    needed: Slots = ()
    """Nodes that serving needs in each slot of the next 24 hours."""
    loaned: Slots = ()
    """Nodes that are to be on loan in each slot of the next 24 hours."""
    needed_before: Slots = ()
    """Nodes that serving needed in the slots before `slotStart`, oldest first; the last one ends there."""
    units: Annotated[tuple[FlipUnit, ...], Many(maximum=MOST_UNITS, keys=("name",))] = ()
    """The units and their phases; of more than 64, those that are not serving come first."""
    blocked: Annotated[tuple[BlockedLoan, ...], Many(maximum=MOST_BLOCKED)] = ()
    """Loans that are not made, and what would have to change."""
    waiting: Annotated[tuple[WaitingJob, ...], Many(maximum=MOST_WAITING)] = ()
    """Training jobs that wait, and when they are expected to start."""
    worth: LoanWorth | None = None
    """What the planned loans bring, and what they cost."""
