"""Runs come to the same bytes wherever they ran and however often they were interrupted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulate_builders import STUDY, a_request, a_study, an_outcome
from typer.testing import CliRunner

import tidefleet
from tidefleet.cli.main import app
from tidefleet.simulator import run
from tidefleet.simulator.checkpoint import Checkpoint, CheckpointError, Parts, identity_of
from tidefleet.simulator.result import Outcome, median_of
from tidefleet.simulator.run import CannotRun, Request, Task, here, outcome_from, simulate
from tidefleet.simulator.spread import in_processes, interrupts_noted, on_dask

PACKAGE = Path(run.__file__).resolve().parents[2]


def bytes_of(report: run.Report) -> str:
    return json.dumps(report.as_json())


def a_runner(calls: list[tuple[str | None, int]], *, stop_at: int = -1) -> run.Runner:
    """A runner that notes what it is asked, and is interrupted at one call."""

    def runner(scenario: Any, traces: Any, *, seed: int, policy: str | None, **rest: Any) -> Outcome:
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append((policy, seed))
        return an_outcome(seed, usd_total=1.0 / (3.0 * seed) + (0.1 if policy else 0.0))

    return runner


def with_runner(monkeypatch: pytest.MonkeyPatch, runner: run.Runner) -> None:
    monkeypatch.setattr(run, "runner_of", lambda kind: runner)
    monkeypatch.setattr(run, "baselines_of", lambda kind: None)


def test_the_top_level_is_the_median_of_ours_with_seeds_and_baselines_below(monkeypatch: pytest.MonkeyPatch) -> None:
    with_runner(monkeypatch, a_runner([]))
    told = simulate(a_request(seeds=(1, 2, 3), policies=("static",)), spread=here).as_json()
    assert told["utilization"] == 0.92
    assert told["range"]["utilization"] == [0.91, 0.93]
    assert told["range"]["slo_attainment"]["chat"] == [0.995, 0.995]
    assert [one["seed"] for one in told["seeds"]] == [1, 2, 3]
    assert told["baselines"]["static"]["usd_total"] == pytest.approx(0.1 + 1 / 6)
    assert len(told["baselines"]["static"]["seeds"]) == 3
    assert (told["scenario"], told["settings"]["study"]) == ("tiers", "kv-or-prefill")


def test_an_outcome_comes_back_from_its_json_as_it_was() -> None:
    outcome = an_outcome()
    assert outcome_from(json.loads(json.dumps(outcome.as_json()))).as_json() == outcome.as_json()
    with pytest.raises(ValueError, match="an outcome holds colour"):
        outcome_from({"colour": 1})


def test_an_interrupted_run_goes_on_where_it_was_to_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    request = a_request(seeds=(1, 2, 3), policies=("static",))
    with_runner(monkeypatch, a_runner([]))
    whole = bytes_of(simulate(request, spread=here))
    calls: list[tuple[str | None, int]] = []
    with_runner(monkeypatch, a_runner(calls, stop_at=4))
    with pytest.raises(KeyboardInterrupt):
        simulate(request, spread=here, resume=tmp_path / "run")
    after: list[tuple[str | None, int]] = []
    with_runner(monkeypatch, a_runner(after))
    assert bytes_of(simulate(request, spread=here, resume=tmp_path / "run")) == whole
    assert calls + after == [(one.policy, one.seed) for one in request.tasks]


def test_parts_of_a_task_that_was_interrupted_are_there_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[int] = []

    def runner(scenario: Any, traces: Any, *, parts: Parts, **rest: Any) -> Outcome:
        total = 0.0
        for index in range(4):
            value = parts.get(f"window-{index}")
            if value is None:
                if len(made) == 2:
                    made.append(-1)
                    raise KeyboardInterrupt
                made.append(index)
                value = parts.put(f"window-{index}", {"requests": (index + 1) / 7})
            total += value["requests"]
        return Outcome(requests=total)

    with_runner(monkeypatch, runner)
    checkpoint = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        simulate(a_request(), spread=here, resume=checkpoint)
    report = simulate(a_request(), spread=here, resume=checkpoint)
    assert made == [0, 1, -1, 2, 3]
    assert report.median.requests == pytest.approx(10 / 7)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_damaged_parts_are_made_again(tmp_path: Path) -> None:
    Parts.open(tmp_path, "ours/1").put("window-0", 1)
    assert Parts.open(tmp_path, "ours/1").get("window-0") == 1
    assert Parts.open(tmp_path, "ours/2").get("window-0") is None
    path = next(tmp_path.iterdir())
    path.write_text(path.read_text()[:-3])
    assert Parts.open(tmp_path, "ours/1").get("window-0") is None


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Request(a_study(), None, (7,)), "seeds there is 1, asked is 7"),
        (Request(a_study(), None, (1,), ("static",)), "--compare there is none, asked is static"),
        (Request(a_study(name="others"), None, (1,)), "scenario there is tiers, asked is others"),
        (Request(a_study(settings={"newTokens": 64.0}), None, (1,)), "digest of the scenario's settings there is"),
        (Request(a_study(), Path(__file__).parent, (1,)), "digest of the traces"),
        (Request(a_study(), None, (1,), (), True), "--full there is False, asked is True"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: Request, words: str
) -> None:
    with_runner(monkeypatch, a_runner([]))
    path = tmp_path / "run"
    Checkpoint.open(path, identity_of(a_request()))
    with pytest.raises(CheckpointError, match=f"--resume .*run: .*{words}"):
        simulate(other, spread=here, resume=path)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    identity = identity_of(a_request())
    Checkpoint(path, {**identity, "tidefleet": "0.0.1"}, {}).write()
    with pytest.raises(CheckpointError, match=r"version of tidefleet there is 0\.0\.1"):
        Checkpoint.open(path, identity)
    path.write_text(path.read_text().replace('"version": 1', '"version": 9', 1))
    with pytest.raises(CheckpointError, match="has format 9; this version of tidefleet reads 1"):
        Checkpoint.open(path, identity)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[: len(data) // 2], "is damaged"),
        (lambda data: data[:-1], "is damaged"),
        (lambda data: data.replace(b"utilization", b"utilizatiom", 1), "is damaged"),
        (lambda data: b"", "is no checkpoint"),
        (lambda data: b"\x00\xff\xfe" * 100, "is no checkpoint"),
        (lambda data: b"[" * 100_000, "is no checkpoint"),
        (lambda data: b"{}\n{}\n", "is no checkpoint"),
        (lambda data: b'name: "x"', "is no checkpoint"),
    ],
)
def test_a_spoilt_checkpoint_is_a_clear_error(tmp_path: Path, spoil: Any, words: str) -> None:
    path = tmp_path / "run"
    identity = identity_of(a_request())
    Checkpoint.open(path, identity).keep("ours/1", an_outcome().as_json())
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(CheckpointError, match=words):
        Checkpoint.open(path, identity)


def test_an_outcome_that_is_none_in_a_whole_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "run"
    Checkpoint.open(path, identity_of(a_request())).keep("ours/1", {"colour": 1})
    with pytest.raises(CannotRun, match="ours/1: an outcome holds colour"):
        simulate(a_request(), spread=here, resume=path)


def test_a_checkpoint_where_nothing_can_be_written_is_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[tuple[str | None, int]] = []
    with_runner(monkeypatch, a_runner(calls))
    with pytest.raises(CheckpointError, match="cannot be written: No such file or directory"):
        simulate(a_request(), spread=here, resume=tmp_path / "absent" / "run")
    assert not calls


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def runner(scenario: Any, traces: Any, **rest: Any) -> Outcome:
        raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow.parquet")

    with_runner(monkeypatch, runner)
    with pytest.raises(CannotRun, match=r"pyarrow is not installed; .*pip install 'tidefleet\[simulate\]'"):
        simulate(a_request(), spread=here)


def test_a_baseline_of_a_study_is_refused() -> None:
    with pytest.raises(CannotRun, match="--compare static: is no baseline of a scenario of kind study; expected none"):
        simulate(a_request(policies=("static",)), spread=here)


def test_processes_come_to_the_same_bytes_as_one(tmp_path: Path) -> None:
    request = a_request(seeds=(1, 2, 3))
    shares: list[float] = []
    spread = in_processes(2)
    found = simulate(request, spread=spread, progress=lambda share, words: shares.append(share), resume=tmp_path / "r")
    assert bytes_of(found) == bytes_of(simulate(request, spread=here))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def command(tmp_path: Path, *more: str) -> list[str]:
    scenario = tmp_path / "mine.yaml"
    if not scenario.exists():
        scenario.write_text(STUDY)
    return [sys.executable, "-m", "tidefleet", "simulate", str(scenario), "-o", "json", "--quiet", *more]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PACKAGE)}


def test_a_killed_command_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run"
    asked = command(tmp_path, "--seeds", "16", "--resume", str(checkpoint))
    process = subprocess.Popen(asked, env=environment(), cwd=tmp_path, stdout=subprocess.DEVNULL)

    def done() -> int:
        text = checkpoint.read_text() if checkpoint.exists() else ""
        return text.count('"figures"')

    deadline = time.monotonic() + 120
    while done() < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert 2 <= done() < 16
    resumed = subprocess.run(asked, env=environment(), cwd=tmp_path, capture_output=True, check=True)
    whole = CliRunner().invoke(app, command(tmp_path, "--seeds", "16")[3:])
    assert resumed.stdout.decode() == whole.stdout
    assert json.loads(whole.stdout)["seeds"][15]["seed"] == 16


def test_ctrl_c_ends_processes_with_one_line_that_says_how_to_go_on(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run"
    asked = command(tmp_path, "--seeds", "1000", "--jobs", "2", "--resume", str(checkpoint))
    process = subprocess.Popen(
        asked, env=environment(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if checkpoint.exists() and '"figures"' in checkpoint.read_text():
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    output, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert not output
    assert told.decode().strip() == f"tidefleet: stopped; what is done is in {checkpoint}; the same command goes on"


def test_ctrl_c_is_raised_where_it_is_asked_for() -> None:
    """Raised within a wait for the processes it left their futures locked now and then, and the command hung."""
    waited = False
    with interrupts_noted() as heed:
        heed()
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(20):
            time.sleep(0.005)
        waited = True
        with pytest.raises(KeyboardInterrupt):
            heed()
    assert waited
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- Dask ------------------------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _start(*words: str, cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]],
        cwd=cwd,
        env={**environment(), "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "1h"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def workers() -> list[subprocess.Popen[bytes]]:
    """The processes of the cluster's two workers, once it is there."""
    return []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, workers: list[subprocess.Popen[bytes]]) -> Iterator[str]:
    """A scheduler and two workers as processes; its address."""
    pytest.importorskip("distributed")
    where = tmp_path_factory.mktemp("dask")
    address = f"tcp://127.0.0.1:{_free_port()}"
    port = address.rpartition(":")[2]
    started = [_start("dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard", cwd=where)]
    options = (
        "--nthreads",
        "1",
        "--no-nanny",
        "--no-dashboard",
        "--host",
        "127.0.0.1",
        "--local-directory",
        str(where),
    )
    started += [_start("dask_worker", address, *options, cwd=where) for _ in range(2)]
    workers += started[1:]
    try:
        from distributed import Client

        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=90)
        yield address
    finally:
        for one in reversed(started):
            one.kill()
            one.wait()


