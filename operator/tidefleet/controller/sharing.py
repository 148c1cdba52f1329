"""Limits that pools share: who gets what. Solved beside the loop, which never waits for it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from tidefleet.controller.beside import Beside
from tidefleet.controller.decide import Share
from tidefleet.planning.coordination import (
    Coordination,
    SharedLimits,
    carried_on,
    coordinate,
    exceeded,
    first_come,
    kilowatts,
)
from tidefleet.planning.problem import PoolPlan, PoolProblem

SOLVER_SECONDS = 20.0
"""Real time that one solution of the fleet may take; the best plan found by then counts, with its bound."""

DEMAND_STEP = 0.1
"""A solution answers questions whose demands, capacities and limits differ from its own by no more than this share."""

PRICE_STEP = 0.03
"""The same for prices, which decide who gets what."""

Plans = Sequence[tuple[PoolProblem, PoolPlan]]
Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What a solution of the fleet depends on.

    Attributes:
        parts: pools, their bounds, options and limits by name: all that is not a matter of degree.
        amounts: demands, capacities of replicas, and limits; ``prices`` rents of replicas, USD per hour.
    """

    parts: object
    amounts: Numbers
    prices: Numbers

    def is_like(self, other: Question | None) -> bool:
        """Whether a solution of the other answers this one as well."""
        return (
            other is not None
            and self.parts == other.parts
            and _within(self.amounts, other.amounts, DEMAND_STEP)
            and _within(self.prices, other.prices, PRICE_STEP)
        )


@dataclass(slots=True)
class Sharing(Beside[Question, Coordination]):
    """Deals out what pools share.

    While the plans together hold every shared limit, each pool has its own. Where they do not, what runs stays and the
    higher priority comes first, at once, and beside the loop the whole fleet is solved. Its answer stays in force as
    long as it holds the limits: demand steps in every pass, and what a step needs beyond it comes from what it left, by
    priority, until the next answer. Another is asked for when demands, prices or limits have moved by more than
    ``DEMAND_STEP`` or ``PRICE_STEP``. A solver that fails changes nothing, and is not asked the like again.
    """

    PLANNED: ClassVar[str] = "fleet planned"
    FAILED: ClassVar[str] = "planning the fleet failed"

    why: tuple[str, ...] = ()

    def shares(self, plans: Plans, limits: SharedLimits) -> dict[str, Share]:
        """What each pool may use, by ``namespace/name``; empty while nothing has to be shared."""
        self._collect()
        self.why = exceeded(plans, limits) if limits else ()
        if not self.why:
            self._stop()
            return {}
        question = question_of(plans, limits)
        answered, failed = question.is_like(self._answered), question.is_like(self._failed)
        if not answered and not failed:
            self._begin(question, plans, limits)
        same = self._answered is not None and self._answered.parts == question.parts
        if self._answer is not None and (same or not failed):
            carried = carried_on(plans, limits, self._answer)
            if carried is not None:
                prices = self._answer.shadow_prices if answered else ()
                return shares_of(replace(carried, shadow_prices=prices), plans)
            self._answered = self._answer = None  # it passes a limit of now: what runs and priority decide again
            if answered:
                self._begin(question, plans, limits)
        found = first_come(plans, limits)
        if failed:
            found = replace(found, reasons={key: f"{why}, by priority" for key, why in found.reasons.items()})
        return shares_of(found, plans)

    def _begin(self, question: Question, plans: Plans, limits: SharedLimits) -> None:
        problems = [problem for problem, _ in plans]
        self._ask(question, partial(coordinate, problems, limits, clock=time.monotonic, seconds=SOLVER_SECONDS))

    def _is_akin(self, question: Question, other: Question) -> bool:
        return question.parts == other.parts

    def _told(self, answer: Coordination) -> Mapping[str, Any]:
        return {"usdPerHour": answer.usd_per_hour, "bound": answer.bound_usd_per_hour, "proven": answer.proven}

    def _stop(self) -> None:
        self._cancel.set()
        self._answered = self._answer = None


def shares_of(found: Coordination, plans: Plans) -> dict[str, Share]:
    """What each pool may use, by ``namespace/name``; a pool that no shared limit concerns is not in it."""
    shares: dict[str, Share] = {}
    for problem, _ in plans:
        caps = {name: cap for (pool, name), cap in found.caps.items() if pool == problem.pool}
        if caps:
            reasons = {name: found.reasons[problem.pool, name] for name in caps}
            shares[problem.pool] = Share(caps, reasons, found.shadow_prices)
    return shares


def question_of(plans: Plans, limits: SharedLimits) -> Question:
    """What a solution for these plans and limits depends on."""
    pools = tuple(
        (
            problem.pool, problem.requests_per_second > 0, problem.minimum, problem.maximum, problem.spare,
            problem.pinned, problem.priority, problem.spot_share, tuple(sorted(problem.type_caps.items())),
            tuple((one.option, one.multiple) for one in problem.market.candidates),
            tuple(one.bytes_per_replica for one in problem.tiers.choices) if problem.tiers is not None else (),
        )
        for problem, _ in plans
    )  # fmt: skip
    options = [one for problem, _ in plans for one in problem.market.candidates]
    chips = sorted(limits.chips.items())
    return Question(
        parts=(
            pools,
            tuple(name for name, _ in chips),
            tuple((one.name, one.pue, one.types) for one in limits.sites),
            tuple(sorted(limits.nodes.items())),
            tuple(sorted(limits.held)),
        ),
        amounts=(
            *(problem.requests_per_second for problem, _ in plans),
            *(one.requests_per_second for one in options),
            *(kilowatts(one) for one in options),
            *(float(limit) for _, limit in chips),
            *(one.limit_kw for one in limits.sites),
            *(float(chips) for _, chips in sorted(limits.held.items())),
        ),
        prices=tuple(one.usd_per_hour for one in options),
    )


def _within(one: Numbers, other: Numbers, share: float) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= share * max(abs(a), abs(b)) for a, b in zip(one, other, strict=True)
    )
