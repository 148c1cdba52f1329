"""What a pool is asked for over a scenario, in replicas: a fluid that the planner measures and never sees ahead."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tidefleet.simulator.scenario import BIN_SECONDS

DAY_SECONDS = 86_400.0
WEEK_DAYS = 7

LEVEL_SIGMA = 0.05
"""Standard deviation of a day's level against the same day of another week, in the weeks that are made up before a
scenario; an assumption (no trace at hand has the same site for three weeks)."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """Rates by bin, in replica-seconds per second: how many replicas at their operating point are kept busy.

    Attributes:
        online: shape (bins, 2): prefill and decode of what people wait for; they add up where one replica does both.
        deferrable: shape (bins,): arriving work that may wait, in the same unit; absent: none.
        deadline_seconds: such work is to be done so long after it came.
        seconds_per_bin: length of a bin.
        history: shape (bins, 2): what was measured before the scenario begins; absent: nothing was.
        spillable: shape (bins,): how much of ``online`` an external API may take; absent: nothing.
    """

    online: Array
    deferrable: Array | None = None
    deadline_seconds: float = DAY_SECONDS
    seconds_per_bin: float = BIN_SECONDS
    history: Array | None = field(default=None)
    spillable: Array | None = field(default=None)

    def __post_init__(self) -> None:
        if self.online.ndim != 2 or self.online.shape[1] != 2 or not len(self.online):
            raise ValueError(f"Demand: online has shape {self.online.shape}; expected (bins, 2), e.g. (1008, 2)")
        if not (math.isfinite(self.seconds_per_bin) and self.seconds_per_bin > 0):
            raise ValueError(f"Demand: seconds_per_bin is {self.seconds_per_bin}; expected seconds above 0, e.g. 600")
        for name, rates in (("deferrable", self.deferrable), ("spillable", self.spillable)):
            if rates is not None and rates.shape != self.online.shape[:1]:
                raise ValueError(
                    f"Demand: {name} has shape {rates.shape}; expected a rate for each of the {len(self.online)} bins "
                    "of online"
                )
        if self.history is not None and (self.history.ndim != 2 or self.history.shape[1] != 2):
            raise ValueError(f"Demand: history has shape {self.history.shape}; expected (bins, 2), e.g. (2016, 2)")
        for name in ("online", "deferrable", "history", "spillable"):
            rates = getattr(self, name)
            if rates is not None and not (np.isfinite(rates) & (rates >= 0)).all():
                raise ValueError(f"Demand: {name} has a rate that is no number from 0 on; expected e.g. 31.5")

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return len(self.online) * self.seconds_per_bin

    @property
    def needed(self) -> Array:
        """Replicas that online demand keeps busy, shape (bins,)."""
        return np.asarray(self.online.sum(axis=1), dtype=np.float64)

    @property
    def held(self) -> Array:
        """Replicas that demand keeps busy which nobody else may take, shape (bins,)."""
        return self.needed if self.spillable is None else np.maximum(0.0, self.needed - self.spillable)

    def spilled(self, seconds: float, replicas: float) -> float:
        """Replicas that an external API takes off at a time, while so many here may be kept busy."""
        if self.spillable is None:
            return 0.0
        place = min(len(self.online) - 1, max(0, int(seconds // self.seconds_per_bin)))
        return float(min(self.spillable[place], max(0.0, self.online[place].sum() - replicas)))

    def at(self, seconds: float) -> tuple[float, float]:
        """(prefill, decode) at a time of the scenario's clock; the last bin goes on for ever."""
        row = self.online[min(len(self.online) - 1, max(0, int(seconds // self.seconds_per_bin)))]
        return float(row[0]), float(row[1])

    def highest(self, begin: float, end: float) -> float:
        """Most replicas that are kept busy between two times."""
        first = min(len(self.online) - 1, max(0, int(begin // self.seconds_per_bin)))
        last = max(first + 1, math.ceil(end / self.seconds_per_bin))
        return float(self.online[first:last].sum(axis=1).max())

    def mean(self, begin: float, end: float) -> tuple[float, float]:
        """Mean (prefill, decode) between two times, which may lie in several bins."""
        total, at = np.zeros(2), begin
        while at < end - 1e-9:
            until = min(end, (math.floor(at / self.seconds_per_bin + 1e-9) + 1) * self.seconds_per_bin)
            total += np.asarray(self.at(at + 1e-6)) * (until - at)
            at = until
        prefill, decode = total / (end - begin) if end > begin else np.asarray(self.at(end))
        return float(prefill), float(decode)

    def by_slot(self, slot_seconds: float) -> Array:
        """Replicas that are kept busy in each slot, the mean; shape (slots,)."""
        edges = np.append(np.arange(0.0, self.seconds - 1e-9, slot_seconds), self.seconds)
        grid = np.arange(len(self.online) + 1) * self.seconds_per_bin
        volume = np.interp(edges, grid, np.concatenate([[0.0], np.cumsum(self.needed) * self.seconds_per_bin]))
        return np.asarray(np.diff(volume) / np.diff(edges), dtype=np.float64)

    def busiest_hour(self) -> float:
        """Mean of the busiest hour (of all, where it is shorter) of what has to be served here."""
        width = min(len(self.online), max(1, round(3600.0 / self.seconds_per_bin)))
        return float(np.convolve(self.held, np.full(width, 1.0 / width), mode="valid").max())

    def scaled(self, factor: float) -> Demand:
        """So many times as much of everything."""
        return replace(
            self,
            online=self.online * factor,
            deferrable=None if self.deferrable is None else self.deferrable * factor,
            history=None if self.history is None else self.history * factor,
            spillable=None if self.spillable is None else self.spillable * factor,
        )


def with_history(demand: Demand, *, weeks: int = 2, seed: int = 0, sigma: float = LEVEL_SIGMA) -> Demand:
    """The demand with weeks before it, made of its own days in another order, each at a level of its own.

    A week of real days is all there is. In an earlier week a working day is the one before it (or two before), and the
    days of the weekend change places, so that a forecast never finds the day itself a week ago; each day's level is
    drawn (log-normal, ``sigma``). Demands that do not last whole weeks are repeated until they do.
    """
    per_day = round(DAY_SECONDS / demand.seconds_per_bin)
    length = math.ceil(len(demand.online) / (per_day * WEEK_DAYS)) * per_day * WEEK_DAYS
    days = np.resize(demand.online, (length, 2))[: per_day * WEEK_DAYS].reshape(WEEK_DAYS, per_day, 2)
    rng = np.random.default_rng([seed, 0x6869_7374])
    made = []
    for back in range(weeks, 0, -1):
        order = [(day - back) % 5 for day in range(5)] + [5 + (day + back) % 2 for day in range(2)]
        levels = np.exp(rng.normal(0.0, sigma, WEEK_DAYS) - sigma**2 / 2.0)
        made.append((days[order] * levels[:, np.newaxis, np.newaxis]).reshape(-1, 2))
    return replace(demand, history=np.concatenate(made) if made else None)
