"""The state machine of one flip: when each phase is left, what a timeout does, and that nothing else ever happens."""

from __future__ import annotations

from typing import Any

import pytest
from machine_builders import HOUR, NOW, TERMS, a_journal, after, lend, what_was_seen

from tidefleet.flipping.journal import Journal, read, write
from tidefleet.flipping.machine import Wanted, hindrances, step, wanted
from tidefleet.flipping.observation import Canary, Recall, Stay, Terms
from tidefleet.flipping.phase import Phase

SURGE = Recall(why="requests wait", surge=True)
MORNING = Recall(why="morning")


# Serving


def test_a_unit_that_has_served_long_enough_is_planned_for_a_loan() -> None:
    result = after(a_journal(Phase.SERVING))
    assert result.journal.phase is Phase.PLANNED
    assert result.journal.until == NOW + 8 * HOUR
    assert result.journal.deadline == NOW + 1 + TERMS.planned


def test_a_unit_that_has_never_flipped_need_not_dwell() -> None:
    assert after(a_journal(Phase.SERVING, since=0.0)).journal.phase is Phase.PLANNED


@pytest.mark.parametrize(
    ("served", "expected"), [(TERMS.dwell - 1, Phase.SERVING), (TERMS.dwell, Phase.PLANNED)], ids=["before", "at"]
)
def test_a_unit_is_not_lent_again_before_its_dwell_is_over(served: float, expected: Phase) -> None:
    assert after(a_journal(Phase.SERVING, since=NOW), served).journal.phase is expected


def test_after_the_clock_went_back_a_unit_still_has_to_dwell() -> None:
    assert not after(a_journal(Phase.SERVING, since=NOW), -HOUR).changed


@pytest.mark.parametrize("wish", [Stay(), MORNING, SURGE, lend(NOW)])
def test_a_unit_that_nobody_wants_to_lend_goes_on_serving(wish: Any) -> None:
    assert not after(a_journal(Phase.SERVING), wish=wish).changed


@pytest.mark.parametrize(
    "hindrance", [{"unhealthy": "XID 79"}, {"present": False}, {"vetoes": ("driver upgrade",)}], ids=str
)
def test_what_stands_against_a_loan_is_said_and_keeps_the_unit_serving(hindrance: dict[str, Any]) -> None:
    journal, seen = a_journal(Phase.SERVING), what_was_seen(**hindrance)
    assert not step(journal, seen, NOW).changed
    assert len(hindrances(journal, seen, NOW)) == 1


def test_every_reason_against_a_loan_is_told_at_once() -> None:
    seen = what_was_seen(unhealthy="XID 79", present=False, vetoes=("a", "b"))
    assert len(hindrances(a_journal(Phase.SERVING, since=NOW), seen, NOW + 60)) == 5


# Planned


def test_a_plan_sets_out_when_it_is_admitted() -> None:
    result = after(a_journal(Phase.PLANNED))
    assert result.journal.phase is Phase.CORDONED
    assert result.journal.deadline == NOW + 1 + TERMS.cordon


@pytest.mark.parametrize("kept", [False, None])
def test_a_plan_that_needs_replicas_elsewhere_first_is_given_the_time_for_them(kept: bool | None) -> None:
    assert after(a_journal(Phase.PLANNED), capacity_kept=kept).journal.deadline == NOW + 1 + TERMS.replace


def test_a_plan_waits_until_it_is_admitted() -> None:
    assert not after(a_journal(Phase.PLANNED), TERMS.planned - 1, wish=lend(admitted=False)).changed


@pytest.mark.parametrize("admitted", [True, False])
def test_a_plan_that_could_not_set_out_in_five_minutes_is_dropped(admitted: bool) -> None:
    result = after(a_journal(Phase.PLANNED), 300, wish=lend(admitted=admitted))
    assert (result.journal.phase, result.result, result.direction) == (Phase.SERVING, "called-off", "training")


def test_a_plan_whose_loan_has_grown_shorter_sets_out_for_the_shorter_one() -> None:
    assert after(a_journal(Phase.PLANNED), wish=lend(NOW + HOUR)).journal.until == NOW + HOUR


