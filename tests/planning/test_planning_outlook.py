"""Money over months against closed forms: revenue, cost, worth, break-even, responses to price, price wars."""

import math

import numpy as np
import pytest
from outlook_builders import HOURS, LOAD, RENT, SPEED, TOKENS, a_book, facts, raw_book

from tidefleet.economics.investment import NoReturn, Return, discount_factors
from tidefleet.planning.outlook.book import BadBook, parse_book
from tidefleet.planning.outlook.break_even import users_to_break_even
from tidefleet.planning.outlook.outlook import class_margins, outlook, pool_prices, responses
from tidefleet.planning.outlook.pricing import factors_of, pools_of
from tidefleet.planning.outlook.supposed import supposed
from tidefleet.planning.what_if import MONEY_KINDS, BadQuestion, parse_what_if

FACTS = facts()
RENT_A_MONTH = TOKENS / (SPEED * LOAD) * RENT
EARNED_A_MONTH = TOKENS / 1e6 * (0.8 * 0.5 + 0.2 * 2.0)


def look(months=36, book=None, **changes):
    return outlook(book or a_book(months, **changes), FACTS, months)


def what_if(book, *texts):
    return supposed(book, [parse_what_if(text, MONEY_KINDS) for text in texts], FACTS.kinds)


def test_months_hold_what_the_book_says():
    found = look(12)
    assert found.mean(found.tokens) == pytest.approx([0.0, *[TOKENS] * 12])
    assert found.mean(found.cost) == pytest.approx([0.0, *[RENT_A_MONTH] * 12])
    assert found.mean(found.revenue) == pytest.approx([0.0, *[EARNED_A_MONTH] * 12])
    assert found.mean(found.cash_flow) == pytest.approx([0.0, *[EARNED_A_MONTH - RENT_A_MONTH] * 12])


def test_worth_of_a_steady_business_is_an_annuity():
    found = look(24, fixedUsdPerMonth=500)
    monthly = 1.1 ** (1 / 12) - 1.0
    annuity = (1.0 - (1.0 + monthly) ** -24) / monthly
    assert found.npv_usd == pytest.approx((EARNED_A_MONTH - RENT_A_MONTH - 500) * annuity)
    assert isinstance(found.irr, NoReturn)
    assert "none is laid out" in found.irr.why


def test_worth_is_the_sum_of_the_discounted_months():
    found = look(
        scenarios=[
            {"name": "low", "probability": 0.4, "growthPerMonth": -0.02},
            {"name": "high", "probability": 0.6, "growthPerMonth": 0.05, "mostFactor": 3},
        ],
        accelerators__0__buy={"usdPerChip": 9000, "leadMonths": 2},
    )
    assert found.mean(found.cash_flow) @ discount_factors(0.1, 36) == pytest.approx(found.npv_usd)
    assert found.cumulative_npv[-1] == pytest.approx(found.npv_usd)


@pytest.mark.parametrize(
    ("revenue", "usd"),
    [
        ({"usage": {"usdPerMillionInputTokens": 0.5, "usdPerMillionOutputTokens": 2.0}}, EARNED_A_MONTH),
        (
            {
                "usage": {
                    "usdPerMillionInputTokens": 0.5,
                    "usdPerMillionOutputTokens": 2,
                    "usdPerMillionCachedInputTokens": 0.1,
                    "batchDiscount": 0.5,
                }
            },
            TOKENS / 1e6 * (0.6 * 0.5 + 0.2 * 0.1 + 0.2 * 2.0) * 0.5,
        ),
        ({"seat": {"usdPerMonth": "20"}}, 20_000.0),
        ({"internal": {"usdPerMillionTokens": 0.8}}, TOKENS / 1e6 * 0.8),
        ({"free": {}}, 0.0),
    ],
    ids=["usage", "batch", "seat", "internal", "free"],
)
def test_each_way_of_paying_earns_what_it_says(revenue, usd):
    found = look(3, classes__0__revenue=revenue, pools__0__growthPerMonth=0.5, knownFromMonth=1)
    assert found.mean(found.revenue) == pytest.approx([0.0, usd, usd * 1.5, usd * 2.25])


