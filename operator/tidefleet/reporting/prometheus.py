"""A period's figures from tidefleet's own counters in a Prometheus: increases over the period, no ratio made earlier.

Counters know pools, classes and accelerator types; tenants, teams and features are in usage records alone. What a pool
of several types used, and its tokens, are divided by what was paid for each. A Prometheus extrapolates an increase to
the edges of the period, so the last percent may differ from what was counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields

from tidefleet.reporting.bill import split
from tidefleet.reporting.period import Period
from tidefleet.reporting.values import By, Cell, Figures, Found, Key, Tasks, Unit, pico, row_name, usd
from tidefleet.telemetry.asking import Access, Asking, PrometheusError

MOST_STEPS = 10_000
LEAST_STEP_SECONDS = 60

TRAINING, WITHOUT_POOL = "training", "capacity without a pool"
UNUSED_CAUSES = ("idle", "drain", "warm", "unknown")
"""Causes of lost seconds that no request's usage has in it; of training's own, the pool pays nothing."""

_RECORDS_ONLY = (By.TENANT, By.TEAM, By.FEATURE)
_POOL = ("namespace", "pool")
_UNIT = (*_POOL, "accelerator", "capacity_type")
_CLASS = (*_POOL, "workload_class")

ASKED: Mapping[str, tuple[str, ...]] = {
    "pool_cost_usd_total": _UNIT,
    "pool_kv_tier_cost_usd_total": _UNIT,
    "training_cost_usd_total": (),
    "fleet_idle_cost_usd_total": (),
    "pool_needed_seconds_total": (*_POOL, "work"),
    "pool_lost_seconds_total": (*_POOL, "cause"),
    "plan_savings_usd_per_hour": _POOL,
    "pool_adopted_cost_usd_per_hour": _POOL,
    "pool_tokens_total": (*_CLASS, "direction"),
    "pool_revenue_usd_total": _CLASS,
    "pool_tasks_total": (*_POOL, "outcome"),
    "pool_recomputed_tokens_total": (*_POOL, "cause"),
    "request_cost_usd_sum": _CLASS,
    "router_requests_total": (*_CLASS, "status"),
    "router_output_tokens_total": (*_CLASS, "slo"),
}
"""Metrics that are asked for, without their prefix, and the labels that they are summed by."""

Series = dict[tuple[str, ...], float]
"""Values by the labels they were summed by."""


def read_prometheus(access: Access, by: By, period: Period) -> Found:
    """What a Prometheus says of a period.

    Raises:
        PrometheusError: it cannot be asked, has nothing of that time, or cannot know what rows are asked for.
    """
    if by in _RECORDS_ONLY:
        raise PrometheusError(
            f"--by {by}: a Prometheus has no {by}s, since metrics would grow with them; expected usage records, e.g. "
            f"--records usage.jsonl --by {by}, or --by class, pool or accelerator"
        )
    with Asking(access) as asking:
        counters = _Counters(asking, period)
        found = Found(by, period, f"Prometheus at {access.url}", knows_waste=False)
        _bill(counters, found)
        _use(counters, found)
    return found


def add_bill(access: Access, found: Found) -> None:
    """Put a Prometheus' bill, and what else it knows, in the place of the paid lines of usage records.

    Raises:
        PrometheusError: it cannot be asked, or has nothing of that time.
    """
    with Asking(access) as asking:
        counters = _Counters(asking, found.period)
        found.paid = {}
        found.counted.pop("duplicate_paid", None)
        _bill(counters, found)
    found.source += f"; the bill from Prometheus at {access.url}"


# --- asking ----------------------------------------------------------------------------------------------------------


class _Counters:
    """Asks for sums over a period."""

    def __init__(self, asking: Asking, period: Period) -> None:
        self._asking, self._period = asking, period
        self._window = f"[{math.ceil(period.seconds)}s]"

    def increase(self, name: str) -> Series:
        """By how much a counter rose, by its labels in ``ASKED``."""
        names = ASKED[name]
        return self._ask(f"sum by ({', '.join(names)}) (increase(tidefleet_{name}{self._window}))", names)

    def integral_hours(self, name: str) -> Series:
        """A gauge times the hours that it was there; of several that export it, the largest."""
        names = ASKED[name]
        step = max(LEAST_STEP_SECONDS, math.ceil(self._period.seconds / MOST_STEPS))
        window = f"[{max(step, math.ceil(self._period.seconds))}s:{step}s]"
        found = self._ask(f"sum_over_time(max by ({', '.join(names)}) (tidefleet_{name}){window})", names)
        return {labels: value * step / 3600.0 for labels, value in found.items()}

    def _ask(self, query: str, names: tuple[str, ...]) -> Series:
        found: Series = {}
        for one in self._asking.series("query", {"query": query, "time": f"{self._period.end:.3f}"}):
            try:
                value = float(one["value"][1])
                labels = tuple(str(one["metric"].get(name, "")) for name in names)
            except (LookupError, TypeError, ValueError, AttributeError):
                raise PrometheusError("--prometheus: its answer is no vector; expected a Prometheus") from None
            if math.isfinite(value) and value > 0.0:
                found[labels] = value
        return found


# --- the bill --------------------------------------------------------------------------------------------------------


def _bill(counters: _Counters, found: Found) -> None:
    costs = counters.increase("pool_cost_usd_total")
    training = counters.increase("training_cost_usd_total")
    idle = counters.increase("fleet_idle_cost_usd_total")
    if not costs and not training and not idle:
        raise PrometheusError(
            f"--prometheus: it has no tidefleet_pool_cost_usd_total from {found.period}; expected one that scraped the "
            "operator then: is it kept that long?"
        )
    found.paid = {Unit(*unit): pico(cost) for unit, cost in costs.items()}
    tiers = counters.increase("pool_kv_tier_cost_usd_total")
    found.tiers = {Unit(*unit): min(pico(cost), found.paid.get(Unit(*unit), 0)) for unit, cost in tiers.items()}
    found.lines |= {
        name: pico(cost) for name, cost in ((TRAINING, training.get(())), (WITHOUT_POOL, idle.get(()))) if cost
    }
    unused: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for (namespace, pool, cause), lost in counters.increase("pool_lost_seconds_total").items():
        if cause in UNUSED_CAUSES:
            unused[namespace, pool][cause] = lost
    found.unused = {**unused}
    _savings(counters, found)


def _savings(counters: _Counters, found: Found) -> None:
    """What the fleet as adopted would have cost less what it did; of pools that adopted nothing, what plans save."""
    adopted = counters.integral_hours("pool_adopted_cost_usd_per_hour")
    planned = counters.integral_hours("plan_savings_usd_per_hour")
    cost: dict[tuple[str, ...], int] = defaultdict(int)
    for unit, paid in found.paid.items():
        cost[unit[:2]] += paid
    parts = [spent - usd(cost[pool]) for pool, spent in adopted.items()]
    parts += [saved for pool, saved in planned.items() if pool not in adopted]
    if not parts:
        return
    found.savings = math.fsum(parts)
    found.notes.append(
        f"savings: {len(adopted)} pools against the replicas that they adopted at today's prices, "
        f"{len(parts) - len(adopted)} against the best plan of one accelerator type"
    )


# --- who used it -----------------------------------------------------------------------------------------------------


def _use(counters: _Counters, found: Found) -> None:
    """Cells of each class, divided among its pool's types by what was paid for them."""
    classes = _classes(counters, found)
    pools: dict[tuple[str, str], dict[Unit, int]] = defaultdict(dict)
    for unit in found.paid:
        pools[unit[:2]][unit] = found.of_chips(unit)
    several = False
    for (namespace, pool, name), figures in classes.items():
        units = pools.get((namespace, pool)) or {Unit(namespace, pool, "", ""): 1}
        several |= len(units) > 1
        for unit, part in zip(units, _divided(figures, [*units.values()]), strict=True):
            found.cells.append(Cell(_key(found.by, unit, name), unit, "", part))
    if several and found.by is By.ACCELERATOR:
        found.notes.append(
            "metrics do not say on which type a token ran: pools of several types divide theirs by what each cost"
        )
    if found.by is not By.ACCELERATOR:
        found.notes.append("the share of objectives met is of output tokens, as metrics have it")
    if found.by is By.POOL:
        _tasks(counters, found)
        _recompute(counters, found)


