"""Which number wins: what was measured about a replica corrects the roofline, the best evidence first.

Live calibration beats a measured profile; after these, whichever model of the time has the lowest measured sigma for
this model, system and engine. Every estimate carries the provenance and the relative sigma of what won, and plans use
a lower quantile of the capacity: an unsure number costs headroom instead of an objective.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidefleet.economics.replica import Replica

Floats = NDArray[np.float64]

ROOFLINE_SIGMA = 0.25
"""Relative one-sigma error of the uncalibrated roofline on TPOT (23.2 % mean error over 1,754 measured rows)."""

PLANNING_Z = 0.6744897501960817
"""Standard deviations below the expected capacity that plans use: the lower quartile."""

_RANK = {"Live": 0, "Profile": 1}
_FACTORS = (0.2, 5.0)


@dataclass(frozen=True, slots=True)
class Correction:
    """Measured time over the roofline's time.

    Attributes:
        provenance: ``Live``, ``Profile``, ``Group`` (one scalar per model, system, engine and precision) or
            ``Roofline``.
        sigma: relative one-sigma error of times so corrected.
        decode: (batch, factor) points in rising order of batch; between them the factor is interpolated in the
            logarithm of the batch, beyond them it stays.
        prefill: factor on prefill times.
        source: where the measurement comes from, for people.
        unseen: what sigma grows by, in quadrature, for each e-fold of batch beyond the outermost points.
        most: what sigma grows to at most: that of the roofline it corrects, for the same hardware and kind of model.
    """

    provenance: str
    sigma: float
    decode: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    prefill: float = 1.0
    source: str = ""
    unseen: float = 0.0
    most: float = ROOFLINE_SIGMA

    def sigma_at(self, batch: float) -> float:
        """Relative sigma at a batch: that of the points, more where nothing was measured, at most the roofline's."""
        if not self.unseen:
            return self.sigma
        beyond = max(0.0, math.log(max(1.0, batch) / self.decode[-1][0]), math.log(self.decode[0][0] / max(1.0, batch)))
        return max(self.sigma, min(self.most, math.hypot(self.sigma, self.unseen * beyond)))

    def decode_factor(self, batch: Floats) -> Floats:
        """The factor on decode steps at these batch sizes, within 1/5 to 5."""
        if len(self.decode) == 1:
            return np.full_like(batch, min(_FACTORS[1], max(_FACTORS[0], self.decode[0][1])))
        at = np.log([max(1.0, b) for b, _ in self.decode])
        return np.clip(np.interp(np.log(np.maximum(batch, 1.0)), at, [f for _, f in self.decode]), *_FACTORS)

    @property
    def prefill_factor(self) -> float:
        """The factor on prefill times, within 1/5 to 5."""
        return min(_FACTORS[1], max(_FACTORS[0], self.prefill))


UNCORRECTED = Correction("Roofline", ROOFLINE_SIGMA)
"""The roofline as it is, where nothing is known about how far it is off."""


def roofline_of(replica: Replica) -> Correction:
    """The roofline as it is, with the error that was measured for this hardware and kind of model."""
    if replica.efficiency is not None or replica.accelerator.compute_precision(replica.weights) is None:
        return UNCORRECTED
    start = replica.starting
    return Correction("Roofline", start.sigma, source=start.source)


def best_evidence(corrections: Iterable[Correction], otherwise: Correction = UNCORRECTED) -> Correction:
    """The correction that wins: live calibration, then a profile, then the lowest sigma; unusable ones are left out."""
    usable = [one for one in (*corrections, otherwise) if is_usable(one)]
    return min(usable, key=lambda one: (_RANK.get(one.provenance, 2), one.sigma), default=otherwise)


def is_usable(correction: Correction) -> bool:
    """Whether every number of a correction is finite and positive."""
    numbers = [correction.sigma, correction.prefill, *(f for _, f in correction.decode)]
    return bool(correction.decode) and all(math.isfinite(one) and one > 0 for one in numbers)


def planning_share(sigma: float, z: float = PLANNING_Z) -> float:
    """Share of the expected capacity that plans count on: exp(-z * sigma), the quantile of a log-normal error."""
    return math.exp(-z * max(0.0, sigma))


@dataclass(frozen=True, slots=True)
class ProfilePoint:
    """One measured point: a batch of sequences of these lengths, and the seconds measured; ``None`` = not measured."""

    batch: float
    input_tokens: float
    output_tokens: float
    tpot_seconds: float | None = None
    ttft_seconds: float | None = None


PROFILE_SIGMA = 0.08
"""Relative one-sigma error of a fresh profile at its own engine version: run-to-run spread and other lengths."""

OTHER_VERSION_SIGMA = 0.15
"""Added (in quadrature) for a profile of another engine version: engines have gained several times their speed
within months."""

SIGMA_PER_YEAR = 0.20
"""Added (in quadrature) for each year of a profile's age."""


def profile_sigma(age_days: float, same_version: bool) -> float:
    """Relative sigma of a profile of this age."""
    return with_age(PROFILE_SIGMA, age_days, same_version)


def with_age(sigma: float, age_days: float, same_version: bool) -> float:
    """A fresh measurement's relative sigma with what its age and another engine version add, in quadrature."""
    aged = SIGMA_PER_YEAR * max(0.0, age_days) / 365.0
    return math.sqrt(sigma**2 + aged**2 + (0.0 if same_version else OTHER_VERSION_SIGMA**2))


def monotone(factors: Sequence[float], times: Sequence[float]) -> list[float]:
    """Factors changed as little as needed that times never fall as the batch grows (pool adjacent violators).

    Args:
        factors: measured over modelled time, by rising batch.
        times: modelled times at the same batches.
    """
    blocks: list[list[float]] = []  # [sum of measured times, count]
    for factor, modelled in zip(factors, times, strict=True):
        blocks.append([factor * modelled, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    level = [total / count for total, count in blocks for _ in range(int(count))]
    return [measured / modelled for measured, modelled in zip(level, times, strict=True)]
