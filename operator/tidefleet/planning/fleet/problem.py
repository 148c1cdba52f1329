"""The fleet problem: one instance as flat arrays, checked when it is made.

Letters, as the planner's modules use them:
  t types of accelerator, j sites, p pools (a pool serves one model), k classes of demand, c cells (a class's length
  bucket), o options (a pool, an accelerator type, a width, a precision, a role, a capacity type), a arcs (a cell and an
  option that meets the cell's objectives; a pair that cannot is simply no arc), h choices of KV-tier size.

Optional arrays may be left out (``None``): each then gets the value its line names, which switches its constraint off.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

AGGREGATED, PREFILL, DECODE = 0, 1, 2
"""Roles of an option."""

MOST_REPLICAS = 1e6
"""Replicas of one option above which a demand is taken for a mistake in its unit."""


class FleetProblemError(ValueError):
    """An array of a ``FleetProblem`` is wrong: the message names array, index, what came and what is expected."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FleetProblem:
    """One instance. Rates are requests/s, money is USD, power is kW, and a replica's numbers are for the whole replica.

    Attributes:
        type_price: USD per chip-hour of a type; what a reserved chip saves and the limit of its night value.
        type_quota: most chips of a type; infinite where nothing limits them.
        type_site: the site a type's chips stand in.
        type_chips_per_node: chips of a node; 0 where nodes are not counted. Default 0.
        type_node_cost: USD per hour of a node, on top of what its replicas cost. Default 0.
        type_reserved: chips already paid for: each one in use (on options that are not spot) saves ``type_price``,
            up to this many. Default 0.
        type_night_value: USD per hour that a chip earns by what it is lent for, averaged over the day (hours lent per
            day / 24 * value of a lent chip-hour); at most ``type_price``, else the plan would buy chips without bound.
        type_night_chips: most chips that count so (the day's peak plus the reserve). Default 0.
        site_limit_kw: power of a site; infinite where nothing limits it.
        site_pue: facility power over the accelerators'. Default 1.
        option_pool, option_type, option_role, option_fabric: indices; the fabric is the domain in which KV moves from
            prefill to decode. Roles are 0 aggregated, 1 prefill, 2 decode.
        option_chips: chips of a replica.
        option_node: the type whose nodes its replicas lie on, -1 for its own type: chips that share a quota can lie on
            nodes that are paid for in several ways. Default -1.
        option_cost: USD per hour of a replica, energy included.
        option_kw: power of a replica, without PUE.
        option_spot: whether its capacity can be taken away.
        option_capacity: u_max: the share of a replica that the plan uses; for spot, derated by what is expected to be
            taken away. Default 0.85.
        option_start_cost, option_stop_cost: USD per hour charged per replica started or stopped. Default 0.
        option_running: n0, replicas at present. Default 0.
        option_min, option_max: bounds of n. Default 0 and infinite.
        option_multiple: n is a whole multiple of this (a rack that is bought whole). Default 1.
        option_tier: the KV-tier choice under which the option exists, -1 for all. Default -1.
        tier_pool: the pool of each choice; a pool that has any takes exactly one. Default no choices.
        tier_cost: USD per hour of a choice's storage. Default no choices.
        pool_min, pool_max: bounds of a pool's replicas in all. Default 0 and infinite.
        pool_spare: replicas of each role that may be lost at once without losing demand (N+1 is 1). Default 0.
        pool_budget: USD per hour a pool should not exceed: the lower of its cost target times its tokens and its
        monthly
            budget. Default infinite.
        class_spot_limit: largest share of a class's rate on spot options. Default 1.
        cell_class: the class of each cell.
        cell_rate: requests/s.
        cell_spill: USD per hour of sending the whole cell to an external API; infinite where there is none.
        cell_penalty: USD per hour of leaving the whole cell unserved; infinite where it must be served. Default
        infinite.
        arc_cell, arc_option: the pair.
        arc_load: replicas of the option that the whole cell's flow keeps busy, at utilisation 1.
        budget: USD per hour that the fleet should not exceed. Default infinite.
        budget_penalty: what each dollar above a budget counts beyond itself; a budget is a soft limit. Default 1.
    """

    type_price: Floats
    type_quota: Floats
    type_site: Ints
    site_limit_kw: Floats
    option_pool: Ints
    option_type: Ints
    option_role: Ints
    option_fabric: Ints
    option_chips: Ints
    option_cost: Floats
    option_kw: Floats
    option_spot: Bools
    cell_class: Ints
    cell_rate: Floats
    cell_spill: Floats
    arc_cell: Ints
    arc_option: Ints
    arc_load: Floats
    type_chips_per_node: Ints = None  # type: ignore[assignment]  # each default depends on another array's length
    type_node_cost: Floats = None  # type: ignore[assignment]
    type_reserved: Floats = None  # type: ignore[assignment]
    type_night_value: Floats = None  # type: ignore[assignment]
    type_night_chips: Floats = None  # type: ignore[assignment]
    site_pue: Floats = None  # type: ignore[assignment]
    option_capacity: Floats = None  # type: ignore[assignment]
    option_start_cost: Floats = None  # type: ignore[assignment]
    option_stop_cost: Floats = None  # type: ignore[assignment]
    option_running: Ints = None  # type: ignore[assignment]
    option_min: Floats = None  # type: ignore[assignment]
    option_max: Floats = None  # type: ignore[assignment]
    option_multiple: Ints = None  # type: ignore[assignment]
    option_node: Ints = None  # type: ignore[assignment]
    option_tier: Ints = None  # type: ignore[assignment]
    tier_pool: Ints = None  # type: ignore[assignment]
    tier_cost: Floats = None  # type: ignore[assignment]
    pool_min: Floats = None  # type: ignore[assignment]
    pool_max: Floats = None  # type: ignore[assignment]
    pool_spare: Ints = None  # type: ignore[assignment]
    pool_budget: Floats = None  # type: ignore[assignment]
    class_spot_limit: Floats = None  # type: ignore[assignment]
    cell_penalty: Floats = None  # type: ignore[assignment]
    budget: float = np.inf
    budget_penalty: float = 1.0

    def __post_init__(self) -> None:
        sizes = {
            "type": _length(self.type_price),
            "site": _length(self.site_limit_kw),
            "option": _length(self.option_pool),
            "cell": _length(self.cell_class),
            "arc": _length(self.arc_cell),
            "tier": 0 if self.tier_pool is None else _length(self.tier_pool),
        }
        sizes["pool"] = _count(self.option_pool, self.pool_min, self.pool_max, self.pool_spare, self.pool_budget)
        sizes["class"] = _count(self.cell_class, self.class_spot_limit)
        for one in fields(self):
            kind = one.name.split("_")[0]
            if one.name.startswith("budget"):
                continue
            given = getattr(self, one.name)
            if given is None:
                given = np.full(sizes[kind], _DEFAULTS[one.name])
            object.__setattr__(self, one.name, _array(one.name, given, _DTYPES[one.name], sizes[kind]))
        _check(self, sizes)

    @property
    def pools(self) -> int:
        """How many pools."""
        return len(self.pool_min)

    @property
    def node_type(self) -> Ints:
        """The type whose nodes each option's replicas lie on."""
        return np.where(self.option_node < 0, self.option_type, self.option_node)

    @property
    def classes(self) -> int:
        """How many classes."""
        return len(self.class_spot_limit)


