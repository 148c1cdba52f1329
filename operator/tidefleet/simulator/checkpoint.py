"""Checkpoints: what is done of a simulation, in a file that is whole or absent and that names what it is of."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidefleet import __version__
from tidefleet.simulator.scenario import is_own_file

if TYPE_CHECKING:
    from tidefleet.simulator.run import Request

FORMAT = "tidefleet-simulation"
FORMAT_VERSION = 1
MOST_BYTES = 1 << 30


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from; the message says what it is of and what was asked."""


def identity_of(request: Request) -> dict[str, Any]:
    """What a checkpoint is of; two requests with the same identity come to the same bytes."""
    scenario = request.scenario
    text = scenario.model_dump_json(by_alias=True)
    return {
        "tidefleet": __version__,
        "scenario": scenario.name,
        "settings": hashlib.sha256(text.encode()).hexdigest()[:16],
        "traces": _fingerprint(request),
        "seeds": list(request.seeds),
        "baselines": list(request.policies),
        "full": request.full,
    }


_WORDS = {
    "tidefleet": "version of tidefleet",
    "scenario": "scenario",
    "settings": "digest of the scenario's settings",
    "traces": "digest of the traces (names and contents)",
    "seeds": "seeds",
    "baselines": "--compare",
    "full": "--full",
}


def _fingerprint(request: Request) -> str:
    """Names and contents of the files of the directory of traces, and of the user's own files of requests."""
    files = sorted(one for one in request.traces.iterdir() if one.is_file()) if request.traces is not None else []
    own = sorted({one.source for one in request.scenario.classes if is_own_file(one.source)})
    found = []
    for path in (*files, *(Path(one) for one in own if Path(one).is_file())):
        with path.open("rb") as file:
            found.append((path.name, hashlib.file_digest(file, "sha256").hexdigest()))
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16] if found else "none"


class Checkpoint:
    """The outcomes of tasks that are done, by key."""

    def __init__(self, path: Path, identity: Mapping[str, Any], outcomes: dict[str, dict[str, Any]]) -> None:
        self.path = path
        self.identity = dict(identity)
        self.outcomes = outcomes

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any]) -> Checkpoint:
        """The checkpoint at this path; an empty one where there is none yet.

        Raises:
            CheckpointError: it is damaged, no checkpoint, or of something else.
        """
        found = _read(path, f"--resume {path}")
        if found is None:
            fresh = cls(path, identity, {})
            fresh.write()
            return fresh
        _refuse_another(found.get("of"), identity, path)
        outcomes = found.get("outcomes")
        if not isinstance(outcomes, dict) or not all(isinstance(one, dict) for one in outcomes.values()):
            raise CheckpointError(f"--resume {path}: holds no outcomes; remove the file to begin anew")
        return cls(path, identity, outcomes)

    @property
    def parts_directory(self) -> Path:
        """Where tasks that are not done keep their parts."""
        return self.path.with_name(self.path.name + ".parts")

    def keep(self, key: str, outcome: dict[str, Any]) -> None:
        """Add what a task came to, and write."""
        self.outcomes[key] = outcome
        self.write()

    def write(self) -> None:
        """Write everything; whoever reads sees the old file or the new one."""
        _write(self.path, {"of": self.identity, "outcomes": self.outcomes}, f"--resume {self.path}")


class Parts:
    """What is done of one task, by name: values of JSON, each written when it is put.

    Without a directory nothing outlives the process.
    """

    def __init__(self, path: Path | None = None, key: str = "", values: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.key = key
        self._values = dict(values or {})

    @classmethod
    def open(cls, directory: Path | None, key: str) -> Parts:
        """The parts of a task. Those that are damaged are left out: they are made again."""
        if directory is None:
            return cls()
        path = directory / (re.sub(r"[^a-z0-9-]+", "_", key.lower()) + ".json")
        try:
            found = _read(path, str(path)) or {}
        except CheckpointError:
            found = {}
        values = found.get("parts")
        return cls(path, key, values if isinstance(values, dict) and found.get("of") == key else None)

    def get(self, name: str) -> Any:
        """A part that is done; ``None`` where it is not."""
        return self._values.get(name)

    def put(self, name: str, value: Any) -> Any:
        """Keep a part; the value as it comes back from the file, so that a resumed run sees the same."""
        value = json.loads(json.dumps(value))
        self._values[name] = value
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write(self.path, {"of": self.key, "parts": self._values}, str(self.path))
        return value

    def remove(self) -> None:
        """The task is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()


@contextlib.contextmanager
def alone(checkpoint: Path) -> Iterator[None]:
    """Keeps others from writing to a checkpoint; a process that ends, however it does, no longer does.

    Raises:
        CheckpointError: another process has it.
    """
    path = checkpoint.with_name(f".{checkpoint.name}.lock")
    while True:
        try:
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise _unwritable(f"--resume {checkpoint}", error) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            whose = file.read(80).strip() or "another process"
            file.close()
            raise CheckpointError(
                f"--resume {checkpoint}: {whose} is writing to it now; expected one run at a time. Wait for that "
                "one, or name another file"
            ) from None
        if _is_at(path, file.fileno()):
            break
        file.close()  # whoever had it has taken it away in between
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node() or 'this host'}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether a file that is open is the one at this path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _unwritable(where: str, error: OSError) -> CheckpointError:
    return CheckpointError(f"{where}: cannot be written: {error.strerror}; expected a file in a directory that exists")


def _refuse_another(of: Any, identity: Mapping[str, Any], path: Path) -> None:
    if not isinstance(of, dict):
        raise CheckpointError(f"--resume {path}: does not say what it is of; remove the file to begin anew")
    for name, words in _WORDS.items():
        if of.get(name) != identity[name]:
            raise CheckpointError(
                f"--resume {path}: {words} there is {_shown(of.get(name))}, asked is {_shown(identity[name])}; "
                "expected the same. Call it as before, or name another file"
            )


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(one)[:40] for one in value[:20]) or "none"
    return str(value)[:80]


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _write(path: Path, body: Mapping[str, Any], where: str) -> None:
    """A line that says what follows and its digest, then the body, put in place in one step."""
    text = json.dumps(body, separators=(",", ":"))
    head = json.dumps({"format": FORMAT, "version": FORMAT_VERSION, "sha256": _digest(text)})
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(f"{head}\n{text}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise _unwritable(where, error) from None


def _read(path: Path, where: str) -> dict[str, Any] | None:
    """The body of a file; ``None`` where there is no file.

    Raises:
        CheckpointError: it is not whole or not of this format.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(f"{where}: is larger than {MOST_BYTES >> 20} MiB; expected a checkpoint")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise CheckpointError(f"{where}: is no checkpoint of tidefleet simulate; name another file") from None
    except OSError as error:
        raise CheckpointError(f"{where}: cannot be read: {error.strerror}; expected a file") from None
    first, _, rest = text.partition("\n")
    try:
        head = json.loads(first)
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise CheckpointError(f"{where}: is no checkpoint of tidefleet simulate; name another file")
    if head.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: has format {str(head.get('version'))[:20]}; this version of tidefleet reads {FORMAT_VERSION}. "
            "Remove the file to begin anew"
        )
    body = rest.removesuffix("\n")
    if not rest.endswith("\n") or _digest(body) != head.get("sha256"):
        raise CheckpointError(f"{where}: is damaged (cut short or changed); remove the file to begin anew")
    value = json.loads(body)
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: holds no outcomes; remove the file to begin anew")
    return value
