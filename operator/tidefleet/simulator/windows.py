"""Which stretches of a long run are simulated request by request, and what they say of the whole.

Strata are blocks of equal length, each divided into the time around flips and the calm rest; from each that exists one
window is drawn. The estimate of a mean is the sum over strata of weight times the window's mean, where a weight is the
share of the requests of the whole run that come in the stratum. Its variance is estimated from differences between
windows of the same kind in neighbouring blocks (collapsed strata: an overestimate where load changes between blocks).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

AROUND_FLIP_SECONDS = 300.0
"""Time before and after a node changes sides that counts as being around a flip."""

Stretch = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Window:
    """One stretch that is simulated in detail.

    Attributes:
        begin, end: seconds of the scenario's clock.
        block: number of its block; moving: whether it lies around a flip.
        weight: share of all requests of the run that its stratum stands for.
    """

    begin: float
    end: float
    block: int
    moving: bool
    weight: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.begin


def choose(
    total_seconds: float,
    *,
    count: int,
    seconds: float,
    flips: Iterable[float],
    requests_between: Callable[[float, float], float],
    rng: np.random.Generator,
) -> tuple[Window, ...]:
    """The windows of a run of ``total_seconds``, in order of time.

    Args:
        count: windows that are wanted; with many flips or none it may be one more or half as many.
        seconds: of each; the whole run is one window where it is no longer than that.
        flips: times at which a node changes sides.
        requests_between: requests expected between two times.

    Raises:
        ValueError: count or a length is not positive.
    """
    if count < 1 or not seconds > 0.0 or not total_seconds > 0.0:
        raise ValueError(f"choose: count {count}, seconds {seconds} and total {total_seconds} must be positive")
    if total_seconds <= seconds:
        return (Window(0.0, total_seconds, 0, False, 1.0),)
    moving = _merged([(at - AROUND_FLIP_SECONDS, at + AROUND_FLIP_SECONDS) for at in flips])
    blocks = max(1, count // 2 if moving else count)
    edges = np.linspace(0.0, total_seconds, blocks + 1).tolist()
    found = []
    for block, (begin, end) in enumerate(itertools.pairwise(edges)):
        inside = _within(moving, begin, end)
        for kind, stretches in ((False, _rest(inside, begin, end)), (True, inside)):
            weight = sum(requests_between(*one) for one in stretches)
            at = _drawn(stretches, seconds, total_seconds, rng)
            if at is not None and weight > 0.0:
                found.append(Window(at, at + seconds, block, kind, weight))
    whole = sum(one.weight for one in found)
    return tuple(
        Window(one.begin, one.end, one.block, one.moving, one.weight / whole)
        for one in sorted(found, key=lambda each: each.begin)
    )


def estimate(windows: Sequence[Window], means: Sequence[float]) -> tuple[float, float]:
    """Mean over the whole run and its standard error, from the mean in each window.

    Raises:
        ValueError: there is no window, or another number of means.
    """
    if not windows or len(windows) != len(means):
        raise ValueError(f"estimate: {len(windows)} windows and {len(means)} means; expected as many, at least one")
    total = sum(one.weight for one in windows)
    mean = sum(one.weight * value for one, value in zip(windows, means, strict=True)) / total
    variance = 0.0
    for kind in (False, True):
        mine = [(one, value) for one, value in zip(windows, means, strict=True) if one.moving is kind]
        if not mine:
            continue
        steps = [(second[1] - first[1]) ** 2 / 2.0 for first, second in itertools.pairwise(mine)]
        spread = sum(steps) / len(steps) if steps else (mine[0][1] - mean) ** 2
        variance += spread * sum((one.weight / total) ** 2 for one, _ in mine)
    return mean, math.sqrt(variance)


def estimate_beside(windows: Sequence[Window], means: Sequence[float], beside: Sequence[float]) -> tuple[float, float]:
    """The same where something else was seen in each window whose mean over the whole run is known to be 0.

    What is by chance high in the windows then says how far the mean itself is off (regression estimator, e.g. Cochran,
    Sampling Techniques, ch. 7); the slope is that of least squares over the windows, by their weights. What it is worth
    is seen in the standard error, which is of what the other value does not explain.
    """
    slope = _slope(windows, means, beside)
    return estimate(windows, [value - slope * other for value, other in zip(means, beside, strict=True)])


def _slope(windows: Sequence[Window], means: Sequence[float], beside: Sequence[float]) -> float:
    if len(windows) < FEWEST_FOR_SLOPE:
        return 0.0
    weights = np.array([one.weight for one in windows])
    value, other = np.array(means), np.array(beside)
    other = other - np.average(other, weights=weights)
    spread = float((weights * other * other).sum())
    return float((weights * other * value).sum()) / spread if spread > 0.0 else 0.0


FEWEST_FOR_SLOPE = 8
"""With fewer windows a slope would follow chance."""


def _merged(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Stretches in order, those that touch as one."""
    found: list[Stretch] = []
    for begin, end in sorted(stretches):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def _within(stretches: Sequence[Stretch], begin: float, end: float) -> list[Stretch]:
    return [(max(a, begin), min(b, end)) for a, b in stretches if b > begin and a < end]


def _rest(stretches: Sequence[Stretch], begin: float, end: float) -> list[Stretch]:
    """What of a block no stretch covers."""
    found, at = [], begin
    for first, last in stretches:
        if first > at:
            found.append((at, first))
        at = max(at, last)
    return [*found, (at, end)] if at < end else found


def _drawn(
    stretches: Sequence[Stretch], seconds: float, total_seconds: float, rng: np.random.Generator
) -> float | None:
    """Where a window begins whose middle is evenly spread over the stretches."""
    lengths = np.array([end - begin for begin, end in stretches])
    if not len(lengths) or not lengths.sum() > 0.0:
        return None
    which = int(rng.choice(len(lengths), p=lengths / lengths.sum()))
    middle = stretches[which][0] + rng.random() * lengths[which]
    return float(min(max(0.0, middle - seconds / 2.0), total_seconds - seconds))
