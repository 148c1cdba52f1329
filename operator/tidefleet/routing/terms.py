"""What a request would take at each endpoint, in seconds and dollars: the sum that a pick compares.

For endpoint e and a request of n tokens, S of which are cached nowhere that is worth fetching from:

    cached     = prompt tokens that the index knows there, or that a prompt on its way there brings (see ``coming``)
    wait(e)    = prefill work in flight, until it is done; or until running requests give back KV room, if later
    fetch(e)   = sum over tiers of min(latency + bytes / bandwidth, time to prefill them again)
    prefill(e) = T_p(S) behind what is cached
    decode(e)  = weight * O * T_d of the batch that it joins; the first token also waits for one such step
    harm(e)    = weight * (running * (prefill + O * extra T_d)) + evicted tokens * P(reuse) * time to get one again
                 (nothing for one that a turn's end has left to the tier below, see ``resident``) + crowd + balance
    crowd(e)   = requests that come before its work there is done, each of which waits that work longer
               = (fetch + prefill + evict) * min(20, 4 * (wait + (fetch + prefill) / 2) * rate / (1 - utilisation))
    balance(e) = further turns * what such a turn occupies * load of e in the last hour over the mean

Crowding prices work by how busy the pool is: a hit is worth its own seconds on an idle pool, several times as much on
a full one. Balance is what a session costs later where it lives: its turns come back, and a fleet is sized for its
busiest endpoint.

``weight`` is what a second during an answer counts beside one before its first token. Time beyond an objective counts
twice. In dollars, an endpoint's own work costs its price, and time that somebody waits the mean price of the pool: with
one price the order is that of the seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.endpoints import STALE_SECONDS, Endpoints
from tidefleet.routing.rates import TIERS
from tidefleet.routing.request import Ask

Floats = NDArray[np.float64]

DECODE_WEIGHT = 0.1
"""A choice: ten seconds spread over an answer count as one before it."""

LATE_WEIGHT = 1.0
"""What a second beyond an objective counts beside being a second."""


CROWD_WEIGHT, MOST_CROWD = 4.0, 20.0
"""What a second of somebody behind counts, and how many are counted at most: longer queues are not foreseen."""

FURTHER_TURNS = 30.0
"""Turns to come that a session's request is taken to bring to where it goes, for the balance of load; a choice."""


def further_turns(ask: Ask) -> float:
    """Turns to come that a request brings to where it goes: none of a client that states no session."""
    return FURTHER_TURNS if ask.session is not None else 0.0


class Hits(Protocol):
    """What ``PrefixIndex.match`` answers."""

    @property
    def blocks(self) -> NDArray[np.int32]:
        """Leading blocks held, shape (tiers, slots): in that tier or a faster one."""


@dataclass(slots=True, eq=False)  # one for every request, where freezing takes thrice the time: not to be changed
class Terms:
    """Arrays with one element per endpoint of ``addresses``.

    Attributes:
        wait, fetch, prefill, decode, harm: seconds, as the module says.
        evict, crowd, balance: parts of harm.
        late: seconds beyond the objectives.
        usd: the price of all of them; ``total`` the same in seconds of the pool's mean price.
        held: prompt tokens that the index knows in each tier and no faster one, shape (tiers, endpoints).
        cached: prompt tokens that are not prefilled.
        tpot: seconds per token of the batch that the request joins.
        load: requests there.
    """

    addresses: tuple[str, ...]
    wait: Floats
    fetch: Floats
    prefill: Floats
    decode: Floats
    harm: Floats
    evict: Floats
    crowd: Floats
    balance: Floats
    late: Floats
    usd: Floats
    total: Floats
    held: Floats
    cached: Floats
    tpot: Floats
    load: Floats

    @property
    def ttft(self) -> Floats:
        """Expected seconds to the first token."""
        return self.wait + self.fetch + self.prefill + self.tpot

    def ttft_at(self, row: int) -> float:
        """The same at one endpoint."""
        return float(self.wait[row] + self.fetch[row] + self.prefill[row] + self.tpot[row])

    def held_anywhere(self) -> Sequence[float]:
        """Prompt tokens that each endpoint holds, in whatever tier."""
        whole: list[float] = self.held.sum(axis=0).tolist()
        return whole

    def held_at(self, row: int) -> tuple[int, ...]:
        """Prompt tokens held there, by tier."""
        return tuple(int(one) for one in self.held[:, row])


def most_cached(ask: Ask) -> float:
    """Prompt tokens that a cache spares at most: an engine computes the last one in any case, with its whole block."""
    most = max(0, ask.tokens - 1)
    return float(most - most % ask.block_size if ask.token_exact else most)


def held_tokens(ask: Ask, table: Endpoints, hits: Hits | None) -> Floats:
    """Leading prompt tokens that each endpoint holds by tier, shape (tiers, endpoints), each tier with the faster ones.

    At most ``most_cached``.
    """
    if hits is None or hits.blocks.shape[1] == 0:
        return np.zeros((1, len(table)))
    blocks, most = hits.blocks, most_cached(ask)
    first, last = table.slot_range
    if first >= 0 and last < blocks.shape[1]:
        taken: Floats = np.multiply(blocks.take(table.slots, axis=1), ask.block_size, dtype=np.float64)
        return np.minimum(taken, most)
    known = (table.slots >= 0) & (table.slots < blocks.shape[1])
    found: Floats = blocks[:, np.where(known, table.slots, 0)].astype(np.float64) * ask.block_size
    if not known.all():
        found = np.where(known, found, 0.0)
    return np.minimum(found, most)


