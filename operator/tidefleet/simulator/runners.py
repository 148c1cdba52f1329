"""Runners of the kinds of scenarios that read traces; what each needs is imported when it runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from tidefleet.simulator.checkpoint import Parts
from tidefleet.simulator.result import Outcome
from tidefleet.simulator.run import Progress
from tidefleet.simulator.scenario import Scenario

_OWN_FILES = Path()
"""Where a scenario looks that needs no directory of traces: its classes name files of the user's."""


def replay(
    scenario: Scenario,
    traces: Path | None,
    *,
    seed: int,
    policy: str | None,
    full: bool,
    progress: Progress,
    parts: Parts,
) -> Outcome:
    """Every request of a trace, in its own order and times, through one policy."""
    del full, parts  # it is always in full, and one piece
    workload = importlib.import_module("tidefleet.simulator.workload")
    engine = importlib.import_module("tidefleet.simulator.replay")
    found = workload.load(scenario, traces or _OWN_FILES, seed=seed)
    return cast("Outcome", engine.run_replay(scenario, found, seed=seed, policy=policy, progress=progress))


def fleet(
    scenario: Scenario,
    traces: Path | None,
    *,
    seed: int,
    policy: str | None,
    full: bool,
    progress: Progress,
    parts: Parts,
) -> Outcome:
    """A fleet over the scenario's time: every flip, and requests in windows or in full."""
    week = importlib.import_module("tidefleet.simulator.week")
    return cast(
        "Outcome",
        week.run_fleet(
            scenario, traces or _OWN_FILES, seed=seed, policy=policy, full=full, progress=progress, parts=parts
        ),
    )
