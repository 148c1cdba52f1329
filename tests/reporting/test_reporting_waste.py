"""What cost more than it had to: rules fire on figures that call for them, with their dollars, and are silent else."""

from __future__ import annotations

import pytest

from tidefleet.reporting.bill import settle
from tidefleet.reporting.period import Period
from tidefleet.reporting.precision import fp8_step
from tidefleet.reporting.values import PICO, By, Cell, Figures, Found, Offered, Peer, Speed, Unit, pico
from tidefleet.reporting.waste import HEADROOM_SHARE, Waster, wasters

UNIT = Unit("ml", "chat", "h200-sxm", "OnDemand")
PER_TOKEN = 1e-4
"""Accelerator-seconds of a prompt token."""
PRICE = 1e-3
"""USD of an accelerator-second."""
SPEED = Speed(1, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, saved=PER_TOKEN, cached=1.0)


def some(**changed: object) -> Figures:
    """1000 requests on 1000 accelerator-seconds for 1 USD."""
    plain: dict[str, object] = {
        "requests": 1000, "input_tokens": 1_000_000, "cached_tokens": 1_000_000, "output_tokens": 200_000,
        "good_tokens": 200_000, "slo_met": 1000, "seconds": 1000.0, "used": PICO,
    }  # fmt: skip
    return Figures(**(plain | changed))  # type: ignore[arg-type]


def found(**changed: object) -> Found:
    """A period in which one pool was all used."""
    plain: dict[str, object] = {
        "cells": [Cell("x", UNIT, "m", some())],
        "paid": {UNIT: PICO},
        "speeds": {("m", "h200-sxm"): SPEED},
        "offered": [Offered("ml/chat", "m", "h200-sxm", "OnDemand", some())],
    }
    return Found(By.TENANT, Period(0.0, 3600.0), "", **(plain | changed))  # type: ignore[arg-type]


def told(one: Found) -> dict[str, Waster]:
    return {waster.rule: waster for waster in wasters(one, settle(one))}


def test_a_pool_without_waste_is_told_nothing_about() -> None:
    assert told(found()) == {}


def test_a_pool_that_is_mostly_idle_costs_what_is_beyond_its_headroom() -> None:
    waster = told(found(paid={UNIT: 4 * PICO}))["idle"]
    assert waster.where == "ml/chat"
    assert waster.usd == pytest.approx(4.0 - 1.0 / (1.0 - HEADROOM_SHARE))
    assert "75% of $4.00" in waster.why
    assert "idle" not in told(found(paid={UNIT: round(1.9 * PICO)}))


def peers(own: Figures, *, others: int = 3) -> list[Peer]:
    usual = [Peer("ml/chat", "feature", f"usual-{n}", some()) for n in range(others)]
    return [Peer("ml/chat", "feature", "odd", own), *usual]


def test_prompts_that_are_cached_less_than_their_peers_begin_differently() -> None:
    own = some(input_tokens=1_800_000, cached_tokens=200_000, recomputed={"misrouted": 1000})
    waster = told(found(peers=peers(own)))["prefix-varies-early"]
    assert waster.where == "ml/chat, feature odd"
    assert waster.usd == pytest.approx(0.4 * 2_000_000 * PER_TOKEN * PRICE)
    assert "10% of prompt tokens cached, 50% usual" in waster.why


def test_prompts_that_were_known_before_are_the_caches_fault() -> None:
    own = some(input_tokens=1_800_000, cached_tokens=200_000, recomputed={"evicted": 700_000, "cold": 5})
    waster = told(found(peers=peers(own)))["cache-lost"]
    assert "KV tier" in waster.mend
    assert waster.usd == pytest.approx(0.4 * 2_000_000 * PER_TOKEN * PRICE)


