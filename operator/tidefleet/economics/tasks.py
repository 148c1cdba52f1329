"""What a request and a whole task cost, at the median and in the tail.

A task is a tree of calls: its own requests, which come in sessions of turns, and calls to other classes, each of which
is a task of theirs. Within a session every turn reads what the earlier ones wrote, from the prefix cache. So a token
that enters in turn i of n is processed once and then read n - i times, and

    cost of n turns = sum over j = 0..n-1 of  N_j (a + w_j h) + O_j (o + w_j h) + R_j o + P h

with a, h, o the USD of an uncached, a cached and a generated token, N new prompt tokens, O visible output, R reasoning
(which leaves the context after its turn), P a constant prefix, and w_j = min(j, J) the later turns that read a token
again; J is where a context limit makes the engine or the client drop what is oldest. N, O and R are independent from
turn to turn, so the distribution is a convolution (``spread``), with no chance in it. Means are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from tidefleet.economics.external import TokenVector
from tidefleet.economics.lognormal import ZERO, LengthLaw, checked, law
from tidefleet.economics.spread import NOTHING, Spread, fixed, mixed, of_law, repeated

MOST_TURNS = 1000
"""Longest session that is followed turn by turn."""

MOST_CLASSES = 64
MOST_REQUESTS = 1e9
"""Of one task, all classes together."""

_CALL_EDGES = (0.0, 0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.88, 0.93, 0.96, 0.98, 0.99, 0.995, 0.999, 1.0)


@dataclass(frozen=True, slots=True)
class TokenRates:
    """USD per token: uncached input, cached input, output. Divide USD per million by 1e6."""

    uncached_input: float
    cached_input: float
    output: float


@dataclass(frozen=True, slots=True)
class RequestLengths:
    """Lengths of one class's requests.

    Attributes:
        input: prompt tokens, cached ones included.
        output: visible tokens generated.
        reasoning: tokens generated before the first visible one, beside ``output``.
        cached_share: share of prompt tokens found in the cache, 0..1.
    """

    input: LengthLaw
    output: LengthLaw
    reasoning: LengthLaw = ZERO
    cached_share: float = 0.0

    def tokens(self) -> TokenVector:
        """Mean tokens of a request."""
        cached = self.input.mean * self.cached_share
        generated = self.output.mean + self.reasoning.mean
        return TokenVector(self.input.mean - cached, cached, generated, requests=1.0)


@dataclass(frozen=True, slots=True)
class CallClass:
    """A class of calls: lengths, what its tokens cost, and what a task of it does.

    Attributes:
        calls_per_task: requests of this class in one task, on average; ``calls_p95`` its 95th percentile over tasks
            (0: every task alike), ``calls_cap`` the most.
        turns_per_session: requests of one session; a task with more begins another session, one with fewer is a
            stretch from the middle of a session.
        context_cap: most tokens of history that a turn reads again; ``inf`` for no limit.
        calls: (class, calls per task): each is a task of that class.
    """

    lengths: RequestLengths
    rates: TokenRates
    calls_per_task: float = 1.0
    calls_p95: float = 0.0
    calls_cap: float = math.inf
    turns_per_session: float = 1.0
    context_cap: float = math.inf
    calls: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """A cost in USD: its mean, and what half, 95 % and 99 % of requests or tasks stay below."""

    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class TaskCost:
    """What a task costs.

    Attributes:
        usd: over tasks.
        tokens: mean tokens of a task, all classes; ``tokens.requests`` is its requests.
        usd_by_class: mean USD by class; they sum to ``usd.mean``.
        spread: the whole distribution.
    """

    usd: Cost
    tokens: TokenVector
    usd_by_class: Mapping[str, float]
    spread: Spread = field(repr=False)


def cost_of(spread: Spread) -> Cost:
    """Mean and percentiles of a distribution of USD."""
    return Cost(spread.mean, spread.quantile(0.5), spread.quantile(0.95), spread.quantile(0.99))


def request_spread(lengths: RequestLengths, rates: TokenRates) -> Spread:
    """USD of one request: input, output and reasoning vary independently, the cached share is the same for all.

    Raises:
        ValueError: a share or a rate is not usable.
    """
    hit = checked("cached_share", lengths.cached_share, most=1.0, example="0.4")
    per_input = (1.0 - hit) * _rate("uncached_input", rates.uncached_input)
    per_input += hit * _rate("cached_input", rates.cached_input)
    return (
        of_law(lengths.input).scaled(per_input)
        + of_law(lengths.output).scaled(_rate("output", rates.output))
        + of_law(lengths.reasoning).scaled(rates.output)
    )


def request_cost(lengths: RequestLengths, rates: TokenRates) -> Cost:
    """USD of one request: mean, p50, p95 and p99."""
    return cost_of(request_spread(lengths, rates))


def _rate(name: str, value: float) -> float:
    return checked(f"{name} rate", value, most=1e3, example="6e-7")


def session_spreads(one: CallClass) -> list[Spread]:
    """USD of a session's stretch of 0, 1, 2, ... ``turns_per_session`` turns; the mean turn costs the mean request.

    The mean of cached tokens a turn is what ``cached_share`` says: where the turns' own history explains less, the rest
    is a constant prefix (system prompt, tools); where it would be more, tokens are read again less often.

    Raises:
        ValueError: turns, context_cap, a share or a rate is not usable.
    """
    lengths, rates = one.lengths, one.rates
    turns = round(checked("turns_per_session", one.turns_per_session, least=1.0, most=MOST_TURNS, example="4"))
    limit = checked("context_cap", one.context_cap, most=math.inf, example="128000")
    if turns == 1:
        return [NOTHING, request_spread(lengths, rates)]
    hit_share = checked("cached_share", lengths.cached_share, most=1.0, example="0.4")
    fresh, answer, thinking = (
        of_law(lengths.input.scaled(1.0 - hit_share)), of_law(lengths.output), of_law(lengths.reasoning)
    )  # fmt: skip
    per_input, per_hit, per_output = (
        _rate("uncached_input", rates.uncached_input),
        _rate("cached_input", rates.cached_input),
        _rate("output", rates.output),
    )
    hits = lengths.input.mean * hit_share
    grows = fresh.mean + answer.mean
    reach = limit / grows if grows > 0.0 else math.inf
    reread = [min(float(j), reach) for j in range(turns)]
    history = grows * sum(reread) / turns
    part = min(1.0, hits / history) if history > 0.0 else 0.0
    reread = [part * times for times in reread]
    prefix = hits - grows * sum(reread) / turns
    found, total, seen = [NOTHING], NOTHING, 0.0
    for n, times in enumerate(reread, start=1):
        total = total + fresh.scaled(per_input + times * per_hit) + answer.scaled(per_output + times * per_hit)
        total = total + thinking.scaled(per_output)
        seen += times
        before = hits - prefix - grows * seen / n  # mean history of a stretch that begins in mid-session
        found.append(total + fixed(n * (prefix + before) * per_hit))
    return found


def _own_calls(one: CallClass, calls: float, sessions: list[Spread]) -> Spread:
    """USD of this many requests; a fraction is one more with that probability."""
    turns = len(sessions) - 1
    whole = int(calls)
    rest = calls - whole

    def exactly(count: int) -> Spread:
        return repeated(sessions[turns], count // turns) + sessions[count % turns]

    return mixed([(1.0 - rest, exactly(whole)), (rest, exactly(whole + 1))]) if rest > 0.0 else exactly(whole)


def _task_spread(one: CallClass) -> Spread:
    mean = checked("calls_per_task", one.calls_per_task, most=1e6, example="1")
    sessions = session_spreads(one)
    often = law(mean, one.calls_p95, one.calls_cap)
    if often.sigma == 0.0:
        return _own_calls(one, mean, sessions)
    parts = [
        (high - low, _own_calls(one, often.mean_between(low, high), sessions)) for low, high in pairwise(_CALL_EDGES)
    ]
    return mixed(parts)


def task_cost(classes: Mapping[str, CallClass], root: str) -> TaskCost:
    """What a task of class ``root`` costs, with every call it makes.

    Raises:
        ValueError: a class is unknown, classes call each other in a circle, there are more than 64 of them, or a number
            is not usable; the message names the class.
    """
    if len(classes) > MOST_CLASSES:
        raise ValueError(f"{len(classes)} classes were given; expected at most {MOST_CLASSES}")
    done: dict[str, tuple[Spread, TokenVector, dict[str, float]]] = {}

    def visit(name: str, path: tuple[str, ...]) -> tuple[Spread, TokenVector, dict[str, float]]:
        if name in path:
            raise ValueError(f"classes call each other in a circle: {' -> '.join((*path, name))}")
        if name not in classes:
            caller = f"class {path[-1]} calls {name!r}" if path else f"root is {name!r}"
            raise ValueError(f"{caller}; expected one of {', '.join(sorted(classes)[:10])}")
        if name in done:
            return done[name]
        one = classes[name]
        try:
            total = _task_spread(one)
            calls = [(to, checked("perTask", times, most=1e6, example="2")) for to, times in one.calls]
        except ValueError as error:
            raise ValueError(f"class {name}: {error}") from error
        tokens = one.lengths.tokens().times(one.calls_per_task)
        by_class = {name: total.mean}
        for to, times in calls:
            spread, more, shares = visit(to, (*path, name))
            tokens = tokens + more.times(times)
            if tokens.requests > MOST_REQUESTS:
                raise ValueError(f"class {name}: a task makes {tokens.requests:.3g} requests; expected at most 1e9")
            total = total + repeated(spread, times)
            for each, usd in shares.items():
                by_class[each] = by_class.get(each, 0.0) + usd * times
        done[name] = total, tokens, by_class
        return done[name]

    spread, tokens, by_class = visit(root, ())
    return TaskCost(cost_of(spread), tokens, by_class, spread)


def usd_per_success(usd_per_task: float, success_share: float) -> float:
    """USD per successful task: what failed tasks cost is carried by those that succeed.

    Raises:
        ValueError: no task succeeds, or a number is not usable.
    """
    share = checked("success_share", success_share, least=1e-9, most=1.0, example="0.9")
    return checked("usd_per_task", usd_per_task, example="0.12") / share
