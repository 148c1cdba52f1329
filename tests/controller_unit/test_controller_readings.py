"""From samples of engines to a pool's demand: restarts, faults, backlogs and silence."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.controller.collector import sample_of
from tidefleet.controller.metrics_page import EngineCounters
from tidefleet.controller.readings import (
    EngineMemory,
    EngineRates,
    LengthWindow,
    PoolEngines,
    Sample,
    TokenTally,
    Trouble,
    pool_reading,
    rates_between,
)
from tidefleet.planning.demand import Cause, Empty, Known, Reading, Stale

NONE = EngineCounters(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def a_sample(at: float, **counters: float) -> Sample:
    return Sample(at, replace(NONE, **counters))


def an_engine(**changes: float | None) -> EngineRates:
    """Two requests a second of 1,000 tokens in and 250 out, 40 % of them cached."""
    facts: dict[str, float | None] = {
        "seconds": 15.0,
        "arrivals": 2.0,
        "finished": 2.0,
        "prompt_tokens": 2000.0,
        "generation_tokens": 500.0,
        "hit_tokens": 800.0,
        "queried_tokens": 2000.0,
        "mean_prompt": 1000.0,
        "running": 3.0,
        "waiting": 0.0,
    }
    return EngineRates(**{**facts, **changes})  # type: ignore[arg-type]


SILENT = Trouble(Cause.UNREACHABLE, "prod/p-0 did not answer within 5 s")


def engines(*rates: EngineRates, young: int = 0, faulty: int = 0, fault: Trouble = SILENT) -> PoolEngines:
    return PoolEngines(rates, young, faulty, fault if faulty else None)


def read(found: PoolEngines, *, last: Reading | None = None, now: float = 100.0) -> Reading:
    return pool_reading(found, now=now, last=last)


# --- one engine ------------------------------------------------------------------------------------------------------


def test_arrivals_are_what_finished_and_what_came_to_stay() -> None:
    before = a_sample(0.0, finished=100, running=8, waiting=0, prompt_tokens=1000, generation_tokens=100)
    after = a_sample(10.0, finished=120, running=16, waiting=22, prompt_tokens=5000, generation_tokens=600)
    rates = rates_between(before, after)
    assert rates is not None
    assert rates.finished == 2.0
    assert rates.arrivals == 5.0  # 20 finished and 30 more are inside
    assert rates.prompt_tokens == 400.0


def test_a_counter_of_tiers_that_was_missing_once_is_not_read_as_growth() -> None:
    def at(seconds: float, prompt: float, hits: float) -> Sample:
        return a_sample(seconds, prompt_tokens=prompt, tier_hit_tokens=hits, tier_queried_tokens=2 * hits)

    samples = [at(0, 1e8, 5e6), at(60, 1.1e8, 0.0), at(120, 1.2e8, 5.5e7), at(180, 1.3e8, 5.8e7)]
    found = [rates_between(one, two) for one, two in itertools.pairwise(samples)]
    assert [one and one.tier_hit_tokens * 60 for one in found] == pytest.approx([0.0, 0.0, 3e6])
    assert [one and one.tier_queried_tokens * 60 for one in found] == pytest.approx([0.0, 0.0, 6e6])
    first = rates_between(at(0, 0.0, 0.0), at(60, 1e7, 4e6))
    assert first is not None
    assert first.tier_hit_tokens * 60 == pytest.approx(4e6)


def test_a_backlog_that_drains_is_not_negative_demand() -> None:
    rates = rates_between(a_sample(0.0, waiting=50), a_sample(10.0, waiting=0, finished=10))
    assert rates is not None
    assert rates.arrivals == 0.0


def test_a_counter_that_falls_is_a_restart() -> None:
    before = a_sample(0.0, finished=100, prompt_tokens=9000, generation_tokens=10)
    assert rates_between(before, a_sample(10.0, finished=3, prompt_tokens=300, generation_tokens=1)) is None
    assert rates_between(before, before) is None
    assert rates_between(a_sample(10.0), a_sample(0.0)) is None


@pytest.mark.parametrize(
    ("before", "after", "restarted"),
    [
        (a_sample(0.0, started=1000.0, finished=5), a_sample(10.0, started=1007.0, finished=9), True),
        (a_sample(0.0, started=1000.0, finished=5), a_sample(10.0, started=1000.004, finished=9), False),
        (a_sample(0.0, started=1000.0, finished=5), a_sample(10.0, finished=9), False),
        (a_sample(0.0, finished=5), a_sample(10.0, started=1007.0, finished=9), False),
        (a_sample(0.0, finished=5), replace(a_sample(10.0, finished=9), restarts=1), True),
    ],
    ids=["another start", "the same start, rounded", "no start any more", "no start before", "a restarted container"],
)
def test_an_engine_that_has_passed_its_last_count_again_is_known_by_its_start(
    before: Sample, after: Sample, restarted: bool
) -> None:
    assert (rates_between(before, after) is None) == restarted


def test_a_restarted_engine_is_measured_from_its_second_sample_on_however_far_it_has_counted() -> None:
    memory = EngineMemory()
    memory.step({"a": a_sample(0.0, started=1000.0, finished=100)})
    memory.step({"a": a_sample(10.0, started=1000.0, finished=120)})
    restarted = memory.step({"a": a_sample(30.0, started=1011.0, finished=150)})
    assert (restarted.young, restarted.rates, restarted.fresh) == (1, (), ())
    assert [one.arrivals for one in memory.step({"a": a_sample(40.0, started=1011.0, finished=230)}).rates] == [8.0]


def test_a_mean_prompt_is_that_of_the_time_between() -> None:
    before = a_sample(0.0, measured_prompts=10, measured_prompt_tokens=50_000)
    after = a_sample(10.0, measured_prompts=30, measured_prompt_tokens=70_000)
    rates = rates_between(before, after)
    assert rates is not None
    assert rates.mean_prompt == 1000.0
    idle = rates_between(after, replace(after, at=20.0))
    assert idle is not None
    assert idle.mean_prompt is None


# --- a pool ----------------------------------------------------------------------------------------------------------


def test_a_pools_demand_is_the_sum_of_its_engines() -> None:
    found = read(engines(an_engine(), an_engine(arrivals=3.0)))
    assert isinstance(found, Known)
    assert found.requests_per_second == 5.0
    assert found.at == 100.0
    assert found.seconds == 15.0


def test_no_load_is_known_to_be_no_load() -> None:
    idle = an_engine(arrivals=0.0, finished=0.0, prompt_tokens=0.0, generation_tokens=0.0)
    found = read(engines(idle))
    assert isinstance(found, Known)
    assert found.requests_per_second == 0.0


def test_requests_that_wait_are_demand_that_is_to_be_worked_off() -> None:
    found = read(engines(an_engine(waiting=120.0)))
    assert isinstance(found, Known)
    assert found.requests_per_second == 2.0 + 120 / 60


def test_engines_that_answer_stand_in_for_those_that_do_not() -> None:
    found = read(engines(an_engine(), an_engine(), an_engine(), faulty=1))
    assert isinstance(found, Known)
    assert found.requests_per_second == pytest.approx(8.0)


def test_when_most_engines_fail_the_reading_is_stale_since_the_last_good_one() -> None:
    last = Known(40.0, 6.0, "Engines")
    found = read(engines(an_engine(), faulty=2), last=last)
    why = "2 of 3 engines cannot be read: prod/p-0 did not answer within 5 s"
    assert found == Stale(40.0, "Engines", why, Cause.UNREACHABLE)
    later = read(engines(faulty=3, fault=Trouble(Cause.NOT_A_NUMBER, "x")), last=found, now=200.0)
    assert isinstance(later, Stale)
    assert (later.at, later.cause) == (40.0, Cause.NOT_A_NUMBER)


def test_nobody_to_ask_is_empty_and_not_zero() -> None:
    assert read(engines()) == Empty(100.0, "Engines", "no ready pod to measure")
    assert read(engines(young=2)) == Empty(100.0, "Engines", "engines have just started")


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.sampled_from([None, Known(1.0, 5.0, "Engines")]))
def test_a_fault_never_reads_as_less_demand(good: int, young: int, faulty: int, last: Known | None) -> None:
    found = read(engines(*[an_engine()] * good, young=young, faulty=faulty), last=last)
    if isinstance(found, Known):
        assert good
        assert found.requests_per_second >= 2.0 * good
    if not good:
        assert isinstance(found, Stale if faulty else Empty)


# --- rounds ----------------------------------------------------------------------------------------------------------


def test_an_engine_is_measured_from_its_second_sample_on() -> None:
    memory = EngineMemory()
    assert memory.step({"a": a_sample(0.0)}).young == 1
    second = memory.step({"a": a_sample(10.0, finished=20)})
    assert [one.arrivals for one in second.rates] == [2.0]
    restarted = memory.step({"a": a_sample(20.0, finished=1)})
    assert (restarted.young, restarted.rates) == (1, ())
    assert [one.arrivals for one in memory.step({"a": a_sample(30.0, finished=11)}).rates] == [1.0]


@pytest.mark.parametrize(
    "lie",
    [{"generation_tokens": 1e12}, {"prompt_tokens": 1e13}, {"finished": 1e9}, {"waiting": 1e12}, {"running": 1e9}],
)
def test_an_engine_that_tells_of_more_than_any_can_do_is_a_fault_and_no_demand(lie: dict[str, float]) -> None:
    memory, last = EngineMemory(), Known(100.0, 3.0, "Engines")
    memory.step({"a": a_sample(85.0, finished=100.0)})
    memory.step({"a": a_sample(100.0, finished=150.0)})
    lying = {"finished": 200.0, **lie}
    found = memory.step({"a": a_sample(115.0, **lying)})
    assert (found.rates, found.faulty) == ((), 1)
    reading = read(found, last=last, now=115.0)
    assert isinstance(reading, Stale)
    assert reading.cause is Cause.NOT_A_NUMBER
    assert "an engine tells of" in reading.why
    assert isinstance(read(memory.step({"a": a_sample(130.0, finished=250.0)}), now=130.0), Empty)  # not zero demand
    right = read(memory.step({"a": a_sample(145.0, finished=300.0)}), now=145.0)
    assert isinstance(right, Known)
    assert right.requests_per_second == pytest.approx(50 / 15)


def test_a_repeated_sample_repeats_its_rates_and_is_counted_once() -> None:
    memory = EngineMemory()
    memory.step({"a": a_sample(0.0)})
    sample = a_sample(10.0, finished=20, generation_tokens=50)
    first, again = memory.step({"a": sample}), memory.step({"a": sample})
    assert first.rates == again.rates
    assert len(first.fresh) == 1
    assert again.fresh == ()
    assert memory.step({"a": a_sample(20.0, finished=50, generation_tokens=50)}).rates[0].arrivals == 3.0


def test_an_engine_that_fails_for_a_while_is_measured_over_the_gap() -> None:
    memory = EngineMemory()
    memory.step({"a": a_sample(0.0)})
    found = memory.step({"a": SILENT})
    assert (found.faulty, found.fault) == (1, SILENT)
    assert memory.step({"a": a_sample(30.0, finished=30)}).rates[0].arrivals == 1.0


def seen(asked: float, answered: float, written: float) -> Sample:
    """The sample of an engine that has served 10 requests a second since 0, whose page was written in between."""
    total = 10.0 * written
    page = "".join(
        f"vllm:{name} {value}\n"
        for name, value in (
            ("prompt_tokens_total", 1000.0 * total),
            ("generation_tokens_total", 100.0 * total),
            ("request_success_total", total),
            ("num_requests_running", 5.0),
            ("num_requests_waiting", 0.0),
        )
    )
    return sample_of(page.encode(), asked=asked, answered=answered)


def test_a_round_that_is_held_up_does_not_double_the_load_of_the_next_one() -> None:
    memory = EngineMemory()
    for at in (0.0, 15.0):
        memory.step({"a": seen(at, at + 0.02, at + 0.01)})
    late = memory.step({"a": seen(30.0, 60.0, 30.0)})  # written at once, taken in half a minute later
    assert late.rates[0].arrivals == pytest.approx(10.0, rel=0.01)
    next_one = memory.step({"a": seen(60.0, 60.02, 60.01)})  # it comes at once, since the period is long over
    assert next_one.rates[0].arrivals == pytest.approx(10.0, rel=0.01)
    assert sum(one.arrivals * one.seconds for one in next_one.fresh) == pytest.approx(450.0, rel=0.01)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.01, 0.1, 1.0, 5.0, 40.0]), st.floats(0, 1), st.booleans()), min_size=3, max_size=30
    )
)
def test_however_rounds_are_held_up_a_steady_load_is_measured_as_it_is(
    rounds: list[tuple[float, float, bool]],
) -> None:
    memory, now, counted, begun = EngineMemory(), 0.0, 0.0, None
    for held, share, at_once in rounds:
        taken = seen(now, now + held, now + share * held)
        found = memory.step({"a": taken})
        begun = memory.samples["a"].at if begun is None or (found.young and not found.rates) else begun
        for one in found.rates:
            assert one.arrivals == pytest.approx(10.0, rel=0.26)
        counted += sum(one.arrivals * one.seconds for one in found.fresh)
        now += held if at_once else max(held, 15.0)
    over = memory.samples["a"].at - begun
    assert counted == pytest.approx(10.0 * over, rel=0.26, abs=1.0)


def test_an_engine_that_always_answers_slowly_is_measured_over_a_longer_time() -> None:
    memory, fresh = EngineMemory(), 0
    for i in range(12):
        found = memory.step({"a": seen(15.0 * i, 15.0 * i + 4.0, 15.0 * i + 4.0 * (i % 2))})
        fresh += len(found.fresh)
        assert all(one.arrivals == pytest.approx(10.0, rel=0.26) for one in found.rates)
    assert fresh >= 3


def test_a_clock_that_is_set_back_by_an_hour_does_not_freeze_the_load() -> None:
    memory = EngineMemory()
    for i in range(3):
        memory.step({"a": a_sample(3600.0 + 15.0 * i, finished=15 * i)})
    assert memory.step({"a": a_sample(3620.0, finished=20)}).rates[0].arrivals == 1.0  # late by seconds: as before
    assert memory.step({"a": a_sample(45.0, finished=45)}).young == 1
    assert memory.step({"a": a_sample(60.0, finished=105)}).rates[0].arrivals == 4.0


def test_engines_whose_pods_are_gone_are_forgotten() -> None:
    memory = EngineMemory()
    memory.step({"a": a_sample(0.0), "b": a_sample(0.0)})
    memory.step({"a": a_sample(10.0), "b": a_sample(10.0)})
    memory.forget_all_but(["b"])
    assert memory.samples.keys() == memory.rates.keys() == {"b"}
    assert memory.step({"a": a_sample(20.0)}).young == 1


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.floats(0.1, 60), st.integers(0, 500), st.integers(0, 30)), min_size=1, max_size=20))
def test_over_many_rounds_every_request_is_counted_once(rounds: list[tuple[float, int, int]]) -> None:
    memory, now, finished = EngineMemory(), 0.0, 0
    memory.step({"a": a_sample(0.0)})
    arrived = 0.0
    for seconds, done, inside in rounds:
        now, finished = now + seconds, finished + done
        (rates,) = memory.step({"a": a_sample(now, finished=finished, running=inside)}).fresh
        arrived += rates.arrivals * rates.seconds
    assert arrived >= finished + rounds[-1][2] - 1e-6


def test_tokens_are_tallied_by_direction_and_taken_once() -> None:
    tally = TokenTally()
    tally.add([an_engine(), an_engine(hit_tokens=9999.0)])
    # 15 s of 2,000 prompt tokens a second: 800 cached of one engine; the other cannot have hit more than it read.
    assert tally.take() == {"input": 18_000.0, "cached": 12_000.0 + 30_000.0, "output": 15_000.0}
    assert tally.take() == {"input": 0.0, "cached": 0.0, "output": 0.0}


def test_mean_lengths_weigh_requests_and_not_rounds() -> None:
    window = LengthWindow()
    window.add(0.0, [an_engine(finished=9.0, mean_prompt=1000.0, generation_tokens=900.0)])
    window.add(15.0, [an_engine(finished=1.0, mean_prompt=2000.0, generation_tokens=1100.0)])
    into, out, hits = window.means()
    assert into == pytest.approx(1100.0)
    assert out == pytest.approx(200.0)
    assert hits == pytest.approx(0.4)


def test_mean_lengths_are_those_of_the_last_minutes() -> None:
    window = LengthWindow()
    assert window.means() == (None, None, None)
    window.add(0.0, [an_engine(mean_prompt=9000.0)])
    window.add(700.0, [an_engine(mean_prompt=1000.0)])
    assert window.means()[0] == pytest.approx(1000.0)
    window.add(1400.0, [])
    assert window.means() == (None, None, None)


def test_the_mean_wait_for_first_tokens_is_over_all_engines_that_tell() -> None:
    one = an_engine(first_tokens=30.0, first_token_seconds=12.0)
    other = an_engine(first_tokens=10.0, first_token_seconds=28.0)
    found = read(PoolEngines((one, other), 0, 0, None, fresh=(one, other)))
    assert isinstance(found, Known)
    assert (found.first_token_seconds, found.first_tokens) == (1.0, 40.0)
    silent = read(engines(an_engine()))
    assert isinstance(silent, Known)
    assert silent.first_token_seconds is None
