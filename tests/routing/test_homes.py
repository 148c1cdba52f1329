"""Where sessions live, what is learned from their gaps, and how they move when their home leaves."""

from dataclasses import replace

from tidefleet.routing.endpoint import Endpoint
from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.handover import hand_over, stay
from tidefleet.routing.homes import Homes
from tidefleet.routing.rates import Rates
from tidefleet.routing.request import Ask
from tidefleet.routing.resident import MOST_ENTRIES, Resident
from tidefleet.routing.reuse import MOST_CLASSES, Reuse, retention
from tidefleet.routing.terms import terms_of

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
    small = retention(STORED, gap_seconds=3600.0, tier_tokens=(0.0, 0.0, 9_999.0), **given)
    assert (small.tier, small.reason) == (0, "no lower tier has room for it")


def test_what_an_engine_keeps_is_bounded_by_its_room_and_the_oldest_goes():
    kept = Resident(1000.0)
    for key in range(5):
        kept.used(key, tokens=300.0, added=300.0, now=float(key))
    assert kept.tokens == 900.0
    kept.used(4, tokens=400.0, added=100.0, now=5.0)
    assert (kept.tokens, len(kept)) == (1000.0, 3)
    kept.shrink(1000.0)
    assert (kept.tokens, len(kept)) == (0.0, 0)
    for key in range(2 * MOST_ENTRIES):
        kept.used(key, tokens=0.01, added=0.01, now=0.0)
    assert len(kept) <= MOST_ENTRIES


def losses(*entries, below=()):
    """Seconds that a token of the oldest entries costs: each of entries is (tokens, tool call, tier)."""
    kept, reuse = Resident(1e6), Reuse()
    for key, (tokens, tool_call, tier) in enumerate(entries):
        kept.used(key, tokens=tokens, added=tokens, now=0.0, tool_call=tool_call, tier=tier)
    return kept.loss_of_oldest(reuse, 0.0, again_seconds=1.0, below=below)


def test_what_a_lower_tier_holds_costs_a_fetch_and_what_it_has_no_room_for_costs_a_prefill():
    entries = [(1000.0, False, 0)] * 2
    assert losses(*entries) == 0.5
    assert losses(*entries, below=[(2000.0, 0.1)]) == 0.05
    assert losses(*entries, below=[(1999.0, 0.1)]) == (0.5 + 0.05) / 2
    assert losses(*entries, below=[(999.0, 0.1)]) == 0.5
    assert losses(*entries, below=[(999.0, 0.1), (2000.0, 0.2)]) == 0.1
    assert losses(*entries, below=[(2000.0, 7.0)]) == 0.5


def test_a_session_left_to_the_tier_below_costs_nothing_to_evict_unless_that_has_lost_it():
    below = [(1000.0, 0.1)]
    assert losses((1000.0, True, 1), below=below) == 0.0
    assert losses((1000.0, True, 1), (1000.0, False, 0), below=below) == (0.5 + 0.05) / 2


def after_turns(gap_seconds, *, tool_call=True, told=True, **facts):
    """An endpoint full of one agent's KV, whose turns come so many seconds apart, and when the last one ended."""
    rates = Rates(1e-4, tier_bytes_per_second=(2e9, 0.0, 0.0))
    table, now = Endpoints("p"), 0.0
    table.add(Endpoint("10.0.0.0:8000", rates, slot=0, kv_capacity_tokens=22_000.0, **facts))
    for _ in range(20):
        now += gap_seconds
        ask = Ask("p", "m", 20_000, session=1, output_tokens=10.0, ends_in_tool_call=tool_call and not told)
        ticket = table.begin(ask, "10.0.0.0:8000", now)
        table.first_token(ticket, now + 1.0)
        now += 2.0
        table.end(ticket, now, output_tokens=10.0, tool_call=tool_call if told else None)
    return table, now


def harm_of_another(table, now):
    return float(terms_of(Ask("p", "m", 5_000, output_tokens=10.0), table, None, now).evict[0])


def test_a_turn_that_ends_in_a_tool_call_keeps_its_kv_on_the_device_or_one_tier_down_by_its_expected_gap():
    assert harm_of_another(*after_turns(0.01)) > 0.0
    assert harm_of_another(*after_turns(60.0)) == 0.0
    assert harm_of_another(*after_turns(60.0, told=False)) == 0.0, "as the request says, where no answer told"
    assert harm_of_another(*after_turns(60.0, tool_call=False)) > 0.0, "a person's next turn is not foreseen so"
    assert harm_of_another(*after_turns(60.0, tier_tokens=(20_000.0, 0.0, 0.0))) > 0.0, "the tier is too small"


def test_a_pick_goes_where_what_it_evicts_was_left_to_the_tier_below():
    table, now = after_turns(60.0)
    other = Endpoint("10.0.0.1:8000", table.endpoint("10.0.0.0:8000").rates, slot=1, kv_capacity_tokens=22_000.0)
    table.add(other)
    ticket = table.begin(Ask("p", "m", 20_000, session=2, output_tokens=10.0), other.address, now)
    table.first_token(ticket, now)
    table.end(ticket, now, output_tokens=10.0)
    table.served[:] = 0.0
    table.prefill_factor[:] = table.step_factor[:] = 1.0
    found = terms_of(Ask("p", "m", 5_000, output_tokens=10.0), table, None, now)
    assert found.evict[0] < found.evict[1]
    assert found.total[0] < found.total[1]


def leaving(store="s", sessions=12, **facts):
    table = Endpoints("p")
    for place in range(3):
        table.add(Endpoint(f"10.0.0.{place}:8000", STORED, slot=place, store=store if place < 2 else "", **facts))
    for session in range(sessions):
        ticket = table.begin(Ask("p", "m", 20_000, session=session, output_tokens=10.0), "10.0.0.0:8000", 0.0)
        table.first_token(ticket, 1.0)
        table.end(ticket, 2.0, output_tokens=10.0)
    table.add(replace(table.endpoint("10.0.0.0:8000"), draining=True))
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


def test_only_what_the_store_has_room_for_is_fetched_from_it_the_sessions_used_last():
    moves = hand_over(leaving(sessions=3, tier_tokens=(0.0, 0.0, 45_000.0)), "10.0.0.0:8000", 3.0)
    assert [(move.session, move.how) for move in moves] == [(2, "fetch"), (1, "fetch"), (0, "rebuild")]


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
