"""Investment arithmetic against closed forms: annuities, perpetuities, bonds, polynomials with known roots."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.economics.investment import (
    NoReturn,
    Residual,
    Return,
    internal_rate_of_return,
    internal_rates_of_return,
    net_present_value,
    payback_months,
    sign_changes,
)


def flows_with_monthly_roots(*rates, scale=1.0):
    """Flows whose value is 0 at exactly these monthly rates: the product of (1 - x (1 + i))."""
    flows = np.array([scale])
    for rate in rates:
        flows = np.convolve(flows, [1.0, -(1.0 + rate)])
    return flows


def yearly(monthly):
    return (1.0 + monthly) ** 12 - 1.0


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 1.0])
@pytest.mark.parametrize("months", [1, 12, 36, 600])
def test_value_of_equal_payments_is_that_of_an_annuity(rate, months):
    flows = np.full(months + 1, 250.0)
    flows[0] = 0.0
    monthly = (1.0 + rate) ** (1 / 12) - 1.0
    factor = (1.0 - (1.0 + monthly) ** -months) / monthly if monthly else months
    assert net_present_value(flows, rate) == pytest.approx(250.0 * factor, rel=1e-9)


def test_growing_payments_have_the_value_of_a_growing_annuity():
    months, growth, monthly = 48, 0.02, 1.08 ** (1 / 12) - 1
    flows = np.concatenate(([0.0], 70.0 * (1 + growth) ** np.arange(months)))
    closed = 70.0 * (1 - ((1 + growth) / (1 + monthly)) ** months) / (monthly - growth)
    assert net_present_value(flows, 0.08) == pytest.approx(closed, rel=1e-12)


def test_scenarios_are_valued_side_by_side():
    flows = np.array([[-100.0, 60.0, 60.0], [-100.0, 10.0, 10.0]])
    each = [float(net_present_value(one, 0.1)) for one in flows]
    assert net_present_value(flows, 0.1) == pytest.approx(each)


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.05, 0.2), st.integers(2, 120), st.floats(1.0, 1e9))
def test_bond_at_par_returns_its_coupon(coupon, months, face):
    flows = np.full(months + 1, face * coupon)
    flows[0] = -face
    flows[-1] += face
    found = internal_rate_of_return(flows)
    if coupon >= 0:
        assert isinstance(found, Return)
        assert found.rate_per_year == pytest.approx(yearly(coupon), abs=1e-9)
    elif isinstance(found, Return):
        assert abs(float(net_present_value_at(flows, found.rate_per_year))) < 1e-7 * face


def net_present_value_at(flows, rate):
    return np.sum(flows * (1.0 + rate) ** (-np.arange(len(flows)) / 12.0))


def test_discount_bond_returns_its_yield():
    price = 1000.0 / 1.07**5
    found = internal_rate_of_return([-price, *[0.0] * 59, 1000.0])
    assert isinstance(found, Return)
    assert found.rate_per_year == pytest.approx(0.07, abs=1e-12)
    assert found.note == ""


def test_money_that_only_half_returns_has_a_negative_rate():
    found = internal_rate_of_return([-100.0, *[0.0] * 11, 50.0])
    assert isinstance(found, Return)
    assert found.rate_per_year == pytest.approx(-0.5, abs=1e-12)


@pytest.mark.parametrize(
    ("flows", "why"),
    [
        ([0.0, 0.0], "no money is paid or earned"),
        ([5.0, 5.0], "only earned"),
        ([-5.0, -5.0], "only paid"),
        ([-1.0, 2.0, -1.5], "changes sign 2 times and no rate"),
    ],
)
def test_no_rate_of_return_has_a_reason(flows, why):
    found = internal_rate_of_return(flows)
    assert isinstance(found, NoReturn)
    assert why in found.why
    assert found.rates_per_year == ()


def test_several_rates_are_all_named():
    found = internal_rate_of_return(flows_with_monthly_roots(0.01, 0.02, 0.03, scale=-1e6))
    assert isinstance(found, NoReturn)
    assert found.rates_per_year == pytest.approx([yearly(0.01), yearly(0.02), yearly(0.03)], rel=1e-6)
    assert "changes sign 3 times" in found.why


def test_two_rates_closer_than_the_grid_are_found():
    found = internal_rate_of_return(flows_with_monthly_roots(0.0100, 0.0101, scale=-1e6))
    assert isinstance(found, NoReturn)
    assert found.rates_per_year == pytest.approx([yearly(0.0100), yearly(0.0101)], abs=1e-6)


def test_a_value_that_only_touches_zero_has_one_rate():
    found = internal_rate_of_return(flows_with_monthly_roots(0.02, 0.02, scale=-1e3))
    assert isinstance(found, Return)
    assert found.rate_per_year == pytest.approx(yearly(0.02), abs=1e-5)
    assert "changes sign 2 times" in found.note


def test_one_rate_among_many_sign_changes_is_taken_with_a_note():
    found = internal_rate_of_return([-100.0, 30.0, -1.0, 60.0, 40.0])
    assert isinstance(found, Return)
    assert "changes sign 3 times; this is the only rate" in found.note
    assert net_present_value_at(np.array([-100.0, 30.0, -1.0, 60.0, 40.0]), found.rate_per_year) == pytest.approx(
        0.0, abs=1e-9
    )


def test_money_earned_before_it_is_paid_is_told():
    found = internal_rate_of_return([100.0, *[0.0] * 11, -110.0])
    assert isinstance(found, Return)
    assert found.rate_per_year == pytest.approx(0.1)
    assert "earned first" in found.note


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 2)), min_size=2, max_size=40))
def test_every_rate_found_makes_the_flows_worth_nothing(flows):
    found = internal_rate_of_return(flows)
    rates = (found.rate_per_year,) if isinstance(found, Return) else found.rates_per_year
    assert len(rates) <= sign_changes(flows)
    for rate in rates:
        if -0.999999 < rate < 1e9:
            x = (1.0 + rate) ** (-1 / 12)
            terms = np.asarray(flows) * x ** np.arange(len(flows))
            assert abs(terms.sum()) <= 1e-5 * np.abs(terms).sum()


@settings(max_examples=50, deadline=None)
@given(st.floats(1.0, 1e6), st.lists(st.floats(0.0, 1e5), min_size=1, max_size=40))
def test_ordinary_investments_have_one_rate(invested, earned):
    found = internal_rate_of_return([-invested, *earned])
    assert isinstance(found, Return) == (sum(earned) > 0)


def test_rates_of_scenarios_are_those_of_each():
    flows = [[-100.0, *[0.0] * 11, 110.0], [-100.0, *[0.0] * 11, 0.0]]
    first, second = internal_rates_of_return(flows)
    assert isinstance(first, Return)
    assert first.rate_per_year == pytest.approx(0.1)
    assert isinstance(second, NoReturn)


def test_rate_of_several_scenarios_at_once_is_refused():
    with pytest.raises(ValueError, match="2 axes; expected the months of one scenario"):
        internal_rate_of_return([[-1.0, 2.0]])


def test_payback_is_within_the_month_in_proportion():
    assert payback_months([-100.0, 40.0, 40.0, 40.0]) == pytest.approx(2.5)


def test_payback_counts_the_last_time_the_money_is_back():
    assert payback_months([-100.0, 150.0, -100.0, 100.0]) == pytest.approx(2.5)


def test_payback_of_equal_payments_is_the_closed_form():
    rate, monthly = 0.1, 1.1 ** (1 / 12) - 1
    exact = -math.log1p(-1000.0 * monthly / 50.0) / math.log1p(monthly)
    flows = np.full(61, 50.0)
    flows[0] = -1000.0
    assert math.ceil(float(payback_months(flows, rate))) == math.ceil(exact)
    assert payback_months(flows) == pytest.approx(20.0)


def test_payback_without_outlay_is_nothing_and_without_return_never():
    found = payback_months([[0.0, 1.0, 1.0], [-5.0, 1.0, 1.0], [-1.0, 1.0, 0.0]])
    assert found[0] == 0.0
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(1.0)


def test_residual_falls_by_its_share_each_year_to_the_floor():
    residual = Residual(0.4, 0.1)
    assert residual.share([0, 12, 24, 120]) == pytest.approx([1.0, 0.6, 0.36, 0.1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: net_present_value([1.0, math.nan], 0.1), "a cash flow is nan; expected finite USD"),
        (lambda: net_present_value([1.0], -0.1), "rate_per_year is -0.1; expected a number from 0 to 10"),
        (lambda: net_present_value([0.0] * 10_001, 0.1), "10001 entries; expected 1 to 601"),
        (lambda: internal_rate_of_return([]), "0 entries"),
        (lambda: Residual(1.5).share(1), "loss_per_year is 1.5; expected a number from 0 to 1"),
        (lambda: Residual(0.5).share(-1), "age_months is negative"),
    ],
)
def test_what_cannot_be_used_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