def test_a_dask_cluster_of_two_workers_comes_to_the_same_bytes(cluster: str, tmp_path: Path) -> None:
    request = a_request(seeds=(1, 2, 3, 4))
    found = simulate(request, spread=on_dask(cluster), resume=tmp_path / "run")
    assert bytes_of(found) == bytes_of(simulate(request, spread=here))


def test_what_a_worker_that_goes_away_had_is_done_by_the_other(
    cluster: str, workers: list[subprocess.Popen[bytes]]
) -> None:
    request = a_request(seeds=tuple(range(1, 13)))

    def lose_one(share: float, words: str) -> None:
        if all(one.poll() is None for one in workers):
            workers[0].kill()

    found = simulate(request, spread=on_dask(cluster), progress=lose_one)
    assert workers[0].wait(10) == -signal.SIGKILL
    assert bytes_of(found) == bytes_of(simulate(request, spread=here))


def test_what_fails_on_a_worker_is_told_as_it_is_here(cluster: str) -> None:
    request = Request(a_study(settings={"newTokens": 1.0, "colour": 2.0}), None, (1,))
    with pytest.raises(CannotRun, match=r"ours, seed 1: scenario tiers: settings\.colour is no setting"):
        simulate(request, spread=on_dask(cluster))


def test_traces_that_a_worker_does_not_have_are_told(cluster: str, tmp_path: Path) -> None:
    request = Request(a_study(), tmp_path / "absent", (1,))
    with pytest.raises(CannotRun, match="the worker has no directory"):
        simulate(request, spread=on_dask(cluster))


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("tidefleet.simulator.spread.DASK_SECONDS", 0.5)
    with pytest.raises(CannotRun, match=r"--dask tcp://127\.0\.0\.1:\d+: no scheduler answers"):
        simulate(a_request(), spread=on_dask(f"tcp://127.0.0.1:{_free_port()}"))
    with pytest.raises(CannotRun, match=r"no scheduler answers: .*expected an address such as tcp://"):
        simulate(a_request(), spread=on_dask("nonsense://x"))


