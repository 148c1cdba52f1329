"""Conditions, in the form of `metav1.Condition`, and the list of them that every status has."""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Annotated

from tidefleet.api.base import Model
from tidefleet.api.leaves import Integer, Many, Text


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One observation of the object's state."""

    type: Annotated[str, Text(maximum=64, pattern="^[A-Z][A-Za-z]*$", example="Ready")]
    """What the condition speaks of, e.g. Ready."""
    status: ConditionStatus
    """Whether it holds: True, False or Unknown."""
    observed_generation: Annotated[int, Integer(minimum=0, maximum=2**53 - 1)] | None = None
    """The `metadata.generation` that this was observed on."""
    last_transition_time: datetime.datetime
    """When `status` last changed, e.g. 2026-11-21T08:30:00Z."""
    reason: Annotated[str, Text(maximum=64, pattern="^[A-Z][A-Za-z]*$", example="PlanAvailable")]
    """One word for why; the closed list is in the reference of conditions."""
    message: Annotated[str, Text(maximum=4096, minimum=0)] = ""
    """The same in words, with numbers."""


Conditions = Annotated[tuple[Condition, ...], Many(maximum=16, keys=("type",))]
Generation = Annotated[int, Integer(minimum=0, maximum=2**53 - 1)]


def find(conditions: tuple[Condition, ...], kind: str) -> Condition | None:
    """The condition of a type, where there is one."""
    return next((each for each in conditions if each.type == kind), None)
