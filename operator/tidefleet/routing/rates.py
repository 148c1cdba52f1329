"""How fast an endpoint prefills, decodes and fetches: the roofline of ``economics`` as a few coefficients.

A pick evaluates these for every endpoint, so the curves are straight lines in what a pick varies:

    T_p(S, C) = max(floor, p1*S + p2*S*(C + S/2))     S uncached tokens behind C cached ones
    T_d(B, N) = s0 + s1*B + s2*N                      B sequences that hold N tokens of context together
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidefleet.economics.memory import kv_bytes_per_token
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill

DEVICE, HOST, DISK, SHARED = 0, 1, 2, 3
TIERS = ("device", "host", "disk", "shared")
"""Where KV blocks lie, fastest first; the row numbers of ``Hits.blocks``."""

_PROMPTS = np.array([512.0, 2048.0, 8192.0, 32768.0])
_BEHIND = np.array([0.0, 8192.0, 65536.0])
_BATCHES = np.array([1.0, 4.0, 16.0, 64.0, 128.0, 256.0])
_CONTEXTS = np.array([512.0, 4096.0, 16384.0])


@dataclass(frozen=True, slots=True)
class Rates:
    """Speeds of one endpoint.

    Attributes:
        prefill_seconds_per_token: p1.
        prefill_seconds_per_pair: p2, seconds per (token, context token): the attention.
        prefill_floor_seconds: a forward pass of a few tokens.
        step_seconds: s0, a decode step of an empty batch (weights and launches).
        step_seconds_per_sequence: s1.
        step_seconds_per_kv_token: s2.
        kv_bytes_per_token: kappa.
        tier_bytes_per_second: measured bandwidth of host, disk and shared store; 0 = there is none.
        tier_latency_seconds: time before the first byte of each.
        transfer_bytes_per_second: from a prefill endpoint to a decode endpoint; 0 = not connected.
    """

    prefill_seconds_per_token: float
    prefill_seconds_per_pair: float = 0.0
    prefill_floor_seconds: float = 0.005
    step_seconds: float = 0.01
    step_seconds_per_sequence: float = 0.0001
    step_seconds_per_kv_token: float = 0.0
    kv_bytes_per_token: float = 131072.0
    tier_bytes_per_second: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tier_latency_seconds: tuple[float, float, float] = (0.001, 0.005, 0.005)
    transfer_bytes_per_second: float = 0.0

    def __post_init__(self) -> None:
        if not self.prefill_seconds_per_token > 0.0 or not self.step_seconds > 0.0:
            raise ValueError(
                f"Rates: prefill_seconds_per_token {self.prefill_seconds_per_token} and step_seconds "
                f"{self.step_seconds} must be positive, e.g. 0.0001 and 0.01"
            )

    def prefill_seconds(self, uncached: float, cached: float = 0.0) -> float:
        """T_p; 0 for no token."""
        if uncached <= 0.0:
            return 0.0
        work = uncached * (self.prefill_seconds_per_token + self.prefill_seconds_per_pair * (cached + uncached / 2.0))
        return max(self.prefill_floor_seconds, work)

    def tpot_seconds(self, batch: float, context_tokens: float) -> float:
        """T_d of a batch whose sequences hold ``context_tokens`` together."""
        return (
            self.step_seconds
            + self.step_seconds_per_sequence * batch
            + self.step_seconds_per_kv_token * max(0.0, context_tokens)
        )

    def fetch_seconds(self, tokens: float, tier: int) -> float:
        """Time to bring KV of ``tokens`` tokens from a tier into the device; infinite where there is no such tier."""
        if tier == DEVICE or tokens <= 0.0:
            return 0.0
        bandwidth = self.tier_bytes_per_second[tier - 1]
        if bandwidth <= 0.0:
            return float("inf")
        return self.tier_latency_seconds[tier - 1] + tokens * self.kv_bytes_per_token / bandwidth


def rates_of(
    replica: Replica,
    *,
    tier_bytes_per_second: tuple[float, float, float] = (0.0, 0.0, 0.0),
    tier_latency_seconds: tuple[float, float, float] = (0.001, 0.005, 0.005),
    transfer_bytes_per_second: float = 0.0,
) -> Rates:
    """Coefficients fitted to the roofline of a replica, or of one of its data-parallel ranks.

    Least squares of relative errors, never below zero, over prompts of 512 to 32,768 tokens behind up to 65,536
    cached ones, and over batches of 1 to 256 with 512 to 16,384 tokens each.
    """
    uncached, cached = (one.ravel() for one in np.meshgrid(_PROMPTS, _BEHIND))
    taken = prefill(replica, uncached, cached).seconds
    p1, p2 = _fit(np.stack([uncached, uncached * (cached + uncached / 2.0)]), taken)
    batch, context = (one.ravel() for one in np.meshgrid(_BATCHES, _CONTEXTS))
    steps = decode_step(replica, batch * replica.data_parallel, context).seconds
    s0, s1, s2 = _fit(np.stack([np.ones_like(batch), batch, batch * context]), steps)
    return Rates(
        prefill_seconds_per_token=max(p1, 1e-9),
        prefill_seconds_per_pair=p2,
        prefill_floor_seconds=float(prefill(replica, 16.0, 0.0).seconds[0]),
        step_seconds=max(s0, 1e-6),
        step_seconds_per_sequence=s1,
        step_seconds_per_kv_token=s2,
        kv_bytes_per_token=kv_bytes_per_token(replica.model, replica.kv, replica.tp),
        tier_bytes_per_second=tier_bytes_per_second,
        tier_latency_seconds=tier_latency_seconds,
        transfer_bytes_per_second=transfer_bytes_per_second,
    )


def _fit(terms: np.ndarray, seconds: np.ndarray) -> list[float]:
    """Coefficients >= 0 of ``terms`` (k, points) for ``seconds`` (points,): negative ones are left out."""
    scaled = (terms / seconds).T
    kept = list(range(len(terms)))
    while True:
        found, *_ = np.linalg.lstsq(scaled[:, kept], np.ones(len(seconds)), rcond=None)
        if (found >= 0.0).all() or len(kept) == 1:
            break
        kept.pop(int(np.argmin(found)))
    values = [0.0] * len(terms)
    for place, value in zip(kept, found, strict=True):
        values[place] = max(0.0, float(value))
    return values
