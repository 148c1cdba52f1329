"""How a pool's load spreads over pods, and what faults and pods that come and go do to it."""

from __future__ import annotations

import pytest
from emulator_builders import ACCELERATORS, MODELS, a_pod, an_annotation
from hypothesis import given
from hypothesis import strategies as st

from tidefleet.cluster.clock import ManualClock
from tidefleet.emulator import Fault, FaultKind, Fleet, Load, SimulatedPod
from tidefleet.emulator.faults import parse_fault
from tidefleet.emulator.load import level, parse_load


def a_fleet(*pods: SimulatedPod) -> tuple[Fleet, ManualClock]:
    clock = ManualClock(start=1000.0)
    fleet = Fleet(ACCELERATORS, MODELS, clock)
    fleet.set_pods(pods)
    return fleet, clock


def pass_time(fleet: Fleet, clock: ManualClock, seconds: float, step: float = 5.0) -> None:
    for _ in range(int(seconds / step)):
        clock.advance(step)
        fleet.tick()


def accounted(fleet: Fleet) -> float:
    state = fleet.pools["prod", "chat"]
    inside = sum(slot.engine.in_flight for slot in state.slots if slot.engine is not None)
    return state.finished + inside + state.pending + state.lost


def test_load_spreads_in_proportion_to_capacity() -> None:
    fleet, clock = a_fleet(
        a_pod("one", ip="127.77.0.2"), a_pod("two", ip="127.77.0.3", annotation=an_annotation(weights="Fp8"))
    )
    fleet.set_load("prod", "chat", Load.constant(10.0, 1000.0, 200.0))
    pass_time(fleet, clock, 600.0)
    one, two = (slot.engine for slot in fleet.slots.values())
    assert one is not None
    assert two is not None
    assert two.arrived > one.arrived
    assert one.arrived + two.arrived == pytest.approx(6000.0)


def test_a_new_pod_takes_over_the_queue_s_inflow_first() -> None:
    pods = [a_pod("one", ip="127.77.0.2")]
    fleet, clock = a_fleet(*pods)
    fleet.set_load("prod", "chat", Load.constant(60.0, 1000.0, 200.0))
    pass_time(fleet, clock, 300.0)
    fleet.set_pods([*pods, a_pod("two", ip="127.77.0.3")])
    first, second = (slot.engine for slot in fleet.slots.values())
    assert first is not None
    assert second is not None
    before = first.arrived
    pass_time(fleet, clock, 10.0)
    assert first.arrived == before
    assert second.arrived == pytest.approx(600.0)


@given(
    st.floats(0.0, 1e6), st.lists(st.tuples(st.floats(0.0, 1e5), st.sampled_from([0.0, 0.5, 3.0, 40.0])), max_size=12)
)
def test_shares_add_up_and_only_raise_the_shortest_queues(requests: float, engines: list[tuple[float, float]]) -> None:
    waiting, capacities = [one for one, _ in engines], [one for _, one in engines]
    shares = level(requests, waiting, capacities)
    assert all(share >= 0.0 for share in shares)
    if not any(capacities):
        assert sum(shares) == 0.0
        return
    assert sum(shares) == pytest.approx(requests, rel=1e-6, abs=1e-3)
    filled = [(w + s) / c for w, s, c in zip(waiting, shares, capacities, strict=True) if s > 1e-6 and c > 0.0]
    others = [w / c for w, s, c in zip(waiting, shares, capacities, strict=True) if s <= 1e-6 and c > 0.0]
    if filled and others:
        assert max(filled) <= min(others) + 1e-3 * (1.0 + max(filled))


@pytest.mark.parametrize(
    "pod",
    [
        a_pod(routable=None),
        a_pod(routable="false"),
        a_pod(ready=False),
        a_pod(deleting=True),
    ],
)
def test_a_pod_that_is_not_routable_gets_no_load(pod: SimulatedPod) -> None:
    fleet, clock = a_fleet(pod)
    fleet.set_load("prod", "chat", Load.constant(2.0, 1000.0, 200.0))
    pass_time(fleet, clock, 30.0)
    (slot,) = fleet.slots.values()
    assert slot.engine is not None
    assert slot.engine.arrived == 0.0
    assert fleet.pools["prod", "chat"].pending == pytest.approx(60.0)