# Cordoned


def test_a_cordoned_unit_drains_when_nothing_is_routed_to_it_any_more() -> None:
    result = after(a_journal(Phase.CORDONED), routable=0)
    assert result.journal.phase is Phase.DRAINING
    assert result.journal.deadline == NOW + 1 + TERMS.drain


@pytest.mark.parametrize("routable", [None, 1])
def test_a_cordoned_unit_waits_while_requests_may_be_routed_to_it(routable: int | None) -> None:
    assert not after(a_journal(Phase.CORDONED), TERMS.cordon - 1, routable=routable).changed


@pytest.mark.parametrize("kept", [False, None])
def test_a_cordoned_unit_does_not_drain_before_others_carry_the_demand(kept: bool | None) -> None:
    assert not after(a_journal(Phase.CORDONED), routable=0, capacity_kept=kept).changed


@pytest.mark.parametrize(
    ("seen", "words"),
    [({"routable": 1}, "still routed"), ({"routable": 0, "capacity_kept": False}, "did not take over")],
)
def test_a_cordoned_unit_is_rolled_back_after_a_minute_and_says_why(seen: dict[str, Any], words: str) -> None:
    result = after(a_journal(Phase.CORDONED), 60, **seen)
    assert (result.journal.phase, result.result) == (Phase.SERVING, "rolled-back")
    assert words in result.words


def test_a_cordoned_unit_keeps_taking_requests_until_others_carry_them() -> None:
    journal = a_journal(Phase.CORDONED)
    assert wanted(journal, what_was_seen(capacity_kept=True), NOW) == Wanted(replace=True, unroute=True)
    for kept in (False, None):
        assert wanted(journal, what_was_seen(capacity_kept=kept), NOW) == Wanted(replace=True, unroute=False)


# Draining


def test_a_unit_is_drained_when_its_replicas_have_left() -> None:
    result = after(a_journal(Phase.DRAINING), serving_pods=0, requests=0)
    assert result.journal.phase is Phase.VERIFYING
    assert result.journal.deadline == NOW + 1 + TERMS.verify


@pytest.mark.parametrize("pods", [None, 1])
def test_a_unit_drains_while_replicas_are_left_or_their_number_is_not_known(pods: int | None) -> None:
    assert not after(a_journal(Phase.DRAINING), TERMS.drain - 1, serving_pods=pods, requests=0).changed


@pytest.mark.parametrize("requests", [None, 3])
def test_replicas_leave_only_when_they_are_known_to_be_idle(requests: int | None) -> None:
    assert not wanted(a_journal(Phase.DRAINING), what_was_seen(requests=requests), NOW).empty
    assert wanted(a_journal(Phase.DRAINING), what_was_seen(requests=0), NOW) == Wanted(unroute=True, empty=True)


@pytest.mark.parametrize("requests", [None, 0, 3])
def test_a_drain_longer_than_the_longest_request_is_rolled_back(requests: int | None) -> None:
    result = after(a_journal(Phase.DRAINING), TERMS.drain, serving_pods=1, requests=requests)
    assert (result.journal.phase, result.result) == (Phase.SERVING, "rolled-back")
    assert "None" not in result.words


def test_a_drain_that_a_budget_kept_from_ending_says_so() -> None:
    seen = {"serving_pods": 1, "expected": 1, "refused": "the budget never needs 1 pods"}
    idle = after(a_journal(Phase.DRAINING), 601, requests=0, **seen)
    assert idle.journal.phase is Phase.SERVING
    assert "the eviction of its replicas was refused: the budget never needs 1 pods" in idle.journal.why
    assert "3 requests" in after(a_journal(Phase.DRAINING), 601, requests=3, **seen).journal.why


