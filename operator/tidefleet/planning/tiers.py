"""How large the KV tiers of a pool pay for themselves: the choices of sizes, and what serves the pool under each.

Sets: options o, tiers i (fastest first), choices h of a size for each tier. Parameters: S[h,i] bytes for a replica,
T[i] USD per byte and hour, D[o] tokens of KV that stay on a replica's chips beside its running requests, k[o] KV bytes
of a token, f[o] requests/s of a replica, F of the pool, h(tokens) the reuse-distance curve of the pool.
A replica that serves f of F requests sees a distance of t tokens of the pool as t f/F of its own, where sessions return
to their replica; so its chips and the tiers up to i find h((D + sum S[h,..i] / k) F/f) of prompt tokens, and tier i the
difference to those before it. What is found is fetched where that is faster than prefilling it again
(``tidefleet.economics.load``). A replica of o then costs c[o] + sum S[h,i] T[i] and serves f[o,h] requests/s: keeping a
block is worth it as long as P(reuse) * recompute exceeds storage and fetch, and the plan that is cheapest with its
tiers counted is where it stops being so.

A choice is the same for all replicas of a pool, since its engines are set up alike. Sizes are parts of what each tier
may have at most.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tidefleet.economics.memory import GIB, kv_bytes_per_token
from tidefleet.economics.owned import HOURS_PER_MONTH
from tidefleet.economics.serving import Estimate
from tidefleet.economics.shape import KvTier, TierHit
from tidefleet.planning.evidence import NO_EVIDENCE, Evidence
from tidefleet.planning.options import (
    PLANNING_UTILISATION,
    Candidate,
    ClassDemand,
    EstimateMemo,
    Market,
    Offer,
    Option,
    electricity_usd_per_hour,
    mixed_rate,
    nearer,
    owner_kilowatts,
)
from tidefleet.planning.problem import (
    Chosen,
    PoolProblem,
    SizedTier,
    TierChoice,
    TierChoices,
    TierPlan,
)
from tidefleet.planning.reuse_curve import ReuseCurve
from tidefleet.planning.solution import Solution
from tidefleet.planning.words import brief

PARTS = (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Sizes that are tried, as parts of the largest: the same for any number of tiers, so that one more costs no more."""

MOST_OPTIONS = 12
"""Options that are tried with tiers: what runs, and those that are cheapest per request without."""

STEP = 0.01
"""Hit shares are rounded down to this, so that estimates are found again from one plan to the next."""

_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class TierLimit:
    """A tier, the bytes that it may have for a replica, and whether the plan says how many (else it has them).

    ``over_room`` is how many times the KV room on the chips a size must exceed, for engines that start with no less;
    ``rank_bytes`` what they take a whole multiple of on each tensor-parallel rank, 0 for any size.
    """

    tier: KvTier
    most_bytes: float
    planned: bool = True
    over_room: float = 0.0
    rank_bytes: float = 0.0

    def started(self, size: float, ranks: int) -> float:
        """Bytes of a replica that engines start with where they are asked for a size."""
        unit = self.rank_bytes * ranks
        return math.floor(size / unit + 1e-9) * unit if unit else size


def usd_per_byte_hour(tier: KvTier) -> float:
    """T, the rent of a tier."""
    return tier.usd_per_gib_month / GIB / HOURS_PER_MONTH


def rent_usd_per_hour(tiers: Sequence[KvTier], sizes: Sequence[float]) -> float:
    """What the tiers of one replica cost at these sizes in bytes, in USD per hour: for plan and bill alike."""
    return sum(size * usd_per_byte_hour(tier) for tier, size in zip(tiers, sizes, strict=True))


def with_rent(market: Market, usd_per_hour: float) -> Market:
    """The market whose replicas each pay this rent for KV tiers beside what they cost."""
    if not usd_per_hour:
        return market
    found = tuple(
        replace(
            one,
            usd_per_hour=one.usd_per_hour + usd_per_hour,
            storage_usd_per_hour=one.storage_usd_per_hour + usd_per_hour,
        )
        for one in market.candidates
    )
    return replace(market, candidates=found)


