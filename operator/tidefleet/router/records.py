"""The file of usage records: whole lines, appended by a thread, so that no disk ever makes a request wait.

Records wait in a bounded queue for the thread, which writes them twice a second and has the disk keep them once a
second. What finds the queue full is dropped and counted. A second, tiny file beside the first is mapped into memory and
counts records taken and records settled (written, or told as lost): it outlives a killed process, so the next one knows
how many were in its memory and tells them as lost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tidefleet.router.usage_values import LostRecord, Record

log = logging.getLogger(__name__)

FLUSH_SECONDS, SYNC_SECONDS = 0.5, 1.0
RETRY_SECONDS = 1.0
"""After a failure of the disk."""
AT_ONCE = 500
"""Records that are encoded without letting the event loop run."""
END_SECONDS = 5.0
"""What a disk may take for the last records when the process ends."""
_COUNTS = struct.Struct("<QQ")
_ONE = struct.Struct("<Q")
_TAIL_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class FileSettings:
    """Where usage records go.

    Attributes:
        path: a file, or a folder, in which the file is called after this machine.
        rotate_bytes: a larger file is put aside with the time in its name; keep: how many of these stay, 0 = all.
        most_queued: records that wait for the disk at most.
    """

    path: Path
    rotate_bytes: int = 256 * 2**20
    keep: int = 16
    most_queued: int = 100_000

    def of(self, source: str, worker: int | None) -> FileSettings:
        """With the path of one process's own file."""
        path = self.path / f"{source}.jsonl" if self.path.is_dir() or self.path.suffix == "" else self.path
        if worker is not None:
            path = path.with_name(f"{path.stem}-{worker}{path.suffix}")
        return FileSettings(path, self.rotate_bytes, self.keep, self.most_queued)


