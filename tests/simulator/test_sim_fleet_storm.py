"""A class that asks for far more than there is, work that may wait, and a site without power for all of its nodes."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sim_fleet_builders import DAY, WATTS, a_fleet, a_pool, a_wave

from tidefleet.simulator.checkpoint import Parts
from tidefleet.simulator.fleet.node import State
from tidefleet.simulator.fleet.power import powered
from tidefleet.simulator.fleet.rivals import RIVALS
from tidefleet.simulator.fleet.run import ours, run_fluid
from tidefleet.simulator.load import ScenarioError, load_scenario, parse_scenario
from tidefleet.simulator.mix import Kind
from tidefleet.simulator.scenario import Faults
from tidefleet.simulator.week import run_fleet

ROOT = Path(__file__).resolve().parents[2]
TRACES = Path(os.environ.get("TIDEFLEET_SHARED", ROOT.parent / "shared")) / "traces"
needs_traces = pytest.mark.skipif(not TRACES.exists(), reason=f"no traces at {TRACES}; TIDEFLEET_SHARED names another")


# --- an external API -------------------------------------------------------------------------------------------------


def a_storm(*, spillable=True, more=30.0):
    """A day in which one class asks for ``more`` replicas from 8 to 16 o'clock."""
    plain = a_wave()
    storm = np.zeros(len(plain.online))
    storm[48:96] = more
    online = plain.online + np.stack([np.zeros(len(storm)), storm], axis=1)
    return replace(plain, online=online, spillable=storm if spillable else None), plain


def test_what_the_fleet_cannot_carry_goes_to_the_api_and_nobody_waits():
    asked, plain = a_storm()
    found = run_fluid(a_fleet(), asked, seed=1)
    whole = float(asked.needed.sum()) * 600.0
    assert found.short_seconds["main"] == pytest.approx(0.0, abs=1e-6)
    assert found.needed / 8 + found.spilled_seconds["main"] == pytest.approx(whole)
    assert found.needed / 8 > float(plain.needed.sum()) * 600.0
    assert 0.5 * 30 * 28_800 < found.spilled_seconds["main"] < 30 * 28_800


