"""Deferrable volumes: idle capacity first, deadlines kept where they can be, and purchases no dearer than an LP's."""

from __future__ import annotations

import math

import highspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.planning.deferrable import DeferrablePlan, Volume, daily_volumes, fewest_units, plan_deferrable
from tidefleet.planning.slots import SLOT_SECONDS

FIRST = 2_000_000
NOW = FIRST * SLOT_SECONDS


def a_volume(slots_of_one: float, deadline: int, *, release: int = 0, name: str = "batch") -> Volume:
    """Work of so many slots at one token/s, due at the end of a slot counted from now."""
    return Volume(name, slots_of_one * SLOT_SECONDS, NOW + deadline * SLOT_SECONDS, NOW + release * SLOT_SECONDS)


def done(plan: DeferrablePlan) -> np.ndarray:
    """Tokens done by volume."""
    return (plan.rates * plan.seconds).sum(axis=1)


def test_slack_before_the_deadline_is_used_and_nothing_is_bought() -> None:
    plan = plan_deferrable([a_volume(5, 4)], np.array([1.0, 0.0, 3.0, 2.0, 9.0]), now=NOW)
    assert plan.rates[0].tolist() == [1.0, 0.0, 3.0, 1.0, 0.0]
    assert not plan.buys
    assert plan.begins is None
    assert plan.missing.tolist() == [0.0]


def test_the_earliest_deadline_goes_first_however_the_volumes_are_ordered() -> None:
    late, soon = a_volume(3, 4, name="late"), a_volume(2, 2, name="soon")
    plan = plan_deferrable([late, soon], np.array([1.0, 1.0, 1.0, 2.0]), now=NOW)
    assert plan.rates.tolist() == [[0, 0, 1, 2], [1, 1, 0, 0]]
    assert not plan.buys


def test_what_slack_does_not_hold_is_bought_in_the_cheapest_slots_before_the_deadline() -> None:
    plan = plan_deferrable(
        [a_volume(5, 3)], np.array([1.0, 1.0, 1.0, 8.0]), now=NOW, prices=np.array([3.0, 1.0, 2.0, 0.1]), most_extra=1.5
    )
    assert plan.extra.tolist() == [0.0, 1.5, 0.5, 0.0]
    assert plan.begins == NOW + SLOT_SECONDS
    assert plan.extra_at(NOW + SLOT_SECONDS + 10) == 1.5
    assert plan.extra_at(NOW - 5000) == plan.extra_at(NOW + 1e6) == 0.0
    assert plan.missing.tolist() == [0.0]


def test_what_cannot_be_done_in_time_is_told() -> None:
    plan = plan_deferrable([a_volume(5, 2)], np.array([1.0, 1.0, 9.0]), now=NOW, most_extra=1.0)
    assert plan.missing.tolist() == [SLOT_SECONDS]
    assert plan.extra.tolist() == [1.0, 1.0, 0.0]
    assert plan_deferrable([a_volume(1, 0)], np.array([9.0]), now=NOW).missing.tolist() == [SLOT_SECONDS]


def test_a_slot_that_has_begun_holds_what_is_left_of_it() -> None:
    plan = plan_deferrable([a_volume(1.5, 2)], np.array([1.0, 1.0]), now=NOW + 600.0)
    assert done(plan).tolist() == pytest.approx([1.5 * SLOT_SECONDS])
    assert plan.seconds.tolist() == [300.0, 900.0]
    assert float(plan.extra @ plan.seconds) == pytest.approx(1350 - 1200)


def test_time_shorter_than_a_slot_is_the_slot_that_it_lies_in() -> None:
    for opens, due in ((0.0, 300.0), (-50.0, 10.0), (SLOT_SECONDS + 100.0, SLOT_SECONDS + 400.0)):
        volume = Volume("batch", 500.0, NOW + due, NOW + opens)
        plan = plan_deferrable([volume], np.ones(3), now=NOW)
        assert plan.missing.tolist() == [0.0]
        assert np.flatnonzero(plan.rates[0]).tolist() == [int(opens > 0)]


def test_nothing_to_do_and_no_time_to_plan_are_fine() -> None:
    assert plan_deferrable([], np.array([1.0]), now=NOW).rates.shape == (0, 1)
    assert plan_deferrable([a_volume(1, 3)], np.zeros(0), now=NOW).missing.tolist() == [SLOT_SECONDS]


@pytest.mark.parametrize("slack", [[-1.0], [math.nan], [math.inf]])
def test_slack_must_be_a_rate(slack: list[float]) -> None:
    with pytest.raises(ValueError, match="slack"):
        plan_deferrable([a_volume(1, 1)], np.array(slack), now=NOW)
    with pytest.raises(ValueError, match="prices"):
        plan_deferrable([a_volume(1, 1)], np.array([1.0]), now=NOW, prices=np.array([math.nan]))
    with pytest.raises(ValueError, match="expected finite tokens"):
        Volume("batch", math.nan, NOW)


