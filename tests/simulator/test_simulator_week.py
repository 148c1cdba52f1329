"""A fleet over hours on real traces: points that sum to one, the same bytes again, and rivals beside it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tidefleet.simulator.checkpoint import Parts
from tidefleet.simulator.load import load_scenario
from tidefleet.simulator.mix import Kind, spread
from tidefleet.simulator.run import CannotFit, CannotRun
from tidefleet.simulator.week import BASELINES, run_fleet

ROOT = Path(__file__).resolve().parents[2]
TRACES = Path(os.environ.get("TIDEFLEET_SHARED", ROOT.parent / "shared")) / "traces"
SMALL = {
    "seconds": "43200",
    "beginSeconds": "75600",
    "pools.0.replicas": "12",
    "windows.count": "2",
    "windows.seconds": "10",
    "windows.warmSeconds": "5",
    "windows.historySeconds": "120",
    "windows.keptSeconds": "1800",
}
needs_traces = pytest.mark.skipif(not TRACES.exists(), reason=f"no traces at {TRACES}; TIDEFLEET_SHARED names another")


def run(policy=None, *, seed=1, parts=None, full=False, **changes):
    scenario = load_scenario("week", [f"{name}={value}" for name, value in {**SMALL, **changes}.items()])
    return run_fleet(
        scenario,
        TRACES,
        seed=seed,
        policy=policy,
        full=full,
        progress=lambda share, words: None,
        parts=parts or Parts(),
    )


@pytest.fixture(scope="module")
def ours():
    return run()


@needs_traces
def test_what_is_needed_and_what_is_lost_sum_to_what_is_paid(ours):
    assert ours.utilization + sum(ours.utilization_lost.values()) == pytest.approx(1.0, abs=1e-9)
    assert 0.0 < ours.utilization < 1.0
    assert ours.utilization <= ours.busy <= 1.0 + 1e-9


@needs_traces
def test_every_class_is_judged_and_nothing_is_lost_to_moves(ours):
    assert {"chat", "agentic", "code", "rag", "api", "overall"} <= set(ours.slo_attainment)
    assert all(0.9 < one <= 1.0 for one in ours.slo_attainment.values())
    assert ours.figures["requests_flown"] == 0.0
    assert {"chat", "agentic", "code", "rag", "api"} <= set(ours.ttft_seconds)


@needs_traces
def test_windows_need_about_what_the_fluid_plans_for(ours):
    assert ours.figures["needed_seen_over_planned"] == pytest.approx(1.0, abs=0.35)


@needs_traces
def test_dollars_of_classes_are_those_of_serving(ours):
    assert ours.usd_total > 0.0
    assert ours.usd_per_million_tokens == pytest.approx(sum(ours.usd_by_accelerator.values()), rel=0.2)
    assert 0.0 < ours.joules_per_token < 100.0


@needs_traces
def test_loans_are_worth_points_and_a_fleet_that_lends_nothing_trains_nothing(ours):
    still = run("no_loans")
    assert still.training_gpu_hours == 0.0 == still.flips
    assert ours.flips > 0.0 < ours.training_gpu_hours
    assert ours.utilization > still.utilization + 0.02
    assert ours.utilization_without_loans == pytest.approx(still.utilization, abs=0.06)


@needs_traces
def test_an_interrupted_run_goes_on_to_the_same_bytes(ours):
    kept: dict[str, object] = {}

    class Recorded(Parts):
        def put(self, name, value):
            kept[name] = super().put(name, value)
            return kept[name]

    again = json.dumps(run(parts=Recorded()).as_json(), sort_keys=True)
    assert again == json.dumps(ours.as_json(), sort_keys=True)
    windows = [name for name in kept if name.startswith("window")]
    assert len(windows) >= 2
    half = Parts(values={name: kept[name] for name in kept if name not in windows[1:]})
    assert json.dumps(run(parts=half).as_json(), sort_keys=True) == again


@needs_traces
def test_demand_beyond_the_fleet_and_policies_nobody_knows_are_refused_before_anything_runs():
    with pytest.raises(CannotFit, match="busiest hour keeps"):
        run(peakShare="1.0", **{"surges": "[{class: chat, beginSeconds: 0, seconds: 28800, rateFactor: 9}]"})
    with pytest.raises(CannotRun, match=r"no baseline 'magic'; expected one of .*round_robin"):
        run("magic")


def test_rivals_are_planners_and_policies_of_routers():
    assert {"round_robin", "sticky", "greedy", "dynamo", "llmd", "static_split", "queue_autoscaler", "slices"} <= set(
        BASELINES
    )
    assert "pick" not in BASELINES


def test_turns_come_after_their_sessions_begin_and_none_is_lost():
    starts = np.zeros(144)
    starts[10] = 6.0
    delays = np.zeros(288)
    delays[[0, 3]] = 0.5
    found = spread(starts, delays)
    assert found.sum() == pytest.approx(6.0)
    assert found[[10, 13]] == pytest.approx([3.0, 3.0])
    assert Kind(1.0, 1.0, 1.0, 1.0, 1.0, delays, np.ones(1)).delays.sum() == 1.0


@needs_traces
def test_windows_and_every_request_agree_within_the_errors_that_are_told():
    changes = {
        "seconds": "1800", "beginSeconds": "36000", "pools.0.replicas": "2",
        "classes": "[{name: chat, source: mooncake-conversation, share: 0.7, shape: chat_global, "
                   "objective: {ttftSeconds: 0.8, tpotSeconds: 0.05}}, "
                   "{name: code, source: azure2023-code, share: 0.3, shape: code, "
                   "objective: {ttftSeconds: 0.4, tpotSeconds: 0.04}}, "
                   "{name: batch, source: 'servegen:m-mid', shape: batch, deadlineSeconds: 86400, volumeShare: 0.1}]",
        "windows.count": "10", "windows.seconds": "15", "windows.warmSeconds": "10", "windows.historySeconds": "60",
        "windows.keptSeconds": "600",
    }  # fmt: skip
    some, every = run(**changes), run(full=True, **changes)
    assert every.requests > 5 * some.requests
    assert (every.utilization_se, every.slo_attainment_se) == (0.0, 0.0)
    assert 0.0 < some.utilization_se < 0.02
    assert abs(some.utilization - every.utilization) < 2.0 * some.utilization_se + 1e-3
    assert abs(some.slo_attainment["overall"] - every.slo_attainment["overall"]) < 2.0 * some.slo_attainment_se + 1e-3
    assert some.prefix_hit_ratio == pytest.approx(every.prefix_hit_ratio, abs=0.05)
