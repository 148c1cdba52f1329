"""What a person asks of a node by annotation, as ``tidefleet flip`` writes it; nonsense is told, never obeyed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidefleet.controller import marks
from tidefleet.controller.flips.rounds import Moved
from tidefleet.flipping.lending import Ask, FlipRequest
from tidefleet.flipping.phase import Phase

VALID_SECONDS = 3600.0
"""A request that could not be carried out within this time is dropped."""


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A text that is no request."""

    why: str


def read_request(annotations: Mapping[str, str]) -> FlipRequest | BadRequest | None:
    """The request on a node; ``None`` without one."""
    text = annotations.get(marks.FLIP_REQUEST_ANNOTATION)
    if text is None:
        return None
    expected = 'expected e.g. {"to": "training", "by": "alice", "at": 1764028800}'
    try:
        raw: Any = json.loads(text) if len(text) <= 4096 else None
        if not isinstance(raw, dict):
            return BadRequest(f"{marks.FLIP_REQUEST_ANNOTATION} is not a short JSON object; {expected}")
        until = raw.get("until")
        at, end = _time(raw.get("at")), None if until is None else _time(until)
        by = raw.get("by", "")
        if not isinstance(by, str) or len(by) > 256:
            raise ValueError("by is no name")
        return FlipRequest(Ask(str(raw.get("to"))), by or "somebody", at, end)
    except (ValueError, TypeError, RecursionError) as error:
        return BadRequest(f"{marks.FLIP_REQUEST_ANNOTATION}: {str(error)[:120]}; {expected}")


def answer_to(request: FlipRequest | BadRequest, one: Moved, blocked: str, now: float) -> tuple[str, bool]:
    """What became of a request, and whether it was refused; an empty text while it is still open."""
    if isinstance(request, BadRequest):
        return request.why, True
    before, after = one.unit.journal.phase, one.step.journal.phase
    if request.to is Ask.RELEASE:
        if before is not Phase.QUARANTINED:
            return f"it is not quarantined but in phase {before}; there is nothing to release", True
        return (f"released by {request.by}", False) if after is not before else ("", False)
    if request.to is Ask.TRAINING:
        if after.is_outbound or after.is_lent:
            return f"goes to training, as {request.by} asked", False
        if after is not Phase.SERVING:
            return f"it is in phase {after}; only a unit that serves can be lent", True
        return (f"not lent, as {request.by} asked: {blocked}", True) if blocked else ("", False)
    if after is Phase.SERVING or after.is_homebound:
        return f"serves, or is on its way, as {request.by} asked", False
    if after is Phase.QUARANTINED:
        return "it is quarantined; release it first", True
    late = now - request.at > VALID_SECONDS
    return ("the request has grown too old", True) if late else ("", False)


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{str(value)[:30]} is no time in Unix seconds")
    return float(value)
