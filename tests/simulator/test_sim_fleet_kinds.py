"""One demand on two accelerator types: who carries it, who trains, and that every second is counted once."""

import os
from pathlib import Path

import numpy as np
import pytest
from sim_fleet_builders import DAY, a_fleet, a_pool, a_wave, everything
from simulator_builders import a_session

from tidefleet.simulator.checkpoint import Parts
from tidefleet.simulator.cluster import Cluster
from tidefleet.simulator.engine.facts import facts_of
from tidefleet.simulator.fleet.node import State
from tidefleet.simulator.fleet.rivals import RIVALS
from tidefleet.simulator.fleet.run import foreseeing, ours, run_fluid
from tidefleet.simulator.fleet.split import in_order, nodes_by_merit
from tidefleet.simulator.load import ScenarioError, load_scenario, parse_scenario
from tidefleet.simulator.week import run_fleet

ROOT = Path(__file__).resolve().parents[2]
TRACES = Path(os.environ.get("TIDEFLEET_SHARED", ROOT.parent / "shared")) / "traces"
needs_traces = pytest.mark.skipif(not TRACES.exists(), reason=f"no traces at {TRACES}; TIDEFLEET_SHARED names another")

NEW = a_pool(nodes=8, usd_per_node_hour=40.0)
OLD = a_pool(name="older", accelerator="h100-sxm", nodes=8, usd_per_node_hour=16.0, demand="main", carries=0.5)
PLANNERS = {"ours": ours, "foreseeing": foreseeing, **RIVALS}


def two_kinds(**changes):
    return a_fleet(NEW, OLD, **changes)


@pytest.fixture(scope="module", params=list(PLANNERS))
def day(request):
    return run_fluid(two_kinds(), a_wave(mean=4.5), seed=1, planner=PLANNERS[request.param])


def test_the_kind_that_is_cheaper_for_what_it_carries_serves_first_and_what_may_fail_is_carried_too():
    found = nodes_by_merit([NEW, OLD], [0.0, 2.9, 4.0, 20.0], spare=1, most={"main": 8, "older": 8})
    assert found["older"].tolist() == [0, 7, 8, 8]
    assert found["main"].tolist() == [0, 0, 1, 8]
    assert in_order([NEW, OLD], 9.2) == {"main": 8, "older": 3}
    assert in_order([NEW, OLD], 0.0) == {"main": 0, "older": 0}


def test_seconds_and_dollars_of_both_kinds_are_counted_once(day):
    assert day.paid == pytest.approx(16 * 8 * DAY)
    assert day.usd == pytest.approx(24 * 8 * (40.0 + 16.0))
    found = day.utilization()
    assert found.ratio + sum(found.lost.values()) == pytest.approx(1.0, abs=1e-9)
    assert min(found.lost.values()) >= -1e-12
    by_kind = sum(day.seconds_in(state, kind) for state in State for kind in ("main", "older"))
    assert by_kind == pytest.approx(day.paid)


def test_capacity_is_what_the_serving_nodes_of_both_carry(day):
    for at in np.arange(450.0, DAY, 1800.0):
        new = sum(day.kind_of[node] == "main" for node in day.serving(at))
        old = len(day.serving(at)) - new
        assert day.replicas(at) == pytest.approx(new + 0.5 * old)


def test_ours_serves_with_the_cheaper_kind_and_lends_the_dearer_one():
    found = run_fluid(two_kinds(), a_wave(mean=3.0), seed=1)
    assert found.short_seconds["main"] == pytest.approx(0.0, abs=1e-6)
    share = {kind: found.seconds_in(State.TRAINING, kind) / (8 * 8 * DAY) for kind in ("main", "older")}
    assert share["older"] < share["main"]
    static = run_fluid(two_kinds(), a_wave(mean=3.0), seed=1, planner=RIVALS["static-split"])
    assert lent_usd(found) > 1.15 * lent_usd(static)


def lent_usd(found):
    """Rent of the node-hours that trained."""
    return sum(
        found.seconds_in(State.TRAINING, one.name) / one.chips / 3600.0 * one.usd_per_node_hour for one in (NEW, OLD)
    )


