"""Loans within the power of a site: the limit holds, serving first, and what is worth least for it comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_builders import a_journal, lend

from tidefleet.flipping.journal import Journal
from tidefleet.flipping.observation import Lend, Recall, Stay, Wish
from tidefleet.flipping.phase import Phase
from tidefleet.flipping.power import Draw, Power, WithinPower, draws_on_loan, within_power

LENT = (Phase.CORDONED, Phase.DRAINING, Phase.VERIFYING, Phase.TRAINING)


@dataclass(frozen=True)
class Box:
    """A unit."""

    name: str
    journal: Journal
    size: int = 1
    missing: tuple[str, ...] = ()
    serving: tuple[str, ...] = ()
    pools: frozenset[tuple[str, str]] = frozenset()
    nodes: tuple[()] = ()


def a_box(name: str, phase: Phase = Phase.TRAINING, pool: str = "prod/chat", size: int = 1) -> Box:
    more = {} if phase is Phase.SERVING else {"pool": pool}
    return Box(name, a_journal(phase, unit=name, members=(name,), **more), size)


def by_name(units: Sequence[Box], nodes: int) -> list[tuple[str, str]]:
    return [(one.name, "no job runs on it") for one in sorted(units, key=lambda one: one.name)[:nodes]]


def held(
    units: Sequence[Box], limit: float, serving: float, wishes: dict[str, Wish] | None = None, **draws: Draw
) -> WithinPower:
    every = {one.name: draws.get(one.name, Draw(5.0, 8.0)) for one in units}
    return within_power(Power("berlin", limit, serving), units, every, wishes or {}, by_name)


def test_loans_that_fit_beside_what_serves_go_on_and_set_out() -> None:
    units = [a_box("a"), a_box("b", Phase.SERVING), a_box("c", Phase.SERVING)]
    assert held(units, 20.0, 5.0, {"b": lend(), "c": lend()}) == WithinPower()


def test_what_would_pass_the_limit_does_not_set_out_and_says_what_would_have_to_change() -> None:
    units = [a_box("a"), a_box("b", Phase.SERVING), a_box("c", Phase.SERVING)]
    found = held(units, 18.0, 5.0, {"b": lend(), "c": lend()})
    assert found.wishes == {"c": Stay()}
    (blocked,) = found.blocked
    assert blocked.unit == "c"
    assert blocked.why == "on loan it draws 5 kW, and 3 of the 18 kW at berlin are left"
    assert "spec.powerLimitWatts is raised" in blocked.change


def test_power_that_is_left_goes_to_those_first_that_are_worth_most_for_it() -> None:
    units = [a_box("cheap", Phase.SERVING), a_box("dear", Phase.SERVING), a_box("unsaid", Phase.SERVING)]
    draws = {"cheap": Draw(5.0, 4.0), "dear": Draw(10.0, 16.0), "unsaid": Draw(2.0)}
    found = held(units, 12.0, 0.0, {one.name: lend() for one in units}, **draws)
    assert found.wishes == {"cheap": Stay()}


def test_a_planned_unit_waits_where_it_is_and_one_on_its_way_counts_as_it_will_draw() -> None:
    found = held([a_box("a", Phase.CORDONED), a_box("b", Phase.PLANNED)], 9.0, 0.0, {"b": lend()})
    assert isinstance(found.wishes["b"], Lend)
    assert not found.wishes["b"].admitted


def test_a_lower_limit_calls_back_what_is_worth_least_for_its_power() -> None:
    units = [a_box("a"), a_box("b"), a_box("c", pool="prod/batch")]
    draws = {"a": Draw(5.0, 8.0), "b": Draw(10.0, 12.0), "c": Draw(5.0, 7.0)}
    found = held(units, 26.0, 7.0, **draws)
    assert list(found.wishes) == ["b"]
    recall = found.wishes["b"]
    assert isinstance(recall, Recall)
    assert not recall.surge
    assert recall.why == (
        "loans at berlin draw 20 kW, and serving leaves them 19 of 26; training on it is worth 1.2 USD/kWh "
        "(no job runs on it)"
    )
    assert list(held(units, 15.0, 7.0, **draws).wishes) == ["b", "c"]


def test_where_nobody_says_what_training_is_worth_loans_come_back_first_by_what_their_jobs_lose() -> None:
    units = [a_box("a"), a_box("b"), a_box("c")]
    found = held(units, 10.0, 0.0, a=Draw(5.0, 1.0), b=Draw(5.0), c=Draw(5.0))
    assert list(found.wishes) == ["b"]
    assert "nobody says what training on it is worth" in str(found.wishes["b"])


def test_what_is_not_lent_yet_is_rolled_back_before_a_job_is_stopped() -> None:
    assert list(held([a_box("a"), a_box("z", Phase.DRAINING)], 9.0, 0.0).wishes) == ["z"]


def test_what_is_called_back_already_frees_its_power_for_others_only_when_training_has_gone() -> None:
    units = [a_box("a", Phase.RECALLING), a_box("b"), a_box("c", Phase.SERVING)]
    found = held(units, 10.0, 0.0, {"c": lend()})
    assert found.wishes == {"c": Stay()}
    units[0] = a_box("a", Phase.WARMING)
    assert held(units, 10.0, 0.0, {"c": lend()}) == WithinPower()


def test_a_recall_for_another_reason_is_not_made_twice() -> None:
    units = [a_box("a"), a_box("b")]
    assert held(units, 9.0, 0.0, {"b": Recall("serving needs it")}) == WithinPower()


def test_loans_by_hand_are_no_exception() -> None:
    units = [Box("a", a_journal(Phase.TRAINING, unit="a", members=("a",), by="alice"))]
    assert list(held(units, 4.0, 0.0).wishes) == ["a"]


@pytest.mark.parametrize("phase", list(Phase))
def test_training_draws_power_from_the_moment_that_nothing_serves_until_nothing_trains(phase: Phase) -> None:
    there = (Phase.VERIFYING, Phase.TRAINING, Phase.RECALLING, Phase.RECLAIMING)
    assert draws_on_loan(a_box("a", phase)) is (
        phase in there or (phase is Phase.QUARANTINED and a_box("a", phase).journal.trained)
    )


BOXES = st.lists(
    st.tuples(
        st.sampled_from(list(Phase)), st.just(0.0) | st.floats(0.1, 40.0), st.none() | st.floats(0.0, 50.0),
        st.sampled_from(["stay", "lend", "recall"]), st.integers(1, 3),
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(BOXES, st.floats(0.0, 200.0), st.floats(0.0, 200.0))
def test_no_wish_ever_leads_over_the_limit_beyond_what_serving_takes(boxes, limit, serving) -> None:
    units = [a_box(f"u{index}", phase, size=size) for index, (phase, _, _, _, size) in enumerate(boxes)]
    draws = {f"u{index}": Draw(kw, usd) for index, (_, kw, usd, _, _) in enumerate(boxes)}
    kinds: dict[str, Wish] = {"stay": Stay(), "lend": lend(), "recall": Recall("asked for")}
    wishes = {f"u{index}": kinds[wish] for index, (_, _, _, wish, _) in enumerate(boxes)}
    found = within_power(Power("berlin", limit, serving), units, draws, wishes, by_name)
    after = wishes | found.wishes
    setting_out = [
        one.name
        for one in units
        if one.journal.phase in (Phase.SERVING, Phase.PLANNED)
        and isinstance(wish := after[one.name], Lend)
        and wish.admitted
    ]
    staying = [one.name for one in units if one.journal.phase in LENT and not isinstance(after[one.name], Recall)]
    still = [one.name for one in units if draws_on_loan(one) and one.name not in staying]
    slack = 1e-6 * (1.0 + limit)
    assert sum(draws[name].kw for name in staying) <= max(0.0, limit - serving) + slack
    if any(draws[name].kw > slack for name in setting_out):
        total = sum(draws[name].kw for name in (*staying, *still, *setting_out))
        assert serving + total <= limit + slack
    assert all(
        isinstance(wish, Recall) == (name in {one.name for one in units if one.journal.phase in LENT})
        for name, wish in found.wishes.items()
    )
    assert within_power(Power("berlin", limit, serving), units, draws, after, by_name).wishes.keys() <= {
        name for name in found.wishes if isinstance(found.wishes[name], Lend)
    }
