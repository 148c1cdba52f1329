"""Releases of serving engines: which ran models with experts slower than those that the starting values stand for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

OLDER: Mapping[str, tuple[str, str]] = {
    "vllm": ("0.10.2", "0.11.2"),
    "sglang": ("0.5.3rc1", "0.5.9"),
    "trtllm": ("1.1.0rc0", "1.2.0rc2"),
}
"""By engine the releases of 2025 that public runs hold beside recent ones of the same model: from the first to before
the second. What is older still has no such pair."""

_VERSION = re.compile(r"v?(\d+(?:\.\d+){0,3})(?:\.?rc(\d+))?", re.ASCII)
_LONGEST = 64


def is_older(engine: str, version: str) -> bool:
    """Whether this is one of the releases of ``OLDER``; an unknown engine or version is not.

    Args:
        engine: ``vllm``, ``sglang`` or ``trtllm``.
        version: e.g. ``0.11.0``, ``v0.5.6.post2`` or ``1.1.0rc2.post2``; empty = unknown.
    """
    if engine.lower() not in OLDER:
        return False
    first, recent = (_order(one) for one in OLDER[engine.lower()])
    return first <= _order(version) < recent


def _order(version: str) -> tuple[float, ...]:
    """What versions are ordered by: four numbers and the release candidate's, none of them last; empty = no version."""
    found = _VERSION.match(version[:_LONGEST])
    if found is None:
        return ()
    numbers = [float(part) for part in found.group(1).split(".")]
    candidate = float(found.group(2)) if found.group(2) else math.inf
    return (*numbers, *[0.0] * (4 - len(numbers)), candidate)
