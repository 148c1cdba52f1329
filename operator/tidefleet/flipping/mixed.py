"""The loan schedule of several kinds of node that share one demand: a MILP, solved by HiGHS.

Sets: kinds k of node; slots t of h hours.
Parameters: N[k] nodes, of them s[k] always serve; a[k] demand that a node serves; v[k] USD that training on a node is
  worth in an hour; c[k] USD, what a round trip costs; x0[k] nodes on loan before the first slot; open[t] whether loans
  are allowed; d[t] demand to be served (the highest of [t, t + lead], plus the reserve); p USD, what a unit of demand
  that is not served costs in an hour; K the most nodes of all kinds together that change sides between two slots;
  M the shortest loan in slots.
Variables:
  x[k,t] whole   nodes on loan, in [0, N[k] - s[k]], and 0 where not open[t]
  up[k,t] >= 0   nodes that leave for a loan at the beginning of t;  down[k,t] >= 0 nodes that come home
  short[t] >= 0  demand that is not served; without a price p it is what all nodes together cannot serve, and no more
Maximise
  sum_kt v[k] h x[k,t] - sum_kt c[k] up[k,t] - sum_t p h short[t]
Subject to
  serve[t]:   sum_k a[k] (N[k] - x[k,t]) + short[t] >= d[t]
  flow[k,t]:  x[k,t] - x[k,t-1] = up[k,t] - down[k,t]        (x[k,-1] = x0[k])
  step[t]:    sum_k up[k,t] + down[k,t] <= K                 (t = 0: up alone, for serving comes before the step)
  stay[k,t]:  x[k,t] >= sum of up[k,s] over t-M < s <= t;  up[k,t] = 0 where fewer than M slots follow

Nodes come home in the order in which they left. The schedule of one kind lets the last one out come home first, which
is the same for M = 1 and otherwise at most as good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import highspy
import numpy as np
from numpy.typing import NDArray

from tidefleet.flipping.staircase import HOUR, STEP_SHARE
from tidefleet.flipping.value import Worth

THREADS = 1
"""As everywhere in this process: HiGHS shares one scheduler, and instances that ask for different numbers of threads
have returned zeros without an error."""

TOLERANCE = 1e-6

GAP = 3e-3
"""Share of the bound at which the solver stops: far below what a forecast of demand is wrong by."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of node.

    Attributes:
        name: of the accelerator type, for messages.
        nodes: N, those on loan included.
        demand_per_node: a, in the unit of the demand, e.g. tokens/s at the load a replica is planned for.
        usd_per_node_hour: v, what training on one node is worth in an hour.
        flip_usd: c, what one round trip of a node costs.
        on_loan: x0.
        always_serving: s.

    Raises:
        ValueError: a number is negative or not finite, or ``on_loan`` is above ``nodes``.
    """

    name: str
    nodes: int
    demand_per_node: float
    usd_per_node_hour: float
    flip_usd: float = 0.0
    on_loan: int = 0
    always_serving: int = 0

    def __post_init__(self) -> None:
        for field in ("nodes", "demand_per_node", "usd_per_node_hour", "flip_usd", "on_loan", "always_serving"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"Kind {self.name}: {field} is {value}; expected a finite number of at least 0, e.g. 8"
                )
        if self.on_loan > self.nodes:
            raise ValueError(f"Kind {self.name}: on_loan is {self.on_loan}; expected at most the {self.nodes} nodes")

    @property
    def most(self) -> int:
        """Nodes that may be on loan at once."""
        return max(0, self.nodes - self.always_serving)


@dataclass(frozen=True, slots=True)
class Rules:
    """On which terms all kinds are loaned.

    Attributes:
        slot_seconds: length of a slot.
        lead_slots: how far ahead of a demand its nodes are back.
        reserve: demand that is kept served above what is asked for, in its unit.
        step_share: K over all nodes; K is at least 1.
        shortest_slots: M, at least 1.
        short_usd_per_hour: p, for a unit of demand; ``None``: nothing is left unserved that the nodes could serve.

    Raises:
        ValueError: a number is out of its range or not finite.
    """

    slot_seconds: float = 900.0
    lead_slots: int = 1
    reserve: float = 0.0
    step_share: float = STEP_SHARE
    shortest_slots: int = 1
    short_usd_per_hour: float | None = None

    def __post_init__(self) -> None:
        price = self.short_usd_per_hour
        limits = (
            ("slot_seconds", self.slot_seconds, self.slot_seconds > 0, "a positive number of seconds, e.g. 900"),
            ("lead_slots", self.lead_slots, self.lead_slots >= 0, "a number of slots from 0 on, e.g. 1"),
            ("reserve", self.reserve, self.reserve >= 0, "a demand of at least 0, e.g. 5000"),
            ("step_share", self.step_share, 0 <= self.step_share <= 1, "a share from 0 to 1, e.g. 0.2"),
            ("shortest_slots", self.shortest_slots, self.shortest_slots >= 1, "a number of slots from 1 on, e.g. 4"),
            ("short_usd_per_hour", price or 0.0, (price or 0.0) >= 0, "USD of at least 0, e.g. 40"),
        )
        for name, value, holds, expected in limits:
            if not (math.isfinite(value) and holds):
                raise ValueError(f"Rules: {name} is {value}; expected {expected}")

    def step(self, nodes: int) -> int:
        """K."""
        return max(1, math.floor(self.step_share * nodes + 1e-9))


@dataclass(frozen=True, slots=True)
class Mixed:
    """The loan schedule of several kinds.

    Attributes:
        loans: nodes on loan per kind (in the order given) and slot.
        worth: of all loans, and what their flips cost.
        short_usd: cost of demand that is not served, by its price.
        shortfall: demand not served per slot, in its unit.
        flips: nodes that leave for a loan.
        bound_usd: no schedule is worth more, ``short_usd`` deducted.
        gap: how far below the bound this one may be, as a share of it.
        why: empty; or why this may not be as good as was asked for, in words.
    """

    loans: tuple[tuple[int, ...], ...]
    worth: Worth
    short_usd: float
    shortfall: tuple[float, ...]
    flips: int
    bound_usd: float
    gap: float
    why: str = ""

    @property
    def net_usd(self) -> float:
        """What the loans earn less what their flips and the demand not served cost."""
        return self.worth.net_usd - self.short_usd


def schedule(
    kinds: Sequence[Kind],
    demand: Sequence[float],
    *,
    rules: Rules,
    allowed: Sequence[bool] | None = None,
    seconds: float = 10.0,
    gap: float = GAP,
) -> Mixed:
    """The best loans of several kinds that share a demand.

    Args:
        kinds: of node.
        demand: per slot, in the unit of ``Kind.demand_per_node``. What nobody knows (NaN, infinite or negative) counts
            as all that the nodes can serve.
        rules: lead, reserve, step and price of a shortfall.
        allowed: per slot, whether loans are allowed in the whole of it; absent: in all.
        seconds: most wall-clock time of the solver.
        gap: share of the bound at which the solver may stop.

    Returns:
        The schedule. Where the solver fails or its time is over, the best that is known, with the reason: it keeps
        every rule, and loans nothing at worst.

    Raises:
        ValueError: allowed has another length than demand, or seconds or gap is no number of at least 0.
    """
    if allowed is not None and len(allowed) != len(demand):
        raise ValueError(f"allowed has {len(allowed)} slots; expected the {len(demand)} of demand")
    for name, value in (("seconds", seconds), ("gap", gap)):
        if not value >= 0:
            raise ValueError(f"{name} is {value}; expected a number of at least 0, e.g. 0.001")
    case = _Case.of(kinds, demand, rules, allowed)
    nothing = np.zeros((len(case.kinds), len(case.demand)), dtype=np.int64)
    if not nothing.size or not case.most.any():
        return _told(case, nothing, bound=0.0 - _short_usd(case, nothing))
    return _solved(case, seconds=seconds, gap=gap)


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """The parameters as arrays: ``most`` of shape (kinds, slots), ``demand`` of shape (slots,)."""

    kinds: tuple[Kind, ...]
    rules: Rules
    demand: Floats
    most: Ints
    capacity: float
    hours: float
    step: int

    @classmethod
    def of(cls, kinds: Sequence[Kind], demand: Sequence[float], rules: Rules, allowed: Sequence[bool] | None) -> _Case:
        capacity = sum(one.demand_per_node * one.nodes for one in kinds)
        asked = np.array(demand, dtype=np.float64).reshape(-1)
        asked = np.where(np.isfinite(asked) & (asked >= 0), asked, capacity)
        highest = asked.copy()
        for lead in range(1, min(rules.lead_slots, len(asked) - 1) + 1):
            highest[:-lead] = np.maximum(highest[:-lead], asked[lead:])
        open_slots = np.ones(len(asked), dtype=np.int64) if allowed is None else np.asarray(allowed, dtype=np.int64)
        most = np.array([one.most for one in kinds], dtype=np.int64).reshape(-1, 1) * open_slots
        step = rules.step(sum(one.nodes for one in kinds))
        return cls(tuple(kinds), rules, highest + rules.reserve, most, capacity, rules.slot_seconds / HOUR, step)

    @property
    def on_loan(self) -> Ints:
        return np.array([one.on_loan for one in self.kinds], dtype=np.int64)

    def column(self, field: str) -> Floats:
        return np.array([getattr(one, field) for one in self.kinds], dtype=np.float64)

    def shortfall(self, loans: Ints) -> Floats:
        served = self.capacity - self.column("demand_per_node") @ loans
        return np.asarray(np.maximum(0.0, self.demand - served))


class _Rows:
    """Rows of a program, gathered as they are written."""

    def __init__(self) -> None:
        self.lower: list[float] = []
        self.upper: list[float] = []
        self.start: list[int] = [0]
        self.column: list[int] = []
        self.value: list[float] = []

    def add(self, entries: Sequence[tuple[int, float]], lower: float, upper: float) -> None:
        """lower <= sum of value * column <= upper."""
        for column, value in entries:
            self.column.append(column)
            self.value.append(value)
        self.start.append(len(self.column))
        self.lower.append(lower)
        self.upper.append(upper)


def _program(case: _Case, *, relaxed: bool = False) -> highspy.HighsLp:
    """The MILP in the letters of the algebra above, as a minimisation; relaxed: x need not be whole."""
    count, slots = case.most.shape
    cells = count * slots
    x = np.arange(cells).reshape(count, slots)
    up, down, short = x + cells, x + 2 * cells, 3 * cells + np.arange(slots)
    a, v, c = (case.column(name) for name in ("demand_per_node", "usd_per_node_hour", "flip_usd"))
    p, infinite, m = case.rules.short_usd_per_hour, highspy.kHighsInf, case.rules.shortest_slots

    cost = np.zeros(3 * cells + slots)
    cost[x] = -case.hours * v[:, np.newaxis]
    cost[up] = c[:, np.newaxis]
    cost[short] = (p or 0.0) * case.hours
    upper = np.full(len(cost), infinite)
    upper[x] = case.most
    late = np.arange(slots) > slots - m
    upper[up[:, late]] = 0.0
    upper[short] = np.maximum(0.0, case.demand - (case.capacity if p is None else 0.0))

    rows = _Rows()
    for t in range(slots):
        served = [(int(x[k, t]), a[k]) for k in range(count)]
        rows.add([*served, (int(short[t]), -1.0)], -infinite, case.capacity - case.demand[t])
    for k in range(count):
        for t in range(slots):
            before = [(int(x[k, t - 1]), -1.0)] if t else []
            at = 0.0 if t else float(case.kinds[k].on_loan)
            rows.add([(int(x[k, t]), 1.0), *before, (int(up[k, t]), -1.0), (int(down[k, t]), 1.0)], at, at)
    for t in range(slots):
        both = [(int(one[k, t]), 1.0) for one in ((up, down) if t else (up,)) for k in range(count)]
        rows.add(both, -infinite, float(case.step))
    for k in range(count):
        for t in range(slots if m > 1 else 0):
            begun = [(int(up[k, s]), -1.0) for s in range(max(0, t - m + 1), t + 1)]
            rows.add([(int(x[k, t]), 1.0), *begun], 0.0, infinite)

    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(cost), len(rows.lower)
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, np.zeros(len(cost)), upper
    lp.row_lower_, lp.row_upper_ = np.array(rows.lower), np.array(rows.upper)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.array(rows.start, dtype=np.int32)
    lp.a_matrix_.index_ = np.array(rows.column, dtype=np.int32)
    lp.a_matrix_.value_ = np.array(rows.value)
    whole, part = highspy.HighsVarType.kInteger, highspy.HighsVarType.kContinuous
    if not relaxed:
        lp.integrality_ = [whole] * cells + [part] * (len(cost) - cells)
    return lp


class _Quiet(highspy.Highs):
    """Silent from the start: a solver that sets up its callbacks prints a banner on standard output otherwise."""

    def enableCallbacks(self) -> None:
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()  # type: ignore[no-untyped-call]


def _solver(seconds: float, gap: float) -> highspy.Highs:
    highs = _Quiet()  # type: ignore[no-untyped-call]
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", THREADS)
    highs.setOptionValue("mip_rel_gap", gap)
    highs.setOptionValue("mip_feasibility_tolerance", TOLERANCE)
    if math.isfinite(seconds):
        highs.setOptionValue("time_limit", seconds)
    return highs


def _solved(case: _Case, *, seconds: float, gap: float) -> Mixed:
    program, start = _program(case), _start(case, seconds)
    ran = _run(case, program, start, seconds=seconds, gap=gap)
    if ran.inconsistent:
        # HiGHS 1.16 can carry a start into its presolved space at a lower cost than it has, and end with it.
        ran = _run(case, program, None, seconds=seconds, gap=gap)
    best = _told(case, start, bound=ran.bound)
    if ran.loans is not None:
        found = _told(case, ran.loans, bound=ran.bound)
        best = found if found.net_usd >= best.net_usd else best
    why = ran.why
    if not why and best.gap > gap + TOLERANCE:
        why = f"the solver stopped {best.gap:.2g} below its bound"
    return replace(best, why=why)


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """What one run of the solver gave: a schedule that keeps every rule, or why not."""

    bound: float
    loans: Ints | None = None
    why: str = ""
    inconsistent: bool = False


def _run(case: _Case, program: highspy.HighsLp, start: Ints | None, *, seconds: float, gap: float) -> _Run:
    highs = _solver(seconds, gap)
    try:
        highs.passModel(program)
        if start is not None:
            point = highspy.HighsSolution()
            point.col_value = _values(case, start)
            highs.setSolution(point)
        highs.run()
        status, info = highs.getModelStatus(), highs.getInfo()
        values = np.array(highs.getSolution().col_value, dtype=np.float64)
        bound, objective = -float(info.mip_dual_bound), -float(info.objective_function_value)
        has_point = info.primal_solution_status == 2 and len(values) >= case.most.size
    finally:
        highs.clear()
    if not has_point or not np.isfinite(values).all():
        return _Run(bound, why=f"the solver found no schedule ({status.name})")
    loans = np.rint(values[: case.most.size]).astype(np.int64).reshape(case.most.shape)
    broken = _broken(case, loans)
    worth = _told(case, loans, bound=bound).net_usd
    inconsistent = bool(broken) or objective - worth > 1e-4 * max(1.0, abs(objective))
    if broken:
        return _Run(bound, why=f"the solver's schedule {broken}", inconsistent=True)
    return _Run(bound, loans, inconsistent=inconsistent)


def _start(case: _Case, seconds: float) -> Ints:
    """A schedule to begin from: the optimum without whole numbers, rounded down, less loans that are too short.

    Rounding down moves each kind by less than one node more in a slot, so the step is taken smaller by as many. Opening
    a kind's loans by the shortest one takes the peaks off and makes no step larger. Where that breaks a rule all the
    same, nothing is loaned.
    """
    nothing = np.zeros_like(case.most)
    highs = _solver(seconds, 0.0)
    try:
        highs.passModel(_program(replace(case, step=max(0, case.step - len(case.kinds))), relaxed=True))
        highs.run()
        solved = highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
        values = np.array(highs.getSolution().col_value, dtype=np.float64)
    finally:
        highs.clear()
    if not solved or not np.isfinite(values).all():
        return nothing
    whole = np.floor(values[: case.most.size] + TOLERANCE).astype(np.int64).reshape(case.most.shape)
    staying = np.minimum(case.on_loan[:, np.newaxis], np.minimum.accumulate(whole, axis=1))
    loans = np.maximum(_opened(whole, case.rules.shortest_slots), staying)
    return nothing if _broken(case, loans) else loans


def _opened(loans: Ints, slots: int) -> Ints:
    """The most nodes per kind that are away for so many slots on end, in each slot of them."""
    count, length = loans.shape
    if slots > length:
        return np.zeros_like(loans)
    lowest = np.lib.stride_tricks.sliding_window_view(loans, slots, axis=1).min(axis=2)
    around = np.zeros((count, slots - 1), dtype=np.int64)
    padded = np.concatenate([around, lowest, around], axis=1)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, slots, axis=1).max(axis=2))


def _values(case: _Case, loans: Ints) -> Floats:
    """All variables of a schedule, in the program's order."""
    steps = np.diff(np.column_stack([case.on_loan, loans]), axis=1)
    parts = (loans, np.maximum(0, steps), np.maximum(0, -steps), case.shortfall(loans))
    return np.concatenate([np.asarray(one, dtype=np.float64).reshape(-1) for one in parts])


