"""`tidefleet simulate`: what it prints, and what it says when something is wrong."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tidefleet.cli.main import app
from tidefleet.cli.simulate_page import page
from tidefleet.cli.simulate_table import print_report
from tidefleet.simulator.load import load_scenario, parse_scenario, shipped
from tidefleet.simulator.result import Outcome
from tidefleet.simulator.run import Report

SCENARIO = """
name: small
summary: A <small> fleet & more.
kind: fleet
pools: [{model: llama-3.3-70b, accelerator: h200-sxm, replicas: 8}]
classes:
  - name: chat
    source: mooncake-conversation
    shape: chat
    share: 1.0
    objective: {ttftSeconds: 0.8, tpotSeconds: 0.05}
"""


def told(*words: str) -> Any:
    return CliRunner().invoke(app, ["simulate", *words])


def an_outcome(seed: int, utilization: float = 0.9) -> Outcome:
    """Half a day of training, then serving; TTFT at p99 is late."""
    return Outcome(
        utilization=utilization + 0.01 * seed,
        utilization_lost={"spare": 1.0 - utilization - 0.01 * seed - 0.02, "outbound <b>": 0.02},
        slo_attainment={"chat": 0.9951, "overall": 0.9951},
        prefix_hit_ratio=0.41,
        load_max_over_mean=1.25,
        usd_per_million_tokens=0.3123,
        usd_by_class={"chat": 0.3123},
        usd_by_accelerator={"h200-sxm": 0.3123},
        ttft_seconds={"chat": {"p50": 0.2, "p90": 0.4, "p95": 0.5, "p99": 1.1, "mean": 0.25}},
        tpot_seconds={"chat": {"p50": 0.02, "p90": 0.03, "p95": 0.03, "p99": 0.04, "mean": 0.02}},
        ribbon={
            "begin": 0.0,
            "seconds": 3600.0,
            "serving": [6.0] * 12 + [8.0] * 36,
            "training": [2.0] * 12 + [0.0] * 36,
            "needed": [5.0] * 12 + [7.0] * 36,
        },
        figures={"things_seconds": 3.0 * seed},
        words=("A <sentence> & more.",),
    )


def a_report() -> Report:
    ours = {seed: an_outcome(seed) for seed in (1, 2, 3)}
    scenario = parse_scenario(SCENARIO, "small.yaml")
    return Report(scenario, ours, {"static": {seed: an_outcome(seed, 0.4) for seed in (1, 2, 3)}})


def test_the_list_has_every_shipped_scenario_with_what_it_shows() -> None:
    listed = json.loads(told("--list", "-o", "json").stdout)
    assert [one["name"] for one in listed] == list(shipped())
    assert all(one["summary"] and one["kind"] in ("fleet", "replay", "study") for one in listed)
    assert "kv-or-prefill" in told("--list").stdout


def test_json_has_figures_words_and_settings_of_what_was_asked() -> None:
    answer = told("kv-or-prefill", "--set", "settings.newTokens=64", "--seeds", "2", "-o", "json", "-q")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["scenario"] == "kv-or-prefill"
    assert found["settings"]["settings"] == {"newTokens": 64.0}
    assert found["figures"]["prefill_seconds_131072"] > found["figures"]["prefill_seconds_8192"]
    assert [one["seed"] for one in found["seeds"]] == [1, 2]
    assert found["seeds"][0]["figures"] == found["figures"]


def test_the_table_goes_to_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    assert told("rack-or-node", "--output-file", str(path), "-q").stdout == f"wrote {path}\n"
    assert "rack_gain_50_ms" in path.read_text()
    assert "cannot be written" in told("rack-or-node", "--output-file", str(tmp_path / "a" / "b"), "-q").output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "SCENARIO is missing; expected one of "),
        (("nothing",), "there is no scenario 'nothing'; expected one of "),
        (("jevons", "--seed", "1", "--seeds", "2"), "--seed and --seeds exclude each other"),
        (("jevons", "--dask", "tcp://x:1", "--jobs", "2"), "--dask and --jobs exclude each other"),
        (("jevons", "--traces", "/absent"), "--traces /absent is no directory"),
        (("jevons", "--set", "settings.elasticity=1"), "settings.elasticity is no setting of jevons"),
        (("jevons", "--set", "settings.load=7"), "settings.load is 7; expected at most 1"),
        (("jevons", "--set", "settings.load=-1"), "settings.load is -1; expected a number from 0"),
        (("jevons", "--set", "pools=[]"), "pools has 0 of the 1 that jevons is about"),
        (("jevons", "--compare", "static"), "--compare static: is no baseline of a scenario of kind study"),
        (("rack-or-node", "--set", "pools.0.model=llama-3.3-70b"), "expected a mixture of experts"),
        (("rack-or-node", "--set", "settings.groupChips=4"), "1 < nodeChips < groupChips <= 72"),
        (("kv-or-prefill", "--set", "pools.0.tiers=[]"), "tiers is empty; expected tiers to fetch from"),
        (("kv-or-prefill", "--set", "pools.0.model=llama-3.1-405b"), "llama-3.1-405b in Fp8 needs "),
        (("kv-or-prefill", "--set", "pools.0.weights=Int4"), "pools[0].weights is 'Int4'; expected one of Bf16"),
        (("kv-or-prefill", "--set", "pools.0.accelerator=rubin-cpx"), "no 16-bit compute figure of rubin-cpx"),
        (("prefill-only", "--set", "settings.peakShare=0"), "settings.peakShare is 0; expected a number from 1e-09"),
        (("prefill-only", "--set", "pools.decode.accelerator=gb300-nvl72"), "usdPerChipHour is missing"),
        (("claims", "--set", "settings.acceptLength=9"), "expected from 1 to 4"),
        (("claims", "--set", "study=claim"), "study is 'claim'; expected one of "),
    ],
)
def test_what_is_wrong_is_told_in_a_line_and_not_as_a_traceback(words: tuple[str, ...], expected: str) -> None:
    answer = told(*words, "-q")
    assert answer.exit_code in (1, 2)
    assert expected in answer.stderr
    assert answer.stderr.startswith("tidefleet: ")
    assert "Traceback" not in answer.output


def test_a_scenario_that_reads_traces_asks_for_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SCENARIO)
    answer = told(str(path))
    assert answer.exit_code == 1
    assert (
        "--traces is missing; class chat has source mooncake-conversation, which is read from the directory of traces"
        in answer.stderr
    )


def test_progress_is_told_on_standard_error_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidefleet.cli.simulate._TELL_EVERY_SECONDS", 0.0)
    answer = told("jevons", "-o", "json")
    assert "jevons: 0%: ours, seed 1: begins" in answer.stderr
    json.loads(answer.stdout)


def test_the_table_shows_medians_ranges_baselines_and_what_was_lost() -> None:
    text = print_report(a_report(), capture=True)
    assert re.search(r"utilisation \(needed / paid\) +92\.00 % \(91\.00 % to 93\.00 %\) +42\.00 %", text)
    assert re.search(r"chat +800 ms \+ 100 ms/1k, 50 ms +99\.51 %", text)
    assert re.search(r"needed +92\.00 %", text)
    assert re.search(r"things_seconds +6 \(3 to 9\)", text)
    assert "A <sentence> & more." in text


class _Reader(HTMLParser):
    """Counts elements, checks that they close, and keeps what text and attributes there are."""

    VOID = frozenset({"meta", "rect", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


def test_the_page_is_whole_loads_nothing_and_escapes_what_it_is_given() -> None:
    found = read(page(a_report()))
    tags = [tag for tag, _ in found.seen]
    assert not {"script", "link", "img", "iframe", "b", "small", "sentence"} & set(tags)
    assert not [attrs for _, attrs in found.seen if {"src", "onclick"} & set(attrs)]
    assert "A <sentence> & more." in found.text
    assert "outbound <b>" in found.text


def test_the_page_shows_days_waterfall_percentiles_prices_hit_rate_and_balance() -> None:
    found = read(page(a_report()))
    for title in (
        "Nodes through the day",
        "Where the paid seconds went",
        "Percentiles against objectives",
        "$ per 1M tokens by class",
        "$ per 1M tokens by accelerator",
        "Hit rate and balance",
        "Figures",
    ):
        assert title in found.text
    assert found.text.count("Day 1") >= 1
    assert "Day 2" in found.text
    assert "1.10 s of 800 ms" in found.text
    late = [attrs for tag, attrs in found.seen if tag == "rect" and attrs.get("class") == "bad"]
    assert len(late) == 3  # two causes of loss, and TTFT at p99


def test_a_run_that_begins_at_noon_is_drawn_from_noon() -> None:
    hours = {"begin": 43200.0, "seconds": 3600.0, "serving": [4.0] * 24, "needed": [3.0] * 24}
    found = read(page(Report(load_scenario("jevons"), {1: Outcome(ribbon=hours)})))
    paths = [str(attrs["d"]) for tag, attrs in found.seen if tag == "path" and attrs.get("class") == "need"]
    assert [float(one[1:].partition(",")[0]) for one in paths] == [170 + 450, 170]
    assert "Day 2" in found.text


def test_every_part_of_the_page_is_reached_from_the_keyboard() -> None:
    found = read(page(a_report()))
    ids = {attrs["id"] for _, attrs in found.seen if "id" in attrs}
    links = [str(attrs["href"]) for tag, attrs in found.seen if tag == "a"]
    assert len(links) > 6
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    days = [attrs for _, attrs in found.seen if attrs.get("class") == "day"]
    assert [one["tabindex"] for one in days] == ["0", "0"]
    assert all("needed from 7 to 7" in str(one["aria-label"]) or "5" in str(one["aria-label"]) for one in days)
    for tag, attrs in found.seen:
        if tag == "svg":
            assert attrs["aria-label"]


def test_a_study_has_a_page_too() -> None:
    outcome = Outcome(figures={"gain": 2.0}, words=("It gains.",))
    found = read(page(Report(load_scenario("jevons"), {1: outcome})))
    assert "It gains." in found.text
    assert "Nodes through the day" not in found.text
