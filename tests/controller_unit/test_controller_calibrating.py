"""From pages of emulated engines to a pool's plan: what is learned, what is not, and when it is forgotten."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from controller_builders import NOW, SHIPPED, a_class, a_pool, a_served, a_view, an_option, offers

from tidefleet import catalogue
from tidefleet.controller.calibrating import (
    WARM_SECONDS,
    IntervalTrail,
    Round,
    interval_between,
    revision_of,
)
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.decision import Decision
from tidefleet.controller.metrics_page import EngineCounters, Unusable, read_page
from tidefleet.controller.readings import Sample, Trouble
from tidefleet.controller.status import pool_status
from tidefleet.controller.view import PoolMemory, PoolView
from tidefleet.economics.efficiency import starting_values
from tidefleet.economics.evidence import Correction
from tidefleet.economics.replica import Replica
from tidefleet.emulator.capacity import Shape
from tidefleet.emulator.engine import Engine
from tidefleet.emulator.faults import Fault, FaultKind, spoil
from tidefleet.emulator.metrics import render
from tidefleet.emulator.pods import EngineFacts
from tidefleet.planning.demand import Cause, DemandHistory, Known
from tidefleet.planning.evidence import key_of
from tidefleet.planning.options import EstimateMemo

L40S = an_option("l40s")
MODEL = catalogue.models()["llama-3.1-8b"]
PERIOD = 60.0
SHAPE = Shape(1000.0, 250.0)
POOL = a_pool(accelerators=[{"type": "l40s"}])
CLASS = a_class(objectives=[{"metric": "TPOT", "percentile": 95, "milliseconds": 60}])
REPLICA = Replica(MODEL, offers(SHIPPED["l40s"])[0].accelerator, 1, "Bf16", "Bf16")
KEY = key_of(REPLICA)


@dataclass
class Rig:
    """A pool of emulated engines that is scraped, and an operator's decision after each scrape."""

    count: int = 4
    rate: float = 1.5
    pool: Any = POOL
    settings: OperatorConfiguration = field(default_factory=OperatorConfiguration)
    revision: str = "a"
    at: float = NOW
    reported: float = 0.0
    memo: EstimateMemo = field(default_factory=EstimateMemo)

    def __post_init__(self) -> None:
        facts = EngineFacts(REPLICA, "m", 8000)
        self.engines = [Engine(facts, NOW, seed=7 * i) for i in range(self.count)]
        self.faults: dict[int, FaultKind] = {}
        self.trail = IntervalTrail()
        self.memory = PoolMemory(DemandHistory(600.0, 120.0))
        self.seen: set[Correction | None] = set()

    def slow(self, factor: float) -> None:
        for one in self.engines:
            one.slowdown = factor

    def answer(self, index: int) -> Sample | Trouble:
        kind = self.faults.get(index)
        engine = self.engines[index]
        if kind is FaultKind.COUNTER_RESET:
            engine.reset_counters()
        try:
            page = spoil(render(engine), [Fault(kind)] if kind else [])
            return Sample(self.at + self.reported, read_page(page.decode("utf-8", "replace")))
        except Unusable as error:
            return Trouble(error.cause, str(error))

    def scrape(self) -> Round:
        """One period passes, and all engines are read."""
        self.at += PERIOD
        for index, engine in enumerate(self.engines):
            if self.faults.get(index) is FaultKind.HANG:
                engine.now = self.at  # the page is there, and nothing on it moves
            else:
                engine.advance(self.at, self.rate * PERIOD, SHAPE)
        answers = {str(i): self.answer(i) for i in range(self.count)}
        names = {uid: (L40S.key(self.pool.name), self.revision) for uid in answers}
        return self.trail.step(self.at + self.reported, answers, names)

    def view(self, **changes: Any) -> PoolView:
        facts: dict[str, Any] = {
            "classes": (CLASS,),
            "now": self.at,
            "served": (a_served(self.pool, L40S, replicas=self.count),),
            "reading": Known(self.at, self.rate * self.count, "Engines", 1000.0, 250.0, 0.0),
        }
        return a_view(self.pool, SHIPPED["l40s"], **{**facts, **changes})

    def step(self, **changes: Any) -> Decision:
        decision = decide(self.view(measured=self.scrape(), **changes), self.memory, self.settings, self.memo)
        self.seen.add(self.live)
        return decision

    def run(self, hours: float, **changes: Any) -> Decision:
        for _ in range(max(1, round(hours * 3600.0 / PERIOD))):
            decision = self.step(**changes)
        return decision

    @property
    def live(self) -> Correction | None:
        return self.memory.calibrations.get(KEY)

    def factor(self) -> float:
        assert self.live is not None
        return float(self.live.decode_factor(np.array([15.0]))[0])


