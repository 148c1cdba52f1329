"""What `tidefleet money` tells, as plain values: JSON as it is, and what table and page are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tidefleet.economics.investment import NoReturn, Return, internal_rate_of_return, net_present_value, payback_months
from tidefleet.planning.capacity import Decision, decisions, in_service
from tidefleet.planning.capacity.market import Floats
from tidefleet.planning.outlook.break_even import users_to_break_even
from tidefleet.planning.outlook.outlook import (
    POLICIES,
    Outlook,
    PoolOutlook,
    PoolPrice,
    class_margins,
    pool_prices,
    responses,
)

CAPEX, SALE = 0, 1
NEVER = "the money is not back within the horizon"


def answer_of(found: Outlook, elasticities: Sequence[float]) -> dict[str, Any]:
    """Everything about one book.

    Amounts are USD; those of months are means over the scenarios, and ``npv_usd`` is the sum of each month's
    ``cash_flow_usd`` times (1 + discount)^(-month/12).
    """
    users, why_users = users_to_break_even(found)
    rate, why_rate = _rate(found.irr)
    return {
        "book": found.book.name,
        "horizon_months": found.months,
        "discount_per_year": found.book.discount_per_year,
        "known_from_month": found.book.known_from_month,
        "npv_usd": found.npv_usd,
        "irr": rate,
        "irr_note": why_rate,
        "payback_months": _months(found.payback),
        "payback_note": NEVER if math.isnan(found.payback) else "",
        "users": found.users or None,
        "break_even_users": users,
        "break_even_note": why_users,
        "months": _month_rows(found),
        "scenarios": _scenario_rows(found),
        "policies": [_policy(found, name) for name in POLICIES],
        "regret_usd": {name: _regret(found, name) for name in ("buy_now", "wait")},
        "orders": _orders(found),
        "lower_bound_usd": math.fsum(one.plan.lower_bound_usd for one in found.pools),
        "decisions": {
            "scenario": found.scenarios.names[_likeliest(found)],
            "before_it_is_known": [row for one in found.pools for row in _before(found, one)],
            "in_that_scenario": [row for one in found.pools for row in _decided(found, one)],
        },
        "capacity": [row for one in found.pools for row in _capacity(found, one)],
        "pools": [price_row(one) for one in pool_prices(found)],
        "classes": [
            {
                "class": one.wclass,
                "pool": one.pool,
                "revenue_usd": one.revenue_usd,
                "cost_usd": one.cost_usd,
                "margin": None if one.revenue_usd is None or one.cost_usd <= 0 else one.revenue_usd / one.cost_usd - 1,
            }
            for one in class_margins(found)
        ],
        "elasticity": [
            {
                "elasticity": one.elasticity,
                "price_ratio": one.price_ratio,
                "tokens_ratio": one.tokens_ratio,
                "spend_usd_before": one.spend_usd_before,
                "spend_usd_after": one.spend_usd_after,
                "spend_ratio": one.spend_ratio,
            }
            for one in responses(found, elasticities)
        ],
        "notes": list(found.notes),
    }


def what_if_of(questions: Sequence[str], before: Outlook, after: Outlook) -> dict[str, Any]:
    """What changes: worth, margins, which pools turn loss-making, and which are then cheaper bought."""
    pairs = list(zip(pool_prices(before), pool_prices(after), strict=True))
    users, why_users = users_to_break_even(after)
    rate, why_rate = _rate(after.irr)
    return {
        "questions": list(questions),
        "npv_usd_before": before.npv_usd,
        "npv_usd": after.npv_usd,
        "irr": rate,
        "irr_note": why_rate,
        "payback_months": _months(after.payback),
        "break_even_users": users,
        "break_even_note": why_users,
        "pools": [{**price_row(new), "before": price_row(old)} for old, new in pairs],
        "turn_loss_making": [new.pool for old, new in pairs if _loses(new) and not _loses(old)],
        "become_cheaper_bought": [new.pool for old, new in pairs if new.cheaper_bought and not old.cheaper_bought],
        "decisions": [row for one in after.pools for row in _before(after, one)],
    }


def _loses(one: PoolPrice) -> bool:
    return bool(one.loss_making or one.loss_making_hosted)


def price_row(one: PoolPrice) -> dict[str, Any]:
    """A pool's prices per million tokens in today's money."""
    return {
        "pool": one.pool,
        "usd_per_million_tokens": one.cost,
        "revenue_usd_per_million_tokens": one.earned,
        "margin": one.margin,
        "loss_making": one.loss_making,
        "loss_making_hosted": one.loss_making_hosted,
        "hosted_usd_per_million_tokens": one.hosted,
        "external_usd_per_million_tokens": one.external,
        "cheaper_bought": one.cheaper_bought,
    }


def _rate(found: Return | NoReturn) -> tuple[float | None, str]:
    match found:
        case Return(rate, note):
            return rate, note
        case NoReturn(why):
            return None, why


def _months(value: float) -> float | None:
    return None if math.isnan(value) else value


def _month_rows(found: Outlook) -> list[dict[str, Any]]:
    flows = sum((found.mean(one.flows) for one in found.pools), np.zeros((7, found.months + 1)))
    columns = {
        "tokens": found.mean(found.tokens),
        "cost_usd": found.mean(found.cost),
        "revenue_usd": found.mean(found.revenue),
        "cash_flow_usd": found.mean(found.cash_flow),
        "capex_usd": flows[CAPEX],
        "sale_usd": flows[SALE],
        "cumulative_npv_usd": found.cumulative_npv,
    }
    return [
        {"month": month, **{name: float(values[month]) for name, values in columns.items()}}
        for month in range(found.months + 1)
    ]


def _scenario_rows(found: Outlook) -> list[dict[str, Any]]:
    costs = {name: found.policy_usd(name) for name in POLICIES}
    regrets = {name: found.regret(name) for name in POLICIES}
    each = zip(found.scenarios.names, found.npv, found.irr_by_scenario, found.payback_by_scenario, strict=True)
    rows: list[dict[str, Any]] = []
    for s, (name, npv, irr, payback) in enumerate(each):
        rate, why = _rate(irr)
        rows.append(
            {
                "name": name,
                "probability": float(found.scenarios.probability[s]),
                "npv_usd": float(npv),
                "irr": rate,
                "irr_note": why,
                "payback_months": _months(float(payback)),
                "cost_usd_today": {key: _at(values, s) for key, values in costs.items()},
                "regret_usd": {key: _at(values, s) for key, values in regrets.items()},
            }
        )
    return rows


def _at(values: Floats | None, index: int) -> float | None:
    return None if values is None else float(values[index])


def _policy(found: Outlook, name: str) -> dict[str, Any]:
    costs, regret = found.policy_usd(name), found.regret(name)
    return {
        "policy": name,
        "cost_usd_today": None if costs is None else float(found.scenarios.probability @ costs),
        "regret_usd": None if regret is None else float(found.scenarios.probability @ regret),
        "most_regret_usd": None if regret is None else float(regret.max()),
        "why_not": found.why_not(name),
    }


def _regret(found: Outlook, name: str) -> dict[str, Any]:
    values = found.regret(name)
    return {
        "expected": None if values is None else float(found.scenarios.probability @ values),
        "most": None if values is None else float(values.max()),
        "by_scenario": None
        if values is None
        else {key: float(values[s]) for s, key in enumerate(found.scenarios.names)},
        "why_not": found.why_not(name),
    }


def _orders(found: Outlook) -> dict[str, Any]:
    """What buying and committing brings against renting alone, in the mean of the scenarios."""
    saved = found.saved_by_orders
    if saved is None:
        return {"npv_usd": None, "irr": None, "irr_note": found.why_not("rent_only"), "payback_months": None}
    saved = np.where(np.abs(saved) < 1e-6 * max(1.0, float(np.abs(saved).max(initial=0.0))), 0.0, saved)
    rate, why = _rate(internal_rate_of_return(saved))
    return {
        "npv_usd": float(net_present_value(saved, found.book.discount_per_year)),
        "irr": rate,
        "irr_note": why,
        "payback_months": _months(float(payback_months(saved))),
    }


def _likeliest(found: Outlook) -> int:
    return int(np.argmax(found.scenarios.probability))


def _row(pool: str, one: Decision) -> dict[str, Any]:
    return {
        "pool": pool,
        "action": one.action,
        "type": one.name,
        "month": one.month,
        "until_month": one.until,
        "chips": one.chips,
        "tokens_per_month": one.tokens_per_month,
    }


def _before(found: Outlook, one: PoolOutlook) -> list[dict[str, Any]]:
    """Orders and sales before it is known which scenario came: the same in all."""
    known = one.pool.market.known_from
    return [
        _row(one.pool.name, each)
        for each in decisions(one.plan.solution, _likeliest(found))
        if each.action in ("Buy", "Reserve", "Retire") and each.month < max(1, known)
    ]


def _decided(found: Outlook, one: PoolOutlook) -> list[dict[str, Any]]:
    return [_row(one.pool.name, each) for each in decisions(one.plan.solution, _likeliest(found))]


def _capacity(found: Outlook, one: PoolOutlook) -> list[dict[str, Any]]:
    """Chips and tokens that stand by in months 1, 2, ..., in the mean of the scenarios."""
    return [
        {
            "pool": one.pool.name,
            "type": name,
            "way": way,
            "chips": [float(x) for x in found.mean(each.chips)],
            "tokens": [float(x) for x in found.mean(each.tokens)],
        }
        for (name, way), each in sorted(in_service(one.plan.solution, found.months).items())
    ]
