"""Where sessions live, what is learned from their gaps, and how they move when their home leaves."""

from tidefleet.routing.endpoint import Endpoint
from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.handover import hand_over, stay
from tidefleet.routing.homes import Homes
from tidefleet.routing.rates import Rates
from tidefleet.routing.request import Ask
from tidefleet.routing.resident import MOST_ENTRIES, Resident
from tidefleet.routing.reuse import MOST_CLASSES, Reuse, retention

STORED = Rates(1e-4, tier_bytes_per_second=(0.0, 0.0, 50e9))


def served(homes, session, address, now):
    homes.served(session, address, tokens=1000.0, now=now, wclass="c", tool_call=False)


def test_a_session_lives_where_it_was_served_last():
    homes = Homes(Reuse())
    served(homes, 1, "a", 0.0)
    served(homes, 1, "b", 1.0)
    assert homes.home(1).address == "b"
    assert homes.home(None) is None
    assert list(homes.at("a")) == []


def test_a_flood_of_sessions_is_bounded_and_the_old_ones_go():
    homes = Homes(Reuse(), most=100, ttl_seconds=10.0)
    for session in range(1000):
        served(homes, session, "a", session / 1000.0)
    assert len(homes) == 100
    assert homes.home(999) is not None
    assert homes.expire(12.0) == 100
    assert len(homes) == 0


def test_turns_that_come_back_and_those_that_never_do_are_told_apart():
    reuse = Reuse()
    homes = Homes(reuse, most=1)
    for turn in range(50):
        homes.began(1, turn + 0.9)
        served(homes, 1, "a", float(turn))
    often = reuse.probability("c", 0.0)
    for session in range(2, 300):
        served(homes, session, "a", 100.0)
    assert often > 0.9
    assert reuse.probability("c", 0.0) < 0.3


def test_the_chance_of_return_falls_with_idle_time_and_a_hint_holds_it_up():
    reuse = Reuse()
    for _ in range(100):
        reuse.returned("c", 10.0)
        reuse.ended("c")
    chances = [reuse.probability("c", idle) for idle in (0.0, 20.0, 1000.0)]
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] < 0.05
    assert reuse.probability("c", 1000.0, hinted_seconds=3600.0) == 0.8
    assert 8.0 <= reuse.expected_gap_seconds("c") <= 16.0


def test_a_flood_of_classes_shares_one_histogram():
    reuse = Reuse()
    for number in range(3000):
        reuse.returned(f"class-{number}", 1.0)
    assert len(reuse._gaps) <= MOST_CLASSES + 2


def test_kv_goes_down_a_tier_when_the_gap_is_longer_than_the_fetch_is_worth():
    given = {"tokens": 10_000.0, "capacity_tokens": 100_000.0, "kv_usage": 1.0}
    assert retention(STORED, gap_seconds=3600.0, **given).tier == 3
    assert retention(STORED, gap_seconds=0.01, **given).tier == 0
    assert retention(Rates(1e-4), gap_seconds=3600.0, **given).tier == 0
    slow = Rates(1e-4, tier_bytes_per_second=(0.0, 0.0, 1e8))
    assert "longer than prefilling" in retention(slow, gap_seconds=3600.0, **given).reason


def test_what_an_engine_keeps_is_bounded_by_its_room_and_the_oldest_goes():
    kept = Resident(1000.0)
    for key in range(5):
        kept.used(key, tokens=300.0, added=300.0, now=float(key))
    assert kept.tokens == 900.0
    kept.used(4, tokens=400.0, added=100.0, now=5.0)
    assert (kept.tokens, len(kept)) == (1000.0, 3)
    assert kept.forget(4) == 400.0
    kept.shrink(1000.0)
    assert (kept.tokens, len(kept)) == (0.0, 0)
    for key in range(2 * MOST_ENTRIES):
        kept.used(key, tokens=0.01, added=0.01, now=0.0)
    assert len(kept) <= MOST_ENTRIES


def leaving(store="s", sessions=12):
    table = Endpoints("p")
    for place in range(3):
        table.add(Endpoint(f"10.0.0.{place}:8000", STORED, slot=place, store=store if place < 2 else ""))
    for session in range(sessions):
        ticket = table.begin(Ask("p", "m", 20_000, session=session, output_tokens=10.0), "10.0.0.0:8000", 0.0)
        table.first_token(ticket, 1.0)
        table.end(ticket, 2.0, output_tokens=10.0)
    table.set_draining("10.0.0.0:8000")
    return table


def test_sessions_move_once_to_who_shares_the_store():
    table = leaving(sessions=3)
    moves = hand_over(table, "10.0.0.0:8000", 3.0)
    assert {(move.target, move.how) for move in moves} == {("10.0.0.1:8000", "fetch")}
    assert len(moves) == 3
    assert "fetched by 10.0.0.1:8000" in moves[0].reason
    assert hand_over(table, "10.0.0.0:8000", 3.0) == []
    assert stay(table, "10.0.0.0:8000") == 3
    assert len(hand_over(table, "10.0.0.0:8000", 3.0)) == 3


def test_without_a_store_sessions_spread_over_who_rebuilds_them():
    moves = hand_over(leaving(store=""), "10.0.0.0:8000", 3.0)
    counts = [sum(move.target == f"10.0.0.{place}:8000" for move in moves) for place in range(3)]
    assert counts[0] == 0
    assert min(counts[1:]) >= 4
    assert {move.how for move in moves} == {"rebuild"}


def test_nothing_moves_where_nobody_is_left_or_the_address_is_unknown():
    table = leaving()
    for place in (1, 2):
        table.failed(f"10.0.0.{place}:8000", 0.0)
    assert hand_over(table, "10.0.0.0:8000", 3.0) == []
    assert hand_over(table, "10.9.9.9:1", 3.0) == []
