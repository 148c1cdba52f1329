"""The pool that the router's benchmarks serve, as discovery would find it."""

from collections.abc import Iterable
from typing import Any

from tidefleet.api import AcceleratorType, InferencePool
from tidefleet.api.validation import parse
from tidefleet.catalogue import accelerator_types
from tidefleet.router.discovery import Fleet, ServedPool
from tidefleet.router.serving_pods import ranks_of, slim

PORT = 8000


def accelerators() -> dict[str, AcceleratorType]:
    """The shipped catalogue."""
    return dict(accelerator_types())


def fleet_of(pods: Iterable[dict[str, Any]], model: str) -> Fleet:
    """Pool prod/chat of these pods, as JSON; an engine's own port wins over `PORT`."""
    template = {"template": {"spec": {"containers": [{"name": "engine", "image": "engine"}]}}}
    pool = parse(
        {
            "apiVersion": "tidefleet.io/v1alpha1",
            "kind": "InferencePool",
            "metadata": {"namespace": "prod", "name": "chat", "uid": "u"},
            "spec": {"model": {"name": model}, "serving": template},
        }
    )
    if not isinstance(pool, InferencePool):
        raise TypeError(f"the pool is {pool}, expected an InferencePool")
    ranks = [rank for raw in pods if (pod := slim(raw)) for rank in ranks_of(pod, "chat", (PORT,))]
    served = ServedPool("prod", "chat", pool, (), (), tuple(sorted(ranks, key=lambda one: one.address)))
    return Fleet((served,), accelerators())
