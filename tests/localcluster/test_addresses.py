"""Ranges of loopback addresses: one holder each, for as long as anything of it lives."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localcluster import addresses
from localcluster.addresses import PodRange
from localcluster.errors import LocalClusterError
from localcluster.processes import Processes

HOLDER = """
import sys, time
from localcluster.addresses import PodRange
own = PodRange.claim(*sys.argv[1:])
print(own.cidr, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _machine_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nobody holds anything yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@contextlib.contextmanager
def another_process(*cidr: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that claims a range, and the range it got."""
    search = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, *cidr],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search},
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def eventually(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.02)


def is_free(cidr: str) -> bool:
    try:
        PodRange.claim(cidr).release()
    except LocalClusterError:
        return False
    return True


def test_two_sessions_on_one_machine_have_different_addresses() -> None:
    with PodRange.claim() as here, another_process() as (_, there), PodRange.claim() as again:
        assert [here.cidr, there, again.cidr] == ["127.1.0.1/16", "127.2.0.1/16", "127.3.0.1/16"]


def test_a_range_that_another_process_has_is_refused_and_named() -> None:
    with (
        another_process("127.9.0.1/16") as (process, _),
        pytest.raises(LocalClusterError, match=rf"127\.9 is in use by process {process.pid}; expected .*127\.10\.0\.1"),
    ):
        PodRange.claim("127.9.4.1/24")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_range_is_free_again_when_its_process_is_gone_however_it_ended(how: signal.Signals) -> None:
    with another_process() as (process, cidr):
        assert not is_free(cidr)
        process.send_signal(how)
        process.wait(30)
        assert is_free(cidr)


def test_a_range_is_held_until_the_last_server_that_uses_it_has_ended(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    directory.mkdir()
    own = PodRange.claim()
    processes = Processes(directory, hold=own.fds)
    processes.start("server", ["sleep", "600"], server=True)
    own.release()
    assert not is_free(own.cidr)
    processes.close()
    assert is_free(own.cidr)


def test_servers_do_not_hold_it_beyond_the_supervisor(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    directory.mkdir()
    own = PodRange.claim()
    processes = Processes(directory, hold=own.fds)
    own.release()
    processes.start("lister", ["sh", "-c", "ls -l /proc/self/fd | grep -c pod-ranges; true"])
    eventually(lambda: processes.exit_codes()["lister"] is not None)
    assert processes.log_tail("lister") == "0"
    processes.close()


def test_a_wider_range_takes_every_network_in_it() -> None:
    with PodRange.claim("127.4.0.1/15"):
        assert not is_free("127.5.0.1/16")
        assert is_free("127.6.0.1/16")
    assert is_free("127.5.0.1/16")


def test_addresses_of_other_machines_are_nobodys() -> None:
    with PodRange.claim("10.1.0.1/16"), PodRange.claim("10.1.0.1/16") as again:
        assert again.cidr == "10.1.0.1/16"


def test_what_is_no_range_is_refused() -> None:
    with pytest.raises(LocalClusterError, match=r"'all of them'.*expected e\.g\. 127\.1\.0\.1/16"):
        PodRange.claim("all of them")


def test_when_every_range_is_taken_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "LAST", 2)
    with PodRange.claim(), PodRange.claim(), pytest.raises(LocalClusterError, match=r"all of 127\.1 to 127\.2 is in"):
        PodRange.claim()
