"""The prices at which a plan would turn to another accelerator type: of the plan that is followed, not of the cheapest.

What runs is moved only where that saves enough, so the price at which another type costs as little is not yet the one
at which it is chosen. Costs are lines over a price, as a multiple of what it is now: rent moves with it, electricity,
KV tiers and other rent do not. A plan that is led by the whole nodes of all pools is compared with all of them as they
stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tidefleet.planning.nodes import Group, group_of, is_rented, payable
from tidefleet.planning.options import Option
from tidefleet.planning.problem import BreakEven, Chosen, PoolProblem

SWITCH_SAVING = 0.05
"""Least share of the present cost that a change of accelerators must save before replicas are moved for it."""

SWITCH_FACTOR = 3.0
"""A change must save so many times what it costs within the horizon: a forecast is not a promise."""

HORIZON_SECONDS = 4 * 3600.0
"""Time over which a plan is committed to, and a saving counts."""

_TOLD = 4
"""Other types that are looked at, the cheapest first."""


@dataclass(frozen=True, slots=True)
class Line:
    """USD per hour, as a price is x times what it is now: fixed + scaled * x."""

    fixed: float
    scaled: float = 0.0

    def __add__(self, other: Line) -> Line:
        return Line(self.fixed + other.fixed, self.scaled + other.scaled)

    def __sub__(self, other: Line) -> Line:
        return Line(self.fixed - other.fixed, self.scaled - other.scaled)

    def times(self, factor: float) -> Line:
        """So many times it."""
        return Line(self.fixed * factor, self.scaled * factor)

    @property
    def zero(self) -> float:
        """The x at which it is 0."""
        return -self.fixed / self.scaled


@dataclass(frozen=True, slots=True)
class _Moves:
    """Replicas by option that run and could go on serving, and how often an hour's cost of new ones must be saved."""

    running: Mapping[Option, int]
    factor: float

    @classmethod
    def of(cls, problem: PoolProblem) -> _Moves:
        known = {one.option for one in problem.market.candidates} if problem.running else set()
        running = {option: count for option, count in problem.running.items() if count and option in known}
        return cls(running, SWITCH_FACTOR * problem.start_seconds / HORIZON_SECONDS)


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Whole nodes that a pool stands on with others: chips of a node by type, and those that others hold, by group."""

    sizes: Mapping[str, int]
    held: Mapping[Group, int]

    def idle(self, mine: Sequence[Chosen], other: Sequence[Chosen]) -> dict[Group, tuple[float, float]]:
        """USD per hour of the idle chips of the groups of both choices while the first is taken, by group.

        Returns:
            All of it, and the pool's part by the chips that it holds.
        """
        found: dict[Group, tuple[float, float]] = {}
        if not self.sizes:
            return found
        for candidate in (one.candidate for one in (*mine, *other)):
            group = group_of(candidate)
            size = self.sizes.get(group[0], 0)
            if group in found or size < 2 or not is_rented(candidate):
                continue
            own = sum(one.replicas * one.option.chips for one in mine if group_of(one.candidate) == group)
            chips = own + self.held.get(group, 0)
            usd = (-chips % size) * candidate.price.usd_per_chip_hour
            found[group] = usd, usd * own / chips if chips else 0.0
        return found


def turning_prices(
    problem: PoolProblem,
    chosen: Sequence[Chosen],
    rivals: Sequence[Sequence[Chosen]],
    *,
    nodes: Mapping[str, int] = MappingProxyType({}),
    held: Mapping[Group, int] = MappingProxyType({}),
) -> tuple[BreakEven, ...]:
    """The price above which what is chosen is left, where it is of one type, and those below which others win.

    Args:
        problem: with what runs, by which a change has to pay for itself.
        chosen: the plan that is followed.
        rivals: the best plans of other types, each of one alone and serving as much, the cheapest first.
        nodes: chips of a node by type, where idle chips of whole nodes count; ``held`` chips that others hold there, by
            accelerator and capacity type.
    """
    around, moves = _Nodes(nodes, held), _Moves.of(problem)
    types = {one.option.accelerator for one in chosen}
    rivals = [one for one in rivals if one and not {each.option.accelerator for each in one} & types]
    found = []
    rivals = rivals[:_TOLD]
    for rival in rivals:
        used = max(rival, key=lambda one: one.replicas)
        gains = _gains(moves, around, chosen, rival, used.option.accelerator)
        if all(one.scaled < 0 for one in gains) and (factor := min(one.zero for one in gains)) > 0:
            found.append(_told(used, factor))
    if len(types) == 1 and rivals and not any(one.candidate.committed_usd_per_hour for one in chosen):
        (name,) = types
        factors = [
            max(one.zero for one in gains)
            for gains in (_gains(moves, around, chosen, rival, name) for rival in rivals)
            if all(one.scaled > 0 for one in gains)
        ]
        if factors and min(factors) > 0:
            found.insert(0, _told(chosen[0], min(factors)))
    return tuple(found)


def share_to_win(problem: PoolProblem) -> float:
    """Share of the present cost below which a type that does not run yet wins: what moving to it must save is off."""
    moves = _Moves.of(problem)
    return min(1.0 - SWITCH_SAVING, 1.0 / (1.0 + moves.factor)) if moves.running else 1.0


def _gains(moves: _Moves, around: _Nodes, chosen: Sequence[Chosen], rival: Sequence[Chosen], name: str) -> list[Line]:
    """What turning to a rival saves beyond what it must, over the price of a type: it turns where all are above 0.

    What others hold costs the same on both sides, but for the idle chips of nodes that are shared with them.
    """
    now, then = around.idle(chosen, rival), around.idle(rival, chosen)
    pays = _cost(chosen, name, {group: own for group, (_, own) in now.items()})
    saves = _cost(chosen, name, {group: usd for group, (usd, _) in now.items()}) - _cost(
        rival, name, {group: usd for group, (usd, _) in then.items()}
    )
    running = [moves.running.get(one.option, 0) for one in rival]
    if not moves.running or all(running):
        return [saves]
    moving = Line(0.0)
    for one, here in zip(rival, running, strict=True):
        arriving = max(0, one.replicas - here)
        rent = arriving * one.candidate.rent_usd_per_hour
        beside = arriving * one.candidate.usd_per_hour - rent
        moving += Line(beside, rent) if one.option.accelerator == name else Line(beside + rent)
    return [saves - pays.times(SWITCH_SAVING), saves - moving.times(moves.factor)]


def _cost(chosen: Sequence[Chosen], name: str, idle: Mapping[Group, float]) -> Line:
    """What a choice costs with these idle chips, over the price of a type; what is owed in any case is not in it."""
    total = sum(one.replicas * payable(one.candidate) for one in chosen) + sum(idle.values())
    scaled = sum(
        one.replicas * (payable(one.candidate) - _beside_rent(one)) for one in chosen if one.option.accelerator == name
    )
    scaled += sum(usd for group, usd in idle.items() if group[0] == name)
    return Line(total - scaled, scaled)


def _beside_rent(one: Chosen) -> float:
    """USD per hour of a replica that does not move with the price of its type."""
    return one.candidate.electricity_usd_per_hour + one.candidate.storage_usd_per_hour


def _told(one: Chosen, factor: float) -> BreakEven:
    return BreakEven(f"{one.option.accelerator} USD per chip-hour", one.candidate.price.usd_per_chip_hour * factor)
