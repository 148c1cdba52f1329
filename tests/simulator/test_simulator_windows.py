"""Windows stand for the whole run: their weights, where they lie, and what their spread says."""

import numpy as np
import pytest

from tidefleet.simulator.windows import AROUND_FLIP_SECONDS, choose, estimate, estimate_beside

DAY = 86_400.0


def chosen(flips=(), *, count=12, seconds=300.0, total=DAY, seed=0, rate=lambda at: 1.0):
    def between(begin, end):
        at = np.linspace(begin, end, 50)
        return float(np.mean([rate(one) for one in at]) * (end - begin))

    rng = np.random.default_rng(seed)
    return choose(total, count=count, seconds=seconds, flips=flips, requests_between=between, rng=rng)


def test_windows_lie_within_the_run_and_their_weights_sum_to_one():
    windows = chosen([3600.0 * one for one in range(1, 23)])
    assert sum(one.weight for one in windows) == pytest.approx(1.0)
    assert all(one.begin >= 0.0 and one.end <= DAY and one.seconds == pytest.approx(300.0) for one in windows)


def test_time_around_flips_is_looked_at_in_every_block_that_has_a_flip():
    flips = [1800.0 + 7200.0 * one for one in range(12)]
    windows = chosen(flips, count=24)
    moving = [one for one in windows if one.moving]
    assert {one.block for one in moving} == set(range(12))
    for one in moving:
        middle = (one.begin + one.end) / 2.0
        assert min(abs(middle - flip) for flip in flips) <= AROUND_FLIP_SECONDS + 1.0
    share = sum(one.weight for one in moving)
    assert share == pytest.approx(12 * 2 * AROUND_FLIP_SECONDS / DAY, rel=1e-6)


def test_a_busy_hour_weighs_more():
    windows = chosen(rate=lambda at: 3.0 if at < DAY / 2 else 1.0, count=2)
    assert [round(one.weight, 2) for one in windows] == [0.75, 0.25]


def test_a_short_run_is_one_window():
    (only,) = chosen(total=200.0)
    assert (only.begin, only.end, only.weight) == (0.0, 200.0, 1.0)


def test_the_same_seed_chooses_the_same_windows_and_another_one_others():
    assert chosen(seed=3) == chosen(seed=3)
    assert chosen(seed=3) != chosen(seed=4)


def test_the_standard_error_is_that_of_repeated_draws():
    rng = np.random.default_rng(1)
    windows = chosen(count=40, total=7 * DAY)
    drawn = [estimate(windows, rng.normal(0.97, 0.02, len(windows)).tolist()) for _ in range(400)]
    spread = float(np.std([mean for mean, _ in drawn]))
    told = float(np.mean([error for _, error in drawn]))
    assert told == pytest.approx(spread, rel=0.15)
    assert np.mean([mean for mean, _ in drawn]) == pytest.approx(0.97, abs=0.001)


def test_windows_that_agree_have_no_error():
    windows = chosen(count=6)
    assert estimate(windows, [0.5] * len(windows)) == (pytest.approx(0.5), 0.0)


@pytest.mark.parametrize(("count", "seconds", "total"), [(0, 300.0, DAY), (3, 0.0, DAY), (3, 300.0, float("nan"))])
def test_nonsense_is_refused(count, seconds, total):
    with pytest.raises(ValueError, match="must be positive"):
        chosen(count=count, seconds=seconds, total=total)
    with pytest.raises(ValueError, match="at least one"):
        estimate((), ())


def test_what_is_known_of_the_whole_run_narrows_what_windows_say_of_it():
    rng = np.random.default_rng(2)
    windows = chosen(count=40, total=7 * DAY)
    plain, beside = [], []
    for _ in range(300):
        load = rng.normal(0.0, 0.05, len(windows))
        seen = 0.03 + 0.8 * load + rng.normal(0.0, 0.005, len(windows))
        plain.append(estimate(windows, seen.tolist()))
        beside.append(estimate_beside(windows, seen.tolist(), load.tolist()))
    spread = float(np.std([mean for mean, _ in beside]))
    assert np.mean([error for _, error in beside]) == pytest.approx(spread, rel=0.15)
    assert spread < 0.2 * np.std([mean for mean, _ in plain])
    assert np.mean([mean for mean, _ in beside]) == pytest.approx(0.03, abs=0.0005)


def test_few_windows_and_what_never_varies_change_nothing():
    windows = chosen(count=6)
    values = [0.1, 0.2, 0.3, 0.2, 0.1, 0.0]
    assert estimate_beside(windows, values, [5.0, 1.0, 2.0, 3.0, 1.0, 0.0]) == estimate(windows, values)
    windows = chosen(count=12)
    assert estimate_beside(windows, values * 2, [0.0] * 12) == estimate(windows, values * 2)
