"""The capacity plan against enumeration, an independent program in stocks of chips, closed forms, and properties."""

import itertools
from dataclasses import replace

import numpy as np
import pulp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.economics.investment import Residual, discount_factors
from tidefleet.planning.capacity import (
    ChipType,
    Demand,
    Holding,
    Market,
    NoCapacity,
    Purchase,
    Term,
    TokenOffer,
    booked_cost,
    decisions,
    discounted,
    in_service,
    net_cash,
    plan_capacity,
)

RATE = 0.12


def a_type(name="a", tokens=1.0, rent=10.0, **changes):
    kind = ChipType(
        name,
        tokens,
        rent,
        (Term(2, 8.0),),
        Purchase(20.0, 0, 1.0, Residual(0.5, 0.1), 0.1, 0.2),
        chips_per_order=0.0,
    )
    return replace(kind, **changes)


def a_market(*types, months=3, known_from=1, offers=(), discount=RATE):
    return Market(months, types or (a_type(),), tuple(offers), known_from, discount)


def a_demand(*paths, probability=None):
    tokens = np.array(paths, dtype=float)
    chance = np.full(len(tokens), 1 / len(tokens)) if probability is None else np.array(probability)
    return Demand(tokens, chance)


def used_price(kind, paid, age, point):
    own = kind.purchase
    worth = paid * max(own.residual.floor_share, (1 - own.residual.loss_per_year) ** (age / 12))
    worth = min(worth, own.usd_per_chip * (1 - own.price_decline_per_year) ** (point / 12))
    if kind.superseded_at is not None and point >= kind.superseded_at:
        worth *= 1 - kind.superseded_loss_share
    return worth * (1 - own.selling_cost_share)


def new_price(kind, point):
    return kind.purchase.usd_per_chip * (1 - kind.purchase.price_decline_per_year) ** (point / 12)


def rent_price(kind, today, point):
    return today * (1 - kind.price_decline_per_year) ** (point / 12)


def bought_usd(kind, order, end, rate=RATE):
    """One chip, walked through month by month."""
    worth = (1 + rate) ** (-1 / 12)
    start = order + kind.purchase.lead_months
    usd = new_price(kind, order) * worth**order
    for month in range(start + 1, end + 1):
        usd += kind.purchase.running_usd_per_chip_month * worth**month
    return usd - used_price(kind, new_price(kind, order), end - start, end) * worth**end


def by_enumeration(kind, demand, months):
    """Least expected cost where the scenario is known from point 1 on: whole chips of one type, no lead time."""
    worth = (1 + RATE) ** (-1 / 12)
    most = int(demand.tokens.max())
    term = kind.terms[0]

    def reserved(point):
        end = point + term.months
        usd = rent_price(kind, term.usd_per_chip_month, point)
        return end, sum(usd * worth**month for month in range(point + 1, end + 1))

    def rented(point):
        return rent_price(kind, kind.rent_usd_per_chip_month, point) * worth ** (point + 1)

    later = [
        (point, end, bought_usd(kind, point, end)) for point in range(1, months) for end in range(point + 1, months + 1)
    ]
    later += [(point, *reserved(point)) for point in range(1, months) if point + term.months <= months]
    stay = [(0, end, bought_usd(kind, 0, end)) for end in range(1, months + 1)]
    best = np.inf
    for bought, committed in itertools.product(range(most + 1), repeat=2):
        end, usd = reserved(0)
        total = committed * usd
        for path, chance in zip(demand.tokens, demand.probability, strict=True):
            least = np.inf
            for kept in itertools.product(range(bought + 1), repeat=len(stay)):
                if sum(kept) != bought:
                    continue
                for more in itertools.product(range(most + 1), repeat=len(later)):
                    arcs = [*zip(kept, stay, strict=True), *zip(more, later, strict=True)]
                    cost = sum(n * usd for n, (_, _, usd) in arcs)
                    for month in range(1, months + 1):
                        have = sum(n for n, (a, b, _) in arcs if a < month <= b) + committed * (month <= end)
                        cost += max(0.0, path[month - 1] - have) * rented(month - 1)
                    least = min(least, cost)
            total += chance * least
        best = min(best, total)
    return best


