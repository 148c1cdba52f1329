"""The MILP of a fleet: what to rent, and which share of each cell's flow goes where.

Sets: types t, sites j, pools p, classes k, cells c (of class k(c)), options o (of pool p(o), type t(o)), arcs (c, o),
  KV-tier choices h (of pool p(h)), fabrics f.
Parameters: l[c,o] load, u[o] capacity, C[o] cost, C+[o], C-[o] start and stop costs, n0[o] running, m[o] multiple,
  g[o] chips, t'(o) the type whose nodes it lies on, w[o] kW, Q[t] quota, P[t] price, R[t] reserved,
  V[t], E[t] night value and chips, B[t] chips per node, D[t] node cost, W[j] power limit, pue[j], a[c] spill price,
  d[c] penalty, r[c] rate, S[k] spot limit, q[p] spare, T[h] storage cost, M[o] most replicas, F[p], F budgets,
  b penalty per dollar above one.
Variables:
  x[c,o] >= 0   share of a cell's flow (an aggregated or prefill option's, and the decode option's that takes it over)
  z[c] >= 0     share spilled to an external API;  s[c] >= 0  share not served
  k[o] whole    replicas of o in multiples: n[o] = m[o] k[o]
  up[o] >= 0    replicas started; those stopped are up[o] - n[o] + n0[o]
  y[h] 0 or 1   the KV-tier size a pool takes
  on[o] 0 or 1, L[p,role]   option in use; the largest replica in use (only where spares are asked for)
  N[t] whole    nodes;  e[t], v[t]  chips that are reserved, that earn at night
  over[p], over above the budgets
Minimise
  sum C n + C+ up + C- (up - n + n0) + sum T y + sum D N + sum a z + d s - sum P e - sum V v + b (sum over[p] + over)
Subject to
  serve[c]:     sum of x over aggregated and prefill options + z + s = 1
  handover[c,f]: prefill share = decode share
  load[o]:      sum_c l x <= u n
  spot[k]:      sum over spot options r x <= S sum r        (prefill and aggregated; and apart, decode)
  started[o]:   up - n >= -n0
  tier[p]:      sum_h y = 1;  n[o] <= M[o] y[h(o)]
  spare[p,role]: sum_o f[o] (u n - sum_c l x) >= q L,  L >= f[o] u[o] on[o],  n <= M on      (f[o]: share of the pool's
                demand that a busy replica carries; what is lost is the largest replica in use, as many as q)
  pool[p]:      min <= sum n <= max;  paid[p]: cost of the pool - over <= F[p]
  quota[t]:     sum g n <= Q;  nodes[t]: sum of g n on them <= B N;  credit[t]: e + v <= sum g n;
  bought[t]:    e <= sum g n, not spot
  power[j]:     pue sum w n <= W
  paid:         cost of all - over <= F
A KV-tier size is encoded by options of its own: the hit rate h(bytes) of a size changes the loads of the pool's
options, so each size has a copy of them with its own ``arc_load`` (and ``option_tier`` set), and y picks one size. The
reuse-distance curve is thereby taken at the sizes offered, exactly, and needs not be convex.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tidefleet.planning.fleet.matrix import SHARED, Builder, Floats, Ints, Matrix
from tidefleet.planning.fleet.problem import AGGREGATED, DECODE, MOST_REPLICAS, PREFILL, FleetProblem

_NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Where each variable stands; -1 where it does not exist for an index."""

    x: Ints
    spill: Ints
    short: Ints
    n: Ints
    up: Ints
    tier: Ints
    on: Ints
    largest: Ints
    nodes: Ints
    reserved: Ints
    night: Ints
    over_pool: Ints
    over: int


@dataclass(frozen=True, slots=True)
class Row:
    """What a shared row stands for: ``kind`` quota, nodes, credit, bought, power or budget, of a type or a site."""

    kind: str
    index: int
    row: int


@dataclass(frozen=True, slots=True, eq=False)
class FleetMilp:
    """The matrix, where its columns are, its shared rows, and a constant part of the cost (stops of what runs now).

    ``serve`` is the row of each cell, ``load`` that of each option; ``loose_upper`` are the columns' upper bounds
    without those on n that other rows imply, so that what a limit is worth shows in its own row's dual.
    """

    problem: FleetProblem
    matrix: Matrix
    columns: Columns
    shared: tuple[Row, ...]
    constant: float
    serve: Ints
    load: Ints
    loose_upper: Floats

    def replicas(self, values: Floats) -> Ints:
        """n[o] as whole numbers."""
        return np.rint(values[self.columns.n]).astype(np.int64) * self.problem.option_multiple


