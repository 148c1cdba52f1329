"""`tidefleet demand`: what it prints and writes, that the rest of the tool takes it, and what it says of bad files."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from localcluster import binaries
from localcluster.ports import free_ports
from tidefleet.cli.main import app
from tidefleet.cli.usage_file import parse_usage
from tidefleet.economics.personas import forecast

SAMPLES = Path(__file__).parents[2] / "deploy" / "samples"
SAMPLE = str(SAMPLES / "demand" / "usage.yaml")
MONDAY = 1_796_601_600  # 2026-12-07T00:00:00Z
USAGE: dict[str, Any] = {
    "namespace": "prod",
    "start": "2026-12-01",
    "personas": [
        {"name": "staff", "users": 3000, "adoption": {"mean": 0.5, "p95": 0.6}, "timeZone": "Europe/Berlin",
         "shape": "office", "uses": [{"feature": "ask", "perDay": {"mean": 20, "p95": 60}}]},
    ],
    "features": [{"name": "ask", "class": "agent", "tokens": {"input": {"mean": 2000, "p95": 6000}, "output": 300}}],
    "classes": [
        {"name": "agent", "pool": "chat", "requestsPerTask": 3, "calls": [{"class": "embed", "perTask": 2}]},
        {"name": "embed", "pool": "embed", "tokens": {"input": 500, "output": 0}},
    ],
    "shapes": [{"name": "office", "hours": [0.0] * 9 + [0.125] * 8 + [0.0] * 7, "weekdays": [1, 1, 1, 1, 1, 0, 0]}],
}  # fmt: skip


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})


def changed(path: str, value: Any) -> dict[str, Any]:
    """``USAGE`` with one value in place of another; ``...`` takes it away."""
    raw: Any = json.loads(json.dumps(USAGE))
    here, steps = raw, [int(one) if one.isdecimal() else one for one in path.split(".")]
    for step in steps[:-1]:
        here = here[step]
    if value is ...:
        del here[steps[-1]]
    else:
        here[steps[-1]] = value
    return raw


@pytest.fixture
def usage(tmp_path: Path) -> str:
    return written(tmp_path, USAGE)


def written(directory: Path, raw: Any) -> str:
    path = directory / "usage.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw))
    return str(path)


# --- what it prints --------------------------------------------------------------------------------------------------


def test_the_sample_becomes_classes_that_validate_and_plan_with_the_samples_pools(tmp_path: Path) -> None:
    result = run("demand", "-f", SAMPLE, "--apply-to", str(tmp_path))
    assert result.exit_code == 0, result.stderr
    for name in ("chat", "code", "reasoning"):
        assert name in result.stdout
        assert (tmp_path / f"demand-{name}.yaml").read_text().startswith("# Foreseen for the month from 2026-11-30")
    for pool in ("10-chat", "20-code", "30-reasoning"):
        objects = list(yaml.safe_load_all((SAMPLES / f"{pool}.yaml").read_text()))
        (tmp_path / f"{pool}.yaml").write_text(
            yaml.safe_dump(next(one for one in objects if one["kind"] == "InferencePool"))
        )
    assert "6 valid objects, no problems" in run("validate", "-f", str(tmp_path)).stderr
    answer = {one["pool"]: one for one in json.loads(run("plan", "-f", str(tmp_path), "-o", "json").stdout)}
    forecast = json.loads(run("demand", "-f", SAMPLE, "-o", "json").stdout)
    busy = {one["name"]: one["busyRequestsPerSecond"]["p95"] for one in forecast["classes"]}
    for name, rate in busy.items():
        planned = answer[f"tidefleet-samples/{name}"]["requestsPerSecond"]
        assert planned == pytest.approx(rate, rel=2e-3), "calls between classes are counted once"
    assert answer["tidefleet-samples/chat"]["plan"]["revenueUsdPerHour"]


def test_json_has_units_in_its_names_and_a_week_of_hours(usage: str) -> None:
    answer = json.loads(run("demand", "-f", usage, "-o", "json", "--months", "2", "--month", "1").stdout)
    assert (answer["namespace"], answer["start"], answer["month"]) == ("prod", "2026-12-01", 1)
    agent, embed = answer["classes"]
    assert {len(one) for one in agent["weekRequestsPerSecond"].values()} == {168}
    a_week = 3000 * 0.5 * 20 * 3 * 5
    assert agent["averageRequestsPerSecond"]["mean"] == pytest.approx(a_week / 604_800, rel=1e-3)
    assert agent["requestsPerMonth"] == pytest.approx(a_week / 7 * 730 / 24, rel=1e-3)
    assert embed["busyRequestsPerSecond"]["mean"] == pytest.approx(agent["busyRequestsPerSecond"]["mean"] * 2 / 3)
    assert agent["tokensPerRequest"]["input"]["mean"] == pytest.approx(2000)
    assert agent["tokensPerRequest"]["input"]["p95"] == pytest.approx(6000)
    assert agent["revenueUsdPerMonth"] is None
    assert [one["month"] for one in answer["months"]] == [0, 1]
    assert answer["manifests"][1]["spec"]["demand"] == {"requestsPerSecond": "0"}, "only agents call it"


@pytest.mark.parametrize(
    ("rate", "figure"),
    [("busy-p95", "p95"), ("busy-p50", "p50"), ("busy-mean", "mean"), ("average", None)],
)
def test_classes_declare_the_figure_that_is_asked_for(usage: str, rate: str, figure: str | None) -> None:
    answer = json.loads(run("demand", "-f", usage, "-o", "json", "--rate", rate).stdout)
    agent = answer["classes"][0]
    wanted = agent["busyRequestsPerSecond"][figure] if figure else agent["averageRequestsPerSecond"]["mean"]
    declared = yaml.safe_load(run("demand", "-f", usage, "-o", "yaml", "--rate", rate).stdout.split("---")[0])
    assert float(declared["spec"]["demand"]["requestsPerSecond"]) == pytest.approx(wanted, rel=1e-3)


def test_the_picture_is_one_file_with_a_week_of_each_class(usage: str, tmp_path: Path) -> None:
    observations = tmp_path / "seen.csv"
    observations.write_text(f"time,class,requests_per_second\n{MONDAY + 9 * 3600},agent,2.5\n")
    page = tmp_path / "page.html"
    result = run("demand", "-f", usage, "-o", "html", "--output-file", str(page), "--observed", str(observations))
    assert result.exit_code == 0, result.stderr
    text = page.read_text()
    assert not re.search(r"(src|href)=.?https?:|<script|@import|url\(", text)
    pictures = [ET.fromstring(one) for one in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]  # noqa: S314  our own
    assert len(pictures) == 2
    for picture in pictures:
        _, _, width, height = (float(one) for one in picture.attrib["viewBox"].split())
        assert picture.attrib["aria-label"] == picture.findtext("title")
        for path in picture.iter("path"):
            for command, numbers in re.findall(r"([MVH])([-0-9.,]+)", path.attrib["d"]):
                x, y = {"M": numbers.split(","), "H": (numbers, "1"), "V": ("1", numbers)}[command]
                assert 0 < float(x) <= width
                assert 0 < float(y) <= height
    assert len(list(pictures[0].iter("circle"))) == 1
    assert len(list(pictures[1].iter("circle"))) == 0


# --- forecast and observation ----------------------------------------------------------------------------------------


def test_observations_from_a_file_are_told_beside_the_forecast(usage: str, tmp_path: Path) -> None:
    week = json.loads(run("demand", "-f", usage, "-o", "json").stdout)["classes"][0]["weekRequestsPerSecond"]["mean"]
    rows = [f"{MONDAY + hour * 3600},agent,{0.4 * rate:.6f}" for hour, rate in enumerate(week)]
    rows += [f"{MONDAY},spare,1"]
    path = tmp_path / "seen.csv"
    path.write_text("\n".join(["time,class,requests_per_second", *rows]) + "\n")
    answer = json.loads(run("demand", "-f", usage, "-o", "json", "--observed", str(path)).stdout)
    agent, embed = answer["observed"]
    assert (agent["name"], agent["hours"]) == ("agent", 168.0)
    assert agent["ratio"] == pytest.approx(0.4, rel=1e-3)
    assert not agent["withinForecast"]
    assert "by 0.4" in agent["suggestion"]
    assert "source: Metrics" in agent["suggestion"]
    assert (embed["observedRequestsPerSecond"], embed["ratio"]) == (None, None)
    assert answer["observedWithoutForecast"] == ["spare"]
    table = run("demand", "-f", usage, "--observed", str(path)).stdout
    assert "0.40" in table
    assert "spare: observed, and not in the forecast" in table


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[str]:
    """A Prometheus that has counted, for two days until an hour ago, 2 requests a second of agents and 1 of embed."""
    now = int(time.time())
    lines = ["# TYPE tidefleet_router_requests counter"]
    for wclass, rate in (("agent", 2), ("embed", 1)):
        for status in ("2xx", "5xx"):
            labels = f'namespace="prod",pool="chat",workload_class="{wclass}",status="{status}"'
            lines += [
                f"tidefleet_router_requests_total{{{labels}}} {rate * (at - now + 200_000) / 2} {at}"
                for at in range(now - 172_800, now - 3600, 120)
            ]
    (tmp_path / "metrics.txt").write_text("\n".join([*lines, "# EOF"]) + "\n")
    made = ["tsdb", "create-blocks-from", "openmetrics", str(tmp_path / "metrics.txt"), str(tmp_path / "data")]
    subprocess.run([binaries.find("promtool"), *made], check=True, capture_output=True)
    (tmp_path / "prometheus.yml").write_text("{}")
    (port,) = free_ports(1)
    command = [binaries.find("prometheus"), f"--config.file={tmp_path / 'prometheus.yml'}",
               f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
               "--storage.tsdb.retention.time=10y", "--log.level=warn"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60.0
            while not is_ready(url):
                assert time.monotonic() < deadline, "Prometheus is not ready"
                time.sleep(0.05)
            yield url
        finally:
            server.kill()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:  # noqa: S310  our own
            return answer.status == 200
    except OSError:
        return False


def test_observations_come_from_a_prometheus_that_scrapes_the_router(usage: str, prometheus: str) -> None:
    arguments = ("demand", "-f", usage, "-o", "json", "--observed", prometheus, "--days", "1")
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    agent, embed = json.loads(result.stdout)["observed"]
    assert agent["observedRequestsPerSecond"] == pytest.approx(2.0, rel=0.05)
    assert embed["observedRequestsPerSecond"] == pytest.approx(1.0, rel=0.05)
    assert 22 <= agent["hours"] <= 25
    nothing = run("demand", "-f", SAMPLE, "--observed", prometheus)
    assert nothing.exit_code == 2
    assert 'no tidefleet_router_requests_total of namespace "tidefleet-samples"' in nothing.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no column time"),
        ("time,class\n1,a\n", "has no column requests_per_second"),
        ("time,class,requests_per_second\n", "has no rows"),
        ("time,class,requests_per_second\n1796601600,agent,-1\n", ":2: requests_per_second is '-1'"),
        ("time,class,requests_per_second\n1796601600,agent,nan\n", ":2: requests_per_second is 'nan'"),
        ("time,class,requests_per_second\n1796601600,agent\n", ":2: requests_per_second is 'None'"),
        ("time,class,requests_per_second\nsoon,agent,1\n", ":2: time is 'soon'"),
        ("time,class,requests_per_second\ninf,agent,1\n", ":2: time is 'inf'"),
        ("time,class,requests_per_second\n1796601600,agent,1\n1796688000,agent,1\n", "rows of agent are 86400 s apart"),
    ],
)
def test_observations_that_cannot_be_read_are_named(usage: str, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "seen.csv"
    path.write_text(text)
    result = run("demand", "-f", usage, "--observed", str(path))
    assert result.exit_code == 2
    assert words in result.stderr
    assert "expected" in result.stderr


def test_a_prometheus_that_does_not_answer_is_named(usage: str) -> None:
    result = run("demand", "-f", usage, "--observed", "http://127.0.0.1:9")
    assert result.exit_code == 2
    assert "--observed http://127.0.0.1:9: Prometheus cannot be reached" in result.stderr


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("personas.0.users", -5, "personas[0] (staff).users is -5; expected a number of at least 0, e.g. 1200"),
        ("personas.0.users", float("nan"), "personas[0] (staff).users is nan; expected a finite number, e.g. 1200"),
        ("personas.0.users", 1e12, "personas[0] (staff).users is 1000000000000.0; expected a number of at most 1e+10"),
        ("personas.0.users", True, "personas[0] (staff).users is true; expected a finite number"),
        ("personas.0.users", "12", 'personas[0] (staff).users is "12"; expected a finite number'),
        ("personas.0.users", ..., "personas[0] (staff).users is missing; expected e.g. users: 1200"),
        ("personas.0.user", 5, "personas[0] (staff).user is no field; expected one of name, users"),
        (
            "personas.0.adoption",
            1.4,
            "personas[0] (staff).adoption.mean is 1.4; expected a number of at most 1, e.g. 0.4",
        ),
        ("personas.0.adoption.mean", 0.9, "personas[0] (staff).adoption.mean is 0.9; expected at most its p95 of 0.6"),
        (
            "personas.0.growthPerMonth",
            -1,
            "personas[0] (staff).growthPerMonth is -1; expected a number of at least -0.9",
        ),
        (
            "personas.0.timeZone",
            "Mars/Olympus",
            'personas[0] (staff).timeZone is "Mars/Olympus"; expected a zone of the I',
        ),
        ("personas.0.timeZone", "../etc/passwd", 'personas[0] (staff).timeZone is "../etc/passwd"; expected a zone'),
        ("personas.0.shape", "night", 'personas[0] (staff).shape is "night"; expected one of office'),
        ("personas.0.uses.0.feature", "asks", 'personas[0] (staff).uses[0].feature is "asks"; expected one of ask'),
        (
            "personas.0.uses.0.perDay",
            -1,
            "personas[0] (staff).uses[0].perDay.mean is -1; expected a number of at least 0",
        ),
        ("personas.0.uses.0.perDay.p95", 1e12, "personas[0] (staff).uses[0].perDay.p95 is 1000000000000.0; expected"),
        ("personas.0.uses", [], "personas[0] (staff).uses is a list of 0; expected at least one"),
        ("features.0.class", "chat", 'features[0] (ask).class is "chat"; expected one of agent, embed'),
        ("features.0.tokens", ..., "feature ask: tokens is missing, and class agent has none either"),
        (
            "features.0.tokens.input.mean",
            0,
            "features[0] (ask).tokens.input.mean is 0; expected a number of at least 1",
        ),
        (
            "features.0.tokens.cachedShare",
            2,
            "features[0] (ask).tokens.cachedShare is 2; expected a number of at most 1",
        ),
        ("classes.0.calls.0.class", "embeds", 'classes[0] (agent).calls[0].class is "embeds"; expected one of agent'),
        ("classes.0.calls.0.perTask", 0, "classes[0] (agent).calls[0].perTask is 0; expected a number above 0, e.g. 2"),
        ("classes.1.calls", [{"class": "agent", "perTask": 1}], "calls come back to it: agent -> embed -> agent"),
        ("classes.0.spec", {"demand": {}}, "classes[0] (agent).spec.demand is what the forecast says"),
        ("classes.0.spec", {"priority": "high"}, 'WorkloadClass prod/agent: spec.priority is "high"'),
        ("classes.1.name", "agent", 'classes[1] (agent).name is "agent" a second time'),
        ("classes.1.name", "Embed!", 'classes[1] (Embed!).name is "Embed!"; expected a name of lower-case letters'),
        ("shapes.0.hours", [0.125] * 24, "shapes[0] (office).hours sums to 3; expected shares of a day that sum to 1"),
        ("shapes.0.hours", [1.0], "shapes[0] (office).hours is a list of 1; expected 24 numbers"),
        ("shapes.0.hours.9", -0.125, "shapes[0] (office).hours[9] is -0.125; expected a number of at least 0"),
        ("shapes.0.weekdays", [0] * 7, "shapes[0] (office).weekdays are all 0; expected a day with uses"),
        ("start", "2026-02-30", 'start is "2026-02-30"; expected a day of the calendar, e.g. 2026-12-01'),
        ("namespace", 7, "namespace is 7; expected a name of lower-case letters"),
        ("personas", {}, "personas is "),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, path: str, value: Any, words: str) -> None:
    result = run("demand", "-f", written(tmp_path, changed(path, value)))
    assert result.exit_code == 2, result.stdout
    assert words in result.stderr
    assert "usage.yaml" in result.stderr or "WorkloadClass" in result.stderr
    assert "expected" in result.stderr
    assert "e.g." in result.stderr


@pytest.mark.parametrize("text", ["", "[]", "a: [", "12", "a: 1\n---\nb: 2\n", "a: 1\na: 2\n", "x: " + "[" * 500])
def test_files_that_are_no_usage_are_refused(tmp_path: Path, text: str) -> None:
    result = run("demand", "-f", written(tmp_path, text))
    assert result.exit_code == 2
    assert "usage.yaml" in result.stderr
    assert "expected" in result.stderr


def test_more_than_the_api_holds_is_refused(tmp_path: Path) -> None:
    raw = changed("personas.0.users", 1e10)
    raw["personas"][0]["uses"][0]["perDay"] = 1e6
    result = run("demand", "-f", written(tmp_path, raw))
    assert result.exit_code == 2
    assert "class agent: " in result.stderr
    assert "expected at most 1e+09" in result.stderr


def test_a_class_that_stands_elsewhere_in_the_directory_is_not_written_twice(usage: str, tmp_path: Path) -> None:
    directory = tmp_path / "deploy"
    directory.mkdir()
    arguments = ("demand", "-f", usage, "--apply-to", str(directory))
    assert run(*arguments).exit_code == 0
    assert run(*arguments).exit_code == 0, "its own files are written anew"
    (directory / "demand-agent.yaml").rename(directory / "mine.yaml")
    result = run(*arguments)
    assert result.exit_code == 2
    assert "WorkloadClass prod/agent stands in" in result.stderr
    assert "mine.yaml:" in result.stderr
    assert not (directory / "demand-agent.yaml").exists()
    assert "is no directory" in run("demand", "-f", usage, "--apply-to", str(tmp_path / "none")).stderr


def test_laws_that_no_lognormal_has_are_told(tmp_path: Path) -> None:
    result = run("demand", "-f", written(tmp_path, changed("personas.0.uses.0.perDay", {"mean": 2, "p95": 50})))
    assert result.exit_code == 0
    assert "staff, ask: perDay: no lognormal of mean 2 has a p95 of 50" in result.stdout


def places(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every place of a file, dotted."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in children:
        yield ".".join((*path, str(key)))
        yield from places(below, (*path, str(key)))


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([0, 1e308, -0.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from(sorted(places(USAGE))), value=ANYTHING)
def test_whatever_stands_in_a_file_it_is_used_or_refused_in_words(path: str, value: Any) -> None:
    words, rates = "expected", [0.0]
    try:
        found = forecast(parse_usage(changed(path, value), "usage.yaml").usage, date(2026, 12, 1))
        rates = [float(rate) for one in found for rate in (*one.p95, one.average.p95)]
    except ValueError as error:
        words = str(error)
    assert "expected" in words
    assert all(math.isfinite(rate) and rate >= 0.0 for rate in rates)
