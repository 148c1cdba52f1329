"""Every way to have capacity from one month to another, as arcs over time, with the cash that each moves.

An arc (i, j) is capacity for one token a month in the months i + 1 to j. Buying, committing, renting and paying by the
token all become arcs, so types compete by what an arc costs per token, and a way that another beats on the same months
is left out: no solution needs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tidefleet.economics.investment import discount_factors
from tidefleet.planning.capacity.market import ChipType, Floats, Market, Purchase

Ints = NDArray[np.int64]

FLOWS = ("capex", "sale", "running", "reserved", "rent", "external", "depreciation")
"""Kinds of cash flow, USD by month; ``sale`` is earned, ``depreciation`` is no cash: what purchase and sale differ by,
spread over the months of service."""

_CASH_SIGN = np.array([1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 0.0])


@dataclass(frozen=True, slots=True)
class Way:
    """What an arc is: ``action`` is Buy, Own, Reserve, Rent or External, ``name`` the type or offer."""

    action: str
    name: str
    ordered: int
    term_months: int = 0
    chips_per_order: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Arcs:
    """Arcs side by side.

    Attributes:
        way: index into ``ways``, one per arc.
        start, end: the points between which each serves.
        chips: chips per token a month; 0 for tokens bought as such.
        flows: USD per token a month of capacity, shape (arcs, flows, months + 1).
        cost: what the flows cost today, USD per token a month of capacity.
    """

    ways: tuple[Way, ...]
    way: Ints
    start: Ints
    end: Ints
    chips: Floats
    flows: Floats
    cost: Floats

    def __len__(self) -> int:
        return len(self.way)

    def of(self, keep: Sequence[int] | Ints) -> Arcs:
        """These arcs only."""
        at = np.asarray(keep, dtype=np.int64)
        return Arcs(
            self.ways, self.way[at], self.start[at], self.end[at], self.chips[at], self.flows[at], self.cost[at]
        )


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A purchase whose end is still open, or chips that are owned: an order, then one of the ends.

    Attributes:
        order: flows of the order alone, shape (flows, months + 1), per token a month of capacity.
        order_cost: the same today.
        ends: an arc from service to each possible sale, with the flows after the order.
        held: capacity that is there already; ``None``: to be decided.
    """

    way: Way
    chips: float
    order: Floats
    order_cost: float
    ends: Arcs
    held: float | None = None


@dataclass(slots=True)
class _Collector:
    """Puts arcs together one by one."""

    months: int
    discount: Floats
    ways: list[Way] = field(default_factory=list)
    rows: list[tuple[int, int, int, float]] = field(default_factory=list)
    flows: list[Floats] = field(default_factory=list)

    def add(self, way: Way, start: int, end: int, chips: float, flows: Floats) -> None:
        if not self.ways or self.ways[-1] is not way:
            self.ways.append(way)
        self.rows.append((len(self.ways) - 1, start, end, chips))
        self.flows.append(flows)

    def arcs(self) -> Arcs:
        flows = np.stack(self.flows) if self.flows else np.zeros((0, len(FLOWS), self.months + 1))
        columns = [np.array([row[i] for row in self.rows]) for i in range(4)]
        way, start, end = (one.astype(np.int64) for one in columns[:3])
        return Arcs(
            tuple(self.ways), way, start, end, columns[3].astype(np.float64), flows, value_today(flows, self.discount)
        )


def value_today(flows: Floats, discount: Floats) -> Floats:
    """What flows of shape (..., flows, months + 1) cost today."""
    return np.asarray(np.einsum("...ft,f,t->...", flows, _CASH_SIGN, discount), dtype=np.float64)


def _blank(months: int) -> Floats:
    return np.zeros((len(FLOWS), months + 1))


