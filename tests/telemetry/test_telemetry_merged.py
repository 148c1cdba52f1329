"""One metrics page over several processes."""

from __future__ import annotations

import pytest

from tidefleet.telemetry import PREFIX, Telemetry
from tidefleet.telemetry.merged import Merged, samples_of

POOL = {"namespace": "prod", "pool": "chat"}


def a_worker(requests: float = 1.0, healthy: float = 3.0, queued: float = 0.0, heard: float = 100.0) -> Telemetry:
    found = Telemetry("router")
    found.count("router_decisions_total", requests, outcome="picked", **POOL)
    for _ in range(int(requests)):
        found.observe("router_decision_seconds", 0.0003, **POOL)
    found.set("router_endpoints", healthy, state="healthy", **POOL)
    found.set("router_queue_requests", queued, **POOL)
    found.set("router_sync_timestamp_seconds", heard)
    return found


def value(merged: Merged, name: str, **labels: str) -> float | None:
    want = set(labels.items())
    found = [number for (one, its), number in merged.merged().items() if one == PREFIX + name and want <= set(its)]
    assert len(found) < 2, found
    return found[0] if found else None


def test_counts_and_buckets_are_summed_and_gauges_go_by_their_rule() -> None:
    merged = Merged(Telemetry("router"))
    merged.take("a", samples_of(a_worker(2, healthy=3, queued=1, heard=50)))
    merged.take("b", samples_of(a_worker(5, healthy=4, queued=2, heard=70)))
    assert value(merged, "router_decisions_total", outcome="picked") == 7
    assert value(merged, "router_decision_seconds_count") == 7
    assert value(merged, "router_decision_seconds_bucket", le="0.0002") == 0
    assert value(merged, "router_decision_seconds_bucket", le="0.0005") == 7
    assert value(merged, "router_endpoints", state="healthy") == 4
    assert value(merged, "router_queue_requests") == 3
    assert value(merged, "router_sync_timestamp_seconds") == 50


def test_a_counter_does_not_fall_when_a_process_ends_and_another_takes_its_place() -> None:
    merged, seen = Merged(Telemetry("router")), []
    for generation in range(4):
        for requests in (1, 6, 9):
            merged.take(generation, samples_of(a_worker(requests, queued=1)))
            seen.append(value(merged, "router_decisions_total", outcome="picked"))
        merged.ended(generation)
        seen.append(value(merged, "router_decisions_total", outcome="picked"))
        assert value(merged, "router_queue_requests") is None
    assert seen == [1, 6, 9, 9, 10, 15, 18, 18, 19, 24, 27, 27, 28, 33, 36, 36]


def test_what_a_pool_that_is_gone_counted_goes_and_what_belongs_to_none_stays() -> None:
    merged, worker = Merged(Telemetry("router")), a_worker(3)
    worker.count("router_decisions_total", 2, namespace="", pool="", outcome="no-pool")
    merged.take("a", samples_of(worker))
    merged.ended("a")
    merged.keep({("prod", "chat")})
    assert value(merged, "router_decisions_total", outcome="picked") == 3
    merged.keep({("prod", "other")})
    assert value(merged, "router_decisions_total", outcome="picked") is None
    assert value(merged, "router_decisions_total", outcome="no-pool") == 2


def test_counts_of_the_process_that_merges_are_added_and_its_gauges_are_not() -> None:
    own = Telemetry("router")
    own.count("router_worker_restarts_total", 2)
    merged = Merged(own)
    merged.take("a", samples_of(a_worker(heard=90)))
    assert value(merged, "router_worker_restarts_total") == 2
    assert value(merged, "router_sync_timestamp_seconds") == 90, "not 0, as where nothing was heard"


def test_a_gauge_can_be_said_in_place_of_what_processes_tell() -> None:
    merged = Merged(Telemetry("router"))
    merged.take("a", samples_of(a_worker(healthy=3)))
    merged.say(PREFIX + "router_endpoints", {(("namespace", "x"), ("pool", "y"), ("state", "z")): 8.0})
    assert value(merged, "router_endpoints", pool="y") == 8
    merged.say(PREFIX + "router_endpoints", {})
    assert value(merged, "router_endpoints", pool="y") is None


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_the_page_reads_as_that_of_one_process(accept: str) -> None:
    one, merged = a_worker(4), Merged(Telemetry("router"))
    merged.take("a", samples_of(one))
    kind, page = merged.render(accept)
    kind_of_one, page_of_one = one.render(accept)
    assert kind == kind_of_one
    assert sorted(page.splitlines()) == sorted(page_of_one.splitlines())


def test_samples_of_no_known_family_are_left_out() -> None:
    merged = Merged(Telemetry("router"))
    merged.take("a", [["somebody_elses_total", [], 3.0]])
    assert not any("somebody" in name for name, _ in merged.merged())
