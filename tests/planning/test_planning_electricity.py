"""Electricity of owned chips is part of what a plan costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from planning_builders import CHAT, a_candidate, a_problem, counts, planned

from tidefleet import catalogue
from tidefleet.api import Site
from tidefleet.api.validation import parse
from tidefleet.planning.apart import find_pairs
from tidefleet.planning.from_api import offer_of, tariff_of
from tidefleet.planning.options import (
    ANY_TYPE,
    MOST_PAID_BACK,
    PLANNING_UTILISATION,
    Allowed,
    Candidate,
    Electricity,
    EstimateMemo,
    Offer,
    Price,
    find_candidates,
)

H100 = offer_of(catalogue.accelerator_types()["h100-sxm"], placeable=False)
LLAMA = catalogue.models()["llama-3.1-8b"]
PRICES = {"OnDemand": Price(2.0), "Owned": Price(1.0, selector=frozenset({("owner", "us")}))}


IDLE_WATTS = 70.0


def an_offer(usd_per_kwh: float | None, *, pue: float = 1.0, owned: Price = PRICES["Owned"]) -> Offer:
    power = None if usd_per_kwh is None else Electricity("berlin", usd_per_kwh, usd_per_kwh, pue)
    chip = replace(H100.accelerator, idle_watts=IDLE_WATTS)
    return replace(H100, accelerator=chip, prices={**PRICES, "Owned": owned}, electricity=power)


def candidates(offer: Offer, kinds: Sequence[str] = ("OnDemand", "Owned")) -> dict[str, Candidate]:
    """By capacity type, one chip wide."""
    allowed = {"h100-sxm": Allowed(tensor_parallel=(1,), capacity_types=tuple(kinds))}
    market = find_candidates(
        LLAMA, [offer], [CHAT], allowed, default_weights="Fp8", default_kv="Fp8", memo=EstimateMemo()
    )
    return {one.option.capacity_type: one for one in market.candidates}


def test_an_owner_pays_for_the_power_of_facility_and_chips_and_a_tenant_does_not() -> None:
    free, paid = candidates(an_offer(None)), candidates(an_offer(0.20, pue=1.5))
    assert paid["OnDemand"] == free["OnDemand"]
    (point,) = paid["Owned"].estimates
    assert point.watts_per_chip is not None
    idle = IDLE_WATTS
    mean = PLANNING_UTILISATION * point.watts_per_chip + (1.0 - PLANNING_UTILISATION) * idle
    assert paid["Owned"].owner_kilowatts == pytest.approx(1.5 * mean / 1000.0)
    assert paid["Owned"].electricity_usd_per_hour == pytest.approx(0.20 * 1.5 * mean / 1000.0)
    assert paid["Owned"].usd_per_hour == pytest.approx(1.0 + paid["Owned"].electricity_usd_per_hour)
    assert free["Owned"].usd_per_hour == 1.0


def test_the_catalogues_cost_of_ownership_has_electricity_in_it_already() -> None:
    told = candidates(an_offer(0.20, owned=replace(PRICES["Owned"], catalogue=True)))
    assert told["Owned"].usd_per_hour == 1.0


def test_at_negative_prices_a_replica_still_costs_something() -> None:
    some, much = candidates(an_offer(-0.2))["Owned"], candidates(an_offer(-5.0))["Owned"]
    assert 0.0 < some.usd_per_hour < 1.0
    assert much.usd_per_hour == pytest.approx(1.0 - MOST_PAID_BACK)


def test_dear_electricity_turns_a_plan_from_owned_to_rented_chips() -> None:
    def chosen(usd_per_kwh: float) -> str:
        plan = planned(a_problem(*candidates(an_offer(usd_per_kwh)).values(), rate=30.0))
        return plan.chosen[0].option.capacity_type

    assert (chosen(0.1), chosen(3.0)) == ("Owned", "OnDemand")


def with_electricity(one: Candidate, usd: float) -> Candidate:
    return replace(one, usd_per_hour=one.usd_per_hour + usd, electricity_usd_per_hour=usd)


def test_a_plan_says_what_of_its_cost_is_electricity() -> None:
    plan = planned(a_problem(with_electricity(a_candidate(usd=4.0), 0.5), rate=20.0))
    assert plan.usd_per_hour == pytest.approx(9.0)
    assert plan.reason.endswith("; $1/h of $9/h are electricity")
    assert "electricity" not in planned(a_problem(a_candidate(usd=4.0), rate=20.0)).reason


def test_break_even_prices_are_of_rent_alone() -> None:
    ours, other = (
        with_electricity(a_candidate("ours", usd=4.0), 1.0),
        with_electricity(a_candidate("other", usd=6.0), 2.0),
    )
    plan = planned(a_problem(ours, other, rate=20.0))
    assert counts(plan) == {"ours": 2}
    assert {one.what: one.at for one in plan.break_even} == {
        "ours USD per chip-hour": pytest.approx(7.0),  # 7 + 1 = 6 + 2
        "other USD per chip-hour": pytest.approx(3.0),  # 3 + 2 = 4 + 1
    }


def test_prefill_and_decode_apart_pay_for_electricity_too() -> None:
    def cheapest(usd_per_kwh: float | None) -> float:
        (one,) = find_pairs(
            LLAMA,
            [an_offer(usd_per_kwh)],
            [CHAT],
            {ANY_TYPE: Allowed(tensor_parallel=(1,), capacity_types=("Owned",))},
            default_weights="Fp8",
            default_kv="Fp8",
        )
        return one.usd_per_hour(20.0)

    assert cheapest(0.5) > cheapest(None)


def test_a_tariff_is_read_with_its_days_and_hours() -> None:
    site = parse(
        {
            "apiVersion": "tidefleet.io/v1alpha1",
            "kind": "Site",
            "metadata": {"name": "berlin"},
            "spec": {
                "nodeSelector": {"zone": "a"},
                "tariff": [
                    {
                        "usdPerKilowattHour": "-0.02",
                        "start": "22:30",
                        "end": "24:00",
                        "days": ["Sun"],
                        "timeZone": "UTC",
                    },
                    {"usdPerKilowattHour": "0.25", "timeZone": "UTC"},
                ],
            },
        },
        strict=True,
    )
    assert isinstance(site, Site), site
    first, second = tariff_of(site).windows
    assert (first.usd_per_kilowatt_hour, first.start, first.end, first.days) == (-0.02, 1350, 1440, {6})
    assert (second.start, second.end, second.days) == (0, 1440, frozenset())
