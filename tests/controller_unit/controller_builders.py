"""Pools, accelerators, workloads and views, made from the manifests a user would write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidefleet import catalogue
from tidefleet.api import AcceleratorType, InferencePool, WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.cluster.kinds import DEPLOYMENT
from tidefleet.cluster.records import Workload
from tidefleet.controller.view import PoolView, Served
from tidefleet.planning.from_api import architecture_of, offer_of, shipped_prices
from tidefleet.planning.options import Offer, Option

NOW = 1_800_000_000.0
SHIPPED = catalogue.accelerator_types()
TEMPLATE = {"spec": {"containers": [{"name": "engine", "image": "vllm", "args": ["--model=m"]}]}}


def a_pool(name: str = "chat", *, model: str = "llama-3.1-8b", **spec: Any) -> InferencePool:
    """A pool with a template; ``spec`` in the API's names."""
    body: dict[str, Any] = {"model": {"name": model}, "serving": {"template": TEMPLATE}, **spec}
    raw = {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": "prod", "uid": f"uid-{name}", "generation": 1},
        "spec": body,
    }
    pool = parse(raw, strict=True)
    assert isinstance(pool, InferencePool), pool
    return pool


def a_class(name: str = "web", *, pool: str = "chat", **spec: Any) -> WorkloadClass:
    """A measured class of 1,000 tokens in and 250 out without objectives."""
    body: dict[str, Any] = {
        "poolRef": {"name": pool},
        "demand": {"source": "Metrics"},
        "tokens": {"input": {"mean": 1000}, "output": {"mean": 250}},
        **spec,
    }
    raw = {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "WorkloadClass",
        "metadata": {"name": name, "namespace": "prod"},
        "spec": body,
    }
    wclass = parse(raw, strict=True)
    assert isinstance(wclass, WorkloadClass), wclass
    return wclass


def a_kind(name: str = "h100-sxm", **changes: Any) -> AcceleratorType:
    """A shipped accelerator type with fields of its spec changed."""
    (raw,) = [one for one in catalogue.accelerator_manifests() if one["metadata"]["name"] == name]
    kind = parse({**raw, "spec": {**raw["spec"], **changes}}, strict=True)
    assert isinstance(kind, AcceleratorType), kind
    return kind


def an_option(accelerator: str = "h100-sxm", *, tp: int = 1, weights: str = "Bf16", kv: str = "Bf16") -> Option:
    return Option(accelerator, "OnDemand", tp, weights, kv)


def a_workload(
    name: str, *, replicas: int, ready: int | None = None, labels: Mapping[str, str] | None = None
) -> Workload:
    """A Deployment as the operator remembers it."""
    return Workload(
        kind=DEPLOYMENT,
        namespace="prod",
        name=name,
        uid=f"uid-{name}",
        resource_version="1",
        generation=1,
        observed_generation=1,
        labels=labels or {},
        annotations={},
        replicas=replicas,
        ready_replicas=replicas if ready is None else ready,
        available_replicas=replicas if ready is None else ready,
        updated_replicas=replicas,
        selector={"app": name},
        match_expressions_present=False,
        template_hash="",
        chips_per_pod={},
        pods_per_replica=1,
        node_selector={},
        replicas_managers=(),
        created=0.0,
        deleting=False,
    )


def a_served(pool: InferencePool, option: Option, *, replicas: int, ready: int | None = None) -> Served:
    """An option of a pool as it runs."""
    name = f"{pool.name}-{option.key(pool.name)}"
    return Served(name, option, a_workload(name, replicas=replicas, ready=ready))


def offers(*kinds: AcceleratorType) -> tuple[Offer, ...]:
    shipped = shipped_prices(SHIPPED.values())
    return tuple(offer_of(kind, shipped=shipped, placeable=False) for kind in kinds)


def a_view(pool: InferencePool | None = None, *kinds: AcceleratorType, **changes: Any) -> PoolView:
    """A pool on the market of these accelerators (H100 and L40S by default), with one measured class."""
    pool = pool or a_pool()
    kinds = kinds or (SHIPPED["h100-sxm"], SHIPPED["l40s"])
    facts: dict[str, Any] = {
        "pool": pool,
        "now": NOW,
        "classes": (a_class(),),
        "architecture": architecture_of(pool, catalogue.models()),
        "kinds": {kind.name: kind for kind in kinds},
        "offers": offers(*kinds),
    }
    return PoolView(**{**facts, **changes})


H100 = a_kind("h100-sxm", prices=[{"capacityType": "OnDemand", "usdPerChipHour": "3.00"}])
HOST = {"medium": "Host", "maxBytesPerReplica": 2**41, "bytesPerSecond": 50_000_000_000, "usdPerGibMonth": "0.50"}
AGENT = a_class(
    demand={"requestsPerSecond": "6"},
    tokens={"input": {"mean": 24000}, "output": {"mean": 300}, "cachedShare": "0.2"},
    turnsPerSession="9",
    turnPauseSeconds=90,
)
"""Long prompts that come again: what a KV tier in host memory pays for itself with."""
