"""Where the seconds of serving replicas go: what is needed, and each layer above it by its cause."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from tidefleet.planning.slots import SLOT_SECONDS, Array
from tidefleet.simulator.fleet.demand import Demand
from tidefleet.simulator.fleet.filler import Filler
from tidefleet.simulator.fleet.planners import Decided
from tidefleet.simulator.fleet.spec import FleetSpec, PoolSpec

NEARLY = 1e-9


@dataclass(slots=True)
class Losses:
    """Adds up one pool: accelerator-seconds by what they were for, and demand in replica-seconds. Times are seconds of
    the scenario's clock.

    With n the need, the layers above it end at n over the fill (``thin batches``), at whole nodes of it (``node
    rounding``), at the highest need until nodes that are called now are home for the slot after (``lead``), at what is
    planned without the spare (``forecast margin``), with it (``spare``), and at all that serve (``held``, or ``not
    lent`` where nobody lends). Deferrable work fills them from below; what it fills is needed.

    Attributes:
        needed: accelerator-seconds for online demand; filler: for deferrable work; idle: by cause.
        spilled: replica-seconds that an external API took, since serving was loaded to its fill; short: that nobody
            served; busy: accelerator-seconds in which anything ran;
            load: share of what serves that was used in the last stretch.
        filler_rate: replicas that deferrable work keeps busy, by bin.
    """

    spec: FleetSpec
    pool: PoolSpec
    demand: Demand
    lends: bool
    needed: float = 0.0
    filler: float = 0.0
    spilled: float = 0.0
    short: float = 0.0
    busy: float = 0.0
    load: float = 0.0
    idle: dict[str, float] = field(default_factory=dict)
    filler_rate: Array = field(init=False)
    _needs: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.filler_rate = np.zeros(len(self.demand.online))
        self._needs = self.demand.needed.tolist()

    def count(self, begin: float, end: float, decided: Decided, filler: Filler, *, ready: float, chips: float) -> None:
        """Count a stretch within one bin, in which so many replicas serve, on so many accelerators."""
        seconds = end - begin
        each = chips / ready if ready else 0.0
        place = min(len(self._needs) - 1, int(begin / self.demand.seconds_per_bin + NEARLY))
        spilled = self.demand.spilled(begin + NEARLY, ready * self.spec.flips.fill)
        self.spilled += spilled * seconds
        need = self._needs[place] - spilled
        served = min(need, float(ready))
        self.needed += served * seconds * each
        self.short += (need - served) * seconds
        rate = float(self.demand.deferrable[place]) if self.demand.deferrable is not None else 0.0
        slack = max(0.0, ready * self.spec.filler_top - served)
        did = filler.advance(begin, end, rate=rate, slack=slack) if rate or filler.arrived else 0.0
        self.filler += did * each
        self.filler_rate[place] += did / self.demand.seconds_per_bin
        used = served + did / seconds
        self.load = used / ready if ready else 0.0
        self.busy += (chips if used > NEARLY else 0.0) * seconds
        if ready <= used:
            return
        level = used
        for cause, top in self._layers(begin, need, ready, decided):
            if top > level:
                upper = min(top, float(ready))
                self.idle[cause] = self.idle.get(cause, 0.0) + (upper - level) * seconds * each
                level = upper
            if level >= ready:
                break

    def broken(self, seconds: float, chips: float) -> None:
        """Count accelerators of replicas that start again on nodes that serve with others."""
        if chips:
            self.idle["down"] = self.idle.get("down", 0.0) + chips * seconds

    def _layers(self, begin: float, need: float, ready: float, decided: Decided) -> tuple[tuple[str, float], ...]:
        slot_end = (math.floor(begin / SLOT_SECONDS + NEARLY) + 1) * SLOT_SECONDS
        last = slot_end + self.spec.lead_slots * SLOT_SECONDS
        width = self.demand.seconds_per_bin
        first = min(len(self._needs) - 1, int(begin / width + NEARLY))
        ahead = max(self._needs[first : max(first + 1, math.ceil(last / width - NEARLY))])
        if not self.lends:
            whole = ("node rounding", self._whole(need))
            return (("thin batches", need / self.spec.flips.fill), whole, ("not lent", float(ready)))
        return (
            ("thin batches", need / self.spec.flips.fill),
            ("node rounding", self._whole(need)),
            ("lead", self._whole(ahead)),
            ("forecast margin", float(decided.replicas - decided.spare)),
            ("spare", float(decided.replicas)),
            ("held", float(ready)),
        )

    def _whole(self, need: float) -> float:
        """Replicas of the whole nodes that so much demand takes."""
        each = self.pool.replicas_per_node
        replicas = math.ceil(need / self.spec.flips.fill - NEARLY)
        return float(math.ceil(replicas / each) * each)
