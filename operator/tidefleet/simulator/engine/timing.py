"""How long an engine's prompts, steps and fetches take: what a replica asks of its speeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tidefleet.routing.rates import Rates


class Timing(Protocol):
    """Speeds of one engine, in seconds."""

    def prompts_seconds(self, prompts: Sequence[tuple[float, float]]) -> float:
        """Prefill of prompts given as (uncached tokens, cached tokens before them), in chunks that they share."""

    def step_seconds(self, batch: float, context_tokens: float) -> float:
        """One decode step of a batch whose sequences hold so many tokens together."""

    def fetch_seconds(self, tokens: float, tier: int) -> float:
        """KV of so many tokens from a tier (``routing.rates``), latency included; infinite = there is none."""


class StraightLines:
    """The coefficients that the router's picks use."""

    __slots__ = ("_floor", "_p1", "_p2", "_s0", "_s1", "_s2", "rates")

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self._p1, self._p2 = rates.prefill_seconds_per_token, rates.prefill_seconds_per_pair
        self._floor = rates.prefill_floor_seconds
        self._s0, self._s1 = rates.step_seconds, rates.step_seconds_per_sequence
        self._s2 = rates.step_seconds_per_kv_token

    def prompts_seconds(self, prompts: Sequence[tuple[float, float]]) -> float:
        """The sum of theirs, at least one forward pass."""
        p1, p2 = self._p1, self._p2
        return max(self._floor, sum(new * (p1 + p2 * (old + new / 2.0)) for new, old in prompts))

    def step_seconds(self, batch: float, context_tokens: float) -> float:
        """T_d."""
        return self._s0 + self._s1 * batch + self._s2 * context_tokens

    def fetch_seconds(self, tokens: float, tier: int) -> float:
        """Latency and transfer."""
        return self.rates.fetch_seconds(tokens, tier)
