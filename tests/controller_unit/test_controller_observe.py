"""What is gathered of classes: those that cannot be read hold the pools that they ask something of."""

from __future__ import annotations

from typing import Any

from tidefleet.cluster.kinds import INFERENCE_POOL, WORKLOAD_CLASS
from tidefleet.controller.observe import Observer
from tidefleet.controller.store import Store


def raw(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "prod", "uid": f"uid-{name}", "resourceVersion": "1"}
    return {"apiVersion": "tidefleet.io/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}


def a_class(name: str, **spec: Any) -> dict[str, Any]:
    fields = {"poolRef": {"name": name}, "demand": {"source": "Metrics"}, **spec}
    return raw("WorkloadClass", name, **fields)


def test_a_class_that_cannot_be_read_holds_its_own_pool_and_those_that_it_calls() -> None:
    store = Store()
    template = {"spec": {"containers": [{"name": "engine", "image": "vllm"}]}}
    pools = [
        raw("InferencePool", name, model={"name": "llama-3.1-8b"}, serving={"template": template})
        for name in ("agent", "embed", "other")
    ]
    broken = a_class("agent", demand={"requestsPerSecond": "none"}, calls=[{"class": "embed", "perTask": "2"}, "odd"])
    store.replace(INFERENCE_POOL, pools, store.keys(INFERENCE_POOL))
    store.replace(WORKLOAD_CLASS, [broken, a_class("embed"), a_class("other")], store.keys(WORKLOAD_CLASS))
    by_pool, unreadable, _ = Observer(store, None, {})._classes()  # type: ignore[arg-type]
    assert by_pool.keys() == {("prod", "embed"), ("prod", "other")}
    assert unreadable == {("prod", "agent"): ["agent"], ("prod", "embed"): ["agent"]}
