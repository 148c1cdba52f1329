"""How many flips a pool's budgets still allow, and which of them holds back the rest.

A budget limits the nodes in flight at once for the reasons it names, together; one without reasons limits all. Several
apply, and the smallest wins. A percentage is of the pool's nodes and is rounded up, as in Karpenter's disruption
budgets: "20%" of four nodes is one, so that no pool is too small to flip, and "0%" is none. A budget with a schedule
applies from each time the cron expression fires, by the wall clock of its zone, for its duration.

What validation refuses (an unknown zone, a broken expression, half a schedule) reaches here only by mistake. Such a
budget applies at all times: a limit that cannot be read is kept, never dropped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from tidefleet.api.flipping import Budget, FlipReason

_LONGEST_REPEAT = timedelta(hours=3)


@dataclass(frozen=True, slots=True)
class Allowance:
    """Flips that may begin now.

    Attributes:
        flips: nodes, at least 0.
        held_by: what holds back the rest, in words; empty when nothing does.
    """

    flips: int
    held_by: str


def allowance(
    budgets: Sequence[Budget],
    reason: FlipReason,
    now: float,
    *,
    nodes: int,
    in_flight: Mapping[FlipReason, int],
    urgent: bool = False,
    caps: Mapping[str, int] | None = None,
) -> Allowance:
    """How many more nodes may be flipped for a reason.

    Args:
        budgets: of the pool's spec.
        reason: why the nodes would be flipped.
        now: Unix seconds.
        nodes: of the pool.
        in_flight: nodes in the middle of a flip, by its reason.
        urgent: a surge recall or a roll-back, which nothing limits.
        caps: further limits that are used up elsewhere: how many flips each still allows, by its name in words, e.g.
            ``{"the namespace's cap of 4 flips per pass": 1}``.

    Returns:
        At most ``nodes``; a pool without nodes, or a negative count of them, allows none.
    """
    flips, held_by = max(0, nodes), ""
    if not flips:
        return Allowance(0, "the pool has no node")
    if urgent:
        return Allowance(flips, "")
    for index, budget in enumerate(budgets):
        if (budget.reasons and reason not in budget.reasons) or not is_active(budget, now):
            continue
        covered = budget.reasons or tuple(FlipReason)
        used = sum(max(0, in_flight.get(each, 0)) for each in covered)
        left = max(0, limit_of(budget, nodes) - used)
        if left < flips:
            flips, held_by = left, f"budgets[{index}] ({_words(budget, nodes)}; {used} in flight)"
    for name, left in (caps or {}).items():
        if left < flips:
            flips, held_by = max(0, left), name
    return Allowance(flips, held_by)


def limit_of(budget: Budget, nodes: int) -> int:
    """How many of a pool's nodes a budget lets be in flight at once; what is no number of nodes lets none."""
    if isinstance(budget.nodes, int):
        return max(0, budget.nodes)
    text = budget.nodes.removesuffix("%")
    if not text.isdecimal():
        return 0
    return -(-int(text) * max(0, nodes) // 100) if budget.nodes.endswith("%") else int(text)


def is_active(budget: Budget, now: float) -> bool:
    """Whether a budget applies at a time (Unix seconds). One whose schedule cannot be read always does."""
    if budget.schedule is None or budget.duration_seconds is None:
        return True
    if not math.isfinite(now):
        return True
    return _fires_within(budget.schedule, budget.time_zone or "UTC", budget.duration_seconds, math.floor(now))


_RANGE_OF_ONE = re.compile(r"(?<![0-9A-Za-z])([0-9A-Za-z]+)-\1/[0-9]+")
"""CronSim takes the one value of ``5-5/10`` for the beginning of a range without an end, as in ``5/10``."""


@lru_cache(maxsize=4096)
def _fires_within(schedule: str, zone_name: str, seconds: int, now: int) -> bool:
    """Whether the schedule fires in the ``seconds`` before ``now``, the second it fires in included."""
    try:
        zone = ZoneInfo(zone_name)
        end = datetime.fromtimestamp(now, UTC)
        begin = end - timedelta(seconds=seconds)
        # Only an iteration that began before a repeated hour knows that the schedule has fired in it once.
        early = begin - _LONGEST_REPEAT
        changes = early.astimezone(zone).utcoffset() != begin.astimezone(zone).utcoffset()
        fires = CronSim(_RANGE_OF_ONE.sub(r"\1", schedule), (early if changes else begin).astimezone(zone))
        fired = next((one for one in fires if one > begin), None)
    except (CronSimError, KeyError, OSError, ValueError, OverflowError):
        return True
    return fired is not None and fired.astimezone(UTC) <= end


def _words(budget: Budget, nodes: int) -> str:
    which = ", ".join(budget.reasons) or "any flip"
    share = f"{budget.nodes} of {nodes}" if str(budget.nodes).endswith("%") else str(budget.nodes)
    when = f", from {budget.schedule} {budget.time_zone} on" if budget.schedule is not None else ""
    return f"{share} nodes at once for {which}{when}"