def terms_of(ask: Ask, table: Endpoints, hits: Hits | None, now: float) -> Terms:
    """The terms of a request at every endpoint of a pool, whether it may be picked or not."""
    n, output = float(ask.tokens), ask.output_tokens
    held = found = held_tokens(ask, table, hits)
    if coming := table.coming(ask, held[0].tolist()):
        found = held.copy()
        for at, tokens in coming:
            found[:, at] = np.maximum(found[:, at], min(tokens, most_cached(ask)))
    cached: Floats = found[0]
    fetch: Floats = np.zeros(len(cached))
    if len(held) > 1 and (held[-1] != held[0]).any():
        cached, fetch = _fetched(found, table)
        tiers = held.copy()
        tiers[1:] -= held[:-1]
        held = tiers
    else:
        held = held[:1]
    if ask.lora is not None:
        fetch = fetch + table.lora_seconds(ask.lora)
    uncached = n - cached
    # the attention of S tokens behind C: S * (C + S/2) = S * (n - S/2)
    prefill = np.maximum(table.floor, uncached * (table.p1 + table.p2 * (n - 0.5 * uncached))) * table.prefill_factor
    wait = np.maximum(table.until - now, 0.0)
    running, context = table.running + table.pending, table.context
    pinned = context * table.held_share
    if table.last_seen >= now - STALE_SECONDS:
        others, others_running, seen = table.others_waiting, table.others_running, table.seen_pinned
        fresh = table.seen_at >= now - STALE_SECONDS
        if not fresh.all():
            others, others_running, seen = (np.where(fresh, one, 0.0) for one in (others, others_running, seen))
        wait = wait + others * table.mean_prefill
        running = running + others_running + others
        pinned = np.maximum(pinned, seen)
        context = np.maximum(context, pinned)
    added = uncached + output
    room = table.capacity - pinned
    slope = (table.s1 + table.s2 * (n + 0.5 * output)) * table.step_factor
    tpot = (table.s0 + table.s1 * running + table.s2 * context) * table.step_factor + slope
    over = uncached + cached * table.held_share - room
    if over.max() > 0.0:
        # KV room comes back at the pace at which running requests end: about half of what they hold in O steps
        # and is all there once they have ended, also for a prompt that is larger than it
        share = np.minimum(np.maximum(over, 0.0) / np.maximum(pinned, 1.0), pinned > 0.0)
        wait = np.maximum(wait, share * (output * tpot))
    evict = np.minimum(np.maximum(table.resident + added - room, 0.0), np.minimum(table.resident, added)) * table.evict
    decode = (DECODE_WEIGHT * output) * tpot
    slower = (DECODE_WEIGHT * running) * (prefill + output * slope)
    takes = fetch + prefill
    work = takes + evict
    ttft = wait + takes + tpot
    crowd = np.minimum((wait + 0.5 * takes) * (CROWD_WEIGHT * table.crowd(now)), MOST_CROWD)
    crowd *= work
    balance = table.load_shares() * slope
    balance *= further_turns(ask) * output
    later = slower + crowd + balance
    harm = later + evict
    late = late_seconds(ask, ttft, tpot)
    delay = wait + decode + later + late
    total = delay + work
    if table.mean_usd > 0.0:
        usd = delay * table.mean_usd + work * table.usd
        total = usd / table.mean_usd
    else:
        usd = np.zeros_like(total)
    return Terms(
        addresses=table.addresses,
        wait=wait,
        fetch=fetch,
        prefill=prefill,
        decode=decode,
        harm=harm,
        evict=evict,
        crowd=crowd,
        balance=balance,
        late=late,
        usd=usd,
        total=total,
        held=held,
        cached=cached,
        tpot=tpot,
        load=running,
    )


def late_seconds(ask: Ask, ttft: Floats, tpot: Floats) -> Floats:
    """Seconds beyond the objectives of a request, over its whole answer."""
    late: Floats = np.zeros(len(ttft))
    if ask.ttft_objective_seconds is not None:
        late = np.maximum(ttft - ask.ttft_objective_seconds, 0.0) * LATE_WEIGHT
    if ask.tpot_objective_seconds is not None:
        late = late + np.maximum(tpot - ask.tpot_objective_seconds, 0.0) * (ask.output_tokens * LATE_WEIGHT)
    return late


def _fetched(held: Floats, table: Endpoints) -> tuple[Floats, Floats]:
    """Tokens cached or worth fetching, and the seconds of the fetches.

    A tier's part is fetched where that takes less time than prefilling it, and prefilled otherwise; what a slower tier
    holds behind it can still be fetched, since it lies in the same contiguous prefix.
    """
    cached = held[0].copy()
    seconds: Floats = np.zeros(len(cached))
    for tier in range(1, min(len(held), len(TIERS))):
        if not table.has_tier[tier - 1]:
            continue
        part = held[tier] - held[tier - 1]
        bandwidth, latency = table.bandwidth[tier - 1], table.latency[tier - 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            taken = np.where(bandwidth > 0.0, latency + part * table.kappa / bandwidth, np.inf)
        again = part * (table.p1 + table.p2 * (held[tier - 1] + 0.5 * part)) * table.prefill_factor
        worth = (part > 0.0) & (taken < again)
        seconds = seconds + np.where(worth, taken, 0.0)
        cached = cached + np.where(worth, part, 0.0)
    return cached, seconds