def planned(decision: Decision) -> int:
    return sum(one.planned for one in decision.targets)


def told(decision: Decision) -> dict[str, Any]:
    status = pool_status(decision, before={}, generation=1, decision_id="e1-000001", now=NOW)
    (option,) = status["plan"]["options"]
    return dict(option)


# --- learning --------------------------------------------------------------------------------------------------------


def test_engines_as_fast_as_modelled_are_learned_as_such_and_need_less_headroom() -> None:
    rig = Rig()
    before = rig.step()
    after = rig.run(1.0)
    assert rig.factor() == pytest.approx(1.0, abs=0.02)
    assert rig.live is not None
    assert rig.live.prefill == pytest.approx(1.0, abs=0.03)
    assert told(before)["provenance"] == "Roofline"
    assert float(told(before)["sigma"]) == starting_values("l40s", "Bf16").sigma
    assert told(after)["provenance"] == "Live"
    assert float(told(after)["sigma"]) < 0.15
    assert planned(after) <= planned(before)


def test_slow_engines_get_more_replicas_and_fewer_again_once_they_are_fast() -> None:
    rig = Rig(count=8, settings=OperatorConfiguration.model_validate({"calibration": {"halfLifeSeconds": 1200}}))
    fast = rig.run(0.5)
    rig.slow(1.4)
    slow = rig.run(1.0)
    assert rig.factor() == pytest.approx(1.4, rel=0.06)
    assert planned(slow) > planned(fast)
    rig.slow(1.0)
    again = rig.run(1.3)
    assert rig.factor() == pytest.approx(1.0, rel=0.06)
    assert planned(again) == planned(fast)


def test_a_steady_pool_is_told_one_correction_for_long() -> None:
    rig = Rig()
    rig.run(1.0)
    rig.seen.clear()
    rig.run(4.0)
    assert len(rig.seen) <= 2


def test_the_factor_shows_as_a_metric_and_is_1_before() -> None:
    from tidefleet.controller.accounting import Accountant
    from tidefleet.telemetry import Telemetry

    telemetry, rig = Telemetry(), Rig()
    labels = {"namespace": "prod", "pool": "chat", "accelerator": "l40s"}
    Accountant(telemetry).account([rig.step()], NOW)
    assert telemetry.value("tidefleet_pool_calibration_factor", **labels, phase="decode") == 1.0
    rig.slow(1.3)
    Accountant(telemetry).account([rig.run(1.0)], NOW)
    for phase in ("decode", "prefill"):
        value = telemetry.value("tidefleet_pool_calibration_factor", **labels, phase=phase)
        assert value == pytest.approx(1.3, abs=0.06)


def test_no_calibration_when_it_is_turned_off() -> None:
    rig = Rig(settings=OperatorConfiguration.model_validate({"calibration": {"enabled": False}}))
    rig.slow(1.4)
    decision = rig.run(1.0)
    assert rig.live is None
    assert told(decision)["provenance"] == "Roofline"


# --- what must not teach ---------------------------------------------------------------------------------------------

SILENT = [
    FaultKind.EMPTY_METRICS,
    FaultKind.NAN_METRICS,
    FaultKind.INFINITE_METRICS,
    FaultKind.NEGATIVE_METRICS,
    FaultKind.GARBAGE,
    FaultKind.TRUNCATED,
    FaultKind.COUNTER_RESET,
    FaultKind.HANG,
]


@pytest.mark.parametrize("kind", SILENT)
def test_a_pool_of_faulty_engines_teaches_nothing(kind: FaultKind) -> None:
    rig = Rig(count=2)
    rig.faults = {0: kind, 1: kind}
    rig.run(1.0)
    assert rig.live is None


@pytest.mark.parametrize("kind", SILENT)
def test_faults_that_come_and_go_leave_what_was_learned(kind: FaultKind) -> None:
    rig = Rig(count=2)
    rig.run(1.0)
    before = rig.factor()
    for _ in range(20):
        rig.faults = {0: kind}
        rig.step()
        rig.faults = {}
        rig.step()
    assert rig.factor() == pytest.approx(before, abs=0.03)


def test_one_engine_among_ten_that_limps_moves_nothing() -> None:
    rig = Rig(count=10)
    rig.engines[3].slowdown = 2.5
    rig.run(1.5)
    assert rig.factor() == pytest.approx(1.0, abs=0.03)


def test_a_clock_that_goes_back_teaches_nothing_until_it_goes_on() -> None:
    rig = Rig()
    rig.run(1.0)
    before = rig.live
    rig.reported -= 7200.0
    for _ in range(8):
        rig.reported -= 2 * PERIOD  # every sample is older than the one before
        rig.step()
    assert rig.live == before
    rig.run(1.0)
    assert rig.factor() == pytest.approx(1.0, abs=0.03)


