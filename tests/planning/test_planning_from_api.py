"""From what users write to what planning works with, and from that to the options of a pool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet import catalogue
from tidefleet.api import AcceleratorType, InferencePool, WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import CannotServe
from tidefleet.economics.shape import Objective, TokenShape
from tidefleet.planning import options
from tidefleet.planning.from_api import (
    NOMINAL_SHAPE,
    UnknownModel,
    accelerator_of,
    allowed_of,
    architecture_of,
    chosen_price,
    class_demands,
    deferred_rate,
    objectives_of,
    offer_of,
    shape_of,
    shipped_prices,
)
from tidefleet.planning.options import (
    Allowed,
    ClassDemand,
    EstimateMemo,
    Market,
    Offer,
    Option,
    Price,
    default_widths,
    find_candidates,
)

LENGTHS = {"input": {"mean": 1000}, "output": {"mean": 250}}
MODELS = catalogue.models()


def parsed(kind: str, name: str, spec: dict[str, Any]) -> Any:
    raw = {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, **({} if kind == "AcceleratorType" else {"namespace": "prod"})},
        "spec": spec,
    }
    found = parse(raw, strict=True)
    assert isinstance(found, InferencePool | WorkloadClass | AcceleratorType), found
    return found


def a_class(name: str = "web", **spec: Any) -> WorkloadClass:
    found = parsed("WorkloadClass", name, {"poolRef": {"name": "chat"}, "tokens": LENGTHS, **spec})
    assert isinstance(found, WorkloadClass)
    return found


def a_pool(**spec: Any) -> InferencePool:
    serving = {"template": {"spec": {"containers": [{"name": "engine", "image": "vllm"}]}}}
    found = parsed("InferencePool", "chat", {"model": {"name": "llama-3.1-8b"}, "serving": serving, **spec})
    assert isinstance(found, InferencePool)
    return found


def a_kind(name: str = "card", **spec: Any) -> AcceleratorType:
    facts = {
        "vendor": "NVIDIA",
        "memoryBytes": 80_000_000_000,
        "memoryBytesPerSecond": 3_000_000_000_000,
        "computeFlops": {"bf16": 900_000_000_000_000},
        "scaleUp": {"bytesPerSecond": 450_000_000_000, "domainChips": 8},
        "chipsPerNode": 8,
    }
    found = parsed("AcceleratorType", name, {**facts, **spec})
    assert isinstance(found, AcceleratorType)
    return found


def a_price(usd: str, capacity: str = "OnDemand", **more: Any) -> dict[str, Any]:
    return {"capacityType": capacity, "usdPerChipHour": usd, **more}


def shares(classes: tuple[ClassDemand, ...]) -> dict[str, float]:
    return {one.name: pytest.approx(one.share) for one in classes}


# --- classes ---------------------------------------------------------------------------------------------------------


def test_measured_demand_is_split_by_traffic_share() -> None:
    classes = [a_class("a", demand={"source": "Metrics"}, trafficShare="0.6"),
               a_class("b", demand={"source": "Metrics"}, trafficShare="0.2")]  # fmt: skip
    assert shares(class_demands(classes, 10.0)) == {"a": 0.75, "b": 0.25}


def test_without_traffic_shares_classes_are_equal() -> None:
    classes = [a_class(name, demand={"source": "Metrics"}) for name in "abc"]
    assert shares(class_demands(classes)) == dict.fromkeys("abc", 1 / 3)


def test_declared_demand_counts_as_it_is_and_the_rest_is_the_measured_classes() -> None:
    classes = [
        a_class("declared", demand={"requestsPerSecond": "4"}),
        a_class("measured", demand={"source": "Metrics"}),
    ]
    assert shares(class_demands(classes, 16.0)) == {"declared": 0.25, "measured": 0.75}
    assert shares(class_demands(classes, 3.0)) == {"declared": 1.0, "measured": 0.0}
    two = [a_class("a", demand={"requestsPerSecond": "1"}), a_class("b", demand={"requestsPerSecond": "3"})]
    assert shares(class_demands(two)) == {"a": 0.25, "b": 0.75}


def test_deferrable_work_only_fills() -> None:
    batch = a_class("batch", demand={"volumeTokensPerDay": 108_000_000, "deadlineSeconds": 86_400})
    web = a_class("web", demand={"source": "Metrics"})
    assert shares(class_demands([web, batch], 5.0)) == {"web": 1.0}
    assert shares(class_demands([batch])) == {"batch": 1.0}
    # 108M tokens a day in requests of 1,250: one a second.
    assert deferred_rate(batch) == pytest.approx(1.0)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from(["declared", "measured", "shared", "batch"]), min_size=1, max_size=5), st.floats(0, 1000)
)
def test_shares_sum_to_one_whatever_the_mix(kinds: list[str], rate: float) -> None:
    demand: dict[str, dict[str, Any]] = {
        "declared": {"demand": {"requestsPerSecond": "2.5"}},
        "measured": {"demand": {"source": "Metrics"}},
        "shared": {"demand": {"source": "Metrics"}, "trafficShare": "0.3"},
        "batch": {"demand": {"volumeTokensPerDay": 10**9, "deadlineSeconds": 3600}},
    }
    found = class_demands([a_class(f"c{i}", **demand[kind]) for i, kind in enumerate(kinds)], rate)
    assert sum(one.share for one in found) == pytest.approx(1)
    assert all(one.share >= 0 for one in found)


def test_lengths_and_reasoning_become_a_shape() -> None:
    tokens = {
        "input": {"mean": 1300, "p95": 5000},
        "output": {"mean": 100},
        "cachedShare": "0.4",
        "reasoning": {"mean": 1500, "p95": 6000},
    }
    assert shape_of(a_class(demand={"source": "Metrics"}, tokens=tokens)) == TokenShape(
        input_mean=1300,
        output_mean=1600,
        input_p95=5000,
        output_p95=6100,
        cached_share=0.4,
        reasoning_mean=1500,
        reasoning_p95=6000,
    )
    tokens["reasoning"]["cap"] = 4000
    capped = shape_of(a_class(demand={"source": "Metrics"}, tokens=tokens))
    assert (capped.reasoning_p95, capped.output_p95) == (4000, 4100)
    assert shape_of(parsed("WorkloadClass", "web", {"poolRef": {"name": "chat"}})) == NOMINAL_SHAPE


def test_objectives_are_in_seconds() -> None:
    spec = [
        {"metric": "TTFT", "percentile": 99, "milliseconds": 800, "perThousandInputTokensMilliseconds": 100},
        {"metric": "Stall", "milliseconds": 500},
    ]
    one, stall = objectives_of(a_class(demand={"source": "Metrics"}, objectives=spec))
    assert (one.metric, one.percentile, one.seconds) == ("TTFT", 99.0, 0.8)
    assert one.limit(5000) == pytest.approx(1.3)
    assert (stall.metric, stall.seconds) == ("Stall", 0.5)


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_model_is_the_catalogues_or_the_pools_own() -> None:
    assert architecture_of(a_pool(), MODELS) is MODELS["llama-3.1-8b"]
    own = {"num_hidden_layers": 4, "hidden_size": 512, "num_attention_heads": 8, "vocab_size": 1000}
    found = architecture_of(a_pool(model={"name": "Our/Own", "architecture": own}), MODELS)
    assert (found.name, found.layers) == ("Our/Own", 4)


def test_an_unknown_model_is_told_with_models_like_it() -> None:
    with pytest.raises(
        UnknownModel, match=r'InferencePool prod/chat: spec\.model\.name is "llama-9"; expected .*llama-'
    ):
        architecture_of(a_pool(model={"name": "llama-9"}), MODELS)
    with pytest.raises(UnknownModel, match=r"e\.g\. llama-3\.3-70b"):
        architecture_of(a_pool(model={"name": "nobody-knows"}), MODELS)
    with pytest.raises(UnknownModel, match=r"spec\.model\.architecture: num_hidden_layers is missing"):
        architecture_of(a_pool(model={"architecture": {"hidden_size": 512}}), MODELS)


# --- accelerators and prices -----------------------------------------------------------------------------------------


def test_what_is_absent_of_an_accelerator_stays_unknown() -> None:
    bare = {"computeFlops": {}, "scaleUp": None, "chipsPerNode": None}
    found = accelerator_of(a_kind(**bare))
    assert found == Accelerator("card", 80e9, 3e12, {})
    assert found.tdp_watts is None
    whole = accelerator_of(a_kind(tdpWatts=700, idleWatts=75, scaleOutBytesPerSecond=50_000_000_000))
    assert (whole.tdp_watts, whole.idle_watts, whole.scale_out_bytes_per_second) == (700.0, 75.0, 50e9)
    assert (whole.scale_up_bytes_per_second, whole.scale_up_domain) == (450e9, 8)


def test_the_owners_own_price_wins_over_a_providers_lower_one() -> None:
    prices = [a_price("1.50", provider="aws"), a_price("2.50"), a_price("1.10", region="us-east-1")]
    found = chosen_price(a_kind(prices=prices), "OnDemand")
    assert found is not None
    assert str(found.usd_per_chip_hour) == "2.50"


def test_without_a_price_of_ones_own_the_lowest_listed_one_is_used() -> None:
    prices = [a_price("1.50", provider="aws"), a_price("1.40", provider="gcp"), a_price("0.50", "Spot")]
    found = chosen_price(a_kind(prices=prices), "OnDemand")
    assert found is not None
    assert found.provider == "gcp"


def test_a_disabled_price_is_ignored() -> None:
    kind = a_kind(prices=[a_price("1.50", provider="aws"), a_price("1.10", provider="gcp", state="Disabled")])
    assert offer_of(kind).prices["OnDemand"].usd_per_chip_hour == 1.5
    assert offer_of(a_kind(prices=[a_price("1.10", state="Disabled")])).prices == {}


def test_an_offer_tells_shipped_prices_from_a_users() -> None:
    shipped = a_kind(prices=[a_price("1.50", provider="aws", asOf="2026-11-21")])
    known = shipped_prices([shipped])
    assert offer_of(shipped, shipped=known).prices["OnDemand"].catalogue
    assert offer_of(shipped, shipped=known).prices["OnDemand"].as_of == "2026-11-21"
    assert not offer_of(a_kind(prices=[a_price("1.49", provider="aws")]), shipped=known).prices["OnDemand"].catalogue


def test_implausible_prices_are_left_out() -> None:
    assert offer_of(a_kind(prices=[a_price("1500")]), implausible=True).prices == {}


def test_a_type_without_nodes_to_select_can_be_planned_with_and_not_scheduled_on() -> None:
    assert "has no resourceName or nodeSelector" in offer_of(a_kind()).plan_only
    assert not offer_of(a_kind(), placeable=False).plan_only
    placed = a_kind(resourceName="nvidia.com/gpu", nodeSelector={"gpu": "card"})
    assert not offer_of(placed).plan_only
    assert not offer_of(a_kind(roles=["Prefill"])).serves_aggregated


# --- quality ---------------------------------------------------------------------------------------------------------


def allowed(pool: InferencePool, *classes: WorkloadClass, defaults: tuple[str, str] = ("Bf16", "Bf16")) -> Allowed:
    (one,) = allowed_of(pool, classes, native_weights="Bf16", defaults=defaults).values()
    return one


def a_scored(name: str, *scores: tuple[str, str], floor: str | None = None) -> WorkloadClass:
    listed = [{"lever": lever, "score": score, "source": "our evaluation"} for lever, score in scores]
    return a_class(
        name, demand={"source": "Metrics"}, quality={"scores": listed, **({"floor": floor} if floor else {})}
    )


CARD = {"type": "card", "weights": ["Bf16", "Fp8", "Int4"], "kv": ["Bf16", "Fp8"]}


def test_without_a_floor_the_owners_precisions_are_taken() -> None:
    found = allowed(a_pool(accelerators=[CARD]), a_scored("web"))
    assert found.weights == ("Bf16", "Fp8", "Fp4")
    assert found.kv == ("Bf16", "Fp8")


def test_a_floor_removes_levers_without_a_score_that_meets_it() -> None:
    pool = a_pool(accelerators=[CARD], qualityFloor="0.97")
    assert allowed(pool, a_scored("web")).weights == ("Bf16",)
    scored = a_scored("web", ("weights:Fp8", "0.98"), ("weights:Int4", "0.90"), ("kv:Fp8", "0.97"))
    found = allowed(pool, scored)
    assert found.weights == ("Bf16", "Fp8")
    assert found.kv == ("Bf16", "Fp8")
    assert allowed(pool, a_scored("web", ("weights:fp8", "0.98"))).weights == ("Bf16", "Fp8")  # in any case of letters


def test_of_pool_and_class_the_higher_floor_wins_and_every_class_must_agree() -> None:
    pool = a_pool(accelerators=[CARD], qualityFloor="0.90")
    good = a_scored("a", ("weights:Fp8", "0.95"))
    assert allowed(pool, good).weights == ("Bf16", "Fp8")
    assert allowed(pool, good, a_scored("b")).weights == ("Bf16",)
    assert allowed(pool, a_scored("a", ("weights:Fp8", "0.95"), floor="0.99")).weights == ("Bf16",)


def test_a_floor_that_leaves_no_precision_says_so() -> None:
    only = {"type": "card", "weights": ["Fp8"]}
    found = allowed(a_pool(accelerators=[only], qualityFloor="0.97"), a_scored("web"))
    assert "quality score of at least 0.97" in found.refused


def test_what_the_owner_names_of_a_type_is_kept() -> None:
    wish = {"type": "card", "tensorParallel": [4, 1], "capacityTypes": ["Spot", "OnDemand"], "maxChips": 16}
    found = allowed(a_pool(accelerators=[wish]), a_scored("web"))
    assert (found.tensor_parallel, found.capacity_types, found.max_chips) == ((1, 4), ("Spot", "OnDemand"), 16)


# --- options ---------------------------------------------------------------------------------------------------------

WEB = (ClassDemand("web", 1.0, TokenShape(1000, 250)),)
FAST = Accelerator(
    "fast", 80e9, 3e12, {"Bf16": 900e12}, scale_up_bytes_per_second=450e9, scale_up_domain=8, chips_per_node=8
)


def found(*offers: Offer, allowed: dict[str, Allowed] | None = None, classes: tuple[ClassDemand, ...] = WEB) -> Market:
    return find_candidates(
        MODELS["llama-3.1-8b"],
        offers,
        classes,
        allowed or {},
        default_weights="Bf16",
        default_kv="Bf16",
        memo=EstimateMemo(),
    )


def test_every_width_of_a_node_is_an_option() -> None:
    market = found(Offer(FAST, {"OnDemand": Price(2.0)}))
    assert [one.option.tensor_parallel for one in market.candidates] == [1, 2, 4, 8]
    assert [one.usd_per_hour for one in market.candidates] == [2.0, 4.0, 8.0, 16.0]
    assert default_widths(Accelerator("lone", 1.0, 1.0)) == (1,)
    assert default_widths(Accelerator("six", 1.0, 1.0, scale_up_domain=6, chips_per_node=6)) == (1, 2, 4)


def test_a_mix_of_classes_is_served_at_its_harmonic_rate() -> None:
    light, heavy = TokenShape(100, 50), TokenShape(4000, 1000)
    alone = [
        found(Offer(FAST, {"OnDemand": Price(2.0)}), classes=(ClassDemand("x", 1.0, shape),)).candidates[0]
        for shape in (light, heavy)
    ]
    mixed = found(
        Offer(FAST, {"OnDemand": Price(2.0)}),
        classes=(ClassDemand("a", 0.75, light), ClassDemand("b", 0.25, heavy)),
    ).candidates[0]
    expected = 1 / (0.75 / alone[0].requests_per_second + 0.25 / alone[1].requests_per_second)
    assert mixed.requests_per_second == pytest.approx(expected)
    assert mixed.usd_per_request == pytest.approx(2.0 / 3600 / expected)


def test_an_unpriced_type_is_no_candidate_and_is_kept_for_comparison() -> None:
    market = found(Offer(FAST, {}))
    assert not market.candidates
    assert [one.usd_per_hour for one in market.unpriced] == [1.0, 2.0, 4.0, 8.0]
    spot_only = found(Offer(FAST, {"Spot": Price(0.5)}))
    assert not spot_only.candidates
    wanted = found(Offer(FAST, {"Spot": Price(0.5)}), allowed={"fast": Allowed(capacity_types=("Spot",))})
    assert {one.option.capacity_type for one in wanted.candidates} == {"Spot"}


def test_types_that_cannot_serve_are_told_with_one_reason_each() -> None:
    small = Accelerator("small", 10e9, 1e12, {"Bf16": 100e12})
    blank = Accelerator("blank", 80e9, 1e12)
    market = found(
        Offer(small, {"OnDemand": Price(1.0)}),
        Offer(blank, {"OnDemand": Price(1.0)}),
        Offer(FAST, {"OnDemand": Price(1.0)}, plan_only="no node of this type is in the cluster"),
        Offer(FAST, {"OnDemand": Price(1.0)}, serves_aggregated=False),
    )
    assert not market.candidates
    assert [(one.accelerator, one.cause) for one in market.rejected] == [
        ("small", "Memory"),
        ("blank", "Unprofiled"),
        ("fast", "PlanOnly"),
        ("fast", "Role"),
    ]


def test_only_the_types_the_owner_names_are_looked_at() -> None:
    other = Accelerator("other", 80e9, 1e12, {"Bf16": 100e12})
    market = found(
        Offer(FAST, {"OnDemand": Price(1.0)}), Offer(other, {"OnDemand": Price(1.0)}), allowed={"other": Allowed()}
    )
    assert {one.option.accelerator for one in market.candidates} == {"other"}


def test_capacity_types_on_the_same_nodes_are_not_told_apart_and_the_dearest_counts() -> None:
    both = Allowed(tensor_parallel=(1,), capacity_types=("Spot", "OnDemand"))
    same = found(Offer(FAST, {"Spot": Price(0.5), "OnDemand": Price(2.0)}), allowed={"fast": both})
    assert [one.option.capacity_type for one in same.candidates] == ["OnDemand"]
    ((name, why),) = [(one.accelerator, one.detail) for one in same.rejected]
    assert name == "fast Spot"
    assert why.endswith("no nodeSelector of its own, so its nodes cannot be told from those of OnDemand")
    spot = Price(0.5, selector=frozenset({("karpenter.sh/capacity-type", "spot")}))
    apart = found(Offer(FAST, {"Spot": spot, "OnDemand": Price(2.0)}), allowed={"fast": both})
    assert [one.option.capacity_type for one in apart.candidates] == ["Spot", "OnDemand"]
    assert not apart.rejected


def test_a_replica_wider_than_a_node_cannot_be_placed() -> None:
    market = found(Offer(FAST, {"OnDemand": Price(1.0)}), allowed={"fast": Allowed(tensor_parallel=(16,))})
    (one,) = market.rejected
    assert (one.cause, one.detail) == ("Width", "16 chips a replica do not fit a node of 8")


def test_estimates_are_remembered_and_the_oldest_go_first() -> None:
    memo = EstimateMemo(limit=10)
    for rate in range(1, 30):
        find_candidates(
            MODELS["llama-3.1-8b"],
            [Offer(FAST, {"OnDemand": Price(1.0)})],
            (ClassDemand("web", 1.0, TokenShape(100.0 * rate, 50)),),
            {"fast": Allowed(tensor_parallel=(1,))},
            default_weights="Bf16",
            default_kv="Bf16",
            memo=memo,
        )
        assert len(memo._known) <= 10
    newest = {shape.input_mean for _, shape, *_ in memo._known}
    assert 2900.0 in newest


def test_a_fleet_with_more_estimates_than_the_limit_is_not_estimated_anew_in_each_pass(monkeypatch) -> None:
    memo, made = EstimateMemo(limit=10), list[TokenShape]()
    replica = Replica(MODELS["llama-3.1-8b"], FAST, 1, "Bf16", "Bf16")

    def made_now(_replica: Replica, shape: TokenShape, *_args: object, **_more: object) -> CannotServe:
        made.append(shape)
        return CannotServe("Memory", "not in this test")

    monkeypatch.setattr(options, "estimate", made_now)

    def one_pass(first: int) -> int:
        made.clear()
        memo.begin_pass()
        for i in range(first, first + 50):
            memo.get(replica, TokenShape(100.0 + i, 50.0), ())
        return len(made)

    assert one_pass(0) == 50
    one_pass(0)
    assert [one_pass(0) for _ in range(3)] == [0, 0, 0]
    for i in range(1, 9):
        one_pass(100 * i)  # lengths that move on are forgotten in time
    assert len(memo._known) <= 100


def test_the_key_of_an_option_is_stable() -> None:
    """It is part of names in clusters: a change would orphan what runs."""
    option = Option("h100-sxm", "OnDemand", 2, "Fp8", "Fp8")
    assert option.key("chat") == "7f2fd14d"
    assert option.key("other") != option.key("chat")
    assert str(option) == "h100-sxm (fp8, tp2)"
    assert str(Option("l40s", "Spot", 1, "Bf16", "Bf16")) == "l40s (bf16, tp1, spot)"


def test_the_way_to_users_is_taken_off_what_they_are_promised_and_not_off_time_between_tokens() -> None:
    both = (Objective("TTFT", 0.3), Objective("TPOT", 0.05))
    near, far = options.nearer(both, 0.1)
    assert (near.seconds, far.seconds) == (pytest.approx(0.2), 0.05)
    assert options.nearer(both, 9.0)[0].seconds == 0.0
    assert options.nearer(both, 0.0) is both
    classes = (ClassDemand("web", 1.0, TokenShape(1000, 250), both[:1]),)
    here = Offer(FAST, {"OnDemand": Price(1.0)})
    rates = [
        max(one.requests_per_second for one in found(replace(here, round_trip_seconds=s), classes=classes).candidates)
        for s in (0.0, 0.25)
    ]
    assert rates[0] > rates[1]
    market = found(replace(here, round_trip_seconds=0.31), classes=classes)
    assert [(one.accelerator, one.cause) for one in market.rejected] == [("fast", "TTFT")]


def test_a_chip_that_is_there_for_part_of_the_time_counts_for_that_part() -> None:
    prices = [a_price("1.00", "Spot", availability="0.8", nodeSelector={"spot": "yes"}), a_price("2.00")]
    offer = replace(offer_of(a_kind(prices=prices), placeable=False), accelerator=FAST)
    market = found(offer, allowed={"fast": Allowed(tensor_parallel=(1,), capacity_types=("Spot", "OnDemand"))})
    rates = {one.option.capacity_type: one.requests_per_second for one in market.candidates}
    assert rates["Spot"] == pytest.approx(0.8 * rates["OnDemand"])


def test_a_class_states_how_much_of_it_may_be_on_spot() -> None:
    limited = class_demands([a_class("web", maxSpotShare="0.3"), a_class("job")], 10.0)
    assert [one.spot_share for one in limited] == [0.3, 1.0]