def _key(by: By, unit: Unit, name: str) -> Key:
    match by:
        case By.CLASS:
            return f"{unit.namespace}/{name}" if name else None
        case By.POOL:
            return f"{unit.namespace}/{unit.pool}"
        case _:
            return unit.accelerator or None


def _classes(counters: _Counters, found: Found) -> dict[tuple[str, ...], Figures]:
    classes: dict[tuple[str, ...], Figures] = defaultdict(Figures)
    for (*who, direction), tokens in counters.increase("pool_tokens_total").items():
        field = f"{direction}_tokens"
        if field in _TOKENS:
            mine = classes[*who]
            setattr(mine, field, getattr(mine, field) + round(tokens))
    for (*who, status), requests in counters.increase("router_requests_total").items():
        mine = classes[*who]
        mine.requests += round(requests)
        mine.error_requests += round(requests) if status in ("4xx", "5xx") else 0
        mine.cut_requests += round(requests) if status == "cut" else 0
    for (*who, slo), tokens in counters.increase("router_output_tokens_total").items():
        mine = classes[*who]
        if slo == "met":
            mine.good_tokens = mine.slo_met = round(tokens)
        elif slo == "missed":
            mine.slo_missed = round(tokens)
    for name, earned in counters.increase("pool_revenue_usd_total").items():
        classes[name].revenue = pico(earned)
    _used(counters, found, classes)
    return classes