@pytest.mark.parametrize("rent", [9.0, 14.0, 30.0])
@pytest.mark.parametrize(
    "demand",
    [
        a_demand([1, 1, 1], [1, 2, 2]),
        a_demand([2, 0, 0], [2, 2, 1], probability=[0.8, 0.2]),
        a_demand([0, 1, 2], [1, 0, 0]),
    ],
    ids=["grows", "falls", "crosses"],
)
def test_plan_costs_what_enumeration_finds(rent, demand):
    kind = a_type(rent=rent)
    assert plan_capacity(a_market(kind), demand).expected_usd == pytest.approx(
        by_enumeration(kind, demand, 3), rel=1e-6
    )


def by_stocks(market, demand):
    """The same question asked in chips, stock by stock, and answered by another solver."""
    worth = discount_factors(market.discount_per_year, market.months)
    model = pulp.LpProblem("capacity", pulp.LpMinimize)
    count, months, known = len(demand.probability), market.months, market.known_from
    cost, serving = [], [[[] for _ in range(months + 1)] for _ in range(count)]
    names = itertools.count()

    def variable():
        return pulp.LpVariable(f"v{next(names)}", lowBound=0)

    def each(point, usd):
        """One variable for all scenarios before it is known, else one for each, and its cost."""
        if point < known:
            one = variable()
            cost.append(usd * one)
            return [one] * count
        many = [variable() for _ in range(count)]
        cost.extend(usd * p * one for p, one in zip(demand.probability, many, strict=True))
        return many

    for kind in market.types:
        own = kind.purchase
        orders = [(point, point + own.lead_months, None) for point in range(kind.from_month, months)] if own else []
        if kind.holding:
            orders.append((0, 0, kind.holding))
        for point, start, holding in orders:
            if start >= months:
                continue
            paid = holding.worth_usd_per_chip if holding else new_price(kind, point)
            bought = None if holding else each(point, paid * worth[point])
            sold = [[] for _ in range(count)]
            for end in range(start, months + 1):
                running = own.running_usd_per_chip_month * worth[start + 1 : end + 1].sum()
                usd = running - used_price(kind, paid, end - start, end) * worth[end]
                # What is ordered after it is known has its sale known with it.
                for s, one in enumerate(each(max(end, point), usd)):
                    sold[s].append(one)
                    for month in range(start + 1, end + 1):
                        serving[s][month].append(kind.tokens_per_chip_month * one)
            for s in range(count):
                model += pulp.lpSum(sold[s]) == (holding.chips if holding else bought[s])
        for term in kind.terms:
            for point in range(kind.from_month, months - term.months + 1):
                price = rent_price(kind, term.usd_per_chip_month, point)
                for s, one in enumerate(each(point, price * worth[point + 1 : point + term.months + 1].sum())):
                    for month in range(point + 1, point + term.months + 1):
                        serving[s][month].append(kind.tokens_per_chip_month * one)
        if kind.rent_usd_per_chip_month is not None:
            for point, s in itertools.product(range(kind.from_month, months), range(count)):
                one = variable()
                price = rent_price(kind, kind.rent_usd_per_chip_month, point)
                cost.append(demand.probability[s] * price * worth[point + 1] * one)
                serving[s][point + 1].append(kind.tokens_per_chip_month * one)
    for offer in market.offers:
        for point, s in itertools.product(range(offer.from_month, months), range(count)):
            one = variable()
            price = offer.usd_per_million_tokens / 1e6 * (1 - offer.price_decline_per_year) ** (point / 12)
            cost.append(demand.probability[s] * price * worth[point + 1] * one)
            serving[s][point + 1].append(one)
    for s, month in itertools.product(range(count), range(1, months + 1)):
        model += pulp.lpSum(serving[s][month]) >= demand.tokens[s, month - 1]
    model += pulp.lpSum(cost)
    assert model.solve(pulp.PULP_CBC_CMD(msg=False)) == pulp.LpStatusOptimal
    return pulp.value(model.objective)


