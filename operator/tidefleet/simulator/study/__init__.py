"""Studies: questions that the cost model answers by itself, each with its conditions as figures.

A study takes settings by name (numbers, with defaults) and, where it is about a fleet, the scenario's first pool. It
computes at run time; nothing here is a result.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path

from tidefleet.simulator.checkpoint import Parts
from tidefleet.simulator.result import Outcome
from tidefleet.simulator.scenario import Scenario
from tidefleet.simulator.study.finding import BadSetting, Finding

STUDIES: Mapping[str, str] = {
    "kv-or-prefill": "tidefleet.simulator.study.kv_or_prefill",
    "rack-or-node": "tidefleet.simulator.study.rack_or_node",
    "prefill-only": "tidefleet.simulator.study.prefill_only",
    "deepseek-day": "tidefleet.simulator.study.deepseek_day",
    "jevons": "tidefleet.simulator.study.jevons",
    "claims": "tidefleet.simulator.study.claims",
}
"""The module of each study; its function ``study(scenario)`` gives a ``Finding``."""

BASELINES: tuple[str, ...] = ()
"""A study compares within itself."""


def run(
    scenario: Scenario,
    traces: Path | None,
    *,
    seed: int,
    policy: str | None,
    full: bool,
    progress: Callable[[float, str], None],
    parts: Parts,
) -> Outcome:
    """What a study finds. It has no chance in it: every seed comes to the same.

    Raises:
        BadSetting: there is no such study, or a setting of it is not usable.
    """
    del traces, seed, full, parts
    name = scenario.study or ""
    if name not in STUDIES:
        raise BadSetting(f"study is {name!r}; expected one of {', '.join(STUDIES)}")
    if policy is not None:
        raise BadSetting(f"policy is {policy}; a study has no baselines")
    progress(0.0, name)
    found: Finding = importlib.import_module(STUDIES[name]).study(scenario)
    return Outcome(figures=found.figures, words=found.words)


__all__ = ["STUDIES", "BadSetting", "Finding", "run"]
