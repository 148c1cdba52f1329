"""What a study comes to, and how it reads its settings and its pool."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from tidefleet import catalogue
from tidefleet.api import AcceleratorType
from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.replica import Replica
from tidefleet.planning.from_api import accelerator_of, chosen_price
from tidefleet.simulator.scenario import Pool, Scenario


class BadSetting(ValueError):
    """A study or a setting of it that is not usable."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Figures by name, each with its unit in the name, and sentences that say when they hold."""

    figures: Mapping[str, float]
    words: tuple[str, ...]


MOST = 1e15
LEAST = 1e-9


def settings_of(scenario: Scenario, defaults: Mapping[str, float], *, positive: Sequence[str] = ()) -> dict[str, float]:
    """The study's settings: its defaults, and what the scenario sets.

    Args:
        positive: settings that may not be 0.

    Raises:
        BadSetting: a name is no setting of the study, or a value is negative, above 1e15 or not finite.
    """
    found = dict(defaults)
    for name, value in scenario.settings.items():
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadSetting(
                f"scenario {scenario.name}: settings.{name} is no setting of {scenario.study}; "
                f"expected one of {', '.join(defaults)}{hint}"
            )
        least = LEAST if name in positive else 0.0
        if not least <= value <= MOST:
            raise BadSetting(
                f"scenario {scenario.name}: settings.{name} is {value:g}; expected a number from {least:g} to "
                f"{MOST:g}, e.g. {name}: {defaults[name]:g}"
            )
        found[name] = float(value)
    return found


def pool_of(scenario: Scenario, place: int = 0) -> Pool:
    """The scenario's pool at this place.

    Raises:
        BadSetting: it has none there.
    """
    if len(scenario.pools) <= place:
        raise BadSetting(
            f"scenario {scenario.name}: pools has {len(scenario.pools)} of the {place + 1} that {scenario.study} is "
            "about; expected e.g. pools: [{model: llama-3.3-70b, accelerator: h200-sxm, replicas: 1}]"
        )
    return scenario.pools[place]


@cache
def kinds() -> Mapping[str, AcceleratorType]:
    """The shipped accelerator types by name."""
    found = (AcceleratorType.model_validate(one) for one in catalogue.accelerator_manifests())
    return {one.name: one for one in found}


def chip_of(name: str) -> Accelerator:
    """The accelerator of this name; the catalogue has it, since scenarios are checked."""
    return accelerator_of(kinds()[name])


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
    entry = chosen_price(kinds()[accelerator], capacity_type)
    return None if entry is None else float(entry.usd_per_chip_hour)
