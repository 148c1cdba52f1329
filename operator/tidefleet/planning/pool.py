"""The plan of one pool: the cheapest set of options for its demand, why it won, and what the others would have cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tidefleet.planning.cover import Item, cheapest_cover, lower_bound
from tidefleet.planning.options import PLANNING_UTILISATION, Candidate, ClassDemand, Market, Option
from tidefleet.planning.words import brief, rounded_down

SAME_COST = 0.005
"""Below this share a difference in cost is none."""

SWITCH_SAVING = 0.10
"""Share of the present cost that a change of accelerators must save before replicas are moved for it."""

HOURS_PER_MONTH = 730.0


@dataclass(frozen=True, slots=True)
class PoolProblem:
    """Everything the plan of a pool depends on.

    Attributes:
        pool: ``namespace/name``.
        classes: demand by class; shares sum to 1.
        requests_per_second: demand to plan for, all classes.
        market: what can serve it.
        minimum, maximum, spare: replica bounds; ``pinned`` replaces all three.
        type_caps: most chips per accelerator type, and ``cap_reasons`` why.
        target_usd_per_million_tokens, monthly_budget_usd: soft limits, ``None`` when unset.
        running: replicas now asked for, by option.
        may_switch: whether the dwell since the last change of accelerators has passed.
    """

    pool: str
    classes: tuple[ClassDemand, ...]
    requests_per_second: float
    market: Market
    minimum: int = 1
    maximum: int = 64
    spare: int = 0
    pinned: int | None = None
    type_caps: Mapping[str, int] = field(default_factory=dict)
    cap_reasons: Mapping[str, str] = field(default_factory=dict)
    target_usd_per_million_tokens: float | None = None
    monthly_budget_usd: float | None = None
    running: Mapping[Option, int] = field(default_factory=dict)
    may_switch: bool = True


@dataclass(frozen=True, slots=True)
class Chosen:
    """An option of the plan and its replicas."""

    candidate: Candidate
    replicas: int

    @property
    def option(self) -> Option:
        """The option itself."""
        return self.candidate.option


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """A choice that lost. ``usd_per_million_tokens`` is ``None`` when it cannot serve or has no price."""

    option: str
    usd_per_million_tokens: float | None
    lost_because: str


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The value of ``what`` at which the choice would flip."""

    what: str
    at: float


@dataclass(frozen=True, slots=True)
class Missed:
    """A target that a plan misses: ``what`` is ``CostTarget``, ``Budget``, ``Capacity`` or ``Spare``."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What serves a pool, at what cost, and why.

    Attributes:
        chosen: options with at least one replica, dearest first.
        requests_per_second: demand planned for; ``capacity`` what the plan sustains at planning utilisation.
        usd_per_hour: rent; ``lower_bound_usd_per_hour`` proven: no plan for this demand can cost less.
        usd_per_million_tokens: rent over planned tokens, idle included; ``None`` without demand.
        savings_usd_per_hour: against the best plan of one accelerator type.
        shortfall: share of demand that the limits leave without capacity, 0..1.
        missed: targets that the plan misses.
        reason: one sentence; the status, the Event, the log and the CLI show it.
        proven: no cheaper plan exists under the limits; False when the search was cut short.
        kept: why the present accelerators were kept although others are cheaper: ``Saving`` (too small) or ``Dwell``.
    """

    pool: str
    chosen: tuple[Chosen, ...]
    requests_per_second: float
    tokens_per_second: float
    capacity: float
    usd_per_hour: float
    lower_bound_usd_per_hour: float
    usd_per_million_tokens: float | None
    savings_usd_per_hour: float
    shortfall: float
    missed: tuple[Missed, ...]
    runners_up: tuple[RunnerUp, ...]
    break_even: tuple[BreakEven, ...]
    reason: str
    proven: bool = True
    kept: str = ""

    @property
    def replicas(self) -> int:
        """Replicas in all."""
        return sum(one.replicas for one in self.chosen)


@dataclass(frozen=True, slots=True)
class NothingFits:
    """No accelerator type can serve the pool; ``runners_up`` says why for each."""

    pool: str
    reason: str
    runners_up: tuple[RunnerUp, ...]


@dataclass(frozen=True, slots=True)
class _Solution:
    counts: tuple[int, ...]
    cost: float
    proven: bool
    shortfall: float = 0.0
    spare_missing: int = 0


def describe(chosen: Iterable[tuple[Option, int]]) -> str:
    """Options and replicas as a phrase, e.g. ``6 h200-sxm (fp8, tp2), 2 l40s (fp8, tp1)``."""
    return ", ".join(f"{count} {option}" for option, count in chosen if count) or "no replicas"


