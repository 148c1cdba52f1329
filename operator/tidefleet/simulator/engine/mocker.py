"""The engine of Dynamo's replays: the speeds that its mock workers have unless told otherwise.

A step with t prompt tokens takes 4.209989e-07 t^2 + 1.518344e-02 t + 16.50142 ms, a decode step
-25.74 u^2 + 54.01 u + 5.74 ms (at least 1) where u is the share of the KV room in use (ai-dynamo/dynamo, lib/mocker,
``PerfModel::Polynomial``, Apache-2.0). What is cached before a prompt costs nothing there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tidefleet.routing.rates import Rates
from tidefleet.simulator.engine.facts import Facts

_SQUARE, _LINEAR, _FIXED = 4.209989e-10, 1.518344e-5, 1.650142e-2
_USE_SQUARE, _USE, _IDLE = -25.74e-3, 54.01e-3, 5.74e-3


class Mocker:
    """Its times.

    Args:
        kv_tokens: KV room of a worker; chunk_tokens: prompt tokens that a step takes at most.
    """

    def __init__(self, kv_tokens: float, chunk_tokens: int) -> None:
        self._room = kv_tokens
        self._chunk = chunk_tokens

    def prompts_seconds(self, prompts: Sequence[tuple[float, float]]) -> float:
        """Of all their uncached tokens, step by step."""
        whole, rest = divmod(sum(new for new, _ in prompts), self._chunk)
        return whole * _prompt(self._chunk) + (_prompt(rest) if rest else 0.0)

    def step_seconds(self, batch: float, context_tokens: float) -> float:
        """By the share of the KV room in use."""
        use = min(1.0, context_tokens / self._room)
        return max(1e-3, (_USE_SQUARE * use + _USE) * use + _IDLE)

    def fetch_seconds(self, tokens: float, tier: int) -> float:
        """There are no tiers."""
        return 0.0 if tokens <= 0.0 else float("inf")


def mocked(facts: Facts, chunk_tokens: int) -> tuple[Facts, Mocker]:
    """A pool's facts with the speeds that a router learns of such workers, and their own."""
    rates = Rates(
        prefill_seconds_per_token=_LINEAR + _FIXED / chunk_tokens,
        prefill_seconds_per_pair=_SQUARE,
        prefill_floor_seconds=_FIXED,
        step_seconds=_IDLE,
        step_seconds_per_sequence=0.0,
        step_seconds_per_kv_token=_USE / facts.kv_tokens,
        kv_bytes_per_token=facts.rates.kv_bytes_per_token,
    )
    return replace(facts, rates=rates), Mocker(facts.kv_tokens, chunk_tokens)


def _prompt(tokens: float) -> float:
    return (_SQUARE * tokens + _LINEAR) * tokens + _FIXED
