"""Live calibration: engines of known slowness, noise, lies and silence, and what the estimator says of them."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet import catalogue
from tidefleet.economics.evidence import ROOFLINE_SIGMA, Correction, best_evidence, is_usable, roofline_of
from tidefleet.economics.live import Interval, Ratio, is_steady, ratios_of
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import TokenShape
from tidefleet.planning.from_api import accelerator_of
from tidefleet.planning.live import (
    BOUNDS,
    MIN_SAMPLES,
    MIN_SPAN_SECONDS,
    SIGMA_FLOOR,
    LiveCalibration,
    follow,
)

H100 = accelerator_of(catalogue.accelerator_types()["h100-sxm"])
REPLICA = Replica(catalogue.models()["llama-3.3-70b"], H100, 4, "Fp8", "Fp8")
UNMEASURED = Replica(catalogue.models()["gpt-oss-120b"], replace(H100, name="another-makers"), 4, "Fp4", "Fp8")
"""Hardware that no measurement stands behind, with a model of experts: the least sure roofline."""
SHAPE = TokenShape(1000.0, 400.0)
HOUR = 3600.0


def an_interval(
    batch: float = 20.0,
    *,
    decode: float = 1.0,
    prompt: float = 1.0,
    shape: TokenShape = SHAPE,
    seconds: float = 15.0,
    latencies: bool = True,
    **changes: object,
) -> Interval:
    """What an engine shows in a steady state that is slower than the model by these factors."""
    own = prompt * float(prefill(REPLICA, shape.uncached, shape.cached).seconds[0])
    step = decode * float(decode_step(REPLICA, batch, shape.input_mean + shape.output_mean / 2.0).seconds[0])
    tpot = step + batch / shape.output_mean * own
    rate = batch / (shape.output_mean * tpot)
    load = rate * own
    told = {
        "token_seconds": batch * seconds,
        "timed_tokens": rate * seconds * shape.output_mean,
        "first_token_seconds": rate * seconds * (own + load / (1.0 - load) * own + step),
        "first_tokens": rate * seconds,
    }
    made = Interval(
        seconds=seconds,
        running=(batch, batch),
        waiting=(0.0, 0.0),
        prompt_tokens=rate * seconds * shape.input_mean,
        generation_tokens=rate * seconds * shape.output_mean,
        kv_usage=0.4,
        **(told if latencies else {}),  # type: ignore[arg-type]
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def ratios(*intervals: Interval, shape: TokenShape = SHAPE) -> list[Ratio]:
    return ratios_of(REPLICA, shape, intervals)


def learned(
    rounds: list[list[Ratio]], *, period: float = 15.0, shown: LiveCalibration | None = None, start: float = 0.0
) -> tuple[LiveCalibration, float]:
    """An estimator after these rounds, and the time at their end."""
    shown = shown or LiveCalibration()
    at = start
    for one in rounds:
        at += period
        shown.add(at, one)
    return shown, at


def told(shown: LiveCalibration, at: float, replica: Replica = REPLICA) -> Correction:
    found = shown.correction(at, replica, SHAPE)
    assert found is not None
    return found


def at_batch(one: Correction, batch: float) -> float:
    return float(one.decode_factor(np.array([batch]))[0])


# --- one interval ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decode", "prompt"), [(1.0, 1.0), (1.4, 1.4), (0.7, 0.8), (1.6, 1.0), (1.0, 1.6)])
@pytest.mark.parametrize("batch", [3.0, 20.0, 100.0])
def test_factors_of_decode_and_prefill_are_told_apart_by_the_two_latencies(
    decode: float, prompt: float, batch: float
) -> None:
    (found,) = ratios(an_interval(batch, decode=decode, prompt=prompt))
    assert found.batch == pytest.approx(batch)
    assert math.exp(found.decode) == pytest.approx(decode, rel=0.01)
    assert found.prefill is not None
    assert math.exp(found.prefill) == pytest.approx(prompt, rel=0.01)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_without_latencies_tokens_per_running_request_give_one_factor_for_both(factor: float) -> None:
    (found,) = ratios(an_interval(decode=factor, prompt=factor, latencies=False))
    assert found.prefill is None
    assert math.exp(found.decode) == pytest.approx(factor, rel=0.01)


def test_several_tokens_a_step_count_as_tokens_and_not_as_steps() -> None:
    whole = an_interval()
    spoken = replace(whole, timed_tokens=whole.timed_tokens / 3.0)
    assert ratios(spoken)[0].decode == pytest.approx(ratios(whole)[0].decode, abs=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"generation_tokens": 0.0},
        {"generation_tokens": math.nan},
        {"prompt_tokens": math.inf},
        {"token_seconds": math.nan},
        {"token_seconds": -3.0},
        {"token_seconds": 0.0},
        {"token_seconds": 1e9},
        {"first_token_seconds": math.inf},
        {"seconds": 0.0},
        {"seconds": -15.0},
        {"seconds": 1e6},
        {"running": (1.0, 1.0)},
        {"running": (0.0, 20.0)},
        {"running": (-5.0, 50.0)},
        {"running": (40.0, 5.0)},
        {"waiting": (0.0, 30.0)},
        {"waiting": (200.0, 200.0)},
        {"kv_usage": 0.99},
        {"timed_tokens": 1e12},
        {"generation_tokens": 1e12},
        {"generation_tokens": 31.0, "token_seconds": None},
    ],
)
def test_an_interval_of_a_faulty_or_unsteady_engine_gives_nothing(changes: dict[str, object]) -> None:
    assert ratios(an_interval(**changes)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shape",
    [TokenShape(0.0, 400.0), TokenShape(1000.0, 0.5), TokenShape(math.nan, 400.0), TokenShape(1e9, 400.0),
     TokenShape(1000.0, 400.0, cached_share=1.0)],
)  # fmt: skip
def test_implausible_lengths_teach_nothing(shape: TokenShape) -> None:
    assert ratios(an_interval(), shape=shape) == []


def test_a_time_to_first_token_that_is_mostly_decode_says_nothing_of_prefill() -> None:
    short = TokenShape(1000.0, 400.0, cached_share=0.97)
    (found,) = ratios(an_interval(shape=short), shape=short)
    assert found.prefill is None


numbers = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 1e5))


@given(st.tuples(*[numbers] * 7))
@settings(max_examples=100, deadline=None)
def test_whatever_an_engine_says_a_ratio_is_finite_and_not_absurd(
    said: tuple[float, ...],
) -> None:
    a, b, c, d, e, f, g = said
    one = Interval(a, (b, b), (0.0, 0.0), c, d, 0.5, e, f, g, f)
    for found in ratios(one, an_interval()):
        assert found.batch > 0
        assert abs(found.decode) <= math.log(6.0) + 1e-9
        assert found.prefill is None or abs(found.prefill) <= math.log(6.0)
    assert is_steady(an_interval())


# --- evidence --------------------------------------------------------------------------------------------------------


def test_nothing_is_told_before_there_is_enough_evidence_over_enough_time() -> None:
    one = ratios(an_interval(decode=1.4, prompt=1.4))
    few, at = learned([one, *[[] for _ in range(60)]])
    assert few.correction(at, REPLICA, SHAPE) is None
    early, at = learned([one * 40] * 20)
    assert at < MIN_SPAN_SECONDS
    assert early.correction(at, REPLICA, SHAPE) is None
    enough, at = learned([one] * 41)
    assert at >= MIN_SPAN_SECONDS
    assert told(enough, at).provenance == "Live"
    assert MIN_SAMPLES == 20


def test_slow_engines_are_learned_with_a_small_sigma() -> None:
    shown, at = learned([ratios(an_interval(decode=1.4, prompt=1.4))] * 480)
    found = told(shown, at)
    assert at_batch(found, 20.0) == pytest.approx(1.4, rel=0.02)
    assert found.prefill == pytest.approx(1.4, rel=0.03)
    assert SIGMA_FLOOR <= found.sigma <= 0.04


def test_few_samples_draw_the_factor_towards_the_roofline_and_sigma_says_so() -> None:
    rounds = [ratios(an_interval(decode=2.0, prompt=2.0))] * 480
    first, at = learned(rounds[:41])
    later, end = learned(rounds)
    assert 1.0 < at_batch(told(first, at), 20.0) < at_batch(told(later, end), 20.0) <= 2.01
    assert told(first, at, UNMEASURED).sigma > told(later, end, UNMEASURED).sigma


def test_factors_stay_within_their_bounds() -> None:
    for factor, bound in ((5.0, BOUNDS[1]), (0.2, BOUNDS[0])):
        shown, at = learned([[Ratio(20.0, math.log(factor), math.log(factor))]] * 480)
        found = told(shown, at)
        assert at_batch(found, 20.0) == pytest.approx(bound, rel=0.01)
        assert BOUNDS[0] - 0.01 <= found.prefill <= BOUNDS[1]


def test_noise_is_averaged_and_shows_in_sigma() -> None:
    draw = random.Random(3)  # noqa: S311
    quiet, at = learned([[Ratio(20.0, 0.3, 0.3)]] * 480)
    noisy, _ = learned([[Ratio(20.0, 0.3 + draw.gauss(0.0, 0.25), None)] for _ in range(480)])
    found = told(noisy, at)
    assert at_batch(found, 20.0) == pytest.approx(math.exp(0.3), rel=0.06)
    assert told(quiet, at).sigma < found.sigma < ROOFLINE_SIGMA


def test_one_poisoned_pod_among_ten_moves_nothing() -> None:
    good, bad = ratios(an_interval(decode=1.2, prompt=1.2)), [Ratio(20.0, math.log(5.5), math.log(5.5))]
    clean, at = learned([good * 10] * 240)
    poisoned, _ = learned([good * 9 + bad] * 240)
    assert at_batch(told(poisoned, at), 20.0) == pytest.approx(at_batch(told(clean, at), 20.0), rel=0.005)
    assert told(poisoned, at).prefill == pytest.approx(told(clean, at).prefill, rel=0.005)


def test_slow_pods_that_hold_more_requests_do_not_stand_for_larger_batches() -> None:
    shown, at = learned([[Ratio(10.0, 0.0)] * 9 + [Ratio(90.0, math.log(2.5))]] * 240)
    assert at_batch(told(shown, at), 60.0) == pytest.approx(1.0, abs=0.02)


def test_a_region_that_engines_left_as_they_got_slower_follows_the_others() -> None:
    shown, at = learned([[Ratio(12.0, 0.0)]] * 960)
    shown, at = learned([[Ratio(25.0, math.log(1.4))]] * 720, shown=shown, start=at)
    assert at_batch(told(shown, at), 12.0) == pytest.approx(1.4, rel=0.07)


def test_an_hour_of_nonsense_among_many_moves_nothing() -> None:
    good, bad = ratios(an_interval(decode=1.2, prompt=1.2)), [Ratio(20.0, -1.7, -1.7)]
    shown, at = learned([good] * 960)
    shown, at = learned([bad] * 200, shown=shown, start=at)
    assert at_batch(told(shown, at), 20.0) == pytest.approx(1.2, rel=0.02)


def test_each_region_of_batches_has_its_own_factor_and_times_never_fall() -> None:
    shown, at = learned([[Ratio(6.0, math.log(1.1)), Ratio(30.0, math.log(1.5)), Ratio(120.0, math.log(1.3))]] * 480)
    found = told(shown, at)
    assert [at_batch(found, b) for b in (6.0, 30.0, 120.0)] == pytest.approx([1.1, 1.5, 1.3], rel=0.03)
    falling, at = learned([[Ratio(6.0, math.log(2.5)), Ratio(30.0, math.log(0.5))]] * 480)
    one = told(falling, at)
    low, high = (at_batch(one, b) * float(decode_step(REPLICA, b, 1200.0).seconds[0]) for b in (6.0, 30.0))
    assert low <= high * 1.01


def test_a_region_hardly_seen_is_taken_like_all() -> None:
    shown, at = learned([[Ratio(20.0, math.log(1.4))]] * 480)
    shown, at = learned([[Ratio(100.0, math.log(0.6))]] * 11 + [[]] * 40, shown=shown, start=at)
    assert at_batch(told(shown, at), 100.0) > 1.0


def test_far_from_the_batches_seen_sigma_is_larger_and_never_above_the_rooflines() -> None:
    shown, at = learned([[Ratio(4.5, math.log(1.2))]] * 480)
    found = told(shown, at)
    sigmas = [found.sigma_at(batch) for batch in (4.5, 20.0, 200.0, 2000.0, 1e6)]
    assert sigmas == sorted(sigmas)
    assert sigmas[0] == found.sigma
    assert sigmas[2] > 2.0 * sigmas[0]
    assert sigmas[-1] == roofline_of(REPLICA).sigma


def test_where_the_roofline_is_less_sure_few_samples_say_less_and_many_as_much() -> None:
    sure, unsure = roofline_of(REPLICA).sigma, roofline_of(UNMEASURED).sigma
    assert unsure == 0.45 > ROOFLINE_SIGMA > sure
    first, at = learned([[Ratio(20.0, 0.3)]] * 41)
    later, end = learned([[Ratio(20.0, 0.3)]] * 480)
    assert told(first, at, REPLICA).sigma < told(first, at, UNMEASURED).sigma
    assert told(later, end, UNMEASURED).sigma == pytest.approx(told(later, end, REPLICA).sigma, abs=0.011)


def test_no_correction_is_less_sure_than_the_roofline_of_its_own_hardware() -> None:
    draw = random.Random(5)  # noqa: S311
    noisy, at = learned([[Ratio(20.0, draw.gauss(0.0, 1.0))] for _ in range(42)])
    quiet, end = learned([[Ratio(20.0, 0.3)]] * 480)
    for replica in (REPLICA, UNMEASURED):
        roofline = roofline_of(replica).sigma
        assert told(quiet, end, replica).sigma < ROOFLINE_SIGMA
        assert told(quiet, end, replica).sigma_at(1e9) == roofline
        assert told(noisy, at, replica).sigma == min(roofline, told(noisy, at, UNMEASURED).sigma)
    assert told(noisy, at, UNMEASURED).sigma > ROOFLINE_SIGMA


# --- an engine that works step by step --------------------------------------------------------------------------------


def intervals_of_an_engine(
    rate: float, *, decode: float, prompt: float, latencies: bool, minutes: float = 40.0, seed: int = 1
) -> list[Interval]:
    """Poisson arrivals and exponential outputs in an engine that prefills one prompt and decodes all others a step."""
    draw, output = random.Random(seed), 200.0  # noqa: S311
    steps = [0.0, *(decode * decode_step(REPLICA, np.arange(1.0, 513.0), 1000.0 + output / 2.0).seconds).tolist()]
    own = prompt * float(prefill(REPLICA, 1000.0, 0.0).seconds[0])
    now, begun, arrival = 0.0, 0.0, draw.expovariate(rate)
    queue: list[float] = []
    batch: list[int] = []
    sums = dict.fromkeys(("prompt", "generated", "token_s", "tokens", "first_s", "first"), 0.0)
    before, seen = dict(sums), (0.0, 0.0)
    found = []
    while now < 60.0 * minutes:
        while arrival <= now:
            queue.append(arrival)
            arrival += draw.expovariate(rate)
        if not queue and not batch:
            now = arrival
            continue
        asked = queue.pop(0) if queue else None
        took = (own if asked is not None else 0.0) + steps[len(batch) + (asked is not None)]
        now += took
        sums["token_s"] += took * len(batch)
        sums["tokens"] += len(batch)
        sums["generated"] += len(batch) + (asked is not None)
        batch = [left - 1 for left in batch if left > 1]
        if asked is not None:
            sums["prompt"] += 1000.0
            sums["first_s"] += now - asked
            sums["first"] += 1
            batch += [left] if (left := round(draw.expovariate(1.0 / output)) - 1) > 0 else []
        if now - begun >= 15.0:
            grown = {name: value - before[name] for name, value in sums.items()}
            found.append(
                Interval(
                    seconds=now - begun,
                    running=(seen[0], len(batch)),
                    waiting=(seen[1], len(queue)),
                    prompt_tokens=grown["prompt"],
                    generation_tokens=grown["generated"],
                    token_seconds=grown["token_s"] if latencies else None,
                    timed_tokens=grown["tokens"],
                    first_token_seconds=grown["first_s"] if latencies else None,
                    first_tokens=grown["first"],
                )
            )
            before, begun, seen = dict(sums), now, (float(len(batch)), float(len(queue)))
    return found


@pytest.mark.parametrize(
    ("rate", "decode", "prompt", "latencies", "tolerance"),
    [
        (1.0, 1.0, 1.0, True, 0.03),
        (1.0, 1.3, 0.9, True, 0.05),
        (6.0, 1.4, 1.4, True, 0.03),
        (6.0, 0.9, 1.5, True, 0.07),
        (3.0, 1.0, 1.0, False, 0.08),
        (6.0, 1.4, 1.4, False, 0.06),
    ],
)
def test_the_corrected_time_between_tokens_is_that_of_an_engine_of_steps_and_chance(
    *, rate: float, decode: float, prompt: float, latencies: bool, tolerance: float
) -> None:
    shape = TokenShape(1000.0, 200.0)
    seen = [ratios(one, shape=shape) for one in intervals_of_an_engine(rate, decode=decode, prompt=prompt,
                                                                      latencies=latencies)]  # fmt: skip
    shown, at = learned(seen)
    found = shown.correction(at, REPLICA, shape)
    assert found is not None
    batch = float(np.mean([one.batch for each in seen for one in each]))
    step = float(decode_step(REPLICA, batch, 1100.0).seconds[0])
    own = batch / 200.0 * float(prefill(REPLICA, 1000.0, 0.0).seconds[0])
    corrected = at_batch(found, batch) * step + found.prefill * own
    assert corrected == pytest.approx(decode * step + prompt * own, rel=tolerance)
    assert found.sigma <= 0.1


# --- time ------------------------------------------------------------------------------------------------------------


def test_engines_that_get_slower_are_followed_within_two_half_lives() -> None:
    shown, at = learned([ratios(an_interval())] * 1920)
    shown, at = learned([ratios(an_interval(decode=1.4, prompt=1.4))] * 960, shown=shown, start=at)
    assert at_batch(told(shown, at), 20.0) == pytest.approx(1.4, rel=0.03)
    shown, at = learned([ratios(an_interval())] * 960, shown=shown, start=at)
    assert at_batch(told(shown, at), 20.0) == pytest.approx(1.0, rel=0.03)


def test_without_data_sigma_grows_and_then_the_roofline_is_back() -> None:
    shown, at = learned([[Ratio(20.0, math.log(1.4))]] * 480)
    sigmas = []
    for hour in range(40):
        found = shown.correction(at + hour * HOUR, REPLICA, SHAPE)
        if found is None:
            break
        sigmas.append(found.sigma)
    assert 6 <= len(sigmas) <= 24
    assert sigmas == sorted(sigmas)
    assert sigmas[-1] > 3.0 * sigmas[0]
    assert shown.correction(at + 1000 * HOUR, REPLICA, SHAPE) is None


def test_a_clock_that_goes_back_neither_raises_nor_counts_twice() -> None:
    shown, at = learned([[Ratio(20.0, math.log(1.4))]] * 480)
    before = told(shown, at)
    shown, end = learned([[Ratio(20.0, math.log(1.4))]] * 100, shown=shown, start=at - 5 * HOUR)
    for moment in (at, end):
        found = told(shown, moment)
        assert is_usable(found)
        assert at_batch(found, 20.0) == pytest.approx(at_batch(before, 20.0), rel=0.01)


def test_memory_is_bounded_however_many_engines_and_rounds() -> None:
    shown = LiveCalibration()
    crowd = [Ratio(2.0 * 1.7**i, 0.2, 0.2) for i in range(12)] * 8
    for minute in range(60 * 30):
        shown.add(60.0 * minute, crowd if minute % 4 else [])
    assert sum(len(one.slots) for one in shown._bins) <= 6 * 64
    assert all(one.held <= 2048 for one in shown._bins)


@given(
    st.lists(st.tuples(st.floats(0.1, 5000), st.floats(-1.79, 1.79), st.one_of(st.none(), st.floats(-1.79, 1.79))),
             min_size=1, max_size=12),
    st.floats(-1e5, 1e5),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_whatever_is_learned_can_be_used_for_an_estimate(
    seen: list[tuple[float, float, float | None]], jump: float
) -> None:
    rounds = [[Ratio(b, d, p) for b, d, p in seen]] * 80
    shown, at = learned(rounds)
    shown, at = learned(rounds, shown=shown, start=at + jump)
    found = shown.correction(at, REPLICA, SHAPE)
    if found is None:
        return
    assert is_usable(found)
    assert all(BOUNDS[0] - 0.01 <= f <= BOUNDS[1] + 0.01 for _, f in found.decode)
    assert SIGMA_FLOOR <= found.sigma <= ROOFLINE_SIGMA
    result = estimate(REPLICA, SHAPE, correction=found)
    assert isinstance(result, Estimate)
    assert result.provenance == "Live"
    assert best_evidence([Correction("Profile", 0.01), found]) is found


# --- what is told ----------------------------------------------------------------------------------------------------


def test_small_movements_are_not_told() -> None:
    base = Correction("Live", 0.05, ((4.0, 1.3), (30.0, 1.4)), 1.3, unseen=0.05)
    for same in (
        replace(base, decode=((4.0, 1.34), (30.0, 1.35))),
        replace(base, prefill=1.25),
        replace(base, sigma=0.07),
        replace(base, decode=((5.0, 1.31), (40.0, 1.4))),
    ):
        assert follow(base, same) is base
    for other in (
        replace(base, decode=((4.0, 1.3), (30.0, 1.5))),
        replace(base, prefill=1.2),
        replace(base, sigma=0.08),
        replace(base, decode=((4.0, 1.3), (90.0, 1.4))),
    ):
        assert follow(base, other) is other
    assert follow(None, base) is base
    assert follow(base, None) is None


def test_a_steady_noisy_engine_is_told_only_a_few_times() -> None:
    draw, shown, current, changes = random.Random(5), LiveCalibration(), None, 0  # noqa: S311
    for i in range(4 * 960):
        if shown.add(15.0 * i, [Ratio(20.0 * math.exp(draw.gauss(0, 0.2)), 0.3 + draw.gauss(0, 0.1), None)]):
            found = follow(current, shown.correction(15.0 * i, REPLICA, SHAPE))
            changes += found is not current
            current = found
    assert current is not None
    assert 1 <= changes <= 4


@pytest.mark.parametrize("noise", [0.2, 0.5])
def test_once_it_has_settled_a_correction_of_a_steady_engine_is_told_no_more(noise: float) -> None:
    draw, shown, current, changed = random.Random(1), LiveCalibration(), None, []  # noqa: S311
    for i in range(24 * 240):
        seen = Ratio(20.0 * math.exp(draw.gauss(0, 0.3)), 0.2 + draw.gauss(0, noise), None)
        if shown.add(15.0 * i, [seen]):
            found = follow(current, shown.correction(15.0 * i, REPLICA, SHAPE))
            if found is not current:
                changed.append(15.0 * i / HOUR)
            current = found
    assert current is not None
    assert at_batch(current, 20.0) == pytest.approx(math.exp(0.2), rel=0.15)
    assert [hour for hour in changed if hour > 6.0] == []


def test_a_surer_correction_moves_by_less() -> None:
    sure, unsure = (Correction("Live", sigma, ((20.0, 1.2),), 1.2) for sigma in (0.04, 0.12))
    slower = {"decode": ((20.0, 1.3),), "prefill": 1.3}
    assert follow(sure, replace(sure, **slower)) is not sure
    assert follow(unsure, replace(unsure, **slower)) is unsure
    much_slower = replace(unsure, decode=((20.0, 1.4),))
    assert follow(unsure, much_slower) is much_slower
    assert follow(unsure, replace(unsure, sigma=0.09)) is unsure
    doubtful = replace(unsure, sigma=0.2)
    assert follow(unsure, doubtful) is doubtful
