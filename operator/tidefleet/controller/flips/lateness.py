"""Whether first tokens come too late: the other sign of a surge, beside demand above what is ready."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tidefleet.api.workload_class import ObjectiveMetric
from tidefleet.controller.collector import PoolKey
from tidefleet.controller.view import PoolView
from tidefleet.planning.demand import Known
from tidefleet.planning.from_api import is_deferrable

EVALUATIONS = 2
"""Readings running that must miss the objective."""

LEAST_REQUESTS = 5.0
"""A reading of fewer requests says nothing about how long they wait."""


@dataclass(slots=True)
class Lateness:
    """Counts, by pool, the readings running whose mean time to the first token misses the loosest objective.

    The mean of all requests is above the bound only when the percentile that the objective names is, but for a few that
    waited very long. A new leader begins to count afresh: two readings later it knows as much.
    """

    _missed: dict[PoolKey, tuple[float, int]] = field(default_factory=dict)

    def note(self, views: Iterable[PoolView], *, fresh_seconds: float) -> dict[PoolKey, str]:
        """Take in the newest readings; why first tokens come too late, by pool, where they do.

        A reading older than ``fresh_seconds`` says nothing of now.
        """
        late: dict[PoolKey, str] = {}
        missed: dict[PoolKey, tuple[float, int]] = {}
        for view in views:
            key, reading, bound = view.pool.key, view.reading, bound_seconds(view)
            at, count = self._missed.get(key, (float("-inf"), 0))
            if isinstance(reading, Known) and reading.at > at and reading.first_tokens >= LEAST_REQUESTS:
                misses = bound is not None and (reading.first_token_seconds or 0.0) > bound
                at, count = reading.at, count + 1 if misses else 0
            elif not isinstance(reading, Known) or view.now - reading.at > fresh_seconds:
                count = 0
            missed[key] = (at, count)
            if count >= EVALUATIONS and isinstance(reading, Known) and bound is not None:
                mean = reading.first_token_seconds or 0.0
                told = f"{mean:.2g} s" if mean > bound else "too long"
                late[key] = f"{view.pool}: first tokens take {told} on average; expected at most {bound:g} s"
        self._missed = missed
        return late


def bound_seconds(view: PoolView) -> float | None:
    """The longest that a first token of any class of a pool may take; ``None`` where no class states it."""
    bounds = []
    for one in view.classes:
        if is_deferrable(one):
            continue
        for objective in one.spec.objectives:
            if objective.metric is not ObjectiveMetric.TTFT:
                continue
            tokens = float(one.spec.tokens.input.mean) if one.spec.tokens is not None else 0.0
            more = (objective.per_thousand_input_tokens_milliseconds or 0) * tokens / 1000.0
            bounds.append((float(objective.milliseconds) + more) / 1000.0)
    return max(bounds, default=None)
