"""Paid seconds as needed or lost: the parts sum to the whole whatever comes in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from economics_builders import ACCELERATORS, MODELS
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.economics.evidence import planning_share
from tidefleet.economics.ledger import (
    CAUSES,
    Speeds,
    Split,
    Worked,
    added,
    served,
    speeds_of,
    spread,
    trained,
)
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape

amounts = st.floats(0.0, 1e9)
speeds = st.builds(Speeds, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
worked = st.builds(
    Worked,
    seconds=st.floats(0.0, 1e6),
    uncached=amounts,
    output=amounts,
    busy=st.floats(0.0, 1.0),
    recomputed=amounts,
    fetch_seconds=st.floats(0.0, 1e6),
)


def an_estimate(shape: TokenShape, *objectives: Objective) -> Estimate:
    found = estimate(Replica(MODELS["llama-3.1-8b"], ACCELERATORS["h100-sxm"], 1, "Bf16", "Bf16"), shape, objectives)
    assert isinstance(found, Estimate), found
    return found


CHAT = TokenShape(1200.0, 300.0, cached_share=0.4)


# --- the speeds ------------------------------------------------------------------------------------------------------


def test_a_replica_at_its_planned_rate_is_needed_all_the_time() -> None:
    one = an_estimate(CHAT, Objective("TPOT", 0.02))
    found = speeds_of([(1.0, one)])
    rate = one.planned_requests_per_second
    assert rate * found.needed(CHAT.uncached, CHAT.output_mean) == pytest.approx(1.0, rel=1e-6)


def test_decode_goes_at_the_batch_of_the_strictest_class_whatever_its_share() -> None:
    strict, loose = an_estimate(CHAT, Objective("TPOT", 0.015)), an_estimate(CHAT)
    assert strict.batch < loose.batch
    both = speeds_of([(0.01, strict), (0.99, loose)])
    assert both.decode_seconds_per_token == speeds_of([(1.0, strict)]).decode_seconds_per_token
    assert speeds_of([(1.0, loose), (0.0, strict)]) == speeds_of([(1.0, loose)])


def test_an_unsure_estimate_needs_longer_as_plans_count_on_less_of_it() -> None:
    one = an_estimate(CHAT)
    unsure = replace(one, sigma=one.sigma + 0.3)
    longer = speeds_of([(1.0, unsure)]).decode_seconds_per_token / speeds_of([(1.0, one)]).decode_seconds_per_token
    assert longer == pytest.approx(planning_share(one.sigma) / planning_share(unsure.sigma))


def test_a_mix_that_asks_for_nothing_has_no_speeds() -> None:
    with pytest.raises(ValueError, match="share above 0"):
        speeds_of([])


# --- the seconds -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(worked, st.none() | speeds, st.booleans())
def test_needed_and_lost_are_what_was_paid(one: Worked, at: Speeds | None, leaving: bool) -> None:
    found = served(one, at, leaving=leaving)
    assert found.paid == pytest.approx(one.seconds, rel=1e-12, abs=1e-12)
    assert found.needed >= 0.0
    assert all(seconds >= 0.0 for seconds in found.lost.values())
    assert found.lost.keys() <= CAUSES.keys()


@settings(deadline=None)
@given(worked, speeds)
def test_needed_is_what_the_tokens_take_and_never_more_than_was_paid(one: Worked, at: Speeds) -> None:
    asked = at.needed(one.uncached, one.output)
    assert served(one, at).needed == pytest.approx(min(asked, one.seconds), rel=1e-9)


@settings(deadline=None)
@given(worked, speeds)
def test_what_prompts_took_is_their_part_of_what_was_needed(one: Worked, at: Speeds) -> None:
    found, asked = served(one, at), at.needed(one.uncached, one.output)
    share = at.needed(one.uncached, 0.0) / asked if asked > 0.0 else 0.0
    assert found.prefill == pytest.approx(found.needed * share, rel=1e-9)
    assert 0.0 <= found.prefill <= found.needed * (1 + 1e-12)


@settings(deadline=None)
@given(worked, speeds)
def test_busy_is_needed_recompute_fetch_and_half_batches(one: Worked, at: Speeds) -> None:
    found = served(one, at)
    assert one.seconds - found.lost["idle"] >= (one.busy - 1e-9) * one.seconds


@settings(deadline=None)
@given(st.floats(0.0, 1e9), st.lists(worked, max_size=5), speeds)
def test_paid_seconds_are_spread_whole(paid: float, seen: list[Worked], at: Speeds) -> None:
    found = spread(paid, added(served(one, at) for one in seen))
    assert found.paid == pytest.approx(paid, rel=1e-9)


def test_spreading_load_thinly_does_not_raise_what_is_needed() -> None:
    """Ten replicas with a tenth of the load each need as much as one that has it all, and lose nine in ten seconds."""
    at = Speeds(1e-4, 2e-3)
    one = served(Worked(100.0, 200_000.0, 30_000.0, 1.0), at)
    ten = added([served(Worked(100.0, 20_000.0, 3_000.0, 1.0), at)] * 10)
    assert ten.needed == pytest.approx(one.needed)
    assert ten.lost["half_batch"] == pytest.approx(1000.0 - ten.needed)


def test_a_replica_without_a_request_is_idle_and_one_with_few_has_half_empty_batches() -> None:
    at = Speeds(1e-4, 1e-3)
    assert served(Worked(60.0, 0.0, 0.0, 0.0), at).lost["idle"] == 60.0
    half = served(Worked(60.0, 0.0, 30_000.0, 0.75), at)
    assert (half.needed, half.lost["half_batch"], half.lost["idle"]) == pytest.approx((30.0, 15.0, 15.0))


def test_recomputed_tokens_and_fetches_are_lost_under_their_names() -> None:
    found = served(Worked(60.0, 100_000.0, 20_000.0, 1.0, recomputed=50_000.0, fetch_seconds=4.0), Speeds(1e-4, 1e-3))
    assert found.needed == pytest.approx(30.0)
    assert found.lost["recompute"] == pytest.approx(5.0)
    assert found.lost["kv_fetch"] == 4.0
    assert found.lost["half_batch"] == pytest.approx(21.0)


def test_no_fetch_that_nobody_told_of_appears() -> None:
    assert "kv_fetch" not in served(Worked(60.0, 1.0, 1.0, 1.0), Speeds(1e-4, 1e-3)).lost


def test_what_a_replica_on_its_way_out_still_does_is_needed_and_the_rest_is_the_drain() -> None:
    found = served(Worked(60.0, 0.0, 20_000.0, 1.0), Speeds(1e-4, 1e-3), leaving=True)
    assert found == Split(20.0, {"drain": 40.0}, 0.0)


def test_without_an_operating_point_busy_time_is_of_unknown_use() -> None:
    assert served(Worked(60.0, 5.0, 5.0, 0.25), None) == Split(0.0, {"unknown": 15.0, "idle": 45.0})


def test_seconds_of_which_nothing_was_seen_went_nobody_knows_where() -> None:
    assert spread(30.0, Split()) == Split(0.0, {"unknown": 30.0})


# --- training --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(amounts, amounts, st.none() | amounts), min_size=1, max_size=10))
def test_seconds_on_loan_are_kept_lost_or_stalled_and_no_lost_work_is_forgotten(
    slots: list[tuple[float, float, float | None]],
) -> None:
    owed, told = 0.0, 0.0
    recall = 0.0
    for held, lost, stalled in slots:
        found = trained(held, lost_work=lost, owed=owed, stalled=stalled)
        assert found.split.paid == pytest.approx(held, rel=1e-9)
        assert ("data_stall" in found.split.lost) == (stalled is not None)
        owed, told, recall = found.owed, told + lost, recall + found.split.lost["recall"]
    assert recall + owed == pytest.approx(told, rel=1e-9, abs=1e-6)
