"""Counts over independent users, against an independent Monte Carlo that draws every user and every use."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tidefleet.economics.counts import Counts, Moments, Source, counted, of_count, of_law
from tidefleet.economics.lognormal import LengthLaw, law

ONE = Moments(1.0)
DRAWS = 20_000


def lognormals(rng: np.random.Generator, one: LengthLaw, size: int | tuple[int, ...]) -> np.ndarray:
    return np.minimum(one.cap, np.exp(one.mu + one.sigma * rng.standard_normal(size)))


Case = tuple[int, LengthLaw, LengthLaw, float, list[tuple[LengthLaw, float, int]]]
"""Users, adoption, day, the time's part of a day; and features: uses a day, share that uses it, requests of a use."""


def drawn(case: Case, seed: int = 1) -> np.ndarray:
    """Requests of a time, again and again: each user decides, has a rate of their own, and makes uses at random."""
    users, adoption, day, part, features = case
    rng = np.random.default_rng(seed)
    busy = lognormals(rng, day, (DRAWS, 1))
    takes_part = rng.random((DRAWS, users)) < lognormals(rng, adoption, (DRAWS, 1))
    total = np.zeros(DRAWS)
    for uses, share, requests in features:
        rates = lognormals(rng, uses, (DRAWS, users)) * (rng.random((DRAWS, users)) < share)
        total += requests * rng.poisson(rates * busy * part * takes_part).sum(axis=1)
    return total


def found_of(case: Case) -> Counts:
    users, adoption, day, part, features = case
    sources = [Source(of_law(uses, share=share), Moments(float(each))) for uses, share, each in features]
    return counted(users, of_law(adoption), of_law(day), np.array([part]), sources)


CASES: dict[str, Case] = {
    "few users": (5, law(0.8), law(1.0), 0.1, [(law(20.0, 50.0), 1.0, 1)]),
    "many users": (300, law(0.6), law(1.0), 0.1, [(law(20.0, 50.0), 1.0, 1)]),
    "uncertain adoption": (300, law(0.4, 0.8, 1.0), law(1.0), 0.1, [(law(20.0, 50.0), 1.0, 1)]),
    "busy days": (200, law(0.5, 0.7, 1.0), law(1.0, 1.6), 0.08, [(law(8.0, 20.0), 0.5, 6), (law(30.0), 0.9, 1)]),
    "heavy users": (100, law(1.0), law(1.0), 0.1, [(law(20.0, 70.0), 1.0, 2)]),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_moments_and_quantiles_are_those_of_users_who_are_drawn_one_by_one(case: str) -> None:
    seen, found = drawn(CASES[case]), found_of(CASES[case])
    assert found.mean[0] == pytest.approx(seen.mean(), rel=0.03)
    assert found.variance[0] == pytest.approx(seen.var(), rel=0.1)
    for share in (0.5, 0.95):
        assert found.quantile(share)[0] == pytest.approx(np.quantile(seen, share), rel=0.05, abs=1.0), share


def test_the_third_moment_is_the_drawn_one_too() -> None:
    seen, found = drawn(CASES["uncertain adoption"]), found_of(CASES["uncertain adoption"])
    assert found.third[0] == pytest.approx(((seen - seen.mean()) ** 3).mean(), rel=0.15)


def test_uses_at_random_of_users_who_are_alike_are_poisson() -> None:
    """Mean, variance and third moment of a Poisson number are the same."""
    found = counted(1000, ONE, ONE, np.array([0.02]), [Source(of_law(law(3.0)), ONE)])
    assert (found.mean[0], found.variance[0], found.third[0]) == pytest.approx((60.0, 60.0, 60.0))


def test_chance_averages_out_over_many_users_and_an_uncertain_adoption_does_not() -> None:
    uses = Source(of_law(law(10.0, 30.0)), ONE)
    spread = {}
    for users in (1e3, 1e9):
        for name, adoption in (("known", law(0.4)), ("uncertain", law(0.4, 0.6, 1.0))):
            found = counted(users, of_law(adoption), ONE, np.array([0.1]), [uses])
            spread[name, users] = found.quantile(0.95)[0] / found.mean[0]
    assert spread["known", 1e3] > 1.05
    assert spread["known", 1e9] == pytest.approx(1.0, abs=1e-3)
    assert spread["uncertain", 1e9] == pytest.approx(0.6 / 0.4, rel=0.01), "the p95 of the adoption that was stated"


def test_a_lognormal_factor_keeps_its_quantiles() -> None:
    one = law(1.0, 3.0)
    found = of_law(one)
    count = Counts(*(np.array([value]) for value in (found.mean, found.variance, found.third)))
    assert count.quantile(0.95)[0] == pytest.approx(3.0, rel=1e-9)
    assert count.quantile(0.5)[0] == pytest.approx(one.quantile(0.5), rel=1e-9)


def test_a_count_without_skewness_is_normal_and_a_mirrored_one_is_mirrored() -> None:
    plain = Counts(np.array([100.0]), np.array([25.0]), np.array([0.0]))
    assert plain.quantile(0.95)[0] == pytest.approx(100.0 + 5.0 * 1.6448536)
    left, right = (Counts(np.array([100.0]), np.array([25.0]), np.array([third])) for third in (-60.0, 60.0))
    assert left.quantile(0.95)[0] == pytest.approx(200.0 - right.quantile(0.05)[0])
    assert Counts(np.array([7.0]), np.array([0.0]), np.array([0.0])).quantile(0.95)[0] == 7.0
    assert Counts(np.array([0.1]), np.array([0.1]), np.array([0.1])).quantile(0.05)[0] == 0.0


def test_a_sum_of_so_many_has_the_moments_of_a_compound_number() -> None:
    """Sums of a random number of dice."""
    rng = np.random.default_rng(3)
    dice = Moments(3.5, 35.0 / 12.0, 0.0)
    many = Moments(4.0, 4.0, 4.0)
    counts = rng.poisson(4.0, 400_000)
    seen = np.array([rng.integers(1, 7, count).sum() for count in counts[:60_000]])
    found = many.each(dice)
    assert (found.mean, found.variance) == (pytest.approx(seen.mean(), rel=0.01), pytest.approx(seen.var(), rel=0.03))
    assert found.third == pytest.approx(4.0 * (3.5**3 + 3.0 * 3.5 * 35.0 / 12.0)), "Poisson: 4 E[die^3]"


def test_a_whole_number_of_calls_is_as_even_as_its_mean_allows() -> None:
    assert of_count(law(2.0)) == Moments(2.0, 0.0, 0.0)
    half = of_count(law(2.5))
    assert (half.mean, half.variance, half.third) == (2.5, 0.25, 0.0)
    assert math.isclose(of_count(law(6.0, 15.0)).variance, law(6.0, 15.0).variance)
