"""What a request earns beyond its cost, in a second of its endpoint: who goes first where endpoints are scarce.

For a request of n tokens, S of them uncached, and O expected output tokens, at an endpoint that is as fast and as full
as the pool's are on average (``metering`` tells what it took once it is over):

    seconds = T_p(S) + O * (s0 / B + s1 + s2 * (n + O/2))     B sequences share a step
    margin  = revenue - seconds * price of the endpoint
"""

from __future__ import annotations

from dataclasses import replace

from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.metering import decode_seconds
from tidefleet.routing.request import Ask


def endpoint_seconds(ask: Ask, table: Endpoints, *, cached_tokens: float = 0.0) -> float | None:
    """Seconds of one endpoint that a request takes from others; ``None`` where the pool has no endpoint.

    A prefill has the endpoint to itself. Of a decode step a request takes what it adds, and its part of what every step
    costs (reading the weights), shared by the requests that run at an endpoint now.
    """
    count = len(table)
    if not count:
        return None
    n, output = float(ask.tokens), ask.output_tokens
    uncached = max(1.0, n - cached_tokens)
    p1, p2, s0, s1, s2 = (float(one.mean()) for one in (table.p1, table.p2, table.s0, table.s1, table.s2))
    prefill = max(float(table.floor.mean()), uncached * (p1 + p2 * (n - 0.5 * uncached)))
    batch = max(1.0, float((table.running + table.pending + table.others_running).mean()))
    decode = decode_seconds(output, n + 0.5 * output, 1.0 / batch, s0=s0, s1=s1, s2=s2)
    return prefill * float(table.prefill_factor.mean()) + decode * float(table.step_factor.mean())


def with_margin(ask: Ask, table: Endpoints, revenue_usd: float | None, *, cached_tokens: float = 0.0) -> Ask:
    """A request with its margin and the seconds that it takes, where both are known.

    Args:
        revenue_usd: what it earns; ``None`` = nobody says.
        cached_tokens: of its prompt, that are not prefilled.
    """
    seconds = endpoint_seconds(ask, table, cached_tokens=cached_tokens)
    if revenue_usd is None or seconds is None:
        return ask
    return replace(ask, margin_usd=revenue_usd - seconds * table.mean_usd, endpoint_seconds=seconds)
