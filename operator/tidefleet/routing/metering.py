"""What one request took of its endpoint, known at its end: accelerator-seconds, dollars, and what a cache hit saved.

Of a prefill a request has the endpoint to itself; of each decode step that it was in it takes what it added, and its
share of what the step costs whoever is in it (reading the weights):

    seconds = T_p(S, C) + (O - 1) * (s0 * share + s1 + s2 * (S + C + O/2))     the prefill gives the first token

S uncached and C cached prompt tokens, O output tokens. The shares of all that run together are 1, so the seconds of a
saturated endpoint's requests add up to the time that it ran; what it idles belongs to nobody here.

A share is 1/B among B requests while there is KV room to spare. The fuller the room, the more it is the room that keeps
others out: at a usage u, (1 - u)/B + u * (its tokens / all tokens). That is how the residence of KV is charged.

Of a request whose answer comes whole nobody sees when its decode begins: it is counted from its beginning on.

What engines take beyond the rates is learned by endpoint: seconds between a request's first and last token, less the
prefills of others that stood between, times its share, over the same by the rates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tidefleet.routing.endpoint import Endpoint, Ticket

Mark = tuple[float, float, float]
"""Where the clocks of ``Shares`` stood."""

FETCH_JOULES_PER_BYTE = 8e-10
"""To read, send and write a byte of KV: 100 pJ a bit over storage, network and host. An assumption."""
LEARNED = 0.02
"""Weight of one more request in an endpoint's correction."""
WIDEST_CORRECTION = 32.0
LEAST_DECODING = 0.1
"""Share of the time since its first token that a request decodes at least, however much was prefilled meanwhile."""


def decode_seconds(
    steps: float, context_tokens: float, share: float, *, s0: float, s1: float, s2: float
) -> float:  # fmt: skip
    """Seconds of an endpoint that a request takes in its decode steps.

    Args:
        steps: decode steps that it is in.
        context_tokens: its own, in the mean of these steps.
        share: of what a step costs whoever is in it, 0..1.
    """
    return steps * (s0 * share + s1 + s2 * context_tokens)


class Shares:
    """What share of its decode steps each request of one endpoint has, as the batch changes around it.

    Two clocks run while anything decodes: one shows the time that an equal share comes to, one what each token of
    context comes to. A request's share is how far they went while it ran, over the time that it took: a mean over its
    life that costs two additions at its begin and at its end. Over all requests they add up to the time that passed.

    Args:
        capacity_tokens: KV room of the endpoint.

    Attributes:
        prefill_factor: time that prompts take over what the rates say.
    """

    __slots__ = ("_at", "_by_request", "_by_token", "_modelled", "_prefilled", "_running", "_taken", "_tokens",
                 "capacity_tokens", "prefill_factor")  # fmt: skip

    def __init__(self, capacity_tokens: float) -> None:
        self.capacity_tokens = capacity_tokens
        self.prefill_factor = 1.0
        self._at = -math.inf
        self._by_request = self._by_token = self._prefilled = 0.0
        self._running, self._tokens = 0, 0.0
        self._taken = self._modelled = 0.0

    @property
    def factor(self) -> float:
        """Time that decode steps take over what the rates say; 1 until one was seen."""
        if self._modelled <= 0.0:
            return 1.0
        return min(WIDEST_CORRECTION, max(1.0 / WIDEST_CORRECTION, self._taken / self._modelled))

    def enter(self, now: float, tokens: float, *, prefill_seconds: float = 0.0, others: float = 0.0) -> Mark:
        """A request decodes from now on, with so many tokens of context in the mean.

        Args:
            prefill_seconds: what its prompt took until now, while others could not decode.
            others: requests of other routers that run there, too; taken to be as long as ours.
        """
        self._pass(now, others)
        self._running += 1
        self._tokens += tokens
        self._prefilled += prefill_seconds
        return self._by_request, self._by_token, self._prefilled

    def prefilled(self, seconds: float) -> None:
        """The prompt of a request that had entered before took so long."""
        self._prefilled += seconds

    def leave(self, now: float, since: float, mark: Mark, tokens: float, *, others: float = 0.0) -> tuple[float, float]:
        """It decodes no longer; its mean share of a step, 0..1, and for how many seconds there were steps.

        Args:
            since, mark, tokens: when it entered, what ``enter`` gave, and was given.
        """
        self._pass(now, others)
        alone = 1.0 / (self._running + others) if self._running else 1.0
        self._running = max(0, self._running - 1)
        self._tokens = max(0.0, self._tokens - tokens) if self._running else 0.0
        took = now - since
        if took <= 0.0:
            return alone, 0.0
        part = (self._by_request - mark[0]) + tokens * (self._by_token - mark[1])
        return min(1.0, max(0.0, part / took)), max(LEAST_DECODING * took, took - (self._prefilled - mark[2]))

    def learn(self, taken: float, modelled: float) -> None:
        """A request's part of the steps took so many seconds, and as many by the rates."""
        if taken > 0.0 and modelled > 0.0:
            self._taken += LEARNED * (taken - self._taken)
            self._modelled += LEARNED * (modelled - self._modelled)

    def _pass(self, now: float, others: float) -> None:
        passed, self._at = now - self._at, max(now, self._at)
        if not self._running or not 0.0 < passed < math.inf:
            return
        batch = self._running + max(0.0, others)
        tokens = self._tokens * batch / self._running
        usage = min(1.0, tokens / self.capacity_tokens)
        self._by_request += passed * (1.0 - usage) / batch
        if tokens > 0.0:
            self._by_token += passed * usage / tokens


