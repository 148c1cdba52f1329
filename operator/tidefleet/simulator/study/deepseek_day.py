"""A published day: 278 nodes that follow their demand, by our schedule and by our state machine.

The node counts are read off DeepSeek's figure (``deepseek``). The schedule finds the staircase again, without lead and
with one slot of it; a run of three such days, every flip with its drain, load and warm-up, says what is left of it when
nodes take their time and a spare is kept.
"""

from __future__ import annotations

import numpy as np

from tidefleet.flipping.staircase import Terms, schedule
from tidefleet.simulator.fleet.demand import Demand
from tidefleet.simulator.fleet.run import foreseeing, run_fluid
from tidefleet.simulator.fleet.timeline import Timeline
from tidefleet.simulator.scenario import Flips, Pool, Scenario, Training
from tidefleet.simulator.study.deepseek import CHIPS_PER_NODE, NODES, USD_PER_CHIP_HOUR, day, peak_nodes
from tidefleet.simulator.study.finding import Finding, settings_of

STEP_SHARE = 0.22
"""Its largest step: 60 of 278 nodes at once."""

FLIP_USD = 1.6
DAY_SLOTS = 96
RUN_DAYS = 3


def nodes_by_slot() -> list[float]:
    """Nodes that serve in each quarter of an hour, from noon as it was published."""
    hours = np.arange(DAY_SLOTS) / 4.0
    begins = np.array([begin for begin, _ in NODES])
    counts = np.array([float(nodes) for _, nodes in NODES])
    by_hour = counts[np.searchsorted(begins, hours, side="right") - 1]
    return [float(one) for one in np.roll(by_hour, DAY_SLOTS // 2)]


def study(scenario: Scenario) -> Finding:
    """What the day comes to: published money, the schedule's staircase, and the run's."""
    chosen = settings_of(scenario, {"fill": 1.0, "spareNodes": 0.0, "recallSeconds": 720.0}, positive=("fill",))
    found = {f"published_{name}": value for name, value in day().items()}
    for name, lead in (("saved_share", 0), ("saved_share_with_a_slot_of_lead", 1)):
        made = schedule(
            nodes_by_slot(),
            nodes=peak_nodes(),
            terms=Terms(
                lead_slots=lead,
                reserve=0,
                step_share=STEP_SHARE,
                usd_per_node_hour=CHIPS_PER_NODE * USD_PER_CHIP_HOUR,
                flip_usd=FLIP_USD,
            ),
        )
        found[f"schedule_{name}"] = made.freed_ratio
    run = days(fill=chosen["fill"], spare=int(chosen["spareNodes"]), recall_seconds=chosen["recallSeconds"])
    lost = run.utilization()
    found["run_trained_share"] = run.kept / run.paid
    found["run_lost_on_the_way_share"] = lost.lost["outbound"] + lost.lost["homebound"]
    found["run_flips_per_day"] = len(run.flips) / RUN_DAYS
    found["run_short_node_hours_per_day"] = run.short_seconds["main"] / 3600.0 / RUN_DAYS
    found["usd_per_day"] = found["published_usd_per_day"]
    cost = found["published_usd_per_day"] * peak_nodes() / found["published_mean_nodes"]
    freed = found["schedule_saved_share"]
    found["margin_share_by_our_schedule"] = found["published_revenue_usd_per_day"] / (cost * (1.0 - freed)) - 1.0
    return Finding(
        found,
        (
            f"Following demand frees {freed:.1%} of the node-hours of the peak; "
            f"{found['schedule_saved_share_with_a_slot_of_lead']:.1%} where nodes are home a slot ahead.",
            f"The day costs ${found['usd_per_day']:,.0f}: a margin of {found['published_margin_share']:.1%} at list "
            "prices if what is freed costs serving nothing, "
            f"{found['published_margin_share_if_all_nodes_were_paid']:.1%} if serving pays for all nodes.",
            f"With flips of {run.spec.times.round_trip_seconds:.0f} s a round trip and steps of a fifth of the nodes, "
            f"{found['run_trained_share']:.1%} of the node-hours train.",
        ),
    )


def days(*, fill: float, spare: int, recall_seconds: float) -> Timeline:
    """Three such days, each flip with all its phases."""
    rates = np.tile(np.asarray(nodes_by_slot()), RUN_DAYS)
    scenario = Scenario(
        name="deepseek-day",
        kind="fleet",
        seconds=RUN_DAYS * 86_400.0,
        pools=(
            Pool(
                model="deepseek-r1",
                accelerator="h800-sxm",
                replicas=peak_nodes(),
                chips_per_replica=CHIPS_PER_NODE,
                usd_per_chip_hour=USD_PER_CHIP_HOUR,
            ),
        ),
        flips=Flips(fill=fill, spare_replicas=spare, recall_seconds=recall_seconds),
        training=Training(backlog="endless"),
    )
    demand = Demand(np.stack([rates, np.zeros(len(rates))], axis=1), seconds_per_bin=900.0)
    return run_fluid(scenario, demand, seed=0, planner=foreseeing)
