"""Work that may wait: volumes of tokens with deadlines, fitted into capacity that is paid for and idle.

Sets: slots s of 15 minutes (the first is what is left of the present one), volumes j with remaining tokens w[j], a
release r[j] and a deadline d[j].
Parameters: slack[s] >= 0 tokens/s (capacity less planned steady demand), price[s] USD per hour of one token/s more, and
most[s] tokens/s that can be added at all.
Variables: x[j,s] >= 0 tokens/s of volume j in slots that begin at or after r[j] and end by d[j]; e[s] in [0, most[s]]
bought beyond the slack.
Lexicographic objective: most work done in time; then least sum price[s] * e[s].
Subject to sum_j x[j,s] <= slack[s] + e[s] and sum_s x[j,s] * seconds[s] <= w[j].

Volumes and slots are a convex bipartite graph, so serving the earliest deadline first, slot by slot, finishes as much
as any schedule can (Glover 1967). The purchases that let k tokens more be done in time form a polymatroid: taking the
cheapest slots first, each as far as it helps, costs least (Edmonds 1970). Nothing is bought while the slack suffices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tidefleet.planning.slots import SLOT_SECONDS, Array, slot_of

SECONDS_PER_DAY = 86_400.0

NOTHING = 1e-9
"""Share of the work below which what is missing is rounding."""


@dataclass(frozen=True, slots=True)
class Volume:
    """Tokens that may be processed at any time between ``release`` and ``deadline`` (Unix seconds)."""

    name: str
    tokens: float
    deadline: float
    release: float = -math.inf

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tokens) and self.tokens >= 0.0 and math.isfinite(self.deadline)):
            raise ValueError(
                f"Volume {self.name}: tokens is {self.tokens} and deadline {self.deadline}; "
                "expected finite tokens of at least 0 and a time, e.g. 2e9 and 1.8e9"
            )


@dataclass(frozen=True, slots=True, eq=False)
class DeferrablePlan:
    """When volumes are worked off, and what has to be bought for it.

    Attributes:
        first: the first slot, as ``slots.slot_of`` counts.
        seconds: shape (slots,): how long each slot lasts.
        names: the volumes, in the order given.
        rates: tokens/s by volume, shape (volumes, slots).
        extra: tokens/s to add beyond the slack, shape (slots,); all 0 while the slack suffices.
        missing: tokens by volume that cannot be done before the deadline even so.
    """

    first: int
    seconds: Array
    names: tuple[str, ...]
    rates: Array
    extra: Array
    missing: Array

    @property
    def buys(self) -> bool:
        """Whether the slack does not suffice."""
        return bool(self.extra.any())

    @property
    def begins(self) -> float | None:
        """Unix seconds from which more capacity is needed; ``None`` when the slack suffices."""
        bought = np.flatnonzero(self.extra)
        return float((self.first + bought[0]) * SLOT_SECONDS) if len(bought) else None

    def rate_at(self, name: str, now: float) -> float:
        """Tokens/s that volumes ``name`` or ``name/...`` are worked off with at a time (Unix seconds)."""
        at = slot_of(now) - self.first
        if not 0 <= at < len(self.seconds):
            return 0.0
        return float(sum(self.rates[i, at] for i, one in enumerate(self.names) if one.partition("/")[0] == name))

    def extra_at(self, now: float) -> float:
        """Tokens/s to have beyond the steady demand's capacity at a time (Unix seconds)."""
        at = slot_of(now) - self.first
        return float(self.extra[at]) if 0 <= at < len(self.extra) else 0.0


def plan_deferrable(
    volumes: Sequence[Volume],
    slack: Array,
    *,
    now: float,
    prices: Array | None = None,
    most_extra: Array | float = math.inf,
) -> DeferrablePlan:
    """Volumes fitted into the slack, earliest deadline first; capacity is bought only where the slack does not suffice.

    Args:
        volumes: what is left of each.
        slack: tokens/s that are idle, one value per slot from the one that ``now`` (Unix seconds) is in.
        prices: USD per hour of one token/s more, by slot; among equal prices the earlier slot is taken.
        most_extra: most tokens/s that can be added, in all slots or by slot.

    Raises:
        ValueError: a slack, price or limit is negative or not a number, or lengths differ.
    """
    slots = len(slack)
    prices = np.ones(slots) if prices is None else prices
    most = np.broadcast_to(np.asarray(most_extra, dtype=np.float64), (slots,))
    if not (np.isfinite(slack).all() and (slack >= 0).all()):
        raise ValueError("plan_deferrable: slack holds a negative or no number; expected tokens/s of at least 0")
    if len(prices) != slots or not (np.isfinite(prices).all() and (prices >= 0).all()) or not (most >= 0).all():
        raise ValueError("plan_deferrable: expected prices and limits of at least 0, one for each slot of the slack")
    first = slot_of(now)
    seconds = np.full(slots, SLOT_SECONDS)
    if slots:
        seconds[0] = (first + 1) * SLOT_SECONDS - now
    windows = [_window(one, now, first, slots) for one in volumes]
    tokens = [one.tokens for one in volumes]
    enough = NOTHING * max(1.0, sum(tokens))
    room = slack * seconds
    served = _earliest_first(tokens, windows, room)
    extra = np.zeros(slots)
    total = float(served.sum())
    wanted = sum(tokens)
    end = max((window[1] for window in windows), default=0)
    for slot in np.argsort(prices, kind="stable"):
        if total >= wanted - enough:
            break
        if slot >= end:
            continue  # nothing is due by then that could be done there
        limit = most[slot] * seconds[slot] if math.isfinite(most[slot]) else wanted
        more = room.copy()
        more[slot] += min(limit, wanted - total)
        trial = _earliest_first(tokens, windows, more)
        gained = float(trial.sum()) - total
        if gained <= enough:
            continue
        room[slot] += gained
        extra[slot] = gained / seconds[slot]
        served = trial if gained >= min(limit, wanted - total) - enough else _earliest_first(tokens, windows, room)
        total = float(served.sum())
    missing = np.maximum(0.0, np.asarray(tokens) - served.sum(axis=1)) if volumes else np.zeros(0)
    missing[missing <= enough] = 0.0
    return DeferrablePlan(first, seconds, tuple(one.name for one in volumes), served / seconds, extra, missing)