def a_rich_market(seed, months=8, known_from=3):
    rng = np.random.default_rng(seed)
    types = []
    for index in range(3):
        tokens = float(rng.uniform(50, 200))
        usd = tokens * float(rng.uniform(0.08, 0.2))
        types.append(
            ChipType(
                f"t{index}",
                tokens,
                usd if index else None,
                (Term(3, usd * 0.8), Term(6, usd * 0.65)),
                Purchase(usd * rng.uniform(3, 9), int(rng.integers(0, 3)), usd * 0.1, Residual(0.6, 0.05), 0.1, 0.25),
                Holding(2.0, usd * 3) if index == 1 else None,
                0.2,
                from_month=4 if index == 2 else 0,
                superseded_at=5 if index == 0 else None,
                superseded_loss_share=0.3,
                chips_per_order=0.0,
            )
        )
    growth = rng.normal(0.05, 0.15, (4, months)).cumsum(axis=1)
    demand = Demand(1000.0 * np.exp(growth), np.array([0.1, 0.2, 0.3, 0.4]))
    offers = (TokenOffer("api", 180_000.0, 0.4), TokenOffer("next", 70_000.0, 0.0, 6))
    return Market(months, tuple(types), offers, known_from, 0.1), demand


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pulp")
@pytest.mark.parametrize("seed", range(4))
def test_plan_costs_what_a_program_in_stocks_finds(seed):
    market, demand = a_rich_market(seed)
    assert plan_capacity(market, demand).expected_usd == pytest.approx(by_stocks(market, demand), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_foresight_beats_the_plan_and_the_plan_every_simpler_policy(seed):
    market, demand = a_rich_market(seed)
    found = plan_capacity(market, demand)
    chance = demand.probability
    assert chance @ found.foresight_usd <= found.expected_usd * (1 + 1e-7)
    for policy in (found.buy_now, found.wait, found.rent_only):
        assert policy.costs is not None
        assert found.expected_usd <= chance @ policy.costs * (1 + 1e-7)
        assert (found.regret(policy) >= 0).all()
        assert (policy.costs >= found.foresight_usd * (1 - 1e-7)).all()


def test_foresight_is_the_plan_of_each_scenario_alone():
    market, demand = a_rich_market(1)
    found = plan_capacity(market, demand)
    for s in range(len(demand.probability)):
        alone = plan_capacity(replace(market, known_from=0), a_demand(demand.tokens[s]))
        assert alone.expected_usd == pytest.approx(found.foresight_usd[s], rel=1e-7)


def test_renting_only_costs_the_rent_of_each_month():
    kind = a_type(tokens=5.0, terms=(), purchase=None, price_decline_per_year=0.3)
    found = plan_capacity(a_market(kind, months=12), a_demand(np.arange(12.0)))
    rents = 10.0 * 0.7 ** (np.arange(12) / 12)
    exact = float((rents * np.arange(12) / 5.0) @ discount_factors(RATE, 12)[1:])
    assert found.expected_usd == pytest.approx(exact, rel=1e-9)
    assert found.rent_only.costs == pytest.approx([exact], rel=1e-9)


def test_a_chip_that_is_kept_costs_price_running_and_what_is_left():
    kind = a_type(rent=1e6, terms=())
    found = plan_capacity(a_market(kind, months=24), a_demand(np.full(24, 3.0)))
    assert found.expected_usd == pytest.approx(3.0 * bought_usd(kind, 0, 24), rel=1e-9)


def test_costs_are_the_discounted_cash_of_all_months():
    market, demand = a_rich_market(2)
    solution = plan_capacity(market, demand).solution
    assert discounted(net_cash(solution.flows()), market.discount_per_year) == pytest.approx(solution.costs, rel=1e-9)


def test_booked_cost_sums_to_the_cash_and_the_worth_brought_in():
    market, demand = a_rich_market(2)
    flows = plan_capacity(market, demand).solution.flows()
    held = sum(kind.holding.chips * kind.holding.worth_usd_per_chip for kind in market.types if kind.holding)
    assert booked_cost(flows).sum(axis=1) == pytest.approx(net_cash(flows).sum(axis=1) + held, rel=1e-9)


def test_what_serves_covers_the_demand_of_every_month_and_scenario():
    market, demand = a_rich_market(3)
    solution = plan_capacity(market, demand).solution
    speeds = {kind.name: kind.tokens_per_chip_month for kind in market.types}
    found = in_service(solution, market.months)
    assert (sum(one.tokens for one in found.values()) >= demand.tokens * (1 - 1e-6)).all()
    for (name, how), one in found.items():
        assert one.chips * (0.0 if how == "External" else speeds[name]) == pytest.approx(
            0.0 * one.tokens if how == "External" else one.tokens
        )


def test_orders_before_it_is_known_are_the_same_in_every_scenario():
    market, demand = a_rich_market(0)
    solution = plan_capacity(market, demand).solution
    early = [
        [(one.action, one.name, one.month, round(one.chips, 6)) for one in decisions(solution, s)
         if one.action in ("Buy", "Reserve", "Retire") and one.month < market.known_from]
        for s in range(len(demand.probability))
    ]  # fmt: skip
    assert all(one == early[0] for one in early)


def test_orders_are_whole_and_their_cost_is_at_most_that_of_a_few_more_chips():
    kind = a_type(tokens=1.0, rent=30.0, terms=(), chips_per_order=8.0)
    demand = a_demand([100, 101, 103], [100, 90, 93])
    found = plan_capacity(a_market(kind), demand)
    bought = [one for one in decisions(found.solution, 0) if one.action == "Buy" and one.month == 0]
    assert [one.chips % 8 for one in bought] == [0.0]
    assert found.lower_bound_usd <= found.expected_usd <= found.lower_bound_usd + 8 * bought_usd(kind, 0, 3)


def test_lead_time_leaves_the_first_months_to_rent():
    kind = a_type(rent=40.0, terms=(), purchase=Purchase(20.0, 2, 0.0))
    found = plan_capacity(a_market(kind, months=6), a_demand([5.0] * 6))
    told = [(one.action, one.month, one.until, one.chips) for one in decisions(found.solution, 0)]
    assert told == [("Buy", 0, 6, pytest.approx(5)), ("Rent", 0, 2, pytest.approx(5))]


def test_chips_that_cost_more_to_run_than_to_replace_are_retired_today():
    old = a_type("old", 1.0, None, terms=(), purchase=Purchase(20.0, 0, 15.0), holding=Holding(4.0, 6.0))
    found = plan_capacity(a_market(old, a_type("cheap", 1.0, 3.0, terms=(), purchase=None)), a_demand([4.0] * 3))
    assert ("Retire", "old", 0, pytest.approx(4)) in [
        (one.action, one.name, one.month, one.chips) for one in decisions(found.solution, 0)
    ]


def test_waiting_is_regretted_where_demand_is_sure_and_buying_where_the_successor_is_near():
    sure = plan_capacity(a_market(a_type(rent=30.0, terms=()), months=12, known_from=6), a_demand([5.0] * 12))
    assert sure.regret(sure.buy_now) == pytest.approx([0.0], abs=1e-6)
    assert sure.regret(sure.wait)[0] > 0
    better = ChipType("b", 10.0, None, (), Purchase(20.0, 0, 1.0), from_month=6, chips_per_order=0.0)
    near = plan_capacity(
        a_market(a_type(rent=4.0, terms=(), purchase=Purchase(60.0, 0, 1.0)), better, months=24, known_from=6),
        a_demand([5.0] * 12 + [500.0] * 12, [5.0] * 24),
    )
    assert near.regret(near.wait) == pytest.approx([0.0, 0.0], abs=1e-6)
    assert near.regret(near.buy_now).max() > 0


def test_a_policy_that_cannot_serve_says_why():
    kind = a_type(rent=None, terms=())
    found = plan_capacity(a_market(kind, months=6, known_from=3), a_demand([1.0] * 6))
    assert found.wait.solution is None
    assert found.regret(found.wait) is None
    assert "nothing can serve 1 tokens in month 1; expected a rent" in found.wait.why


def test_demand_that_nothing_can_serve_is_an_error():
    kind = a_type(rent=None, terms=(), purchase=Purchase(20.0, 2))
    with pytest.raises(NoCapacity, match="in month 1; expected a rent, a commitment"):
        plan_capacity(a_market(kind, months=6), a_demand([1.0] * 6))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 2.0))
