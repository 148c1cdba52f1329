"""What a class of demand asks of a replica: token lengths, KV-tier hits, and latency objectives."""

from __future__ import annotations

from dataclasses import dataclass

PLANNED_METRICS = ("TTFT", "TPOT", "FirstVisibleToken", "Turn", "Task", "Stall")
"""Objectives that a replica's operating point is held to."""


@dataclass(frozen=True, slots=True)
class KvTier:
    """A store of KV blocks outside device memory.

    Attributes:
        medium: ``Host``, ``Disk`` or ``Shared``.
        bytes_per_second: rate at which one replica loads from it.
        latency_seconds: time before the first byte.
        usd_per_gib_month: rent of the space.
    """

    medium: str
    bytes_per_second: float
    latency_seconds: float = 0.0
    usd_per_gib_month: float = 0.0


@dataclass(frozen=True, slots=True)
class TierHit:
    """Share of the prompt's tokens (0..1) whose KV is found in this tier and in no faster one."""

    tier: KvTier
    share: float


@dataclass(frozen=True, slots=True)
class TokenShape:
    """Token lengths of one class of demand, per request.

    Attributes:
        input_mean, input_p95: prompt tokens, cached ones included.
        output_mean, output_p95: generated tokens, reasoning included.
        cached_share: share of prompt tokens found in the device's prefix cache, 0..1 (tokens, not requests).
        reasoning_mean: generated tokens before the first visible one; part of output_mean.
        reasoning_p95: the same at the 95th percentile; 0 = unknown.
        calls_per_task: requests of this shape that one task makes, one after the other.
        tier_hits: further shares of the prompt found in slower KV tiers.
    """

    input_mean: float
    output_mean: float
    input_p95: float = 0.0
    output_p95: float = 0.0
    cached_share: float = 0.0
    reasoning_mean: float = 0.0
    reasoning_p95: float = 0.0
    calls_per_task: float = 1.0
    tier_hits: tuple[TierHit, ...] = ()

    @property
    def uncached(self) -> float:
        """Mean prompt tokens to prefill, S, when no slower tier is used."""
        return self.input_mean * (1.0 - self.cached_share)

    @property
    def cached(self) -> float:
        """Mean prompt tokens found in the device's cache, C."""
        return self.input_mean * self.cached_share

    @property
    def longest(self) -> float:
        """Context that must fit at all: p95 of prompt plus p95 of output."""
        return max(self.input_mean, self.input_p95) + max(self.output_mean, self.output_p95)

    def input_at(self, percentile: float) -> float:
        """Prompt tokens that objectives of this percentile are held at: p95 from the 90th on, the mean below."""
        return self.input_p95 if percentile >= 90.0 and self.input_p95 else self.input_mean

    def output_at(self, percentile: float) -> float:
        """Generated tokens that objectives of this percentile are held at."""
        return self.output_p95 if percentile >= 90.0 and self.output_p95 else self.output_mean

    def reasoning_at(self, percentile: float) -> float:
        """Tokens before the first visible one that objectives of this percentile are held at."""
        return self.reasoning_p95 if percentile >= 90.0 and self.reasoning_p95 else self.reasoning_mean


@dataclass(frozen=True, slots=True)
class Objective:
    """A latency promise: at this percentile, ``metric`` stays below ``seconds`` (+ a part per 1,000 prompt tokens).

    ``metric`` is one of ``PLANNED_METRICS``.
    """

    metric: str
    seconds: float
    percentile: float = 95.0
    seconds_per_thousand_input_tokens: float = 0.0

    def limit(self, input_tokens: float) -> float:
        """Seconds allowed for a prompt of this length."""
        return self.seconds + self.seconds_per_thousand_input_tokens * input_tokens / 1000.0
