"""Sites as plans see them: their accelerator types, power limit, price of electricity, and how far their users are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tidefleet.api import AcceleratorType, Reason, Site
from tidefleet.cluster.records import Node
from tidefleet.controller.view import Fault
from tidefleet.planning.coordination import SiteLimit
from tidefleet.planning.from_api import chosen_price, tariff_of
from tidefleet.planning.options import Electricity, Offer
from tidefleet.planning.turning import HORIZON_SECONDS

DEAREST_USD_PER_KILOWATT_HOUR = 5.0
"""Wholesale electricity has cost 5 USD (Texas, February 2021: its legal cap was 9); a price in cents, or for a megawatt
hour, is above it."""


def matches(kind: AcceleratorType, node: Node) -> bool:
    """Whether a node is of an accelerator type: all labels of its selector (its device plugin may be restarting)."""
    selector = kind.spec.node_selector
    if not selector or not kind.spec.resource_name:
        return False
    return all(node.labels.get(key) == value for key, value in selector.items())


def nodes_at(site: Site, nodes: Iterable[Node]) -> int:
    """How many nodes stand there."""
    wanted = dict(site.spec.node_selector).items()
    return sum(1 for node in nodes if wanted <= node.labels.items())


def types_at(site: Site, kinds: Iterable[AcceleratorType], nodes: Sequence[Node]) -> frozenset[str]:
    """The types that have nodes, all of them there: only of these it is sure where a replica will be."""
    wanted = dict(site.spec.node_selector).items()
    found = set()
    for kind in kinds:
        own = [node for node in nodes if matches(kind, node)]
        if own and all(wanted <= node.labels.items() for node in own):
            found.add(kind.name)
    return frozenset(found)


def standing(
    sites: Iterable[Site], kinds: Sequence[AcceleratorType], nodes: Sequence[Node]
) -> Mapping[str, frozenset[str]]:
    """The types that each site has to itself, by the site's name."""
    return {site.name: types_at(site, kinds, nodes) for site in sites}


def site_limits(sites: Iterable[Site], there: Mapping[str, frozenset[str]]) -> tuple[SiteLimit, ...]:
    """The power limits of sites, each with the types that it is sure of (``there``, by name of site)."""
    return tuple(
        SiteLimit(
            site.name,
            site.spec.power_limit_watts / 1000.0,
            pue_of(site),
            there[site.name],
            dict(site.spec.node_selector),
        )
        for site in sites
        if site.spec.power_limit_watts is not None
    )


def electricity(sites: Iterable[Site], there: Mapping[str, frozenset[str]], *, now: float) -> Mapping[str, Electricity]:
    """What electricity costs, by accelerator type; where several sites claim one, the first by name counts."""
    found: dict[str, Electricity] = {}
    for site in sorted(sites, key=lambda one: one.name):
        if not site.spec.tariff or tariff_faults(site):
            continue
        tariff = tariff_of(site)
        mean = tariff.mean(now, HORIZON_SECONDS)
        if mean is None:
            continue
        price = Electricity(site.name, mean, tariff.at(now), pue_of(site))
        for name in there[site.name]:
            found.setdefault(name, price)
    return found


def round_trips(sites: Iterable[Site], there: Mapping[str, frozenset[str]]) -> Mapping[str, float]:
    """Seconds between users and an accelerator type, by type; where several sites claim one, the longest counts."""
    found: dict[str, float] = {}
    for site in sites:
        for name in there[site.name] if site.spec.round_trip_to_users_milliseconds else ():
            found[name] = max(found.get(name, 0.0), (site.spec.round_trip_to_users_milliseconds or 0) / 1000.0)
    return found


def placed(
    offers: Iterable[Offer], sites: Sequence[Site], there: Mapping[str, frozenset[str]], *, now: float
) -> tuple[Offer, ...]:
    """Offers with what their sites say of them: the price of electricity, and how far their users are."""
    prices, seconds = electricity(sites, there, now=now), round_trips(sites, there)
    return tuple(
        replace(
            one,
            electricity=prices.get(one.accelerator.name),
            round_trip_seconds=seconds.get(one.accelerator.name, 0.0),
        )
        for one in offers
    )


def tariff_faults(site: Site) -> tuple[Fault, ...]:
    """What is wrong with a site's tariff; a faulty one is not used."""
    faults = []
    for index, window in enumerate(site.spec.tariff):
        usd = window.usd_per_kilowatt_hour
        if abs(usd) > DEAREST_USD_PER_KILOWATT_HOUR:
            limit = f"{DEAREST_USD_PER_KILOWATT_HOUR:g}"
            message = (
                f'{site}: spec.tariff[{index}].usdPerKilowattHour is "{usd}"; expected USD for a kilowatt-hour from '
                f'-{limit} to {limit} (it looks like cents, or USD for a megawatt-hour), e.g. "0.12"'
            )
            faults.append(Fault(Reason.PRICE_IMPLAUSIBLE, message))
    try:
        tariff_of(site).at(0.0)
    except (KeyError, OSError, ValueError) as error:
        message = f"{site}: spec.tariff: {error}; expected a zone of the IANA database, e.g. Europe/Berlin"
        faults.append(Fault(Reason.INVALID_FIELD, message))
    return tuple(faults)


def reserved_chips(kind: AcceleratorType, nodes: Iterable[Node]) -> int:
    """Chips of the type that are paid for a term, used or not: those of the nodes of its reserved price.

    At most as many as the price says are reserved.
    0 without a reserved price that has a term and labels to tell its nodes by.
    """
    price = chosen_price(kind, "Reserved")
    if price is None or not price.minimum_term_days or not price.node_selector:
        return 0
    own = dict(price.node_selector).items()
    here = [node for node in nodes if matches(kind, node) and own <= node.labels.items()]
    chips = sum(node.allocatable.get(kind.spec.resource_name or "", 0) for node in here)
    return chips if price.chips is None else min(chips, price.chips)


def pue_of(site: Site) -> float:
    """Facility power over the accelerators'; 1 where it is not known."""
    return 1.0 if site.spec.pue is None else float(site.spec.pue)