def test_unknown_revenue_is_told_and_counts_as_nothing():
    found = look(6, classes__0__revenue=None)
    assert found.notes == ("people: nothing says what it earns, so it counts as nothing",)
    assert pool_prices(found)[0].margin is None


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"accelerators__0__owned": [{"pool": "chat", "chips": 1, "worthUsdPerChip": 20_000}]},
        {"pools__0__growthPerMonth": 0.1},
    ],
    ids=["rented", "owned", "growing"],
)
def test_break_even_users_make_the_book_worth_nothing(terms):
    users, why = users_to_break_even(look(24, fixedUsdPerMonth=5000, **terms))
    assert why == ""
    assert users > 0
    assert look(24, fixedUsdPerMonth=5000, classes__0__users=users, **terms).npv_usd >= -1e-3
    assert look(24, fixedUsdPerMonth=5000, classes__0__users=users - 1, **terms).npv_usd < 0


def test_break_even_of_a_steady_business_is_fixed_cost_over_what_a_user_leaves():
    users, _ = users_to_break_even(look(24, fixedUsdPerMonth=5000))
    assert users == math.ceil(5000 / ((EARNED_A_MONTH - RENT_A_MONTH) / 1000))


@pytest.mark.parametrize("owned", [[], [{"pool": "chat", "chips": 1, "worthUsdPerChip": 100}]], ids=["rented", "owned"])
def test_users_who_lose_money_never_break_even(owned):
    found = look(12, fixedUsdPerMonth=1000, classes__0__revenue={"free": {}}, accelerators__0__owned=owned)
    users, why = users_to_break_even(found)
    assert users is None
    assert "no number of them pays" in why or "more users lose more" in why


def test_a_book_without_users_has_no_break_even():
    found = look(12, classes__0__users=None, classes__0__tokensPerUserMonth=None, classes__0__tokensPerMonth=1e9)
    assert users_to_break_even(found) == (None, "no class of the book tells its users")


def test_purchase_is_cash_today_and_depreciation_later():
    found = look(12, accelerators__0__buy={"usdPerChip": 3000, "lossPerYear": 0.5, "priceDeclinePerYear": 0.0})
    chips = TOKENS / (SPEED * LOAD * HOURS)
    sold = 3000 * 0.5 * 0.9
    cash = found.mean(found.cash_flow)
    assert cash[0] == pytest.approx(-3000 * chips)
    assert cash[12] == pytest.approx(EARNED_A_MONTH + sold * chips)
    assert found.mean(found.cost)[1:] == pytest.approx([(3000 - sold) * chips / 12] * 12)
    assert isinstance(found.irr, Return)
    assert found.saved_by_orders[0] == pytest.approx(-3000 * chips)


def test_costs_and_cash_sum_to_the_same_over_the_horizon():
    found = look(accelerators__0__buy={"usdPerChip": 9000, "leadMonths": 2}, pools__0__growthPerMonth=0.03)
    assert (found.revenue - found.cost).sum() == pytest.approx(found.cash_flow.sum())


def test_electricity_of_owned_chips_is_power_times_hours_times_tariff():
    terms = {"usdPerChip": 3000, "runningUsdPerChipMonth": 10, "watts": 1000}
    book = a_book(accelerators__0__buy=terms, electricity={"usdPerKilowattHour": 0.1, "pue": 1.2})
    running = [
        pools_of(one, FACTS, 36)[0].market.types[0].purchase.running_usd_per_chip_month
        for one in (book, what_if(book, "electricity:*2"))
    ]
    assert running == pytest.approx([10 + 1.2 * 0.1 * HOURS, 10 + 2 * 1.2 * 0.1 * HOURS])


def test_classes_of_a_pool_share_its_chips_by_the_time_they_take():
    book = a_book(
        classes__0__revenue={"free": {}},
        pools__0__model="llama-3.3-70b",
        accelerators=[{"name": "h200-sxm", "rent": {"usdPerChipHour": 3}, "priceDeclinePerYear": 0}],
    )
    long = book.classes[0].model_copy(update={"name": "long", "input_tokens": 20_000.0, "output_tokens": 100.0})
    alone = [
        pools_of(book.model_copy(update={"classes": (one,)}), FACTS, 36)[0].market.types[0].tokens_per_chip_month
        for one in (book.classes[0], long)
    ]
    both = book.model_copy(update={"classes": (book.classes[0], long)})
    pool = pools_of(both, FACTS, 36)[0]
    assert pool.market.types[0].tokens_per_chip_month == pytest.approx(2 / (1 / alone[0] + 1 / alone[1]))
    assert pool.times["long"] == pytest.approx(alone[0] / (alone[0] + alone[1]))
    found = outlook(both, FACTS, 36)
    shares = class_margins(found)
    assert sum(one.cost_usd for one in shares) == pytest.approx(found.pools[0].cost_usd)


