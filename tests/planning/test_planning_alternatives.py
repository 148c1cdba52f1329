"""What a plan is told beside itself: limits that cost money, external APIs, and prefill apart from decode."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning_builders import CHAT, a_candidate, a_problem, counts, planned

from tidefleet import catalogue
from tidefleet.economics.evidence import Correction, planning_share, roofline_of
from tidefleet.economics.external import ExternalOffer, PerToken, Provisioned
from tidefleet.economics.replica import Replica
from tidefleet.economics.shape import Objective, TokenShape
from tidefleet.planning import options
from tidefleet.planning.apart import Apart, Side, find_pairs
from tidefleet.planning.evidence import Evidence, key_of
from tidefleet.planning.from_api import offer_of
from tidefleet.planning.options import ANY_TYPE, Allowed, ClassDemand, EstimateMemo

OFFERS = {name: offer_of(one, placeable=False) for name, one in catalogue.accelerator_types().items()}
LLAMA = catalogue.models()["llama-3.3-70b"]


# --- shadow prices ---------------------------------------------------------------------------------------------------


def test_a_limit_that_binds_tells_what_one_more_would_save() -> None:
    # 4 requests/s short of cheap chips at $1 are served by dear ones at $3: one more cheap chip saves $2.
    cheap, dear = a_candidate("cheap", covers=1.0, usd=1.0), a_candidate("dear", covers=1.0, usd=3.0)
    plan = planned(a_problem(cheap, dear, rate=10.0, type_caps={"cheap": 6}))
    assert counts(plan) == {"cheap": 6, "dear": 4}
    (one,) = plan.shadow_prices
    assert one.what == "one more cheap would save $2/h"
    assert one.usd_per_hour == pytest.approx(2.0)


def test_a_limit_that_does_not_bind_has_no_price() -> None:
    cheap = a_candidate("cheap", covers=1.0, usd=1.0)
    assert planned(a_problem(cheap, rate=10.0, type_caps={"cheap": 11})).shadow_prices == ()


def test_bounds_on_replicas_and_spares_have_a_price_too() -> None:
    cheap = a_candidate("cheap", covers=1.0, usd=1.0)
    idle = planned(a_problem(cheap, rate=2.0, minimum=5))
    assert [one.what for one in idle.shadow_prices] == ["one replica less in replicas.min would save $1/h"]
    spared = planned(a_problem(cheap, rate=2.0, spare=1))
    assert [one.what for one in spared.shadow_prices] == ["one spare replica less would save $1/h"]
    small, large = a_candidate("small", covers=1.0, usd=1.0), a_candidate("large", covers=5.0, usd=7.0)
    crowded = planned(a_problem(small, large, rate=6.0, maximum=5))
    assert counts(crowded) == {"small": 1, "large": 1}
    assert [one.what for one in crowded.shadow_prices] == ["one replica more in replicas.max would save $2/h"]


def test_a_pinned_pool_and_one_that_falls_short_have_no_shadow_prices() -> None:
    cheap = a_candidate("cheap", covers=1.0, usd=1.0)
    assert planned(a_problem(cheap, rate=2.0, pinned=5)).shadow_prices == ()
    assert planned(a_problem(cheap, rate=20.0, type_caps={"cheap": 3})).shadow_prices == ()


def test_a_rival_that_only_fits_without_its_spare_is_not_told_as_cheaper() -> None:
    cheap, dear = a_candidate("cheap", covers=1.0, usd=1.0), a_candidate("dear", covers=1.0, usd=3.0)
    plan = planned(a_problem(cheap, dear, rate=3.0, spare=1, type_caps={"cheap": 3}, cap_reasons={"cheap": "sold out"}))
    assert counts(plan) == {"cheap": 3, "dear": 1}
    told = {one.option.split()[0]: one.lost_because for one in plan.runners_up}
    assert told["cheap"] == "cannot keep 1 spare within its limits: sold out"
    assert not any(one.what.startswith("cheap") for one in plan.break_even)


# --- external APIs ---------------------------------------------------------------------------------------------------


def an_offer(usd: float, **changes: object) -> ExternalOffer:
    return replace(ExternalOffer("example-ai", "llama", PerToken(usd, usd)), **changes)


def test_an_external_api_is_told_with_what_it_would_cost_and_the_factor_that_turns_the_choice() -> None:
    # 10 requests/s of 1,000 tokens are 36M tokens an hour: $72/h at $2 per million, against $4 of rent.
    plan = planned(a_problem(a_candidate(), rate=10.0, external=(an_offer(2.0),)))
    told = next(one for one in plan.runners_up if "external" in one.option)
    assert told.option == "example-ai/llama (external API)"
    assert told.usd_per_million_tokens == pytest.approx(2.0)
    assert told.lost_because == "costs $72/h, +1700%"
    even = next(one for one in plan.break_even if "example-ai" in one.what)
    assert even.at == pytest.approx(4.0 / 72.0)


def test_a_cheaper_external_api_is_told_with_who_would_send_requests_there_and_its_limit() -> None:
    cheap = planned(a_problem(a_candidate(), rate=10.0, external=(an_offer(0.05),)))
    assert "requests are sent there by a gateway" in cheap.runners_up[0].lost_because
    limited = planned(a_problem(a_candidate(), rate=10.0, external=(an_offer(0.05, requests_per_minute=60.0),)))
    assert "its limit is 60 requests a minute" in limited.runners_up[0].lost_because


def test_provisioned_throughput_is_priced_by_whole_units() -> None:
    # 9,000 input and 1,000 output tokens/s: 0.9 + 0.5 units, so two at $20/h.
    offer = ExternalOffer("example-ai", "llama", Provisioned(20.0, 10_000.0, 2_000.0))
    plan = planned(a_problem(a_candidate(), rate=10.0, external=(offer,)))
    assert "costs $40/h" in plan.runners_up[0].lost_because


def test_without_demand_no_external_api_is_compared() -> None:
    assert planned(a_problem(a_candidate(), rate=0.0, minimum=1, external=(an_offer(2.0),))).runners_up == ()


# --- prefill apart from decode ---------------------------------------------------------------------------------------


def test_both_sides_of_a_pair_are_whole_replicas() -> None:
    both = Apart(Side("p", 1, "Fp8", 2.0, 10.0), Side("d", 2, "Fp8", 5.0, 4.0))
    assert both.usd_per_hour(8.5) == 1 * 2.0 + 3 * 5.0
    assert both.describe(8.5) == "prefill 1 p (fp8, tp1) + decode 3 d (fp8, tp2)"
    plan = planned(a_problem(a_candidate(), rate=8.5, apart=(both,)))
    told = next(one for one in plan.runners_up if one.option.startswith("prefill"))
    assert "costs $17/h, +325%" in told.lost_because


def pairs(
    *classes: ClassDemand, names: tuple[str, ...] = ("h100-sxm", "h200-sxm"), **more: object
) -> tuple[Apart, ...]:
    allowed = {name: Allowed() for name in names}
    return find_pairs(
        LLAMA, [OFFERS[name] for name in OFFERS], classes, allowed, default_weights="Fp8", default_kv="Fp8", **more
    )


def test_a_pair_is_found_among_what_the_owner_allows() -> None:
    chat = replace(CHAT, objectives=(Objective("TTFT", 2.0), Objective("TPOT", 0.05)))
    (both,) = pairs(chat)
    assert {both.prefill.accelerator, both.decode.accelerator} <= {"h100-sxm", "h200-sxm"}
    assert pairs(replace(CHAT, objectives=(Objective("TTFT", 0.001),))) == ()


def test_a_prefill_only_accelerator_takes_no_part_in_decode() -> None:
    cpx = replace(OFFERS["rubin-cpx"], prices=OFFERS["h100-sxm"].prices)
    long = ClassDemand("long", 1.0, TokenShape(30_000, 200))
    native = {"default_weights": "Fp8", "default_kv": "Fp8"}
    allowed = {"rubin-cpx": Allowed(), "h200-sxm": Allowed()}
    (both,) = find_pairs(LLAMA, [cpx, OFFERS["h200-sxm"]], [long], allowed, **native)
    assert both.decode.accelerator == "h200-sxm"
    assert find_pairs(LLAMA, [cpx], [long], {ANY_TYPE: Allowed()}, **native) == ()
    (kept,) = find_pairs(
        LLAMA, [OFFERS["h100-sxm"], OFFERS["h200-sxm"]], [long], allowed, prefill_only=("h100-sxm",), **native
    )
    assert kept.decode.accelerator == "h200-sxm"


def test_a_ratio_outside_the_owners_bounds_is_no_pair() -> None:
    assert pairs(CHAT, prefill_per_decode=(1000.0, 2000.0)) == ()


def test_both_sides_of_a_pair_are_as_fast_as_measured() -> None:
    (modelled,) = pairs(CHAT, names=("h100-sxm",))
    slow = Correction("Live", 0.05, ((1.0, 2.0),), 2.0)
    live = {key_of(Replica(LLAMA, OFFERS["h100-sxm"].accelerator, width, "Fp8", "Fp8")): slow for width in (1, 2, 4, 8)}
    (measured,) = pairs(CHAT, names=("h100-sxm",), evidence=Evidence(live=live))
    alone = Replica(LLAMA, OFFERS["h100-sxm"].accelerator, 1, "Fp8", "Fp8")
    surer = planning_share(0.05) / planning_share(roofline_of(alone).sigma)
    for before, after in ((modelled.prefill, measured.prefill), (modelled.decode, measured.decode)):
        per_chip = (one.requests_per_second / one.chips for one in (before, after))
        was, now = per_chip
        assert now == pytest.approx(was * surer / 2.0, rel=0.2)


def test_a_pair_is_remembered_from_one_plan_to_the_next(monkeypatch) -> None:
    memo = EstimateMemo()
    first = pairs(CHAT, memo=memo)

    def again(*_args, **_kwargs):
        raise AssertionError("estimated once more")

    monkeypatch.setattr(options, "estimate", again)
    monkeypatch.setattr(options, "pair", again)
    assert pairs(CHAT, memo=memo) == first


def test_a_type_without_a_price_is_no_side() -> None:
    bare = replace(OFFERS["h100-sxm"], prices={})
    assert find_pairs(LLAMA, [bare], [CHAT], {ANY_TYPE: Allowed()}, default_weights="Fp8", default_kv="Fp8") == ()