def _at(today: float, decline: float, point: int) -> float:
    return today * math.pow(1.0 - decline, point / 12.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Owning:
    """A chip from an order, or from today, to each point at which it may be sold: ``prices`` from ``start`` on, USD."""

    kind: ChipType
    way: Way
    start: int
    paid: float
    prices: Floats
    running: float
    bought: bool

    def costs(self, discount: Floats) -> Floats:
        """USD today per token a month, for each end."""
        run = np.concatenate(([0.0], np.cumsum(discount)))
        months = run[self.start + 1 : len(discount) + 1] - run[self.start + 1]
        paid = self.paid * discount[self.way.ordered] if self.bought else 0.0
        usd = paid + self.running * months - self.prices * discount[self.start :]
        return np.asarray(usd / self.kind.tokens_per_chip_month)

    def order(self, months: int) -> Floats:
        """Flows of the order alone, USD per token a month."""
        flows = _blank(months)
        if self.bought:
            flows[0, self.way.ordered] = self.paid / self.kind.tokens_per_chip_month
        return flows

    def ending(self, end: int, months: int) -> Floats:
        """Flows after the order where the chip is sold at a point."""
        flows, price = _blank(months), float(self.prices[end - self.start])
        flows[1, end] = price
        flows[2, self.start + 1 : end + 1] = self.running
        lost = self.paid - price
        if end > self.start:
            flows[6, self.start + 1 : end + 1] = lost / (end - self.start)
        else:
            flows[6, end] = lost
        return flows / self.kind.tokens_per_chip_month


def _purchase(market: Market, kind: ChipType, point: int) -> _Owning | None:
    own = kind.purchase
    if own is None or not kind.purchasable or point < kind.from_month or point + own.lead_months >= market.months:
        return None
    paid, start = _at(own.usd_per_chip, own.price_decline_per_year, point), point + own.lead_months
    way = Way("Buy", kind.name, point, chips_per_order=kind.chips_per_order)
    prices = sale_prices(kind, own, paid, start, market.months)
    return _Owning(kind, way, start, paid, prices, own.running_usd_per_chip_month, True)


def _holding(market: Market, kind: ChipType) -> _Owning | None:
    if kind.holding is None or kind.holding.chips <= 0:
        return None
    worth = kind.holding.worth_usd_per_chip
    own = kind.purchase or Purchase(usd_per_chip=worth)
    prices = sale_prices(kind, own, worth, 0, market.months)
    return _Owning(kind, Way("Own", kind.name, 0), 0, worth, prices, own.running_usd_per_chip_month, False)


def sale_prices(kind: ChipType, own: Purchase, paid: float, start: int, months: int) -> Floats:
    """USD for a used chip at each point from its service on: its worth by age, less what selling costs.

    Nobody pays more for it than for a new one.

    Args:
        paid: what the residual is a share of.
    """
    points = np.arange(start, months + 1)
    new = own.usd_per_chip * np.power(1.0 - own.price_decline_per_year, points / 12.0)
    worth = np.minimum(paid * own.residual.share(points - start), new)
    if kind.superseded_at is not None:
        worth = np.where(points >= kind.superseded_at, worth * (1.0 - kind.superseded_loss_share), worth)
    return np.asarray(worth * (1.0 - own.selling_cost_share))


def groups(market: Market, points: Sequence[int]) -> list[Group]:
    """Purchases ordered at these points, each with all its ends, and what is owned; dominated purchases left out.

    A purchase is dominated when another, in service from the same point, costs no more whenever either is sold.
    """
    discount = discount_factors(market.discount_per_year, market.months)
    found = [
        (one.costs(discount), one)
        for kind in market.types
        for point in points
        if (one := _purchase(market, kind, point)) is not None
    ]
    kept: list[tuple[Floats, _Owning]] = []
    for costs, one in sorted(found, key=lambda pair: (pair[0][-1], -pair[1].way.ordered)):
        if not any(other.start == one.start and (cheaper <= costs).all() for cheaper, other in kept):
            kept.append((costs, one))
    return [*(_group(market, one) for _, one in kept), *owned(market)]


def owned(market: Market) -> list[Group]:
    """The chips that are owned already, by type."""
    return [_group(market, one) for kind in market.types if (one := _holding(market, kind)) is not None]


def worth_of_holdings(market: Market) -> float:
    """What the chips that are owned would fetch today, USD."""
    found = [(kind, _holding(market, kind)) for kind in market.types]
    return float(sum(kind.holding.chips * one.prices[0] for kind, one in found if kind.holding and one is not None))


def _group(market: Market, one: _Owning) -> Group:
    discount = discount_factors(market.discount_per_year, market.months)
    chips, order = 1.0 / one.kind.tokens_per_chip_month, one.order(market.months)
    ends = _Collector(market.months, discount)
    for end in range(one.start, market.months + 1):
        ends.add(one.way, one.start, end, chips, one.ending(end, market.months))
    held = None if one.bought or one.kind.holding is None else one.kind.holding.chips / chips
    return Group(one.way, chips, order, float(value_today(order, discount)), ends.arcs(), held)


def commitments(market: Market, points: Sequence[int]) -> Arcs:
    """Commitments begun at these points that end within the horizon, the cheapest for the same months."""
    collector = _Collector(market.months, discount_factors(market.discount_per_year, market.months))
    for kind in market.types:
        chips = 1.0 / kind.tokens_per_chip_month
        for term in kind.terms:
            for point in points:
                end = point + term.months
                if point < kind.from_month or end > market.months:
                    continue
                flows = _blank(market.months)
                flows[3, point + 1 : end + 1] = _at(term.usd_per_chip_month, kind.price_decline_per_year, point)
                way = Way("Reserve", kind.name, point, term.months, kind.chips_per_order)
                collector.add(way, point, end, chips, flows * chips)
    return _cheapest(collector.arcs())


def month_by_month(market: Market) -> Arcs:
    """What can be had for a single month: rent and tokens bought as such, the cheapest of each month."""
    collector = _Collector(market.months, discount_factors(market.discount_per_year, market.months))
    for kind in market.types:
        if kind.rent_usd_per_chip_month is None:
            continue
        chips = 1.0 / kind.tokens_per_chip_month
        for point in range(kind.from_month, market.months):
            flows = _blank(market.months)
            flows[4, point + 1] = _at(kind.rent_usd_per_chip_month, kind.price_decline_per_year, point)
            collector.add(Way("Rent", kind.name, point), point, point + 1, chips, flows * chips)
    for offer in market.offers:
        for point in range(offer.from_month, market.months):
            flows = _blank(market.months)
            flows[5 if offer.action == "External" else 4, point + 1] = (
                _at(offer.usd_per_million_tokens, offer.price_decline_per_year, point) / 1e6
            )
            collector.add(Way(offer.action, offer.name, point), point, point + 1, 0.0, flows)
    return _cheapest(collector.arcs())


def orders_known(market: Market, points: Sequence[int]) -> Arcs:
    """Purchases and commitments ordered at these points with their end chosen along with them."""
    collector = _Collector(market.months, discount_factors(market.discount_per_year, market.months))
    whole = commitments(market, points)
    for i in range(len(whole)):
        way = whole.ways[whole.way[i]]
        collector.add(way, int(whole.start[i]), int(whole.end[i]), float(whole.chips[i]), whole.flows[i])
    discount = discount_factors(market.discount_per_year, market.months)
    best: dict[tuple[int, int], tuple[float, _Owning]] = {}
    for kind in market.types:
        for point in points:
            if (one := _purchase(market, kind, point)) is not None:
                for end, cost in enumerate(one.costs(discount).tolist(), start=one.start):
                    if end > one.start and ((one.start, end) not in best or cost < best[one.start, end][0]):
                        best[one.start, end] = (cost, one)
    for (_, end), (_, one) in best.items():
        collector.add(one.way, one.start, end, 1.0 / one.kind.tokens_per_chip_month,
                      one.order(market.months) + one.ending(end, market.months))  # fmt: skip
    return _cheapest(collector.arcs())


def _cheapest(arcs: Arcs) -> Arcs:
    """The cheapest arc of each pair of points; the first of equals."""
    order = np.lexsort((np.arange(len(arcs)), arcs.cost, arcs.end, arcs.start))
    pairs = arcs.start[order] * 100_000 + arcs.end[order]
    fresh = np.concatenate(([True], np.diff(pairs) != 0)) if len(order) else np.zeros(0, dtype=np.bool_)
    return arcs.of(np.sort(order[fresh]))


def joined(first: Arcs, second: Arcs) -> Arcs:
    """Both, without arcs that a row of others covers for no more, or that a longer one does."""
    ways = (*first.ways, *second.ways)
    both = Arcs(
        ways,
        np.concatenate((first.way, second.way + len(first.ways))),
        np.concatenate((first.start, second.start)),
        np.concatenate((first.end, second.end)),
        np.concatenate((first.chips, second.chips)),
        np.concatenate((first.flows, second.flows)),
        np.concatenate((first.cost, second.cost)),
    )
    both = _cheapest(both)
    if not len(both):
        return both
    points = int(both.end.max()) + 1
    least = np.full((points, points), np.inf)
    least[both.start, both.end] = both.cost
    np.fill_diagonal(least, 0.0)
    for middle in range(points):
        np.minimum(least, least[:, middle, None] + least[None, middle, :], out=least)
    # What covers more months at no more cost will do as well: from earlier, or to later.
    wide = np.minimum.accumulate(least, axis=0)
    wide = np.minimum.accumulate(wide[:, ::-1], axis=1)[:, ::-1]
    return both.of(np.flatnonzero(both.cost <= wide[both.start, both.end] * (1.0 + 1e-12)))