def most_replicas(problem: FleetProblem) -> Ints:
    """M[o]: more replicas of an option than this are never of use, in multiples.

    They carry all the option's cells alone, plus spares, plus what a minimum forces, or they run already.
    """
    p = problem
    load = np.bincount(p.arc_option, p.arc_load, len(p.option_pool)) / p.option_capacity
    need = np.ceil(load - 1e-9) + p.pool_min[p.option_pool]
    # A spare covers the largest replica in use, which can take several small ones.
    size = carried_share(p) * p.option_capacity
    biggest = np.zeros(p.pools)
    np.maximum.at(biggest, p.option_pool, size)
    spares = p.pool_spare[p.option_pool]
    need += np.where(size > 0, np.ceil(spares * biggest[p.option_pool] / np.maximum(size, 1e-12)), spares)
    most = np.maximum(np.maximum(need, p.option_running), p.option_min)
    most = np.ceil(most / p.option_multiple - 1e-9)
    chips = np.floor(p.type_quota[p.option_type] / p.option_chips + 1e-9)
    limit = np.minimum(np.minimum(chips, p.option_max), p.pool_max[p.option_pool])
    return np.minimum(most, np.floor(limit / p.option_multiple + 1e-9)).astype(np.int64)


def build(problem: FleetProblem) -> FleetMilp:
    """The MILP of the whole fleet. Rows and columns that tie pools together are owned by ``SHARED``."""
    return _Assembly(problem).build()


