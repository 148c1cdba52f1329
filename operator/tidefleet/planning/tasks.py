"""From WorkloadClasses to what their requests and tasks cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from tidefleet.api import WorkloadClass
from tidefleet.economics.lognormal import ZERO, LengthLaw, law
from tidefleet.economics.tasks import MOST_TURNS, CallClass, RequestLengths, TaskCost, TokenRates, task_cost
from tidefleet.planning.from_api import NOMINAL_SHAPE, number


def lengths_of(wclass: WorkloadClass) -> RequestLengths:
    """Lengths of a class's requests; nominal ones for a class that states none, as plans assume them.

    Raises:
        ValueError: the lengths contradict each other; the message names the field.
    """
    tokens = wclass.spec.tokens
    if tokens is None:
        return RequestLengths(law(NOMINAL_SHAPE.input_mean), law(NOMINAL_SHAPE.output_mean))
    thinking = tokens.reasoning
    reasoning: LengthLaw = ZERO
    if thinking is not None:
        cap = math.inf if thinking.cap is None else float(thinking.cap)
        reasoning = law(float(thinking.mean), float(thinking.p95 or 0), cap)
    return RequestLengths(
        input=law(float(tokens.input.mean), float(tokens.input.p95 or 0)),
        output=law(float(tokens.output.mean), float(tokens.output.p95 or 0)),
        reasoning=reasoning,
        cached_share=number(tokens.cached_share),
    )


def call_class_of(wclass: WorkloadClass, rates: TokenRates) -> CallClass:
    """A class as a node of a task's tree; sessions beyond 1,000 turns are taken as such of 1,000.

    Args:
        rates: what its tokens cost, USD per token.
    """
    spec = wclass.spec
    return CallClass(
        lengths=lengths_of(wclass),
        rates=rates,
        calls_per_task=float(spec.calls_per_task),
        turns_per_session=min(float(MOST_TURNS), max(1.0, float(spec.turns_per_session))),
        calls=tuple((one.class_name, float(one.per_task)) for one in spec.calls),
    )


def task_cost_of(
    wclass: WorkloadClass, others: Iterable[WorkloadClass], rates: Mapping[str, TokenRates]
) -> TaskCost | None:
    """What a task of a class costs, calls to other classes of its namespace included.

    Args:
        others: every class of the namespace.
        rates: what tokens of each class cost, by the class's name.

    Returns:
        ``None`` where the cost of a class that takes part is not known: unknown is not 0.

    Raises:
        ValueError: classes call each other in a circle, or a class that is called does not exist.
    """
    every = {one.name: one for one in others if one.namespace == wclass.namespace} | {wclass.name: wclass}
    needed, found = [wclass.name], dict[str, CallClass]()
    while needed:
        name = needed.pop()
        if name in found or name not in every:
            continue  # a class that does not exist is told of by task_cost, with its caller
        if name not in rates:
            return None
        found[name] = call_class_of(every[name], rates[name])
        needed += [to for to, _ in found[name].calls]
    return task_cost(found, wclass.name)
