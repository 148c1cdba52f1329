"""Corrections of an endpoint's speeds by what its requests take, as factors of what its rates say."""

from __future__ import annotations

from tidefleet.routing.columns import Floats
from tidefleet.routing.endpoint import Ticket
from tidefleet.routing.metering import Shares
from tidefleet.routing.request import Ask

LEARNED = 0.1
"""Weight of one more measured time."""
WIDEST = 8.0
LEAST_HELD = 0.02
"""Share of requests' tokens that a device holds at least, however much they have in common."""
LEAST_RATE = 0.001
"""Requests/s of people below which only deferrable work is taken to come: some minutes after the last of them."""
_LEAST_SECONDS = 0.02
"""Below it a time to the first token says more about the network than about the engine."""


def corrected(factor: float, ratio: float) -> float:
    """A correction after one more measured time, as a share of what was expected with it."""
    step = min(2.0, max(0.5, ratio))
    return min(WIDEST, max(1.0 / WIDEST, factor * float(step**LEARNED)))


def teaches(ask: Ask, rate: float) -> bool:
    """Whether the times of a request tell how fast its endpoint is.

    Those of deferrable ones do where nobody else asks. Elsewhere they give way, and may be so many and so short that
    what people's prompts take is unlearned between two of these: a prompt of 40 tokens is over in one step, of which
    a prefill's least time says next to nothing. Waits would then be taken for half of what they are.

    Args:
        rate: requests/s of people in the pool.
    """
    return not ask.is_deferrable or rate < LEAST_RATE


def from_first_token(ticket: Ticket, now: float, prefill: Floats, steps: Floats, *, at: int, shares: Shares) -> None:
    """A request's first output came: correct the prefill of row ``at``, whose steps are corrected by ``steps``.

    A prompt's chunk is computed in a step with the batch, so with the first token one of its decode steps is over too.

    What is metered is corrected by answers alone of which the first token is seen: one that comes whole tells nothing
    of its prompt, though those who wait for its endpoint wait for all of it.
    """
    step = ticket.tpot_seconds * float(steps[at])
    expected, took = ticket.due - ticket.began + step, now - ticket.began
    if expected > _LEAST_SECONDS and took > 0.0:
        prefill[at] = corrected(float(prefill[at]), took / expected)
        if ticket.streams:
            shares.prefill_factor = corrected(shares.prefill_factor, took / expected)


def from_end(ticket: Ticket, now: float, output_tokens: float, step: Floats, at: int) -> None:
    """A request is over: correct the steps of row ``at``."""
    if ticket.first_at is not None and output_tokens > 1.0 and now > ticket.first_at:
        pace = (now - ticket.first_at) / (output_tokens - 1.0)
        step[at] = corrected(float(step[at]), pace / (ticket.tpot_seconds * float(step[at])))


def held_share(share: float, seen_tokens: float, running_tokens: float) -> float:
    """Share of its requests' tokens that a device holds, after one more report.

    Args:
        seen_tokens: that the requests which run there hold, as reported; running_tokens: their contexts.
    """
    if running_tokens <= 0.0:
        return share
    return share + LEARNED * (min(1.0, max(LEAST_HELD, seen_tokens / running_tokens)) - share)
