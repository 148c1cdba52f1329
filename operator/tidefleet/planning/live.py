"""Live calibration: what engines show, interval by interval, becomes a correction that is sure of itself or silent.

Robust against some engines that lie or limp (medians), against few samples (shrunk towards the roofline), and against
the past (weights halve with every half-life, and a correction that is not fed is withdrawn). Times are passed in.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tidefleet.economics.evidence import Correction, monotone, roofline_of
from tidefleet.economics.live import Ratio
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step
from tidefleet.economics.shape import TokenShape

HALF_LIFE_SECONDS = 7200.0
"""Time after which a sample counts half."""

MIN_SAMPLES = 20.0
MIN_SPAN_SECONDS = 600.0
"""Evidence before a correction is told at all: so many samples, over at least this time."""

FEWEST_SAMPLES = 5.0
"""Decayed weight, in samples, below which a correction is withdrawn."""

BOUNDS = (1.0 / 3.0, 3.0)
"""Factors never leave these."""

SIGMA_FLOOR = 0.03
"""What no number of samples brings sigma below: lengths, mixes and engines' ways of counting differ."""

UNSEEN_SIGMA = 0.05
"""Added (in quadrature) for each e-fold of batch away from the batches seen."""

STEP = 0.05
SIGMA_STEP = 0.02
SIGMA_SHARE = 1.0 / 3.0
"""A correction is told anew once a factor has moved by this share, or sigma by this much or this share of itself.

A factor by more where its sigma is larger, up to ``MOST_STEP``: what lies within a standard deviation is no news, and
plans leave room for it. A third of the largest sigma, 0.45, moves what plans count on by 10 %.
"""

MOST_STEP = 0.15

_EDGES = (4.0, 16.0, 64.0, 256.0, 1024.0)
_PRIOR_SAMPLES = 5.0
_BIN_PRIOR_SAMPLES = 20.0
_FORGETS = 2.0
_CROWD = 5
_OUT_OF_LINE = 4.0
_IN_LINE = 0.25
_LEAST_SHARE = 0.02
_SLOTS_PER_HALF_LIFE = 12.0
_MOST_SLOTS = 64
_FIELDS = 5
_MOST_AT_ONCE = 32
_MOST_IN_SLOT = 2048
_INDEPENDENT = 16.0
_STALE_SIGMA = 0.03
_MAD = 1.4826
_MEDIAN_VARIANCE = math.pi / 2.0


@dataclass(frozen=True, slots=True)
class Slot:
    """Samples of one stretch of time in one region: logarithm of measured over modelled time.

    ``spread`` is their median absolute deviation scaled to a standard deviation, ``batch`` the mean ln batch.
    """

    at: float
    median: float
    spread: float
    samples: float
    batch: float


@dataclass(slots=True)
class Series:
    """Slots of one region of batches (or of prefill), oldest first, and the samples of the slot that is open.

    Both are kept as bare numbers: a fleet has thousands of them.
    """

    _slots: array[float] = field(default_factory=lambda: array("d"))
    _open: array[float] = field(default_factory=lambda: array("d"))
    _count: int = 0

    @property
    def slots(self) -> list[Slot]:
        """The closed slots."""
        return [Slot(*self._slots[i : i + _FIELDS]) for i in range(0, len(self._slots), _FIELDS)]

    @property
    def held(self) -> int:
        """Samples held in the open slot."""
        return len(self._open) // 2

    def add(self, values: Sequence[tuple[float, float]]) -> None:
        """Take in one round's (logarithm, ln batch); of many engines evenly spaced ranks stand for all."""
        self._count += len(values)
        if len(values) > _MOST_AT_ONCE:
            ranked, last = sorted(values), len(values) - 1
            values = [ranked[round(i * last / (_MOST_AT_ONCE - 1))] for i in range(_MOST_AT_ONCE)]
        for pair in values[: max(0, _MOST_IN_SLOT - self.held)]:
            self._open.extend(pair)

    def close(self, at: float) -> None:
        """End the open slot; nothing happens when it is empty."""
        if not self._open:
            return
        logs = sorted(self._open[0::2])
        middle = _middle(logs)
        spread = _MAD * _middle(sorted(abs(one - middle) for one in logs))
        self._slots.extend((at, middle, spread, float(self._count), sum(self._open[1::2]) / len(logs)))
        if len(self._slots) > _FIELDS * _MOST_SLOTS:
            del self._slots[:_FIELDS]
        self._open, self._count = array("d"), 0


