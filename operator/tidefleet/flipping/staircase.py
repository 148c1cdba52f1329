"""The loan schedule of one kind of node: exact, without a solver.

Sets: slots t of equal length h; layers j = 1..N of the nodes.
Parameters: n[t] nodes that serving needs (the highest of [t, t + lead], plus the reserve); N nodes; K the most nodes
  that change sides between two slots; x[-1] nodes on loan before the first slot; w = g*V*h USD, what training on a node
  is worth in a slot; c USD, what a round trip costs; M the shortest loan.
Variables: x[t] whole, nodes on loan; layer j is on loan where x[t] >= j.
Maximise w * sum_t x[t] - c * sum_t max(0, x[t] - x[t-1])
Subject to 0 <= x[t] <= N - n[t] where loans are allowed, else x[t] = 0;  |x[t] - x[t-1]| <= K;
  each layer's loan lasts at least M.

The largest x that keeps to the limits and to the step is u[t] = min(x[-1] + K*(t+1), min_s (N - n[s]) + K*|t-s|), and
no other feasible x exceeds it anywhere. The objective and the shortest loan speak of each layer alone; in layer j the
best is every interval of {t: u[t] >= j} that is worth more than c and lasts M. Those choices nest (an interval lies in
one of the layer below), and their sum is u opened by a flat element, which keeps u's step: so the layers' optima
together are the optimum. What is on loan already stays as long as u lets it: its way out is paid, its way back is due
in any case.

Serving comes before the step: where the need rises faster than K lets nodes come home, u falls early enough, and only
what is on loan before the first slot can be too much; that comes home at once (``forced``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidefleet.flipping.value import Worth

HOUR = 3600.0

STEP_SHARE = 0.2
"""Share of the nodes that may change sides between two slots; DeepSeek's own day has steps of up to 21.6 %."""

ROUND_TRIPS = 10.0
"""A loan shorter than so many round trips is not worth its unrest."""

Ints = NDArray[np.int64]


