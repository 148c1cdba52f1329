"""The power of sites as loans see it: what nodes draw on loan, what serving leaves them, and what follows from that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tidefleet.api import AcceleratorType
from tidefleet.controller.collector import PoolKey
from tidefleet.controller.decision import Decision
from tidefleet.controller.flips.outlook import TypeRound, value_of
from tidefleet.controller.flips.units import Unit
from tidefleet.controller.power import watts_by_site
from tidefleet.controller.view import PoolView
from tidefleet.economics.energy import training_watts
from tidefleet.flipping.lending import RecallOrder
from tidefleet.flipping.observation import Lend, Wish
from tidefleet.flipping.phase import Phase
from tidefleet.flipping.power import Draw, Power, draws_on_loan, within_power
from tidefleet.planning.coordination import SiteLimit
from tidefleet.planning.from_api import accelerator_of


def kilowatts_on_loan(kinds: Mapping[str, AcceleratorType], accelerators: Iterable[str]) -> dict[str, float]:
    """What one chip of each type draws in training, without PUE; 0 where its TDP is not known."""
    return {name: (training_watts(accelerator_of(kinds[name])) or 0.0) / 1000.0 for name in set(accelerators)}


def stands_at(unit: Unit, site: SiteLimit) -> bool:
    """Whether a unit stands there: its type has no nodes elsewhere, or all its own nodes have the site's labels."""
    wanted = site.selector.items()
    return unit.accelerator in site.types or (
        bool(wanted and unit.nodes) and all(wanted <= node.labels.items() for node in unit.nodes)
    )


def lent_kilowatts(
    sites: Iterable[SiteLimit], units: Sequence[Unit], kinds: Mapping[str, AcceleratorType]
) -> dict[str, float]:
    """What training may draw on loan now, by site, with PUE; nodes that are called back included until it has gone."""
    lent = [one for one in units if draws_on_loan(one)]
    each = kilowatts_on_loan(kinds, (one.accelerator for one in lent))
    return {
        site.name: site.pue * sum(one.chips * each[one.accelerator] for one in lent if stands_at(one, site))
        for site in sites
    }


def held_to_power(
    rounds: Mapping[str, TypeRound],
    sites: Sequence[SiteLimit],
    units: Sequence[Unit],
    *,
    views: Mapping[PoolKey, PoolView],
    kinds: Mapping[str, AcceleratorType],
    decisions: Iterable[Decision],
    recall_order: RecallOrder[Unit],
    lead_slots: int,
) -> dict[str, TypeRound]:
    """The rounds of all types, with the loans called back, and those not made, that sites have no power for.

    Serving is counted as its plans will have it, with the nodes that it gets until a loan could be back.

    Args:
        lead_slots: slots until then.
    """
    found, decisions = dict(rounds), tuple(decisions)
    units = [one for one in units if one.accelerator in found]
    each = kilowatts_on_loan(kinds, found)
    serving = watts_by_site(sites, decisions, planned=True) if units else {}
    for site in sites:
        wishes = {name: wish for one in found.values() for name, wish in one.decision.wishes.items()}
        here = [one for one in units if stands_at(one, site)]
        draws = {one.name: _draw(one, wishes.get(one.name), views, each[one.accelerator] * site.pue) for one in here}
        more = 0.0
        for name in sorted({one.accelerator for one in here} & site.types):
            nodes, ahead = max(1, sum(one.size for one in here if one.accelerator == name)), found[name].ahead.needed
            chips = sum(one.chips for one in here if one.accelerator == name)
            gets = max(ahead[: lead_slots + 1]) - ahead[0] if ahead else 0
            more += gets * chips / nodes * each[name] * site.pue
        power = Power(site.name, site.limit_kw, serving[site.name] / 1000.0 + more)
        held = within_power(power, here, draws, wishes, recall_order)
        for name in {one.accelerator for one in here}:
            own = {one.name for one in here if one.accelerator == name}
            decision = found[name].decision
            blocked = tuple(one for one in held.blocked if one.unit in own)
            found[name] = replace(
                found[name],
                decision=replace(
                    decision,
                    wishes={**decision.wishes, **{one: wish for one, wish in held.wishes.items() if one in own}},
                    blocked=(*blocked, *decision.blocked),
                    held_by=decision.held_by or (f"the power of {site.name}" if blocked else ""),
                ),
            )
    return found


def _draw(unit: Unit, wish: Wish | None, views: Mapping[PoolKey, PoolView], kilowatts: float) -> Draw:
    """What a unit draws on loan, and what the pool that lends it, or would, says training on it is worth."""
    lender = unit.journal.pool
    if unit.journal.phase is Phase.SERVING:
        lender = wish.pool if isinstance(wish, Lend) else ""
    namespace, _, name = lender.partition("/")
    view = views.get((namespace, name))
    value = value_of(view.pool if view is not None else None)
    return Draw(unit.chips * kilowatts, None if value is None else unit.chips * value)
