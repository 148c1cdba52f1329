"""The clocks: what processes agree on, and what wakes a sleeper."""

from __future__ import annotations

import threading
import time

import pytest

from tidefleet.cluster.clock import ManualClock, RealClock, ScaledClock, parse_clock


def test_two_clocks_given_the_same_three_numbers_agree() -> None:
    text = "scale=576,real=1763800000.0,simulated=1715299200"
    one, other = parse_clock(text), parse_clock(text)
    assert abs(one.now() - other.now()) < 576 * 0.05
    assert one.scale == 576


def test_a_scaled_clock_reaches_its_simulated_epoch_at_its_real_epoch() -> None:
    real = time.time()
    clock = ScaledClock(100.0, real - 10.0, 1_000_000.0)
    assert clock.now() == pytest.approx(1_001_000.0, abs=100.0)


def test_a_scaled_clock_prints_the_text_it_is_parsed_from() -> None:
    clock = ScaledClock(576.0, 1763800000.25, 1715299200.0)
    again = parse_clock(repr(clock))
    assert repr(again) == repr(clock)


def test_a_scaled_clock_sleeps_simulated_seconds() -> None:
    clock = ScaledClock(1000.0, time.time(), 0.0)
    before = clock.monotonic()
    assert clock.sleep(20.0) is False
    assert clock.monotonic() - before >= 20.0


def test_the_real_clock_is_parsed_and_woken() -> None:
    clock = parse_clock("real")
    assert isinstance(clock, RealClock)
    wake = threading.Event()
    wake.set()
    assert clock.sleep(3600.0, wake) is True
    assert clock.sleep(-1.0) is False


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "'' is not one of its parts"),
        ("scale=576", "real, simulated is missing"),
        ("scale=0,real=1,simulated=2", "expected a positive number"),
        ("scale=x,real=1,simulated=2", "scale is 'x', not a number"),
        ("scale=1,real=nan,simulated=2", "real is 'nan', not a finite number"),
        ("scale=1,real=1,simulated=2,pace=3", "'pace=3' is not one of its parts"),
        ("scale=1,scale=2,real=1,simulated=2", "'scale=2' is not one of its parts"),
    ],
)
def test_a_clock_that_cannot_be_read_is_named(text: str, names: str) -> None:
    with pytest.raises(ValueError, match="clock") as error:
        parse_clock(text)
    assert names in str(error.value)


def test_a_manual_clock_wakes_a_sleeper_when_advanced_far_enough() -> None:
    clock = ManualClock(start=100.0)
    slept: list[bool] = []
    thread = threading.Thread(target=lambda: slept.append(clock.sleep(60.0)))
    thread.start()
    clock.advance(30.0)
    thread.join(0.05)
    assert thread.is_alive()
    clock.advance(30.0)
    thread.join(5.0)
    assert slept == [False]
    assert (clock.now(), clock.monotonic()) == (160.0, 60.0)


def test_a_manual_clock_is_woken_by_an_event() -> None:
    clock, wake = ManualClock(), threading.Event()
    slept: list[bool] = []
    thread = threading.Thread(target=lambda: slept.append(clock.sleep(60.0, wake)))
    thread.start()
    wake.set()
    thread.join(5.0)
    assert slept == [True]


def test_an_automatic_manual_clock_advances_itself() -> None:
    clock = ManualClock(start=0.0, auto=True)
    assert clock.sleep(86_400.0) is False
    assert clock.now() == 86_400.0
    with pytest.raises(ValueError, match="cannot advance"):
        clock.advance(-1.0)
