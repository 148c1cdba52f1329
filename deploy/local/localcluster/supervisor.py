"""The process that owns every server of one cluster and outlives none of them.

Run by path (`python supervisor.py DIRECTORY`), standard library only, so that it starts in tens of milliseconds.
It takes one JSON command a line on stdin and answers one JSON line on stdout. When stdin ends, whatever became of
the process at the other end (an exception, Ctrl-C, SIGKILL), it ends its processes and removes DIRECTORY. On Linux
its processes also die with it: it has a single thread, so the parent-death signal cannot fire early.
"""

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


class _Child:
    """One process: servers are ended last, in parallel; everything else first, the newest first."""

    def __init__(self, process: subprocess.Popen[bytes], *, grace_seconds: float, server: bool) -> None:
        self.process = process
        self.grace_seconds = grace_seconds
        self.server = server

    def send(self, number: int) -> None:
        """Signal the process and what it started (it leads its own process group)."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


class Supervisor:
    """The processes of one cluster, by name."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: dict[str, _Child] = {}
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command; the answer has `error` if it could not be."""
        match command["do"]:
            case "start":
                return {"pid": self._start(command)}
            case "signal":
                self._child(command["name"]).send(command["signal"])
                return {}
            case "end":
                child = self._children.pop(command["name"], None)
                if child is not None:
                    _end([child])
                return {}
            case "status":
                return {"exit": {name: child.process.poll() for name, child in self._children.items()}}
            case other:
                return {"error": f"unknown command {other!r}"}

    def close(self, *, keep: bool) -> None:
        """End every process, then remove the directory."""
        _end([child for child in reversed(self._children.values()) if not child.server])
        _end([child for child in self._children.values() if child.server])
        if not keep:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _child(self, name: str) -> _Child:
        return self._children[name]

    def _start(self, command: dict[str, Any]) -> int:
        name = command["name"]
        old = self._children.get(name)
        if old is not None and old.process.poll() is None:
            raise RuntimeError(f"{name} runs already as process {old.process.pid}")
        with Path(command["log"]).open("ab") as log:
            process = subprocess.Popen(
                command["argv"],
                cwd=command.get("cwd"),
                env=command.get("env"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=self._die_with_supervisor if self._libc is not None else None,  # noqa: PLW1509 - one thread
            )
        self._children[name] = _Child(process, grace_seconds=command["grace_seconds"], server=command["server"])
        return process.pid

    def _die_with_supervisor(self) -> None:
        assert self._libc is not None  # noqa: S101 - for the type checker
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(children: list[_Child]) -> None:
    """SIGTERM all, then SIGKILL whichever outlasts its grace; a stopped process is continued first."""
    begun = time.monotonic()
    for child in children:
        child.send(signal.SIGTERM)
        child.send(signal.SIGCONT)
    for child in children:
        try:
            child.process.wait(max(0.0, begun + child.grace_seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.send(signal.SIGKILL)
            child.process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, signal.SIGKILL)  # what it left behind in its group


class _Stop(Exception):
    """Raised by a termination signal."""


def _stop(_number: int, _frame: object) -> None:
    raise _Stop


def main() -> None:
    """Serve commands until stdin ends, the parent is gone, a termination signal or the command "close"."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    supervisor = Supervisor(Path(sys.argv[1]))
    keep = False
    pending = b""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
            while os.getppid() == parent:
                if not selector.select(_POLL_SECONDS):
                    supervisor.answer({"do": "status"})  # reaps what has ended
                    continue
                received = os.read(sys.stdin.fileno(), 1 << 16)
                if not received:
                    break
                *lines, pending = (pending + received).split(b"\n")
                for line in lines:
                    command = json.loads(line)
                    if command["do"] == "close":
                        keep = command["keep"]
                        raise _Stop
                    try:
                        answer = supervisor.answer(command)
                    except Exception as error:
                        answer = {"error": f"{type(error).__name__}: {error}"}
                    sys.stdout.write(json.dumps(answer) + "\n")
                    sys.stdout.flush()
    except (_Stop, BrokenPipeError):
        pass
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        supervisor.close(keep=keep)


if __name__ == "__main__":
    main()
