"""What is said of a class's requests beside where they go: whose they are, what they earn, and what tenants may use."""

from __future__ import annotations

from dataclasses import dataclass

from tidefleet.api import WorkloadClass
from tidefleet.economics.revenue import Prices
from tidefleet.planning.earning import prices_of_class
from tidefleet.router.discovery import ServedPool
from tidefleet.routing.caps import Limit
from tidefleet.routing.hashing import hashed

TEAM_LABEL, FEATURE_LABEL = "tidefleet.io/team", "tidefleet.io/feature"
"""On a WorkloadClass, else on its pool: who pays for it, and for what."""
DEFAULT_TASK_HEADER, DEFAULT_OUTCOME_HEADER = "x-task-id", "x-task-outcome"


@dataclass(frozen=True, slots=True)
class Billing:
    """Of one class of a pool, or of requests that belong to none.

    Attributes:
        scope: a number of the class, by which its tenants' limits are counted.
        task_header, outcome_header: in lower case.
        revenue: None where nothing says what it earns, or it is no price of a request (a seat's).
        limit: of one tenant; None without.
    """

    namespace: str
    pool: str
    wclass: str
    scope: int
    team: str | None = None
    feature: str | None = None
    task_header: str = DEFAULT_TASK_HEADER
    outcome_header: str = DEFAULT_OUTCOME_HEADER
    revenue: Prices | None = None
    limit: Limit | None = None


def billing_of(served: ServedPool, wclass: WorkloadClass | None) -> Billing:
    """Of a class, or of requests of the pool that belong to none."""
    labels = dict(served.spec.metadata.labels) if served.spec is not None else {}
    gateway = served.spec.spec.gateway if served.spec is not None else None
    name, revenue, limit = "", None, None
    if wclass is not None:
        labels |= dict(wclass.metadata.labels)
        name, told, limits = wclass.name, wclass.spec.revenue, wclass.spec.limits
        priced = told is not None and (told.usage is not None or told.internal is not None)
        revenue = prices_of_class(wclass) if priced else None
        if limits is not None:
            tokens, usd = limits.tokens_per_minute_per_tenant, limits.usd_per_day_per_tenant
            limit = Limit(None if tokens is None else float(tokens), None if usd is None else float(usd))
    return Billing(
        namespace=served.namespace,
        pool=served.name,
        wclass=name,
        scope=hashed(f"{served.key}\x00{name}", b""),
        team=labels.get(TEAM_LABEL),
        feature=labels.get(FEATURE_LABEL),
        task_header=gateway.task_header.lower() if gateway is not None else DEFAULT_TASK_HEADER,
        outcome_header=gateway.task_outcome_header.lower() if gateway is not None else DEFAULT_OUTCOME_HEADER,
        revenue=revenue,
        limit=limit if limit is not None and limit != Limit() else None,
    )


def billings_of(served: ServedPool) -> dict[str, Billing]:
    """Of all classes of a pool by name; the empty name is that of requests that belong to none."""
    return {"": billing_of(served, None), **{one.name: billing_of(served, one) for one in served.classes}}