def test_medians_are_of_each_number_and_words_of_the_first() -> None:
    middle = median_of([an_outcome(seed) for seed in (1, 2, 3)])
    assert middle.figures["things_seconds"] == 6.0
    assert middle.words == an_outcome().words
    assert Task(None, 3).key == "ours/3"


def test_a_second_run_on_the_same_checkpoint_is_refused_while_the_first_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-c", _HOLDS_IT, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(tidefleet.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "has it\n"
        with_runner(monkeypatch, a_runner([]))
        with pytest.raises(
            CheckpointError, match=rf"run: process {first.pid} on .* is writing to it now; expected one"
        ):
            simulate(a_request(), spread=here, resume=path)
        first.kill()
    assert simulate(a_request(), spread=here, resume=path).median.as_json()  # who is dead holds nothing
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


_HOLDS_IT = """
import pathlib, sys, time
from tidefleet.simulator.checkpoint import alone
with alone(pathlib.Path(sys.argv[1])):
    print("has it", flush=True)
    time.sleep(600)
"""


def test_traces_that_changed_since_are_told_though_their_sizes_are_the_same(tmp_path: Path) -> None:
    traces, own = tmp_path / "traces", tmp_path / "mine.csv"
    traces.mkdir()
    (traces / "a.csv").write_text("t,x\n0,1\n")
    own.write_text("time,input,output\n0,1,1\n")
    classes = [{"name": "mine", "source": str(own), "share": 1.0}]
    request = Request(a_study(kind="replay", study=None, classes=classes), traces, (1,))
    first = identity_of(request)
    assert identity_of(request) == first
    (traces / "a.csv").write_text("t,x\n0,2\n")
    second = identity_of(request)
    own.write_text("time,input,output\n0,2,1\n")
    third = identity_of(request)
    assert len({one["traces"] for one in (first, second, third)}) == 3
