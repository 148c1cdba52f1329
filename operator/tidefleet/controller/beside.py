"""A solver at work beside the loop, which never waits for it: one question at a time, and the last answer."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from tidefleet.planning.fleet import SolverFailed

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(slots=True)
class Beside(ABC, Generic[Q, A]):
    """Asks a solver in a thread of its own and keeps its last answer, with the question that it answers.

    A solver that fails changes nothing: its question is remembered as one that failed, and the last answer stays.
    """

    PLANNED: ClassVar[str]
    FAILED: ClassVar[str]
    """What is logged when an answer is there, and when a solver failed."""

    _worker: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="fleet-plan")
    )
    _cancel: threading.Event = field(default_factory=threading.Event)
    _future: Future[A | SolverFailed] | None = None
    _asked: Q | None = None
    _answered: Q | None = None
    _answer: A | None = None
    _failed: Q | None = None

    @abstractmethod
    def _is_akin(self, question: Q, other: Q) -> bool:
        """Whether both are about the same pools, options and limits, whatever their amounts."""

    @abstractmethod
    def _told(self, answer: A) -> Mapping[str, Any]:
        """What is logged of an answer."""

    def settled(self, timeout: float) -> None:
        """Wait until the solution in progress, if any, is there.

        Raises:
            TimeoutError: it is not by then.
        """
        if self._future is not None:
            self._future.exception(timeout)
            self._collect()

    def close(self) -> None:
        """End the solver."""
        self._cancel.set()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _ask(self, question: Q, solve: Callable[..., A | SolverFailed]) -> None:
        """Begin a solution, unless one is in progress.

        One in progress is called off only when it is about other pools, options or limits. Where demand has moved on,
        its answer is still the best there will be: one begun now would not be there sooner.

        Args:
            solve: called beside the loop, with ``cancelled``, which says whether it is called off.
        """
        if self._future is not None:
            if self._asked is None or not self._is_akin(question, self._asked):
                self._cancel.set()  # the next pass asks anew
            return
        self._cancel, self._asked = threading.Event(), question
        self._future = self._worker.submit(solve, cancelled=self._cancel.is_set)

    def _collect(self) -> None:
        """Take over a finished answer, unless it was called off: then neither it nor a failure says anything."""
        if self._future is None or not self._future.done():
            return
        future, self._future = self._future, None
        if self._cancel.is_set():
            return
        log = logging.getLogger(type(self).__module__)
        try:
            answer = future.result()
        except Exception:  # the solver is a library: whatever it raises must not stop the loop
            log.exception(self.FAILED)
            self._failed = self._asked
            return
        if isinstance(answer, SolverFailed):
            log.warning(self.FAILED, extra={"why": answer.why})
            self._failed = self._asked
            return
        self._answered, self._answer, self._failed = self._asked, answer, None
        log.info(self.PLANNED, extra=self._told(answer))
