"""Whole nodes: which pools should fill each other's, solved beside the loop, and what is idle, told to each pool."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from tidefleet.api import AcceleratorType
from tidefleet.controller.beside import Beside
from tidefleet.controller.decide import Share
from tidefleet.controller.decision import Decision
from tidefleet.controller.sharing import SOLVER_SECONDS, Plans, Question, question_of
from tidefleet.planning.coordination import SharedLimits
from tidefleet.planning.filling import Filling, fill
from tidefleet.planning.nodes import Group, idle_nodes, is_worth_a_plan, standing
from tidefleet.planning.prices import node_chips
from tidefleet.planning.problem import Chosen
from tidefleet.planning.solution import chip_group
from tidefleet.planning.turning import turning_prices

START_SECONDS = 0.3
"""Real time that a pass waits for an answer when a pool is about to start its first replicas: small fleets have one by
then, and replicas that start where they will not stay are paid for until their dwell has passed."""


def node_sizes(kinds: Iterable[AcceleratorType]) -> dict[str, int]:
    """Chips of a node by type, where that is known."""
    return {name: chips for name, chips in node_chips(kinds).items() if chips}


def held_by_watched(decisions: Iterable[Decision]) -> dict[Group, int]:
    """Chips that run for pools that are only watched, by accelerator and capacity type."""
    found: dict[Group, int] = {}
    for decision in decisions:
        for one in () if decision.write else decision.view.served:
            group = (one.option.accelerator, one.option.capacity_type)
            found[group] = found.get(group, 0) + one.desired * one.option.chips
    return found


@dataclass(frozen=True, slots=True)
class _Turn:
    """A question, and for each pool whether it may switch, and what its own plan is of."""

    question: Question
    pools: tuple[tuple[bool, frozenset[str]], ...]

    def is_like(self, other: _Turn | None) -> bool:
        return other is not None and self.question.is_like(other.question) and self.pools == other.pools


@dataclass(slots=True)
class NodeFilling(Beside[_Turn, Filling]):
    """Has pools fill each other's part-filled nodes.

    While little rent is idle on the nodes that all pools' own plans stand on, or their sizes are not known, each pool
    has its own plan. Else the whole fleet is solved beside the loop, and its answer stays in force until there is
    another, as long as pools, options and bounds are the same. Another is asked for when demands, prices or limits have
    moved on, when a pool's own plan is of other options, or when a dwell has passed. The loop waits for none of them,
    but a moment for one that decides where a pool's first replicas start. A solver that fails is not asked
    the like again, and leaves what was in force.
    """

    PLANNED: ClassVar[str] = "whole nodes planned"
    FAILED: ClassVar[str] = "planning whole nodes failed"

    def shares(self, plans: Plans, limits: SharedLimits) -> dict[str, Share]:
        """What each pool should use, by ``namespace/name``; empty for pools whose own plans are as good."""
        self._collect()
        chosen = {problem.pool: plan.chosen for problem, plan in plans}
        if not limits.nodes or not is_worth_a_plan(chosen, limits.nodes, limits.held):
            return {}
        turn = _Turn(
            question_of(plans, limits),
            tuple(
                (problem.may_switch, frozenset(chip_group(one.option) for one in plan.chosen))
                for problem, plan in plans
            ),
        )
        if not turn.is_like(self._answered) and not turn.is_like(self._failed):
            self._ask(turn, partial(fill, tuple(plans), limits, clock=time.monotonic, seconds=SOLVER_SECONDS))
            if self._future is not None and any(plan.chosen and not problem.running for problem, plan in plans):
                with contextlib.suppress(TimeoutError):
                    self.settled(START_SECONDS)
        if self._answer is None or self._answered is None or not self._is_akin(turn, self._answered):
            return {}
        return steered_shares(self._answer, plans)

    def come_out_short(self) -> None:
        """An answer left a pool short of capacity: the next pass asks for another."""
        self._answered = self._answer = None

    def _is_akin(self, question: _Turn, other: _Turn) -> bool:
        return question.question.parts == other.question.parts

    def _told(self, answer: Filling) -> Mapping[str, Any]:
        return {
            "usdPerHour": answer.usd_per_hour,
            "alone": answer.alone_usd_per_hour,
            "bound": answer.bound_usd_per_hour,
            "proven": answer.proven,
        }


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

    Those that whole nodes lead are told the prices at which other types would win, all pools together.

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
        even = one.plan.break_even
        if one.plan.others and one.problem is not None:
            theirs = {each.group: each.held - each.by_pool.get(one.plan.pool, 0) for each in found}
            turns = turning_prices(one.problem, one.plan.chosen, one.plan.others, nodes=nodes, held={**held, **theirs})
            even = (*turns, *even)
        plan = replace(one.plan, nodes=idle_nodes(one.plan.pool, found), break_even=even, others=())
        result.append(replace(one, plan=plan))
    return tuple(result)
