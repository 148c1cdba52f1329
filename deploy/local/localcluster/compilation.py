"""A program compiled from the Go module pinned in tools/, with progress."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from localcluster.errors import LocalClusterError
from localcluster.toolchain import TOOLS_DIRECTORY, Tool

REPORT_EVERY_SECONDS = 10.0
_LOG_LINES = 20

Report = Callable[[str], None]


def compile_tool(tool: Tool, into: Path, *, report: Report) -> None:
    """Compile `tool` to the file `into`.

    Args:
        tool: The program; its go.mod lies in tools/<module>.
        into: File to write.
        report: Called with one line of progress about every ten seconds.

    Raises:
        LocalClusterError: There is no Go toolchain, or the build failed (with its last lines).
    """
    go = shutil.which("go")
    if go is None:
        raise LocalClusterError(
            f"{tool.name} {tool.version} is neither on PATH nor in the cache, its release cannot be downloaded from "
            "here, and there is no Go toolchain to compile it with: install Go >= 1.26, or put the program on PATH"
        )
    argv = [go, "build", "-v", "-trimpath", "-p", str(min(os.cpu_count() or 2, 8)), "-mod=readonly"]
    argv += ["-tags", tool.tags, "-ldflags", tool.ldflags, "-o", str(into), tool.package]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    started = time.monotonic()
    progress = _Progress()
    with subprocess.Popen(
        argv,
        cwd=TOOLS_DIRECTORY / tool.module,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None  # noqa: S101 - for the type checker; PIPE was asked for
        stderr = process.stderr
        reader = threading.Thread(target=progress.take_all, args=(stderr,), daemon=True)
        reader.start()
        try:
            while True:
                try:
                    code = process.wait(REPORT_EVERY_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    elapsed = time.monotonic() - started
                    report(f"{tool.name}: {progress.phase}, {elapsed:.0f} s of about {tool.build_seconds} s on 2 cores")
        except BaseException:
            process.terminate()
            raise
        reader.join()
    if code != 0:
        tail = "\n".join(progress.last_lines)
        raise LocalClusterError(f"go build of {tool.name} {tool.version} failed with exit code {code}:\n{tail}")


class _Progress:
    """What the lines of `go build -v` say about how far it is."""

    def __init__(self) -> None:
        self.last_lines: list[str] = []
        self._downloads = 0
        self._packages = 0

    def take_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line.startswith("go: downloading"):
                self._downloads += 1
            else:
                self._packages += 1
                self.last_lines = [*self.last_lines[1 - _LOG_LINES :], line.rstrip()]

    @property
    def phase(self) -> str:
        if self._packages == 0:
            return f"downloading modules ({self._downloads} so far)"
        return f"compiling ({self._packages} packages so far)"
