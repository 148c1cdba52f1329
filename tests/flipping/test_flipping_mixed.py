"""The loan schedule of several kinds: against a brute-force optimum, the staircase of one kind, and nonsense."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from flipping_builders import DEEPSEEK_NODES, deepseek_day, traces_week
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.flipping import mixed, staircase
from tidefleet.flipping.mixed import Kind, Mixed, Rules


def hourly(step_share: float = 1.0, short_usd_per_hour: float | None = None) -> Rules:
    return Rules(slot_seconds=3600.0, lead_slots=0, step_share=step_share, short_usd_per_hour=short_usd_per_hour)


def optimum(kinds: list[Kind], demand: list[float], rules: Rules, *, step: int) -> float:
    """The best net worth by trying every number of loans of every kind in every slot.

    The state is what is on loan, and what left in the slots that a shortest loan still covers.
    """
    capacity = sum(one.nodes * one.demand_per_node for one in kinds)
    away = tuple(one.on_loan for one in kinds)
    memory = rules.shortest_slots - 1
    states = {(away, ((0,) * len(kinds),) * memory): 0.0}
    choices = list(itertools.product(*(range(one.most + 1) for one in kinds)))
    for slot, asked in enumerate(demand):
        reached: dict[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], float] = {}
        for (before, recent), worth in states.items():
            for loans in choices:
                begun = tuple(max(0, now - then) for now, then in zip(loans, before, strict=True))
                back = sum(max(0, then - now) for now, then in zip(loans, before, strict=True))
                if sum(begun) + (back if slot else 0) > step or (any(begun) and slot + memory >= len(demand)):
                    continue
                window = [sum(each) for each in zip(begun, *recent, strict=True)]
                if any(now < least for now, least in zip(loans, window, strict=True)):
                    continue
                served = capacity - sum(one.demand_per_node * now for one, now in zip(kinds, loans, strict=True))
                short = max(0.0, asked + rules.reserve - served)
                price = rules.short_usd_per_hour
                if price is None and short > max(0.0, asked + rules.reserve - capacity) + 1e-9:
                    continue
                gained = sum(
                    one.usd_per_node_hour * now - one.flip_usd * out
                    for one, now, out in zip(kinds, loans, begun, strict=True)
                )
                state = (loans, (begun, *recent)[:memory])
                now_worth = worth + gained - short * (price or 0.0)
                if now_worth > reached.get(state, -math.inf):
                    reached[state] = now_worth
        states = reached
    return max(states.values())


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_mixed_kinds_are_scheduled_as_well_as_by_brute_force(data: st.DataObject) -> None:
    draw = data.draw
    kinds = []
    for name in ("one", "other"):
        nodes = draw(st.integers(0, 3))
        one = Kind(
            name, nodes, draw(st.sampled_from([1.0, 2.5])), draw(st.sampled_from([0.0, 1.0, 3.0])),
            flip_usd=draw(st.sampled_from([0.0, 0.7, 4.0])), on_loan=draw(st.integers(0, nodes)),
            always_serving=draw(st.integers(0, 1)),
        )  # fmt: skip
        kinds.append(one)
    demand = draw(st.lists(st.floats(0.0, 12.0), min_size=1, max_size=6))
    rules = Rules(
        slot_seconds=3600.0, lead_slots=0, reserve=draw(st.sampled_from([0.0, 1.0])),
        step_share=draw(st.sampled_from([0.0, 0.4, 1.0])), shortest_slots=draw(st.integers(1, 3)),
        short_usd_per_hour=draw(st.sampled_from([None, 0.5, 100.0])),
    )  # fmt: skip
    made = mixed.schedule(kinds, demand, rules=rules, gap=0.0)
    assert not made.why
    best = optimum(kinds, demand, rules, step=rules.step(sum(one.nodes for one in kinds)))
    assert made.net_usd == pytest.approx(best, abs=1e-5)
    assert made.bound_usd == pytest.approx(best, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_one_kind_gets_the_staircase(data: st.DataObject) -> None:
    draw = data.draw
    need = draw(st.lists(st.integers(0, 7), min_size=1, max_size=12))
    on_loan, lead, reserve = draw(st.integers(0, 6)), draw(st.integers(0, 2)), draw(st.integers(0, 1))
    step_share, flip_usd = draw(st.sampled_from([0.2, 0.5, 1.0])), draw(st.sampled_from([0.0, 1.5, 3.5]))
    terms = staircase.Terms(
        slot_seconds=3600.0, usd_per_node_hour=1.0, flip_usd=flip_usd, round_trips=0.0, lead_slots=lead,
        reserve=reserve, step_share=step_share,
    )  # fmt: skip
    exact = staircase.schedule(need, nodes=6, terms=terms, on_loan=on_loan)
    rules = Rules(slot_seconds=3600.0, lead_slots=lead, reserve=reserve, step_share=step_share)
    made = mixed.schedule([Kind("one", 6, 1.0, 1.0, flip_usd=flip_usd, on_loan=on_loan)], need, rules=rules, gap=0.0)
    assert made.net_usd == pytest.approx(exact.net_usd, abs=1e-6)


def test_deepseeks_day_of_one_kind_gets_its_staircase() -> None:
    rules = Rules(lead_slots=0, step_share=0.22, shortest_slots=4)
    made = mixed.schedule([Kind("h800", DEEPSEEK_NODES, 1.0, 16.0, flip_usd=1.6)], deepseek_day(), rules=rules, gap=0.0)
    terms = staircase.Terms(lead_slots=0, reserve=0, step_share=0.22, usd_per_node_hour=16.0, flip_usd=1.6)
    exact = staircase.schedule(deepseek_day(), nodes=DEEPSEEK_NODES, terms=terms)
    assert made.loans == (exact.loans,)
    assert made.flips == exact.flips == 210
    assert made.worth.words == exact.worth.words


def test_a_large_fleet_on_the_traces_week_is_within_the_gap_and_keeps_every_rule() -> None:
    week = traces_week(slots_a_day=24)
    kinds = [Kind("h100", 40, 1000.0, 9.6, flip_usd=1.5), Kind("b200", 15, 2600.0, 19.2, flip_usd=3.0)]
    capacity = sum(one.nodes * one.demand_per_node for one in kinds)
    demand = (week * capacity * 0.95).tolist()
    rules = Rules(slot_seconds=3600.0, lead_slots=1, reserve=2600.0, step_share=0.2, shortest_slots=2)
    made = mixed.schedule(kinds, demand, rules=rules, gap=0.01)
    assert not made.why
    assert made.gap <= 0.01
    assert made.net_usd <= made.bound_usd + 1e-6
    loans = np.array(made.loans)
    assert np.abs(np.diff(loans, axis=1, prepend=0)).sum(axis=0).max() <= 11
    served = capacity - np.array([one.demand_per_node for one in kinds]) @ loans
    later = np.append(demand[1:], demand[-1])
    assert (served + 1e-6 >= np.minimum(np.maximum(demand, later) + 2600.0, capacity)).all()
    assert loans.sum() > 0.1 * 55 * len(week)


def test_the_kind_that_trains_best_for_what_it_serves_is_loaned() -> None:
    kinds = [Kind("good at training", 2, 1.0, 5.0), Kind("good at serving", 2, 2.0, 5.0)]
    made = mixed.schedule(kinds, [4.0, 4.0], rules=hourly())
    assert made.loans == ((2, 2), (0, 0))


def test_a_price_lets_demand_go_unserved_where_training_pays_more() -> None:
    kind = Kind("one", 2, 1.0, 5.0)
    cheap = mixed.schedule([kind], [2.0, 2.0], rules=hourly(short_usd_per_hour=1.0))
    assert cheap.loans == ((2, 2),)
    assert cheap.shortfall == (2.0, 2.0)
    assert cheap.net_usd == pytest.approx(2 * (10.0 - 2.0))
    dear = mixed.schedule([kind], [2.0, 2.0], rules=hourly(short_usd_per_hour=9.0))
    assert dear.loans == ((0, 0),)


@pytest.mark.parametrize("unknown", [math.nan, math.inf, -1.0, 99.0])
def test_a_demand_that_nobody_knows_or_can_meet_keeps_every_node(unknown: float) -> None:
    made = mixed.schedule([Kind("one", 3, 1.0, 5.0)], [1.0, unknown, 1.0], rules=hourly())
    assert made.loans == ((2, 0, 2),)
    assert made.shortfall[1] == (96.0 if unknown == 99.0 else 0.0)


def test_loans_keep_to_the_slots_that_are_allowed() -> None:
    rules = hourly()
    made = mixed.schedule([Kind("one", 3, 1.0, 5.0)], [0.0] * 4, rules=rules, allowed=[False, True, True, False])
    assert made.loans == ((0, 3, 3, 0),)


def test_nothing_to_decide_loans_nothing() -> None:
    for kinds, demand in (([], [1.0]), ([Kind("one", 3, 1.0, 5.0)], []), ([Kind("none", 0, 1.0, 5.0)], [1.0])):
        made = mixed.schedule(kinds, demand, rules=Rules())
        assert not any(itertools.chain(*made.loans))
        assert (made.net_usd, made.gap, made.why) == (0.0, 0.0, "")


def test_no_time_for_the_solver_loans_safely_and_says_why() -> None:
    made: Mixed = mixed.schedule([Kind("one", 3, 1.0, 5.0)], [1.0] * 3, rules=Rules(), seconds=0.0)
    assert made.why
    assert made.loans == ((0, 0, 0),)
    assert made.gap == math.inf


@pytest.mark.parametrize(
    ("field", "value"),
    [("nodes", -1), ("demand_per_node", math.nan), ("usd_per_node_hour", -0.1), ("flip_usd", math.inf), ("on_loan", 9)],
)
def test_kinds_that_make_no_sense_are_refused_by_name(field: str, value: float) -> None:
    given = {"name": "h100", "nodes": 8, "demand_per_node": 1.0, "usd_per_node_hour": 1.0, field: value}
    with pytest.raises(ValueError, match=f"Kind h100: {field} is"):
        Kind(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [("slot_seconds", 0), ("lead_slots", -1), ("reserve", math.nan), ("step_share", 2), ("shortest_slots", 0),
     ("short_usd_per_hour", -1.0), ("short_usd_per_hour", math.nan)],
)  # fmt: skip
def test_rules_that_make_no_sense_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"Rules: {field} is"):
        Rules(**{field: value})  # type: ignore[arg-type]


def test_arguments_that_make_no_sense_are_refused() -> None:
    kind = Kind("one", 3, 1.0, 5.0)
    with pytest.raises(ValueError, match="allowed has 1 slots; expected the 2 of demand"):
        mixed.schedule([kind], [1.0, 1.0], rules=Rules(), allowed=[True])
    with pytest.raises(ValueError, match="gap is nan"):
        mixed.schedule([kind], [1.0], rules=Rules(), gap=math.nan)
