"""What nodes cost that no serving pod holds: those in a flip or on loan, and those that nobody uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tidefleet.controller.decision import Decision
from tidefleet.flipping.phase import Phase
from tidefleet.planning.options import Price
from tidefleet.telemetry import FlipMeter, Telemetry

EMPTY: Mapping[Phase, str] = {
    Phase.VERIFYING: "draining",
    Phase.TRAINING: "training",
    Phase.RECALLING: "warming",
    Phase.RECLAIMING: "warming",
    Phase.QUARANTINED: "quarantined",
}
"""Phases in which a node has no serving pods, and the state its chips are counted in; in the others its pods count."""

ON_TRAINING = (Phase.TRAINING, Phase.RECALLING)
"""Phases whose cost is training's; that of the other empty ones is the pool's, but for a quarantine: nobody's."""


@dataclass(frozen=True, slots=True)
class TypeSupply:
    """Chips of one accelerator type in the fleet, and what they cost by capacity type."""

    chips: int
    prices: Mapping[str, Price]


def chips_by_phase(decision: Decision) -> Counter[tuple[str, Phase]]:
    """Chips of a pool's nodes that are in a flip or on loan, by accelerator type and phase, as its status tells it."""
    found: Counter[tuple[str, Phase]] = Counter()
    for unit in decision.flipping.get("units", ()):
        kind = decision.view.kinds.get(str(unit.get("accelerator")))
        if kind is not None:
            nodes = len(unit.get("nodes", ()))
            found[kind.name, Phase(unit["phase"])] += nodes * (kind.spec.chips_per_node or 0)
    return found


def chips_by_state(decision: Decision) -> Counter[tuple[str, ...]]:
    """The same by accelerator type and state, without those whose serving pods are counted anyway."""
    found: Counter[tuple[str, ...]] = Counter()
    for (accelerator, phase), chips in chips_by_phase(decision).items():
        if phase in EMPTY and chips:
            found[accelerator, EMPTY[phase]] += chips
    return found


def account(
    telemetry: Telemetry,
    decisions: Iterable[Decision],
    prices: Mapping[tuple[str, str], Mapping[tuple[str, str], float]],
    supply: Mapping[str, TypeSupply],
    hours: float,
) -> None:
    """Count what lent and idle chips cost in some hours; a chip without a known price is not counted at all.

    Args:
        prices: by pool key, USD per chip-hour by accelerator and capacity type.
        supply: by accelerator type; empty where the fleet is not known, and then nothing is idle.
    """
    meter = FlipMeter(telemetry)
    used: Counter[str] = Counter()
    paid_as: dict[str, str] = {}
    for decision in decisions:
        key = decision.view.pool.key
        for (accelerator, capacity_type), held in decision.view.chips.items():
            used[accelerator] += held.scheduled
            paid_as.setdefault(accelerator, capacity_type)
        for (accelerator, phase), chips in chips_by_phase(decision).items():
            if phase not in EMPTY or phase is Phase.QUARANTINED:
                continue
            used[accelerator] += chips
            capacity_type, usd = _price(prices.get(key, {}), accelerator, paid_as.get(accelerator, ""))
            if usd is None:
                continue
            if phase in ON_TRAINING:
                meter.training_cost(key, chips * usd * hours, accelerator=accelerator, capacity_type=capacity_type)
            else:
                telemetry.count(
                    "pool_cost_usd_total", chips * usd * hours,
                    namespace=key[0], pool=key[1], accelerator=accelerator, capacity_type=capacity_type,
                )  # fmt: skip
    for accelerator, one in supply.items():
        known = {(accelerator, kind): price.usd_per_chip_hour for kind, price in one.prices.items()}
        capacity_type, usd = _price(known, accelerator, paid_as.get(accelerator, ""))
        if usd is not None and one.chips:
            idle = max(0, one.chips - used[accelerator])
            meter.idle_cost(idle * usd * hours, accelerator=accelerator, capacity_type=capacity_type)


def _price(prices: Mapping[tuple[str, str], float], accelerator: str, capacity_type: str) -> tuple[str, float | None]:
    """The price of a type: as its serving chips are paid for, else the lowest that is known."""
    if (accelerator, capacity_type) in prices:
        return capacity_type, prices[accelerator, capacity_type]
    known = sorted((usd, kind) for (name, kind), usd in prices.items() if name == accelerator)
    return (known[0][1], known[0][0]) if known else ("", None)
