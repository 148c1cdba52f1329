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
    why_nothing_changes,
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


def rates_of(classes: tuple[WorkloadClass, ...]) -> list[float]:
    return [float(one.spec.demand.requests_per_second or 0) for one in classes]


def test_a_demand_set_for_a_pool_is_that_of_all_its_classes_together() -> None:
    two = [a_class(), a_class("mail", demand={"requestsPerSecond": "30"})]
    classes, _ = with_demand(two, {}, [parse_what_if("demand:chat=20")])
    assert rates_of(classes) == [5.0, 15.0]
    idle = [a_class(demand={"requestsPerSecond": "0"}), a_class("mail", demand={"requestsPerSecond": "0"})]
    assert rates_of(with_demand(idle, {}, [parse_what_if("demand:chat=20")])[0]) == [10.0, 10.0]


def test_a_demand_set_for_a_measured_pool_is_what_is_measured() -> None:
    mixed = [a_class(), a_class("mail", demand={"source": "Metrics"})]
    for given in ({}, {"chat": 40.0}, {"prod/chat": 40.0}):
        classes, rates = with_demand(mixed, given, [parse_what_if("demand:prod/chat=25")])
        assert rates == {"prod/chat": 25.0}
        assert rates_of(classes) == [10.0, 0.0]
    classes, rates = with_demand(mixed, {}, [parse_what_if("demand:chat=4")])
    assert (rates_of(classes), rates) == ([4.0, 0.0], {"prod/chat": 4.0})


def test_work_that_may_wait_moves_with_its_pool_and_alone() -> None:
    night = a_class("night", demand={"volumeTokensPerDay": 1000, "deadlineSeconds": 3600})
    for text, volume, rate in (("demand:chat*1.5", 1500, 15.0), ("demand:night*3", 3000, 10.0),
                               ("demand:chat=3", 1000, 3.0)):  # fmt: skip
        classes, _ = with_demand([a_class(), night], {}, [parse_what_if(text)])
        assert classes[1].spec.demand.volume_tokens_per_day == volume
        assert rates_of(classes)[0] == rate
    with pytest.raises(BadQuestion, match=r"a volume of tokens a day; expected a factor, e\.g\. demand:night\*1\.3"):
        with_demand([night], {}, [parse_what_if("demand:night=3")])


def test_a_question_about_one_class_leaves_the_others() -> None:
    classes, _ = with_demand([a_class(), a_class("mail")], {}, [parse_what_if("demand:prod/mail=4")])
    assert rates_of(classes) == [10.0, 4.0]
    with pytest.raises(BadQuestion, match=r"measured with its pool; expected the pool, e\.g\. demand:chat\*1\.3"):
        with_demand([a_class(demand={"source": "Metrics"})], {}, [parse_what_if("demand:web*2")])


@pytest.mark.parametrize(
    ("text", "demand", "why"),
    [
        ("demand:chat*2", {"source": "Metrics"}, "the demand is measured, and none is given; say it, e.g. --demand "
                                                 "prod/chat=20"),
        ("demand:chat*1", {"requestsPerSecond": "3"}, "that is what is asked already"),
        ("hit:chat=0.5", {"requestsPerSecond": "3"}, "the classes state no tokens, or are so already"),
        ("api-price:*0.2", {"requestsPerSecond": "3"}, "no class names an external API in spec.spill"),
    ],
)  # fmt: skip
def test_a_question_that_changes_nothing_says_why(text: str, demand: dict[str, object], why: str) -> None:
    question = parse_what_if(text)
    assert why_nothing_changes(question, [a_class(demand=demand)], {}) == f"{question} changes nothing: {why}"


def test_a_question_that_changes_something_is_not_called_idle() -> None:
    classes = [a_class(demand={"source": "Metrics"})]
    assert not why_nothing_changes(parse_what_if("demand:chat*2"), classes, {"chat": 3.0})
    assert not why_nothing_changes(parse_what_if("demand:chat=2"), classes, {})
    assert not why_nothing_changes(parse_what_if("hit:web=0.3"), classes, {})
    assert not why_nothing_changes(parse_what_if("price:h200-sxm=2"), classes, {})


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
    with pytest.raises(BadQuestion, match="is about 'nobody'; expected a provider: one of far, near"):
        with_api_prices(classes, [parse_what_if("api-price:nobody*2")])
    with pytest.raises(BadQuestion, match=r"one in spec\.spill of a class, which none has"):
        with_api_prices([a_class()], [parse_what_if("api-price:far*2")])
    assert with_api_prices([a_class()], [parse_what_if("api-price:*2")]) == (a_class(),)