def test_load_without_pods_waits_a_minute_and_is_then_lost() -> None:
    fleet, clock = a_fleet()
    fleet.set_load("prod", "chat", Load.constant(4.0, 1000.0, 200.0))
    pass_time(fleet, clock, 300.0)
    state = fleet.pools["prod", "chat"]
    assert state.offered == pytest.approx(1200.0)
    assert state.pending == pytest.approx(240.0)
    assert state.lost == pytest.approx(960.0)
    fleet.set_pods([a_pod()])
    pass_time(fleet, clock, 60.0)
    assert state.pending == 0.0
    assert accounted(fleet) == pytest.approx(state.offered)


def test_clients_give_up_on_a_queue_of_ten_minutes() -> None:
    fleet, clock = a_fleet(a_pod())
    fleet.set_load("prod", "chat", Load.constant(2000.0, 1000.0, 200.0))
    pass_time(fleet, clock, 1200.0)
    state = fleet.pools["prod", "chat"]
    (slot,) = fleet.slots.values()
    assert slot.engine is not None
    assert slot.engine.waiting <= 600.0 * slot.engine.capacity(state.load.shape(0.0)) * 1.001  # type: ignore[union-attr]
    assert state.lost > 0.0
    assert accounted(fleet) == pytest.approx(state.offered)


def test_a_crash_loses_the_counters_and_its_work_is_offered_again() -> None:
    fleet, clock = a_fleet(a_pod("one", ip="127.77.0.2"), a_pod("two", ip="127.77.0.3"))
    fleet.set_load("prod", "chat", Load.constant(20.0, 1000.0, 200.0))
    pass_time(fleet, clock, 300.0)
    fleet.set_fault("prod", "one", Fault(FaultKind.CRASH))
    assert [pod.pod.name for pod in fleet.listening().values()] == ["two"]
    state = fleet.pools["prod", "chat"]
    assert state.interrupted > 0.0
    pass_time(fleet, clock, 60.0)
    assert accounted(fleet) == pytest.approx(state.offered)
    fleet.drop_fault("prod", "one")
    slot = fleet.slots["uid-one"]
    assert slot.engine is not None
    assert slot.engine.counters.prompt_tokens == 0.0
    assert slot.engine.counters.started_at == clock.now()
    assert slot.starts == 2


def test_a_pool_s_fault_hits_pods_that_come_later() -> None:
    fleet, _ = a_fleet(a_pod("one", ip="127.77.0.2"))
    fleet.set_fault("prod", "chat", Fault(FaultKind.SLOW, 5.0))
    fleet.set_pods([a_pod("one", ip="127.77.0.2"), a_pod("two", ip="127.77.0.3")])
    assert [slot.engine.slowdown for slot in fleet.slots.values() if slot.engine] == [5.0, 5.0]
    fleet.drop_fault("prod", "chat")
    assert [slot.engine.slowdown for slot in fleet.slots.values() if slot.engine] == [1.0, 1.0]


@pytest.mark.parametrize("kind", [FaultKind.HANG, FaultKind.ERROR_500])
def test_a_balancer_avoids_a_pod_that_does_not_answer(kind: FaultKind) -> None:
    fleet, clock = a_fleet(a_pod("one", ip="127.77.0.2"), a_pod("two", ip="127.77.0.3"))
    fleet.set_fault("prod", "one", Fault(kind))
    fleet.set_load("prod", "chat", Load.constant(5.0, 1000.0, 200.0))
    pass_time(fleet, clock, 60.0)
    assert [slot.engine.arrived for slot in fleet.slots.values() if slot.engine] == [0.0, pytest.approx(300.0)]


def test_a_restarted_container_starts_afresh_and_a_deleted_pod_s_work_moves_on() -> None:
    fleet, clock = a_fleet(a_pod("one", ip="127.77.0.2"), a_pod("two", ip="127.77.0.3"))
    fleet.set_load("prod", "chat", Load.constant(10.0, 1000.0, 200.0))
    pass_time(fleet, clock, 120.0)
    fleet.set_pods([a_pod("one", ip="127.77.0.2", restarts=1)])
    slot = fleet.slots["uid-one"]
    assert slot.engine is not None
    assert slot.engine.finished == 0.0
    assert slot.starts == 2
    pass_time(fleet, clock, 60.0)
    assert accounted(fleet) == pytest.approx(fleet.pools["prod", "chat"].offered)