@pytest.mark.parametrize("elasticity", [0.0, 0.5, 1.0, 2.0])
def test_spend_falls_below_an_elasticity_of_one_and_rises_above(elasticity):
    found = look(accelerators__0__buy={"usdPerChip": 9000, "leadMonths": 2})
    (one,) = responses(found, [elasticity])
    assert one.price_ratio < 1
    assert one.tokens_ratio == pytest.approx(one.price_ratio**-elasticity)
    assert one.spend_ratio == pytest.approx(one.price_ratio ** (1 - elasticity))
    assert (one.spend_ratio < 1 - 1e-9) == (elasticity < 1)
    assert (one.spend_ratio > 1 + 1e-9) == (elasticity > 1)


def test_response_of_a_pool_that_owns_chips_is_planned_anew():
    owned = [{"pool": "chat", "chips": 1, "worthUsdPerChip": 2000}]
    found = look(accelerators__0__buy={"usdPerChip": 9000, "leadMonths": 2}, accelerators__0__owned=owned)
    (one,) = responses(found, [2.0])
    grown = found.book.classes[0].model_copy(update={"users": 1000 * one.tokens_ratio})
    again = outlook(found.book.model_copy(update={"classes": (grown,)}), FACTS, 36)
    assert one.spend_usd_after == pytest.approx(again.pools[0].cost_usd, rel=1e-6)


def test_owned_chips_cost_what_they_would_fetch():
    owned = [{"pool": "chat", "chips": 5, "worthUsdPerChip": 2000}]
    terms = {"usdPerChip": 2000, "runningUsdPerChipMonth": 1e6}
    found = look(accelerators__0__owned=owned, accelerators__0__buy=terms)
    assert found.pools[0].brought_in_usd == pytest.approx(5 * 2000 * 0.9)
    assert pool_prices(found)[0].cost == pytest.approx(pool_prices(look())[0].cost)
    assert found.mean(found.cash_flow)[0] == pytest.approx(5 * 2000 * 0.9)


@pytest.mark.parametrize(("over", "bought"), [(0.99, True), (1.01, False)])
def test_pool_is_cheaper_bought_below_its_hosted_price(over, bought):
    price = RENT / (SPEED * LOAD) * 1e6 * over
    external = [
        {
            "provider": "api",
            "usdPerMillionInputTokens": price,
            "usdPerMillionOutputTokens": price,
            "priceDeclinePerYear": 0,
        }
    ]
    (one,) = pool_prices(look(pools__0__external=external))
    assert one.hosted == pytest.approx(RENT / (SPEED * LOAD) * 1e6)
    assert one.external == pytest.approx(price)
    assert one.cheaper_bought is bought
    assert one.cost == pytest.approx(min(one.hosted, one.external))


def test_price_war_turns_a_pool_loss_making_and_cheaper_bought():
    external = [{"provider": "api", "usdPerMillionInputTokens": 1, "usdPerMillionOutputTokens": 3}]
    book = a_book(pools__0__external=external)
    (before,) = pool_prices(look(book=book))
    (after,) = pool_prices(look(book=what_if(book, "api-price:*0.2", "sell-price:people*0.4")))
    assert (before.loss_making_hosted, before.cheaper_bought) == (False, False)
    assert (after.loss_making_hosted, after.cheaper_bought) == (True, True)
    assert after.earned == pytest.approx(0.4 * before.earned)
    assert after.external == pytest.approx(0.2 * before.external)


def test_hit_rate_changes_what_the_cost_model_says_of_a_chip():
    book = a_book(
        pools__0__model="llama-3.3-70b",
        accelerators=[{"name": "h200-sxm", "rent": {"usdPerChipHour": 3}}],
    )
    (few,), (many,) = (pool_prices(look(book=what_if(book, f"hit:people={share}"))) for share in (0.0, 0.9))
    assert many.cost < few.cost


def test_demand_and_prices_can_be_supposed():
    book = a_book(accelerators__0__reserve=[{"minimumTermDays": 365, "usdPerChipHour": 1.5}])
    asked = what_if(book, "demand:chat*2", "price:chip*0.5")
    assert asked.classes[0].users == 2000
    assert asked.accelerators[0].rent.usd_per_chip_hour == RENT / 2
    assert asked.accelerators[0].reserve[0].usd_per_chip_hour == 0.75
    assert what_if(book, "price:chip=9").accelerators[0].rent.usd_per_chip_hour == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hit:people=0.3", "the speed of chip for chat is stated"),
        ("sell-price:nobody*0.2", "about 'nobody'; expected a class of the book, e.g. sell-price:people"),
        ("api-price:*0.2", "the book names no external API"),
        ("price:h900*2", "expected a type of the book, e.g. price:chip"),
        ("electricity:berlin*2", "expected no name"),
        ("demand:chat=3", "expected a factor, e.g. demand:chat"),
        ("warp:9*2", "expected one of: an accelerator type"),
    ],
)
def test_what_ifs_that_make_no_sense_are_refused(text, words):
    with pytest.raises(BadQuestion, match=words):
        what_if(a_book(), text)


