"""Small fleets under a day's wave of demand, for tests of the fluid."""

import numpy as np

from tidefleet.simulator.fleet.demand import Demand, with_history
from tidefleet.simulator.fleet.spec import FleetSpec, PoolSpec, Watts
from tidefleet.simulator.scenario import Faults, Flips, Training

DAY = 86_400.0
WATTS = Watts(serving=5000.0, resting=800.0, training=5500.0)


def a_pool(*, nodes=12, name="main", **changes):
    given = {
        "accelerator": "h200-sxm",
        "replicas_per_node": 1,
        "chips": 8,
        "watts": WATTS,
        "usd_per_node_hour": 40.0,
    }
    return PoolSpec(name=name, nodes=nodes, **{**given, **changes})


def a_fleet(*pools, days=1.0, flips=None, faults=None, training=None, **changes):
    return FleetSpec(
        pools=pools or (a_pool(),),
        flips=flips or Flips(fill=0.9),
        training=training or Training(backlog="endless"),
        faults=faults or Faults(),
        seconds=days * DAY,
        **changes,
    )


def a_wave(*, mean=5.0, swing=0.5, days=1.0, known=True, **changes):
    """Demand that rises and falls once a day, a third of it prefill; ``known``: with weeks like it before."""
    bins = round(days * DAY / 600.0)
    level = mean * (1.0 - swing * np.cos(2.0 * np.pi * np.arange(bins) / 144.0))
    demand = Demand(np.stack([level / 3.0, level * 2.0 / 3.0], axis=1), **changes)
    return with_history(demand, sigma=0.0) if known else demand


def everything(timeline):
    """All that a run says, as one text: equal texts are equal bytes."""
    return repr([
        (name, getattr(timeline, name)) for name in timeline.__slots__ if name not in {"demand", "filler_rate"}
    ])  # fmt: skip
