"""What measurements say about the model's times: one scalar per group of like replicas, with how sure it is.

A group is one model on one accelerator with one engine and one precision. Its scalar multiplies every time that the
roofline gives for the group; the shape of the curve over batch and lengths stays the roofline's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

FACTORS = (0.2, 5.0)
"""Bounds of a scalar: measurements beyond them say that something else is wrong (unit, model, scrape)."""

PRIOR_SIGMA = 0.25
"""Relative error of the roofline from group to group before anything was measured."""

SAMPLE_SIGMA = 0.15
"""Relative error of one measurement around its group's scalar where the samples themselves do not tell."""

_MEDIAN_PENALTY = math.pi / 2.0  # variance of a median over that of a mean, normal errors
_MAD_TO_SIGMA = 1.4826  # median absolute deviation of a normal distribution


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: seconds that were measured and seconds that the roofline gives for the same."""

    measured_seconds: float
    modelled_seconds: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured over modelled time of one group.

    Attributes:
        factor: multiplies modelled times; within ``FACTORS``.
        samples: measurements that were used.
        rejected: measurements that were not finite and positive.
        sigma: relative one-sigma error of a time so corrected: spread of the samples and error of the factor.
        provenance: ``Group``, or ``Roofline`` while nothing was measured.
    """

    factor: float = 1.0
    samples: int = 0
    rejected: int = 0
    sigma: float = PRIOR_SIGMA
    provenance: str = "Roofline"

    def seconds(self, modelled_seconds: float) -> float:
        """The corrected time."""
        return self.factor * modelled_seconds


UNCALIBRATED = Calibration()
"""The roofline as it is."""


def calibrate(samples: Iterable[Sample], *, prior_sigma: float = PRIOR_SIGMA) -> Calibration:
    """The calibration that samples of one group give.

    The scalar is exp of the median log ratio, so single outliers do not move it, shrunk towards 1 by how much is known:
    weight n*p^2 / (n*p^2 + pi/2*s^2) for n samples of spread s and a prior p. The spread is the median absolute
    deviation, and at least that of a small group until the samples outnumber the assumption.

    Args:
        samples: measurements; those that are not finite and positive are counted and left out.
        prior_sigma: relative error of the roofline before anything was measured; larger trusts samples more.
    """
    given = list(samples)
    usable = [one for one in given if _is_usable(one)]
    if not usable:
        return Calibration(rejected=len(given), sigma=prior_sigma)
    logs = np.log([one.measured_seconds / one.modelled_seconds for one in usable])
    n, middle = len(usable), float(np.median(logs))
    seen = _MAD_TO_SIGMA * float(np.median(np.abs(logs - middle)))
    assumed = 4.0  # measurements that the assumed spread counts for
    spread = math.sqrt((n * seen**2 + assumed * SAMPLE_SIGMA**2) / (n + assumed))
    error = _MEDIAN_PENALTY * spread**2 / n
    weight = prior_sigma**2 / (prior_sigma**2 + error)
    factor = min(FACTORS[1], max(FACTORS[0], math.exp(weight * middle)))
    return Calibration(
        factor=factor,
        samples=n,
        rejected=len(given) - n,
        sigma=math.sqrt(spread**2 + weight * error),
        provenance="Group",
    )


def _is_usable(sample: Sample) -> bool:
    values = (sample.measured_seconds, sample.modelled_seconds)
    return all(math.isfinite(one) and one > 0 for one in values)