class _Assembly:
    """Puts the blocks together, in the order of the algebra above."""

    def __init__(self, problem: FleetProblem) -> None:
        self.p = problem
        self.b = Builder()
        self.options = len(problem.option_pool)
        self.types = len(problem.type_price)
        self.pool_of_class = np.full(problem.classes, SHARED, dtype=np.int64)
        self.pool_of_class[problem.cell_class[problem.arc_cell]] = problem.option_pool[problem.arc_option]
        self.pool_of_cell = self.pool_of_class[problem.cell_class]
        self.constant = 0.0
        self.shared: list[Row] = []
        self.paid: list[tuple[Ints, Floats, Ints]] = []  # columns, what each unit costs, and the pool that pays

    def build(self) -> FleetMilp:
        """All blocks."""
        p, b = self.p, self.b
        x = b.add_columns(len(p.arc_cell), upper=1.0, owner=p.option_pool[p.arc_option])
        spill = self._some(np.isfinite(p.cell_spill), p.cell_spill, self.pool_of_cell, upper=1.0)
        self._pay(spill, p.cell_spill, self.pool_of_cell)
        short = self._some(np.isfinite(p.cell_penalty), p.cell_penalty, self.pool_of_cell, upper=1.0)
        n, up = self._replicas()
        serve, load = self._flows(x, spill, short, n)
        self._spot(x)
        tier = self._tiers(n)
        on, largest = self._spares(x, n)
        over_pool = self._pools(n)
        nodes, reserved, night = self._types(n)
        self._power(n)
        over = self._budget()
        columns = Columns(x, spill, short, n, up, tier, on, largest, nodes, reserved, night, over_pool, over)
        matrix = b.build()
        loose = matrix.upper.copy()
        loose[n] = np.maximum(np.floor(p.option_max / p.option_multiple + 1e-9), loose[n])
        return FleetMilp(p, matrix, columns, tuple(self.shared), self.constant, serve, load, loose)

    def _some(self, exists: ArrayLike, cost: Floats, owner: ArrayLike, *, upper: ArrayLike = np.inf) -> Ints:
        """Columns where they exist, -1 elsewhere."""
        at = np.flatnonzero(np.asarray(exists))
        result = np.full(len(cost), -1, dtype=np.int64)
        owners = np.broadcast_to(np.asarray(owner), (len(cost),))
        uppers = np.broadcast_to(np.asarray(upper, dtype=np.float64), (len(cost),))
        result[at] = self.b.add_columns(len(at), cost=cost[at], upper=uppers[at], owner=owners[at])
        return result

    def _pay(self, columns: Ints, cost: Floats, pools: Ints) -> None:
        at = np.flatnonzero((columns >= 0) & (cost != 0))
        self.paid.append((columns[at], cost[at], pools[at]))

    def _replicas(self) -> tuple[Ints, Ints]:
        """n in multiples, and started replicas where they cannot be folded into the cost of n."""
        p = self.p
        upper = most_replicas(p)
        lower = np.ceil(p.option_min / p.option_multiple - 1e-9)
        self.empty = lower > upper  # contradictory with a quota; the row below says so to the solver
        start, stop = p.option_start_cost, p.option_stop_cost
        fresh = p.option_running == 0
        stays = ~fresh & (start + stop > 0)
        # With n0 = 0, up = n. Else up is a column, and stops cost C- (up - n + n0).
        unit = p.option_cost + np.where(fresh, start, 0.0) - np.where(stays, stop, 0.0)
        cost = unit * p.option_multiple
        n = self.b.add_columns(
            self.options, cost=cost, lower=lower, upper=np.maximum(upper, lower), integer=True, owner=p.option_pool
        )
        self.constant = float((stop * p.option_running)[stays].sum())
        up = self._some(stays, start + stop, p.option_pool)
        at = np.flatnonzero(stays)
        rows = self.b.add_rows(len(at), lower=-p.option_running[at].astype(np.float64), owner=p.option_pool[at])
        self.b.add_entries(rows, up[at], 1.0)
        self.b.add_entries(rows, n[at], -p.option_multiple[at])
        bad = np.flatnonzero(self.empty)
        rows = self.b.add_rows(len(bad), upper=upper[bad].astype(np.float64), owner=p.option_pool[bad])
        self.b.add_entries(rows, n[bad], 1.0)
        self._pay(n, p.option_cost * p.option_multiple, p.option_pool)
        return n, up

    def _flows(self, x: Ints, spill: Ints, short: Ints, n: Ints) -> tuple[Ints, Ints]:
        p, b = self.p, self.b
        role = p.option_role[p.arc_option]
        serve = b.add_rows(len(p.cell_class), lower=1.0, upper=1.0, owner=self.pool_of_cell)
        first = role != DECODE
        b.add_entries(serve[p.arc_cell[first]], x[first], 1.0)
        for column in (spill, short):
            has = column >= 0
            b.add_entries(serve[has], column[has], 1.0)
        apart = role != AGGREGATED
        fabric = p.option_fabric[p.arc_option]
        width = int(fabric.max(initial=0)) + 1
        pairs, of = np.unique(p.arc_cell[apart] * width + fabric[apart], return_inverse=True)
        handover = b.add_rows(len(pairs), lower=0.0, upper=0.0, owner=self.pool_of_cell[pairs // width])
        b.add_entries(handover[of], x[apart], np.where(role[apart] == PREFILL, 1.0, -1.0))
        load = b.add_rows(self.options, upper=0.0, owner=p.option_pool)
        b.add_entries(load[p.arc_option], x, p.arc_load / p.option_capacity[p.arc_option])
        b.add_entries(load, n, -p.option_multiple)
        return serve, load

    def _spot(self, x: Ints) -> None:
        p = self.p
        total = np.bincount(p.cell_class, p.cell_rate, p.classes)
        for decodes in (False, True):
            spot = p.option_spot[p.arc_option] & ((p.option_role[p.arc_option] == DECODE) == decodes)
            spot &= p.class_spot_limit[p.cell_class[p.arc_cell]] < 1.0
            at = np.flatnonzero(spot)
            rate = p.cell_rate[p.arc_cell[at]]
            classes, of = np.unique(p.cell_class[p.arc_cell[at]], return_inverse=True)
            size = np.maximum(total[classes], 1e-300)
            rows = self.b.add_rows(len(classes), upper=p.class_spot_limit[classes], owner=self.pool_of_class[classes])
            self.b.add_entries(rows[of], x[at], rate / size[of])

    def _tiers(self, n: Ints) -> Ints:
        p, b = self.p, self.b
        tier = b.add_columns(len(p.tier_pool), cost=p.tier_cost, upper=1.0, integer=True, owner=p.tier_pool)
        self._pay(tier, p.tier_cost, p.tier_pool)
        pools, of = np.unique(p.tier_pool, return_inverse=True)
        one = b.add_rows(len(pools), lower=1.0, upper=1.0, owner=pools)
        b.add_entries(one[of], tier, 1.0)
        at = np.flatnonzero(p.option_tier >= 0)
        rows = b.add_rows(len(at), upper=0.0, owner=p.option_pool[at])
        b.add_entries(rows, n[at], 1.0)
        b.add_entries(rows, tier[p.option_tier[at]], -np.maximum(most_replicas(p)[at], 1))
        return tier

    def _spares(self, x: Ints, n: Ints) -> tuple[Ints, Ints]:
        p, b = self.p, self.b
        carried = carried_share(p)
        on = np.full(self.options, -1, dtype=np.int64)
        largest = []
        for pool in np.flatnonzero(p.pool_spare > 0):
            for role in (AGGREGATED, PREFILL, DECODE):
                at = np.flatnonzero((p.option_pool == pool) & (p.option_role == role))
                if not len(at):
                    continue
                size = carried[at] * p.option_capacity[at]
                top = b.add_columns(1, owner=pool)
                largest.append(top)
                on[at] = b.add_columns(len(at), upper=1.0, integer=True, owner=pool)
                rows = b.add_rows(len(at), lower=0.0, owner=pool)
                b.add_entries(rows, np.repeat(top, len(at)), 1.0)
                b.add_entries(rows, on[at], -size)
                rows = b.add_rows(len(at), upper=0.0, owner=pool)
                b.add_entries(rows, n[at], 1.0)
                b.add_entries(rows, on[at], -np.maximum(most_replicas(p)[at], 1))
                row = b.add_rows(1, lower=0.0, owner=pool)
                b.add_entries(np.repeat(row, len(at)), n[at], size * p.option_multiple[at])
                arcs = np.flatnonzero(np.isin(p.arc_option, at))
                b.add_entries(np.repeat(row, len(arcs)), x[arcs], -p.arc_load[arcs] * carried[p.arc_option[arcs]])
                b.add_entries(row, top, -float(p.pool_spare[pool]))
        return on, np.concatenate(largest) if largest else _NONE

    def _pools(self, n: Ints) -> Ints:
        p, b = self.p, self.b
        at = np.flatnonzero((p.pool_min > 0) | np.isfinite(p.pool_max))
        rows = b.add_rows(len(at), lower=p.pool_min[at], upper=p.pool_max[at], owner=at)
        where = np.full(p.pools, -1, dtype=np.int64)
        where[at] = rows
        mine = np.flatnonzero(where[p.option_pool] >= 0)
        b.add_entries(where[p.option_pool[mine]], n[mine], p.option_multiple[mine])
        limited = np.isfinite(p.pool_budget)
        over = self._some(limited, np.full(p.pools, p.budget_penalty), np.arange(p.pools))
        at = np.flatnonzero(limited)
        budget = np.full(p.pools, -1, dtype=np.int64)
        budget[at] = b.add_rows(len(at), upper=p.pool_budget[at], owner=at)
        b.add_entries(budget[at], over[at], -1.0)
        for columns, cost, pools in self.paid:
            mine = np.flatnonzero(pools >= 0)
            mine = mine[budget[pools[mine]] >= 0]
            b.add_entries(budget[pools[mine]], columns[mine], cost[mine])
        return over

    def _types(self, n: Ints) -> tuple[Ints, Ints, Ints]:
        p = self.p
        chips = (p.option_chips * p.option_multiple).astype(np.float64)
        self._per_type("quota", np.isfinite(p.type_quota), n, chips, upper=p.type_quota)
        has = p.type_chips_per_node > 0
        nodes = np.full(self.types, -1, dtype=np.int64)
        at = np.flatnonzero(has)
        used = np.bincount(p.node_type, chips * np.maximum(most_replicas(p), 0), self.types)
        most = np.ceil(used / np.maximum(p.type_chips_per_node, 1))
        nodes[at] = self.b.add_columns(len(at), cost=p.type_node_cost[at], upper=most[at], integer=True)
        self._pay(nodes, p.type_node_cost, np.full(self.types, SHARED))
        none = np.zeros(self.types)
        self._per_type("nodes", has, n, chips, upper=none, less=nodes, each=p.type_chips_per_node, of=p.node_type)
        # Every chip in use earns at most one credit: it is reserved, or it earns at night.
        reserved = self._some(p.type_reserved > 0, -p.type_price, SHARED, upper=p.type_reserved)
        earns = (p.type_night_value > 0) & (p.type_night_chips > 0)
        night = self._some(earns, -p.type_night_value, SHARED, upper=p.type_night_chips)
        self._pay(reserved, -p.type_price, np.full(self.types, SHARED))
        either = (reserved >= 0) | (night >= 0)
        rows = self._per_type("credit", either, n, -chips, upper=np.zeros(self.types), less=reserved, each=-1.0)
        has = night >= 0
        self.b.add_entries(rows[has], night[has], 1.0)
        firm = np.where(p.option_spot, 0.0, chips)
        some_spot = np.bincount(p.option_type, p.option_spot, self.types) > 0
        self._per_type(
            "bought", (reserved >= 0) & some_spot, n, -firm, upper=np.zeros(self.types), less=reserved, each=-1.0
        )
        return nodes, reserved, night

    def _per_type(
        self,
        kind: str,
        has: ArrayLike,
        n: Ints,
        chips: Floats,
        *,
        upper: Floats,
        less: Ints = _NONE,
        each: ArrayLike = 0.0,
        of: Ints | None = None,
    ) -> Ints:
        """One row per type that has it: sum chips n - each * less <= upper, over options ``of`` the type."""
        of = self.p.option_type if of is None else of
        at = np.flatnonzero(np.asarray(has))
        rows = np.full(self.types, -1, dtype=np.int64)
        rows[at] = self.b.add_rows(len(at), upper=upper[at])
        mine = np.flatnonzero(rows[of] >= 0)
        self.b.add_entries(rows[of[mine]], n[mine], chips[mine])
        if len(less):
            has_less = at[less[at] >= 0]
            amount = np.broadcast_to(np.asarray(each, dtype=np.float64), (self.types,))
            self.b.add_entries(rows[has_less], less[has_less], -amount[has_less])
        self.shared += [Row(kind, int(t), int(rows[t])) for t in at]
        return rows

    def _power(self, n: Ints) -> None:
        p = self.p
        at = np.flatnonzero(np.isfinite(p.site_limit_kw))
        rows = np.full(len(p.site_limit_kw), -1, dtype=np.int64)
        rows[at] = self.b.add_rows(len(at), upper=p.site_limit_kw[at])
        site = p.type_site[p.option_type]
        mine = np.flatnonzero(rows[site] >= 0)
        power = p.site_pue[site] * p.option_kw * p.option_multiple
        self.b.add_entries(rows[site[mine]], n[mine], power[mine])
        self.shared += [Row("power", int(j), int(rows[j])) for j in at]

    def _budget(self) -> int:
        p = self.p
        if not np.isfinite(p.budget):
            return -1
        most = sum(float(np.maximum(cost, 0.0).sum()) for _, cost, _ in self.paid) * MOST_REPLICAS
        over = self.b.add_columns(1, cost=p.budget_penalty, upper=most)
        row = self.b.add_rows(1, upper=p.budget)
        self.b.add_entries(row, over, -1.0)
        for columns, cost, _ in self.paid:
            self.b.add_entries(np.repeat(row, len(columns)), columns, cost)
        self.shared.append(Row("budget", 0, int(row[0])))
        return int(over[0])


def carried_share(problem: FleetProblem) -> Floats:
    """f[o]: the share of its pool's demand that one busy replica of an option carries, over the cells it can serve."""
    p = problem
    load = np.bincount(p.arc_option, p.arc_load, len(p.option_pool))
    served = np.bincount(p.arc_option, p.cell_rate[p.arc_cell], len(p.option_pool))
    pool_of_class = np.zeros(p.classes, dtype=np.int64)
    pool_of_class[p.cell_class[p.arc_cell]] = p.option_pool[p.arc_option]
    total = np.bincount(pool_of_class[p.cell_class], p.cell_rate, p.pools)
    share = served / np.maximum(total[p.option_pool], 1e-300)
    return np.where(load > 0, share / np.maximum(load, 1e-300), 0.0)