def tier_choices(
    market: Market,
    limits: Sequence[TierLimit],
    classes: Sequence[ClassDemand],
    curves: Sequence[ReuseCurve],
    *,
    requests_per_second: float,
    offers: Sequence[Offer],
    memo: EstimateMemo,
    evidence: Evidence = NO_EVIDENCE,
    running: Mapping[Option, int] | None = None,
    most_oversubscription: float = math.inf,
    now: tuple[float, ...] | None = None,
) -> TierChoices:
    """The choices of sizes for a pool, and what can serve it under each.

    Args:
        limits: the tiers, fastest first.
        curves: of each class, in the order of the classes.
        requests_per_second: of the pool.
        running: what runs stays among the options.
        most_oversubscription: KV in all tiers over the room on the chips, at most.
        now: the sizes in force.
    """
    by_name = {one.accelerator.name: one for one in offers}
    some = _worth_trying(market.candidates, running or {})
    sizes = [[part * one.most_bytes for part in PARTS] if one.planned else [one.most_bytes] for one in limits]
    choices = []
    for chosen in itertools.product(*sizes):
        found: list[Candidate] = []
        hits: dict[Option, tuple[float, ...]] = {}
        ratios: dict[Option, float] = {}
        for one in some:
            made = _with_tiers(
                one, limits, chosen, classes, curves,
                pool_rate=requests_per_second, offer=by_name[one.option.accelerator], memo=memo, evidence=evidence,
            )  # fmt: skip
            if made is None or made[2] > most_oversubscription * (1 + 1e-9):
                continue
            candidate, hits[one.option], ratios[one.option] = made
            found.append(candidate)
        if found:
            choices.append(TierChoice(chosen, replace(market, candidates=tuple(found)), hits, ratios))
    source = "; ".join(dict.fromkeys(one.source for one in curves))
    kept = tuple(one for one, stays in zip(choices, _undominated(choices, some, now), strict=True) if stays)
    return TierChoices(tuple(one.tier for one in limits), tuple(one.most_bytes for one in limits), kept, source, now)


def _undominated(
    choices: Sequence[TierChoice], options: Sequence[Candidate], now: tuple[float, ...] | None
) -> list[bool]:
    """Whether a choice is worth a thought: no other one serves as much for as little with every option.

    Nor do they need a tier that it does without, so that what a plan costs without a tier stays known. Sizes in force
    stay.
    """
    rate = np.zeros((len(choices), len(options)))
    usd = np.full((len(choices), len(options)), np.inf)
    at = {one.option: i for i, one in enumerate(options)}
    for h, one in enumerate(choices):
        for each in one.market.candidates:
            rate[h, at[each.option]], usd[h, at[each.option]] = each.requests_per_second, each.usd_per_hour
    size = np.array([one.bytes_per_replica for one in choices]).reshape(len(choices), -1)
    order = np.arange(len(choices))
    found = []
    for h, one in enumerate(choices):
        beats = (
            (rate >= rate[h]).all(axis=1) & (usd <= usd[h]).all(axis=1) & (size[:, size[h] == 0.0] == 0.0).all(axis=1)
        )
        equal = (rate == rate[h]).all(axis=1) & (usd == usd[h]).all(axis=1)
        smaller = (size.sum(axis=1) < size[h].sum()) | ((size.sum(axis=1) == size[h].sum()) & (order < h))
        found.append(one.bytes_per_replica == now or not (beats & (~equal | smaller)).any())
    return found


def _worth_trying(candidates: Sequence[Candidate], running: Mapping[Option, int]) -> list[Candidate]:
    """Some options, in the order of the market."""
    ranked = sorted(candidates, key=lambda one: (not running.get(one.option), one.usd_per_request))
    kept = {one.option for one in ranked[:MOST_OPTIONS]}
    return [one for one in candidates if one.option in kept and one.estimates]


