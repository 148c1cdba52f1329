"""The training backlog: real arrivals folded onto a week, so that a fleet never runs out of work."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tidefleet.simulator.fleet.training import Trainers
from tidefleet.simulator.scenario import Training
from tidefleet.simulator.workload import TraceError, backlog
from tidefleet.simulator.workload.training import ARRIVALS, DURATIONS, STANDING_SECONDS, WEEK_SECONDS

ROOT = Path(__file__).resolve().parents[2]
TRACES = Path(os.environ.get("TIDEFLEET_SHARED", ROOT.parent / "shared")) / "traces"
needs_traces = pytest.mark.skipif(not TRACES.exists(), reason=f"no traces at {TRACES}; TIDEFLEET_SHARED names another")


def written(tmp_path, arrivals, durations):
    for name, header, rows in (
        (ARRIVALS, ("vc", "arrival_s", "gpus"), arrivals),
        (DURATIONS, ("duration_s", "gpus"), durations),
    ):
        with pa.output_stream(str(tmp_path / name), compression="zstd") as stream:
            lines = [",".join(map(str, row)) for row in (header, *rows)]
            stream.write(("\n".join(lines) + "\n").encode())
    return tmp_path


def small(tmp_path):
    hours = [3600.0 * hour for hour in range(0, 3 * 168, 7)]
    arrivals = [("a", at, (1, 8, 16)[place % 3]) for place, at in enumerate(hours)]
    return written(tmp_path, arrivals, [(7200, 1), (3600, 1), (36_000, 8)])


def drawn(found, **changes):
    return list(found.jobs(**{"chips": 64, "begin_seconds": 0.0, "seconds": WEEK_SECONDS, "seed": 1, **changes}))


def test_durations_are_those_recorded_with_as_many_accelerators_or_the_nearest_number(tmp_path):
    jobs = drawn(backlog(small(tmp_path)))
    assert {(one.gpus, one.seconds) for one in jobs} == {(1, 7200.0), (1, 3600.0), (8, 36_000.0), (16, 36_000.0)}


def test_weeks_of_arrivals_are_laid_on_one_and_come_in_order(tmp_path):
    found = backlog(small(tmp_path))
    jobs = [one for one in drawn(found, chips=16) if one.arrives > 0.0]
    times = [one.arrives for one in jobs]
    assert times == sorted(times)
    assert min(times) >= 0.0
    assert max(times) < WEEK_SECONDS
    assert len(jobs) == 3 * 24 - 3  # three weeks of jobs every seven hours, without those of Monday's midnight


def test_jobs_wider_than_the_fleet_are_not_in_its_queue_and_the_others_still_fill_it(tmp_path):
    found = backlog(small(tmp_path))
    jobs = drawn(found, chips=8)
    assert {one.gpus for one in jobs} == {1, 8}
    assert sum(one.gpus * one.seconds for one in jobs) > 8 * WEEK_SECONDS
    wide = backlog(written(tmp_path, [("a", 5, 16)], [(7200, 16)]))
    with pytest.raises(
        ValueError, match="every job asks for 16 accelerators or more, and there are 8; expected as many"
    ):
        drawn(wide, chips=8)


@pytest.mark.parametrize("chips", [8, 512, 5000])
def test_work_that_has_come_is_always_more_than_the_whole_fleet_could_have_done(tmp_path, chips):
    jobs = drawn(backlog(small(tmp_path)), chips=chips, begin_seconds=250_000.0)
    came = np.array([one.arrives for one in jobs])
    work = np.cumsum([one.gpus * one.seconds for one in jobs])
    for at in np.linspace(0.0, WEEK_SECONDS, 50):
        assert work[np.searchsorted(came, at, side="right") - 1] >= chips * at
    standing = [one for one in jobs if one.arrives == 0.0]
    assert sum(one.gpus * one.seconds for one in standing) >= STANDING_SECONDS * chips
    assert sum(one.gpus for one in standing) >= 2 * chips


def test_the_same_seed_draws_the_same_jobs_and_another_one_others(tmp_path):
    found = backlog(small(tmp_path))
    assert drawn(found) == drawn(found)
    assert drawn(found) != drawn(found, seed=2)


@needs_traces
def test_a_fleet_that_trains_on_the_real_backlog_for_a_week_never_waits_for_a_job():
    found = backlog(TRACES)
    trainers = Trainers.of(Training(), 21.0, found.jobs(chips=512, begin_seconds=0.0, seconds=WEEK_SECONDS, seed=1))
    nodes = [f"node-{number}" for number in range(60)]
    for node in nodes:
        trainers.offer(node, 8, 0.0)
    at = 0.0
    while (at := trainers.next_end()) < WEEK_SECONDS:
        trainers.advance(at)
        assert sum(trainers.used().values()) >= 8 * len(nodes) - 8
    assert trainers.finished > 100
    trainers.close(WEEK_SECONDS)
    assert trainers.kept == pytest.approx(8 * len(nodes) * WEEK_SECONDS, rel=0.01)


@pytest.mark.parametrize(
    ("arrivals", "durations", "words"),
    [
        ([("a", -1, 1)], [(7200, 1)], r"arrivals.*:2: arrival_s is '-1'; expected a number from 0 on"),
        ([("a", 1, 1.5)], [(7200, 1)], r"arrivals.*:2: gpus is '1.5'; expected a whole number from 1 on"),
        ([("a", 1, 0)], [(7200, 1)], r"arrivals.*:2: gpus is '0'"),
        ([("a", 1, 1)], [(0, 1)], r"durations.*:2: duration_s is '0'"),
        ([("a", 1, 1)], [(1e12, 1)], r"durations.*:2: duration_s is .*; expected seconds up to 1e9"),
        ([], [(7200, 1)], r"arrivals.*: no row"),
        ([("a", 1, 1)], [], r"durations.*: no row"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_an_example(tmp_path, arrivals, durations, words):
    with pytest.raises(TraceError, match=words):
        backlog(written(tmp_path, arrivals, durations))


def test_a_directory_without_the_trace_is_told(tmp_path):
    with pytest.raises(TraceError, match=ARRIVALS):
        backlog(tmp_path)
