"""Whole nodes: which pools should fill each other's, solved beside the loop, and what is idle, told to each pool."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from tidefleet.api import AcceleratorType
from tidefleet.controller.decide import Share
from tidefleet.controller.decision import Decision
from tidefleet.controller.sharing import SOLVER_SECONDS, Plans, Question, question_of
from tidefleet.planning.coordination import SharedLimits
from tidefleet.planning.filling import Filling, fill
from tidefleet.planning.fleet import SolverFailed
from tidefleet.planning.nodes import Group, idle_nodes, is_worth_a_plan, standing
from tidefleet.planning.problem import Chosen
from tidefleet.planning.solution import chip_group

log = logging.getLogger(__name__)

START_SECONDS = 0.3
"""Real time that a pass waits for an answer when a pool is about to start its first replicas: small fleets have one by
then, and replicas that start where they will not stay are paid for until their dwell has passed."""


def node_sizes(kinds: Iterable[AcceleratorType]) -> dict[str, int]:
    """Chips of a node by type, where that is known."""
    return {kind.name: int(kind.spec.chips_per_node) for kind in kinds if kind.spec.chips_per_node}


def held_by_watched(decisions: Iterable[Decision]) -> dict[Group, int]:
    """Chips that run for pools that are only watched, by accelerator and capacity type."""
    found: dict[Group, int] = {}
    for decision in decisions:
        for one in () if decision.write else decision.view.served:
            group = (one.option.accelerator, one.option.capacity_type)
            found[group] = found.get(group, 0) + one.desired * one.option.chips
    return found


@dataclass(slots=True)
class NodeFilling:
    """Has pools fill each other's part-filled nodes.

    While little rent is idle on the nodes that all pools' own plans stand on, or their sizes are not known, each pool
    has its own plan. Else the whole fleet is solved beside the loop, and its answer stays in force until there is
    another, as long as pools, options and bounds are the same. Another is asked for when demands, prices or limits have
    moved on, when a pool's own plan is of other options, or when a dwell has passed. The loop waits for none of them,
    but a moment for one that decides where a pool's first replicas start. A solver that fails is not asked
    the like again, and leaves what was in force.
    """

    _worker: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="node-plan")
    )
    _cancel: threading.Event = field(default_factory=threading.Event)
    _future: Future[Filling | SolverFailed] | None = None
    _asked: tuple[Question, object] | None = None
    _answered: tuple[Question, object] | None = None
    _failed: tuple[Question, object] | None = None
    _answer: Filling | None = None

    def shares(self, plans: Plans, limits: SharedLimits) -> dict[str, Share]:
        """What each pool should use, by ``namespace/name``; empty for pools whose own plans are as good."""
        self._collect()
        chosen = {problem.pool: plan.chosen for problem, plan in plans}
        if not limits.nodes or not is_worth_a_plan(chosen, limits.nodes, limits.held):
            return {}
        question = question_of(plans, limits)
        turn = tuple(
            (problem.may_switch, frozenset(chip_group(one.option) for one in plan.chosen)) for problem, plan in plans
        )
        if not _alike(question, turn, self._answered) and not _alike(question, turn, self._failed):
            self._ask(question, turn, plans, limits)
            if self._future is not None and any(plan.chosen and not problem.running for problem, plan in plans):
                with contextlib.suppress(TimeoutError):
                    self._future.exception(START_SECONDS)
                self._collect()
        if self._answer is None or self._answered is None or self._answered[0].parts != question.parts:
            return {}
        return steered_shares(self._answer, plans)

    def come_out_short(self) -> None:
        """An answer left a pool short of capacity: the next pass asks for another."""
        self._answered = self._answer = None

    def settled(self, timeout: float) -> None:
        """Wait until the solution in progress, if any, is there."""
        if self._future is not None:
            self._future.exception(timeout)
            self._collect()

    def close(self) -> None:
        """End the solver."""
        self._cancel.set()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _ask(self, question: Question, turn: object, plans: Plans, limits: SharedLimits) -> None:
        if self._future is not None:
            if self._asked is None or self._asked[0].parts != question.parts:
                self._cancel.set()  # the next pass asks anew
            return
        self._cancel, self._asked = threading.Event(), (question, turn)
        self._future = self._worker.submit(
            fill, tuple(plans), limits, clock=time.monotonic, seconds=SOLVER_SECONDS, cancelled=self._cancel.is_set
        )

    def _collect(self) -> None:
        if self._future is None or not self._future.done():
            return
        future, self._future = self._future, None
        if self._cancel.is_set():
            return
        try:
            answer = future.result()
        except Exception as error:  # the solver is a library: whatever it raises must not stop the loop
            log.exception("planning whole nodes failed")
            answer = SolverFailed(f"{type(error).__name__}: {error}")
        if isinstance(answer, SolverFailed):
            log.warning("planning whole nodes failed", extra={"why": answer.why})
            self._failed = self._asked
            return
        self._answered, self._answer, self._failed = self._asked, answer, None
        log.info(
            "whole nodes planned",
            extra={
                "usdPerHour": answer.usd_per_hour,
                "alone": answer.alone_usd_per_hour,
                "bound": answer.bound_usd_per_hour,
                "proven": answer.proven,
            },
        )


def _alike(question: Question, turn: object, other: tuple[Question, object] | None) -> bool:
    return other is not None and question.is_like(other[0]) and turn == other[1]


def steered_shares(found: Filling, plans: Plans) -> dict[str, Share]:
    """What pools should use, by ``namespace/name``; pools whose own plans are as good are not in it.

    Nor is a pool that would have to leave all that it runs before its dwell has passed.
    """
    shares: dict[str, Share] = {}
    for problem, _ in plans:
        caps = {group: cap for (pool, group), cap in found.caps.items() if pool == problem.pool}
        runs = {chip_group(option) for option, n in problem.running.items() if n}
        may_move = problem.may_switch or not runs or any(caps.get(group, 1) > 0 for group in runs)
        if caps and may_move:
            shares[problem.pool] = Share(steered=caps, steered_because=found.because)
    return shares


def with_idle(
    decisions: Sequence[Decision], nodes: Mapping[str, int], *, on_paper: bool = False
) -> tuple[Decision, ...]:
    """The decisions, with the nodes that their plans stand on and what of these is idle.

    A pool that is only watched stands where it runs; its plan is told as if it were carried out beside the others.

    Args:
        nodes: chips of a node by type.
        on_paper: every plan counts as carried out, and nothing runs.
    """
    chosen: dict[str, Sequence[Chosen]] = {
        one.plan.pool: one.plan.chosen for one in decisions if one.plan is not None and (one.write or on_paper)
    }
    held = {} if on_paper else held_by_watched(decisions)
    together = standing(chosen, nodes, held)
    result = []
    for one in decisions:
        if one.plan is None:
            result.append(one)
            continue
        found = together
        if not one.write and not on_paper:
            others = {group: held[group] - mine for group, mine in held_by_watched([one]).items()}
            found = standing({**chosen, one.plan.pool: one.plan.chosen}, nodes, {**held, **others})
        result.append(replace(one, plan=replace(one.plan, nodes=idle_nodes(one.plan.pool, found))))
    return tuple(result)
