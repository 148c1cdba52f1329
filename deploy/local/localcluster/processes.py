"""The near end of the supervisor: start, signal and end processes by name, and read their logs."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from localcluster import supervisor
from localcluster.errors import LocalClusterError

_CLOSE_SECONDS = 60.0


class Processes:
    """Processes that cannot outlive this one, with a directory that is removed with them.

    Commands are answered in order; any thread may give one.
    """

    def __init__(self, directory: Path, *, hold: Sequence[int] = ()) -> None:
        """Start the supervisor; `directory` exists and belongs to it from here on.

        The file descriptors to `hold` stay open in it until every process has ended, so that locks on them do too.
        """
        self.directory = directory
        self._logs = directory / "logs"
        self._logs.mkdir(exist_ok=True)
        self._temporary = directory / "tmp"
        self._temporary.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(supervisor.__file__)), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            pass_fds=tuple(hold),
            text=True,
        )

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace_seconds: float = 5.0,
        server: bool = False,
    ) -> int:
        """Start a process and return its id; its output goes to the log of that name.

        Args:
            name: What later commands call it; a name may be used again once its process has ended.
            argv: Program and arguments.
            env: Its whole environment; this process's own if not given. Its temporary files lie in the directory, so
                that those of a process that was killed go too.
            cwd: Its working directory.
            grace_seconds: How long it may take to end after SIGTERM.
            server: Whether it is a part of the cluster, ended after all others.
        """
        answer = self._ask(
            do="start",
            name=name,
            argv=[str(part) for part in argv],
            env={**(os.environ if env is None else env), "TMPDIR": str(self._temporary)},
            cwd=None if cwd is None else str(cwd),
            log=str(self.log_path(name)),
            grace_seconds=grace_seconds,
            server=server,
        )
        return int(answer["pid"])

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the process group of `name`; nothing happens if it has ended."""
        self._ask(do="signal", name=name, signal=int(number))

    def end(self, name: str) -> None:
        """SIGTERM, then SIGKILL after its grace; returns when it is gone."""
        self._ask(do="end", name=name)

    def exit_codes(self) -> dict[str, int | None]:
        """The exit code of every process by name, None while it runs; negative for a signal."""
        codes: dict[str, int | None] = self._ask(do="status")["exit"]
        return codes

    def log_path(self, name: str) -> Path:
        """Where the output of that process goes."""
        return self._logs / f"{name}.log"

    def log_tail(self, name: str, *, lines: int = 20) -> str:
        """The last lines of its output, or a word that there is none."""
        try:
            text = self.log_path(name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:]) or "(empty log)"

    def close(self, *, keep: bool = False) -> None:
        """End every process and remove the directory; safe to call again."""
        process = self._supervisor
        assert process.stdin is not None  # noqa: S101 - PIPE was asked for
        assert process.stdout is not None  # noqa: S101
        try:
            if process.poll() is None:
                process.stdin.write(json.dumps({"do": "close", "keep": keep}) + "\n")
                process.stdin.flush()
        except BrokenPipeError:
            pass
        finally:
            # The end of its stdin alone makes it clean up, so an interrupt while we wait leaves nothing behind.
            try:
                process.stdin.close()
            except BrokenPipeError:
                pass
            finally:
                process.wait(_CLOSE_SECONDS)
                process.stdout.close()

    def _ask(self, **command: Any) -> dict[str, Any]:
        process = self._supervisor
        assert process.stdin is not None  # noqa: S101 - PIPE was asked for
        assert process.stdout is not None  # noqa: S101
        with self._lock:
            try:
                process.stdin.write(json.dumps(command) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except (BrokenPipeError, ValueError):
                line = ""
        if not line:
            raise LocalClusterError(f"the supervisor of {self.directory} has ended; nothing runs there any more")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LocalClusterError(f"{command.get('name', command['do'])}: {answer['error']}")
        return answer