@dataclass(frozen=True, slots=True)
class _Summary:
    """A weighted median, the weight behind it in samples, its standard error, mean ln batch, and the newest time."""

    median: float
    weight: float
    error: float
    batch: float
    newest: float


@dataclass(slots=True)
class LiveCalibration:
    """What one kind of replica has shown.

    Args:
        half_life_seconds: time after which a sample counts half.
    """

    half_life_seconds: float = HALF_LIFE_SECONDS
    _bins: list[Series] = field(default_factory=lambda: [Series() for _ in range(len(_EDGES) + 1)])
    _prefill: Series = field(default_factory=Series)
    _opened: float | None = None
    _told: bool = False

    def add(self, at: float, ratios: Iterable[Ratio]) -> bool:
        """Take in one round of all engines of this kind.

        Returns:
            Whether a slot was closed, so that `correction` may say something else than before.
        """
        by_bin: dict[int, list[tuple[float, float]]] = {}
        prompts: list[tuple[float, float]] = []
        for one in _in_line(list(ratios)):
            log_batch = math.log(max(1.0, one.batch))
            by_bin.setdefault(bisect_right(_EDGES, one.batch), []).append((one.decode, log_batch))
            if one.prefill is not None:
                prompts.append((one.prefill, log_batch))
        if self._opened is None or at < self._opened:  # a clock that was set back starts another slot
            self._opened = at
        for index, values in by_bin.items():
            self._bins[index].add(values)
        self._prefill.add(prompts)
        if at - self._opened < self.half_life_seconds / _SLOTS_PER_HALF_LIFE:
            return False
        for series in (*self._bins, self._prefill):
            series.close(at)
        self._opened = at
        return True

    def correction(self, at: float, replica: Replica, shape: TokenShape) -> Correction | None:
        """The correction that the samples up to now support, or ``None`` while they support none.

        Its sigma starts from that of the roofline for this hardware and kind of model, and never passes it: few samples
        say less where nothing is known of the hardware than where its roofline has been measured.
        """
        every = [slot for one in self._bins for slot in one.slots]
        whole = self._summary(every, at)
        if whole is None or not self._is_enough(every, whole, at):
            self._told = False
            return None
        self._told = True
        prior = _PRIOR_SAMPLES / (whole.weight + _PRIOR_SAMPLES)
        overall = (1.0 - prior) * whole.median
        regions = [one for series in self._bins if (one := self._summary(series.slots, at)) is not None]
        seen = [one for one in regions if one.weight >= _LEAST_SHARE * whole.weight]
        error = math.sqrt(sum(one.weight * one.error**2 for one in seen) / sum(one.weight for one in seen))
        points = sorted((one.batch, self._shrunk(one, overall, at)) for one in seen)
        batches = [math.exp(lnb) for lnb, _ in points]
        steps = decode_step(replica, np.array(batches) * replica.data_parallel, _context(shape)).seconds
        factors = monotone([_bounded(log) for _, log in points], steps.tolist())
        prompts = self._summary(self._prefill.slots, at)
        first = overall if prompts is None else self._shrunk(prompts, overall, at)
        idle = max(0.0, at - max(slot.at for slot in every)) / self.half_life_seconds
        unlearned = roofline_of(replica).sigma
        stale = _STALE_SIGMA * max(0.0, idle - 0.5)
        sigma = math.sqrt(SIGMA_FLOOR**2 + error**2 + (prior * unlearned) ** 2 + stale**2)
        return Correction(
            provenance="Live",
            sigma=min(unlearned, math.ceil(100.0 * sigma - 1e-9) / 100.0),
            decode=tuple(
                (_rounded(batch), _rounded(min(BOUNDS[1], max(BOUNDS[0], factor))))
                for batch, factor in zip(batches, factors, strict=True)
            ),
            prefill=_rounded(_bounded(first)),
            source="learned from the pool's own engines",
            unseen=UNSEEN_SIGMA,
            most=unlearned,
        )

    def _is_enough(self, slots: Sequence[Slot], whole: _Summary, at: float) -> bool:
        """Much evidence to begin with, some of it to go on."""
        if self._told:
            return whole.weight >= FEWEST_SAMPLES
        begun = min(slot.at for slot in slots) - self.half_life_seconds / _SLOTS_PER_HALF_LIFE
        return whole.weight >= MIN_SAMPLES and at - begun >= MIN_SPAN_SECONDS

    def _summary(self, slots: Iterable[Slot], at: float) -> _Summary | None:
        weighted = [(slot, slot.samples * self._decay(at - slot.at)) for slot in slots]
        weighted = [(slot, weight) for slot, weight in weighted if weight > 1e-3]
        total = sum(weight for _, weight in weighted)
        if not weighted:
            return None
        middle = _weighted_median([(slot.median, weight) for slot, weight in weighted])
        between = _MAD * _weighted_median([(abs(slot.median - middle), weight) for slot, weight in weighted])
        within = _weighted_median([(slot.spread, weight) for slot, weight in weighted])
        slots_count = total**2 / sum(weight**2 for _, weight in weighted)
        variance = between**2 / slots_count + within**2 / max(1.0, min(_INDEPENDENT, total))
        batch = sum(slot.batch * weight for slot, weight in weighted) / total
        newest = max(slot.at for slot, _ in weighted)
        return _Summary(middle, total, math.sqrt(_MEDIAN_VARIANCE * variance), batch, newest)

    def _decay(self, age: float) -> float:
        return float(2.0 ** (-max(0.0, age) / self.half_life_seconds))

    def _shrunk(self, one: _Summary, overall: float, at: float) -> float:
        """A region's logarithm, drawn to that of all where it has few samples or has not been visited lately.

        An engine that gets slower holds more requests at once: the region it left must not stand for it any more.
        """
        own = one.weight / (one.weight + _BIN_PRIOR_SAMPLES) * self._decay(_FORGETS * (at - one.newest))
        return overall + own * (one.median - overall)


