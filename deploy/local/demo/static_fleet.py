"""What the day would cost without an operator: each pool on its cheapest single type, sized once for its peak."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from demo.day import Bin
from tidefleet import catalogue
from tidefleet.api import AcceleratorType, InferencePool, WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.view import PoolMemory, PoolView
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.from_api import architecture_of, offer_of
from tidefleet.planning.options import EstimateMemo
from tidefleet.planning.pool import describe

METHOD = (
    "the same planner, prices, planning utilisation and spare replica; each pool alone on the one accelerator type "
    "that carries its dearest ten minutes for the least money, held all day"
)


@dataclass(frozen=True, slots=True)
class StaticFleet:
    """A fixed fleet of one accelerator type that carries a pool's whole day."""

    accelerator: str
    fleet: str
    usd_per_hour: float
    peak_requests_per_second: float


def static_fleet(
    pool: InferencePool, classes: Sequence[WorkloadClass], kinds: Sequence[AcceleratorType], bins: Sequence[Bin]
) -> StaticFleet | None:
    """The cheapest such fleet; None when no single type carries every bin of the day.

    Each bin is planned with its own token lengths, so a bin of few but long requests counts as what it costs.
    """
    memo = EstimateMemo()
    architecture = architecture_of(pool, catalogue.models())
    by_volume = sorted(bins, key=_volume, reverse=True)
    best: StaticFleet | None = None
    for kind in kinds:
        view = PoolView(
            pool,
            0.0,
            classes=tuple(classes),
            architecture=architecture,
            kinds={kind.name: kind},
            offers=(offer_of(kind),),
        )
        below = best.usd_per_hour if best is not None else math.inf
        best = _sized_for_the_peak(view, kind.name, by_volume, below=below, memo=memo) or best
    return best


def _volume(one: Bin) -> float:
    """How much a bin asks for, roughly: what sorts dear bins first."""
    return one.requests_per_second * (one.input_tokens + 4.0 * one.output_tokens)


def _sized_for_the_peak(
    view: PoolView, accelerator: str, bins: Sequence[Bin], *, below: float, memo: EstimateMemo
) -> StaticFleet | None:
    """The fleet of one type that the dearest bin asks for; None when a bin does not fit or costs as much as `below`."""
    peak: StaticFleet | None = None
    for one in bins:
        reading = Known(
            one.second, one.requests_per_second, "trace", one.input_tokens, one.output_tokens, one.cached_share
        )
        seen = replace(view, now=one.second, reading=reading)
        plan = decide(seen, PoolMemory(DemandHistory(0.0)), OperatorConfiguration(), memo).plan
        if plan is None or plan.shortfall > 0 or plan.usd_per_hour >= below:
            return None
        if peak is None or plan.usd_per_hour > peak.usd_per_hour:
            fleet = describe((each.option, each.replicas) for each in plan.chosen)
            peak = StaticFleet(accelerator, fleet, plan.usd_per_hour, one.requests_per_second)
    return peak


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
    kinds = [one for one in parsed if isinstance(one, AcceleratorType) and one.name in types]
    found = {}
    for pool in parsed:
        if isinstance(pool, InferencePool) and pool.name in day:
            mine = [one for one in classes if (one.namespace, one.spec.pool_ref.name) == pool.key]
            fleet = static_fleet(pool, mine, kinds, day[pool.name])
            if fleet is not None:
                found[pool.name] = fleet
    return found