def _with_tiers(
    base: Candidate,
    limits: Sequence[TierLimit],
    sizes: Sequence[float],
    classes: Sequence[ClassDemand],
    curves: Sequence[ReuseCurve],
    *,
    pool_rate: float,
    offer: Offer,
    memo: EstimateMemo,
    evidence: Evidence,
) -> tuple[Candidate, tuple[float, ...], float] | None:
    """The option with these tiers, mean hit shares, and oversubscription.

    ``None`` where it misses a promise, or its engine would not start.
    """
    replica = base.estimates[0].replica
    per_token = kv_bytes_per_token(replica.model, replica.kv, replica.tp)
    room = max(0.0, base.estimates[0].memory.kv_room) * replica.chips
    if any(
        size > 0.0 and one.started(size, replica.tp) <= one.over_room * room
        for size, one in zip(sizes, limits, strict=True)
    ):
        return None
    kept = max(0.0, room / per_token - _running_tokens(base.estimates, classes))
    correction = evidence.correction(replica, offer.profiles)
    storage = rent_usd_per_hour([one.tier for one in limits], sizes)
    estimates, rate = base.estimates, base.requests_per_second
    shares: list[tuple[float, ...]] = [tuple(0.0 for _ in limits)] * len(classes)
    for _ in range(_ROUNDS if any(sizes) else 0):
        crowd = max(1.0, pool_rate / (rate * PLANNING_UTILISATION))
        shares = [
            _hits(curve, [kept * crowd, *(size / per_token * crowd for size in sizes)], one.shape.cached_share)
            for one, curve in zip(classes, curves, strict=True)
        ]
        found = [
            memo.get(
                replica,
                replace(
                    one.shape,
                    tier_hits=tuple(
                        TierHit(limit.tier, hit) for limit, hit in zip(limits, mine, strict=True) if hit > 0
                    ),
                ),
                nearer(one.objectives, offer.round_trip_seconds),
                correction,
            )
            for one, mine in zip(classes, shares, strict=True)
        ]
        kept_estimates = tuple(one for one in found if isinstance(one, Estimate))
        if len(kept_estimates) < len(found):
            return None
        estimates = kept_estimates
        rate = max(base.requests_per_second, mixed_rate(classes, estimates) * base.price.availability)
    rent = base.rent_usd_per_hour
    power = owner_kilowatts(offer, base.option.capacity_type, classes, estimates)
    paid = electricity_usd_per_hour(offer, power, rent)
    candidate = replace(
        base,
        requests_per_second=rate,
        usd_per_hour=rent + paid + storage,
        estimates=estimates,
        electricity_usd_per_hour=paid,
        owner_kilowatts=power,
        storage_usd_per_hour=storage,
    )
    prompt = [one.share * one.shape.input_mean for one in classes]
    mean = tuple(
        sum(weight * mine[i] for weight, mine in zip(prompt, shares, strict=True)) / sum(prompt)
        for i in range(len(limits))
    )
    return candidate, mean, 1.0 + sum(sizes) / room if room > 0 else math.inf


def _running_tokens(estimates: Sequence[Estimate], classes: Sequence[ClassDemand]) -> float:
    """Tokens of KV that running requests hold, at the operating points: prompts, and half of their answers."""
    return sum(
        one.share * each.batch * (one.shape.input_mean + one.shape.output_mean / 2.0)
        for one, each in zip(classes, estimates, strict=True)
    )


def _hits(curve: ReuseCurve, tokens: Sequence[float], cached_share: float) -> tuple[float, ...]:
    """Share of prompt tokens that each tier adds to those before it; ``tokens`` are of the chips, then of each tier.

    What the class is found on the chips is a fact; all together never find more than comes again at all.
    """
    reached = [curve.share(one) for one in itertools.accumulate(tokens)]
    left = max(0.0, curve.most - cached_share)
    found = []
    for before, after in itertools.pairwise(reached):
        hit = math.floor(min(after - before, left) / STEP + 1e-9) * STEP
        found.append(hit)
        left -= hit
    return tuple(found)