def _broken(case: _Case, loans: Ints) -> str:
    """Which rule a schedule breaks, in words; empty for none. No solver's word is taken for it."""
    steps = np.diff(np.column_stack([case.on_loan, loans]), axis=1)
    changed = np.abs(steps).sum(axis=0)
    changed[:1] = np.maximum(0, steps[:, :1]).sum()
    unserved = case.shortfall(loans)
    unavoidable = case.shortfall(np.zeros_like(loans))
    if (loans < 0).any() or (loans > case.most).any():
        return "loans more nodes than may be loaned"
    if (changed > case.step).any():
        return f"moves {changed.max()} nodes between two slots; the step is {case.step}"
    begun = np.maximum(0, steps)
    window = np.cumsum(begun, axis=1)
    window[:, case.rules.shortest_slots :] -= np.cumsum(begun, axis=1)[:, : -case.rules.shortest_slots]
    if (window > loans).any() or begun[:, max(0, loans.shape[1] - case.rules.shortest_slots + 1) :].any():
        return f"has a loan shorter than {case.rules.shortest_slots} slots"
    slack = TOLERANCE * max(1.0, case.capacity)
    if case.rules.short_usd_per_hour is None and (unserved > unavoidable + slack).any():
        return "leaves demand unserved"
    return ""


def _short_usd(case: _Case, loans: Ints) -> float:
    return float(case.shortfall(loans).sum()) * case.hours * (case.rules.short_usd_per_hour or 0.0)


def _told(case: _Case, loans: Ints, *, bound: float, why: str = "") -> Mixed:
    out = np.maximum(0, np.diff(np.column_stack([case.on_loan, loans]), axis=1)).sum(axis=1)
    saves = float(case.column("usd_per_node_hour") @ loans.sum(axis=1)) * case.hours
    worth = Worth(saves, float(case.column("flip_usd") @ out))
    short_usd = _short_usd(case, loans)
    net = worth.net_usd - short_usd
    bound = max(bound, net) if math.isfinite(bound) else math.inf
    gap = (bound - net) / max(abs(bound), 1e-9) if math.isfinite(bound) else math.inf
    return Mixed(
        loans=tuple(tuple(row) for row in loans.tolist()),
        worth=worth,
        short_usd=short_usd,
        shortfall=tuple(case.shortfall(loans).tolist()),
        flips=int(out.sum()),
        bound_usd=bound,
        gap=gap,
        why=why,
    )