def test_peers_are_not_compared_when_there_are_few_of_them_or_they_differ_little() -> None:
    own = some(input_tokens=1_800_000, cached_tokens=200_000)
    assert told(found(peers=peers(own, others=1))) == {}
    assert told(found(peers=peers(some(input_tokens=1_300_000, cached_tokens=700_000)))) == {}


def test_prompts_computed_again_cost_their_prefill_by_cause() -> None:
    again = some(recomputed={"evicted": 400_000, "restart": 100})
    waster = told(found(cells=[Cell("x", UNIT, "m", again)]))["recomputed-evicted"]
    assert waster.usd == pytest.approx(400_000 * PER_TOKEN * PRICE)
    assert "20.0% of prompt tokens" in waster.why


def offers(**changed: object) -> list[Offered]:
    cheap = some(used=PICO // 2, **changed)
    return [Offered("ml/chat", "m", "h200-sxm", "OnDemand", some()),
            Offered("ml/chat", "m", "b200", "OnDemand", cheap)]  # fmt: skip


def test_a_cheaper_type_in_the_data_is_told_with_what_it_would_save() -> None:
    waster = told(found(offered=offers()))["cheaper-type"]
    assert waster.where == "ml/chat on h200-sxm (OnDemand)"
    assert waster.usd == pytest.approx(0.5)
    assert "b200" in waster.mend


@pytest.mark.parametrize(
    "changed",
    [{"slo_met": 900, "slo_missed": 100}, {"output_tokens": 20_000}, {"requests": 50}, {"unpriced_seconds": 1.0}],
)
def test_a_type_that_keeps_fewer_objectives_or_has_other_requests_is_not_compared(changed: dict[str, float]) -> None:
    assert "cheaper-type" not in told(found(offered=offers(**changed)))


def test_eight_bit_weights_are_told_where_the_model_has_sixteen_and_the_chip_computes_in_eight() -> None:
    figures = some(used=10 * PICO)
    step = fp8_step("llama-3.3-70b", "h100-sxm", figures)
    assert step is not None
    assert 0.3 < step < 0.9
    waster = told(found(offered=[Offered("ml/chat", "llama-3.3-70b", "h100-sxm", "Spot", figures)]))["precision"]
    assert waster.usd == pytest.approx(10.0 * (1.0 - step))
    for model, accelerator in (("llama-3.3-70b", "a100-sxm-80"), ("deepseek-v3", "h100-sxm"), ("mine", "h100-sxm"),
                               ("llama-3.3-70b", "abacus")):  # fmt: skip
        assert fp8_step(model, accelerator, figures) is None


def test_errors_cut_requests_and_failed_tasks_are_told_from_one_percent_of_a_class() -> None:
    bad = some(error=PICO // 50, cut=PICO // 20, failed=PICO // 200)
    kinds = told(found(offered=[Offered("ml/chat", "m", "h200-sxm", "OnDemand", bad)]))
    assert {name: one.usd for name, one in kinds.items()} == {"errors": 0.02, "cut": 0.05}


def test_a_tenant_that_costs_more_than_it_earns_is_told_with_the_difference() -> None:
    waster = told(found(cells=[Cell("x", UNIT, "m", some(revenue=pico(0.25)))]))["costs-more-than-it-earns"]
    assert (waster.where, waster.usd) == ("tenant x", 0.75)


def test_what_is_less_than_a_thousandth_of_the_bill_is_not_told_and_the_largest_come_first() -> None:
    offered = [
        Offered("ml/small", "m", "h200-sxm", "OnDemand", some(used=PICO // 2000, error=PICO // 2000)),
        Offered("ml/large", "m", "h200-sxm", "OnDemand", some(error=PICO // 2, cut=PICO // 4)),
    ]
    one = found(offered=offered)
    assert [(waster.rule, waster.where) for waster in wasters(one, settle(one))] == [
        ("errors", "ml/large"), ("cut", "ml/large"),
    ]  # fmt: skip
    assert len(wasters(one, settle(one), most=1)) == 1