def test_more_demand_never_costs_less(seed, more):
    market, demand = a_rich_market(seed)
    extra = np.random.default_rng(seed).uniform(0, more, demand.tokens.shape)
    grown = Demand(demand.tokens * (1 + extra), demand.probability)
    assert plan_capacity(market, grown).lower_bound_usd >= plan_capacity(market, demand).lower_bound_usd * (1 - 1e-6)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["type", "offer", "term", "early", "sooner"]))
def test_another_option_never_makes_it_dearer(seed, what):
    market, demand = a_rich_market(seed)
    match what:
        case "type":
            less = replace(market, types=market.types[:2])
        case "offer":
            less = replace(market, offers=market.offers[:1])
        case "term":
            less = replace(market, types=tuple(replace(one, terms=one.terms[:1]) for one in market.types))
        case "early":
            less = replace(market, known_from=market.known_from + 2)
        case _:
            less = replace(
                market,
                types=tuple(replace(one, purchase=replace(one.purchase, lead_months=3)) for one in market.types),
            )
    # A chip that comes later is younger when it is sold, so a longer lead is compared without resale.
    if what == "sooner":
        market, less = (
            replace(
                one,
                types=tuple(
                    replace(kind, purchase=replace(kind.purchase, residual=Residual(1.0, 0.0)), holding=None)
                    for kind in one.types
                ),
            )
            for one in (market, less)
        )
    assert plan_capacity(market, demand).lower_bound_usd <= plan_capacity(less, demand).lower_bound_usd * (1 + 1e-6)


