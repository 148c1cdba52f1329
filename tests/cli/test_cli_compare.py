"""`tidefleet compare`: ranks by cost per token, what misleads, unpriced types, external APIs, and its page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tidefleet import catalogue
from tidefleet.api.vocabulary import CapacityType, Role
from tidefleet.catalogue.external_prices import PricesNotInstalled
from tidefleet.cli import workload
from tidefleet.cli.main import app
from tidefleet.cli.rows import NAMES, Bill, hosted, ranked, with_winning_prices
from tidefleet.economics.contest import Ask, token_cost_ratio
from tidefleet.economics.external import ExternalOffer, PerToken
from tidefleet.economics.money import ChipCost
from tidefleet.economics.ranking import METRICS
from tidefleet.planning.evidence import Evidence
from tidefleet.planning.from_api import chosen_price

LLAMA = ("--model", "llama-3.3-70b")
FEW = ("--accelerator", "h100-sxm", "--accelerator", "b200-sxm", "--accelerator", "h200-sxm")
OFFERS = (
    ExternalOffer("first", "llama-3.3-70b", PerToken(0.1, 0.3, cached_input=0.02), as_of="2026-11-01", source="a list"),
    ExternalOffer("second", "meta/llama-3.3-70b", PerToken(0.2, 0.6), source="a list"),
    ExternalOffer("reseller_of_first", "llama-3.3-70b", PerToken(0.1, 0.3, cached_input=0.02), source="a list"),
    ExternalOffer("third", "llama-3.3-70b", PerToken(0.5, 0.5), source="a list"),
    ExternalOffer("fourth", "llama-3.3-70b", PerToken(5.0, 5.0), source="a list"),
)


@pytest.fixture(autouse=True)
def offers(monkeypatch: pytest.MonkeyPatch) -> None:
    """External prices that do not depend on which version of genai-prices is installed."""
    known = {"llama-3.3-70b": OFFERS}
    monkeypatch.setattr("tidefleet.cli.compare.offers_of", lambda model: known.get(model, ()))


def run(*arguments: str, columns: int = 200) -> Result:
    shown = {"COLUMNS": str(columns), "TERM": "dumb", "NO_COLOR": "1"}
    return CliRunner().invoke(app, ["compare", *arguments], env=shown)


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def compare(*arguments: str, status: int = 0) -> dict[str, Any]:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == status, result.output
    answer: dict[str, Any] = strict(result.stdout)
    return answer


def cost(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["cost", *arguments, "-o", "json"])
    answer: dict[str, Any] = strict(result.stdout)
    return answer


# --- ranks -----------------------------------------------------------------------------------------------------------


def test_every_accelerator_of_the_catalogue_is_ranked_unpriced_or_refused() -> None:
    answer = compare(*LLAMA, "--preset", "chat", "--no-api")
    named = [row["name"] for row in answer["entries"]] + [row["name"] for row in answer["unpriced"]]
    named += [row["accelerator"] for row in answer["cannot_serve"]]
    assert sorted(named) == sorted(raw["metadata"]["name"] for raw in catalogue.accelerator_manifests())
    assert all(row["because"] for row in answer["cannot_serve"])


def test_entries_stand_in_the_order_of_cost_with_all_their_figures() -> None:
    answer = compare(*LLAMA, "--preset", "chat")
    entries = answer["entries"]
    prices = [row["usd_per_million_tokens"] for row in entries]
    assert prices == sorted(prices)
    assert [row["rank"] for row in entries] == list(range(1, len(entries) + 1))
    assert all(tuple(row) == NAMES for row in entries)
    for row in entries:
        if row["kind"] != "Api":
            assert row["sigma"] > 0
            assert row["provenance"]
            assert row["price_source"]
            assert row["max_context_tokens"] >= 4086 + 451


def test_the_cheapest_configuration_is_one_that_cost_gives_too() -> None:
    answer = compare(*LLAMA, "--accelerator", "h100-sxm", "--tpot", "40ms", "--no-api", "--no-pairs")
    (row,) = answer["entries"]
    part = row["layout"][0]
    alone = cost(
        *LLAMA, "--accelerator", "h100-sxm", "--tpot", "40ms", "--tp", str(part["tensor_parallel"]),
        "--weights", row["weights"],
    )  # fmt: skip
    assert row["usd_per_million_tokens"] == pytest.approx(alone["usd_per_million_tokens"])
    assert row["usd_per_task"] == pytest.approx(alone["usd_per_task"]["mean"])
    assert row["output_tokens_per_second_per_watt"] == pytest.approx(1 / alone["joules_per_output_token"])
    for width in ("1", "2", "4", "8"):
        for weights in ("bf16", "fp8"):
            other = CliRunner().invoke(
                app, ["cost", *LLAMA, "--accelerator", "h100-sxm", "--tpot", "40ms", "--tp", width, "--weights",
                      weights, "-o", "json"],
            )  # fmt: skip
            usd = strict(other.stdout)["usd_per_million_tokens"]
            assert usd is None or usd >= row["usd_per_million_tokens"] * (1 - 1e-9)


def test_more_configurations_never_cost_more() -> None:
    def usd(*more: str) -> float:
        return float(compare("--model", "gpt-oss-120b", "--accelerator", "h100-sxm", "--preset", "rag", "--no-api", *more)["entries"][0]["usd_per_million_tokens"])  # fmt: skip  # noqa: E501

    assert usd() <= usd("--no-pairs")
    assert usd("--kv", "bf16", "--kv", "fp8") <= usd()
    assert usd("--tpot", "20ms") >= usd("--tpot", "200ms")


def test_the_prices_of_an_entry_add_up() -> None:
    for row in compare(*LLAMA, "--preset", "chat")["entries"]:
        parts = (
            0.64 * 1246 * row["usd_per_million_input_tokens"]
            + 0.36 * 1246 * row["usd_per_million_cached_input_tokens"]
            + 204 * row["usd_per_million_output_tokens"]
        )
        assert parts == pytest.approx(1450 * row["usd_per_million_tokens"])


def test_a_pair_pays_for_both_of_its_replicas() -> None:
    entries = compare("--model", "gpt-oss-120b", "--preset", "chat", "--no-api")["entries"]
    pairs = [row for row in entries if row["kind"] == "Pair"]
    assert pairs
    for row in pairs:
        assert [part["role"] for part in row["layout"]] == ["Prefill", "Decode"]
        assert sum(part["share_of_chips"] for part in row["layout"]) == pytest.approx(1)
        chips_hours = row["usd_per_chip_hour"] / 3600 / row["output_tokens_per_second_per_chip"]  # per output token
        tokens = (1246 + 204) / 204
        assert chips_hours / tokens * 1e6 == pytest.approx(row["usd_per_million_tokens"])


def test_the_ranks_of_metrics_are_those_of_their_figures() -> None:
    answer = compare(*LLAMA, "--preset", "chat")
    for name, (_, more) in METRICS.items():
        known = [row for row in answer["entries"] if row[name] is not None]
        by_metric = sorted(known, key=lambda row: -row[name] if more else row[name])
        assert [row["ranks"][name] for row in by_metric] == list(range(1, len(known) + 1))
        assert [row["cost_ranks"][name] for row in known] == list(range(1, len(known) + 1))
        for row in known:
            assert (name in row["inverted"]) == (row["ranks"][name] != row["cost_ranks"][name])
    assert any(row["inverted"] for row in answer["entries"])
    worst = answer["metrics"][0]
    assert worst["times_the_cheapest"] == max(one["times_the_cheapest"] for one in answer["metrics"])
    assert worst["words"] in answer["misled_most"]


def test_dollars_watts_and_prices_of_two_entries_fit_together() -> None:
    answer = compare(
        *LLAMA, "--accelerator", "h100-sxm", "--accelerator", "gb200-nvl72", "--capacity-type", "Owned", "--no-api"
    )
    a, b = answer["entries"]
    ratio = token_cost_ratio(
        (a["output_tokens_per_second_per_watt"], b["output_tokens_per_second_per_watt"]),
        (a["watts_per_chip"], b["watts_per_chip"]),
        (a["usd_per_chip_hour"], b["usd_per_chip_hour"]),
    )
    assert a["usd_per_million_tokens"] / b["usd_per_million_tokens"] == pytest.approx(ratio)


def test_flops_per_dollar_of_the_catalogue_tell_the_vendors_story() -> None:
    def flops(accelerator: str, weights: str) -> float:
        (row,) = compare(
            "--model", "llama-3.1-8b", "--accelerator", accelerator, "--weights", weights, "--capacity-type", "Owned",
            "--no-api",
        )["entries"]  # fmt: skip
        return float(row["dense_pflops_per_usd_hour"])

    h100 = flops("h100-sxm", "fp8")
    assert flops("gb200-nvl72", "fp8") / h100 == pytest.approx(1.49, abs=0.02)
    assert flops("gb200-nvl72", "fp4") / h100 == pytest.approx(2.97, abs=0.04)


@pytest.mark.parametrize(
    ("word", "name", "more"),
    [("usd", "usd_per_million_tokens", False), ("watts", "output_tokens_per_second_per_watt", True),
     ("price", "usd_per_chip_hour", False), ("context", "max_context_tokens", True)],
)  # fmt: skip
def test_rows_are_sorted_and_ranks_stay_by_cost(word: str, name: str, more: bool) -> None:
    entries = compare(*LLAMA, "--preset", "chat", "--sort", word)["entries"]
    known = [row[name] for row in entries if row[name] is not None]
    assert known == sorted(known, reverse=more)
    assert all(row[name] is None for row in entries[len(known) :])
    by_rank = sorted(entries, key=lambda row: row["rank"])
    assert [row["usd_per_million_tokens"] for row in by_rank] == sorted(
        row["usd_per_million_tokens"] for row in entries
    )


# --- prices ----------------------------------------------------------------------------------------------------------


def book(tmp_path: Path, accelerator: str, usd: float) -> str:
    path = tmp_path / "book.csv"
    path.write_text(
        "accelerator,capacityType,price,currency,unit,asOf,source,plausibility\n"
        f"{accelerator},OnDemand,{usd:.6f},USD,chip-hour,2026-11-21,ours,Override\n"
    )
    return str(path)


def test_a_price_book_changes_the_ranks(tmp_path: Path) -> None:
    before = compare(*LLAMA, *FEW, "--no-api")["entries"]
    last = before[-1]["name"]
    after = compare(*LLAMA, *FEW, "--no-api", "--prices", book(tmp_path, last, 0.05))["entries"]
    assert after[0]["name"] == last


def test_an_unpriced_type_wins_exactly_below_its_price(tmp_path: Path) -> None:
    named = ("--accelerator", "h100-sxm", "--accelerator", "h20", "--no-api", *LLAMA, "--preset", "batch")
    answer = compare(*named)
    (row,) = answer["unpriced"]
    assert row["name"] == "h20"
    assert row["wins_against_hosted"].startswith("h100-sxm")
    price = row["wins_against_hosted_below_usd_per_chip_hour"]
    assert price > 0
    for factor, winner in ((0.999, "h20"), (1.001, "h100-sxm")):
        entries = compare(*named, "--prices", book(tmp_path, "h20", price * factor))["entries"]
        assert entries[0]["name"] == winner


def test_power_beside_the_rent_lowers_the_price_at_which_a_type_wins() -> None:
    named = ("--accelerator", "h100-sxm", "--accelerator", "h20", "--no-api", *LLAMA, "--preset", "batch")
    plain, powered = (compare(*named, *more)["unpriced"][0] for more in ((), ("--usd-per-kwh", "1")))
    name = "wins_against_hosted_below_usd_per_chip_hour"
    assert plain[name] > 0
    assert plain[name] != powered[name]


def test_bases_of_price_are_marked_when_they_stand_side_by_side() -> None:
    both = ("--capacity-type", "OnDemand", "--capacity-type", "Owned")
    answer = compare(*LLAMA, *FEW, *both, "--no-api")
    assert {(row["name"], row["basis"]) for row in answer["entries"]} == {
        (name, basis) for name in FEW[1::2] for basis in ("OnDemand", "Owned")
    }
    assert any("different bases" in note for note in answer["notes"])
    assert not any("different bases" in note for note in compare(*LLAMA, *FEW, "--no-api")["notes"])
    said = run(*LLAMA, *FEW, *both, "--no-api").stdout
    assert " Owned " in said


def test_an_unpriced_type_names_its_prices_of_other_kinds() -> None:
    (row,) = compare(*LLAMA, "--accelerator", "gb200-nvl72", "--no-api")["unpriced"]
    assert row["other_prices"]["Owned"] == 2.21
    assert row["wins_against_hosted_below_usd_per_chip_hour"] is None


def test_a_type_that_only_prefills_is_told_beside_the_partner_that_serves_it_best() -> None:
    kinds = workload.kinds_with(None)
    fast = kinds["b200-sxm"]
    only = fast.spec.model_copy(update={"roles": (Role.PREFILL,), "prices": ()})
    prefiller = fast.model_copy(update={"metadata": dataclasses.replace(fast.metadata, name="fast"), "spec": only})
    work = workload.read_workload(
        preset="chat", input_tokens=None, output_tokens=None, cached=None, ttft_p95="", tpot=""
    )  # fmt: skip
    ask = Ask(catalogue.models()["llama-3.1-8b"], work.shape, work.objectives, weights=("Fp8",))
    bill = Bill((CapacityType.ON_DEMAND,))
    partners = [kinds["h20"], kinds["a100-sxm-80"], kinds["mi325x"], kinds["h100-sxm"]]
    entries, unpriced, refused = hosted(ask, [prefiller, *partners], work, bill, Evidence())
    assert {row["name"] for row in entries} == {"a100-sxm-80", "mi325x", "h100-sxm"}
    assert refused == []
    names = [row["name"] for row, _, _ in unpriced]
    assert names[0].startswith("fast + ")
    assert names[0] != "fast + h20"  # which has no price either
    assert names[1:] == ["h20"]
    row = next(
        one
        for one in with_winning_prices(unpriced, ranked(entries, {}), bill)
        if one["kind"] == "Pair" and "fast" in one["name"]
    )
    assert [part["accelerator"] for part in row["layout"]] == row["name"].split(" + ")
    price = row["wins_against_hosted_below_usd_per_chip_hour"]
    paid = float(chosen_price(kinds[row["name"].removeprefix("fast + ")], "OnDemand").usd_per_chip_hour)
    serving = unpriced[0][1]
    if price > 0:
        assert serving.usd_per_million([ChipCost(price), ChipCost(paid)], 1.0) == pytest.approx(
            min(one["usd_per_million_tokens"] for one in entries)
        )
    alone = hosted(ask, [prefiller], work, bill, Evidence())
    assert alone[2][0]["because"].startswith("prefills only, and no accelerator type of this comparison decodes")


# --- external APIs and models ----------------------------------------------------------------------------------------


def test_the_cheapest_offers_stand_among_the_entries() -> None:
    answer = compare(*LLAMA, *FEW, "--input", "1000", "--output", "500", "--cached", "0.5")
    found = {row["name"]: row for row in answer["entries"] if row["kind"] == "Api"}
    assert list(found) == ["first/llama-3.3-70b", "second/meta/llama-3.3-70b", "third/llama-3.3-70b"]
    first = found["first/llama-3.3-70b"]
    assert first["usd_per_million_tokens"] == pytest.approx((500 * 0.1 + 500 * 0.02 + 500 * 0.3) / 1500)
    assert first["usd_per_request"] == pytest.approx((500 * 0.1 + 500 * 0.02 + 500 * 0.3) / 1e6)
    assert first["price_as_of"] == "2026-11-01"
    assert first["usd_per_chip_hour"] is None
    assert first["inverted"] == []
    assert any("objectives is not known" in note for note in answer["notes"])


def test_a_named_provider_is_shown_whatever_it_costs() -> None:
    answer = compare(*LLAMA, *FEW, "--api", "fourth")
    assert [row["name"] for row in answer["entries"] if row["kind"] == "Api"] == ["fourth/llama-3.3-70b"]
    nobody = compare(*LLAMA, *FEW, "--api", "nobody")
    assert "no external price of nobody for llama-3.3-70b is known" in nobody["notes"]


def test_without_the_package_of_prices_hosted_entries_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_model: str) -> None:
        raise PricesNotInstalled("prices of external APIs need the package genai-prices")

    monkeypatch.setattr("tidefleet.cli.compare.offers_of", absent)
    answer = compare(*LLAMA, *FEW)
    assert {row["kind"] for row in answer["entries"]} <= {"Replica", "Pair"}
    assert "prices of external APIs need the package genai-prices" in answer["notes"]


def test_models_are_ranked_together_and_quality_is_not_made_up() -> None:
    models = (*LLAMA, "--model", "gpt-oss-120b")
    answer = compare(*models, *FEW, "--no-api")
    assert {row["model"] for row in answer["entries"]} == {"llama-3.3-70b", "gpt-oss-120b"}
    assert all(row["quality"] is None for row in answer["entries"])
    assert any("no quality score of llama-3.3-70b, gpt-oss-120b is known" in note for note in answer["notes"])
    scored = compare(
        *models, *FEW, "--no-api", "--quality", "llama-3.3-70b=86", "--quality", "openai/gpt-oss-120b=90.0"
    )
    assert {(row["model"], row["quality"]) for row in scored["entries"]} == {
        ("llama-3.3-70b", 86),
        ("gpt-oss-120b", 90),
    }
    assert not any("no quality score" in note for note in scored["notes"])


def test_one_model_or_type_by_two_names_is_one_entry() -> None:
    twice = ("--model", "llama-3.3-70b", "--model", "meta-llama/Llama-3.3-70B-Instruct")
    found = compare(*twice, "--accelerator", "b200-sxm", "--accelerator", "B200", "--no-api", "--no-pairs")
    assert [(row["model"], row["name"]) for row in found["entries"]] == [("llama-3.3-70b", "b200-sxm")]


def test_narrower_weights_than_the_models_own_are_marked() -> None:
    entries = compare(*LLAMA, *FEW, "--no-api")["entries"]
    assert all(row["own_precision"] == (row["weights"] == "Bf16") for row in entries)
    assert not all(row["own_precision"] for row in entries)
    assert "~" in run(*LLAMA, *FEW, "--no-api").stdout
    own = compare(*LLAMA, *FEW, "--no-api", "--weights", "bf16")
    assert all(row["own_precision"] for row in own["entries"])


# --- what is said of wrong options, and when nothing serves ----------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--model is missing; expected a model of the catalogue, e.g. llama-3.3-70b"),
        ((*LLAMA, "--model", "llama-9"), "--model is 'llama-9'; expected one of"),
        ((*LLAMA, "--accelerator", "h1000"), "--accelerator is 'h1000'; expected one of"),
        ((*LLAMA, "--sort", "beauty"), "--sort is 'beauty'; expected one of usd, price"),
        ((*LLAMA, "--api", "first", "--no-api"), "--api and --no-api exclude each other"),
        ((*LLAMA, "--quality", "86"), "--quality is '86'; expected MODEL=SCORE"),
        ((*LLAMA, "--quality", "gpt-oss-120b=86"), "expected MODEL=SCORE of a compared model, e.g. llama-3.3-70b=86.0"),
        ((*LLAMA, "--quality", "llama-3.3-70b=nan"), "--quality llama-3.3-70b is 'nan'; expected a score from 0"),
        ((*LLAMA, "--weights", "fp7"), "--weights is 'fp7'; expected bf16, fp8 or fp4"),
        ((*LLAMA, "--capacity-type", "Lease"), "--capacity-type is 'Lease'; expected OnDemand"),
        ((*LLAMA, "--utilisation", "nan"), "--utilisation is nan; expected"),
        ((*LLAMA, "--out", "/nonexistent/page.html", "-o", "html", "--no-api"), "--out /nonexistent/page.html: cannot"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_told_with_what_is_expected(options: tuple[str, ...], words: str) -> None:
    result = run(*options)
    assert result.exit_code == 2, result.output
    assert words in result.stderr


def test_when_nothing_serves_the_reasons_are_told_and_the_status_is_1() -> None:
    answer = compare("--model", "llama-3.1-405b", "--accelerator", "l4", "--no-api", status=1)
    assert answer["entries"] == []
    assert answer["cannot_serve"][0]["cause"] == "Memory"
    result = run("--model", "llama-3.1-405b", "--accelerator", "l4", "--no-api")
    assert result.exit_code == 1
    assert "usable per chip" in result.stdout


# --- table and page --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_the_table_fits_the_terminal(columns: int) -> None:
    result = run(*LLAMA, "--preset", "chat", columns=columns)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert all(len(line) <= columns for line in lines)
    assert any("█" in line for line in lines)
    for words in ("$/CHIP-H", "PFLOPS/$", "TOK/S/W", "CONTEXT", "cannot serve", "without a price", "speed from "):
        assert words in result.stdout


class Page(HTMLParser):
    """Checks that elements nest, and collects what a reader and a screen reader need."""

    VOID = frozenset(("meta", "link", "br", "img", "hr"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "compare.html"
    result = run(*LLAMA, "--model", "gpt-oss-120b", "--preset", "rag", "-o", "html", "--out", str(path))
    assert result.exit_code == 0
    assert result.stdout == f"wrote {path}\n"
    return path.read_text()


def test_the_page_is_one_well_formed_document_without_scripts_or_outside_parts(text: str) -> None:
    found = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert found.open == []
    tags = {name for name, _ in found.elements}
    assert not tags & {"script", "link", "img", "iframe", "object"}
    assert "http://" not in text
    assert "https://" not in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert next(found.of("html"))["lang"] == "en"


def test_each_chart_has_words_and_its_figures_stand_in_a_table(text: str) -> None:
    found = Page(text)
    charts = list(found.of("svg"))
    assert len(charts) == 2
    assert all(one["role"] == "img" and one["aria-label"] for one in charts)
    regions = [one for one in found.of("div") if one.get("role") == "region"]
    assert regions
    assert all(one["tabindex"] == "0" and one["aria-label"] for one in regions)
    assert all(one.get("scope") in ("col", "row") for one in found.of("th"))
    assert next(found.of("a"))["href"] == "#figures"
    assert any(one.get("id") == "figures" for one in found.of("h2"))
    captions = sum(name == "caption" for name, _ in found.elements)
    assert captions == sum(name == "table" for name, _ in found.elements)


def test_the_page_has_every_entry_and_reason(text: str) -> None:
    answer = compare(*LLAMA, "--model", "gpt-oss-120b", "--preset", "rag")
    words = " ".join(Page(text).words)
    names = [row["name"] for row in answer["entries"] if row["kind"] == "Api"]
    names += [f"{row['model']} on {row['name']}" for row in answer["entries"] if row["kind"] != "Api"]
    assert names
    assert not [name for name in names if name not in words]
    assert answer["misled_most"][1:] in words
    assert all(row["because"] in words for row in answer["cannot_serve"])


def test_what_providers_call_themselves_cannot_become_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = ExternalOffer("<script>alert(1)</script>", "a\"b'<i>", PerToken(0.1, 0.3), source="<b>")
    monkeypatch.setattr("tidefleet.cli.compare.offers_of", lambda _model: (evil,))
    result = run(*LLAMA, *FEW, "-o", "html")
    assert result.exit_code == 0
    assert "<script" not in result.stdout
    assert "<i>" not in result.stdout.replace("<i style", "")
    assert "&lt;script&gt;" in result.stdout