def lead_slots(recall_seconds: float, slot_seconds: float = 900.0) -> int:
    """How far ahead of a need nodes are called home: the slots of a recall, and one more.

    A slot is planned by its mean, and its demand may come at its beginning: the slot before it is the room for that.

    Args:
        recall_seconds: from a node's recall until it serves.
    """
    return math.ceil(recall_seconds / slot_seconds) + 1


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms nodes of one kind are loaned.

    Attributes:
        slot_seconds: length of a slot.
        usd_per_node_hour: g*V, what training on one node is worth in an hour; ``None`` where nobody says (a loan is
            then judged by its length alone, and its worth told as 0).
        flip_usd: c, what one round trip of a node costs.
        round_trip_seconds: that a round trip takes.
        lead_slots: how far ahead of a need its nodes are back.
        reserve: nodes kept above the need.
        step_share: K over the nodes; K is at least 1.
        round_trips: a loan lasts at least so many round trips.

    Raises:
        ValueError: a number is not finite, or out of its range.
    """

    slot_seconds: float = 900.0
    usd_per_node_hour: float | None = None
    flip_usd: float = 0.0
    round_trip_seconds: float = 360.0
    lead_slots: int = 1
    reserve: int = 1
    step_share: float = STEP_SHARE
    round_trips: float = ROUND_TRIPS

    def __post_init__(self) -> None:
        limits = (
            ("slot_seconds", self.slot_seconds, self.slot_seconds > 0, "a positive number of seconds, e.g. 900"),
            ("flip_usd", self.flip_usd, self.flip_usd >= 0, "an amount of USD of at least 0, e.g. 1.40"),
            (
                "round_trip_seconds",
                self.round_trip_seconds,
                self.round_trip_seconds >= 0,
                "seconds from 0 on, e.g. 360",
            ),
            ("lead_slots", self.lead_slots, self.lead_slots >= 0, "a number of slots from 0 on, e.g. 1"),
            ("reserve", self.reserve, self.reserve >= 0, "a number of nodes from 0 on, e.g. 1"),
            ("step_share", self.step_share, 0 <= self.step_share <= 1, "a share from 0 to 1, e.g. 0.2"),
            ("round_trips", self.round_trips, self.round_trips >= 0, "a number from 0 on, e.g. 10"),
        )
        for name, value, holds, expected in limits:
            if not (math.isfinite(value) and holds):
                raise ValueError(f"Terms: {name} is {value}; expected {expected}")
        worth = self.usd_per_node_hour
        if worth is not None and not (math.isfinite(worth) and worth >= 0):
            raise ValueError(f"Terms: usd_per_node_hour is {worth}; expected USD of at least 0, e.g. 8.80")

    def step(self, nodes: int) -> int:
        """K: the most nodes that change sides between two slots."""
        return max(1, math.floor(self.step_share * nodes + 1e-9))

    @property
    def shortest_slots(self) -> float:
        """M in slots."""
        return self.round_trips * self.round_trip_seconds / self.slot_seconds


@dataclass(frozen=True, slots=True)
class Interval:
    """Layers that could be away together: from the beginning of slot ``begin`` to that of slot ``end``.

    Attributes:
        layers: (first, last) of the layers, counted from 1.
        worth: of all its nodes together.
        ongoing: on loan already when the schedule begins, so that its way out is not counted as a flip.
        rejected: why it is not loaned, in words; empty for a loan.
    """

    layers: tuple[int, int]
    begin: int
    end: int
    worth: Worth
    ongoing: bool = False
    rejected: str = ""

    @property
    def nodes(self) -> int:
        """How many nodes it is about."""
        return self.layers[1] - self.layers[0] + 1

    @property
    def slots(self) -> int:
        """Its length."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Staircase:
    """The loan schedule of one kind of node.

    Attributes:
        nodes: that there are.
        loans: nodes on loan, per slot.
        needed: nodes that serving keeps per slot, lead and reserve included, at most ``nodes``.
        intervals: the loans by layers, from the first layer on.
        rejected: what could have been loaned but is not worth it or too short.
        short_slots: slots in which serving needs more than all nodes.
        forced: nodes that come home before the first slot, beyond the step, because serving needs them.
        slot_seconds: length of a slot.
        round_trip_seconds: that each flip costs.
    """

    nodes: int
    loans: tuple[int, ...]
    needed: tuple[int, ...]
    intervals: tuple[Interval, ...]
    rejected: tuple[Interval, ...]
    short_slots: int
    forced: int
    slot_seconds: float
    round_trip_seconds: float

    @property
    def freed_node_hours(self) -> float:
        """Node-hours on loan."""
        return sum(self.loans) * self.slot_seconds / HOUR

    @property
    def freed_ratio(self) -> float:
        """Share of all node-hours that is on loan; 0 without any."""
        all_slots = self.nodes * len(self.loans)
        return sum(self.loans) / all_slots if all_slots else 0.0

    @property
    def flips(self) -> int:
        """Nodes that leave for a loan, each of which is one round trip; those away already are not counted."""
        return sum(one.nodes for one in self.intervals if not one.ongoing)

    @property
    def overhead_ratio(self) -> float:
        """Node-hours lost in round trips over those on loan; 0 without a loan."""
        freed = self.freed_node_hours
        return self.flips * self.round_trip_seconds / HOUR / freed if freed else 0.0

    @property
    def worth(self) -> Worth:
        """Both sides of all loans."""
        return Worth(
            sum(one.worth.saves_usd for one in self.intervals), sum(one.worth.costs_usd for one in self.intervals)
        )

    @property
    def net_usd(self) -> float:
        """What the loans earn less what their flips cost."""
        return self.worth.net_usd


def schedule(
    needed: Sequence[float],
    *,
    nodes: int,
    terms: Terms,
    on_loan: int = 0,
    allowed: Sequence[bool] | None = None,
) -> Staircase:
    """The best loans of one kind of node over the slots.

    Args:
        needed: nodes that serving needs, per slot, lead and reserve not included. What nobody knows (NaN, infinite or
            negative) counts as all nodes, and so does more than there are.
        nodes: that there are, those on loan included.
        terms: lead, reserve, step, worth and cost.
        on_loan: nodes away before the first slot.
        allowed: per slot, whether loans are allowed in the whole of it; absent: in all.

    Returns:
        The schedule. Without slots or without nodes it has no loan.

    Raises:
        ValueError: nodes or on_loan is negative, on_loan is above nodes, or allowed has another length than needed.
    """
    if nodes < 0:
        raise ValueError(f"nodes is {nodes}; expected a number from 0 on, e.g. 278")
    if not 0 <= on_loan <= nodes:
        raise ValueError(f"on_loan is {on_loan}; expected a number from 0 to the {nodes} nodes, e.g. 0")
    if allowed is not None and len(allowed) != len(needed):
        raise ValueError(f"allowed has {len(allowed)} slots; expected the {len(needed)} of needed")
    kept, short = kept_nodes(needed, nodes=nodes, lead_slots=terms.lead_slots, reserve=terms.reserve)
    surplus = nodes - kept
    if allowed is not None:
        surplus = np.where(np.asarray(allowed, dtype=np.bool_), surplus, 0)
    step = terms.step(nodes)
    most = envelope(surplus, step=step, on_loan=on_loan)
    loans: list[Interval] = []
    rejected: list[Interval] = []
    for first, last, begin, end in layers(most):
        for piece in _pieces(first, last, begin, end, on_loan=on_loan, terms=terms):
            (rejected if piece.rejected else loans).append(piece)
    away = np.zeros(len(most) + 1, dtype=np.int64)
    for one in loans:
        away[one.begin] += one.nodes
        away[one.end] -= one.nodes
    return Staircase(
        nodes=nodes,
        loans=tuple(np.cumsum(away)[:-1].tolist()),
        needed=tuple(kept.tolist()),
        intervals=tuple(sorted(loans, key=lambda one: (one.layers, one.begin))),
        rejected=tuple(sorted(rejected, key=lambda one: (one.layers, one.begin))),
        short_slots=short,
        forced=max(0, on_loan - step - int(most[0])) if len(most) else 0,
        slot_seconds=terms.slot_seconds,
        round_trip_seconds=terms.round_trip_seconds,
    )


