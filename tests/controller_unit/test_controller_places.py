"""Sites: which types stand there, and what electricity costs them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from controller_builders import SHIPPED, a_kind

from tidefleet.api import Reason, Site
from tidefleet.api.validation import parse
from tidefleet.cluster.records import Node
from tidefleet.cluster.records import node as node_record
from tidefleet.controller.places import (
    electricity,
    placed,
    reserved_chips,
    site_limits,
    standing,
    tariff_faults,
    types_at,
)
from tidefleet.planning.from_api import offer_of
from tidefleet.planning.options import Electricity

KINDS = [SHIPPED["h100-sxm"], SHIPPED["l40s"]]
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC).timestamp()


def a_site(name: str = "berlin", *, zone: str = "a", tariff: list[dict[str, Any]] | None = None, **spec: Any) -> Site:
    windows = [{"timeZone": "UTC", **one} for one in tariff or []]
    raw = {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "Site",
        "metadata": {"name": name},
        "spec": {"nodeSelector": {"zone": zone}, "tariff": windows, **spec},
    }
    site = parse(raw, strict=True)
    assert isinstance(site, Site), site
    return site


def a_node(name: str, accelerator: str, zone: str) -> Node:
    labels = {**SHIPPED[accelerator].spec.node_selector, "zone": zone}
    return node_record({"metadata": {"name": name, "labels": labels}})


def paid(sites: list[Site]) -> Mapping[str, Electricity]:
    return electricity(sites, standing(sites, KINDS, NODES), now=NOW)


NODES = [a_node("h0", "h100-sxm", "a"), a_node("h1", "h100-sxm", "a"), a_node("l0", "l40s", "a")]


def test_a_type_is_at_a_site_when_all_of_its_nodes_are() -> None:
    assert types_at(a_site(), KINDS, NODES) == {"h100-sxm", "l40s"}
    assert types_at(a_site(), KINDS, [*NODES, a_node("l1", "l40s", "b")]) == {"h100-sxm"}
    assert types_at(a_site(), KINDS, []) == frozenset()
    sites = [a_site(powerLimitWatts=90_000, pue="1.2"), a_site("other")]
    (limit,) = site_limits(sites, standing(sites, KINDS, NODES))
    assert (limit.name, limit.limit_kw, limit.pue, limit.types) == ("berlin", 90.0, 1.2, {"h100-sxm", "l40s"})


def test_electricity_is_the_mean_of_the_time_a_plan_is_committed_to() -> None:
    site = a_site(tariff=[{"usdPerKilowattHour": "0.10", "end": "14:00"}, {"usdPerKilowattHour": "0.30"}], pue="1.25")
    found = paid([site])
    assert found.keys() == {"h100-sxm", "l40s"}
    assert (found["l40s"].site, found["l40s"].pue, found["l40s"].now) == ("berlin", 1.25, 0.10)
    assert found["l40s"].usd_per_kilowatt_hour == pytest.approx(0.20)


def test_a_site_without_a_tariff_for_the_time_says_nothing() -> None:
    assert paid([a_site()]) == {}
    assert paid([a_site(tariff=[{"usdPerKilowattHour": "0.1", "end": "06:00"}])]) == {}


def test_offers_carry_the_electricity_of_their_site_and_how_far_its_users_are() -> None:
    sites = [
        a_site(tariff=[{"usdPerKilowattHour": "0.1"}], roundTripToUsersMilliseconds=30),
        a_site("b", roundTripToUsersMilliseconds=80),
        a_site("elsewhere", zone="z", roundTripToUsersMilliseconds=900),
    ]
    there = standing(sites, KINDS, NODES)
    offers = {
        one.accelerator.name: one for one in placed(map(offer_of, [*KINDS, SHIPPED["b200-sxm"]]), sites, there, now=NOW)
    }
    assert [offers[name].round_trip_seconds for name in ("l40s", "h100-sxm", "b200-sxm")] == [0.08, 0.08, 0.0]
    assert offers["l40s"].electricity is not None
    assert offers["b200-sxm"].electricity is None


def test_of_several_sites_that_claim_a_type_the_first_by_name_counts() -> None:
    sites = [a_site(name, tariff=[{"usdPerKilowattHour": usd}]) for name, usd in (("b", "0.3"), ("a", "0.1"))]
    assert paid(sites)["l40s"].usd_per_kilowatt_hour == pytest.approx(0.1)


@pytest.mark.parametrize("usd", ["12", "85", "-6"])
def test_a_tariff_in_cents_or_by_the_megawatt_hour_is_told_and_not_used(usd: str) -> None:
    site = a_site(tariff=[{"usdPerKilowattHour": "0.1", "end": "06:00"}, {"usdPerKilowattHour": usd}])
    (fault,) = tariff_faults(site)
    assert fault.reason is Reason.PRICE_IMPLAUSIBLE
    assert fault.message.startswith(
        f'Site berlin: spec.tariff[1].usdPerKilowattHour is "{usd}"; expected USD for a kilowatt-hour from -5 to 5'
    )
    assert paid([site]) == {}


def test_a_zone_that_cannot_be_read_is_told_and_not_used() -> None:
    good = a_site(tariff=[{"usdPerKilowattHour": "0.1"}])
    (window,) = good.spec.tariff
    lost = window.model_copy(update={"time_zone": "Mars/Olympus"})
    site = good.model_copy(update={"spec": good.spec.model_copy(update={"tariff": (lost,)})})
    (fault,) = tariff_faults(site)
    assert fault.reason is Reason.INVALID_FIELD
    assert "Mars/Olympus" in fault.message
    assert paid([site]) == {}


def test_reserved_chips_are_those_of_the_nodes_that_a_price_with_a_term_names() -> None:
    def kind(**price: Any) -> Any:
        return a_kind("l40s", prices=[{"capacityType": "Reserved", "usdPerChipHour": "0.70", **price}])

    def node(name: str, **labels: str) -> Node:
        raw = {"metadata": {"name": name, "labels": {**SHIPPED["l40s"].spec.node_selector, **labels}}}
        return node_record({**raw, "status": {"allocatable": {"nvidia.com/gpu": "8"}}})

    nodes = [node("a", paid="term"), node("b", paid="term"), node("c")]
    named = {"nodeSelector": {"paid": "term"}}
    assert reserved_chips(kind(minimumTermDays=365, **named), nodes) == 16
    assert reserved_chips(kind(minimumTermDays=365, chips=12, **named), nodes) == 12
    assert reserved_chips(kind(minimumTermDays=365, chips=64, **named), nodes) == 16
    assert reserved_chips(kind(**named), nodes) == 0
    assert reserved_chips(kind(minimumTermDays=365), nodes) == 0
    assert reserved_chips(SHIPPED["l40s"], nodes) == 0