def test_sampled_scenarios_repeat_with_their_seed_and_keep_the_growth_in_the_mean():
    book = a_book(sampled={"scenarios": 500, "volatilityPerYear": 0.3}, pools__0__growthPerMonth=0.02)
    first, again = (factors_of(book, book.pools[0], 24) for _ in range(2))
    assert (first == again).all()
    assert first[:, 0] == pytest.approx(np.ones(500))
    assert first.mean(axis=0)[-1] == pytest.approx(1.02**23, rel=0.06)
    assert np.log(first[:, -1]).std() == pytest.approx(0.3 * math.sqrt(23 / 12), rel=0.1)


def test_demand_beyond_all_bounds_is_an_error():
    with pytest.raises(ValueError, match=r"pool chat: demand grows beyond 1e\+18 tokens a month; expected less"):
        look(60, pools__0__growthPerMonth=10)


def test_next_generation_is_rented_by_its_price_of_tokens():
    coming = {"month": 2, "usdPerMillionTokens": 0.01, "priceDeclinePerYear": 0}
    found = look(4, pools__0__nextGeneration=coming)
    cheap = TOKENS / 1e6 * 0.01
    assert found.mean(found.cost) == pytest.approx([0, RENT_A_MONTH, RENT_A_MONTH, cheap, cheap])


def test_a_type_that_cannot_serve_is_told():
    found = look(
        pools__0__model="llama-3.3-70b",
        accelerators=[
            {"name": "t4", "rent": {"usdPerChipHour": 0.5}},
            {"name": "h200-sxm", "rent": {"usdPerChipHour": 3}},
        ],
    )
    assert any(note.startswith("chat: t4 cannot serve:") for note in found.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"accelerators__0__rent": {"usdPerChipHour": -2}},
            "accelerators[0].rent.usdPerChipHour is -2; expected an amount",
        ),
        ({"fixedUsdPerMonth": math.nan}, "fixedUsdPerMonth is nan; expected an amount of USD, a number from 0"),
        (
            {"classes__0__revenue": {"free": {}, "seat": {"usdPerMonth": 3}}},
            "classes[0].revenue is an object with free, seat; expected exactly one of usage, seat, free and internal",
        ),
        ({"classes__0__users": None}, "classes[0].users is"),
        (
            {"accelerators__0__name": "h900", "accelerators__0__speeds": []},
            'accelerators[0].name is "h900"; expected a type',
        ),
        (
            {"accelerators__0__buy": {"usdPerChip": 1, "leadMonths": 36}},
            "accelerators[0].buy.leadMonths is 36; expected less than the horizon of 36 months, e.g. 3",
        ),
        ({"pools__0__model": "llama-9"}, 'pools[0].model is "llama-9"; expected a model of the catalogue'),
        ({"classes__0__pool": "code"}, 'classes[0].pool is "code"; expected a pool of the book, e.g. chat'),
        ({"scenarios": [{"name": "a", "probability": 0.4}]}, "probabilities that sum to 0.4; expected a sum of 1"),
        ({"pools": []}, "pools is a list of 0 items; expected a list of at least 1 items"),
        ({"colour": "red"}, 'colour is "red"; expected a field that exists'),
        ({"accelerators__0__speeds": []}, "accelerators[0].name"),
        ({"classes__0__tokensPerMonth": 5}, "expected exactly one of tokensPerUserMonth and tokensPerMonth"),
        (
            {"pools__0__external": [{"provider": "x", "usdPerMillionInputTokens": 1}]},
            "expected prices of both input and output, or of neither",
        ),
        ({"discountPerYear": 11}, "discountPerYear is 11; expected a share a year of at most 10"),
    ],
)
def test_bad_books_are_refused_with_field_value_and_example(changes, words):
    with pytest.raises(BadBook) as error:
        parse_book(raw_book(**changes), accelerators=FACTS.kinds, models=FACTS.models, months=36)
    assert words in str(error.value)
    assert str(error.value).startswith("Book test: ")
    assert ", e.g. " in str(error.value)
