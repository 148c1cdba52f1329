"""Measured profiles: points of a benchmark become a correction of the roofline, for the same replica and for its group.

A group is one model on one accelerator with one engine and one precision, of any width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tidefleet.economics.calibration import Sample, calibrate
from tidefleet.economics.evidence import Correction, ProfilePoint, monotone, profile_sigma, with_age
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill

_ALONE = 1.5

OTHER_WIDTH_SIGMA = 0.12
"""Added (in quadrature) where points of other widths speak for a replica: so that errors are as large as told, where
the scalar of one width's runs predicts the group's other widths (benchmarks/economics.py, ``mape_other_width``)."""


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
        modelled = _modelled_tpot(replica, one)
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


def group_correction(
    measured: Sequence[tuple[Replica, ProfilePoint]], *, age_days: float, same_version: bool, source: str = ""
) -> Correction | None:
    """The correction by one scalar that points of a group give to replicas of it that have no profile of their own.

    ``None`` when no point has a usable time between tokens. How far the scalar carries is in its sigma: points of the
    group that disagree, or few points, leave it near the roofline's own, which then counts.

    Args:
        measured: points, each with the replica that it was measured on.
        age_days: days since the oldest of them was measured.
        same_version: whether the pool runs the engine version that all of them were measured on.
    """
    known = calibrate(
        Sample(one.tpot_seconds, _modelled_tpot(replica, one))
        for replica, one in measured
        if one.tpot_seconds and one.batch >= 1
    )
    if not known.samples:
        return None
    return Correction(
        provenance=known.provenance,
        sigma=with_age(math.hypot(known.sigma, OTHER_WIDTH_SIGMA), age_days, same_version),
        decode=((1.0, known.factor),),
        prefill=known.factor,
        source=source,
    )


def _modelled_tpot(replica: Replica, point: ProfilePoint) -> float:
    """Seconds between tokens that the roofline gives at a point: T_d(B, I + O/2) + B/O * T_p(I)."""
    step = decode_step(replica, np.array([point.batch]), point.input_tokens + point.output_tokens / 2.0)
    own = prefill(replica, point.input_tokens, 0.0).seconds[0] / replica.data_parallel
    return float(step.seconds[0]) + point.batch / max(1.0, point.output_tokens) * float(own)
