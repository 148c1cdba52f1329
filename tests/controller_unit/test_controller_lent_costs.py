"""Whose a node's rent is while it is on the way, on loan, in quarantine, or nobody's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from controller_builders import NOW, SHIPPED, a_pool, a_served, a_view, an_option

from tidefleet.controller.accounting import Accountant
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.decision import Decision
from tidefleet.controller.lent_costs import TypeSupply
from tidefleet.controller.view import Chips, PoolMemory
from tidefleet.flipping.phase import Phase
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.options import EstimateMemo, Price
from tidefleet.telemetry import Telemetry

H100 = {"accelerator": "h100-sxm", "capacity_type": "OnDemand"}
CHAT = {"namespace": "prod", "pool": "chat"}
PER_NODE = SHIPPED["h100-sxm"].spec.chips_per_node or 0


def a_lender(*phases: Phase) -> Decision:
    """A pool with 16 H100 that serve, and one node in each of these phases."""
    pool = a_pool()
    view = a_view(
        pool,
        SHIPPED["h100-sxm"],
        served=(a_served(pool, an_option("h100-sxm"), replicas=16),),
        chips={("h100-sxm", "OnDemand"): Chips(scheduled=16, ready=16)},
        reading=Known(NOW, 20.0, "Engines"),
    )
    decision = decide(view, PoolMemory(DemandHistory(600.0)), OperatorConfiguration(), EstimateMemo())
    units: list[dict[str, Any]] = [
        {"name": f"n{index}", "nodes": [f"n{index}"], "accelerator": "h100-sxm", "phase": str(phase)}
        for index, phase in enumerate(phases)
    ]
    return replace(decision, flipping={"units": units})


def accounted(decision: Decision, *, chips: int = 0) -> tuple[Telemetry, float]:
    """The metrics after one hour, and the price of a chip."""
    telemetry = Telemetry()
    accountant = Accountant(telemetry)
    price = next(one.prices["OnDemand"] for one in decision.view.offers)
    supply = {"h100-sxm": TypeSupply(chips, {"OnDemand": price})} if chips else None
    for at in (NOW, NOW + 3600):
        accountant.account([decision], at, supply)
    return telemetry, price.usd_per_chip_hour


@pytest.mark.parametrize("phase", list(Phase))
def test_each_phase_has_one_who_pays_and_the_sum_is_the_rent_of_all_chips(phase: Phase) -> None:
    """Where the pods of a node are counted, as in Warming, the test's node has none, and is idle."""
    telemetry, price = accounted(a_lender(phase), chips=16 + PER_NODE)
    paid = {
        "pool": telemetry.value("tidefleet_pool_cost_usd_total", **CHAT, **H100) or 0.0,
        "training": telemetry.value("tidefleet_training_cost_usd_total", **CHAT, **H100) or 0.0,
        "idle": telemetry.value("tidefleet_fleet_idle_cost_usd_total", **H100) or 0.0,
    }
    assert sum(paid.values()) == pytest.approx((16 + PER_NODE) * price)
    node = PER_NODE * price
    expected = {
        Phase.TRAINING: "training",
        Phase.RECALLING: "training",
        Phase.VERIFYING: "pool",
        Phase.RECLAIMING: "pool",
    }
    payer = expected.get(phase, "idle")
    assert paid[payer] == pytest.approx(node + (16 * price if payer == "pool" else 0.0))


def test_chips_are_told_by_state() -> None:
    telemetry, _ = accounted(
        a_lender(Phase.TRAINING, Phase.TRAINING, Phase.RECLAIMING, Phase.QUARANTINED, Phase.DRAINING)
    )
    found = {
        state: telemetry.value("tidefleet_pool_accelerators", **CHAT, accelerator="h100-sxm", state=state)
        for state in ("serving", "warming", "draining", "training", "quarantined")
    }
    assert found == {
        "serving": 16.0,
        "warming": PER_NODE,
        "draining": None,
        "training": 2 * PER_NODE,
        "quarantined": PER_NODE,
    }


def test_an_unknown_price_is_never_told_as_nothing() -> None:
    decision = a_lender(Phase.TRAINING)
    unpriced = replace(decision, market=None, view=replace(decision.view, offers=()))
    telemetry = Telemetry()
    accountant = Accountant(telemetry)
    for at in (NOW, NOW + 3600):
        accountant.account([unpriced], at, {"h100-sxm": TypeSupply(64, {})})
    page = telemetry.render()[1].decode()
    assert "tidefleet_training_cost_usd_total{" not in page
    assert "tidefleet_fleet_idle_cost_usd_total{" not in page


def test_more_chips_in_use_than_are_known_of_are_not_less_than_none_idle() -> None:
    telemetry, _ = accounted(a_lender(), chips=8)
    assert telemetry.value("tidefleet_fleet_idle_cost_usd_total", **H100) == 0.0


def test_idle_chips_cost_what_the_serving_ones_do_else_the_lowest_known_price() -> None:
    telemetry = Telemetry()
    accountant = Accountant(telemetry)
    supply = {"l40s": TypeSupply(4, {"OnDemand": Price(2.0), "Spot": Price(0.5)})}
    for at in (NOW, NOW + 1800):
        accountant.account([], at, supply)
    labels = {"accelerator": "l40s", "capacity_type": "Spot"}
    assert telemetry.value("tidefleet_fleet_idle_cost_usd_total", **labels) == pytest.approx(1.0)
