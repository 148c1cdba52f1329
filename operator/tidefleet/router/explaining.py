"""A pick and a pool as plain values for JSON: why this endpoint, what the others would have cost, who does what."""

from __future__ import annotations

from typing import Any

from tidefleet.router.metrics import balance
from tidefleet.router.pool_state import PoolState
from tidefleet.routing.pick import Alternative, Pick
from tidefleet.routing.rates import TIERS


def explained(found: Pick, state: PoolState | None) -> dict[str, Any]:
    """A pick: times in seconds, money in USD; sessions and tenants are left out, hashed as they are.

    Args:
        state: of its pool, where that is still there.
    """
    ask = found.ask
    return {
        "pool": ask.pool,
        "model": ask.model,
        "workloadClass": ask.wclass,
        "priority": ask.priority,
        "promptTokens": ask.tokens,
        "tokensExact": ask.token_exact,
        "expectedOutputTokens": ask.output_tokens,
        "address": found.address,
        "prefillAddress": found.prefill_address,
        "fallbacks": list(found.fallbacks),
        "reason": found.reason,
        "expectedTtftSeconds": round(found.expected_ttft_seconds, 6),
        "chosen": _terms(found.chosen),
        "others": [_terms(one) for one in found.others],
        "afterwards": _afterwards(found, state),
    }


def _afterwards(found: Pick, state: PoolState | None) -> dict[str, Any] | None:
    """Where the session's KV lies best until its next turn; the engine decides it."""
    ask = found.ask
    row = state.table.position(found.address) if state is not None else None
    if state is None or row is None:
        return None
    tokens = ask.tokens + ask.output_tokens
    best = state.table.retention(row, ask, tokens, tool_call=ask.ends_in_tool_call)
    return {"tier": TIERS[best.tier], "seconds": round(best.seconds, 1), "reason": best.reason}


def _terms(one: Alternative) -> dict[str, Any]:
    return {
        "address": one.address,
        "hitTokens": dict(zip(TIERS, one.hit_tokens, strict=False)),
        "waitSeconds": round(one.wait_seconds, 6),
        "fetchSeconds": round(one.fetch_seconds, 6),
        "prefillSeconds": round(one.prefill_seconds, 6),
        "decodeSeconds": round(one.decode_seconds, 6),
        "harmSeconds": round(one.harm_seconds, 6),
        "lateSeconds": round(one.late_seconds, 6),
        "totalSeconds": round(one.total_seconds, 6),
        "usd": round(one.usd, 9),
        "excluded": one.excluded,
    }


def pool_view(state: PoolState) -> dict[str, Any]:
    """A pool and its endpoints as they are now."""
    table = state.table
    return {
        "pool": state.served.key,
        "loadMaxOverMean": round(balance(state), 3),
        "queueRequests": len(state.queue),
        "deferredRequests": len(state.deferred),
        "kvEvents": state.has_events,
        "tokenizer": state.tokens is not None,
        "blocks": state.blocks.blocks,
        "chunks": state.chunks.blocks,
        "indexBytes": state.blocks.size_bytes + state.chunks.size_bytes,
        "bytesPerToken": round(state.bytes_per_token, 2),
        "endpoints": [
            {
                "address": address,
                "pod": state.ranks[address].pod,
                "accelerator": state.ranks[address].accelerator,
                "inFlight": int(table.running[row] + table.pending[row]),
                "running": float(table.running[row] + table.others_running[row]),
                "waiting": float(table.pending[row] + table.others_waiting[row]),
                "blocks": state.held(address),
                "usdPerHour": round(float(table.usd[row]) * 3600.0, 4),
                "state": _state(state, row),
                "odd": state.odd.get(address, ""),
            }
            for row, address in enumerate(table.addresses)
        ],
        "totals": state.totals.view(),
    }


def _state(state: PoolState, row: int) -> str:
    if state.table.ejected[row]:
        return "ejected"
    return "draining" if state.table.draining[row] else "healthy"