def begin_decode(shares: Shares, ticket: Ticket, now: float, *, others: float = 0.0) -> None:
    """A request decodes from now on, or its first token tells that its prompt is done."""
    took = ticket.work.seconds if ticket.first_at is not None else 0.0
    if ticket.entered is None:
        ticket.entered = now
        ticket.mark = shares.enter(now, ticket.held_tokens, prefill_seconds=took, others=others)
    else:
        shares.prefilled(took)


def end_decode(shares: Shares, ticket: Ticket, now: float, output_tokens: float, *, others: float = 0.0) -> None:
    """A request that is in ``shares`` is over: tell its share of the steps, and learn from what they took."""
    since = now if ticket.entered is None else ticket.entered
    ticket.share, seconds = shares.leave(now, since, ticket.mark, ticket.held_tokens, others=others)
    if output_tokens > 1.0:
        context = ticket.ask.tokens + 0.5 * output_tokens
        shares.learn(ticket.share * seconds, _decode(ticket.endpoint, output_tokens, context, ticket.share))


def _decode(endpoint: Endpoint, output_tokens: float, context_tokens: float, share: float) -> float:
    rates = endpoint.rates
    return decode_seconds(
        max(0.0, output_tokens - 1.0),
        context_tokens,
        share,
        s0=rates.step_seconds,
        s1=rates.step_seconds_per_sequence,
        s2=rates.step_seconds_per_kv_token,
    )


@dataclass(slots=True, eq=False)  # one for every request, where freezing takes thrice the time: not to be changed
class Metered:
    """What a request took.

    Attributes:
        prefill_seconds, decode_seconds: of its endpoint (a prefill elsewhere: of that one).
        accelerator_seconds: of chips.
        usd: at the rent of these chips; ``None`` where that is not known.
        saved_seconds: of chips, that its cached tokens would have taken to prefill.
        avoided_joules: of that prefill; ``None`` where the power is not known.
    """

    prefill_seconds: float
    decode_seconds: float
    accelerator_seconds: float
    usd: float | None
    saved_seconds: float
    avoided_joules: float | None


def metered(
    endpoint: Endpoint,
    *,
    uncached_tokens: float,
    cached_tokens: float,
    output_tokens: float,
    share: float,
    prefill_factor: float = 1.0,
    step_factor: float = 1.0,
    prefilled_seconds: float = math.inf,
    prefiller: Endpoint | None = None,
) -> Metered:
    """What a request took of an endpoint.

    Args:
        uncached_tokens, cached_tokens, output_tokens: as its engine counted them.
        share: as ``Shares`` tells it.
        prefill_factor, step_factor: time that the endpoint takes over what its rates say.
        prefilled_seconds: most that its prefill can have taken: of a request that was cut before its first token.
        prefiller: where it was prefilled, if elsewhere.
    """
    at = endpoint if prefiller is None else prefiller
    whole = at.rates.prefill_seconds(uncached_tokens, cached_tokens) * prefill_factor
    prefill = min(whole, max(0.0, prefilled_seconds))
    context = uncached_tokens + cached_tokens + 0.5 * output_tokens
    decode = _decode(endpoint, output_tokens, context, share) * step_factor
    usd: float | None = prefill * at.usd_per_second + decode * endpoint.usd_per_second
    if (prefill > 0.0 and at.usd_per_second <= 0.0) or (decode > 0.0 and endpoint.usd_per_second <= 0.0):
        usd = None
    saved = 0.0
    if cached_tokens > 0.0:
        without = at.rates.prefill_seconds(uncached_tokens + cached_tokens) * prefill_factor
        saved = max(0.0, without - whole)
    return Metered(
        prefill_seconds=prefill,
        decode_seconds=decode,
        accelerator_seconds=prefill * at.chips + decode * endpoint.chips,
        usd=usd,
        saved_seconds=saved * at.chips,
        avoided_joules=None if at.prefill_watts is None else saved * at.prefill_watts,
    )