small = st.integers(0, 4)
cases = st.integers(1, 4).flatmap(
    lambda slots: st.tuples(
        st.lists(st.tuples(st.integers(0, 6), small, small), min_size=1, max_size=3),
        st.lists(small, min_size=slots, max_size=slots),
        st.lists(small, min_size=slots, max_size=slots),
        st.lists(st.integers(0, 3), min_size=slots, max_size=slots),
    )
)


def an_lp(volumes: list[Volume], slack: np.ndarray, prices: np.ndarray, most: np.ndarray) -> tuple[float, float]:
    """The least tokens missing and, with these, the least cost (slots of one token/s): HiGHS on the plain LP."""
    slots, count = len(slack), len(volumes)
    windows = [
        [s for s in range(slots) if v.release <= NOW + s * SLOT_SECONDS and NOW + (s + 1) * SLOT_SECONDS <= v.deadline]
        for v in volumes
    ]
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    model.setOptionValue("threads", 1)
    penalty = 1e3
    x = {(j, s): model.addVariable(0.0, 1e6) for j in range(count) for s in windows[j]}
    e = [model.addVariable(0.0, float(most[s]), float(prices[s])) for s in range(slots)]
    z = [model.addVariable(0.0, 1e6, penalty) for _ in range(count)]
    for s in range(slots):
        used = [x[j, s] for j in range(count) if s in windows[j]]
        if used:
            model.addConstr(sum(used[1:], used[0] * 1.0) - e[s] <= float(slack[s]))
    for j, volume in enumerate(volumes):
        done = [x[j, s] for s in windows[j]]
        model.addConstr(sum(done, z[j] * 1.0) == volume.tokens / SLOT_SECONDS)
    model.run()
    values = model.getSolution().col_value
    missing = sum(values[one.index] for one in z)
    return missing, sum(values[one.index] * prices[s] for s, one in enumerate(e))


@settings(deadline=None, max_examples=120)
@given(cases)
def test_no_linear_programme_does_more_in_time_or_the_same_for_less(case) -> None:
    jobs, slack, prices, most = case
    volumes = [a_volume(work, end, release=begin, name=f"v{i}") for i, (work, begin, end) in enumerate(jobs)]
    arrays = np.array(slack, float), np.array(prices, float), np.array(most, float)
    plan = plan_deferrable(volumes, arrays[0], now=NOW, prices=arrays[1], most_extra=arrays[2])
    missing, cost = an_lp(volumes, *arrays)
    assert float(plan.missing.sum()) / SLOT_SECONDS == pytest.approx(missing, abs=1e-6)
    assert float(plan.extra @ arrays[1]) == pytest.approx(cost, abs=1e-6)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.floats(0, 50), st.integers(0, 20), st.integers(0, 30)), max_size=5),
    st.lists(st.floats(0, 10), min_size=1, max_size=24),
    st.floats(0, 899),
    st.sampled_from([0.0, 2.0, math.inf]),
)
def test_work_is_conserved_and_never_done_outside_its_time(jobs, slack, into, most) -> None:
    volumes = [a_volume(work, end, release=begin, name=f"v{i}") for i, (work, begin, end) in enumerate(jobs)]
    room = np.array(slack)
    plan = plan_deferrable(volumes, room, now=NOW + into, most_extra=most)
    total = sum(one.tokens for one in volumes)
    near = 1e-6 * max(1.0, total)
    assert (plan.rates >= 0).all()
    assert (plan.extra >= 0).all()
    assert (plan.extra <= most + 1e-9).all()
    assert (plan.rates.sum(axis=0) <= room + plan.extra + near).all()
    assert np.allclose(done(plan) + plan.missing, [one.tokens for one in volumes], atol=near)
    begins = np.array([max(NOW + into, NOW + s * SLOT_SECONDS) for s in range(len(room))])
    for volume, rates in zip(volumes, plan.rates, strict=True):
        used = rates > 0
        assert (begins[used] >= min(volume.release, NOW + into)).all()
        assert ((FIRST + np.flatnonzero(used) + 1) * SLOT_SECONDS <= volume.deadline).all()
    alone = plan_deferrable(volumes, room, now=NOW + into, most_extra=0.0)
    if not alone.missing.any():
        assert not plan.buys
        assert not plan.missing.any()
    if math.isinf(most):
        assert float((plan.extra * plan.seconds).sum()) == pytest.approx(
            float(alone.missing.sum() - plan.missing.sum()), abs=near
        )


