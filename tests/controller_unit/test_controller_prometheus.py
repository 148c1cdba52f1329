"""From an answer of Prometheus to counters of pods: scrapers, several engines, starts."""

from __future__ import annotations

from typing import Any

import pytest

from tidefleet.controller.metrics_page import counters_of
from tidefleet.controller.prometheus import read_matrix


def a_series(name: str, value: str, at: float = 100.0, **labels: str) -> dict[str, Any]:
    """One series of pod prod/p-0 with one sample."""
    return {"metric": {"__name__": name, "namespace": "prod", "pod": "p-0", **labels}, "values": [[at, value]]}


def read(*series: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """What is read about the pod."""
    return read_matrix({"data": {"result": list(series)}})["prod/p-0"]


def test_engines_of_one_pod_are_added_up_and_scrapers_are_not() -> None:
    found = read(
        a_series("vllm:prompt_tokens_total", "100", engine="0", job="pods"),
        a_series("vllm:prompt_tokens_total", "110", 101.0, engine="0", job="services"),
        a_series("vllm:prompt_tokens_total", "7", 99.0, engine="1", job="pods"),
    )
    assert found["prompt_tokens"] == (99.0, 117.0)


@pytest.mark.parametrize(
    ("values", "started"), [(("10", "30", "20"), 30.0), (("10", "NaN"), 10.0), (("+Inf",), 0.0), (("-1",), 0.0)]
)
def test_of_the_starts_in_a_pod_the_latest_counts(values: tuple[str, ...], started: float) -> None:
    found = read(*(a_series("process_start_time_seconds", one, port=str(i)) for i, one in enumerate(values)))
    assert found["started"][1] == started


def test_what_was_found_beyond_the_device_is_counted_apart() -> None:
    name = "sglang:cached_tokens_total"
    found = read(
        a_series("sglang:prompt_tokens_total", "100"),
        a_series(name, "30", cache_source="device"),
        a_series(name, "20", cache_source="host"),
        a_series(name, "5", cache_source="storage_file"),
    )
    values = {field: value for field, (_, value) in found.items()}
    told = counters_of(values)
    assert (told.hit_tokens, told.tier_hit_tokens, told.tier_queried_tokens) == (30.0, 25.0, 70.0)
    plain = counters_of({field: value for field, (_, value) in read(a_series(name, "30")).items()})
    assert (plain.hit_tokens, plain.tier_queried_tokens) == (30.0, 0.0)