def test_a_label_change_keeps_the_engine() -> None:
    fleet, clock = a_fleet(a_pod())
    before = fleet.slots["uid-chat-0"].engine
    clock.advance(5.0)
    fleet.set_pods([a_pod(routable="false")])
    assert fleet.slots["uid-chat-0"].engine is before


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not an object"),
        (an_annotation(model="nope"), "model is 'nope'"),
        (an_annotation(model=7), "model is 7"),
        (an_annotation(accelerator="abacus"), "accelerator is 'abacus'"),
        (an_annotation(weights="Fp3"), "weights is 'Fp3'"),
        (an_annotation(tensorParallel=0), "tensorParallel is 0"),
        (an_annotation(tensorParallel=True), "tensorParallel is True"),
        (an_annotation(port=70000), "port is 70000"),
        (an_annotation(model="own", config={"hidden_size": 4}), "config: num_hidden_layers"),
    ],
)
def test_an_unusable_annotation_is_named_and_harms_no_other_pod(annotation: str, words: str) -> None:
    fleet, _ = a_fleet(a_pod("bad", annotation=annotation), a_pod("good", ip="127.77.0.3"))
    assert words in fleet.problems["prod/bad"]
    assert list(fleet.slots) == ["uid-good"]


def test_a_pod_without_annotation_is_no_problem_and_no_engine() -> None:
    fleet, _ = a_fleet(SimulatedPod("prod", "web", "uid", "127.77.0.9"))
    assert (fleet.slots, fleet.problems) == ({}, {})


def test_a_curve_is_integrated_exactly_whatever_the_step() -> None:
    load = parse_load({"curve": [[0, 0], [100, 10], [200, 10], [300, 0]], "inputTokens": 100, "outputTokens": 10})
    assert load.requests(0.0, 300.0) == pytest.approx(2000.0)
    assert sum(load.requests(t * 7.0, t * 7.0 + 7.0) for t in range(50)) == pytest.approx(2000.0)
    assert load.rate(50.0) == 5.0
    assert load.rate(-10.0) == 0.0


def test_a_curve_may_carry_its_own_lengths() -> None:
    load = parse_load({"curve": [[0, 1, 100, 10], [10, 1, 200, 30]]})
    assert load.shape(5.0).input_tokens == 150.0
    assert load.shape(99.0).output_tokens == 30.0


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([], "a load is list"),
        ({}, "either requestsPerSecond or curve"),
        ({"requestsPerSecond": 1, "curve": [[0, 1]]}, "either"),
        ({"requestsPerSecond": -1, "inputTokens": 1, "outputTokens": 1}, "requestsPerSecond is -1"),
        ({"requestsPerSecond": float("nan"), "inputTokens": 1, "outputTokens": 1}, "requestsPerSecond is nan"),
        ({"requestsPerSecond": True, "inputTokens": 1, "outputTokens": 1}, "requestsPerSecond is True"),
        ({"requestsPerSecond": 1, "inputTokens": 1}, "outputTokens is None"),
        ({"requestsPerSecond": 1, "inputTokens": 0, "outputTokens": 1}, "inputTokens is 0"),
        ({"requestsPerSecond": 1, "inputTokens": 1, "outputTokens": 1, "cachedShare": 1.5}, "cachedShare is 1.5"),
        ({"rps": 1}, "rps is no field"),
        ({"curve": []}, "curve is empty"),
        ({"curve": [[0, 1], [1, 1, 2, 3]]}, "all points"),
        ({"curve": [[5, 1], [5, 1]], "inputTokens": 1, "outputTokens": 1}, r"curve\[1\]\[0\] is 5"),
        ({"curve": [[0, "x"]], "inputTokens": 1, "outputTokens": 1}, r"curve\[0\]\[1\] is 'x'"),
    ],
)
def test_a_bad_load_is_refused_by_name(raw: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_load(raw)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (7, "a fault is int"),
        ({"kind": "flood"}, "kind is 'flood'"),
        ({"kind": "slow"}, "factor is None"),
        ({"kind": "slow", "factor": 0}, "factor is 0"),
        ({"kind": "hang", "for": 3}, "for is no field"),
    ],
)
def test_a_bad_fault_is_refused_by_name(raw: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_fault(raw)


def test_interrupted_requests_are_told_by_pod_and_an_engine_that_drained_has_none() -> None:
    busy, leaving = a_pod("busy", ip="127.77.0.2"), a_pod("leaving", ip="127.77.0.3")
    unrouted = a_pod("leaving", ip="127.77.0.3", routable="false")
    fleet, clock = a_fleet(busy, leaving)
    fleet.set_load("prod", "chat", Load.constant(20.0, 1000.0, 200.0))
    pass_time(fleet, clock, 300.0)
    fleet.set_pods([busy, unrouted])
    pass_time(fleet, clock, 120.0)
    fleet.set_pods([busy])
    state = fleet.pools["prod", "chat"]
    assert state.cut == {}
    fleet.set_pods([])
    assert set(state.cut) == {"busy"}
    assert state.cut["busy"] == pytest.approx(state.interrupted, abs=0.5)