def plan_pool(problem: PoolProblem) -> PoolPlan | NothingFits:
    """The cheapest plan for a pool, unless the present accelerators are so close that moving is not worth it.

    Moving is what takes replicas away that run, in favour of another option. A plan that keeps them all and adds some
    of another option moves nothing: growth, or a first plan of several options of which one is still missing.
    """
    candidates = problem.market.candidates
    if not candidates:
        losers = _without_price(problem, None) + _rejections(problem)
        return NothingFits(problem.pool, _nothing_fits(problem, losers), losers)
    best = _solve(problem, candidates)
    reason_kept = kept_for = ""
    in_use = [c for c in candidates if problem.running.get(c.option)]
    if in_use and _moves(problem, candidates, best.counts):
        kept = _solve(problem, in_use)
        saving = kept.cost - best.cost
        worth_it = saving > SWITCH_SAVING * kept.cost
        if kept.shortfall <= best.shortfall and not (worth_it and problem.may_switch):
            better = describe((c.option, n) for c, n in zip(candidates, best.counts, strict=True))
            share = saving / kept.cost if kept.cost else 0.0
            kept_for = "Dwell" if worth_it else "Saving"
            why = (
                "held until the dwell since the last change has passed"
                if worth_it
                else f"below the {SWITCH_SAVING:.0%} that moving must save"
            )
            alike = saving <= SAME_COST * kept.cost
            reason_kept = (
                "; others cost as much" if alike else f"; {better} would save ${brief(saving)}/h ({share:.0%}), {why}"
            )
            by_option = dict(zip((c.option for c in in_use), kept.counts, strict=True))
            counts = tuple(by_option.get(c.option, 0) for c in candidates)
            best = replace(kept, counts=counts)
    return _explain(problem, best, reason_kept, kept_for)


def _moves(problem: PoolProblem, candidates: Sequence[Candidate], counts: Sequence[int]) -> bool:
    """Whether an option that does not run would take the place of replicas that do."""
    now = [problem.running.get(c.option, 0) for c in candidates]
    arrives = any(n and not m for n, m in zip(counts, now, strict=True))
    return arrives and any(n < m for n, m in zip(counts, now, strict=True))


def _items(candidates: Sequence[Candidate]) -> list[Item]:
    return [
        Item(c.usd_per_hour, c.requests_per_second * PLANNING_UTILISATION, c.option.accelerator, c.option.chips)
        for c in candidates
    ]


def _solve(problem: PoolProblem, candidates: Sequence[Candidate]) -> _Solution:
    """The cheapest cover; where the limits allow none, as much coverage as they do allow."""
    items, demand = _items(candidates), problem.requests_per_second
    low, high, spare = problem.minimum, problem.maximum, problem.spare
    if problem.pinned is not None:
        low = high = problem.pinned
        spare = 0
    for less in range(spare + 1):
        cover = cheapest_cover(
            items, demand, spare=spare - less, minimum=low, maximum=high, type_caps=problem.type_caps
        )
        if cover is not None:
            counts = _as_running(problem, candidates, items, cover.counts)
            return _Solution(counts, cover.cost, cover.proven, spare_missing=less)
    # Where replicas are what is scarce, the largest first; where chips are, the most per chip first.
    filled = max(
        _filled(problem, items, high, key=lambda i: -items[i].coverage),
        _filled(problem, items, high, key=lambda i: -items[i].coverage / items[i].chips),
        key=lambda counts: sum(n * item.coverage for n, item in zip(counts, items, strict=True)),
    )
    covered = sum(n * item.coverage for n, item in zip(filled, items, strict=True))
    shortfall = max(0.0, 1.0 - covered / demand) if demand > 0 else 0.0
    return _Solution(tuple(filled), sum(n * i.cost for n, i in zip(filled, items, strict=True)), True, shortfall)


def _as_running(
    problem: PoolProblem, candidates: Sequence[Candidate], items: Sequence[Item], counts: Sequence[int]
) -> tuple[int, ...]:
    """The same plan with replicas of equal options where they run already (adopted workloads can be alike)."""
    result = list(counts)
    alike: dict[Item, list[int]] = {}
    for i, item in enumerate(items):
        alike.setdefault(item, []).append(i)
    for group in alike.values():
        left = sum(counts[i] for i in group)
        if len(group) < 2 or not left:
            continue
        for i in group:
            result[i] = min(left, problem.running.get(candidates[i].option, 0))
            left -= result[i]
        result[group[0]] += left
    return tuple(result)


