"""What nodes draw, and what a site's limit leaves: training goes first, then nodes that nothing needs are off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tidefleet.economics.energy import chip_watts
from tidefleet.simulator.catalogued import chip_of
from tidefleet.simulator.fleet.node import State
from tidefleet.simulator.fleet.spec import FleetSpec, PoolSpec, Watts

RESTING_SHARE = 0.15
"""Of the TDP where nobody has measured what a chip draws at rest; an H100 SXM rests at 70 to 120 of its 700 W."""

SERVING_USE = (64.0, 0.6, 0.3)
TRAINING_USE = (4096.0, 0.5, 0.45)
"""(tokens together, share of HBM bandwidth, share of peak FLOP/s) in serving at the operating point, and in training:
assumptions; either keeps a chip near its TDP."""


@dataclass(frozen=True, slots=True)
class Room:
    """Nodes of a pool that may train, and that may be on at all."""

    training: int
    on: int


def node_watts(accelerator: str, chips: int) -> Watts | None:
    """What a node draws by the shipped catalogue; ``None`` where the TDP or a peak of its chips is unknown."""
    chip = chip_of(accelerator)
    busy, training = (
        chip_watts(chip, batch=batch, memory_use=memory, compute_use=compute)
        for batch, memory, compute in (SERVING_USE, TRAINING_USE)
    )
    if busy is None or training is None or chip.tdp_watts is None:
        return None
    resting = chip.idle_watts if chip.idle_watts is not None else RESTING_SHARE * chip.tdp_watts
    return Watts(busy * chips, resting * chips, training * chips)


def room(spec: FleetSpec, pool: PoolSpec, *, needed: int) -> Room:
    """What a pool's share of the site's power allows while so many of its nodes must serve.

    Nodes that serve count at their operating point, the others at rest. What is left lets nodes train; where it is less
    than nothing, nodes that nothing needs are switched off, and last those that serving needs. Pools share the power by
    what all their nodes draw in serving.
    """
    watts = pool.watts
    whole = sum(one.watts.serving * one.nodes for one in spec.pools if one.watts is not None)
    if watts is None or not math.isfinite(spec.watts) or whole <= 0:
        return Room(pool.nodes, pool.nodes)
    budget = spec.watts * watts.serving * pool.nodes / whole
    needed = min(needed, pool.nodes)
    left = budget - needed * watts.serving - (pool.nodes - needed) * watts.resting
    if left >= 0.0:
        more = watts.training - watts.resting
        training = pool.nodes if more <= 0 else math.floor(left / more + 1e-9)
        return Room(min(pool.nodes - needed, training), pool.nodes)
    rest = math.floor(max(0.0, budget - needed * watts.serving) / max(watts.resting, 1e-9))
    serving = min(needed, math.floor(budget / watts.serving + 1e-9))
    return Room(0, serving + min(rest, pool.nodes - needed))


def draw(watts: Watts, counts: Mapping[State, int], load: float) -> float:
    """Watts of a pool: ``load`` is the share of their operating point that those that serve have. What is off or gone
    draws nothing."""
    resting = counts.get(State.OUTBOUND, 0) + counts.get(State.HOMEBOUND, 0) + counts.get(State.DOWN, 0)
    each = watts.resting + (watts.serving - watts.resting) * min(1.0, load)
    return (
        resting * watts.resting + counts.get(State.SERVING, 0) * each + counts.get(State.TRAINING, 0) * watts.training
    )