def test_replicas_are_added_thinly_over_hours_rather_than_at_once() -> None:
    volumes = [a_volume(24, 8)]
    plan, units = fewest_units(volumes, np.ones(10), now=NOW, unit=1.5, most=50)
    assert units == 2  # 16 slots' work over 8 slots is 2 tokens/s: two replicas of 1.5
    assert plan.extra.max() <= 3.0
    assert not plan.missing.any()
    assert fewest_units(volumes, np.full(10, 3.0), now=NOW, unit=1.0, most=50)[1] == 0
    short, units = fewest_units(volumes, np.zeros(10), now=NOW, unit=1.0, most=2)
    assert units == 2
    assert short.missing.tolist() == [8 * SLOT_SECONDS]


def test_replicas_are_added_where_there_is_room_for_them() -> None:
    room = [0, 0, 2, 2, 5, 0, 0, 0, 0, 0]
    plan, units = fewest_units([a_volume(6, 8)], np.zeros(10), now=NOW, unit=1.0, most=room)
    assert units == 2
    assert (plan.extra <= np.array(room)).all()
    assert not plan.missing.any()
    short, units = fewest_units([a_volume(60, 8)], np.zeros(10), now=NOW, unit=1.0, most=room)
    assert (units, short.extra.tolist()) == (5, [0.0, 0.0, 2.0, 2.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert short.missing.tolist() == [51 * SLOT_SECONDS]


def test_work_that_no_unit_can_do_in_time_buys_none() -> None:
    late = a_volume(3, 0, release=-4)  # due by now
    assert fewest_units([late, a_volume(8, 8)], np.ones(8), now=NOW, unit=1.0, most=50)[1] == 0
    plan, units = fewest_units([late, a_volume(24, 8)], np.ones(8), now=NOW, unit=1.0, most=50)
    assert units == 2
    assert plan.extra.max() <= 2.0
    assert plan.missing.tolist() == [3 * SLOT_SECONDS, 0.0]


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 60), st.lists(st.floats(0, 3), min_size=8, max_size=8), st.floats(0.3, 3))
def test_one_unit_less_would_not_do(work: float, slack: list[float], unit: float) -> None:
    volumes, room = [a_volume(work, 8)], np.array(slack)
    plan, units = fewest_units(volumes, room, now=NOW, unit=unit, most=64)
    if units and not plan.missing.any():
        assert plan_deferrable(volumes, room, now=NOW, most_extra=(units - 1) * unit).missing.any()


# --- daily volumes ---------------------------------------------------------------------------------------------------

DAY = 86_400.0
MIDNIGHT = 20_000 * DAY


def test_a_days_volume_comes_at_midnight_and_progress_is_taken_off() -> None:
    now = MIDNIGHT + 3600.0
    both = daily_volumes("batch", 1000.0, DAY, now=now, horizon=2 * DAY, done={20_000: 300.0})
    assert [one.name for one in both] == ["batch/20000", "batch/20001", "batch/20002"]
    assert (both[0].tokens, both[0].deadline) == (700.0, MIDNIGHT + DAY)
    assert (both[1].tokens, both[1].release) == (1000.0, MIDNIGHT + DAY)
    assert both[2].tokens == pytest.approx(1000.0 / 24)  # of the last day one hour is planned
    assert both[2].deadline == now + 2 * DAY


@pytest.mark.parametrize("into", [0.0, 1.0, 36.0, 899.0, 900.0, 1700.0, 40_000.0, 86_399.0])
@pytest.mark.parametrize("deadline", [60.0, 600.0, 1000.0, 3600.0, 85_000.0, DAY, 2.5 * DAY])
def test_no_hour_of_the_day_makes_a_volume_that_no_slot_can_hold(into: float, deadline: float) -> None:
    now = MIDNIGHT + into
    slack = np.full(192, 10.0)
    volumes = daily_volumes("batch", 9.0, deadline, now=now, horizon=192 * SLOT_SECONDS, done={})
    plan, units = fewest_units(volumes, slack, now=now, unit=5.0, most=100)
    assert not plan.missing.any()
    assert units == 0


def test_what_is_done_is_gone_and_more_than_all_is_not_negative() -> None:
    found = daily_volumes("batch", 1000.0, DAY, now=MIDNIGHT, horizon=DAY, done={20_000: 5000.0, 19_999: -7.0})
    assert [one.name for one in found] == []


def test_volumes_overlap_when_the_deadline_is_longer_than_a_day() -> None:
    found = daily_volumes("batch", 1000.0, 3 * DAY, now=MIDNIGHT + 10, horizon=DAY, done={})
    assert [one.name.split("/")[1] for one in found] == ["19998", "19999", "20000"]
    assert found[0].tokens == pytest.approx(1000.0, rel=1e-3)  # due in a day: nearly all of it
    assert found[1].tokens == pytest.approx(500.0, rel=1e-3)
    assert all(one.deadline <= MIDNIGHT + 10 + DAY for one in found)
