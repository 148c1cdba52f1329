"""What a plan is compared with: each accelerator type alone, split prefill and decode, and external APIs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tidefleet.economics.external import ExternalOffer, PerToken, TokenVector, month_usd, token_usd
from tidefleet.economics.owned import HOURS_PER_MONTH
from tidefleet.planning.apart import Apart
from tidefleet.planning.options import Option
from tidefleet.planning.problem import (
    BreakEven,
    Chosen,
    PoolProblem,
    RunnerUp,
    per_million,
    tokens_per_request,
)
from tidefleet.planning.solution import Solution, solve
from tidefleet.planning.spill import PricedOffer
from tidefleet.planning.turning import share_to_win
from tidefleet.planning.words import brief, rounded_down


@dataclass(frozen=True, slots=True)
class Rival:
    """The best plan of one accelerator type alone.

    ``chosen`` are its replicas, ``option`` that of most of them; what is owed in any case is in the solution's cost.
    """

    accelerator: str
    option: Option
    solution: Solution
    chosen: tuple[Chosen, ...]


def single_type_rivals(problem: PoolProblem, chosen_types: set[str], committed: float = 0.0) -> list[Rival]:
    """The best plan of each accelerator type alone, cheapest first; the chosen type itself only when it is mixed.

    Each is as it would be for the pool alone: what is chosen for the sake of all pools' whole nodes does not count.

    Args:
        committed: USD per hour owed in any case by the plan that they are compared with: they would be owed beside.
    """
    rivals = []
    problem = replace(problem, steered={})
    for accelerator in dict.fromkeys(c.option.accelerator for c in problem.market.candidates):
        if chosen_types == {accelerator}:
            continue
        of_type = [c for c in problem.market.candidates if c.option.accelerator == accelerator]
        solution = solve(problem, of_type)
        solution = replace(solution, cost=solution.cost + committed)
        used = max(zip(solution.counts, of_type, strict=True), key=lambda pair: pair[0])[1]
        chosen = tuple(Chosen(c, n) for n, c in zip(solution.counts, of_type, strict=True) if n)
        rivals.append(Rival(accelerator, used.option, solution, chosen))
    return sorted(rivals, key=lambda one: (one.solution.shortfall, one.solution.cost))


def runner_up(problem: PoolProblem, rival: Rival, cost: float, tokens: float) -> RunnerUp:
    """The rival as it is told, with what it would cost more."""
    if rival.solution.shortfall > 0:
        because = f"cannot carry the load within its limits ({rival.solution.shortfall:.0%} short)"
        if rival.accelerator in problem.cap_reasons:
            because += f": {problem.cap_reasons[rival.accelerator]}"
    elif rival.solution.spare_missing:
        because = f"cannot keep {problem.spare} spare within its limits"
        if rival.accelerator in problem.cap_reasons:
            because += f": {problem.cap_reasons[rival.accelerator]}"
    else:
        extra = rival.solution.cost - cost
        share = extra / cost if cost else 0.0
        because = (
            f"costs ${brief(rival.solution.cost)}/h alone, {share:+.0%}" if cost else f"costs ${brief(extra)}/h more"
        )
        if problem.steered and extra < 0:
            because += f"; {problem.steered_because}"
    served = tokens * (1.0 - rival.solution.shortfall)
    return RunnerUp(str(rival.option), per_million(rival.solution.cost, served), because)


def without_price(problem: PoolProblem, cost: float | None) -> tuple[RunnerUp, ...]:
    """Types without a price, and the price at which each would win."""
    losers = []
    for accelerator in dict.fromkeys(c.option.accelerator for c in problem.market.unpriced):
        of_type = [c for c in problem.market.unpriced if c.option.accelerator == accelerator]
        solution = solve(problem, of_type)  # at 1 USD per chip-hour
        because = "has no price; set AcceleratorType spec.prices"
        if cost is not None and solution.cost > 0 and not solution.shortfall:
            usd = rounded_down(share_to_win(problem) * cost / solution.cost)
            because = f"has no price; it would win below ${brief(usd)} per chip-hour"
        losers.append(RunnerUp(str(of_type[0].option), None, because))
    return tuple(losers)


def rejections(problem: PoolProblem) -> tuple[RunnerUp, ...]:
    """Types that cannot serve, and why."""
    return tuple(RunnerUp(one.accelerator, None, one.detail) for one in problem.market.rejected)


def apart_rivals(problem: PoolProblem, cost: float) -> tuple[RunnerUp, ...]:
    """Prefill and decode on replicas of their own, cheapest first."""
    tokens = problem.requests_per_second * tokens_per_request(problem)
    return tuple(_apart(one, problem.requests_per_second, cost, tokens) for one in problem.apart)


def _apart(one: Apart, rate: float, cost: float, tokens: float) -> RunnerUp:
    usd = one.usd_per_hour(rate)
    share = usd / cost - 1.0 if cost > 0 else 0.0
    because = f"costs ${brief(usd)}/h, {share:+.0%}"
    if usd < cost:
        because += "; a router that splits prefill and decode is needed first"
    return RunnerUp(one.describe(rate), per_million(usd, tokens), because)


def external_usd_per_hour(problem: PoolProblem, offer: ExternalOffer) -> float | None:
    """What an external API would charge for all of the pool's tokens, ``None`` when the offer cannot take them."""
    rate = problem.requests_per_second
    if rate <= 0:
        return None
    total = TokenVector(0.0, 0.0, 0.0)
    prompt = 0.0
    for one in problem.classes:
        mean = TokenVector(one.shape.uncached, one.shape.cached, one.shape.output_mean, requests=1.0)
        total, prompt = total + mean.times(one.share), prompt + one.share * one.shape.input_mean
    try:
        if isinstance(offer.billing, PerToken):
            return token_usd(total.times(rate * 3600.0), offer.billing, prompt_tokens=prompt)
        return month_usd(offer, total.times(rate * 3600.0 * HOURS_PER_MONTH), prompt_tokens=prompt) / HOURS_PER_MONTH
    except ValueError:
        return None


def priced_offers(problem: PoolProblem) -> list[PricedOffer]:
    """The external APIs that can take the pool's tokens, and what each charges for all of them."""
    return [
        PricedOffer(offer, usd)
        for offer in problem.external
        if (usd := external_usd_per_hour(problem, offer)) is not None
    ]


def external_rivals(problem: PoolProblem, cost: float) -> tuple[tuple[RunnerUp, ...], tuple[BreakEven, ...]]:
    """External APIs, cheapest first, and by which factor each one's prices would have to change."""
    priced = [(one.usd_per_hour, one.offer) for one in priced_offers(problem)]
    tokens = problem.requests_per_second * tokens_per_request(problem)
    told, even = [], []
    for usd, offer in sorted(priced, key=lambda pair: (pair[0], pair[1].name)):
        share = usd / cost - 1.0 if cost > 0 else 0.0
        because = f"costs ${brief(usd)}/h, {share:+.0%}"
        if problem.requests_per_second * 60.0 > offer.requests_per_minute:
            because += f"; its limit is {offer.requests_per_minute:g} requests a minute"
        elif usd < cost:
            because += "; requests are sent there by a gateway, not by this plan"
        told.append(RunnerUp(f"{offer.name} (external API)", per_million(usd, tokens), because))
        if usd > 0:
            even.append(BreakEven(f"prices of {offer.name} times", cost / usd))
    return tuple(told), tuple(even)