def test_where_the_pool_allows_it_late_requests_are_ended_and_only_then_is_the_drain_rolled_back() -> None:
    journal, terms = a_journal(Phase.DRAINING), Terms(kill=True)
    seen = what_was_seen(terms=terms, serving_pods=1, requests=3)
    assert not wanted(journal, seen, NOW + terms.drain - 1).kill
    assert wanted(journal, seen, NOW + terms.drain) == Wanted(unroute=True, empty=True, kill=True)
    assert not step(journal, seen, NOW + terms.drain + terms.kill_drain - 1).changed
    assert step(journal, seen, NOW + terms.drain + terms.kill_drain).journal.phase is Phase.SERVING


def test_without_leave_to_kill_no_request_is_ended_however_late() -> None:
    assert not wanted(a_journal(Phase.DRAINING), what_was_seen(requests=3), NOW + 99 * HOUR).kill


def test_a_journal_that_lost_its_deadline_ends_no_request() -> None:
    seen = what_was_seen(terms=Terms(kill=True), requests=3)
    assert not wanted(a_journal(Phase.DRAINING, deadline=None), seen, NOW).kill


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.VERIFYING])
def test_a_unit_that_turns_out_to_be_needed_is_rolled_back_while_it_can_be(phase: Phase) -> None:
    result = after(a_journal(phase), capacity_kept=False, serving_pods=0, holders=0)
    assert (result.journal.phase, result.result) == (Phase.SERVING, "rolled-back")


# Verifying


def test_a_unit_that_nothing_holds_any_more_is_lent() -> None:
    result = after(a_journal(Phase.VERIFYING), holders=0)
    assert (result.journal.phase, result.direction, result.result) == (Phase.TRAINING, "training", "done")
    assert result.journal.trained
    assert result.journal.deadline == result.journal.until == NOW + 8 * HOUR


@pytest.mark.parametrize("holders", [None, 1])
def test_a_unit_is_not_lent_while_its_accelerators_are_held_or_that_is_not_known(holders: int | None) -> None:
    assert not after(a_journal(Phase.VERIFYING), TERMS.verify - 1, holders=holders).changed


@pytest.mark.parametrize(("holders", "words"), [(None, "not known"), (2, "2 pods or claims")])
def test_a_unit_that_is_still_held_after_two_minutes_is_quarantined(holders: int | None, words: str) -> None:
    result = after(a_journal(Phase.VERIFYING), 120, holders=holders)
    assert (result.journal.phase, result.result, result.journal.cause) == (Phase.QUARANTINED, "quarantined", "held")
    assert words in result.journal.why


def test_a_loan_ends_when_the_wish_says_now_not_when_it_was_planned() -> None:
    result = after(a_journal(Phase.VERIFYING), holders=0, wish=lend(NOW + HOUR))
    assert result.journal.until == result.journal.deadline == NOW + HOUR


def test_a_loan_that_would_be_over_before_it_began_does_not_begin() -> None:
    assert after(a_journal(Phase.VERIFYING), holders=0, wish=lend(NOW)).journal.phase is Phase.SERVING


# Training


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({"wish": MORNING}, "morning"),
        ({"unhealthy": "XID 79"}, "XID 79"),
        ({"present": False}, "gone"),
    ],
)
def test_a_loan_is_recalled_when_serving_needs_it_or_a_node_fails(seen: dict[str, Any], words: str) -> None:
    result = after(a_journal(Phase.TRAINING), **seen)
    assert result.journal.phase is Phase.RECALLING
    assert words in result.journal.why
    assert result.journal.asked == NOW + 1
    assert result.journal.deadline == NOW + 1 + 120


def test_a_surge_gives_training_thirty_seconds() -> None:
    result = after(a_journal(Phase.TRAINING), wish=SURGE)
    assert result.journal.deadline == NOW + 1 + 30
    assert result.journal.surge


@pytest.mark.parametrize("wish", [Stay(), lend(NOW)])
def test_a_loan_ends_with_its_window(wish: Any) -> None:
    assert not after(a_journal(Phase.TRAINING), 8 * HOUR - 1, wish=wish).changed
    assert after(a_journal(Phase.TRAINING), 8 * HOUR, wish=wish).journal.phase is Phase.RECALLING