def _in_line(ratios: list[Ratio]) -> list[Ratio]:
    """Without the engines that differ from most others of the round, whatever their batch: slow ones hold more."""
    if len(ratios) < _CROWD:
        return ratios
    middle = _middle(sorted(one.decode for one in ratios))
    apart = _MAD * _middle(sorted(abs(one.decode - middle) for one in ratios))
    return [one for one in ratios if abs(one.decode - middle) <= max(_IN_LINE, _OUT_OF_LINE * apart)]


def follow(before: Correction | None, measured: Correction | None) -> Correction | None:
    """The correction to go on with: the one before while the measured one differs little from it.

    So plans and statuses do not follow noise, which a settled correction has as much of as a fresh one.
    """
    if before is None or measured is None or before.provenance != measured.provenance:
        return measured
    batches = np.array(sorted({batch for batch, _ in (*before.decode, *measured.decode)}))
    moved = np.abs(np.log(measured.decode_factor(batches) / before.decode_factor(batches))).max()
    limit = math.log1p(min(MOST_STEP, max(STEP, before.sigma)))
    if moved > limit or abs(math.log(measured.prefill_factor / before.prefill_factor)) > limit:
        return measured
    surer = max(SIGMA_STEP, SIGMA_SHARE * before.sigma) + 1e-9
    return measured if abs(measured.sigma - before.sigma) > surer or _reaches(before, measured) else before


def _reaches(before: Correction, measured: Correction) -> bool:
    """Whether the batches seen now reach twice as far as those before: sigma out there is another one."""
    wider = max(measured.decode[-1][0] / before.decode[-1][0], before.decode[0][0] / measured.decode[0][0])
    return wider > 2.0


def _context(shape: TokenShape) -> float:
    return shape.input_mean + shape.output_mean / 2.0


def _bounded(log: float) -> float:
    return min(BOUNDS[1], max(BOUNDS[0], math.exp(log)))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _middle(ranked: Sequence[float]) -> float:
    half = len(ranked) // 2
    return ranked[half] if len(ranked) % 2 else 0.5 * (ranked[half - 1] + ranked[half])


def _weighted_median(pairs: Sequence[tuple[float, float]]) -> float:
    ranked = sorted(pairs)
    left = 0.5 * sum(weight for _, weight in ranked)
    for value, weight in ranked:
        left -= weight
        if left <= 0.0:
            return value
    return ranked[-1][0]
