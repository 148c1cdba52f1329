"""Looking ahead for one pool: what was measured goes into its history, what is forecast comes out as a rate to plan.

Replicas take a while to start, so a pool is planned for the highest of what is asked for now and what is forecast for
the time until a replica asked for now would serve. Pure but for the memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tidefleet.controller.config import OperatorConfiguration
from tidefleet.planning.demand import Known
from tidefleet.planning.forecast import HORIZON_SLOTS, Forecast, forecast
from tidefleet.planning.observed import Observed
from tidefleet.planning.options import ClassDemand
from tidefleet.planning.slots import SLOT_SECONDS, Array, SlotHistory, slot_of

FIRST_SECONDS = 120.0
"""Within this time a new leader makes its first forecasts, some of them in each pass."""

LEAST_LEAD_SECONDS = 120.0
"""Starts that were quicker, on a warm node say, are not counted on."""

FORGET = 0.9
"""A start that was quicker than the ones before brings the time to start down by at most this factor."""


@dataclass(slots=True)
class StartUp:
    """How long replicas of a pool took from being asked for until they served: nearly the longest of late."""

    seconds: float | None = None
    _since: dict[str, float] = field(default_factory=dict)

    def watch(self, replicas: Mapping[str, tuple[int, int]], *, now: float, longest: float) -> None:
        """Note the replicas of each workload (asked for, ready); a start counts as ``longest`` seconds at most."""
        for name in [name for name in self._since if name not in replicas]:
            del self._since[name]
        for name, (desired, ready) in replicas.items():
            if ready < desired:
                self._since.setdefault(name, now)
            elif name in self._since:
                took = min(longest, now - self._since.pop(name))
                self.seconds = took if self.seconds is None else max(took, FORGET * self.seconds)


@dataclass(slots=True)
class Ahead:
    """What a pool remembers to look ahead with; a new leader gets ``history`` back, and learns the rest again.

    Attributes:
        observed: lengths and multipliers as learned.
        forecast: of the present slot; ``None`` before the first.
    """

    history: SlotHistory = field(default_factory=SlotHistory)
    observed: Observed = field(default_factory=Observed)
    start: StartUp = field(default_factory=StartUp)
    forecast: Forecast | None = None
    _counted: float | None = None
    _made: int | None = None
    _first: float | None = None

    # --- what was measured -------------------------------------------------------------------------------------------

    def note(self, reading: Known, classes: Sequence[ClassDemand], *, gap: float) -> None:
        """Count a reading of the engines. ``gap``: seconds without a reading after which the past is not known."""
        rate = reading.arriving
        into = reading.input_tokens if reading.input_tokens is not None else mean_of(classes, "input_mean")
        out = reading.output_tokens if reading.output_tokens is not None else mean_of(classes, "output_mean")
        uncached, stated = mean_of(classes, "uncached"), mean_of(classes, "input_mean")
        hits = reading.found_share if reading.found_share is not None else 1.0 - uncached / max(stated, 1e-9)
        since = reading.at - self._counted if self._counted is not None else 0.0
        seconds = max(reading.seconds, since if since <= gap else 0.0)
        self._counted = reading.at
        self.history.add(reading.at, seconds, rate * into * (1.0 - min(1.0, max(0.0, hits))), rate * out)

    def renew(self, key: str, now: float, settings: OperatorConfiguration) -> bool:
        """Forecast anew once per slot; pools take their turns within it, since a forecast takes some milliseconds.

        A new leader makes the first ones of all pools within ``FIRST_SECONDS``.

        Returns:
            Whether a forecast was made just now.
        """
        place = zlib.crc32(key.encode())
        turn = slot_of(now - place % int(SLOT_SECONDS))
        if self._first is None:
            self._first = now + place % int(FIRST_SECONDS)
        if turn == self._made or now < self._first:
            return False
        self._made = turn
        self.forecast = forecast(self.history.series(), now=now, quantile=settings.forecast.quantile)
        return True

    # --- what is to come ---------------------------------------------------------------------------------------------

    def lead_seconds(self, settings: OperatorConfiguration) -> float:
        """How far ahead replicas must be asked for: the time they take to start, and one pass."""
        seconds = settings.forecast.lead_seconds if self.start.seconds is None else self.start.seconds
        return max(LEAST_LEAD_SECONDS, seconds) + settings.period_seconds

    def rate(self, now: float, classes: Sequence[ClassDemand], seconds: float) -> float:
        """Requests per second of this mix that the forecast asks for within so many seconds; 0 without one."""
        highest = self.forecast.highest(now, seconds) if self.forecast is not None else None
        return 0.0 if highest is None else float(requests_of(highest[np.newaxis, :], classes)[0])

    def provenance(self) -> str:
        """What the forecast stands on, in words; empty while there is none."""
        return str(self.forecast.provenance) if self.forecast is not None and len(self.forecast.upper) else ""

    def steady(self, now: float, classes: Sequence[ClassDemand], declared: float | None = None) -> Array | None:
        """Requests per second of each slot to come: declared ones, else the forecast's; ``None`` without a forecast."""
        if declared is not None:
            return np.full(HORIZON_SLOTS, declared)
        if self.forecast is None or not len(self.forecast.upper):
            return None
        rows = self.forecast.upper[max(0, slot_of(now) - self.forecast.first) :]
        return requests_of(rows, classes) if len(rows) else None


def mean_of(classes: Sequence[ClassDemand], name: str) -> float:
    return float(sum(one.share * getattr(one.shape, name) for one in classes))


def requests_of(tokens: Array, classes: Sequence[ClassDemand]) -> Array:
    """Requests per second of the mix that need so many prefill and decode tokens per second; shape (slots,)."""
    per_request = np.array([mean_of(classes, "uncached"), mean_of(classes, "output_mean")])
    used = per_request > 1e-9
    if not used.any():
        return np.zeros(len(tokens))
    return np.asarray((tokens[:, used] / per_request[used]).max(axis=1), dtype=np.float64)
