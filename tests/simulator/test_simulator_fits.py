"""A demand that cannot fit is said before anything is simulated."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulate_builders import FLEET

from tidefleet.simulator import run
from tidefleet.simulator.fits import SHAPES, peak_over_mean, problems
from tidefleet.simulator.load import parse_scenario
from tidefleet.simulator.result import Outcome
from tidefleet.simulator.run import CannotFit, Request, here, simulate

BATCH = """
  - name: batch
    source: servegen:m-mid
    deadlineSeconds: 86400
    volumeShare: 0.5
"""


def shapes(directory: Path, values: list[float]) -> Path:
    lines = ["t,chat", *(f"{600 * index},{value}" for index, value in enumerate(values))]
    (directory / SHAPES).write_text("\n".join(lines) + "\n")
    return directory


def test_a_fleet_that_fits_has_no_problems(tmp_path: Path) -> None:
    assert problems(parse_scenario(FLEET, "f"), shapes(tmp_path, [1.0] * 144)) == []


def test_a_model_that_does_not_fit_its_chips_is_told_with_the_room() -> None:
    (told,) = problems(parse_scenario(FLEET, "f", ["pools.main.chipsPerReplica=1", "pools.main.weights=Bf16"]), None)
    assert told.startswith("pools[0] (main): llama-3.3-70b in Bf16 needs ")
    assert told.endswith("expected more of them, e.g. chipsPerReplica: 2")


def test_objectives_that_a_lone_request_misses_are_told_with_what_it_takes() -> None:
    changes = ["classes.chat.objective.tpotSeconds=0.001", "classes.chat.objective.ttftSeconds=0.0001"]
    changes.append("classes.chat.objective.ttftSecondsPerThousand=0")
    tpot, ttft = problems(parse_scenario(FLEET, "f", changes), None)
    assert "classes[0] (chat): objective.tpotSeconds is 0.001; llama-3.3-70b on 2 h200-sxm takes 0.0" in tpot
    assert "objective.ttftSeconds is 0.0001" in ttft


def test_the_peak_hour_over_the_mean_is_that_of_the_scenarios_own_time(tmp_path: Path) -> None:
    traces = shapes(tmp_path, [1.0] * 6 + [3.0] * 6 + [2.0] * 6 + [0.0] * 126)
    whole = parse_scenario(FLEET, "f", ["seconds=86400"])
    assert peak_over_mean(whole, whole.classes, traces) == pytest.approx(3.0 / (36 / 144))
    part = parse_scenario(FLEET, "f", ["seconds=7200", "beginSeconds=3600"])
    assert peak_over_mean(part, part.classes, traces) == pytest.approx(3.0 / 2.5)
    assert peak_over_mean(part, part.classes, None) is None


def test_work_that_may_wait_must_fit_beside_the_mean_of_the_rest(tmp_path: Path) -> None:
    scenario = parse_scenario(FLEET + BATCH, "f")
    assert problems(scenario, shapes(tmp_path, [2.0] * 72 + [0.0] * 72)) == []
    (told,) = problems(scenario, shapes(tmp_path, [1.2] * 72 + [0.8] * 72))
    assert told.startswith("demand is 127% of the fleet: 77% that people wait for, on average")
    assert "volumeShare of the classes with a deadline at most 0.23 together" in told


def test_what_cannot_fit_is_not_simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def runner(*_: object, **rest: object) -> Outcome:
        raise AssertionError("it was simulated")

    monkeypatch.setattr(run, "runner_of", lambda kind: runner)
    scenario = parse_scenario(FLEET + BATCH, "f", ["classes.batch.volumeShare=1"])
    with pytest.raises(CannotFit, match="scenario small: demand is 192% of the fleet"):
        simulate(Request(scenario, shapes(tmp_path, [1.0] * 144), (1,)), spread=here)