def test_nothing_is_learned_while_lengths_are_not_known() -> None:
    rig = Rig()
    rig.slow(1.4)
    rig.run(1.0, reading=None)
    assert rig.live is None
    rig.run(1.0, reading=Known(rig.at, 6.0, "Engines"))
    assert rig.live is None


def test_a_round_is_learned_from_once_however_often_it_is_looked_at() -> None:
    rig = Rig()
    view = rig.view(measured=rig.scrape())
    rig.run(0.05)
    again = replace(view, measured=rig.scrape())
    for _ in range(500):
        decide(again, rig.memory, rig.settings, rig.memo)
    (kind,) = rig.memory.learning.kinds.values()
    assert sum(one.held for one in kind.shown._bins) < 100


# --- what makes it forget --------------------------------------------------------------------------------------------


def with_annotation(value: str) -> Any:
    metadata = replace(POOL.metadata, annotations={"tidefleet.io/reset-calibration": value})
    return POOL.model_copy(update={"metadata": metadata})


def test_a_changed_annotation_resets_once() -> None:
    rig = Rig()
    rig.run(1.0)
    assert rig.live is not None
    rig.pool = with_annotation("monday")
    rig.step()
    assert rig.live is None
    rig.run(1.0)
    assert rig.live is not None


def test_another_engine_version_resets() -> None:
    rig = Rig()
    rig.run(1.0)
    rig.pool = a_pool(
        accelerators=[{"type": "l40s"}],
        serving={"template": POOL.spec.serving.template, "engine": {"type": "VLLM", "version": "0.33.0"}},
    )
    rig.step()
    assert rig.live is None


def test_another_pod_template_resets_and_pods_of_the_old_one_teach_no_more() -> None:
    rig = Rig()
    rig.run(1.0)
    old = rig.scrape()
    rig.revision = "b"
    rig.step()
    assert rig.live is None
    mixed = replace(old, at=rig.at + 1.0)
    decide(rig.view(measured=mixed), rig.memory, rig.settings, rig.memo)
    assert [one.revisions for one in rig.memory.learning.kinds.values()] == [{L40S.key("chat"): "b"}]
    rig.run(1.0)
    assert rig.live is not None


def test_a_rollback_is_followed_once_the_newer_pods_are_silent() -> None:
    rig = Rig()
    rig.run(0.1)
    rig.revision = "b"
    rig.run(0.1)
    rig.revision = "a"
    rig.run(1.0)
    (kind,) = rig.memory.learning.kinds.values()
    assert kind.revisions == {L40S.key("chat"): "a"}
    assert rig.live is not None


def test_other_facts_about_the_accelerator_reset_since_factors_are_relative_to_them() -> None:
    rig = Rig()
    rig.run(1.0)
    (offer,) = offers(SHIPPED["l40s"])
    faster = replace(offer.accelerator, memory_bytes_per_second=2 * offer.accelerator.memory_bytes_per_second)
    rig.step(offers=(replace(offer, accelerator=faster),))
    assert rig.live is None


# --- intervals -------------------------------------------------------------------------------------------------------

