"""The table of metrics: names, labels, use in the source, and the registry made from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest

from tidefleet.telemetry import METRICS, PREFIX, Telemetry

SOURCE = Path(__file__).parents[2] / "operator" / "tidefleet"
FORBIDDEN = {
    "pod",
    "pod_name",
    "node",
    "session",
    "request",
    "request_id",
    "tenant",
    "user",
    "uid",
    "path",
    "le",
    "message",
}
PER_POOL = ("namespace", "pool")


def test_names_are_unique_prefixed_and_in_the_form_of_the_field() -> None:
    assert len({spec.name for spec in METRICS.values()}) == len(METRICS)
    for name, spec in METRICS.items():
        assert name == PREFIX + spec.name
        assert re.fullmatch(r"tidefleet_[a-z]+(_[a-z]+)*", name), name
        assert (spec.kind == "counter") == name.endswith("_total"), name
        assert not name.endswith(("_bucket", "_count", "_sum", "_created"))
        assert len(spec.help) > 15
        assert spec.help.endswith(".")
        assert (spec.kind == "histogram") == bool(spec.buckets), name
        assert list(spec.buckets) == sorted(set(spec.buckets))


def test_no_label_can_grow_with_requests_or_pods() -> None:
    for name, spec in METRICS.items():
        assert not FORBIDDEN & set(spec.labels), name
        assert len(set(spec.labels)) == len(spec.labels), name
        assert all(re.fullmatch(r"[a-z][a-z_]*", label) for label in spec.labels), name


def test_metrics_of_a_pool_name_it_by_namespace_and_pool() -> None:
    for name, spec in METRICS.items():
        if spec.name.startswith(("pool_", "plan_", "flips_", "training_")) and spec.kind != "histogram":
            assert spec.labels[:2] == PER_POOL, name
        elif spec.process != "router" or "pool" not in spec.labels:
            assert "pool" not in spec.labels, name
        else:
            assert spec.labels[:2] == PER_POOL, name


def test_units_are_base_units() -> None:
    for name in METRICS:
        assert not re.search(r"_(ms|milliseconds|minutes|percent|gib|gigabytes|cents)(_|$)", name), name


def test_dollars_and_tokens_are_counters_that_can_be_divided() -> None:
    for name in ("tidefleet_pool_cost_usd_total", "tidefleet_pool_tokens_total"):
        assert METRICS[name].kind == "counter"


@pytest.mark.parametrize("name", sorted(spec.name for spec in METRICS.values()))
def test_every_metric_of_the_table_is_used(name: str) -> None:
    files = [path for path in SOURCE.rglob("*.py") if path.name not in ("table.py", "router_table.py")]
    assert any(f'"{name}"' in path.read_text(encoding="utf-8") for path in files)


def test_no_metric_is_used_that_is_not_in_the_table() -> None:
    known = {spec.name for spec in METRICS.values()}
    call = re.compile(r'telemetry\.(?:count|set|observe|show)\(\s*"([a-z_]+)"')
    for path in SOURCE.rglob("*.py"):
        used = set(call.findall(path.read_text(encoding="utf-8")))
        assert used <= known, f"{path.name}: {used - known}"


# --- the registry ----------------------------------------------------------------------------------------------------


def names_on(page: str) -> set[str]:
    return set(re.findall(r"^# TYPE (\S+)", page, flags=re.MULTILINE))


@pytest.mark.parametrize("process", ["operator", "router"])
def test_the_page_has_the_metrics_of_the_table_and_no_others(process: Literal["operator", "router"]) -> None:
    telemetry = Telemetry(process)
    own = {name: spec for name, spec in METRICS.items() if spec.process in (process, "both")}
    for spec in own.values():
        labels = dict.fromkeys(spec.labels, "x")
        match spec.kind:
            case "counter":
                telemetry.count(spec.name, **labels)
            case "gauge":
                telemetry.set(spec.name, 1.0, **labels)
            case "histogram":
                telemetry.observe(spec.name, 1.0, **labels)
    assert names_on(telemetry.render()[1].decode()) == set(own)


def test_two_registries_share_nothing() -> None:
    one, other = Telemetry(), Telemetry()
    one.set("leader", 1.0)
    assert one.value("tidefleet_leader") == 1.0
    assert other.value("tidefleet_leader") != 1.0


def test_a_counter_never_falls() -> None:
    telemetry = Telemetry()
    for amount in (2.0, 0.0, -5.0):
        telemetry.count("empty_answers_total", amount, source="engines")
    assert telemetry.value("tidefleet_empty_answers_total", source="engines") == 2.0


def test_an_unknown_metric_is_an_error_at_once() -> None:
    for call in (Telemetry().count, lambda name: Telemetry().set(name, 1.0)):
        with pytest.raises(KeyError):
            call("no_such_metric")


def test_a_pool_that_is_forgotten_leaves_no_series() -> None:
    telemetry = Telemetry()
    for pool in ("chat", "code"):
        labels = {"namespace": "prod", "pool": pool}
        telemetry.count("pool_cost_usd_total", 1.0, **labels, accelerator="h100", capacity_type="OnDemand")
        telemetry.set("plan_cost_usd_per_hour", 1.0, **labels)
        telemetry.show("pool_replicas", {("desired",): 3.0}, **labels)
    telemetry.forget(namespace="prod", pool="chat")
    page = telemetry.render()[1].decode()
    assert 'pool="chat"' not in page
    assert page.count('pool="code"') == 3
    telemetry.show("pool_replicas", {("ready",): 1.0}, namespace="prod", pool="chat")  # a pool of that name comes back


def test_series_that_are_not_shown_any_more_go_and_no_others() -> None:
    telemetry = Telemetry()
    chat, code = ({"namespace": "prod", "pool": name} for name in ("chat", "code"))
    telemetry.show("pool_accelerators", {("h100", "serving"): 4, ("l40s", "serving"): 2}, **chat)
    telemetry.show("pool_accelerators", {("h100", "serving"): 9}, **code)
    telemetry.show("pool_accelerators", {("h100", "serving"): 5}, **chat)

    def chips(pool: str, accelerator: str) -> float | None:
        labels = {"namespace": "prod", "pool": pool, "accelerator": accelerator, "state": "serving"}
        return telemetry.value("tidefleet_pool_accelerators", **labels)

    assert (chips("chat", "h100"), chips("chat", "l40s"), chips("code", "h100")) == (5.0, None, 9.0)
