"""What of a pool's demand an external API would take cheaper than the last replicas, or at all. Advice, and no more.

Sets: options o, offers e. Parameters: c[o] USD per hour of a replica, f[o] requests/s that it covers, p[e] USD per
request, m[e] most requests/s, D demand, s spare replicas. Replicas n of the plan are taken away one by one (or by as
many as are bought at once), those that save most first, while their c[o] > 3600 p[e] * (what is then not covered any
more), at most m[e], never below the pool's minimum. Demand that limits leave without capacity is told first: it has no
other price.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidefleet.economics.external import ExternalOffer, PerToken
from tidefleet.planning.options import PLANNING_UTILISATION
from tidefleet.planning.problem import Chosen, PoolProblem, Spilled

LEAST_SHARE = 0.01
"""Share of the plan's rent below which a saving is not worth telling."""


@dataclass(frozen=True, slots=True)
class PricedOffer:
    """An offer and what it charges for all of a pool's tokens, USD per hour."""

    offer: ExternalOffer
    usd_per_hour: float


def spill_of(
    problem: PoolProblem, chosen: Sequence[Chosen], shortfall: float, offers: Sequence[PricedOffer]
) -> Spilled | None:
    """The offer that would save most, or serve most of what nothing here can; ``None`` where none is worth it."""
    if problem.pinned is not None or problem.requests_per_second <= 0:
        return None
    priced = [one for one in offers if isinstance(one.offer.billing, PerToken)]
    if shortfall > 0:
        found = [_short(problem, shortfall, one) for one in priced]
        return min(found, key=lambda one: (-one.share, one.usd_per_hour), default=None)
    saved = [one for each in priced if (one := _cheaper(problem, chosen, each)) is not None]
    rent = sum(one.replicas * one.candidate.usd_per_hour for one in chosen)
    best = max(saved, key=lambda one: one.saves_usd_per_hour, default=None)
    return best if best is not None and best.saves_usd_per_hour > LEAST_SHARE * rent else None


def _most(problem: PoolProblem, offer: ExternalOffer) -> float:
    return min(problem.requests_per_second, offer.requests_per_minute / 60.0)


def _short(problem: PoolProblem, shortfall: float, one: PricedOffer) -> Spilled:
    share = min(shortfall, _most(problem, one.offer) / problem.requests_per_second)
    return Spilled(one.offer.name, share, share * one.usd_per_hour, 0.0)


def _cheaper(problem: PoolProblem, chosen: Sequence[Chosen], one: PricedOffer) -> Spilled | None:
    rate, most = problem.requests_per_second, _most(problem, one.offer)
    per_request = one.usd_per_hour / rate
    counts = [each.replicas for each in chosen]
    covers = [each.candidate.requests_per_second * PLANNING_UTILISATION for each in chosen]
    at_once = [each.candidate.multiple for each in chosen]
    rents = [each.candidate.usd_per_hour - each.candidate.committed_usd_per_hour for each in chosen]

    def outside(numbers: Sequence[int]) -> float:
        largest = max((cover for n, cover in zip(numbers, covers, strict=True) if n), default=0.0)
        inside = sum(n * cover for n, cover in zip(numbers, covers, strict=True)) - problem.spare * largest
        return max(0.0, rate - max(0.0, inside))

    saved = best_saved = spilled = 0.0
    now = 0.0
    while sum(counts) > problem.minimum:
        tried = []
        for i, n in enumerate(counts):
            fewer = [m - (j == i) * at_once[i] for j, m in enumerate(counts)]
            if n >= at_once[i] and sum(fewer) >= problem.minimum and outside(fewer) <= most + 1e-9:
                tried.append((at_once[i] * rents[i] - (outside(fewer) - now) * per_request, fewer))
        if not tried:
            break
        gain, counts = max(tried)
        now, saved = outside(counts), saved + gain
        if saved > best_saved:  # a first replica may not pay, and the ones after it make up for it
            best_saved, spilled = saved, now
    if best_saved <= 0 or spilled <= 0:
        return None
    return Spilled(one.offer.name, spilled / rate, spilled * per_request, best_saved)
