"""Questions about other prices, demands and hit rates."""

from __future__ import annotations

import pytest

from tidefleet import catalogue
from tidefleet.api import AcceleratorType, WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.planning.from_api import chosen_price, external_offers_of
from tidefleet.planning.what_if import (
    BadQuestion,
    WhatIf,
    parse_what_if,
    with_api_prices,
    with_demand,
    with_prices,
)

KINDS = catalogue.accelerator_types()


def a_class(name: str = "web", pool: str = "chat", **spec: object) -> WorkloadClass:
    found = parse(
        {
            "apiVersion": "tidefleet.io/v1alpha1",
            "kind": "WorkloadClass",
            "metadata": {"name": name, "namespace": "prod"},
            "spec": {
                "poolRef": {"name": pool},
                "demand": {"requestsPerSecond": "10"},
                "tokens": {"input": {"mean": 1000}, "output": {"mean": 100}, "cachedShare": "0.5"},
                **spec,
            },
        }
    )
    assert isinstance(found, WorkloadClass)
    return found


def usd(kinds: dict[str, AcceleratorType], name: str) -> float:
    price = chosen_price(kinds[name], "OnDemand")
    assert price is not None
    return float(price.usd_per_chip_hour)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("price:h200-sxm=2.9", WhatIf("price", "h200-sxm", "=", 2.9)),
        ("demand:prod/chat*1.3", WhatIf("demand", "prod/chat", "*", 1.3)),
        ("hit:chat=0.3", WhatIf("hit", "chat", "=", 0.3)),
        ("api-price:*0.2", WhatIf("api-price", "", "*", 0.2)),
        (" demand:*2 ", WhatIf("demand", "", "*", 2.0)),
    ],
)
def test_a_question_is_read(text: str, expected: WhatIf) -> None:
    assert parse_what_if(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "price", "price:x", "cost:x=1", "price:x=0", "price:x=-1", "price:x=nan", "price:x=inf", "hit:chat=1.5",
     "demand:chat*1e300", "demand:chat=ten", "price:x==2", "demand:chat*2*3", "x" * 10_000],
)  # fmt: skip
def test_what_is_no_question_is_told_with_an_example(text: str) -> None:
    with pytest.raises(BadQuestion, match=r"expected .*e\.g\. "):
        parse_what_if(text)


def test_a_price_is_set_also_where_there_was_none_and_multiplied_where_there_was() -> None:
    set_to = with_prices(KINDS, [parse_what_if("price:h200-sxm=2.9"), parse_what_if("price:rubin-cpx=3")])
    assert usd(set_to, "h200-sxm") == 2.9
    assert usd(set_to, "rubin-cpx") == 3.0
    assert usd(set_to, "h100-sxm") == usd(KINDS, "h100-sxm")
    halved = with_prices(KINDS, [parse_what_if("price:*0.5")])
    assert usd(halved, "h100-sxm") == pytest.approx(usd(KINDS, "h100-sxm") / 2)
    with pytest.raises(BadQuestion, match=r"'h2000-sxm'; expected an AcceleratorType, e\.g\. "):
        with_prices(KINDS, [parse_what_if("price:h2000-sxm=2.9")])
    with pytest.raises(BadQuestion, match="has no price to multiply"):
        with_prices(KINDS, [parse_what_if("price:rubin-cpx*2")])


def test_demand_moves_declared_and_measured_rates_of_its_pool_alone() -> None:
    classes, rates = with_demand(
        [a_class(), a_class("ide", "code")], {"chat": 20.0, "code": 5.0}, [parse_what_if("demand:chat*1.3")]
    )
    assert [float(one.spec.demand.requests_per_second or 0) for one in classes] == [13.0, 10.0]
    assert rates == {"chat": 26.0, "code": 5.0}
    with pytest.raises(BadQuestion, match="expected a pool with classes"):
        with_demand([a_class()], {}, [parse_what_if("demand:shop*2")])


def test_a_hit_rate_is_set_by_pool_or_class_and_stays_a_share() -> None:
    for text, share in (("hit:chat=0.3", 0.3), ("hit:web*1.5", 0.75), ("hit:prod/chat*9", 1.0)):
        (one,), _ = with_demand([a_class()], {}, [parse_what_if(text)])
        assert one.spec.tokens is not None
        assert float(one.spec.tokens.cached_share or 0) == pytest.approx(share)


def test_api_prices_move_together_or_by_provider() -> None:
    spill = [
        {"provider": name, "model": "llama", "usdPerMillionInputTokens": "1", "usdPerMillionOutputTokens": "4"}
        for name in ("near", "far")
    ]
    classes = [a_class(spill=spill)]
    for text, prices in (("api-price:*0.2", (0.2, 0.2)), ("api-price:far*3", (1.0, 3.0))):
        changed = with_api_prices(classes, [parse_what_if(text)])
        found = tuple(one.billing.input for one in external_offers_of(changed))  # type: ignore[union-attr]
        assert found == pytest.approx(prices)
