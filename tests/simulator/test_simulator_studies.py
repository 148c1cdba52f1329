"""Studies against closed forms, and docs/claims.md against what the studies compute."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tidefleet.economics.energy import prefill_joules
from tidefleet.economics.roofline import prefill
from tidefleet.economics.shape import TokenShape
from tidefleet.simulator.catalogued import chip_of, replica_of
from tidefleet.simulator.load import load_scenario
from tidefleet.simulator.run import Request, here, simulate
from tidefleet.simulator.study.deepseek import NODES, mean_nodes, saved_share
from tidefleet.simulator.study.generations import MTP, Case, best_offer
from tidefleet.simulator.study.jevons import Fleet, after
from tidefleet.simulator.study.kv_or_prefill import (
    again_seconds,
    break_even_bytes_per_second,
    energy_ratio,
    fetched_seconds,
)

CLAIMS = Path(__file__).resolve().parents[2] / "docs" / "claims.md"


@cache
def figures(name: str, *changes: str) -> dict[str, float]:
    request = Request(load_scenario(name, changes), None, (1,))
    return dict(simulate(request, spread=here).median.figures)


# --- KV or prefill ---------------------------------------------------------------------------------------------------


def test_a_fetch_takes_latency_bytes_over_bandwidth_and_the_prefill_behind_it() -> None:
    replica = replica_of(load_scenario("kv-or-prefill").pools[0])
    bytes_per_token = 2 * 80 * 8 * 128 * 1  # keys and values, layers, KV heads, head size, FP8
    behind = float(prefill(replica, 128.0, 8192.0).seconds[0])
    found = fetched_seconds(replica, 8192.0, 128.0, bytes_per_second=10e9, latency_seconds=0.002)
    assert found == pytest.approx(0.002 + 8192 * bytes_per_token / 10e9 + behind)


@pytest.mark.parametrize("tokens", [2048.0, 32768.0])
def test_at_the_break_even_bandwidth_both_take_the_same(tokens: float) -> None:
    replica = replica_of(load_scenario("kv-or-prefill").pools[0])
    bandwidth = break_even_bytes_per_second(replica, tokens, 128.0, 0.001)
    fetched = fetched_seconds(replica, tokens, 128.0, bytes_per_second=bandwidth, latency_seconds=0.001)
    assert fetched == pytest.approx(again_seconds(replica, tokens, 128.0))


def test_the_energy_ratio_without_moving_costs_is_that_of_the_prefills() -> None:
    replica = replica_of(load_scenario("kv-or-prefill").pools[0])
    again, behind = prefill_joules(replica, 32768.0 + 128.0), prefill_joules(replica, 128.0, 32768.0)
    assert again is not None
    assert behind is not None
    assert energy_ratio(replica, 32768.0, 128.0, 0.0) == pytest.approx(again / behind)


def test_a_faster_tier_and_a_longer_prompt_gain_more() -> None:
    found = figures("kv-or-prefill")
    lengths = (2048, 8192, 32768, 131072)
    for tier in ("host_100_GBps", "disk_12_GBps", "shared_80_GBps", "shared_2_GBps"):
        ratios = [found[f"ttft_ratio_{tier}_{one}"] for one in lengths]
        assert ratios == sorted(ratios)
    for one in lengths:
        assert found[f"ttft_ratio_host_100_GBps_{one}"] > found[f"ttft_ratio_disk_12_GBps_{one}"]
    assert found["ttft_ratio_shared_2_GBps_2048"] < 1.0, "a slow tier loses to prefilling again"


# --- rack or node ----------------------------------------------------------------------------------------------------


def test_a_rack_is_never_slower_and_gains_more_the_faster_the_promise() -> None:
    found = figures("rack-or-node")
    gains = [found[f"rack_gain_{one}_ms"] for one in (100, 50, 30, 20, 15, 12)]
    assert gains[0] >= 1.0
    assert gains == sorted(gains)


def test_with_a_network_as_fast_as_the_domain_the_rack_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from tidefleet.simulator.study import rack_or_node

    chip = chip_of("gb200-nvl72")
    equal = replace(chip, scale_out_bytes_per_second=chip.scale_up_bytes_per_second)
    monkeypatch.setattr(rack_or_node, "chip_of", lambda name: equal)
    found = rack_or_node.study(load_scenario("rack-or-node")).figures
    assert found["tokens_per_second_per_chip_rack_20_ms"] == found["tokens_per_second_per_chip_across_nodes_20_ms"]


# --- prefill only ----------------------------------------------------------------------------------------------------


def test_below_the_break_even_price_the_pair_is_cheaper_and_above_it_dearer() -> None:
    from dataclasses import replace

    from tidefleet import catalogue
    from tidefleet.economics.contest import Ask, Contestant, paired
    from tidefleet.economics.money import ChipCost
    from tidefleet.economics.shape import Objective

    found = figures("prefill-only")
    chip = chip_of("rubin-cpx")
    peaks = {**chip.flops, "Bf16": 0.25 * chip.flops["Fp4"]}
    chip = replace(chip, flops=peaks, scale_out_bytes_per_second=50e9)
    ask = Ask(
        catalogue.models()["llama-3.3-70b"],
        TokenShape(8000.0, 1000.0),
        (Objective("TTFT", 10.0), Objective("TPOT", 0.05)),
        weights=("Fp4",),
        kv=("Fp8",),
    )
    pairs = paired(ask, Contestant(chip, frozenset({"Prefill"})), Contestant(chip_of("b200-sxm")))
    price, decode = found["break_even_usd_per_chip_hour_8000"], ChipCost(found["decode_usd_per_chip_hour"])
    for usd, sign in ((price * 0.99, -1), (price, 0), (price * 1.01, 1)):
        least = min(one.usd_per_million([ChipCost(usd), decode], 1.0) for one in pairs)
        gap = least / found["usd_per_million_tokens_alone_8000"] - 1.0
        assert abs(gap) < 1e-9 if sign == 0 else gap * sign > 0


def test_half_the_peak_is_worth_less() -> None:
    halved = figures("prefill-only", "settings.peakShare=0.5")
    for tokens in (2000, 8000, 32000):
        name = f"break_even_usd_per_chip_hour_{tokens}"
        assert halved[name] < figures("prefill-only")[name]


# --- Jevons ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elasticity", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_with_many_replicas_spend_follows_the_formula(elasticity: float) -> None:
    fleet = Fleet(10.0, 1e6, 0.0)
    before = 1e6 * 100_000
    demand, price = after(fleet, before, saved=0.3, passed=1.0, elasticity=elasticity)
    assert price == pytest.approx(0.7, rel=1e-3)
    spend = fleet.usd_per_hour(demand, 0.3) / fleet.usd_per_hour(before)
    assert spend == pytest.approx(0.7 ** (1.0 - elasticity), rel=1e-3)


def test_nothing_passed_on_brings_no_demand() -> None:
    fleet = Fleet(10.0, 1e6, 1.0)
    assert after(fleet, 5e6, saved=0.3, passed=0.0, elasticity=2.0) == (5e6, 1.0)


def test_spend_falls_below_elasticity_one_and_rises_above() -> None:
    found = figures("jevons")
    assert found["spend_ratio_e_0_5"] < 0.99
    assert found["spend_ratio_e_1"] == pytest.approx(1.0, abs=0.02)
    assert found["spend_ratio_e_2"] > 1.01


# --- the field's claims ----------------------------------------------------------------------------------------------


def test_the_published_day_has_its_published_mean_and_saving() -> None:
    assert len(NODES) == 11
    assert mean_nodes() == pytest.approx(226.75)
    assert saved_share() == pytest.approx(0.184, abs=0.0005)
    found = figures("claims")
    assert found["deepseek_day_usd_per_day"] == pytest.approx(87_072)
    assert found["deepseek_day_revenue_usd_per_day"] == pytest.approx(562_027, rel=0.0005)
    assert found["deepseek_day_margin_share"] == pytest.approx(5.45, abs=0.01)


def test_a_better_configuration_is_never_worse() -> None:
    from tidefleet import catalogue

    chip = chip_of("h200-sxm")
    case = Case(catalogue.models()["deepseek-r1"], TokenShape(8192.0, 1024.0), 0.015)
    plain = best_offer(Case(case.model, case.shape, 0.015, apart=False, spread=False, node_only=True), chip)
    tuned = best_offer(Case(case.model, case.shape, 0.015, drafting=MTP), chip)
    assert plain is not None
    assert tuned is not None
    assert tuned.chip_seconds < plain.chip_seconds
    assert tuned.output_tokens_per_second == pytest.approx(1024.0 / tuned.chip_seconds)


def test_the_identity_of_watts_and_cost_holds_for_what_is_computed() -> None:
    found = figures("claims")
    assert found["token_cost_ratio_by_identity"] == pytest.approx(50 * (2.10 / 1.73) / (2.21 / 1.30))
    assert found["token_cost_ratio_plain_100_per_second"] < found["tokens_per_watt_ratio_plain_100_per_second"]


_ROW = re.compile(r"^\| `([a-z-]+)` \| `([a-zA-Z0-9_]+)` \| ([-\d.,]+) \|", re.MULTILINE)


def test_every_figure_of_the_claims_page_is_what_its_scenario_computes() -> None:
    rows = _ROW.findall(CLAIMS.read_text(encoding="utf-8"))
    assert len(rows) > 20
    wrong = []
    for scenario, name, text in rows:
        told = float(text.replace(",", ""))
        found = figures(scenario).get(name)
        digits = len(text.partition(".")[2])
        if found is None or round(found, digits) != told:
            wrong.append(f"{scenario} {name}: the page says {text}, computed is {found}")
    assert not wrong


def test_figures_that_the_prose_of_the_claims_page_names_are_in_its_table() -> None:
    text = CLAIMS.read_text(encoding="utf-8")
    verdicts = re.findall(r"^\| [^|]+ \| \*\*(\w+)", text, re.MULTILINE)
    assert set(verdicts) <= {"Reproduced", "Refused", "Partly"}
    assert len(verdicts) >= 9
