"""The two-stage linear program: orders before it is known which scenario comes, and everything after.

Sets: months m, scenarios s with probability p, arcs a from point i_a to j_a, groups g of purchases with ends e.
Parameters: D_sm tokens; c_a, c_g, c_ge USD today per token a month.
Variables, in tokens a month of capacity: x_g ordered; y_a committed and y_ge sold before it is known, alike in all
scenarios; v_as and z_ges from then on; w_sm idle.
    min  sum c_g x_g + sum c_a y_a + sum c_ge y_ge + sum_s p_s (sum c_a v_as + sum c_ge z_ges)
    (1)  sum of all that serves in m  -  w_sm = D_sm             for each s, m
    (2)  sum_e y_ge + sum_e z_ges = x_g                          for each g, s
(1) is written as the difference to the month before, so an arc has two entries, where it begins and where it ends: a
network, whose answers are whole where its demands are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidefleet.planning.capacity.arcs import Arcs, Group
from tidefleet.planning.capacity.market import Demand, Floats
from tidefleet.planning.fleet.matrix import Builder, Ints
from tidefleet.planning.fleet.solver import Answer, solve

_IDLE = 1e-9


class NoCapacity(ValueError):
    """Demand that nothing can serve, or a program that could not be solved; the message tells."""


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """What may be done.

    Attributes:
        groups: purchases to be decided before it is known which scenario comes, and what is owned.
        shared: commitments to be decided then.
        recourse: arcs that each scenario has to itself.
        known_from: point from which sales may differ between scenarios.
    """

    groups: Sequence[Group]
    shared: Arcs
    recourse: Arcs
    known_from: int


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """What is done, in tokens a month of capacity.

    Attributes:
        options: what the indices mean.
        ordered: x, one per group.
        committed: y, one per shared arc.
        ended: capacity of a group that ends with an end, in each scenario: one (scenarios, ends) per group.
        recourse: v, shape (scenarios, arcs).
        bound: no plan of this kind costs less, USD today.
    """

    options: Options
    ordered: Floats
    committed: Floats
    ended: tuple[Floats, ...]
    recourse: Floats
    bound: float

    @property
    def costs(self) -> Floats:
        """USD today in each scenario."""
        fixed = sum(group.order_cost * x for group, x in zip(self.options.groups, self.ordered, strict=True))
        fixed += float(self.options.shared.cost @ self.committed)
        later = self.recourse @ self.options.recourse.cost
        for group, ends in zip(self.options.groups, self.ended, strict=True):
            later = later + ends @ group.ends.cost
        return np.asarray(fixed + later, dtype=np.float64)

    def flows(self) -> Floats:
        """USD by scenario, kind of flow and month: shape (scenarios, flows, months + 1)."""
        arcs = self.options.recourse
        flows = np.tensordot(self.recourse, arcs.flows, 1)
        flows = flows + np.tensordot(self.committed, self.options.shared.flows, 1)
        for group, x, ends in zip(self.options.groups, self.ordered, self.ended, strict=True):
            flows = flows + x * group.order + np.tensordot(ends, group.ends.flows, 1)
        return np.asarray(flows, dtype=np.float64)


def program(options: Options, demand: Demand, *, fixed: tuple[Floats, Floats] | None = None) -> Solution:
    """The cheapest plan.

    Args:
        fixed: groups' orders and shared commitments that are decided already.

    Raises:
        NoCapacity: some demand cannot be met in any way.
    """
    months, count = demand.tokens.shape[1], len(demand.probability)
    _coverable(options, demand)
    scale = float(demand.tokens.max()) or 1.0
    scale = max([scale, *(group.held for group in options.groups if group.held is not None)])
    build = Builder()
    rows = build.add_rows(
        count * months,
        lower=(np.diff(demand.tokens, axis=1, prepend=0.0) / scale).ravel(),
        upper=(np.diff(demand.tokens, axis=1, prepend=0.0) / scale).ravel(),
    ).reshape(count, months)
    # Costs are scaled to about 1 too, so that the solver's tolerances mean the same for every book.
    unit = float(np.median(options.recourse.cost)) if len(options.recourse) else 1.0
    unit = unit if unit > 0.0 else 1.0
    weight = np.asarray(demand.probability)

    def covering(columns: Ints, arcs: Arcs, of: Ints) -> None:
        """Entries of arcs in the rows of scenarios: columns has one per arc, or one per scenario and arc."""
        first = rows[of][:, np.minimum(arcs.start, months - 1)]
        build.add_entries(first, columns, np.where(arcs.start < arcs.end, 1.0, 0.0))
        after = rows[of][:, np.minimum(arcs.end, months - 1)]
        build.add_entries(after, columns, np.where((arcs.end < months) & (arcs.start < arcs.end), -1.0, 0.0))

    everyone = np.arange(count)
    held = np.array([np.nan if group.held is None else group.held / scale for group in options.groups])
    lower = np.where(np.isnan(held), 0.0, held)
    upper = np.where(np.isnan(held), np.inf, held)
    shared_bounds: tuple[Floats, Floats] = (np.zeros(len(options.shared)), np.full(len(options.shared), np.inf))
    if fixed is not None:
        lower = upper = fixed[0] / scale
        shared_bounds = (fixed[1] / scale, fixed[1] / scale)
    ordered = build.add_columns(
        len(options.groups),
        cost=np.array([group.order_cost for group in options.groups]) / unit,
        lower=lower,
        upper=upper,
    )
    committed = build.add_columns(
        len(options.shared), cost=options.shared.cost / unit, lower=shared_bounds[0], upper=shared_bounds[1]
    )
    covering(np.broadcast_to(committed, (count, len(committed))), options.shared, everyone)
    ends: list[tuple[Ints, Ints, Ints, Ints]] = []
    for index, group in enumerate(options.groups):
        before = np.flatnonzero(group.ends.end < options.known_from)
        after = np.flatnonzero(group.ends.end >= options.known_from)
        same = build.add_columns(len(before), cost=group.ends.cost[before] / unit)
        own = build.add_columns(count * len(after), cost=np.outer(weight, group.ends.cost[after]).ravel() / unit)
        own = own.reshape(count, len(after))
        covering(np.broadcast_to(same, (count, len(same))), group.ends.of(before), everyone)
        covering(own, group.ends.of(after), everyone)
        split = build.add_rows(count, lower=0.0, upper=0.0)
        build.add_entries(split[:, None], np.broadcast_to(same, (count, len(same))), 1.0)
        build.add_entries(split[:, None], own, 1.0)
        build.add_entries(split, np.full(count, ordered[index]), -1.0)
        ends.append((before, after, same, own))
    recourse = build.add_columns(
        count * len(options.recourse), cost=np.outer(weight, options.recourse.cost).ravel() / unit
    ).reshape(count, len(options.recourse))
    covering(recourse, options.recourse, everyone)
    idle = build.add_columns(count * months).reshape(count, months)
    build.add_entries(rows, idle, -1.0)
    build.add_entries(rows[:, 1:], idle[:, :-1], 1.0)
    answer = solve(build.build())
    if not isinstance(answer, Answer):
        raise NoCapacity(f"the capacity program could not be solved: {answer}")
    values = np.where(answer.values < _IDLE, 0.0, answer.values) * scale
    ended = []
    for (before, after, same, own), group in zip(ends, options.groups, strict=True):
        each = np.zeros((count, len(group.ends)))
        each[:, before], each[:, after] = values[same], values[own]
        ended.append(each)
    return Solution(
        options, values[ordered], values[committed], tuple(ended), values[recourse], answer.bound * scale * unit
    )


def _coverable(options: Options, demand: Demand) -> None:
    months = demand.tokens.shape[1]
    covered = np.zeros(months, dtype=np.bool_)
    for arcs in (options.shared, options.recourse, *(group.ends for group in options.groups if group.held is None)):
        for start, end in zip(arcs.start, arcs.end, strict=True):
            covered[start:end] = True
    most = demand.tokens.max(axis=0)
    held = sum((group.held for group in options.groups if group.held is not None), 0.0)
    short = np.flatnonzero(~covered & (most > held * (1.0 + 1e-9)))
    if len(short):
        month = int(short[0]) + 1
        raise NoCapacity(
            f"nothing can serve {most[short[0]]:.3g} tokens in month {month}; expected a rent, a commitment, an "
            f"external price, or a purchase with a lead time below {month} months"
        )
