"""Measured profiles: points of a benchmark become a correction of the roofline for the same replica."""

from __future__ import annotations

import numpy as np

from tidefleet.economics.evidence import Correction, ProfilePoint, monotone, profile_sigma
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill

_ALONE = 1.5


def profile_correction(
    replica: Replica, points: tuple[ProfilePoint, ...], *, age_days: float, same_version: bool, source: str = ""
) -> Correction | None:
    """The correction that a profile's points give, or ``None`` when no point has a usable time between tokens.

    Each point's measured TPOT is divided by the roofline's at the same batch and lengths; between batches the factor is
    interpolated in log batch, and made such that the corrected time never falls as the batch grows. The time to first
    token of a point measured without load (batch 1) corrects prefill.

    Args:
        age_days: days since it was measured.
        same_version: whether the pool runs the engine version that was measured.
    """
    usable = sorted((one for one in points if one.tpot_seconds and one.batch >= 1), key=lambda one: one.batch)
    if not usable:
        return None
    by_batch: dict[float, list[tuple[float, float]]] = {}
    for one in usable:
        step = decode_step(replica, np.array([one.batch]), one.input_tokens + one.output_tokens / 2.0)
        own = prefill(replica, one.input_tokens, 0.0).seconds[0] / replica.data_parallel
        modelled = float(step.seconds[0]) + one.batch / max(1.0, one.output_tokens) * float(own)
        by_batch.setdefault(one.batch, []).append(((one.tpot_seconds or 0.0) / modelled, modelled))
    batches = list(by_batch)
    factors = [float(np.median([f for f, _ in by_batch[b]])) for b in batches]
    times = [float(np.median([t for _, t in by_batch[b]])) for b in batches]
    factors = monotone(factors, times)
    alone = [one for one in points if one.ttft_seconds and one.batch <= _ALONE]
    ratios = [
        one.ttft_seconds / float(prefill(replica, one.input_tokens, 0.0).seconds[0])
        for one in alone
        if one.ttft_seconds
    ]
    prefill_factor = float(np.median(ratios)) if ratios else factors[0]
    return Correction(
        provenance="Profile",
        sigma=profile_sigma(age_days, same_version),
        decode=tuple(zip(batches, factors, strict=True)),
        prefill=prefill_factor,
        source=source,
    )
