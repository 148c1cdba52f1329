"""The terms of a request at the endpoints of a small pool, in plain numbers: what ``terms`` says, without arrays.

An array operation costs as much on ten endpoints as on a thousand, and the sum has sixty of them. For small pools and
the usual request (no tiers beside the device's, no adapter, nothing deferrable, no prefill elsewhere) the same formulas
are worked out here for one endpoint after the other, in a third of the time. What is unusual is left to ``terms_of``.
"""

from __future__ import annotations

from collections.abc import Sequence

from tidefleet.routing.endpoints import STALE_SECONDS, Endpoints
from tidefleet.routing.request import Ask
from tidefleet.routing.terms import (
    CROWD_WEIGHT,
    DECODE_WEIGHT,
    LATE_WEIGHT,
    MOST_CROWD,
    Hits,
    further_turns,
    most_cached,
)

MOST = 24
"""Up to so many endpoints this is faster than arrays are."""

Column = Sequence[float]


class Few:
    """As ``terms.Terms``, with a sequence of numbers for every array."""

    __slots__ = (
        "addresses",
        "balance",
        "cached",
        "crowd",
        "decode",
        "evict",
        "fetch",
        "harm",
        "held",
        "late",
        "load",
        "prefill",
        "total",
        "tpot",
        "usd",
        "wait",
    )

    def __init__(self, addresses: tuple[str, ...], rows: Sequence[tuple[float, ...]], held: Column) -> None:
        self.addresses = addresses
        self.held = held
        self.wait: Column
        self.prefill: Column
        self.late: Column
        self.total: Column
        self.fetch: Column = (0.0,) * len(rows)
        (
            self.wait, self.prefill, self.decode, self.harm, self.evict, self.crowd, self.balance, self.late,
            self.usd, self.total, self.cached, self.tpot, self.load,
        ) = zip(*rows, strict=True)  # fmt: skip

    @property
    def ttft(self) -> Sequence[float]:
        """Expected seconds to the first token."""
        return [self.ttft_at(row) for row in range(len(self.addresses))]

    def ttft_at(self, row: int) -> float:
        """The same at one endpoint."""
        seconds: float = self.wait[row] + self.fetch[row] + self.prefill[row] + self.tpot[row]
        return seconds

    def held_anywhere(self) -> Sequence[float]:
        """Prompt tokens that each endpoint holds."""
        return self.held

    def held_at(self, row: int) -> tuple[int, ...]:
        """Prompt tokens held there, by tier."""
        return (int(self.held[row]),)


def few_terms(ask: Ask, table: Endpoints, hits: Hits | None, now: float) -> Few | None:
    """The terms at every endpoint; ``None`` where it takes ``terms_of`` to tell."""
    count = len(table)
    if not 0 < count <= MOST or ask.lora is not None:
        return None
    held = _held(ask, table, hits)
    if held is None:
        return None
    n, output = float(ask.tokens), ask.output_tokens
    found = held
    if coming := table.coming(ask, held):
        found = held.copy()
        for at, tokens in coming:
            found[at] = max(found[at], min(tokens, most_cached(ask)))
    crowding, mean_usd = CROWD_WEIGHT * table.crowd(now), table.mean_usd
    fresh = now - STALE_SECONDS
    objective_ttft, objective_tpot = ask.ttft_objective_seconds, ask.tpot_objective_seconds
    mean_served = sum(table.served.tolist()) / count
    rows = []
    for cached, (p1, p2, floor, s0, s1, s2, capacity, price), live in zip(
        found, table.facts, table.live(), strict=True
    ):
        (until, _, pending, running, context, resident, evict_one, prefill_factor, step_factor, mean_prefill, seen_at,
         others_waiting, others_running, seen_pinned, served, held_share) = live  # fmt: skip
        uncached = n - cached
        prefill = uncached * (p1 + p2 * (n - 0.5 * uncached))
        prefill = (prefill if prefill > floor else floor) * prefill_factor
        wait = until - now if until > now else 0.0
        load, pinned = running + pending, context * held_share
        if seen_at >= fresh:
            wait += others_waiting * mean_prefill
            load = load + others_running + others_waiting
            pinned = max(pinned, seen_pinned)
            context = max(context, pinned)
        room = capacity - pinned
        slope = (s1 + s2 * (n + 0.5 * output)) * step_factor
        tpot = (s0 + s1 * load + s2 * context) * step_factor + slope
        size = uncached + cached * held_share
        if size > room:
            share = min((size - room) / max(pinned, 1.0), 1.0 if pinned > 0.0 else 0.0)
            wait = max(wait, share * (output * tpot))
        lost = resident + uncached + output - room
        evict = (min(lost, resident, uncached + output) * evict_one) if lost > 0.0 else 0.0
        decode = DECODE_WEIGHT * output * tpot
        work = prefill + evict
        crowd = min((wait + 0.5 * prefill) * crowding, MOST_CROWD) * work
        balance = (served + capacity) / (mean_served + capacity) * slope * (further_turns(ask) * output)
        later = DECODE_WEIGHT * load * (prefill + output * slope) + crowd + balance
        late = 0.0
        if objective_ttft is not None and (ttft := wait + prefill + tpot) > objective_ttft:
            late = (ttft - objective_ttft) * LATE_WEIGHT
        if objective_tpot is not None and tpot > objective_tpot:
            late += (tpot - objective_tpot) * (output * LATE_WEIGHT)
        delay = wait + decode + later + late
        usd, total = 0.0, delay + work
        if mean_usd > 0.0:
            usd = delay * mean_usd + work * price
            total = usd / mean_usd
        rows.append((wait, prefill, decode, later + evict, evict, crowd, balance, late, usd, total, cached, tpot, load))
    return Few(table.addresses, rows, held)


def _held(ask: Ask, table: Endpoints, hits: Hits | None) -> list[float] | None:
    """Leading prompt tokens that each endpoint's device holds; ``None`` where other tiers hold more."""
    if hits is None:
        return [0.0] * len(table)
    blocks = hits.blocks
    first, last = table.slot_range
    if first < 0 or last >= blocks.shape[1]:
        return None
    found: list[int] = blocks[0].take(table.slots).tolist()
    if len(blocks) > 1 and blocks[-1].take(table.slots).tolist() != found:
        return None
    size, most = ask.block_size, most_cached(ask)
    return [min(float(one * size), most) for one in found]