@pytest.mark.parametrize(
    ("market", "demand", "words"),
    [
        (a_market(a_type(rent=-1.0)), a_demand([1, 1, 1]), "a: rent_usd_per_chip_month is -1"),
        (a_market(a_type(rent=float("nan"))), a_demand([1, 1, 1]), "a: rent_usd_per_chip_month is nan"),
        (
            a_market(a_type(purchase=Purchase(1.0, 3))),
            a_demand([1, 1, 1]),
            "a: purchase.lead_months is 3; expected less than the horizon of 3",
        ),
        (a_market(months=10_000), a_demand([1, 1, 1]), "months is 10000; expected a number from 1 to 120"),
        (a_market(), a_demand([1, -1, 1]), "tokens hold a negative number"),
        (a_market(), a_demand([1, 1]), "tokens have shape 1 x 2; expected scenarios x months"),
        (a_market(), a_demand([1, 1, 1], probability=[0.4]), "probability sums to 0.4; expected 1"),
        (a_market(offers=[TokenOffer("x", -2.0)]), a_demand([1, 1, 1]), "x: usd_per_million_tokens is -2"),
    ],
)
def test_what_cannot_be_used_is_named(market, demand, words):
    with pytest.raises(ValueError, match=words):
        plan_capacity(market, demand)
