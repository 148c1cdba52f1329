"""What the limits of a plan cost: the saving that one more unit of each would bring, solved again with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tidefleet.planning.problem import PoolProblem, ShadowPrice
from tidefleet.planning.solution import Solution, solve
from tidefleet.planning.words import brief

_LEAST = 0.005


def shadow_prices(problem: PoolProblem, solution: Solution) -> tuple[ShadowPrice, ...]:
    """What the pool's own limits cost that bind, dearest first.

    Each limit is lifted by its smallest useful step (one replica's chips of a type, one replica) and the pool is solved
    again: the difference is exact, in whole replicas. A limit that lets demand go short is told by the demand that one
    more step would carry, through the condition CapacityAvailable, and not here.
    """
    if problem.pinned is not None or not problem.market.candidates or solution.shortfall > 0:
        return ()
    found = []
    for words, lifted in _lifted(problem):
        after = solve(lifted, problem.market.candidates)
        saving = solution.cost - after.cost
        if saving > _LEAST * max(solution.cost, 1e-9) and after.shortfall <= solution.shortfall:
            found.append(ShadowPrice(f"{words} would save ${brief(saving)}/h", saving))
    return tuple(sorted(found, key=lambda one: -one.usd_per_hour))


def _lifted(problem: PoolProblem) -> Iterable[tuple[str, PoolProblem]]:
    for name, cap in problem.type_caps.items():
        sizes = [c.option.chips * c.multiple for c in problem.market.candidates if c.option.accelerator == name]
        if sizes:
            more = min(sizes)
            caps = {**problem.type_caps, name: cap + more}
            yield f"{'one' if more == 1 else more} more {name}", replace(problem, type_caps=caps)
    yield "one replica more in replicas.max", replace(problem, maximum=problem.maximum + 1)
    if problem.minimum > 1:
        yield "one replica less in replicas.min", replace(problem, minimum=problem.minimum - 1)
    if problem.spare:
        yield "one spare replica less", replace(problem, spare=problem.spare - 1)