_BOUNDS: dict[str, tuple[float, float, bool]] = {  # least, most, may be infinite
    "type_price": (0, 1e5, False),
    "type_quota": (0, 1e12, True),
    "type_chips_per_node": (0, 1e6, False),
    "type_node_cost": (0, 1e7, False),
    "type_reserved": (0, 1e12, False),
    "type_night_value": (0, 1e5, False),
    "type_night_chips": (0, 1e12, False),
    "site_limit_kw": (0, 1e12, True),
    "site_pue": (1, 10, False),
    "option_chips": (1, 1e6, False),
    "option_cost": (0, 1e7, False),
    "option_kw": (0, 1e6, False),
    "option_capacity": (1e-6, 1, False),
    "option_start_cost": (0, 1e7, False),
    "option_stop_cost": (0, 1e7, False),
    "option_running": (0, MOST_REPLICAS, False),
    "option_min": (0, MOST_REPLICAS, False),
    "option_max": (0, 1e12, True),
    "option_multiple": (1, 1e5, False),
    "tier_cost": (0, 1e9, False),
    "pool_min": (0, MOST_REPLICAS, False),
    "pool_max": (0, 1e12, True),
    "pool_spare": (0, 1e4, False),
    "pool_budget": (0, 1e12, True),
    "class_spot_limit": (0, 1, False),
    "cell_rate": (0, 1e12, False),
    "cell_spill": (0, 1e15, True),
    "cell_penalty": (0, 1e15, True),
    "arc_load": (1e-12, MOST_REPLICAS, False),
}
_INDICES = {
    "type_site": "site",
    "option_pool": "pool",
    "option_type": "type",
    "cell_class": "class",
    "arc_cell": "cell",
    "arc_option": "option",
    "tier_pool": "pool",
}
_DEFAULTS: dict[str, float] = {
    "type_chips_per_node": 0,
    "type_node_cost": 0.0,
    "type_reserved": 0.0,
    "type_night_value": 0.0,
    "type_night_chips": 0.0,
    "site_pue": 1.0,
    "option_capacity": 0.85,
    "option_start_cost": 0.0,
    "option_stop_cost": 0.0,
    "option_running": 0,
    "option_min": 0.0,
    "option_max": np.inf,
    "option_multiple": 1,
    "option_node": -1,
    "option_tier": -1,
    "tier_pool": 0,
    "tier_cost": 0.0,
    "pool_min": 0.0,
    "pool_max": np.inf,
    "pool_spare": 0,
    "pool_budget": np.inf,
    "class_spot_limit": 1.0,
    "cell_penalty": np.inf,
}
_DTYPES: dict[str, type] = {
    one.name: np.int64 if "Ints" in str(one.type) else np.bool_ if "Bools" in str(one.type) else np.float64
    for one in fields(FleetProblem)
}


