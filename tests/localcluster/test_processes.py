"""Processes bound to this one, without a control plane."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localcluster import processes
from localcluster.errors import LocalClusterError


@pytest.fixture
def running(tmp_path: Path) -> Iterator[processes.Processes]:
    directory = tmp_path / "cluster"
    directory.mkdir()
    owner = processes.Processes(directory)
    yield owner
    owner.close()


def eventually(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_closed_owner_leaves_no_process_and_no_directory(running: processes.Processes) -> None:
    pids = [running.start(name, ["sleep", "600"]) for name in ("a", "b")]
    running.close()
    assert not any(is_alive(pid) for pid in pids)
    assert not running.directory.exists()


def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(running: processes.Processes) -> None:
    stubborn = "trap '' TERM; echo ready; while true; do sleep 1; done"
    pid = running.start("stubborn", ["sh", "-c", stubborn], grace_seconds=0.2)
    eventually(lambda: "ready" in running.log_tail("stubborn"))
    running.end("stubborn")
    assert not is_alive(pid)


def test_a_paused_process_can_be_ended(running: processes.Processes) -> None:
    pid = running.start("paused", ["sleep", "600"])
    running.send("paused", signal.SIGSTOP)
    running.end("paused")
    assert not is_alive(pid)


def test_exit_codes_and_the_log_are_kept(running: processes.Processes) -> None:
    running.start("short", ["sh", "-c", "echo said; exit 3"])
    eventually(lambda: running.exit_codes()["short"] is not None)
    assert running.exit_codes() == {"short": 3}
    assert running.log_tail("short") == "said"


def test_a_program_that_does_not_exist_is_an_error_by_name(running: processes.Processes) -> None:
    with pytest.raises(LocalClusterError, match="nowhere: FileNotFoundError"):
        running.start("nowhere", ["/nonexistent/program"])


def test_a_name_in_use_is_refused(running: processes.Processes) -> None:
    running.start("one", ["sleep", "600"])
    with pytest.raises(LocalClusterError, match="one runs already"):
        running.start("one", ["sleep", "600"])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_whatever_ends_the_owner_nothing_remains(how: signal.Signals, tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    directory.mkdir()
    program = textwrap.dedent(
        f"""
        import pathlib, signal, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
        from localcluster.processes import Processes
        owner = Processes(pathlib.Path({str(directory)!r}))
        print(owner.start("sleeper", ["sleep", "600"]), flush=True)
        time.sleep(600)
        """
    )
    search = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": search},
        text=True,
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert is_alive(pid)
        owner.send_signal(how)
        owner.wait(60)
    eventually(lambda: not is_alive(pid) and not directory.exists())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
def test_when_the_supervisor_is_killed_its_processes_die_with_it(running: processes.Processes) -> None:
    pid = running.start("sleeper", ["sleep", "600"])
    parent = subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(parent), signal.SIGKILL)
    eventually(lambda: not is_alive(pid))
    with pytest.raises(LocalClusterError, match=r"the supervisor of .* has ended"):
        running.exit_codes()