def test_slices_ask_the_program_for_both_kinds():
    found = run_fluid(two_kinds(), a_wave(mean=3.0), seed=1, planner=RIVALS["slices"])
    noon = DAY / 2 + 450.0
    kinds = [found.kind_of[node] for node in found.serving(noon)]
    assert kinds.count("older") == 8
    assert found.replicas(noon) >= sum(found.demand["main"].at(noon)) / 0.9 - 0.5


def test_a_limit_of_power_holds_over_both_kinds_and_the_same_seed_gives_the_same_bytes():
    spec = two_kinds(watts=60_000.0)
    first, again = (run_fluid(spec, a_wave(mean=3.0), seed=1) for _ in range(2))
    assert first.figures["over_power_seconds"] == 0.0
    assert first.seconds_in(State.IDLE) > 0.0
    assert everything(first) == everything(again)


SHARED = """name: two
kind: fleet
pools:
- {model: llama-3.3-70b, accelerator: h200-sxm, replicas: 4}
- {name: older, serves: main, model: llama-3.3-70b, accelerator: h100-sxm, replicas: 4}
classes: [{name: chat, source: mooncake-conversation, share: 1, objective: {ttftSeconds: 1, tpotSeconds: 0.05}}]
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("serves: main", "serves: mein", r"two.yaml:5: pools\[1\].serves is 'mein'; expected .* main"),
        ("serves: main", "serves: older", r"pools\[1\].serves is 'older'; expected .* main"),
        ("older, serves: main, model: llama-3.3-70b", "older, serves: main, model: llama-3.1-8b", r"pools\[1\].model"),
        ("accelerator: h100-sxm,", "accelerator: h100-sxm, replicasPerNode: 2,", r"pools\[1\].replicasPerNode is 2"),
        ("kind: fleet", "kind: replay", r"pools\[1\].serves is 'main'; expected none in a replay"),
        ("name: chat,", "name: chat, pool: older,", r"classes\[0\].pool is 'older'; expected one of main"),
    ],
)
def test_a_pool_that_shares_a_demand_fits_the_pool_whose_demand_it_is(old, new, words):
    assert parse_scenario(SHARED, "two.yaml").pools[1].serves == "main"
    with pytest.raises(ScenarioError, match=words):
        parse_scenario(SHARED.replace(old, new), "two.yaml")


@needs_traces
def test_requests_are_served_by_both_types_within_their_objectives():
    changes = {
        "seconds": "10800", "beginSeconds": "36000", "pools.0.replicas": "5", "pools.1.replicas": "6",
        "windows.count": "1", "windows.seconds": "10", "windows.warmSeconds": "5", "windows.historySeconds": "60",
        "windows.keptSeconds": "600",
    }  # fmt: skip
    scenario = load_scenario("two-types", [f"{name}={value}" for name, value in changes.items()])
    found = run_fleet(
        scenario, TRACES, seed=1, policy=None, full=False, progress=lambda share, words: None, parts=Parts()
    )
    assert found.utilization + sum(found.utilization_lost.values()) == pytest.approx(1.0, abs=1e-9)
    assert set(found.usd_by_accelerator) == {"h200-sxm", "h100-sxm"}
    assert found.slo_attainment["overall"] > 0.95
    assert 0.6 < found.figures["needed_seen_over_planned"] < 1.5
    assert found.joules_per_token is None


def test_each_replica_is_as_fast_as_its_own_type_and_the_router_knows():
    scenario = load_scenario("two-types")
    first, other = scenario.pools
    facts = {pool.accelerator: facts_of(pool) for pool in scenario.pools}
    cluster = Cluster(first, scenario.classes, facts=facts["h200-sxm"], others={1: (other, facts["h100-sxm"])})
    for number in (0, 1):
        cluster.add(number)
    table = cluster.policy.table
    known = [table.endpoint(address).rates for address in table.addresses]
    assert known == [facts["h200-sxm"].rates, facts["h100-sxm"].rates]
    room = [cluster.replicas[number].blocks.capacity_tokens for number in (0, 1)]
    assert room[0] > room[1] > 0.0
    firsts = {}
    for number in (0, 1):
        cluster.submit(a_session(number + 1, tokens=(8192,), output=50), 0, 0.0)
    while len(firsts) < 2:
        now = cluster.next()
        firsts |= {job.replica: job.first for what, job in cluster.advance(now) if what == "first"}
    assert firsts[0] < firsts[1]