def _filled(problem: PoolProblem, items: Sequence[Item], high: int, *, key: Callable[[int], float]) -> list[int]:
    """As many replicas as the limits allow, the items in this order, the cheaper of equal ones first."""
    counts = [0] * len(items)
    used: dict[str, int] = {}
    for i in sorted(range(len(items)), key=lambda i: (key(i), items[i].cost)):
        item = items[i]
        n = high - sum(counts)
        if item.type_name in problem.type_caps:
            n = min(n, (problem.type_caps[item.type_name] - used.get(item.type_name, 0)) // item.chips)
        counts[i] = max(0, n)
        used[item.type_name] = used.get(item.type_name, 0) + counts[i] * item.chips
    return counts


def _tokens_per_request(problem: PoolProblem) -> float:
    return sum(one.share * (one.shape.input_mean + one.shape.output_mean) for one in problem.classes)


def _explain(problem: PoolProblem, solution: _Solution, reason_kept: str, kept_for: str) -> PoolPlan:
    candidates = problem.market.candidates
    chosen = tuple(
        sorted(
            (Chosen(c, n) for c, n in zip(candidates, solution.counts, strict=True) if n),
            key=lambda one: -one.replicas * one.candidate.usd_per_hour,
        )
    )
    cost = solution.cost
    tokens = problem.requests_per_second * _tokens_per_request(problem)
    per_million = _per_million(cost, tokens)
    chosen_types = {one.option.accelerator for one in chosen}
    rivals = _single_type_rivals(problem, chosen_types)
    losers = [_runner_up(problem, one, cost, tokens) for one in rivals]
    alone = [one for one in rivals if one.solution.shortfall <= solution.shortfall]
    savings = max(0.0, min((one.solution.cost for one in alone), default=cost) - cost) if len(chosen_types) > 1 else 0.0
    break_even = [
        BreakEven(f"{one.accelerator} USD per chip-hour", one.usd_per_chip_hour * cost / one.solution.cost)
        for one in alone
        if one.solution.cost > 0 and one.accelerator not in chosen_types
    ][:4]
    outsiders = [one for one in alone if one.accelerator not in chosen_types]
    if len(chosen_types) == 1 and outsiders and cost > 0 and chosen:
        limit = chosen[0].candidate.price.usd_per_chip_hour * min(one.solution.cost for one in outsiders) / cost
        break_even.insert(0, BreakEven(f"{chosen[0].option.accelerator} USD per chip-hour", limit))
    capacity = sum(one.replicas * one.candidate.requests_per_second for one in chosen) * PLANNING_UTILISATION
    missed = _missed(problem, solution, per_million)
    return PoolPlan(
        pool=problem.pool,
        chosen=chosen,
        requests_per_second=problem.requests_per_second,
        tokens_per_second=tokens,
        capacity=capacity,
        usd_per_hour=cost,
        lower_bound_usd_per_hour=min(cost, _bound(problem)),
        usd_per_million_tokens=per_million,
        savings_usd_per_hour=savings,
        shortfall=solution.shortfall,
        missed=missed,
        runners_up=tuple(losers) + _without_price(problem, cost) + _rejections(problem),
        break_even=tuple(break_even),
        reason=_reason(
            problem,
            chosen,
            cost=cost,
            per_million=per_million,
            outsiders=outsiders,
            shortfall=solution.shortfall,
            kept=reason_kept,
            proven=solution.proven,
        ),
        proven=solution.proven,
        kept=kept_for,
    )


def _bound(problem: PoolProblem) -> float:
    items = _items(problem.market.candidates)
    spare, least = (problem.spare, problem.minimum) if problem.pinned is None else (0, problem.pinned)
    return max(lower_bound(items, problem.requests_per_second, spare), least * min(item.cost for item in items))


def _per_million(usd_per_hour: float, tokens_per_second: float) -> float | None:
    return usd_per_hour / (tokens_per_second * 3600.0) * 1e6 if tokens_per_second > 0 else None


@dataclass(frozen=True, slots=True)
class _Rival:
    accelerator: str
    option: Option
    solution: _Solution
    usd_per_chip_hour: float


def _single_type_rivals(problem: PoolProblem, chosen_types: set[str]) -> list[_Rival]:
    """The best plan of each accelerator type alone, cheapest first; the chosen type itself only when it is mixed."""
    rivals = []
    for accelerator in dict.fromkeys(c.option.accelerator for c in problem.market.candidates):
        if chosen_types == {accelerator}:
            continue
        of_type = [c for c in problem.market.candidates if c.option.accelerator == accelerator]
        solution = _solve(problem, of_type)
        used = max(zip(solution.counts, of_type, strict=True), key=lambda pair: pair[0])[1]
        rivals.append(_Rival(accelerator, used.option, solution, used.price.usd_per_chip_hour))
    return sorted(rivals, key=lambda one: (one.solution.shortfall, one.solution.cost))


def _runner_up(problem: PoolProblem, rival: _Rival, cost: float, tokens: float) -> RunnerUp:
    if rival.solution.shortfall > 0:
        because = f"cannot carry the load within its limits ({rival.solution.shortfall:.0%} short)"
        if rival.accelerator in problem.cap_reasons:
            because += f": {problem.cap_reasons[rival.accelerator]}"
    else:
        extra = rival.solution.cost - cost
        share = extra / cost if cost else 0.0
        because = (
            f"costs ${brief(rival.solution.cost)}/h alone, {share:+.0%}" if cost else f"costs ${brief(extra)}/h more"
        )
    return RunnerUp(str(rival.option), _per_million(rival.solution.cost, tokens), because)


def _without_price(problem: PoolProblem, cost: float | None) -> tuple[RunnerUp, ...]:
    losers = []
    for accelerator in dict.fromkeys(c.option.accelerator for c in problem.market.unpriced):
        of_type = [c for c in problem.market.unpriced if c.option.accelerator == accelerator]
        solution = _solve(problem, of_type)  # at 1 USD per chip-hour
        because = "has no price; set AcceleratorType spec.prices"
        if cost is not None and solution.cost > 0 and not solution.shortfall:
            because = f"has no price; it would win below ${brief(rounded_down(cost / solution.cost))} per chip-hour"
        losers.append(RunnerUp(str(of_type[0].option), None, because))
    return tuple(losers)


def _rejections(problem: PoolProblem) -> tuple[RunnerUp, ...]:
    return tuple(RunnerUp(one.accelerator, None, one.detail) for one in problem.market.rejected)


def _nothing_fits(problem: PoolProblem, losers: Sequence[RunnerUp]) -> str:
    shown = "; ".join(f"{one.option}: {one.lost_because}" for one in losers[:3])
    more = f"; and {len(losers) - 3} more" if len(losers) > 3 else ""
    return f"no accelerator can serve this pool ({shown}{more})" if losers else "no AcceleratorType exists"


def _missed(problem: PoolProblem, solution: _Solution, per_million: float | None) -> tuple[Missed, ...]:
    missed = []
    cost, shortfall = solution.cost, solution.shortfall
    target, budget = problem.target_usd_per_million_tokens, problem.monthly_budget_usd
    if target is not None and per_million is not None and per_million > target:
        why = f"${brief(per_million, 3)} per 1M tokens is above the target of ${target:g}"
        missed.append(Missed("CostTarget", why))
    if budget is not None and cost * HOURS_PER_MONTH > budget:
        why = f"${brief(cost * HOURS_PER_MONTH)} a month is above the budget of ${budget:,.0f}"
        missed.append(Missed("Budget", why))
    if shortfall > 0:
        missed.append(Missed("Capacity", f"{shortfall:.0%} of the demand has no capacity: {_limits(problem)}"))
    if solution.spare_missing:
        why = f"{solution.spare_missing} of {problem.spare} spare replicas cannot be had: {_limits(problem)}"
        missed.append(Missed("Spare", why))
    return tuple(missed)


def _limits(problem: PoolProblem) -> str:
    if problem.pinned is not None:
        return f"pinned to {problem.pinned} replicas"
    limits = [problem.cap_reasons[name] for name in sorted(problem.cap_reasons)]
    return "; ".join(limits) or f"at most {problem.maximum} replicas are allowed"


def _reason(
    problem: PoolProblem,
    chosen: Sequence[Chosen],
    *,
    cost: float,
    per_million: float | None,
    outsiders: Sequence[_Rival],
    shortfall: float,
    kept: str,
    proven: bool,
) -> str:
    phrase = describe((one.option, one.replicas) for one in chosen)
    if problem.pinned is not None:
        return f"{phrase}: pinned to {problem.pinned} replicas"
    if problem.requests_per_second <= 0:
        return f"{phrase}: no demand, held at {problem.minimum} replicas"
    price = f" at ${brief(per_million)} per 1M tokens" if per_million is not None else ""
    best = "cheapest" if proven else "cheapest found"
    text = f"{phrase}: {best} for {brief(problem.requests_per_second)} requests/s{price}"
    if shortfall:
        text = f"{phrase}: the most that the limits allow for {brief(problem.requests_per_second)} requests/s{price}"
    elif kept:
        text = f"{phrase}: kept for {brief(problem.requests_per_second)} requests/s{price}{kept}"
    elif outsiders:
        rival = outsiders[0]
        share = rival.solution.cost / cost - 1.0 if cost else 0.0
        text += f"; next is {rival.option}, {share:+.0%}"
    return text