def _length(values: Any) -> int:
    return int(np.asarray(values).shape[0]) if np.asarray(values).ndim else 0


def _count(indices: Any, *parallel: Any) -> int:
    """How many of a kind: as long as an array that belongs to it, else as far as the indices reach."""
    given = [_length(one) for one in parallel if one is not None]
    if given:
        return given[0]
    array = np.asarray(indices)
    if not array.size or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return 0
    return int(min(array.max(), 10_000_000)) + 1


_WHOLE = 2.0**53
"""Numbers from which on not every whole one has a place among the floats."""


def _array(name: str, given: Any, dtype: type, length: int) -> NDArray[Any]:
    array = np.asarray(given)
    if array.ndim != 1 or len(array) != length:
        raise FleetProblemError(f"{name} has shape {array.shape}; expected ({length},) like the arrays of its kind")
    if array.dtype.kind not in "biuf":
        raise FleetProblemError(f"{name} has type {array.dtype}; expected numbers")
    if dtype is np.int64 and array.dtype.kind == "f":
        wrong = np.flatnonzero(~(np.abs(array) < _WHOLE) | (array != np.floor(array)))
        if len(wrong):
            raise FleetProblemError(f"{name}[{wrong[0]}] is {array[wrong[0]]}; expected a whole number, e.g. 1")
    converted: NDArray[Any] = array.astype(dtype)
    converted.flags.writeable = False
    return converted


def _check(problem: FleetProblem, sizes: dict[str, int]) -> None:
    for name, kind in _INDICES.items():
        _within(name, getattr(problem, name), 0, sizes[kind] - 1)
    _within("option_role", problem.option_role, AGGREGATED, DECODE)
    _within("option_tier", problem.option_tier, -1, sizes["tier"] - 1)
    _within("option_node", problem.option_node, -1, sizes["type"] - 1)
    for name, (least, most, infinite) in _BOUNDS.items():
        values = getattr(problem, name).astype(np.float64)
        wrong = ~((values >= least) & (values <= most)) & ~((values == np.inf) & infinite)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            also = " or infinite" if infinite else ""
            raise FleetProblemError(f"{name}[{i}] is {values[i]:g}; expected between {least:g} and {most:g}{also}")
    for name, value in (("budget", problem.budget), ("budget_penalty", problem.budget_penalty)):
        if not value >= 0 or (name == "budget_penalty" and not value <= 1e6):
            raise FleetProblemError(f"{name} is {value}; expected a number of at least 0, e.g. 1")
    _first("option_min", problem.option_min > problem.option_max, "is above option_max")
    _first(
        "option_max", np.floor(problem.option_max) < np.ceil(problem.option_min), "leaves no whole number of replicas"
    )
    _first("pool_min", problem.pool_min > problem.pool_max, "is above pool_max")
    _first("type_night_value", problem.type_night_value > problem.type_price * (1 + 1e-9), "is above type_price")
    pool_of = problem.option_pool[problem.arc_option]
    seen = np.full(sizes["class"], -1, dtype=np.int64)
    classes = problem.cell_class[problem.arc_cell]
    seen[classes] = pool_of
    _first("arc_option", seen[classes] != pool_of, "belongs to another pool than the other options of the cell's class")
    pair = problem.arc_cell * max(sizes["option"], 1) + problem.arc_option
    _, first = np.unique(pair, return_index=True)
    twice = np.ones(len(pair), dtype=np.bool_)
    twice[first] = False
    _first("arc_cell", twice, "repeats an arc that came before")
    tiers = problem.option_tier
    _first(
        "option_tier",
        (tiers >= 0) & (np.append(problem.tier_pool, -1)[tiers] != problem.option_pool),
        "is a choice of another pool",
    )


def _within(name: str, values: Ints, least: int, most: int) -> None:
    wrong = np.flatnonzero((values < least) | (values > most))
    if len(wrong):
        raise FleetProblemError(f"{name}[{wrong[0]}] is {values[wrong[0]]}; expected an index from {least} to {most}")


def _first(name: str, wrong: Bools, what: str) -> None:
    if wrong.any():
        raise FleetProblemError(f"{name}[{int(np.flatnonzero(wrong)[0])}] {what}")