_TOKENS = ("input_tokens", "cached_tokens", "reasoning_tokens", "output_tokens")


def _used(counters: _Counters, found: Found, classes: dict[tuple[str, ...], Figures]) -> None:
    """Usage of each class: the router's dollars; else needed seconds of its pool, divided by computed tokens."""
    dollars = counters.increase("request_cost_usd_sum")
    for name, cost in dollars.items():
        classes[name].used = pico(cost)
    told = {name[:2] for name in dollars}
    paid: dict[tuple[str, ...], int] = defaultdict(int)
    for unit in found.paid:
        paid[unit[:2]] += found.of_chips(unit)
    without = {pool for pool in paid if pool not in told}
    if not without:
        return
    needed = counters.increase("pool_needed_seconds_total")
    lost = counters.increase("pool_lost_seconds_total")
    unknown = 0
    for pool in sorted(without):
        mine = {name: one for name, one in classes.items() if name[:2] == pool}
        if not mine:
            continue
        unused = sum(lost.get((*pool, cause), 0.0) for cause in UNUSED_CAUSES)
        used = sum(seconds for (*who, work), seconds in needed.items() if (*who,) == pool and work != TRAINING) + sum(
            lost.get((*pool, cause), 0.0) for cause in ("half_batch", "recompute", "kv_fetch")
        )
        unknown += not used + unused
        total = round(paid[pool] * used / (used + unused)) if used + unused else paid[pool]
        weights = [one.input_tokens + one.output_tokens for one in mine.values()]
        for one, part in zip(mine.values(), split(total, weights), strict=True):
            one.used = part
    found.notes.append(
        f"{len(without)} pools have no tidefleet_request_cost_usd: their use is what their seconds say, by tokens"
        + (f"; {unknown} of them say no seconds either, and all they cost counts as used" if unknown else "")
    )


def _divided(figures: Figures, weights: list[int]) -> list[Figures]:
    """Figures divided in proportion; the parts sum to them."""
    parts = [Figures() for _ in weights]
    for one in fields(Figures):
        value = getattr(figures, one.name)
        if isinstance(value, int):
            for part, share in zip(parts, split(value, weights), strict=True):
                setattr(part, one.name, share)
    return parts


def _tasks(counters: _Counters, found: Found) -> None:
    ended: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for (namespace, pool, outcome), count in counters.increase("pool_tasks_total").items():
        ended[f"{namespace}/{pool}"][outcome] += round(count)
    used: dict[str, int] = defaultdict(int)
    for cell in found.cells:
        used[row_name(cell.key)] += cell.figures.used
    found.tasks = {name: Tasks(one["success"], one["failure"], used[name]) for name, one in ended.items()}
    if found.tasks:
        found.all_tasks = Tasks(
            sum(one.succeeded for one in found.tasks.values()),
            sum(one.failed for one in found.tasks.values()),
            sum(one.used for one in found.tasks.values()),
        )


def _recompute(counters: _Counters, found: Found) -> None:
    """Dollars of seconds that went into computing prompts again, by the causes of their tokens."""
    seconds: dict[tuple[str, ...], float] = defaultdict(float)
    again: Series = {}
    for (namespace, pool, cause), lost in counters.increase("pool_lost_seconds_total").items():
        if cause == "recompute":
            again[namespace, pool] = lost
        if cause not in ("recall", "data_stall"):
            seconds[namespace, pool] += lost
    for (namespace, pool, work), needed in counters.increase("pool_needed_seconds_total").items():
        if work != TRAINING:
            seconds[namespace, pool] += needed
    tokens: dict[tuple[str, ...], dict[str, int]] = defaultdict(dict)
    for (namespace, pool, cause), count in counters.increase("pool_recomputed_tokens_total").items():
        tokens[namespace, pool][cause] = round(count)
    for which, lost in again.items():
        paid = sum(found.of_chips(unit) for unit in found.paid if unit[:2] == which)
        cost = min(paid, round(lost / seconds[which] * paid)) if seconds[which] > 0.0 else 0
        causes = tokens.get(which) or {"unknown": 1}
        name = f"{which[0]}/{which[1]}"
        found.recompute[name] = dict(zip(causes, split(cost, [*causes.values()]), strict=True))