def test_serving_keeps_its_fill_in_a_storm_and_spills_nothing_but_the_storm():
    asked, _ = a_storm()
    found = run_fluid(a_fleet(), asked, seed=1)
    for at in np.arange(0.0, DAY, 300.0):
        load = sum(asked.at(at)) - found.spilled(at)
        assert 0.0 <= found.spilled(at) <= asked.spillable[int(at // 600)] + 1e-9
        assert load <= 0.9 * found.replicas(at) + 1e-9 or found.spilled(at) == asked.spillable[int(at // 600)]
    assert found.spilled(0.0) == 0.0
    assert found.spilled(50_000.0) > 15.0


def test_without_an_api_the_same_storm_leaves_everybody_short():
    found = run_fluid(a_fleet(), a_storm(spillable=False)[0], seed=1)
    assert found.short_seconds["main"] > 10 * 28_800
    assert found.spilled_seconds["main"] == 0.0


def test_a_storm_calls_every_node_home_before_the_api_takes_its_full_share():
    found = run_fluid(a_fleet(), a_storm()[0], seed=1)
    assert found.replicas(28_800.0 - 1.0) < 12
    assert found.replicas(28_800.0 + 900.0) == 12


def test_a_cap_cuts_only_the_answers_that_would_pass_it():
    kind = Kind(1.0, 100.0, 250.0, 0.1, 0.1, np.ones(1), np.array([10.0, 90.0, 900.0]))
    assert kind.grown(100.0, 32_768.0) == pytest.approx((1000 + 9000 + 32_768) / 1000)
    assert kind.grown(2.0, math.inf) == pytest.approx(2.0)


@needs_traces
def test_in_a_reasoning_storm_the_other_classes_keep_their_objectives():
    changes = {
        "seconds": "21600", "beginSeconds": "21600", "pools.0.replicas": "16", "windows.count": "4",
        "windows.seconds": "10", "windows.warmSeconds": "15", "windows.historySeconds": "120",
        "windows.keptSeconds": "1200",
        "surges": "[{class: reasoning, beginSeconds: 7200, seconds: 14400, outputFactor: 100, outputCapTokens: 32768}]",
    }  # fmt: skip
    scenario = load_scenario("reasoning-storm", [f"{name}={value}" for name, value in changes.items()])
    found = run_fleet(
        scenario, TRACES, seed=1, policy=None, full=False, progress=lambda share, words: None, parts=Parts()
    )
    others = {"chat", "agentic", "code", "rag", "api"}
    assert others <= set(found.slo_attainment)
    assert all(found.slo_attainment[name] > 0.97 for name in others), found.slo_attainment
    assert 0.03 < found.figures["spilled_share"] < 0.5
    assert found.figures["spilled_usd"] > 0.0
    assert found.figures["short_replica_seconds"] == pytest.approx(0.0, abs=1e-6)
    assert 0.6 < found.figures["needed_seen_over_planned"] < 1.4


def test_work_that_may_wait_has_no_api():
    text = (
        "name: x\nkind: fleet\npools: [{model: llama-3.3-70b, accelerator: h200-sxm, replicas: 4}]\n"
        "classes:\n- {name: batch, source: azure2023-code, deadlineSeconds: 60,\n"
        "   spill: {usdPerMillionInputTokens: 1, usdPerMillionOutputTokens: 2}}\n"
    )
    with pytest.raises(ScenarioError, match=r"mine.yaml:6: classes\[0\] \(batch\) has both spill and deadlineSeconds"):
        parse_scenario(text, "mine.yaml")


# --- power -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planner", [ours, *RIVALS.values()], ids=["ours", *RIVALS])
def test_a_site_never_draws_more_than_its_limit(planner):
    spec = a_fleet(a_pool(nodes=16), watts=66_000.0, pue=1.2, days=1.5)
    found = run_fluid(spec, a_wave(mean=4.0, days=1.5), seed=1, planner=planner)
    assert found.figures["over_power_seconds"] == 0.0
    assert 0.0 < found.figures["most_kilowatts"] <= 66.0


def test_a_limit_of_power_costs_nodes_that_are_off_and_serving_keeps_what_it_needs():
    capped, free = (
        run_fluid(a_fleet(a_pool(nodes=16), watts=watts, days=1.5), a_wave(mean=4.0, days=1.5), seed=1)
        for watts in (55_000.0, math.inf)
    )
    assert capped.short_seconds["main"] == free.short_seconds["main"] == pytest.approx(0.0, abs=1e-6)
    assert capped.seconds_in(State.IDLE) == pytest.approx(6 * 8 * 1.5 * DAY)
    assert capped.utilization().lost["power"] == pytest.approx(6 / 16)
    assert free.utilization().lost["power"] == 0.0
    assert 0.0 < capped.training_gpu_hours < free.training_gpu_hours


def test_pools_share_a_sites_power_by_what_they_draw():
    pools = a_pool(name="a", nodes=10), a_pool(name="b", nodes=10, watts=replace(WATTS, training=11_000.0))
    spec = a_fleet(*pools, watts=82_500.0)
    assert [powered(spec, one) for one in pools] == [5, 5]
    assert [powered(replace(spec, watts=math.inf), one) for one in pools] == [10, 10]
    assert powered(spec, a_pool(name="c", nodes=3, watts=None)) == 3


def test_a_node_that_fails_gives_its_power_to_one_that_was_off():
    spec = a_fleet(
        a_pool(nodes=16),
        watts=44_000.0,
        faults=Faults(node_hours_between_failures=30.0, node_repair_seconds=3600.0),
    )
    found = run_fluid(spec, a_wave(mean=4.0), seed=3)
    assert found.seconds_in(State.DOWN) > 0.0
    assert found.figures["over_power_seconds"] == 0.0
    served = {name for name, spans in zip(found.nodes, found.spans, strict=True)
              if any(one.state is State.SERVING for one in spans)}  # fmt: skip
    assert len(served) > 8


# --- work that waits -------------------------------------------------------------------------------------------------


def test_work_that_waits_is_in_time_and_takes_the_idle_first():
    wave = a_wave(mean=4.0)
    little, much = (
        replace(wave, deferrable=np.full(len(wave.online), rate), deadline_seconds=DAY / 4) for rate in (0.3, 3.0)
    )
    spec = a_fleet(filler_top=0.95)
    first, second = run_fluid(spec, little, seed=1), run_fluid(spec, much, seed=1)
    assert first.filler_late == second.filler_late == 0.0
    assert first.figures["filler_units"] == 0.0
    assert second.figures["filler_units"] > 0.0
    assert second.filler / 8 + second.filler_left == pytest.approx(3.0 * DAY)
    assert second.filler_left < 3.0 * DAY / 4