def _window(volume: Volume, now: float, first: int, slots: int) -> tuple[int, int]:
    """The slots of a volume: those that begin after its release (the present one counts) and end by its deadline.

    Where there is none, but time all the same, those that this time lies in.
    """
    begin = 0 if volume.release <= now else math.ceil(volume.release / SLOT_SECONDS) - first
    end = math.floor(volume.deadline / SLOT_SECONDS) - first
    opens = max(now, volume.release)
    if end <= begin and volume.deadline > opens:
        begin, end = slot_of(opens) - first, math.ceil(volume.deadline / SLOT_SECONDS) - first
    return max(0, begin), min(slots, end)


def _earliest_first(tokens: Sequence[float], windows: Sequence[tuple[int, int]], room: Array) -> Array:
    """Tokens of each volume done in each slot, shape (volumes, slots), the earliest deadline first in every slot."""
    served = np.zeros((len(tokens), len(room)))
    left = list(tokens)
    order = sorted(range(len(tokens)), key=lambda j: windows[j][1])
    end = max((window[1] for window in windows), default=0)
    for slot in range(max(0, end)):
        free = float(room[slot])
        for j in order:
            if free <= 0.0:
                break
            if left[j] > 0.0 and windows[j][0] <= slot < windows[j][1]:
                done = min(free, left[j])
                served[j, slot] = done
                left[j] -= done
                free -= done
    return served


def fewest_units(
    volumes: Sequence[Volume],
    slack: Array,
    *,
    now: float,
    unit: float,
    most: int | Sequence[int],
    prices: Array | None = None,
) -> tuple[DeferrablePlan, int]:
    """The plan with the fewest whole units (replicas) of ``unit`` tokens/s added at a time, and how many those are.

    Capacity comes in replicas that stay for a while: a thin addition over hours beats all of it in one slot. Where even
    ``most`` units do not do all in time, the fewest that do as much as these; the plan says what is missing.

    Args:
        most: units that can be added, in every slot or by slot (where a peak leaves no room, a night may).
    """
    rooms = np.maximum(0, np.broadcast_to(np.asarray(most, dtype=np.int64), (len(slack),)))
    plan = plan_deferrable(volumes, slack, now=now, prices=prices, most_extra=0.0)
    if not plan.missing.any() or not rooms.any():
        return plan, 0
    windows = [_window(one, now, plan.first, len(slack)) for one in volumes]
    tokens = [one.tokens for one in volumes]
    enough = NOTHING * max(1.0, sum(tokens))

    def done(units: int) -> float:
        served = _earliest_first(tokens, windows, (slack + np.minimum(units, rooms) * unit) * plan.seconds)
        return float(served.sum())

    low, high = 0, int(rooms.max())
    wanted = done(high) - enough
    if done(0) >= wanted:
        return plan, 0  # what is missing, no unit would do
    while high - low > 1:
        middle = (low + high) // 2
        if done(middle) >= wanted:
            high = middle
        else:
            low = middle
    return plan_deferrable(volumes, slack, now=now, prices=prices, most_extra=np.minimum(high, rooms) * unit), high


def daily_volumes(
    name: str, tokens_per_day: float, deadline_seconds: float, *, now: float, horizon: float, done: Mapping[int, float]
) -> tuple[Volume, ...]:
    """The volumes of a class that asks for so many tokens each day, released at midnight UTC.

    Args:
        deadline_seconds: how long after its release a day's volume must be done.
        horizon: seconds from ``now`` that are planned; of a volume that is due later only the share that time has.
        done: tokens observed to be done, by day of release (days since 1970); they are subtracted, never below 0.
    """
    today = math.floor(now / SECONDS_PER_DAY)
    end = math.floor((now + horizon) / SLOT_SECONDS) * SLOT_SECONDS  # a part of a slot holds no work
    found = []
    earliest = math.floor((now - deadline_seconds) / SECONDS_PER_DAY)
    for day in range(earliest, math.floor(end / SECONDS_PER_DAY) + 1):
        release = day * SECONDS_PER_DAY
        deadline = release + deadline_seconds
        left = max(0.0, tokens_per_day - max(0.0, done.get(day, 0.0)))
        begin = max(now, release)
        if deadline <= now or not left or (day > today and begin >= end):
            continue
        if deadline > end:
            left *= (end - begin) / (deadline - begin)
            deadline = end
        found.append(Volume(f"{name}/{day}", left, deadline, release))
    return tuple(found)
