"""From a request's headers and body to what the pick is asked: pool, class, session, prompt keys, promises."""

from __future__ import annotations

from collections.abc import Mapping

from tidefleet.api import WorkloadClass
from tidefleet.api.workload_class import ObjectiveMetric
from tidefleet.economics.revenue import Prices
from tidefleet.router.bodies import Body
from tidefleet.router.pool_state import PoolState
from tidefleet.router.tokens import Tokens
from tidefleet.routing.hashing import apart, hashed
from tidefleet.routing.margin import with_margin
from tidefleet.routing.request import NO_KEYS, Ask
from tidefleet.routing.terms import held_tokens

AGENT_SESSION_HEADERS = (
    "x-claude-code-session-id",  # Claude Code
    "session-id",  # Codex
    "session_id",  # Codex, before
    "x-opencode-session",  # OpenCode
    "x-session-id",
    "x-session-affinity",  # OpenCode, before
)
"""Where coding agents name their session, beside a pool's own header; the first that is there counts."""
LONGEST_ID = 512
"""Bytes of a session's or tenant's name that are hashed; what is longer names nobody."""
DEFAULT_OUTPUT_TOKENS = 256.0


def session_of(headers: Mapping[str, str], own_header: str, body: Body | None, secret: bytes, scope: str) -> int | None:
    """The session that a request belongs to, hashed with its pool: two tenants' equal names are told apart by `scope`.

    Args:
        own_header: the pool's; it wins.
        scope: pool, and tenant where one is known.
    """
    names = (own_header.lower(), *AGENT_SESSION_HEADERS)
    value = next((headers[name] for name in names if headers.get(name)), "") or _cookie(headers, own_header)
    if not value and body is not None:
        value = body.session
    if not value or len(value) > LONGEST_ID:
        return None
    return hashed(f"{scope}\x00{value}", secret)


def _cookie(headers: Mapping[str, str], name: str) -> str:
    for part in headers.get("cookie", "").split(";"):
        key, _, value = part.strip().partition("=")
        if key.lower() == name.lower():
            return value
    return ""


def tenant_of(headers: Mapping[str, str], wclass: WorkloadClass | None, secret: bytes) -> int | None:
    """The tenant, hashed; None where its class names no header or the request has none."""
    if wclass is None or wclass.spec.tenant_key is None:
        return None
    value = headers.get(wclass.spec.tenant_key.header.lower(), "")
    return hashed(value, secret) if value and len(value) <= LONGEST_ID else None


def ask_of(
    pool: PoolState,
    body: Body | None,
    headers: Mapping[str, str],
    *,
    tokens: Tokens | None,
    secret: bytes,
    now: float,
) -> Ask:
    """What the pick is asked for a request.

    Args:
        tokens: its prompt, where the pool's tokenizer has encoded it.
    """
    served, model = pool.served, body.model if body is not None else ""
    adapter = model if model in pool.adapters else None
    wclass = pool.wclass(model, adapter, headers)
    tenant = tenant_of(headers, wclass, secret)
    scope = served.key if tenant is None else f"{served.key}\x00{tenant}"
    own_header = served.spec.spec.gateway.session_header if served.spec is not None else "x-session-id"
    session = session_of(headers, own_header, body, secret, scope)
    keys, count, block, exact = NO_KEYS, 1, pool.block_tokens, False
    if tokens is not None:
        keys, count, exact = pool.token_state(tokens, session, now, adapter=adapter).keys, len(tokens), True
    elif body is not None and body.pieces:
        text = "".join(body.pieces).encode("utf-8", "surrogatepass")
        keys = pool.text_keys(text, session, now, adapter=adapter)
        count, block = pool.tokens_of(len(text)), pool.chunk_tokens
    if body is not None and body.cache_salt:
        keys = apart(keys, [[body.cache_salt]])
    ttft, tpot = _objective(wclass, ObjectiveMetric.TTFT, count), _objective(wclass, ObjectiveMetric.TPOT, count)
    spec = wclass.spec if wclass is not None else None
    output = _output(wclass)
    if body is not None and body.output_cap is not None:
        output = min(output, float(body.output_cap))
    deadline = None
    if spec is not None and spec.demand is not None and spec.demand.deadline_seconds:
        deadline = now + float(spec.demand.deadline_seconds)
    return Ask(
        pool=served.key,
        model=model,
        tokens=count,
        keys=keys,
        block_size=block,
        session=session,
        tenant=tenant,
        wclass=wclass.name if wclass is not None else "",
        priority=spec.priority if spec is not None else 0,
        output_tokens=output,
        ttft_objective_seconds=ttft,
        tpot_objective_seconds=tpot,
        deadline=deadline,
        lora=adapter,
        token_exact=exact,
        cache_ttl_seconds=body.cache_seconds if body is not None else None,
        ends_in_tool_call=body.after_tool if body is not None else False,
    )


def _objective(wclass: WorkloadClass | None, metric: ObjectiveMetric, tokens: int) -> float | None:
    if wclass is None:
        return None
    found = [
        one.milliseconds + (one.per_thousand_input_tokens_milliseconds or 0) * tokens / 1000.0
        for one in wclass.spec.objectives
        if one.metric is metric
    ]
    return min(found) / 1000.0 if found else None


def _output(wclass: WorkloadClass | None) -> float:
    tokens = wclass.spec.tokens if wclass is not None else None
    mean = tokens.output.mean if tokens is not None and tokens.output is not None else None
    return float(mean) if mean else DEFAULT_OUTPUT_TOKENS


def revenue_usd(prices: Prices | None, ask: Ask, *, cached_tokens: float = 0.0) -> float | None:
    """What a request earns in USD at its class's prices; None where nothing says so.

    Args:
        cached_tokens: of its prompt, that are found in a cache.
    """
    if prices is None:
        return None
    writes = ask.cache_ttl_seconds is not None
    return prices.request_usd(
        float(ask.tokens), cached_tokens, ask.output_tokens, writes_cache=writes, batch=ask.is_deferrable
    )


def priced(pool: PoolState, ask: Ask) -> Ask:
    """A request with its margin, counted with what the endpoint that holds most of its prompt need not prefill."""
    held = held_tokens(ask, pool.table, pool.match(ask.keys, exact=ask.token_exact))[0]
    cached = float(held.max()) if len(held) else 0.0
    earned = revenue_usd(pool.prices.get(ask.wclass), ask, cached_tokens=cached)
    return with_margin(ask, pool.table, earned, cached_tokens=cached)
