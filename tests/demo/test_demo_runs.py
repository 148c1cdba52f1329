"""The demo as a user starts it: a short day from start to end, and signals at bad moments, which leave nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from demo import __main__ as command
from demo.show import Show
from demo.stage import Stage
from localcluster import LocalClusterError
from localcluster.api import ApiClient
from localcluster.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]


class Demo:
    """A demo in a process of its own, whose temporary files have a directory of their own."""

    def __init__(self, directory: Path, *arguments: str, keep: str = "") -> None:
        self.directory = directory
        self.log = directory / "output.txt"
        self.temporary = directory / "temporary"
        self.temporary.mkdir()
        path = os.pathsep.join(str(ROOT / one) for one in ("operator", "deploy/local"))
        environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(self.temporary)}
        environment["DEMO_KEEP"] = keep
        argv = [sys.executable, "-u", "-m", "demo", "--no-live", "--html", str(directory / "day.html"), *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment, cwd=ROOT)

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str, seconds: float = 90.0) -> None:
        until = time.monotonic() + seconds
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < until, self.output
            time.sleep(0.02)

    def left(self) -> list[str]:
        """Temporary files and processes that are still there."""
        files = [str(one) for one in self.temporary.iterdir()]
        if not sys.platform.startswith("linux"):
            return files
        return files + [line for line in _command_lines() if str(self.temporary) in line]


def _command_lines() -> Iterator[str]:
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield each.read_text(errors="replace").replace("\0", " ")
        except OSError:
            continue


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[list[Demo]]:
    """A list to put demos into; what still runs at the end is ended."""
    started: list[Demo] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
            one.process.wait(60)


@pytest.mark.cluster
@pytest.mark.needs_local_pods
@pytest.mark.timeout(360)
@pytest.mark.long
def test_a_short_day_runs_from_start_to_end_and_is_kept_until_it_is_interrupted(
    tmp_path: Path, demo: list[Demo]
) -> None:
    figures = tmp_path / "day.json"
    pictures = ("--json", str(figures), "--svg", str(tmp_path / "day.svg"))
    demo.append(Demo(tmp_path, "--seconds", "64", *pictures, keep="1"))
    demo[0].wait_for("Everything stays up until Ctrl-C", 300.0)
    _is_up(demo[0])
    demo[0].process.send_signal(signal.SIGINT)
    assert demo[0].process.wait(60) == 130, demo[0].output
    assert demo[0].left() == []
    day = json.loads(figures.read_text())
    assert [one["pool"] for one in day["pools"]] == ["chat", "code", "reasoning"]
    for pool in day["pools"]:
        assert pool["was_ready"], pool
        assert pool["tokens"] > 0, pool
        assert pool["dollars"] > 0, pool
        assert pool["replicas"][1] > 0, pool
        assert pool["static_dollars"] > 0, pool
        assert pool["streams_served"] > 0, pool
    night = day["night"]
    assert night["queue"] == "the Kueue controller" or "without Kueue: " in night["queue"]
    assert night["flips"].get("training done", 0) >= 1, night
    assert night["trained_gpu_hours"] > 0, night
    assert night["failed_requests"] == 0, night
    needed = night["needed_serving_seconds"] + night["needed_training_seconds"]
    assert needed + sum(night["lost_seconds"].values()) == pytest.approx(night["paid_chip_seconds"])
    assert 0.0 < night["needed_ratio_without_loans"] < night["needed_ratio"] <= 1.0
    assert "Nodes that train at night" in (tmp_path / "day.html").read_text()
    assert "http" not in (tmp_path / "day.html").read_text().replace("http://www.w3.org/2000/svg", "")
    assert (tmp_path / "day.svg").stat().st_size < 150_000


def _is_up(demo: Demo) -> None:
    """Assert that pools and pages of a demo that is kept answer, and that it goes on."""
    path = Path(next(iter(re.findall(r"export KUBECONFIG=(\S+)", demo.output))))
    with ApiClient.from_kubeconfig(path) as api:
        pools = api.get("/apis/tidefleet.io/v1alpha1/inferencepools")["items"]
    assert {one["metadata"]["name"] for one in pools} == {"chat", "code", "reasoning"}
    for url in re.findall(r"curl (\S+)", demo.output):
        assert httpx.get(url, timeout=20.0, trust_env=False).status_code == 200
    time.sleep(3.0)
    assert demo.process.poll() is None, demo.output
    assert len(demo.left()) > 5


@pytest.mark.cluster
@pytest.mark.needs_local_pods
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, ""), (signal.SIGTERM, "✓ control plane"), (signal.SIGINT, "✓ operators")],
    ids=["while the cluster starts", "while nodes are created", "during the day"],
)
def test_a_signal_at_a_bad_moment_leaves_nothing(
    tmp_path: Path, demo: list[Demo], number: signal.Signals, moment: str
) -> None:
    demo.append(Demo(tmp_path, "--seconds", "100", "--no-kueue"))
    if moment:
        demo[0].wait_for(moment)
    else:
        until = time.monotonic() + 60
        while not list(demo[0].temporary.iterdir()):
            assert time.monotonic() < until, demo[0].output
            time.sleep(0.01)
    demo[0].process.send_signal(number)
    assert demo[0].process.wait(60) == 130, demo[0].output
    assert demo[0].left() == []


@pytest.fixture
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in command.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals")
def test_a_show_that_is_over_ends_the_cluster_and_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(Stage, "find_programs", lambda _self: "")
    monkeypatch.setattr(Show, "run", lambda _self: ended.append("the show"))
    monkeypatch.setattr(ControlPlane, "stop", lambda _self: ended.append("the cluster"))
    assert command.main(["--no-live"]) == 0
    assert ended[:2] == ["the show", "the cluster"]


@pytest.mark.usefixtures("_signals")
def test_a_failed_step_is_named_with_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_self: Stage) -> str:
        raise LocalClusterError("etcd ended with exit code 1; its last lines:\nno space left on device")

    monkeypatch.setattr(Stage, "find_programs", lambda _self: "")
    monkeypatch.setattr(Stage, "start_cluster", fail)
    assert command.main(["--no-live"]) == 1
    told = capsys.readouterr().err
    assert "control plane" in told
    assert "no space left on device" in told


@pytest.mark.usefixtures("_signals")
@pytest.mark.parametrize("arguments", [("--seconds", "5"), ("--start-hour", "24"), ("--seconds", "x")])
def test_an_argument_out_of_range_is_refused_before_anything_starts(arguments: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        command.main(arguments)
    assert refused.value.code == 2