def kept_nodes(needed: Sequence[float], *, nodes: int, lead_slots: int, reserve: int) -> tuple[Ints, int]:
    """Nodes that serving keeps per slot: the highest need of the slot and the lead after it, plus the reserve.

    Beyond the last slot the need is taken to be no higher than in it. A need that nobody knows is all nodes.

    Returns:
        Shape (slots,), whole, at most ``nodes``; and in how many slots more would be needed than there are.
    """
    need = np.array(needed, dtype=np.float64).reshape(-1)
    known = np.isfinite(need) & (need >= 0)
    highest = np.where(known, need, float(nodes))
    for lead in range(1, min(lead_slots, len(need) - 1) + 1):
        ahead = np.where(known, need, float(nodes))[lead:]
        highest[:-lead] = np.maximum(highest[:-lead], ahead)
    short = int(np.count_nonzero(known & (need > nodes)))
    return np.ceil(np.clip(highest + reserve, 0, nodes) - 1e-9).astype(np.int64), short


def envelope(surplus: Ints, *, step: int, on_loan: int) -> Ints:
    """u: the most nodes that can be away in each slot without breaking the step on the way there or back home.

    Args:
        surplus: nodes that may be away, shape (slots,).
        step: most nodes that change sides between two slots.
        on_loan: nodes away before the first slot.
    """
    slots = np.arange(len(surplus), dtype=np.int64)
    rising = np.minimum.accumulate(np.minimum(surplus, on_loan + step * (slots + 1)) - step * slots) + step * slots
    back = (rising + step * slots)[::-1]
    return np.asarray(np.minimum.accumulate(back)[::-1] - step * slots)


def layers(most: Ints) -> Iterator[tuple[int, int, int, int]]:
    """Maximal intervals of {t: most[t] >= j}, layers with the same interval together.

    Yields:
        (first layer, last layer, begin, end): whole numbers, layers from 1, ``end`` excluded.
    """
    stack: list[tuple[int, int]] = []  # (layers below, begin) of the intervals that are open
    height = 0
    for slot, value in enumerate([*most.tolist(), 0]):
        while height > value:
            below, begin = stack.pop()
            yield max(below, value) + 1, height, begin, slot
            if below < value:
                stack.append((below, begin))
            height = max(below, value)
        if value > height:
            stack.append((height, slot))
            height = value


def _pieces(first: int, last: int, begin: int, end: int, *, on_loan: int, terms: Terms) -> Iterator[Interval]:
    """An interval judged, those of its layers that are away already apart from the others."""
    away = min(last, on_loan) if begin == 0 else 0
    if away >= first:
        yield _judged(first, away, begin, end, terms=terms, ongoing=True)
        first = away + 1
    if first <= last:
        yield _judged(first, last, begin, end, terms=terms, ongoing=False)


def _judged(first: int, last: int, begin: int, end: int, *, terms: Terms, ongoing: bool) -> Interval:
    nodes, slots = last - first + 1, end - begin
    hours = slots * terms.slot_seconds / HOUR
    value = terms.usd_per_node_hour
    worth = Worth((value or 0.0) * hours * nodes, 0.0 if ongoing else float(terms.flip_usd) * nodes)
    rejected = ""
    if not ongoing:
        shortest = terms.shortest_slots * terms.slot_seconds / HOUR
        if value is not None and not worth.holds:
            rejected = f"{hours:.2f} h of {nodes} nodes: {worth.words}"
        elif hours < shortest - 1e-9:
            trips = f"{terms.round_trips:g} round trips"
            rejected = f"{hours:.2f} h of {nodes} nodes: shorter than {trips}, {shortest:.2f} h"
    return Interval((first, last), begin, end, worth, ongoing, rejected)
