"""How many flips budgets allow, by reason and by the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from flipping_builders import a_budget
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.api.flipping import Budget, FlipReason
from tidefleet.api.second_look import is_cron
from tidefleet.flipping.budgets import Allowance, allowance, is_active, limit_of

LOAN, RECALL, REBALANCE = FlipReason.LOAN, FlipReason.RECALL, FlipReason.REBALANCE
NOW = datetime(2026, 11, 25, 22, 30, tzinfo=UTC).timestamp()


def flips(*budgets: Budget, reason: FlipReason = LOAN, now: float = NOW, nodes: int = 10, **in_flight: int) -> int:
    flying = {FlipReason(name.capitalize()): count for name, count in in_flight.items()}
    return allowance(budgets, reason, now, nodes=nodes, in_flight=flying).flips


def test_without_a_budget_every_node_may_flip() -> None:
    assert allowance([], LOAN, NOW, nodes=10, in_flight={LOAN: 3}) == Allowance(10, "")


def test_the_smallest_budget_wins_and_says_so() -> None:
    budgets = [a_budget("40%"), a_budget(3, "Loan", "Rebalance"), a_budget(1, "Recall")]
    found = allowance(budgets, LOAN, NOW, nodes=10, in_flight={LOAN: 1, RECALL: 1})
    assert found == Allowance(2, "budgets[0] (40% of 10 nodes at once for any flip; 2 in flight)")
    found = allowance(budgets, LOAN, NOW, nodes=10, in_flight={LOAN: 1, REBALANCE: 1})
    assert found == Allowance(1, "budgets[1] (3 nodes at once for Loan, Rebalance; 2 in flight)")


def test_reasons_share_a_budget_and_others_do_not_count() -> None:
    budget = a_budget(3, "Loan", "Rebalance")
    assert flips(budget, loan=1, rebalance=1) == 1
    assert flips(budget, loan=1, recall=5) == 2
    assert flips(budget, reason=RECALL, loan=3) == 10
    assert flips(a_budget(3), loan=1, recall=1, rebalance=1) == 0
    assert flips(a_budget(3), loan=9) == 0


def test_a_surge_recall_is_never_limited() -> None:
    budgets = [a_budget(0)]
    assert allowance(budgets, RECALL, NOW, nodes=10, in_flight={}, urgent=True) == Allowance(10, "")
    assert flips(a_budget(0), reason=RECALL) == 0


@pytest.mark.parametrize(
    ("nodes", "of", "limit"),
    [("20%", 10, 2), ("20%", 4, 1), ("20%", 1, 1), ("5%", 19, 1), ("7%", 100, 7), ("0%", 10, 0), ("100%", 7, 7),
     (2, 1, 2), ("3", 10, 3), ("20%", 0, 0)],
)  # fmt: skip
def test_a_percentage_is_rounded_up(nodes: int | str, of: int, limit: int) -> None:
    assert limit_of(a_budget(nodes), of) == limit


def test_a_schedule_applies_from_when_it_fires_for_its_duration_in_its_zone() -> None:
    budget = a_budget(0, schedule="0 22 * * *", durationSeconds=3600, timeZone="Europe/Berlin")
    fires = datetime(2026, 11, 25, 22, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
    for seconds, active in ((-1, False), (0, True), (3599, True), (3600, False)):
        assert is_active(budget, fires + seconds) is active
        assert flips(budget, now=fires + seconds) == (0 if active else 10)
    found = allowance([budget], LOAN, fires, nodes=10, in_flight={})
    assert found.held_by == "budgets[0] (0 nodes at once for any flip, from 0 22 * * * Europe/Berlin on; 0 in flight)"


def test_a_duration_longer_than_the_schedule_applies_without_a_break() -> None:
    budget = a_budget(0, schedule="*/10 * * * *", durationSeconds=900, timeZone="UTC")
    assert all(is_active(budget, NOW + 60 * minute) for minute in range(60))


def test_a_schedule_at_a_skipped_hour_fires_when_the_clock_has_changed() -> None:
    budget = a_budget(0, schedule="30 2 * * *", durationSeconds=600, timeZone="Europe/Berlin")
    changed = datetime(2026, 3, 29, 1, 0, tzinfo=UTC).timestamp()
    assert [is_active(budget, changed + one) for one in (-1, 0, 599, 600)] == [False, True, True, False]


def test_a_schedule_at_a_repeated_hour_fires_once() -> None:
    budget = a_budget(0, schedule="30 2 * * *", durationSeconds=600, timeZone="Europe/Berlin")
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    assert is_active(budget, first)
    assert not is_active(budget, first + 3600)


FIELDS = ((0, 59), (0, 23), (1, 28), (1, 12), (0, 6))


@st.composite
def cron_field(draw: st.DrawFn, low: int, high: int) -> str:
    one = st.integers(low, high)
    kind = draw(st.sampled_from(["*", "*", "*/n", "a", "a-b", "a-b/n", "a,b"]))
    a, b = sorted((draw(one), draw(one)))
    step = draw(st.integers(1, 9))
    return kind.replace("a", str(a)).replace("b", str(b)).replace("n", str(step))


def matches(expression: str, moment: datetime) -> bool:
    """Whether a cron expression fires in a minute, field by field; a restricted day of month or of week suffices."""

    def admits(field: str, value: int, high: int) -> bool:
        for part in field.split(","):
            span, _, step = part.partition("/")
            first, _, last = (f"0-{high}" if span == "*" else span).partition("-")
            low = 1 if span == "*" and high in (31, 12) else int(first)
            if low <= value <= int(last or first) and (value - low) % int(step or 1) == 0:
                return True
        return False

    minute, hour, day, month, weekday = expression.split()
    by_day, by_weekday = admits(day, moment.day, 31), admits(weekday, moment.isoweekday() % 7, 6)
    both = day.startswith("*") or weekday.startswith("*")
    return (
        admits(minute, moment.minute, 59)
        and admits(hour, moment.hour, 23)
        and admits(month, moment.month, 12)
        and (by_day and by_weekday if both else by_day or by_weekday)
    )


def test_a_range_of_one_value_is_that_value_whatever_its_step() -> None:
    sundays = a_budget(1, schedule="0 12-12/5 * * 0-0/1", durationSeconds=60, timeZone="UTC")
    noon = datetime(2026, 1, 4, 12, tzinfo=UTC)  # a Sunday
    assert is_active(sundays, noon.timestamp())
    assert not is_active(sundays, (noon + timedelta(hours=5)).timestamp())
    assert not is_active(sundays, (noon + timedelta(days=1)).timestamp())


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(*(cron_field(*bounds) for bounds in FIELDS)), st.integers(0, 525_599), st.sampled_from([60, 600, 7200])
)
def test_a_schedule_is_active_as_a_look_at_every_minute_says(
    fields: tuple[str, ...], minute: int, seconds: int
) -> None:
    expression = " ".join(fields)
    assert is_cron(expression)
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    expected = any(matches(expression, now - timedelta(minutes=back)) for back in range(seconds // 60))
    budget = a_budget(1, schedule=expression, durationSeconds=seconds, timeZone="UTC")
    assert is_active(budget, now.timestamp()) is expected


@pytest.mark.parametrize(
    "expression", ["5/15 * * * *", "0 22 * * mon-FRI", "0 0 * jan,Dec 7", "*/90 * * * *", "0 9 * * 0-7"]
)
def test_what_validation_admits_can_be_read(expression: str) -> None:
    assert is_cron(expression)
    budget = a_budget(1, schedule=expression, durationSeconds=60, timeZone="UTC")
    week = [is_active(budget, NOW + 60 * minute) for minute in range(0, 10_080, 61)]
    assert False in week


@pytest.mark.parametrize(
    "wrong",
    [{"time_zone": "Mars/Olympus"}, {"schedule": "never"}, {"schedule": "0 0 30 2 *"},
     {"time_zone": None, "schedule": "61 * * * *"}, {"duration_seconds": None}],
)  # fmt: skip
def test_a_limit_that_cannot_be_read_is_kept(wrong: dict[str, object]) -> None:
    fields = {"nodes": 1, "reasons": (), "schedule": "0 3 * * *", "duration_seconds": 60, "time_zone": "UTC", **wrong}
    assert flips(Budget.model_construct(None, **fields)) == 1  # type: ignore[arg-type]


def test_a_time_that_no_calendar_has_keeps_the_limit() -> None:
    budget = a_budget(1, schedule="0 3 * * *", durationSeconds=60, timeZone="UTC")
    for now in (float("nan"), float("inf"), 1e18):
        assert is_active(budget, now)


def test_a_number_of_nodes_that_makes_no_sense_allows_none() -> None:
    for nodes in ("many", "-1", -1, ""):
        assert flips(Budget.model_construct(nodes=nodes, reasons=(), schedule=None)) == 0


def test_a_pool_without_nodes_flips_none() -> None:
    for nodes in (0, -3):
        assert allowance([], LOAN, NOW, nodes=nodes, in_flight={}, urgent=True).flips == 0


def test_other_caps_hold_back_too() -> None:
    found = allowance(
        [a_budget(5)], LOAN, NOW, nodes=10, in_flight={}, caps={"the namespace's cap": 2, "the pass's": -1}
    )
    assert found == Allowance(0, "the pass's")