def test_a_loan_without_an_end_is_recalled() -> None:
    assert after(a_journal(Phase.TRAINING, until=None), wish=Stay()).journal.phase is Phase.RECALLING


def test_a_loan_is_prolonged_without_a_change_of_phase_and_never_shortened() -> None:
    longer = after(a_journal(Phase.TRAINING), wish=lend(NOW + 9 * HOUR))
    assert longer.changed
    assert longer.journal.phase is Phase.TRAINING
    assert longer.journal.until == longer.journal.deadline == NOW + 9 * HOUR
    assert longer.journal.history == a_journal(Phase.TRAINING).history
    assert not after(a_journal(Phase.TRAINING), wish=lend(NOW + HOUR)).changed


@pytest.mark.parametrize("until", [float("inf"), float("nan")])
def test_a_loan_without_a_usable_end_is_not_written_anew_at_each_step(until: float) -> None:
    first = after(a_journal(Phase.TRAINING), wish=lend(until))
    read_back = read(write(first.journal))
    assert isinstance(read_back, Journal)
    assert not step(read_back, what_was_seen(wish=lend(until)), NOW + 2).changed


def test_a_mark_against_flips_does_not_end_a_loan() -> None:
    assert not after(a_journal(Phase.TRAINING), vetoes=("do not flip",)).changed


# Recalling


def test_a_recalled_unit_is_reclaimed_when_its_jobs_have_gone_and_none_can_come() -> None:
    result = after(a_journal(Phase.RECALLING), wish=MORNING, jobs=0, admission_stopped=True)
    assert result.journal.phase is Phase.RECLAIMING
    assert result.journal.deadline == NOW + 1 + TERMS.verify


@pytest.mark.parametrize("jobs", [(None, True), (1, True), (0, False)])
def test_a_recall_waits_for_jobs_in_their_grace(jobs: tuple[int | None, bool]) -> None:
    seen = {"wish": MORNING, "jobs": jobs[0], "admission_stopped": jobs[1]}
    assert not after(a_journal(Phase.RECALLING), TERMS.grace - 1, **seen).changed


def test_jobs_are_evicted_after_the_grace_and_not_before() -> None:
    journal = a_journal(Phase.RECALLING)
    seen = what_was_seen(wish=MORNING, jobs=1)
    assert not wanted(journal, seen, NOW + 119).evict
    assert wanted(journal, seen, NOW + 120).evict


def test_a_unit_is_reclaimed_whatever_is_left_of_the_jobs_soon_after_the_eviction() -> None:
    journal, seen = a_journal(Phase.RECALLING), what_was_seen(wish=MORNING, jobs=1)
    assert not step(journal, seen, NOW + TERMS.grace + TERMS.evict - 1).changed
    assert step(journal, seen, NOW + TERMS.grace + TERMS.evict).journal.phase is Phase.RECLAIMING


def test_a_surge_shortens_the_grace_of_a_recall_under_way() -> None:
    result = after(a_journal(Phase.RECALLING), 10, wish=SURGE, jobs=1)
    assert result.changed
    assert result.journal.phase is Phase.RECALLING
    assert result.journal.deadline == NOW + 10 + 30
    assert not step(result.journal, what_was_seen(wish=SURGE, jobs=1), NOW + 20).changed, "once only"


@pytest.mark.parametrize("phase", [Phase.PLANNED, Phase.CORDONED, Phase.DRAINING, Phase.VERIFYING])
def test_a_unit_that_a_surge_called_back_tells_so_until_it_is_lent_again(phase: Phase) -> None:
    home = after(a_journal(phase), 10, wish=SURGE).journal
    assert (home.phase, home.surge) == (Phase.SERVING, True)
    again = step(home, what_was_seen(wish=lend(NOW + 9 * HOUR)), NOW + TERMS.dwell + 10).journal
    assert (again.phase, again.surge) == (Phase.PLANNED, False)


def test_a_surge_never_lengthens_the_grace() -> None:
    assert not after(a_journal(Phase.RECALLING), 100, wish=SURGE, jobs=1).changed


