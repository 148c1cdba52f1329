"""The file of usage records: whole lines, bounded memory, losses that are counted, and a process that is killed."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from router_ground import eventually

from tidefleet.router import records
from tidefleet.router.records import FileSettings, RecordsFile
from tidefleet.router.usage_values import RequestRecord


def a_record(number, **more):
    return RequestRecord(
        end=float(number), namespace="prod", pool="chat", workload_class="chat", model="m", accelerator="h100-sxm",
        capacity_type="OnDemand", result="ok", input_tokens=number, **more,
    )  # fmt: skip


def lines(path):
    """What a reader finds while it is written to: a last line that is no whole one does not count."""
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


def numbers(*paths):
    return [one["input_tokens"] for path in paths for one in lines(path) if one["type"] == "request"]


def lost(*paths):
    return sum(one["records"] for path in paths for one in lines(path) if one["type"] == "lost")


@pytest.fixture
def begun(monkeypatch):
    """Starts files that are closed at the end."""
    monkeypatch.setattr(records, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(records, "RETRY_SECONDS", 0.02)
    found = []

    def begin(path, **settings):
        one = RecordsFile(FileSettings(path, **settings), source="router-1")
        one.start()
        found.append(one)
        return one

    yield begin
    for one in found:
        one.close()


def test_records_are_written_whole_and_in_order(begun, tmp_path):
    path = tmp_path / "usage.jsonl"
    file = begun(path)
    for number in range(2000):
        file.add(a_record(number, tenant="9f86d081884c7d65", usd=0.5))
    eventually(lambda: file.written == 2000)
    assert numbers(path) == list(range(2000))
    first = lines(path)[0]
    assert (first["v"], first["type"], first["tenant"], first["usd"], first["slo"]) == (
        1, "request", "9f86d081884c7d65", 0.5, None,
    )  # fmt: skip
    assert lost(path) == 0


def test_a_file_that_grows_large_is_put_aside_and_only_the_last_are_kept(begun, tmp_path):
    path = tmp_path / "usage.jsonl"
    file = begun(path, rotate_bytes=4_000, keep=2)
    for number in range(60):
        file.add(a_record(number))
        eventually(lambda number=number: file.written > number)
    aside = sorted(tmp_path.glob("usage.*Z.jsonl"))
    assert len(aside) == 2
    assert numbers(*aside, path) == list(range(60))[-len(numbers(*aside, path)) :]
    assert all(one.stat().st_size < 6_000 for one in aside)


def test_what_finds_no_room_is_dropped_at_once_and_told(begun, tmp_path, monkeypatch):
    path, held = tmp_path / "usage.jsonl", []
    write = os.write

    def slow(fd, data):
        while held:
            time.sleep(0.01)
        return write(fd, data)

    monkeypatch.setattr(records.os, "write", slow)
    held.append(True)
    file = begun(path, most_queued=50)
    file.add(a_record(0))
    eventually(lambda: not file._queue)
    began = time.monotonic()
    for number in range(1, 1001):
        file.add(a_record(number))
    assert time.monotonic() - began < 5.0
    assert file.lost == 950
    held.clear()
    eventually(lambda: lost(path) == 950)
    assert numbers(path) == list(range(51))


def test_a_full_disk_leaves_no_broken_line_and_nothing_is_written_twice(begun, tmp_path, monkeypatch):
    path, full = tmp_path / "usage.jsonl", [False]
    write = os.write

    def sometimes(fd, data):
        if full[0] and len(data) > 40:
            write(fd, bytes(data)[:40])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(records.os, "write", sometimes)
    file = begun(path)
    for number in range(30):
        full[0] = number % 10 in (3, 4, 5)
        file.add(a_record(number))
        time.sleep(0.02)
    full[0] = False
    eventually(lambda: file.written == 30)
    assert numbers(path) == list(range(30))
    assert lost(path) == 0


def test_a_line_that_was_torn_is_cut_off_at_the_next_start(begun, tmp_path):
    path = tmp_path / "usage.jsonl"
    path.write_bytes(b'{"v":1,"type":"request","input_tokens":1}\n{"v":1,"type":"requ')
    file = begun(path)
    file.add(a_record(2))
    eventually(lambda: file.written == 1)
    assert numbers(path) == [1, 2]


def test_a_file_that_somebody_else_moves_is_opened_anew(begun, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "SYNC_SECONDS", 0.0)
    path = tmp_path / "usage.jsonl"
    file = begun(path)
    file.add(a_record(1))
    eventually(lambda: file.written == 1)
    path.rename(tmp_path / "taken.jsonl")
    eventually(path.exists)
    file.add(a_record(2))
    eventually(lambda: file.written == 2)
    assert (numbers(tmp_path / "taken.jsonl"), numbers(path)) == ([1], [2])


def test_two_processes_never_write_one_file(begun, tmp_path):
    path = tmp_path / "usage.jsonl"
    first, second = begun(path), begun(path)
    eventually(lambda: first._fd >= 0 or second._fd >= 0)
    writer, other = (first, second) if first._fd >= 0 else (second, first)
    writer.add(a_record(1))
    other.add(a_record(2))
    eventually(lambda: other._failed)
    assert "another process" in other._failed
    eventually(lambda: writer.written == 1)
    writer.close()
    eventually(lambda: other.written == 1)
    assert numbers(path) == [1, 2]


def test_a_folder_gets_a_file_for_each_process():
    settings = FileSettings(Path("/var/usage"))
    assert settings.of("router-7f9c", None).path == Path("/var/usage/router-7f9c.jsonl")
    assert settings.of("router-7f9c", 2).path == Path("/var/usage/router-7f9c-2.jsonl")
    assert FileSettings(Path("/var/u.jsonl")).of("x", 1).path == Path("/var/u-1.jsonl")


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_router_records as t
from tidefleet.router.records import FileSettings, RecordsFile
file = RecordsFile(FileSettings(Path(sys.argv[1])), source="killed")
file.start()
number = 0
while True:
    for _ in range(20):
        file.add(t.a_record(number))
        number += 1
    print(number, flush=True)
    time.sleep(0.001)
"""


def test_a_killed_process_loses_at_most_its_last_second_and_the_next_tells_how_many(begun, tmp_path):
    path = tmp_path / "usage.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)], stdout=subprocess.PIPE, env=environment
    )
    times = []
    assert process.stdout is not None
    for line in process.stdout:
        times.append((time.monotonic(), int(line)))
        if path.exists() and path.stat().st_size > 400_000:
            break
    process.send_signal(signal.SIGKILL)
    added = times[-1][1]
    for line in process.stdout:
        added = int(line)
    process.wait()
    kept = numbers(path)
    assert kept == list(range(len(kept))), "whole lines, in order"
    file = begun(path)
    file.add(a_record(-1))
    eventually(lambda: file.written == 1)
    eventually(lambda: lost(path) > 0)
    assert numbers(path) == [*kept, -1]
    # the last line that it printed may be of records behind which more were taken
    assert added <= len(kept) + lost(path) <= added + 20 + records.AT_ONCE
