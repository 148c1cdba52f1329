"""What the shipped catalogue says of a scenario's pools: chips, replicas and prices."""

from __future__ import annotations

from tidefleet import catalogue
from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.replica import Replica
from tidefleet.planning.from_api import accelerator_of, chosen_price
from tidefleet.simulator.scenario import Pool


def chip_of(name: str) -> Accelerator:
    """The accelerator of this name; the catalogue has it, since scenarios are checked."""
    return accelerator_of(catalogue.accelerator_types()[name])


def replica_of(pool: Pool) -> Replica:
    """One replica of a pool, tensor-parallel over its chips."""
    return Replica(
        catalogue.models()[pool.model], chip_of(pool.accelerator), pool.chips_per_replica, pool.weights, pool.kv
    )


def price_of(pool: Pool, capacity_type: str = "OnDemand") -> float | None:
    """USD a chip-hour: what the scenario says, else the catalogue's price; ``None`` where there is none."""
    if pool.usd_per_chip_hour is not None:
        return pool.usd_per_chip_hour
    return list_price(pool.accelerator, capacity_type)


def list_price(accelerator: str, capacity_type: str = "OnDemand") -> float | None:
    """USD a chip-hour of the catalogue; ``None`` where there is none."""
    entry = chosen_price(catalogue.accelerator_types()[accelerator], capacity_type)
    return None if entry is None else float(entry.usd_per_chip_hour)
