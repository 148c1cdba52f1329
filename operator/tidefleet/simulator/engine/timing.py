"""How long an engine's prompts, steps and fetches take: what a replica asks of its speeds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tidefleet.economics.replica import Replica as Copy
from tidefleet.economics.roofline import decode_step, prefill
from tidefleet.routing.rates import Rates


class Timing(Protocol):
    """Speeds of one engine, in seconds."""

    def prompts_seconds(self, prompts: Sequence[tuple[float, float]]) -> float:
        """Prefill of prompts given as (uncached tokens, cached tokens before them), in chunks that they share."""

    def step_seconds(self, batch: float, context_tokens: float) -> float:
        """One decode step of a batch whose sequences hold so many tokens together."""

    def fetch_seconds(self, tokens: float, tier: int) -> float:
        """KV of so many tokens from a tier (``routing.rates``), latency included; infinite = there is none."""


class Roofline:
    """The cost model's own times, read off tables: what the straight lines that a router uses are fitted to.

    Prefill is interpolated over uncached and cached tokens, beyond the tables in a straight line; a step is exact in
    the batch and linear in the context that it reads. Prompts that share chunks share the linear layers' pass.

    Args:
        rates: for fetches.
        prefill_factor, step_factor: measured over modelled time.
    """

    __slots__ = ("_base", "_rates", "_slope", "_table")

    def __init__(self, replica: Copy, rates: Rates, *, prefill_factor: float = 1.0, step_factor: float = 1.0) -> None:
        self._rates = rates
        new, old = np.meshgrid(np.array(_NEW), np.array(_OLD), indexing="ij")
        self._table: list[list[float]] = (prefill_factor * prefill(replica, new, old).seconds).tolist()
        batch = np.arange(1, MOST_BATCH + 1, dtype=float)
        ranks = replica.data_parallel
        low, high = (decode_step(replica, batch * ranks, context).seconds for context in _CONTEXTS)
        slope = step_factor * (high - low) / ((_CONTEXTS[1] - _CONTEXTS[0]) * batch)
        self._slope: list[float] = slope.tolist()
        self._base: list[float] = (step_factor * low - slope * batch * _CONTEXTS[0]).tolist()

    def prompts_seconds(self, prompts: Sequence[tuple[float, float]]) -> float:
        """Of one prompt T_p; of several that of all their tokens, and what each one's cached tokens cost beside."""
        if len(prompts) == 1:
            return self._prefill(*prompts[0])
        behind = sum(self._prefill(new, old) - self._prefill(new, 0.0) for new, old in prompts if old > 0.0)
        return self._prefill(sum(new for new, _ in prompts), 0.0) + behind

    def step_seconds(self, batch: float, context_tokens: float) -> float:
        """T_d."""
        at = int(batch) - 1
        if not 0 <= at < MOST_BATCH:
            at = min(MOST_BATCH, max(1, at + 1)) - 1
        return self._base[at] + self._slope[at] * context_tokens

    def fetch_seconds(self, tokens: float, tier: int) -> float:
        """Latency and transfer."""
        return self._rates.fetch_seconds(tokens, tier)

    def _prefill(self, new: float, old: float) -> float:
        row = min(max(0, bisect_right(_NEW, new) - 1), len(_NEW) - 2)
        column = min(max(0, bisect_right(_OLD, old) - 1), len(_OLD) - 2)
        right = (old - _OLD[column]) / (_OLD[column + 1] - _OLD[column])
        down = max(0.0, (new - _NEW[row]) / (_NEW[row + 1] - _NEW[row]))
        upper, lower = self._table[row], self._table[row + 1]
        first = upper[column] + right * (upper[column + 1] - upper[column])
        second = lower[column] + right * (lower[column + 1] - lower[column])
        return first + down * (second - first)


MOST_BATCH = 2048
_NEW = (1.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 12288.0, 16384.0, 24576.0, 32768.0,
        49152.0, 65536.0, 98304.0, 131072.0)  # fmt: skip
_OLD = (0.0, 1024.0, 4096.0, 16384.0, 65536.0, 131072.0, 262144.0)
_CONTEXTS = (512.0, 8192.0)