NONE = EngineCounters(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
BUSY = replace(NONE, prompt_tokens=9e4, generation_tokens=2e4, finished=90, running=8, token_seconds=300.0,
               timed_tokens=2e4, first_token_seconds=30.0, first_tokens=90, queue_seconds=9.0, queued=90)  # fmt: skip


def grown(times: float) -> EngineCounters:
    rising = {
        name: getattr(BUSY, name) * times for name in EngineCounters.__dataclass_fields__ if name not in ("running",)
    }
    return replace(BUSY, **rising)


def test_time_in_the_queue_is_no_part_of_the_time_to_first_token() -> None:
    found = interval_between(Sample(0.0, BUSY), Sample(10.0, grown(2.0)))
    assert found is not None
    assert found.first_token_seconds == pytest.approx(21.0)
    silent = [replace(one, queue_seconds=0.0, queued=0.0) for one in (BUSY, grown(2.0))]
    found = interval_between(Sample(0.0, silent[0]), Sample(10.0, silent[1]))
    assert found is not None
    assert found.first_token_seconds == pytest.approx(30.0)
    waiting = interval_between(Sample(0.0, silent[0]), Sample(10.0, replace(silent[1], waiting=1.0)))
    assert waiting is not None
    assert waiting.first_token_seconds is None


@pytest.mark.parametrize("name", ["generation_tokens", "token_seconds", "first_tokens", "queue_seconds"])
def test_any_counter_that_falls_spoils_the_interval(name: str) -> None:
    assert interval_between(Sample(0.0, BUSY), Sample(10.0, replace(grown(2.0), **{name: 1.0}))) is None


def test_an_engine_teaches_only_once_it_is_warm_and_after_faults_again() -> None:
    trail, names = IntervalTrail(), {"a": ("w", "r")}

    def step(at: float, answer: Sample | Trouble) -> int:
        return len(trail.step(at, {"a": answer}, names).measured)

    first = [at for i in range(12) if step(at := 10.0 * i, Sample(at, grown(1.0 + i)))]
    assert first[0] == WARM_SECONDS + 10.0
    assert step(120.0, Trouble(Cause.UNREADABLE, "it did not answer")) == 0
    later = [at for i in range(13, 25) if step(at := 10.0 * i, Sample(at, grown(1.0 + i)))]
    assert later[0] == 130.0 + WARM_SECONDS + 10.0
    assert step(240.0, Sample(240.0, grown(25.0))) == 0  # the same sample again
    assert trail.step(250.0, {}, {}).measured == ()
    assert step(260.0, Sample(260.0, grown(26.0))) == 0  # gone and back


def test_an_interval_of_which_the_time_is_not_known_teaches_nothing_and_the_next_is_measured_over_both() -> None:
    trail = IntervalTrail()
    names = {"a": ("prod/pool", "1")}

    def seconds(at: float, unsure: float = 0.01) -> list[float]:
        answer = Sample(at, grown(1.0 + at / 10.0), unsure=unsure)
        return [one.interval.seconds for one in trail.step(at, {"a": answer}, names).measured]

    assert [seconds(15.0 * i) for i in range(7)][-1] == [15.0]
    assert seconds(112.0, unsure=7.0) == []
    assert seconds(120.0) == [30.0]


def test_the_template_of_a_pod_is_told_by_the_label_of_its_controller() -> None:
    from tidefleet.cluster.records import pod

    def labelled(**labels: str) -> str:
        return revision_of(pod({"metadata": {"labels": {name.replace("_", "-"): v for name, v in labels.items()}}}))

    assert labelled(pod_template_hash="x1") == "x1"
    assert labelled(controller_revision_hash="x2") == "x2"
    assert labelled(app="x") == ""


# --- latencies on a page ---------------------------------------------------------------------------------------------

PAGE = """\
vllm:prompt_tokens_total 100
vllm:generation_tokens_total 20
vllm:request_success_total 2
vllm:num_requests_running 1
vllm:num_requests_waiting 0
"""


def test_the_newer_name_of_a_latency_is_read_where_both_are_there() -> None:
    older = "vllm:time_per_output_token_seconds_sum 7\nvllm:time_per_output_token_seconds_count 70\n"
    newer = "vllm:inter_token_latency_seconds_sum 8\nvllm:inter_token_latency_seconds_count 80\n"
    assert read_page(PAGE).timed_tokens == 0.0
    assert (read_page(PAGE + older).token_seconds, read_page(PAGE + older).timed_tokens) == (7.0, 70.0)
    assert (read_page(PAGE + newer + older).token_seconds, read_page(PAGE + older + newer).timed_tokens) == (8.0, 80.0)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1"])
def test_a_latency_that_is_no_number_does_not_spoil_the_page(value: str) -> None:
    page = read_page(
        PAGE + f"vllm:inter_token_latency_seconds_sum {value}\nvllm:inter_token_latency_seconds_count 80\n"
    )
    assert page.generation_tokens == 20.0
    assert (page.token_seconds, page.timed_tokens) == (0.0, 0.0)
    assert math.isfinite(page.kv_usage)


def test_latencies_come_from_a_prometheus_as_well_and_never_spoil_its_other_samples() -> None:
    from tidefleet.controller.prometheus import _sample, read_matrix

    def series(name: str, value: str) -> dict[str, Any]:
        return {"metric": {"__name__": name, "namespace": "prod", "pod": "a"}, "values": [[NOW, value]]}

    base = [series(line.split()[0], line.split()[1]) for line in PAGE.splitlines()]
    told = [
        series("vllm:inter_token_latency_seconds_sum", "8"),
        series("vllm:inter_token_latency_seconds_count", "80"),
        series("vllm:time_to_first_token_seconds_sum", "NaN"),
        series("vllm:time_to_first_token_seconds_count", "2"),
    ]
    found = _sample(read_matrix({"data": {"result": [*base, *told]}})["prod/a"], "prod/a")
    assert isinstance(found, Sample), found
    assert (found.counters.token_seconds, found.counters.timed_tokens) == (8.0, 80.0)
    assert (found.counters.first_token_seconds, found.counters.first_tokens) == (0.0, 0.0)
