"""The shape of demand from a real Prometheus: hours fall together whenever it is asked, and gaps do not bend it."""

import json
import subprocess
import time
from datetime import UTC, datetime

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from localcluster import binaries
from localcluster.errors import LocalClusterError
from localcluster.ports import free_ports
from tidefleet.cli.main import app
from tidefleet.simulator.load import ScenarioError, load_scenario
from tidefleet.simulator.measured import MeasuredError, Query, ask, with_shapes
from tidefleet.simulator.workload import load
from tidefleet.telemetry.asking import Access

DAY, WEEK = 86_400.0, 604_800.0
WEDNESDAY = datetime(2026, 3, 4, 13, 7, tzinfo=UTC).timestamp()
HOURS = "(1 + floor(vector((time() - 1) % 86400 / 3600)))"
"""A rate that is 1 in the first hour of a day, 2 in the second, ..."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """The URL of a Prometheus that scrapes nothing; what it answers is of its own clock."""
    try:
        program = binaries.find("prometheus")
    except LocalClusterError as error:
        pytest.skip(f"no Prometheus: {error}")
    place = tmp_path_factory.mktemp("prometheus")
    (place / "prometheus.yml").write_text("{}")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [program, f"--config.file={place / 'prometheus.yml'}", f"--storage.tsdb.path={place / 'data'}"]
    with subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]) as process:
        try:
            _until_ready(url, process)
            yield url
        finally:
            process.terminate()


def _until_ready(url, process):
    while process.poll() is None:
        try:
            if httpx.get(f"{url}/-/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail(f"Prometheus ended with {process.returncode}")


def asked(url, text, *, seconds=DAY, until=WEDNESDAY):
    return ask(Query(Access(url), text, seconds, until))


def test_the_first_bin_is_that_of_midnight_whenever_it_is_asked(prometheus):
    expected = np.repeat(np.arange(1.0, 25.0), 6)
    for until in (WEDNESDAY, WEDNESDAY + 5.3 * 3600.0):
        assert asked(prometheus, HOURS, until=until)[""] == pytest.approx(expected)


def test_the_first_bin_of_whole_weeks_is_that_of_monday(prometheus):
    days = "1 + (day_of_week(vector(time() - 1)) + 6) % 7"
    found = asked(prometheus, days, seconds=WEEK)[""]
    assert found == pytest.approx(np.repeat(np.arange(1.0, 8.0), 144))


def test_other_ranges_begin_where_they_begin(prometheus):
    assert asked(prometheus, HOURS, seconds=7200.0, until=WEDNESDAY - 420.0)[""] == pytest.approx(
        [12.0] * 6 + [13.0] * 6
    )


def test_series_of_classes_become_their_shapes_and_one_series_that_of_all_who_wait(prometheus):
    week = load_scenario("week")
    text = f'label_replace({HOURS}, "class", "chat", "", "") or label_replace(vector(3), "class", "batch", "", "")'
    found = with_shapes(week, asked(prometheus, text))
    assert set(found.shapes) == {"chat", "batch"}
    assert found.shapes["chat"][0] == pytest.approx(1.0 / 12.5, abs=1e-6)
    assert found.shapes["batch"] == (1.0,) * 144
    every = with_shapes(week, asked(prometheus, HOURS))
    assert set(every.shapes) == {one.name for one in week.classes} - {"batch"}


def test_gaps_lie_on_the_line_between_their_neighbours_and_many_are_told(prometheus):
    here = f"{HOURS} unless on() (vector(time() % 86400) >= 39600 < 43200)"
    found = asked(prometheus, here)[""]
    assert found.min() >= 1.0
    assert np.diff(found[60:78]).min() >= 0.0
    with pytest.raises(MeasuredError, match=r"has \d+ samples in 144 bins of 600 s; expected at least 90%"):
        asked(prometheus, f"{HOURS} and on() (vector(time() % 86400) < 43200)")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sum(rate(", r"answered 400: .*parse error.*; expected a rate in PromQL"),
        ("nothing_there", r"no series; expected at least one, e.g. sum\(rate\(vllm:request_success_total"),
        ("vector(-1)", r"is -1; expected 0 or more"),
        ("vector(0)", r"every rate is 0"),
        ('label_replace(label_replace(vector(1), "a", "x", "", ""), "b", "y", "", "")', r"labels a, b; expected one"),
    ],
)
def test_what_is_no_rate_is_told(prometheus, text, words):
    with pytest.raises(MeasuredError, match=words):
        asked(prometheus, text)


def test_a_series_of_no_class_and_one_without_demand_are_told(prometheus):
    week = load_scenario("week")
    with pytest.raises(MeasuredError, match=r"a series is of 'chatt'; expected names of the scenario's classes.*chat"):
        with_shapes(week, asked(prometheus, 'label_replace(vector(1), "class", "chatt", "", "")'))
    zero = 'label_replace(vector(0), "class", "chat", "", "") or label_replace(vector(1), "class", "api", "", "")'
    with pytest.raises(MeasuredError, match="the rate of 'chat' is 0 throughout"):
        with_shapes(week, asked(prometheus, zero))
    with pytest.raises(MeasuredError, match="is of kind study"):
        with_shapes(load_scenario("jevons"), asked(prometheus, "vector(1)"))


def test_nobody_there_and_something_else_there_are_told(prometheus):
    (port,) = free_ports(1)
    with pytest.raises(MeasuredError, match=r"cannot be asked: .*; expected the address of a Prometheus"):
        asked(f"http://127.0.0.1:{port}", "vector(1)")
    with pytest.raises(MeasuredError, match="answered 404: no answer of a Prometheus"):
        asked(f"{prometheus}/elsewhere", "vector(1)")
    with pytest.raises(MeasuredError, match="--range is 0 s"):
        asked(prometheus, "vector(1)", seconds=0.0)


OWN = """
name: mine
kind: fleet
seconds: 7200
pools: [{model: llama-3.1-8b, accelerator: h100-sxm, replicas: 4, chipsPerReplica: 1}]
classes: [{name: mine, source: SOURCE, share: 1.0, objective: {ttftSeconds: 2, tpotSeconds: 0.05}}]
training: {backlog: endless}
windows: {count: 1, seconds: 10, warmSeconds: 5}
"""


def test_a_fleet_follows_what_was_measured_without_any_public_trace(prometheus, tmp_path):
    requests, scenario = tmp_path / "mine.csv", tmp_path / "mine.yaml"
    requests.write_text("time,input,output\n" + "".join(f"{at},2000,200\n" for at in range(50)))
    scenario.write_text(OWN.replace("SOURCE", str(requests)))
    command = ["simulate", str(scenario), "--traces", str(tmp_path), "--prometheus", prometheus, "--query", HOURS]
    command += ["--range", "2h", "--until", "2026-03-04T13:00:00", "-o", "json", "-q"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    told = json.loads(found.output)
    shape = told["settings"]["shapes"]["mine"]
    assert shape == pytest.approx([0.96] * 6 + [1.04] * 6)
    assert told["utilization"] > 0.0
    again = load_scenario(str(scenario), [f"shapes.mine={json.dumps(shape)}"])
    rates = load(again, tmp_path, seed=1).scale("mine", 2.0).rate("mine")
    assert rates == pytest.approx([1.92] * 6 + [2.08] * 6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--prometheus", "http://x"], "--query is missing"),
        (["--query", "vector(1)"], "--prometheus is missing"),
        (["--prometheus", "http://x", "--query", "q", "--range", "soon"], "--range is 'soon'"),
        (["--prometheus", "http://x", "--query", "q", "--token-file", "/nowhere"], "--token-file /nowhere"),
    ],
)
def test_options_that_miss_their_other_half_are_told(options, words):
    found = CliRunner().invoke(app, ["simulate", "week", *options])
    assert found.exit_code == 2
    assert words in found.output


def test_a_shape_of_no_class_is_told_with_its_line():
    with pytest.raises(ScenarioError, match=r"shapes.chatt is of no class; expected one of chat"):
        load_scenario("week", ["shapes.chatt=[1, 2]"])