def test_a_recall_is_not_called_off_by_a_wish_to_lend() -> None:
    assert not after(a_journal(Phase.RECALLING), wish=lend(NOW + 99 * HOUR), jobs=1).changed


# Reclaiming


def test_a_reclaimed_unit_warms_up_when_nothing_holds_it() -> None:
    result = after(a_journal(Phase.RECLAIMING), wish=MORNING, holders=0, admission_stopped=True)
    assert result.journal.phase is Phase.WARMING
    assert result.journal.deadline == NOW + 1 + TERMS.warm


_NOT_RECLAIMED: list[dict[str, Any]] = [
    {"holders": None},
    {"holders": 1},
    {"present": False},
    {"unhealthy": "XID 79"},
    {"admission_stopped": False},
]


@pytest.mark.parametrize("seen", _NOT_RECLAIMED, ids=str)
def test_a_unit_that_cannot_be_reclaimed_waits_two_minutes_and_is_quarantined(seen: dict[str, Any]) -> None:
    all_seen = {"wish": MORNING, "holders": 0, "admission_stopped": True, **seen}
    assert not after(a_journal(Phase.RECLAIMING), 119, **all_seen).changed
    result = after(a_journal(Phase.RECLAIMING), 120, **all_seen)
    assert (result.journal.phase, result.direction, result.result) == (Phase.QUARANTINED, "serving", "quarantined")
    assert "0 pods" not in result.words


def test_what_is_left_of_training_goes_on_being_evicted_until_the_unit_is_free() -> None:
    for phase in (Phase.RECLAIMING, Phase.QUARANTINED, Phase.VERIFYING):
        assert wanted(a_journal(phase, trained=True), what_was_seen(), NOW).evict
    assert not wanted(a_journal(Phase.QUARANTINED), what_was_seen(), NOW).evict


# Warming


def test_a_warm_unit_serves_when_its_replicas_are_ready_and_a_trial_request_is_answered_well() -> None:
    result = after(a_journal(Phase.WARMING), expected=2, ready=2, canary=Canary.PASSED)
    assert (result.journal.phase, result.direction, result.result) == (Phase.SERVING, "serving", "done")


_NOT_WARM: list[dict[str, Any]] = [
    {"ready": 1},
    {"ready": None},
    {"expected": None},
    {"canary": Canary.UNKNOWN},
    {"unhealthy": "XID 79"},
    {"present": False},
    {"expected": 0, "ready": 0, "awaited": True},
]


@pytest.mark.parametrize("seen", _NOT_WARM, ids=str)
def test_a_unit_that_is_not_warm_waits(seen: dict[str, Any]) -> None:
    all_seen = {"expected": 2, "ready": 2, "canary": Canary.PASSED, **seen}
    assert not after(a_journal(Phase.WARMING), TERMS.warm - 1, **all_seen).changed


@pytest.mark.parametrize("seen", _NOT_WARM[:-1], ids=str)
def test_a_unit_that_does_not_warm_up_in_time_is_quarantined_with_the_reason(seen: dict[str, Any]) -> None:
    all_seen = {"expected": 2, "ready": 2, "canary": Canary.PASSED, **seen}
    result = after(a_journal(Phase.WARMING), TERMS.warm, **all_seen)
    assert (result.journal.phase, result.direction, result.result) == (Phase.QUARANTINED, "serving", "quarantined")
    assert result.journal.cause == ("health" if "unhealthy" in seen or "present" in seen else "canary")
    assert "None" not in result.words


def test_a_wrong_answer_quarantines_at_once_and_takes_the_replicas_out_of_traffic() -> None:
    seen = what_was_seen(expected=1, ready=1, canary=Canary.FAILED, canary_words="another answer")
    result = step(a_journal(Phase.WARMING), seen, NOW + 1)
    assert (result.journal.phase, result.journal.cause) == (Phase.QUARANTINED, "canary")
    assert "another answer" in result.journal.why
    assert wanted(result.journal, seen, NOW + 1).unroute


