"""From WorkloadClasses to what their requests and tasks cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from tidefleet.api import WorkloadClass
from tidefleet.economics.lognormal import ZERO, LengthLaw, law
from tidefleet.economics.money import ChipCost, token_cost
from tidefleet.economics.shape import TokenShape
from tidefleet.economics.tasks import MOST_TURNS, CallClass, RequestLengths, TaskCost, TokenRates, task_cost
from tidefleet.planning.from_api import NOMINAL_SHAPE, number
from tidefleet.planning.options import ClassDemand
from tidefleet.planning.problem import PoolPlan


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


def rates_of(plan: PoolPlan, classes: Sequence[ClassDemand]) -> dict[str, TokenRates]:
    """What tokens of each class cost under a plan, by the class's name; empty where no demand is served.

    A class's requests go to the chosen options in proportion to what these sustain. What an option's time costs is
    split by direction as it is spent, and scaled so that all classes together pay the plan's bill, idle time included.
    """
    served = plan.requests_per_second * (1.0 - plan.shortfall)
    weights = [one.replicas * one.candidate.requests_per_second for one in plan.chosen]
    if served <= 0 or not sum(weights) or any(len(one.candidate.estimates) != len(classes) for one in plan.chosen):
        return {}
    raw: dict[str, TokenRates] = {}
    for index, wclass in enumerate(classes):
        parts = [0.0, 0.0, 0.0]
        for one, weight in zip(plan.chosen, weights, strict=True):
            chip = ChipCost(one.candidate.usd_per_hour / one.option.chips)
            found = token_cost(one.candidate.estimates[index], chip).rates
            share = weight / sum(weights)
            for position, rate in enumerate((found.uncached_input, found.cached_input, found.output)):
                parts[position] += share * rate
        raw[wclass.name] = TokenRates(*parts)
    bill = served * 3600.0 * sum(one.share * request_usd(one.shape, raw[one.name]) for one in classes)
    scale = plan.usd_per_hour / bill if bill > 0 else 0.0
    return {
        name: TokenRates(scale * one.uncached_input, scale * one.cached_input, scale * one.output)
        for name, one in raw.items()
    }


def request_usd(shape: TokenShape, rates: TokenRates) -> float:
    """USD of a mean request at these USD per token."""
    return shape.uncached * rates.uncached_input + shape.cached * rates.cached_input + shape.output_mean * rates.output
