"""What a study comes to, and how it reads its settings and its pool."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
