"""What the day would cost without an operator: each pool on its cheapest single type, sized once for its peak."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo.day import Bin
from tidefleet import catalogue
from tidefleet.api import AcceleratorType, InferencePool, WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.planning.demand import Known, observed_shapes
from tidefleet.planning.from_api import allowed_of, architecture_of, class_demands, offer_of
from tidefleet.planning.options import EstimateMemo, Offer, find_candidates
from tidefleet.planning.pool import PoolPlan, PoolProblem, describe, plan_pool

METHOD = (
    "the same planner, prices, planning utilisation and spare replica; each pool alone on the one accelerator type that "
    "carries its dearest ten minutes for the least money, held all day"
)


@dataclass(frozen=True, slots=True)
class StaticFleet:
    """A fixed fleet of one accelerator type that carries a pool's whole day."""

    accelerator: str
    fleet: str
    usd_per_hour: float
    peak_requests_per_second: float


def static_fleet(
    pool: InferencePool, classes: Sequence[WorkloadClass], offers: Sequence[Offer], bins: Sequence[Bin]
) -> StaticFleet | None:
    """The cheapest such fleet; None when no single type carries every bin of the day.

    Each bin is planned with its own token lengths, so a bin of few but long requests counts as what it costs.
    """
    architecture = architecture_of(pool, catalogue.models())
    native = architecture.native_weights
    allowed = allowed_of(pool, classes, native)
    bounds, memo = pool.spec.replicas, EstimateMemo()
    best: StaticFleet | None = None
    for offer in offers:
        peak: StaticFleet | None = None
        for one in bins:
            reading = Known(
                one.second, one.requests_per_second, "trace", one.input_tokens, one.output_tokens, one.cached_share
            )
            mix = observed_shapes(class_demands(classes, one.requests_per_second), reading)
            market = find_candidates(
                architecture, [offer], mix, allowed, default_weights=native, default_kv="Bf16", memo=memo
            )
            plan = plan_pool(
                PoolProblem(
                    pool=f"{pool.namespace}/{pool.name}",
                    classes=mix,
                    requests_per_second=one.requests_per_second,
                    market=market,
                    minimum=bounds.min,
                    maximum=bounds.max,
                    spare=bounds.spare,
                )
            )
            if not isinstance(plan, PoolPlan) or plan.shortfall > 0:
                peak = None
                break
            if peak is None or plan.usd_per_hour > peak.usd_per_hour:
                fleet = describe((each.option, each.replicas) for each in plan.chosen)
                peak = StaticFleet(offer.accelerator.name, fleet, plan.usd_per_hour, one.requests_per_second)
        if peak is not None and (best is None or peak.usd_per_hour < best.usd_per_hour):
            best = peak
    return best


def static_fleets(
    objects: Sequence[Mapping[str, Any]], day: Mapping[str, Sequence[Bin]], types: Collection[str]
) -> dict[str, StaticFleet]:
    """The fixed fleet of every pool.

    Args:
        objects: InferencePools, WorkloadClasses and AcceleratorTypes as the API server has them.
        day: The bins of each pool.
        types: Accelerator types that have nodes.
    """
    parsed = [parse({key: value for key, value in raw.items() if key != "status"}) for raw in objects]
    classes = [one for one in parsed if isinstance(one, WorkloadClass)]
    offers = [offer_of(one) for one in parsed if isinstance(one, AcceleratorType) and one.name in types]
    found = {}
    for pool in parsed:
        if isinstance(pool, InferencePool) and pool.name in day:
            mine = [one for one in classes if (one.namespace, one.spec.pool_ref.name) == pool.key]
            fleet = static_fleet(pool, mine, offers, day[pool.name])
            if fleet is not None:
                found[pool.name] = fleet
    return found
