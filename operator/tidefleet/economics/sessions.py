"""How many sessions a replica holds at once, and what a user costs in a month."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tidefleet.economics.lognormal import checked

DAYS_PER_MONTH = 365.25 / 12.0


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Sessions that one replica carries at once.

    Attributes:
        sessions: the smaller of the two below.
        by_memory: sessions whose KV cache fits, those that are idle but kept included.
        by_throughput: sessions whose requests the replica keeps up with.
        limited_by: ``KV memory`` or ``throughput``.
        hit_share: share of turns whose prefix is still there, because the pause was shorter than the cache is kept.
    """

    sessions: float
    by_memory: float
    by_throughput: float
    limited_by: Literal["KV memory", "throughput"]
    hit_share: float


def concurrent_sessions(
    *,
    kv_room_bytes: float,
    kv_bytes_per_session: float,
    requests_per_second: float,
    turn_seconds: float,
    think_seconds: float,
    keep_seconds: float = math.inf,
) -> Concurrency:
    """Sessions that one replica carries, where a session alternates between a turn and a pause.

    By throughput N = X (S + Z) (Little, closed loop). A session holds its KV for the turn and for the part of the pause
    that it is kept: with exponential pauses of mean Z and keeping time K, Z (1 - exp(-K/Z)) seconds, so it holds memory
    (S + that)/(S + Z) of the time, and N = room / (bytes per session * that share).

    Args:
        kv_room_bytes: room for KV of the whole replica (chips * room per chip).
        kv_bytes_per_session: KV of a session at its mean context.
        requests_per_second: what the replica sustains.
        turn_seconds: S, from a request to the end of its answer; above 0.
        think_seconds: Z, mean pause between an answer and the next request; 0 for agents that never pause.
        keep_seconds: K, how long an idle session's KV is kept; ``inf``: until the next turn, 0: dropped at once.

    Raises:
        ValueError: a number is negative, not finite, or 0 where it divides.
    """
    room = checked("kv_room_bytes", kv_room_bytes, most=1e18, example="4e10")
    each = checked("kv_bytes_per_session", kv_bytes_per_session, least=1e-9, most=1e18, example="1.3e9")
    rate = checked("requests_per_second", requests_per_second, most=1e9, example="3.5")
    turn = checked("turn_seconds", turn_seconds, least=1e-9, most=1e9, example="8")
    think = checked("think_seconds", think_seconds, most=1e9, example="40")
    keep = checked("keep_seconds", keep_seconds, most=math.inf, example="300")
    kept = 0.0 if think == 0.0 else -math.expm1(-keep / think) if keep < math.inf else 1.0
    hit = 1.0 if think == 0.0 else kept
    holds = (turn + think * kept) / (turn + think)
    by_memory = room / (each * holds)
    by_throughput = rate * (turn + think)
    by: Literal["KV memory", "throughput"] = "KV memory" if by_memory < by_throughput else "throughput"
    return Concurrency(min(by_memory, by_throughput), by_memory, by_throughput, by, hit)


def usd_per_user_month(usd_per_turn: float, turns_per_day: float, *, days_per_month: float = DAYS_PER_MONTH) -> float:
    """USD that one user costs in a month: turns a day * days * the cost of a turn, idle capacity being in that cost.

    Raises:
        ValueError: a number is negative or not finite.
    """
    turn = checked("usd_per_turn", usd_per_turn, example="0.002")
    turns = checked("turns_per_day", turns_per_day, most=1e9, example="12")
    return turn * turns * checked("days_per_month", days_per_month, most=31.0, example="21")


def users_per_replica(requests_per_second: float, turns_per_day: float, *, peak_to_mean: float = 1.0) -> float:
    """Users whose peak one replica sustains, when each makes so many turns a day.

    Raises:
        ValueError: a number is negative, not finite, or 0 where it divides.
    """
    rate = checked("requests_per_second", requests_per_second, most=1e9, example="3.5")
    turns = checked("turns_per_day", turns_per_day, least=1e-9, most=1e9, example="12")
    peak = checked("peak_to_mean", peak_to_mean, least=1.0, most=1e6, example="2.5")
    return rate * 86_400.0 / (turns * peak)