def test_a_unit_where_no_replica_is_wanted_stands_ready_after_a_minute() -> None:
    seen = {"expected": 0, "ready": 0, "awaited": False}
    assert not after(a_journal(Phase.WARMING), TERMS.settle - 1, **seen).changed
    assert after(a_journal(Phase.WARMING), TERMS.settle, **seen).journal.phase is Phase.SERVING


def test_replicas_that_wait_but_never_come_here_do_not_keep_a_unit_warming_for_ever() -> None:
    seen = {"expected": 0, "ready": 0, "awaited": True}
    assert after(a_journal(Phase.WARMING), TERMS.warm, **seen).journal.phase is Phase.SERVING


# Quarantined


def test_a_quarantined_unit_stays_until_it_is_released() -> None:
    assert not after(a_journal(Phase.QUARANTINED, cause="canary"), 99 * HOUR, holders=0).changed


@pytest.mark.parametrize("cause", ["health", "held", "canary", ""])
@pytest.mark.parametrize("trained", [True, False])
def test_a_release_goes_through_verifying_and_warming_to_serving_never_to_training(cause: str, trained: bool) -> None:
    journal = a_journal(Phase.QUARANTINED, cause=cause, trained=trained)
    verifying = after(journal, released=True)
    assert verifying.journal.phase is Phase.VERIFYING
    assert not step(verifying.journal, what_was_seen(holders=1), NOW + 2).changed
    warming = step(verifying.journal, what_was_seen(holders=0, admission_stopped=True), NOW + 2)
    assert warming.journal.phase is Phase.WARMING
    ready = what_was_seen(expected=1, ready=1, canary=Canary.PASSED)
    serving = step(warming.journal, ready, NOW + 3)
    assert (serving.journal.phase, serving.direction, serving.result) == (Phase.SERVING, "serving", "done")
    assert not serving.journal.trained
    assert not serving.journal.cause


@pytest.mark.parametrize("seen", _NOT_RECLAIMED, ids=str)
def test_a_release_that_does_not_hold_ends_in_quarantine_again(seen: dict[str, Any]) -> None:
    all_seen = {"wish": Stay(), "holders": 0, "admission_stopped": True, **seen}
    journal = after(a_journal(Phase.QUARANTINED, trained=True), released=True).journal
    assert not step(journal, what_was_seen(**all_seen), NOW + 60).changed
    assert step(journal, what_was_seen(**all_seen), NOW + 1 + 120).journal.phase is Phase.QUARANTINED


@pytest.mark.parametrize("cause", ["health", "held"])
def test_a_unit_that_recovered_releases_itself_and_one_that_answered_badly_does_not(cause: str) -> None:
    assert not after(a_journal(Phase.QUARANTINED, cause=cause), 119, holders=0).changed
    assert after(a_journal(Phase.QUARANTINED, cause=cause), 120, holders=0).journal.phase is Phase.VERIFYING
    assert not after(a_journal(Phase.QUARANTINED, cause="canary"), 120, holders=0).changed


def test_replicas_in_quarantine_are_replaced_and_take_no_requests_unless_needed_and_not_known_as_bad() -> None:
    for cause, kept, unroute in [("canary", False, True), ("health", True, True), ("health", False, False)]:
        seen = what_was_seen(requests=3, capacity_kept=kept)
        assert wanted(a_journal(Phase.QUARANTINED, cause=cause), seen, NOW) == Wanted(replace=True, unroute=unroute)


def test_a_release_from_quarantine_ends_no_request_that_still_runs() -> None:
    journal = a_journal(Phase.VERIFYING, cause="canary")
    for requests in (3, None):
        assert wanted(journal, what_was_seen(requests=requests), NOW) == Wanted(unroute=True)
    assert wanted(journal, what_was_seen(requests=0), NOW) == Wanted(unroute=True, empty=True)


@pytest.mark.parametrize("wish", [lend(), MORNING, SURGE, Stay()])
def test_no_wish_moves_a_quarantined_unit(wish: Any) -> None:
    assert not after(a_journal(Phase.QUARANTINED), 99 * HOUR, wish=wish, holders=1).changed