def frozen(problem: PoolProblem, index: int) -> PoolProblem:
    """The pool with its tiers as one choice has them; as it is where ``index`` is -1."""
    if problem.tiers is None or index < 0:
        return replace(problem, tiers=None)
    return replace(problem, market=problem.tiers.choices[index].market, tiers=None)


def sized(
    choices: TierChoices, solutions: Sequence[tuple[Solution, Sequence[Chosen]]], index: int, *, counted: bool
) -> TierPlan:
    """The sizes of a choice as they are told.

    Args:
        solutions: what is cheapest under each choice.
        index: the choice taken.
    """
    choice, (solution, chosen) = choices.choices[index], solutions[index]
    replicas = sum(one.replicas for one in chosen)
    covered = sum(one.replicas * one.candidate.requests_per_second for one in chosen)
    tiers = []
    for i, (tier, most) in enumerate(zip(choices.tiers, choices.most_bytes, strict=True)):
        hit = sum(one.replicas * one.candidate.requests_per_second * choice.hit_shares[one.option][i] for one in chosen)
        size = choice.bytes_per_replica[i]
        without = [
            other.cost
            for one, (other, _) in zip(choices.choices, solutions, strict=True)
            if not one.bytes_per_replica[i] and _ranked(other)[:2] <= _ranked(solution)[:2]
        ]
        tiers.append(
            SizedTier(
                medium=tier.medium,
                bytes_per_replica=size,
                most_bytes=most,
                hit_share=hit / covered if covered > 0 else 0.0,
                storage_usd_per_hour=replicas * rent_usd_per_hour([tier], [size]),
                saves_usd_per_hour=max(0.0, min(without) - solution.cost) if without and size else 0.0,
            )
        )
    ratios = [choice.ratios[one.option] for one in chosen]
    least = min(range(len(solutions)), key=lambda i: sum(choices.choices[i].bytes_per_replica))
    bare = solutions[least][0]
    saves = max(0.0, bare.cost - solution.cost) if _ranked(bare)[:2] <= _ranked(solution)[:2] else 0.0
    return TierPlan(tuple(tiers), counted, index if counted else -1, min(ratios, default=1.0), choices.source, saves)


def best_choice(choices: TierChoices, solutions: Sequence[Solution], *, saving: float) -> int:
    """The choice that is cheapest, the smaller sizes of equal ones; the sizes in force unless others save enough.

    Args:
        saving: least share of the cost that a change of sizes must save: it restarts every engine.
    """
    order = sorted(
        range(len(solutions)),
        key=lambda i: (*_ranked(solutions[i]), sum(choices.choices[i].bytes_per_replica)),
    )
    best = order[0]
    for i, one in enumerate(choices.choices):
        if one.bytes_per_replica == choices.now and _ranked(solutions[i])[:2] <= _ranked(solutions[best])[:2]:
            return i if solutions[i].cost <= solutions[best].cost * (1 + saving) else best
    return best


def _ranked(one: Solution) -> tuple[float, int, float]:
    """Solutions in the order of what counts first; costs that differ by less than a millionth are equal."""
    return round(one.shortfall, 9), one.spare_missing, float(f"{one.cost:.6g}")


def describe_tier(one: SizedTier, *, counted: bool) -> str:
    """A tier in words, e.g. ``Host 64 GiB a replica: 18% of prompt tokens, $0.2/h, saves $3.1/h``."""
    most = f"{brief(one.most_bytes / GIB)} GiB"
    if not one.bytes_per_replica:
        return f"{one.medium}: no size up to {most} a replica pays for itself"
    size = f"{brief(one.bytes_per_replica / GIB)} of {most} a replica"
    would = "" if counted else "would "
    return (
        f"{one.medium}: {size} {would}find{'s' if counted else ''} {one.hit_share:.0%} of prompt tokens for "
        f"${brief(one.storage_usd_per_hour)}/h and {would}save{'s' if counted else ''} "
        f"${brief(one.saves_usd_per_hour)}/h"
    )
