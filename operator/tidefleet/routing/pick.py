"""Which endpoint takes a request: the least expected time plus harm, and what the others would have taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.defer import LOWEST_PRIORITY, engine_priority, has_slack, latest_start
from tidefleet.routing.endpoint import AGGREGATED, DECODE, PREFILL, Work
from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.few import Few, few_terms
from tidefleet.routing.prefill_decode import Split, Splits, split
from tidefleet.routing.queue import Queue
from tidefleet.routing.rates import TIERS
from tidefleet.routing.request import Ask
from tidefleet.routing.shed import longest_wait, longest_waits, retry_after_seconds
from tidefleet.routing.terms import LATE_WEIGHT, Hits, Terms, terms_of

MOST_FALLBACKS = 3
TIE_SHARE, TIE_SECONDS = 0.01, 0.001
"""Totals closer than this are a tie, since no estimate is better than that."""

SORTED_WHOLE = 128
"""Up to so many endpoints sorting all of them is faster than finding the few that are needed."""

HELD_SHARE = 0.5
"""With a queue of ours, engines hold this share of the longest wait: what they hold, nobody overtakes."""

Mask = NDArray[np.bool_]
Column = NDArray[np.float64] | Sequence[float]


@dataclass(frozen=True, slots=True)
class Alternative:
    """One endpoint's terms.

    Attributes:
        hit_tokens: prompt tokens held by tier, each in no faster one.
        total_seconds: all terms, priced, in seconds of the pool's mean price.
        excluded: why it may not be picked; empty = it may.
    """

    address: str
    wait_seconds: float
    fetch_seconds: float
    prefill_seconds: float
    decode_seconds: float
    harm_seconds: float
    late_seconds: float
    usd: float
    total_seconds: float
    hit_tokens: tuple[int, ...]
    excluded: str = ""


@dataclass(slots=True, eq=False)  # one for every request, where freezing takes thrice the time: not to be changed
class Pick:
    """A decision, with all that it was taken on.

    Attributes:
        address: where the request goes; in a split pool the endpoint that decodes.
        fallbacks: where it goes if that fails, in order.
        prefill_address: endpoint that prefills for it; ``None`` = the same.
        engine_priority: as vLLM's priority scheduling takes it, lower first.
    """

    address: str
    fallbacks: tuple[str, ...]
    prefill_address: str | None
    engine_priority: int
    ask: Ask
    terms: Terms | Few
    row: int
    eligible: Mask
    serving: Mask
    draining: Mask
    ejected: Mask
    moved_from: str = ""
    lives_here: bool = False
    split: Split | None = None

    @property
    def chosen(self) -> Alternative:
        """Its own terms."""
        return self._at(self.row)

    @property
    def others(self) -> tuple[Alternative, ...]:
        """The rejected ones, cheapest first, those that could not be picked last."""
        rows = [one for one in range(len(self.terms.addresses)) if one != self.row]
        rows.sort(key=lambda one: (not self.eligible[one], float(self.terms.total[one])))
        return tuple(self._at(one) for one in rows)

    @property
    def hit_tokens(self) -> tuple[int, ...]:
        """Prompt tokens that it holds, by tier."""
        return self.terms.held_at(self.row)

    @property
    def expected_ttft_seconds(self) -> float:
        """Wait, fetch and prefill."""
        if self.split is not None:
            return self.split.ttft_seconds
        return self.terms.ttft_at(self.row)

    @property
    def reason(self) -> str:
        """In words."""
        mine, others = self.chosen, [one for one in self.others if not one.excluded]
        held = ", ".join(f"{n:,} on {tier}" for n, tier in zip(mine.hit_tokens, TIERS, strict=False) if n)
        words = f"{held} of {self.ask.tokens:,} tokens held" if held else "nothing of it is held there"
        if self.moved_from:
            words = f"its session was moved from {self.moved_from}, which leaves; {words}"
        elif self.lives_here:
            words = f"its session lives there; {words}"
        if self.prefill_address is not None:
            words += f"; prefilled by {self.prefill_address}"
        words += f"; first token in {self.expected_ttft_seconds:.3f} s"
        if mine.excluded:
            words += f"; it is {mine.excluded}, as is every other"
        if not others:
            return words + "; no other endpoint may be picked"
        return words + f"; {others[0].address} would cost {others[0].total_seconds - mine.total_seconds:+.3f} s"

    def work_at(self, address: str) -> Work | None:
        """What ``Endpoints.begin`` counts there; ``None`` where the pick did not know that endpoint."""
        if address == self.address and self.split is not None:
            return Work(0.0, float(self.ask.tokens))
        try:
            row = self.terms.addresses.index(address)
        except ValueError:
            return None
        return Work(float(self.terms.fetch[row] + self.terms.prefill[row]), float(self.terms.cached[row]))

    def _at(self, row: int) -> Alternative:
        terms = self.terms
        excluded = ""
        if not self.serving[row]:
            excluded = "outside of the subset, role or adapter asked for"
        elif self.ejected[row]:
            excluded = "ejected"
        elif self.draining[row]:
            excluded = "draining"
        elif not self.eligible[row]:
            excluded = "full"
        return Alternative(
            address=terms.addresses[row],
            wait_seconds=float(terms.wait[row]),
            fetch_seconds=float(terms.fetch[row]),
            prefill_seconds=float(terms.prefill[row]),
            decode_seconds=float(terms.decode[row]),
            harm_seconds=float(terms.harm[row]),
            late_seconds=float(terms.late[row]),
            usd=float(terms.usd[row]),
            total_seconds=float(terms.total[row]),
            hit_tokens=terms.held_at(row),
            excluded=excluded,
        )


@dataclass(frozen=True, slots=True)
class Refused:
    """No endpoint takes it: ``status`` 429 (come back later) or 503 (nobody is there)."""

    status: int
    reason: str
    retry_after_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Queued:
    """It waits in the router and is asked about again, until ``deadline`` (``now`` of the picker)."""

    reason: str
    deadline: float


Decision = Pick | Refused | Queued


def pick(
    ask: Ask,
    endpoints: Endpoints,
    hits: Hits | None,
    now: float,
    *,
    subset: Iterable[str] | None = None,
    queue: Queue[Any] | None = None,
    is_next: bool = False,
) -> Decision:
    """Decide where a request goes.

    One that would be too late where the total is least goes to an endpoint that has its first token in time, unless
    that costs more beyond the least total than the longest wait that it may have. What it costs there is mostly time
    of those who come behind: it would push another one out of its objective in its stead. Then it is served late.

    Args:
        endpoints: the table of the request's pool.
        hits: what the prefix index knows of ``ask.keys``; ``None`` = nothing.
        subset: addresses that the gateway allows, with or without a port; ``None`` = all.
        queue: where requests wait for engines that are full; without one they wait in the engines.
        is_next: the request was taken from the queue just now, and waits for nobody there.
    """
    table = endpoints
    if ask.pool != table.pool:
        return Refused(503, f"pool {ask.pool!r} is not served by this table of {table.pool!r}")
    table.promises.asked(ask.priority, ask.ttft_objective_seconds, now)
    table.paces.asked(ask.priority, ask.tpot_objective_seconds, now)
    allowed = None if subset is None else frozenset(subset)
    serving = table.serving(AGGREGATED, DECODE, lora=ask.lora, subset=allowed)
    fit = table.eligible(serving)
    if fit is None:
        return _nobody(ask, table, allowed, now)
    eligible, rows = fit
    remote: Splits | None = None
    few = None if table.is_split or ask.is_deferrable else few_terms(ask, table, hits, now)
    terms = few or terms_of(ask, table, hits, now)
    total = terms.total
    if not isinstance(terms, Few):
        if table.is_split:
            prefilling = table.eligible(table.serving(PREFILL, lora=ask.lora, subset=allowed))
            if prefilling is not None:
                remote = split(ask, table, terms, prefilling[0])
                total = np.minimum(terms.total, remote.total)
        if ask.is_deferrable:
            slack = eligible & has_slack(ask, table, terms, now)
            if slack.any():
                eligible = slack
                rows = tuple(slack.nonzero()[0].tolist())
            elif now < (start := latest_start(ask, terms, eligible)):
                return Queued("no endpoint has slack for deferrable work", start)
    row, order = _least(table, terms, total, eligible, rows)
    home = table.sessions.home(ask.session)
    moved_from = ""
    if home is not None and home.planned:
        planned = table.position(home.planned)
        if planned is not None and eligible[planned] and _keeps(terms, planned, row):
            row, moved_from = planned, home.address
    if not ask.is_deferrable:
        limit = longest_wait(ask.priority, ask.ttft_objective_seconds, float(terms.prefill[row]), table.promises, now)
        wait = float(terms.wait[row]) if remote is None else min(float(terms.wait[row]), remote.wait)
        if queue is not None or wait > limit:
            lined = queue is not None and not is_next
            ahead = queue.ahead_seconds(ask.priority, table, int(eligible.sum())) if queue and lined else 0.0
            share = 1.0 if queue is None else HELD_SHARE
            if wait > share * limit or ahead > 0.0:
                most = longest_waits(ask.priority, ask.ttft_objective_seconds, terms.prefill, table.promises, now)
                free = eligible & (np.asarray(terms.wait) <= share * most)
                if ahead <= 0.0 and free.any():
                    soon, after = _least(table, terms, total, free, free.nonzero()[0].tolist())
                    if total[soon] <= total[row] + limit:
                        row, order = soon, after
                    elif queue is not None and wait <= limit:
                        return Queued(_full(wait), now + limit)
                    else:
                        row, order = _least(table, terms, np.asarray(total) - _overdue(ask, terms), eligible, rows)
                elif queue is not None and wait + ahead <= limit:
                    return Queued(_full(wait), now + limit)
                else:
                    return _shed(ask, wait + ahead, limit)
    chosen = remote.at(row) if remote is not None and remote.total[row] < terms.total[row] else None
    fallbacks = tuple([terms.addresses[one] for one in order if one != row][:MOST_FALLBACKS])
    return Pick(
        address=terms.addresses[row],
        fallbacks=fallbacks,
        prefill_address=chosen.address if chosen is not None else None,
        engine_priority=LOWEST_PRIORITY if ask.is_deferrable else engine_priority(ask.priority),
        ask=ask,
        terms=terms,
        row=row,
        eligible=eligible,
        serving=serving,
        draining=table.draining,
        ejected=table.ejected,
        moved_from=moved_from,
        lives_here=home is not None and home.address == terms.addresses[row],
        split=chosen,
    )


def _nobody(ask: Ask, table: Endpoints, subset: frozenset[str] | None, now: float) -> Queued | Refused:
    if len(table) == 0:
        if table.wake_seconds is not None:
            return Queued(f"pool {ask.pool} is at zero and wakes up", now + table.wake_seconds)
        return Refused(503, f"pool {ask.pool} has no endpoint")
    if subset is not None and not table.serving(AGGREGATED, DECODE, lora=None, subset=subset).any():
        return Refused(503, f"none of the {len(subset)} endpoints that the gateway allows serves pool {ask.pool}")
    if ask.lora is not None:
        return Refused(503, f"no endpoint of pool {ask.pool} has the adapter asked for or can load it")
    return Refused(503, f"pool {ask.pool} has no endpoint that decodes")


def _least(
    table: Endpoints, terms: Terms | Few, total: Column, eligible: Mask, rows: Sequence[int]
) -> tuple[int, list[int]]:
    """The row with the least total, of those that tie the one with the least load; and the first few rows by total.

    Args:
        eligible, rows: which may be picked, as a mask and as numbers.
    """
    if isinstance(total, np.ndarray):
        masked = total if len(rows) == len(total) else np.where(eligible, total, np.inf)
        if len(masked) > SORTED_WHOLE:
            first = masked.argpartition(MOST_FALLBACKS + 1)[: MOST_FALLBACKS + 2]
            first = first[masked[first].argsort()]
        else:
            first = masked.argsort()
        order = first[: min(MOST_FALLBACKS + 2, len(rows))].tolist()
        near = (masked <= masked[order[0]] * (1.0 + TIE_SHARE) + TIE_SECONDS).nonzero()[0].tolist()
    else:
        order = sorted(rows, key=total.__getitem__)
        bound = total[order[0]] * (1.0 + TIE_SHARE) + TIE_SECONDS
        near = [one for one in rows if total[one] <= bound]
    if len(near) <= 1:
        return order[0], order
    load = [terms.load[one] for one in near]
    least = min(load)
    near = [one for one, its in zip(near, load, strict=True) if its == least]
    table.turn += 1
    return near[table.turn % len(near)], order


def _overdue(ask: Ask, terms: Terms | Few) -> NDArray[np.float64]:
    """What a late first token adds to the totals: nothing of it matters once that is accepted."""
    if ask.ttft_objective_seconds is None:
        return np.zeros(len(terms.addresses))
    late: NDArray[np.float64] = LATE_WEIGHT * np.maximum(np.asarray(terms.ttft) - ask.ttft_objective_seconds, 0.0)
    return late


def _full(wait: float) -> str:
    return f"engines are full for {wait:.2f} s"


def _keeps(terms: Terms | Few, planned: int, best: int) -> bool:
    """Whether a moved session goes where it was moved, which it does unless that became late meanwhile."""
    return float(terms.late[planned]) <= float(terms.late[best])


def _shed(ask: Ask, wait: float, limit: float) -> Refused:
    after = retry_after_seconds(wait, limit)
    return Refused(
        429,
        f"priority {ask.priority} would wait {wait:.2f} s, {limit:.2f} s is the most that keeps the objectives",
        after,
    )
