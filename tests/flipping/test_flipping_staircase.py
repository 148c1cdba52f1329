"""The loan schedule: DeepSeek's published day, a brute-force optimum, and what nonsense leads to."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from flipping_builders import DEEPSEEK_NODES, deepseek_day, traces_week
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.flipping.staircase import Staircase, Terms, envelope, lead_slots, schedule

DEEPSEEK = Terms(lead_slots=0, reserve=0, step_share=0.22, usd_per_node_hour=16.0, flip_usd=1.6)


def levels(made: Staircase) -> list[int]:
    """Nodes that serve, each level once as it comes."""
    serving = [made.nodes - away for away in made.loans]
    return [serving[0], *(now for before, now in itertools.pairwise(serving) if now != before)]


def optimum(surplus: list[int], *, step: int, on_loan: int, slot_usd: float, flip_usd: float, shortest: int) -> float:
    """The best net worth over all loans per slot: every step in every slot is tried.

    The state is the ages of the open layers, in slots up to the shortest loan; nodes that were away before the first
    slot may come back at any age.
    """
    states = {(shortest,) * on_loan: 0.0}
    for most in surplus:
        reached: dict[tuple[int, ...], float] = {}
        for ages, worth in states.items():
            for away in range(max(0, len(ages) - step), min(most, len(ages) + step) + 1):
                if any(age < shortest for age in ages[away:]):
                    continue
                kept = ages[:away] + (0,) * (away - len(ages))
                state = tuple(min(shortest, age + 1) for age in kept)
                now = worth + slot_usd * away - flip_usd * max(0, away - len(ages))
                if now > reached.get(state, -math.inf):
                    reached[state] = now
        states = reached
    return max(worth for ages, worth in states.items() if all(age >= shortest for age in ages))


def test_deepseeks_day_gives_its_own_staircase_and_frees_what_it_freed() -> None:
    made = schedule(deepseek_day(), nodes=DEEPSEEK_NODES, terms=DEEPSEEK)
    assert levels(made) == [278, 218, 188, 158, 128, 98, 68, 98, 128, 188, 218, 278]
    assert made.freed_ratio == pytest.approx(1 - 226.75 / 278, abs=1e-12)
    assert made.freed_ratio == pytest.approx(0.184, abs=5e-4)
    assert made.freed_node_hours == pytest.approx(1230.0)
    assert [(one.nodes, one.slots) for one in made.intervals] == [
        (60, 34),
        (30, 27),
        (30, 22),
        (30, 19),
        (30, 16),
        (30, 12),
    ]
    assert made.flips == 210


def test_deepseeks_day_with_one_slot_of_lead_frees_less() -> None:
    terms = Terms(lead_slots=1, reserve=0, step_share=0.22, usd_per_node_hour=16.0, flip_usd=1.6)
    made = schedule(deepseek_day(), nodes=DEEPSEEK_NODES, terms=terms)
    assert made.freed_ratio == pytest.approx(0.176, abs=5e-4)


def test_overhead_of_deepseeks_day_is_what_its_round_trips_take() -> None:
    for minutes, share in ((20, 0.057), (6, 0.017)):
        terms = Terms(lead_slots=0, reserve=0, step_share=0.22, round_trip_seconds=60.0 * minutes, round_trips=0.0)
        assert schedule(deepseek_day(), nodes=DEEPSEEK_NODES, terms=terms).overhead_ratio == pytest.approx(
            share, abs=5e-4
        )


def test_a_smaller_step_begins_later_and_ends_earlier() -> None:
    need = deepseek_day()
    made = schedule(need, nodes=DEEPSEEK_NODES, terms=Terms(lead_slots=0, reserve=0, step_share=0.05))
    step = 13
    assert max(abs(np.diff([0, *made.loans]))) == step
    assert all(away <= DEEPSEEK_NODES - n for away, n in zip(made.loans, need, strict=True))


def test_a_loan_that_costs_more_than_it_is_worth_is_rejected_with_both_sides() -> None:
    made = schedule(
        deepseek_day(),
        nodes=DEEPSEEK_NODES,
        terms=Terms(lead_slots=0, reserve=0, step_share=0.22, usd_per_node_hour=16.0, flip_usd=70.0),
    )
    assert [one.slots for one in made.intervals] == [34, 27, 22, 19]
    assert [one.rejected for one in made.rejected] == [
        "4.00 h of 30 nodes: saves 1,920.00 USD, costs 2,100.00 USD",
        "3.00 h of 30 nodes: saves 1,440.00 USD, costs 2,100.00 USD",
    ]  # fmt: skip


def test_a_loan_shorter_than_ten_round_trips_is_rejected() -> None:
    terms = Terms(lead_slots=0, reserve=0, step_share=0.22, round_trip_seconds=1200.0)
    made = schedule(deepseek_day(), nodes=DEEPSEEK_NODES, terms=terms)
    assert min(one.slots for one in made.intervals) == 16
    assert [one.rejected for one in made.rejected] == ["3.00 h of 30 nodes: shorter than 10 round trips, 3.33 h"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=9),
    st.integers(1, 4),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.5, 2.5, 4.5]),
    st.integers(0, 4),
)
def test_the_schedule_is_the_brute_force_optimum(
    surplus: list[int], step: int, on_loan: int, flip_usd: float, shortest: int
) -> None:
    nodes = 4
    terms = Terms(
        slot_seconds=3600.0, usd_per_node_hour=1.0, flip_usd=flip_usd, round_trip_seconds=3600.0, round_trips=shortest,
        lead_slots=0, reserve=0, step_share=step / nodes,
    )  # fmt: skip
    made = schedule([nodes - one for one in surplus], nodes=nodes, terms=terms, on_loan=on_loan)
    steps = np.diff([on_loan, *made.loans])
    assert all(0 <= away <= most for away, most in zip(made.loans, surplus, strict=True))
    if made.forced:
        assert made.loans[0] == on_loan - step - made.forced
    else:
        assert max(abs(steps)) <= step
        best = optimum(surplus, step=step, on_loan=on_loan, slot_usd=1.0, flip_usd=flip_usd, shortest=shortest)
        assert made.net_usd == pytest.approx(best, abs=1e-9)
    assert made.worth.saves_usd == pytest.approx(sum(made.loans))
    assert made.flips == sum(max(0, int(one)) for one in steps)


@pytest.mark.parametrize(("nodes", "step_share"), [(5, 0.2), (7, 0.3)])
def test_the_traces_week_is_scheduled_as_well_as_by_brute_force(nodes: int, step_share: float) -> None:
    week = traces_week(slots_a_day=24)
    terms = Terms(
        slot_seconds=3600.0, usd_per_node_hour=8.8, flip_usd=9.0, round_trip_seconds=1440.0,
        lead_slots=0, reserve=0, step_share=step_share,
    )  # fmt: skip
    need = [math.ceil(one * nodes) for one in week]
    made = schedule(need, nodes=nodes, terms=terms)
    best = optimum(
        [nodes - one for one in need], step=terms.step(nodes), on_loan=0, slot_usd=8.8, flip_usd=9.0, shortest=4
    )
    assert made.net_usd == pytest.approx(best)
    assert made.flips > 0
    assert made.rejected  # the week has dips that are too short, so the rule decides something


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 4), st.integers(0, 9))
def test_the_envelope_is_the_largest_that_keeps_the_step(surplus: list[int], step: int, on_loan: int) -> None:
    found = envelope(np.array(surplus), step=step, on_loan=on_loan).tolist()
    slots = range(len(surplus))
    expected = [min(on_loan + step * (t + 1), *(surplus[s] + step * abs(t - s) for s in slots)) for t in slots]
    assert found == expected


def test_lead_brings_nodes_back_before_the_need_and_the_reserve_stays() -> None:
    need = [4, 4, 1, 1, 1, 1, 4, 4]
    terms = Terms(lead_slots=2, reserve=1, step_share=1.0, round_trips=0.0)
    made = schedule(need, nodes=5, terms=terms)
    assert made.needed == (5, 5, 2, 2, 5, 5, 5, 5)
    assert made.loans == (0, 0, 3, 3, 0, 0, 0, 0)


@pytest.mark.parametrize(("recall", "slots"), [(0.0, 1), (720.0, 2), (900.0, 2), (901.0, 3)])
def test_nodes_are_called_home_the_slots_of_a_recall_and_one_more_ahead(recall: float, slots: int) -> None:
    assert lead_slots(recall) == slots
    assert lead_slots(recall * 2.0, slot_seconds=1800.0) == slots


def test_loans_keep_to_the_slots_that_are_allowed_and_are_back_at_their_end() -> None:
    terms = Terms(lead_slots=0, reserve=0, step_share=0.25, round_trips=0.0)
    allowed = [False, *[True] * 6, False]
    made = schedule([1.0] * 8, nodes=4, terms=terms, allowed=allowed)
    assert made.loans == (0, 1, 2, 3, 3, 2, 1, 0)


def test_what_is_on_loan_stays_while_the_need_allows_it_even_for_a_short_time() -> None:
    terms = Terms(slot_seconds=900.0, lead_slots=0, reserve=0, step_share=1.0, round_trip_seconds=900.0)
    made = schedule([1, 1, 4, 4], nodes=4, terms=terms, on_loan=2)
    assert made.loans == (2, 2, 0, 0)
    assert made.flips == 0
    assert made.intervals[0].ongoing


def test_serving_comes_before_the_step() -> None:
    made = schedule([10, 10], nodes=10, terms=Terms(lead_slots=0, reserve=0, step_share=0.2), on_loan=6)
    assert made.loans == (0, 0)
    assert made.forced == 4


@pytest.mark.parametrize("unknown", [math.nan, math.inf, -math.inf, -1.0, 99.0])
def test_a_need_that_nobody_knows_or_can_meet_keeps_every_node(unknown: float) -> None:
    terms = Terms(lead_slots=0, reserve=0, step_share=1.0, round_trips=0.0)
    made = schedule([1.0, 1.0, unknown, 1.0], nodes=4, terms=terms)
    assert made.loans == (3, 3, 0, 3)
    assert made.short_slots == (1 if unknown == 99.0 else 0)


def test_no_slots_or_no_nodes_have_no_loans() -> None:
    assert schedule([], nodes=4, terms=Terms(), on_loan=2).loans == ()
    made = schedule([0.0, 1.0], nodes=0, terms=Terms())
    assert made.loans == (0, 0)
    assert made.freed_ratio == made.overhead_ratio == made.net_usd == 0.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"nodes": -1}, "nodes is -1; expected a number from 0 on"),
        ({"on_loan": 5}, "on_loan is 5; expected a number from 0 to the 4 nodes"),
        ({"allowed": [True]}, "allowed has 1 slots; expected the 2 of needed"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule([1.0, 1.0], **{"nodes": 4, "terms": Terms(), **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [("slot_seconds", 0.0), ("usd_per_node_hour", -1.0), ("usd_per_node_hour", math.nan), ("flip_usd", math.inf),
     ("round_trip_seconds", -1.0), ("lead_slots", -1), ("reserve", -1), ("step_share", 1.1), ("round_trips", math.nan)],
)  # fmt: skip
def test_terms_that_make_no_sense_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"Terms: {field} is"):
        Terms(**{field: value})  # type: ignore[arg-type]
