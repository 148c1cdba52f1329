"""What nodes draw, and how many of them a site's limit lets be on."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tidefleet.economics.energy import chip_watts, training_watts
from tidefleet.simulator.catalogued import chip_of
from tidefleet.simulator.fleet.node import State
from tidefleet.simulator.fleet.spec import FleetSpec, PoolSpec, Watts

NEARLY = 1e-9

RESTING_SHARE = 0.15
"""Of the TDP where nobody has measured what a chip draws at rest; an H100 SXM rests at 70 to 120 of its 700 W."""

SERVING_USE = (64.0, 0.6, 0.3)
"""(tokens together, share of HBM bandwidth, share of peak FLOP/s) in serving at the operating point: an assumption; it
keeps a chip near its TDP, and so does training."""


def node_watts(accelerator: str, chips: int) -> Watts | None:
    """What a node draws by the shipped catalogue; ``None`` where the TDP or a peak of its chips is unknown."""
    chip = chip_of(accelerator)
    batch, memory, compute = SERVING_USE
    busy, training = chip_watts(chip, batch=batch, memory_use=memory, compute_use=compute), training_watts(chip)
    if busy is None or training is None or chip.tdp_watts is None:
        return None
    resting = chip.idle_watts if chip.idle_watts is not None else RESTING_SHARE * chip.tdp_watts
    return Watts(busy * chips, resting * chips, training * chips)


def powered(spec: FleetSpec, pool: PoolSpec) -> int:
    """Nodes of a pool that its share of the site's power lets be on at once; the others are off.

    Each counts at the most that it may draw, in serving at its operating point or in training: however load and loans
    turn out, the limit holds. Pools share the power by what all their nodes draw.
    """
    whole = sum(_most(one.watts) * one.nodes for one in spec.pools if one.watts is not None)
    if pool.watts is None or not math.isfinite(spec.watts) or whole <= 0:
        return pool.nodes
    return min(pool.nodes, math.floor(spec.watts / spec.pue * pool.nodes / whole + NEARLY))


def _most(watts: Watts) -> float:
    return max(watts.serving, watts.training)


def draw(watts: Watts, counts: Mapping[State, int], load: float) -> float:
    """Watts of a pool: ``load`` is the share of their operating point that those that serve have. What is off or gone
    draws nothing."""
    resting = counts.get(State.OUTBOUND, 0) + counts.get(State.HOMEBOUND, 0) + counts.get(State.DOWN, 0)
    each = watts.resting + (watts.serving - watts.resting) * min(1.0, load)
    return (
        resting * watts.resting + counts.get(State.SERVING, 0) * each + counts.get(State.TRAINING, 0) * watts.training
    )
