"""`tidefleet flips`: spans from histories, ribbons of any width, a page without scripts, words for bad input."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from flips_builders import NOW, SLOT, a_pool, a_unit, rfc3339
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tidefleet.api.flipping_status import FlipPhase
from tidefleet.cli.flips_day import Day, day_of
from tidefleet.cli.flips_page import page
from tidefleet.cli.flips_table import MOST_RIBBONS, picture
from tidefleet.cli.main import app

HOUR = 3600.0


def run(*arguments: str, columns: int = 140, text: str | None = None) -> Result:
    environment = {"COLUMNS": str(columns), "TERM": "dumb", "NO_COLOR": "1"}
    return CliRunner().invoke(app, ["flips", *arguments], env=environment, input=text)


def a_day(at: float = NOW, **more: Any) -> Day:
    return day_of(a_pool(**more), at)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    path = tmp_path / "pools.yaml"
    path.write_text(yaml.safe_dump({"kind": "List", "apiVersion": "v1", "items": [a_pool()]}))
    return str(path)


# --- the day ---------------------------------------------------------------------------------------------------------


def phases(day: Day, name: str, *, planned: bool) -> list[tuple[str, float]]:
    """Phases of a unit with their beginnings in hours from now."""
    ribbon = next(one for one in day.ribbons if one.unit.name == name)
    return [(str(one.phase), (one.begin - NOW) / HOUR) for one in ribbon.spans if one.planned == planned]


def test_a_day_is_one_day_back_and_one_ahead_in_slots() -> None:
    day = a_day()
    assert (day.begin, day.end) == (NOW - 24 * HOUR, NOW + 24 * HOUR)
    assert len(day.needed) == len(day.loaned) == 192
    assert None not in day.needed
    assert day.loaned[:96] == (None,) * 96
    assert None not in day.loaned[96:]


def test_last_nights_loan_is_told_with_its_way_out_and_back() -> None:
    night = phases(a_day(), "gpu-01", planned=False)
    names = [name for name, _ in night]
    assert names == [
        "Serving", "Planned", "Cordoned", "Draining", "Verifying", "Training", "Recalling", "Reclaiming", "Warming",
        "Serving",
    ]  # fmt: skip
    begun = dict(night)
    assert begun["Training"] == pytest.approx(-23.75 + 320 / HOUR)
    assert begun["Recalling"] == pytest.approx(-24 + 8.25)


def test_a_unit_that_never_flipped_has_served_all_day_and_of_what_was_before_a_quarantine_nothing_is_known() -> None:
    day = a_day()
    assert phases(day, "gpu-04", planned=False) == [("Serving", -24.0)]
    assert phases(day, "gpu-05", planned=False) == [("Quarantined", -2.0)]
    assert day.shares(NOW - 3 * HOUR)["serving"] == 5
    assert day.shares(NOW - 1 * HOUR) == {"serving": 5, "outbound": 0, "training": 0, "homebound": 0, "quarantined": 1}


def test_what_is_planned_ends_with_the_loan_and_a_quarantined_unit_is_never_planned() -> None:
    day = a_day()
    ahead = phases(day, "gpu-00", planned=True)
    assert ahead[0] == ("Training", 0.0)
    assert ahead[1][0] == "Serving"
    assert ahead[1][1] == 8.5
    assert phases(day, "gpu-05", planned=True) == [("Quarantined", 0.0)]


def test_no_more_nodes_are_shown_to_train_than_the_plan_lends() -> None:
    day = a_day()
    for index, planned in enumerate(day.loaned):
        if planned is not None:
            assert day.shares(day.begin + (index + 0.5) * SLOT)["training"] <= planned


def test_a_group_counts_with_all_of_its_nodes_and_is_not_planned_in_part() -> None:
    group = a_unit("rack-1", nodes=["a", "b", "c"])
    day = a_day(units=[group, a_unit("z")], loaned=[2] * 96)
    assert day.shares(NOW - HOUR)["serving"] == 4
    assert day.shares(NOW + HOUR)["training"] == 1
    assert phases(day, "z", planned=True)[0][0] == "Training"


def test_nodes_that_never_flipped_are_counted_though_they_are_not_told_of() -> None:
    day = a_day(
        units=[a_unit("a", begin=NOW - 20 * HOUR, end=NOW - 12 * HOUR)], servingNodes=4, loaned=[2] * 40 + [0] * 56
    )
    assert (day.others, day.nodes) == (3, 4)
    assert day.shares(NOW - 15 * HOUR) == {"serving": 3, "outbound": 0, "training": 1, "homebound": 0, "quarantined": 0}
    assert day.shares(NOW + HOUR)["training"] == 2
    assert day.shares(NOW + 12 * HOUR)["training"] == 0
    others = day.rows[-1]
    assert others.unit.name == "+3 others"
    assert [(str(one.phase), (one.end - NOW) / HOUR) for one in others.spans] == [
        ("Serving", 0.0),
        ("Training", 10.0),
        ("Serving", 24.0),
    ]
    lines = [one.plain for one in picture(day, 140)]
    assert any(one.lstrip().startswith("+3 others ░") for one in lines)
    assert "+3 others: Serving" in page([day])


def test_times_are_those_of_the_window_also_across_a_change_of_clocks() -> None:
    spring = 1_774_744_200.0  # 2026-03-29T00:30Z: half an hour before clocks go forward in Berlin
    day = a_day(spring, slotStart=rfc3339(spring), units=[])
    assert day.zone_name == "Europe/Berlin"
    assert (day.clock(spring), day.clock(spring + HOUR)) == ("01:30", "03:30")
    assert a_day(zone="Asia/Kolkata").clock(NOW) == "02:30"


def test_an_older_status_is_shown_at_its_own_slots() -> None:
    day = a_day(NOW + 3 * SLOT)
    assert day.end == NOW + 3 * SLOT + 24 * HOUR
    assert day.needed[-1] is None
    assert a_day(NOW + 90 * HOUR).needed == (None,) * 192


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(-40 * HOUR, 4 * HOUR), st.sampled_from(list(FlipPhase))), max_size=32),
    st.lists(st.integers(0, 9), max_size=96),
    st.floats(-30 * HOUR, 30 * HOUR),
)
def test_whatever_a_status_says_spans_are_in_order_and_within_the_day(
    changes: list[tuple[float, FlipPhase]], loaned: list[int], offset: float
) -> None:
    history = [{"at": rfc3339(NOW + at), "phase": str(phase)} for at, phase in changes]
    phase = history[-1]["phase"] if history else "Training"
    day = a_day(NOW + offset, units=[a_unit("a", phase=phase, history=history)], loaned=loaned)
    for ribbon in day.ribbons:
        assert all(day.begin <= one.begin < one.end <= day.end for one in ribbon.spans)
        assert all(one.end <= other.begin for one, other in zip(ribbon.spans, ribbon.spans[1:], strict=False))
    assert "svg" in page([day])
    assert picture(day, 100)


# --- in the terminal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "wide"), [(140, 96), (80, 70), (30, 24)])
def test_every_ribbon_is_as_wide_as_the_clock_below_it(columns: int, wide: int) -> None:
    lines = [one.plain for one in picture(a_day(), columns)]
    ribbons = [one for one in lines if one.lstrip().startswith("gpu-")]
    assert len(ribbons) == 6
    assert {len(one) for one in ribbons} == {len(" gpu-00 ") + wide}
    clock = next(one for one in lines if "◆" in one)
    assert len(clock) == len(ribbons[0])
    assert clock.index("◆") == len(" gpu-00 ") + wide // 2


def test_a_flip_of_some_minutes_shows_in_a_narrow_ribbon() -> None:
    line = next(one.plain for one in picture(a_day(), 140) if "gpu-01" in one.plain)
    assert re.fullmatch(r" gpu-01 ▼█+▲░+▒+░+", line)


def test_the_command_tells_what_is_blocked_who_waits_and_which_units_do_not_serve(saved: str) -> None:
    result = run("--from", saved)
    assert result.exit_code == 0
    for words in (
        "prod/chat: Schedule, ",
        "next: 22:15 Europe/Berlin: 2 nodes to training",
        "Lending: 1 node on its way to training",
        "may set out now: 1; held by budget 1 of 20%",
        "saves $211.20, costs $8.40",
        "times in Europe/Berlin; now is Tue 22:00",
        "2 pods still hold its accelerators",
        "take the mark off the pod",
        "JobSet/research/large     64  not within a day",
        "Job/research/night-1       8  22:10",
    ):
        assert words in result.stdout, words


def test_markup_in_the_words_of_a_cluster_is_printed_as_it_is() -> None:
    pool = a_pool(blocked=[{"unit": "n", "why": "[red]not[/red] markup [/]", "wouldHaveToChange": "[bold]"}])
    result = run("--from", "-", text=json.dumps(pool))
    assert "[red]not[/red] markup [/]" in result.stdout


def test_many_units_become_shares_by_state() -> None:
    lines = [one.plain for one in picture(a_day(count=MOST_RIBBONS + 1), 140)]
    assert not any("gpu-" in one for one in lines)
    assert {one.split()[0] for one in lines if one.strip()} >= {"needed", "serving", "training", "quarantined"}


def test_a_pause_says_who_and_why(tmp_path: Path) -> None:
    pool = a_pool()
    pool["spec"]["flipping"]["pause"] = {"scope": "NewLoans", "by": "alice", "reason": "launch day"}
    result = run("--from", "-", text=yaml.safe_dump(pool))
    assert "paused: no new loans, by alice: launch day" in result.stdout


def test_a_pool_without_a_status_shows_what_is_known_of_it() -> None:
    pool = a_pool()
    del pool["status"]
    result = run("--from", "-", text=yaml.safe_dump(pool))
    assert result.exit_code == 0
    assert result.stdout.startswith("prod/chat: Never (nodes)")


# --- JSON and HTML ---------------------------------------------------------------------------------------------------


def test_json_has_slots_and_spans_with_times(saved: str) -> None:
    (day,) = json.loads(run("--from", saved, "-o", "json").stdout)
    assert (day["begin"], day["now"], day["end"]) == tuple(rfc3339(NOW + at * HOUR) for at in (-24, 0, 24))
    assert len(day["needed"]) == 192
    unit = next(one for one in day["units"] if one["name"] == "gpu-00")
    assert unit["phase"] == "Draining"
    assert unit["spans"][-1] == {
        "begin": "2026-11-25T05:30:00Z",
        "end": "2026-11-25T21:00:00Z",
        "phase": "Serving",
        "planned": True,
    }
    assert day["waiting"][1]["job"] == "JobSet/research/large"
    assert day["worth"]["savesUsd"] == "211.20"


class Page(HTMLParser):
    """What a page consists of; raises on tags that do not match."""

    VOID = frozenset({"meta", "rect", "line", "path", "polygon"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID or (tag == "rect" and not self.get_starttag_text().endswith("/>")):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_loads_nothing_and_runs_nothing_and_says_it_in_tables_too(saved: str) -> None:
    text = run("--from", saved, "-o", "html").stdout
    found = Page(text)
    tags = {tag for tag, _ in found.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "foreignobject"}
    assert not re.search(r"https?://|url\(|@import|\bon\w+=", text)
    assert "<b>is</b>" not in text
    assert "&lt;b&gt;is&lt;/b&gt;" in text
    ids = [attributes["id"] for _, attributes in found.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    targets = [str(attributes["href"])[1:] for tag, attributes in found.tags if tag == "a"]
    assert targets
    assert set(targets) <= set(ids)
    labels = [str(attributes["aria-label"]) for _, attributes in found.tags if attributes.get("class") == "unit"]
    assert len(labels) == 6
    assert "gpu-01: Serving Mon 22:00 to Mon 22:15, Training Mon 22:20 to Tue 06:15" in labels[1]
    assert all(attributes.get("tabindex") == "0" for _, attributes in found.tags if attributes.get("class") == "unit")
    assert text.count("<caption>") == 4
    assert {attributes["scope"] for tag, attributes in found.tags if tag == "th"} == {"col", "row"}
    for words in ("not within a day", "take the mark off the pod", "Europe/Berlin", "7.9 h"):
        assert words in text


def test_a_page_of_several_pools_has_each_once(tmp_path: Path) -> None:
    other = a_pool()
    other["metadata"]["name"] = "code"
    result = run("--from", "-", "-o", "html", text=yaml.safe_dump_all([a_pool(), other]))
    assert re.findall(r'<h2 id="pool-\d">([^<]+)</h2>', result.stdout) == ["prod/chat", "prod/code"]
    Page(result.stdout)


# --- what was asked wrongly ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text", "words", "status"),
    [
        (["--from", "-"], "kind: Pod", "holds no InferencePool", 1),
        (["--from", "-"], "a: [", "--from -", 1),
        (["--from", "/nowhere/pool.yaml"], "", "/nowhere/pool.yaml", 1),
        (["--from", "-", "--time-zone", "Mars/Olympus"], "", "expected a zone of the IANA database", 2),
        (["--from", "-", "--at", "tonight"], "", "expected a time in RFC 3339", 2),
    ],
)
def test_bad_input_is_named(arguments: list[str], text: str, words: str, status: int) -> None:
    result = run(*arguments, text=text)
    assert result.exit_code == status
    assert words in result.stderr


def test_nodes_on_loan_are_shown_also_of_a_pool_that_became_invalid() -> None:
    pool = a_pool()
    pool["spec"]["flipping"]["windows"][0]["timeZone"] = "Mars/Olympus"
    pool["spec"]["replicas"] = {"min": 9, "max": 3}
    result = run("--from", "-", text=yaml.safe_dump(pool))
    assert result.exit_code == 0
    assert "invalid: InferencePool prod/chat: spec.replicas.min is 9; expected a number not above max" in result.stdout
    assert "gpu-00" in result.stdout
    unreadable = a_pool()
    unreadable["status"] = {"flipping": {"units": "none"}}
    assert run("--from", "-", text=yaml.safe_dump(unreadable)).stdout.startswith("prod/chat: Never (nodes)")


def test_a_pool_that_is_not_there_or_never_lends_is_said(saved: str) -> None:
    assert "there is no InferencePool prod/code" in run("prod/code", "--from", saved).stderr
    pool = a_pool()
    pool["spec"]["flipping"] = {"policy": "Never"}
    del pool["status"]
    never = run("prod/chat", "--from", "-", text=yaml.safe_dump(pool))
    assert never.exit_code == 1
    assert "prod/chat never lends: spec.flipping.policy is Never" in never.stderr
