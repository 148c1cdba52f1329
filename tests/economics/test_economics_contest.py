"""Which configurations a comparison tries, pairs with types that only prefill, and the price at which one would win."""

from __future__ import annotations

from dataclasses import replace

import pytest
from economics_builders import MODELS, a_model, an_accelerator

from tidefleet.economics.contest import (
    Ask,
    Contestant,
    Serving,
    layouts,
    paired,
    precisions,
    servings,
    usd_per_chip_hour_to_cost,
    widths,
)
from tidefleet.economics.money import ChipCost
from tidefleet.economics.serving import CannotServe
from tidefleet.economics.shape import Objective, TokenShape

CHAT = TokenShape(1000.0, 250.0)
PREFILLS = frozenset(("Prefill",))


def an_ask(**changes: object) -> Ask:
    return replace(Ask(a_model(), CHAT), **changes)  # type: ignore[arg-type]


def found(ask: Ask, one: Contestant) -> list[Serving]:
    got = servings(ask, one)
    assert isinstance(got, list), got
    return got


@pytest.mark.parametrize(
    ("node", "domain", "expected"),
    [(8, 8, (1, 2, 4, 8)), (1, 1, (1,)), (4, 72, (1, 2, 4, 8)), (16, 1, (1, 2, 4, 8, 16)), (0, 1, (1, 2, 4, 8))],
)
def test_widths_go_up_to_a_node_or_eight_of_the_domain(node: int, domain: int, expected: tuple[int, ...]) -> None:
    assert widths(an_accelerator(chips_per_node=node, scale_up_domain=domain)) == expected


def test_experts_are_spread_only_where_a_model_has_some() -> None:
    dense = layouts(MODELS["llama-3.1-8b"], an_accelerator())
    assert dense == ((1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 1))
    tried = layouts(MODELS["gpt-oss-120b"], an_accelerator())
    assert {(8, 1, 8), (64, 1, 64)} <= set(tried)
    assert layouts(MODELS["gpt-oss-120b"], an_accelerator(chips_per_node=1, scale_up_domain=1)) == ((1, 1, 1),)


def test_widths_share_the_attention_heads_evenly() -> None:
    assert MODELS["qwen2.5-7b"].heads == 28
    assert layouts(MODELS["qwen2.5-7b"], an_accelerator()) == ((1, 1, 1), (2, 2, 1), (4, 4, 1))


def test_precisions_are_the_models_own_and_the_narrower_ones_that_the_chip_computes_in() -> None:
    assert precisions(an_ask(), an_accelerator()) == ("Bf16", "Fp8")
    assert precisions(an_ask(), an_accelerator(flops={"Bf16": 1e14})) == ("Bf16",)
    native = an_ask(model=replace(a_model(), native_weights="Fp8"))
    assert precisions(native, an_accelerator(flops={"Bf16": 1e14})) == ("Fp8",)  # stored so, computed in 16 bits
    assert precisions(an_ask(weights=("Fp4",)), an_accelerator()) == ("Fp4",)


def test_a_pair_costs_what_its_two_replicas_cost_together() -> None:
    pairs = [one for one in found(an_ask(), Contestant(an_accelerator())) if one.both is not None]
    assert pairs
    for one in pairs:
        into, out = one.parts
        chips = [ChipCost(2.0), ChipCost(3.0)]
        per_request = sum(
            chip.usd_per_chip_hour * part.replica.chips / part.requests_per_second / 3600
            for chip, part in zip(chips, one.parts, strict=True)
        )
        assert one.usd_per_million(chips, 1.0) == pytest.approx(per_request / 1250 * 1e6)
        assert (into.role, out.role) == ("Prefill", "Decode")
        rates = one.rates(chips, 1.0)
        assert 1000 * rates.uncached_input + 250 * rates.output == pytest.approx(per_request)


def test_without_pairs_every_configuration_is_one_kind_of_replica() -> None:
    assert all(one.both is None for one in found(an_ask(pairs=False), Contestant(an_accelerator())))


def test_objectives_are_met_by_every_configuration() -> None:
    objectives = (Objective("TTFT", 0.5), Objective("TPOT", 0.03))
    for one in found(an_ask(objectives=objectives), Contestant(an_accelerator())):
        assert one.ttft_seconds <= 0.5 * (1 + 1e-9)
        assert one.last.tpot_seconds <= 0.03 * (1 + 1e-9)


def test_a_type_that_only_prefills_serves_beside_one_that_decodes_and_not_alone() -> None:
    fast = Contestant(an_accelerator(name="prefiller", flops={"Bf16": 400e12, "Fp8": 800e12}), PREFILLS)
    alone = servings(an_ask(), fast)
    assert isinstance(alone, CannotServe)
    assert alone.cause == "Role"
    pairs = paired(an_ask(), fast, Contestant(an_accelerator(name="decoder")))
    assert pairs
    assert all([part.replica.accelerator.name for part in one.parts] == ["prefiller", "decoder"] for one in pairs)
    own = paired(an_ask(), Contestant(an_accelerator()), Contestant(an_accelerator()))
    same = [ChipCost(1.0)] * 2
    assert min(one.usd_per_million(same, 1.0) for one in pairs) < min(one.usd_per_million(same, 1.0) for one in own)


def test_what_cannot_serve_says_why_at_its_widest() -> None:
    small = Contestant(an_accelerator(memory_bytes=12e9, chips_per_node=1, scale_up_domain=1, flops={"Bf16": 1e14}))
    refused = servings(an_ask(), small)
    assert isinstance(refused, CannotServe)
    assert refused.cause == "Memory"


@pytest.mark.parametrize("power", [0.0, 0.2])
def test_the_winning_price_is_where_the_costs_meet(power: float) -> None:
    chips_cost = ChipCost(1.0, usd_per_kilowatt_hour=power)
    accelerator = Contestant(an_accelerator(tdp_watts=500.0, idle_watts=50.0))
    for one in found(an_ask(), accelerator):
        n = len(one.parts)
        price = usd_per_chip_hour_to_cost(one, [None] * n, 5.0, 0.8)
        assert one.usd_per_million([ChipCost(price)] * n, 0.8) == pytest.approx(5.0)
        paid = usd_per_chip_hour_to_cost(one, [None] * n, 50.0, 0.8, power=chips_cost)
        assert one.usd_per_million([replace(chips_cost, usd_per_chip_hour=paid)] * n, 0.8) == pytest.approx(50.0)
        if n == 2:
            mixed = usd_per_chip_hour_to_cost(one, [None, chips_cost], 50.0, 0.8)
            both = [replace(chips_cost, usd_per_chip_hour=mixed), chips_cost]
            assert one.usd_per_million(both, 0.8) == pytest.approx(50.0)


def test_no_price_wins_where_the_partner_alone_costs_more() -> None:
    one = next(each for each in found(an_ask(), Contestant(an_accelerator())) if each.both is not None)
    assert usd_per_chip_hour_to_cost(one, [None, ChipCost(1000.0)], 0.001, 1.0) == 0.0


def test_watts_and_tokens_per_joule_are_those_of_all_chips() -> None:
    accelerator = Contestant(an_accelerator(tdp_watts=500.0, idle_watts=50.0))
    for one in found(an_ask(), accelerator):
        watts = sum(
            (part.watts_per_chip or 0.0) * seconds for part, seconds in zip(one.parts, one.chip_seconds, strict=True)
        )
        assert one.output_tokens_per_joule == pytest.approx(250.0 / watts)
    unknown = found(an_ask(), Contestant(an_accelerator()))[0]
    assert unknown.watts_per_chip is None
    assert unknown.output_tokens_per_joule is None
