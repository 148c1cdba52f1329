"""What a saving does to total spend once its lower price brings more demand: elasticities 0.5, 1 and 2.

Price follows cost: p = p0 * (1 - passed * (1 - c/c0)), demand D = D0 * (p/p0)^-e, and c(D) is the cost per token of the
whole replicas that D needs, spare included, less the share saved. Price and demand are solved for together. With
replicas by the fraction and everything passed on, spend changes by (1 - s)^(1 - e): below e = 1 it falls, above it
rises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tidefleet.economics.money import ChipCost, token_cost
from tidefleet.economics.presets import preset
from tidefleet.economics.serving import CannotServe, estimate
from tidefleet.economics.shape import TokenShape
from tidefleet.simulator.catalogued import price_of, replica_of
from tidefleet.simulator.scenario import Scenario
from tidefleet.simulator.study.deepseek import saved_share
from tidefleet.simulator.study.finding import BadSetting, Finding, pool_of, settings_of

DEFAULTS = {
    "savedShare": saved_share(),  # of what every replica costs: here what following a day's demand saves
    "passedOnShare": 1.0,
    "spareReplicas": 1.0,
    "load": 0.9,  # of a replica that is in use
}

ELASTICITIES = (0.5, 1.0, 2.0)
_STEPS = 200


@dataclass(frozen=True, slots=True)
class Fleet:
    """What serving costs: replicas of so many USD and tokens an hour, and spare ones."""

    usd_per_replica_hour: float
    tokens_per_replica_hour: float
    spare: float

    def replicas(self, tokens_per_hour: float) -> float:
        """Whole replicas for a demand, the spare ones included."""
        return max(1.0, math.ceil(tokens_per_hour / self.tokens_per_replica_hour * (1.0 - 1e-12))) + self.spare

    def usd_per_hour(self, tokens_per_hour: float, saved: float = 0.0) -> float:
        """USD an hour for a demand."""
        return self.replicas(tokens_per_hour) * self.usd_per_replica_hour * (1.0 - saved)


def after(fleet: Fleet, before: float, *, saved: float, passed: float, elasticity: float) -> tuple[float, float]:
    """Demand (tokens an hour) and price over the old price, once both have settled.

    Demand moves towards what the price of the last step calls for, by halves, so that a step of one replica cannot set
    the two swinging.
    """
    old = fleet.usd_per_hour(before) / before
    demand, price = before, 1.0
    for _ in range(_STEPS):
        cost = fleet.usd_per_hour(demand, saved) / demand / old
        price = max(1e-9, 1.0 - passed * (1.0 - cost))
        demand = math.sqrt(demand * before * price**-elasticity)
    return demand, price


def study(scenario: Scenario) -> Finding:
    """Price, demand, replicas and spend after the saving, over before, by elasticity.

    Raises:
        BadSetting: a share is above 1, or the pool cannot serve or has no price.
    """
    values = settings_of(scenario, DEFAULTS)
    for name, most in (("savedShare", 0.99), ("passedOnShare", 1.0), ("load", 1.0)):
        if values[name] > most:
            raise BadSetting(
                f"scenario {scenario.name}: settings.{name} is {values[name]:g}; expected at most {most:g}"
            )
    pool, chat = pool_of(scenario), preset("chat")
    usd = price_of(pool)
    if usd is None:
        raise BadSetting(
            f"scenario {scenario.name}: pools[0].usdPerChipHour is missing, and the catalogue has no price of "
            f"{pool.accelerator}; expected a price, e.g. usdPerChipHour: 7.9"
        )
    shape = TokenShape(chat.input_mean, chat.output_mean, chat.input_p95, chat.output_p95, chat.cached_share)
    point = estimate(replica_of(pool), shape, chat.objectives)
    if isinstance(point, CannotServe):
        raise BadSetting(f"scenario {scenario.name}: {pool.model} on {pool.accelerator} cannot serve: {point.detail}")
    load = max(0.01, values["load"])
    cost = token_cost(point, ChipCost(usd), utilisation=load)
    per_hour = point.requests_per_second * 3600.0 * load * (shape.input_mean + shape.output_mean)
    fleet = Fleet(cost.usd_per_hour, per_hour, values["spareReplicas"])
    before = max(1.0, pool.replicas - values["spareReplicas"]) * per_hour
    saved, passed = values["savedShare"], values["passedOnShare"]
    figures = {
        "saved_share": saved,
        "usd_per_hour_before": fleet.usd_per_hour(before),
        "usd_per_million_tokens_before": fleet.usd_per_hour(before) / before * 1e6,
    }
    words = [
        f"{pool.model} on {pool.replicas} replicas of {pool.accelerator} for chat: a saving of {saved:.1%} of their "
        f"cost, {passed:.0%} of it passed on"
    ]
    for elasticity in ELASTICITIES:
        demand, price = after(fleet, before, saved=saved, passed=passed, elasticity=elasticity)
        spend = fleet.usd_per_hour(demand, saved) / fleet.usd_per_hour(before)
        name = f"{elasticity:g}".replace(".", "_")
        figures |= {
            f"demand_ratio_e_{name}": demand / before,
            f"price_ratio_e_{name}": price,
            f"spend_ratio_e_{name}": spend,
            f"spend_ratio_by_formula_e_{name}": (1.0 - saved) * (1.0 - passed * saved) ** -elasticity,
            f"replicas_e_{name}": fleet.replicas(demand),
        }
        way = "falls" if spend < 1.0 - 0.01 else "rises" if spend > 1.0 + 0.01 else "stays"
        words.append(
            f"elasticity {elasticity:g}: demand {demand / before:.3f}x at {price:.3f}x the price; total spend {way}, "
            f"{spend:.3f}x"
        )
    return Finding(figures, tuple(words))
