"""Limits that pools share: who gets what. Solved beside the loop, which never waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

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
from tidefleet.planning.fleet import SolverFailed
from tidefleet.planning.problem import PoolPlan, PoolProblem

log = logging.getLogger(__name__)

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
class Sharing:
    """Deals out what pools share.

    While the plans together hold every shared limit, each pool has its own. Where they do not, what runs stays and the
    higher priority comes first, at once, and beside the loop the whole fleet is solved. Its answer stays in force as
    long as it holds the limits: demand steps in every pass, and what a step needs beyond it comes from what it left, by
    priority, until the next answer. Another is asked for when demands, prices or limits have moved by more than
    ``DEMAND_STEP`` or ``PRICE_STEP``. A solver that fails changes nothing, and is not asked the like again.
    """

    _worker: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="fleet-plan")
    )
    _asked: Question | None = None
    _future: Future[Coordination | SolverFailed] | None = None
    _cancel: threading.Event = field(default_factory=threading.Event)
    _answered: Question | None = None
    _answer: Coordination | None = None
    _failed: Question | None = None
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
            self._ask(question, plans, limits)
        same = self._answered is not None and self._answered.parts == question.parts
        if self._answer is not None and (same or not failed):
            carried = carried_on(plans, limits, self._answer)
            if carried is not None:
                prices = self._answer.shadow_prices if answered else ()
                return shares_of(replace(carried, shadow_prices=prices), plans)
            self._answered = self._answer = None  # it passes a limit of now: what runs and priority decide again
            if answered:
                self._ask(question, plans, limits)
        found = first_come(plans, limits)
        if failed:
            found = replace(found, reasons={key: f"{why}, by priority" for key, why in found.reasons.items()})
        return shares_of(found, plans)

    def settled(self, timeout: float) -> None:
        """Wait until the solution in progress, if any, is there."""
        if self._future is not None:
            self._future.exception(timeout)
            self._collect()

    def close(self) -> None:
        """End the solver."""
        self._stop()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _ask(self, question: Question, plans: Plans, limits: SharedLimits) -> None:
        """Begin a solution, unless one is in progress.

        One in progress is called off only when it is about other pools, options or limits. Where demand has moved on,
        its answer is still the best there will be: one begun now would not be there sooner.
        """
        if self._future is not None:
            if self._asked is None or question.parts != self._asked.parts:
                self._cancel.set()  # the next pass asks anew
            return
        self._cancel = threading.Event()
        self._asked = question
        problems = [problem for problem, _ in plans]
        self._future = self._worker.submit(
            coordinate,
            problems,
            limits,
            clock=time.monotonic,
            seconds=SOLVER_SECONDS,
            cancelled=self._cancel.is_set,
        )

    def _collect(self) -> None:
        """Take over a finished answer, unless it was called off: then neither it nor a failure says anything."""
        if self._future is None or not self._future.done():
            return
        future, self._future = self._future, None
        if self._cancel.is_set():
            return
        try:
            answer = future.result()
        except Exception:  # the solver is a library: whatever it raises must not stop the loop
            log.exception("planning the fleet failed")
            self._failed = self._asked
            return
        if isinstance(answer, SolverFailed):
            log.warning("planning the fleet failed", extra={"why": answer.why})
            self._failed = self._asked
        else:
            self._answered, self._answer, self._failed = self._asked, answer, None
            log.info(
                "fleet planned",
                extra={"usdPerHour": answer.usd_per_hour, "bound": answer.bound_usd_per_hour, "proven": answer.proven},
            )

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
            tuple(one.option for one in problem.market.candidates),
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