class RecordsFile:
    """Takes records on the event loop and writes them in a thread of its own.

    Args:
        source: who writes, as the lost lines tell it.
        wall: Unix seconds.
    """

    def __init__(self, settings: FileSettings, *, source: str, wall: Callable[[], float] = time.time) -> None:
        self._settings, self._source, self._wall = settings, source, wall
        self._queue: deque[Record] = deque()
        self._wake = threading.Event()
        self._ending = False
        self._taken = self._dropped = 0  # the event loop's alone to change; all else is the thread's
        self._before = self._left = self._settled = self._told = 0
        self._counts: mmap.mmap | None = None
        self._fd, self._lock_fd, self._size = -1, -1, 0
        self._pending, self._pending_count = b"", 0
        self._torn: tuple[int, int] | None = None
        self._lost_since = wall()
        self._failed = ""
        self._retry_at = self._synced_at = 0.0
        self._encoder = msgspec.json.Encoder()
        self.written = 0
        self._thread = threading.Thread(target=self._run, name="usage records", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def add(self, record: Record) -> None:
        """Take a record; returns at once."""
        self._taken += 1
        if self._counts is not None and not self._ending:
            _ONE.pack_into(self._counts, 0, self._taken + self._before)
        if len(self._queue) >= self._settings.most_queued:
            self._dropped += 1
        else:
            self._queue.append(record)

    def close(self) -> None:
        """Write what is there, for as long as a disk may take, and end."""
        self._ending = True
        self._wake.set()
        self._thread.join(END_SECONDS)

    @property
    def lost(self) -> int:
        """Records that were dropped, and those that a process before this one had when it was killed."""
        return self._dropped + self._left

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""
        return len(self._queue) + self._pending_count

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ending:
            self._wake.wait(FLUSH_SECONDS)
            self._turn()
        self._retry_at = 0.0
        self._turn()
        self._shut()

    def _turn(self) -> None:
        if time.monotonic() < self._retry_at:
            return
        try:
            if self._fd < 0:
                self._open()
            while self._queue or self._pending:
                self._write_some()
            self._tell_lost()
            if time.monotonic() - self._synced_at >= SYNC_SECONDS or self._ending:
                self._sync()
        except OSError as error:
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._say(f"usage records cannot be written to {self._settings.path}: {error.strerror or error}")
        else:
            self._say("")

    def _say(self, words: str) -> None:
        if words and words != self._failed:
            log.error("%s; they are kept until %d wait, then dropped", words, self._settings.most_queued)
        elif self._failed and not words:
            log.info("usage records are written to %s again", self._settings.path)
        self._failed = words

    def _open(self) -> None:
        path = self._settings.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._lock_fd < 0:
            self._lock(path.with_name(path.name + ".count"))
        self._open_file()

    def _lock(self, beside: Path) -> None:
        """Map the counts, which are this process's alone, and take over what another one left in them."""
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_size < _COUNTS.size:
                os.pwrite(fd, bytes(_COUNTS.size), 0)
            counts = mmap.mmap(fd, _COUNTS.size)
        except BlockingIOError:
            os.close(fd)
            raise OSError(errno.EAGAIN, "another process writes there") from None
        except OSError:
            os.close(fd)
            raise
        taken, settled = _COUNTS.unpack_from(counts)
        if 0 < taken - settled < 2**32:
            self._left = self._before = taken - settled
            self._lost_since = os.fstat(fd).st_mtime
            log.warning("%d usage records were lost when the process before this one was killed", self._left)
        _COUNTS.pack_into(counts, 0, self._taken + self._before, self._settled)
        self._counts, self._lock_fd = counts, fd

    def _open_file(self) -> None:
        fd = os.open(self._settings.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            size, number = os.fstat(fd).st_size, os.fstat(fd).st_ino
            whole = _whole_lines(fd, size)
            if self._torn is not None and self._torn[0] == number:
                whole = min(whole, self._torn[1])
            self._torn = None
            if whole < size:
                log.warning("%s ends in the middle of a line; %d bytes are cut off", self._settings.path, size - whole)
                os.ftruncate(fd, whole)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._size = fd, whole

    def _write_some(self) -> None:
        if not self._pending:
            some = [self._queue.popleft() for _ in range(min(AT_ONCE, len(self._queue)))]
            self._pending, self._pending_count = self._lines(some), len(some)
        self._append(self._pending)
        self.written += self._pending_count
        self._settle(self._pending_count)
        self._pending, self._pending_count = b"", 0
        if self._size >= self._settings.rotate_bytes:
            self._rotate()

    def _lines(self, some: Sequence[Record]) -> bytes:
        return self._encoder.encode_lines(some)

    def _append(self, text: bytes) -> None:
        """Write whole lines, or leave the file as it was.

        Raises:
            OSError: they could not be written.
        """
        at, left = self._size, memoryview(text)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            self._torn = (os.fstat(self._fd).st_ino, at)
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, at)
            self._close_file()  # what could not be cut off now is when it is opened again
            raise
        self._size = at + len(text)

    def _tell_lost(self) -> None:
        count, now = self.lost - self._told, self._wall()
        if count:
            line = LostRecord(start=self._lost_since, end=now, records=count, source=self._source)
            self._append(self._lines([line]))
            self._told += count
            self._settle(count)
        self._lost_since = now

    def _settle(self, count: int) -> None:
        self._settled += count
        if self._counts is not None:
            _ONE.pack_into(self._counts, 8, self._settled)

    def _sync(self) -> None:
        os.fsync(self._fd)
        self._synced_at = time.monotonic()
        try:
            moved = os.stat(self._settings.path).st_ino != os.fstat(self._fd).st_ino
        except FileNotFoundError:
            moved = True
        if moved:  # somebody else rotates
            self._close_file()

    def _rotate(self) -> None:
        path = self._settings.path
        os.fsync(self._fd)
        now = self._wall()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now * 1e6) % 1_000_000:06d}Z"
        path.rename(path.with_name(f"{path.stem}.{stamp}{path.suffix}"))
        self._close_file()
        if self._settings.keep:
            for old in sorted(path.parent.glob(f"{path.stem}.*Z{path.suffix}"))[: -self._settings.keep]:
                old.unlink(missing_ok=True)
        self._open_file()

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _shut(self) -> None:
        self._close_file()
        counts, self._counts = self._counts, None
        if counts is not None:
            counts.close()  # it holds the lock, too
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _whole_lines(fd: int, size: int) -> int:
    """Bytes of a file up to its last line break."""
    end = size
    while end:
        start = max(0, end - _TAIL_BYTES)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
