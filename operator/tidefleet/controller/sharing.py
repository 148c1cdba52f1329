"""Limits that pools share: who gets what. Solved beside the loop, which never waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from tidefleet.controller.decide import Share
from tidefleet.planning.coordination import (
    Coordination,
    SharedLimits,
    coordinate,
    exceeded,
    first_come,
)
from tidefleet.planning.fleet import SolverFailed
from tidefleet.planning.problem import PoolPlan, PoolProblem

log = logging.getLogger(__name__)

SOLVER_SECONDS = 20.0
"""Real time that one solution of the fleet may take; the best plan found by then counts, with its bound."""

Plans = Sequence[tuple[PoolProblem, PoolPlan]]


@dataclass(slots=True)
class Sharing:
    """Deals out what pools share.

    While the plans together hold every shared limit, each pool has its own. Where they do not, what runs stays and the
    higher priority comes first, at once; beside the loop the whole fleet is solved, and its answer holds until a
    demand, a price or a limit has changed. A solver that fails changes nothing, and is not asked the same again.
    """

    _worker: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="fleet-plan")
    )
    _asked: Any = None
    _future: Future[Coordination | SolverFailed] | None = None
    _cancel: threading.Event = field(default_factory=threading.Event)
    _answered: Any = None
    _answer: Coordination | None = None
    _failed: Any = None
    why: tuple[str, ...] = ()

    def shares(self, plans: Plans, limits: SharedLimits) -> dict[str, Share]:
        """What each pool may use, by ``namespace/name``; empty while nothing has to be shared."""
        self._collect()
        self.why = exceeded(plans, limits) if limits else ()
        if not self.why:
            self._stop()
            return {}
        question = _question(plans, limits)
        if question not in (self._answered, self._failed):
            self._ask(question, plans, limits)
        if self._answered == question and self._answer is not None:
            return shares_of(self._answer, plans)
        found = first_come(plans, limits)
        if self._failed == question:
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

    def _ask(self, question: object, plans: Plans, limits: SharedLimits) -> None:
        if self._future is not None:
            if question != self._asked:
                self._cancel.set()  # what it solves is no longer asked; the next pass asks anew
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
            self._answered, self._answer = self._asked, answer
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


def _question(plans: Plans, limits: SharedLimits) -> object:
    """What a solution depends on, as a value that can be compared."""
    pools = tuple(
        (
            problem.pool, problem.requests_per_second, problem.minimum, problem.maximum, problem.spare, problem.pinned,
            problem.priority, tuple(sorted(problem.type_caps.items())),
            tuple((one.option, one.usd_per_hour, one.requests_per_second) for one in problem.market.candidates),
        )
        for problem, _ in plans
    )  # fmt: skip
    return pools, tuple(sorted(limits.chips.items())), limits.sites
