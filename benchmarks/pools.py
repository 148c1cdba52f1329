"""Pools, classes and nodes of a fleet that no two pools share the arithmetic of: models, lengths, objectives differ."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localcluster import NodeKind, node_kinds
from tidefleet import catalogue
from tidefleet.api import InferencePool, WorkloadClass
from tidefleet.api.validation import parse
from tidefleet.planning.from_api import class_demands, offer_of
from tidefleet.planning.options import PLANNING_UTILISATION, Allowed, Candidate, EstimateMemo, Offer, find_candidates

CHIPS_PER_NODE = 8
NODE_SHARES: Mapping[str, float] = {
    "h100-sxm": 0.25,
    "h200-sxm": 0.15,
    "b200-sxm": 0.10,
    "a100-sxm-80": 0.15,
    "l40s": 0.15,
    "mi300x": 0.10,
    "tpu-v6e": 0.10,
}
MODELS: Mapping[str, float] = {
    "llama-3.1-8b": 3,
    "qwen3-8b": 3,
    "mistral-7b": 2,
    "gemma-3-12b": 2,
    "qwen3-14b": 3,
    "phi-4": 2,
    "gpt-oss-20b": 3,
    "mistral-small-3.2-24b": 2,
    "gemma-3-27b": 2,
    "qwen3-30b-a3b": 3,
    "qwen3-32b": 3,
    "llama-3.3-70b": 2,
    "qwen2.5-72b": 1,
    "mixtral-8x7b": 1,
    "gpt-oss-120b": 2,
    "glm-4.5-air": 1,
}
"""Models with how often each is drawn; all fit on four chips."""

VENDORS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("h100-sxm", "h200-sxm", "b200-sxm", "a100-sxm-80", "l40s"), 6),
    (("h100-sxm", "h200-sxm", "a100-sxm-80"), 6),
    (("l40s", "a100-sxm-80"), 3),
    (("mi300x",), 1),
    (("tpu-v6e",), 2),
    ((), 2),
)
"""What owners name, with how often: an image runs on one vendor's devices; nothing named means every type competes."""

WIDTHS = (1, 2, 4)
"""Tensor-parallel widths that owners allow: the scheduler spreads pods, so a replica of a whole node may find none."""

MEASURED = {"requestsPerSecond": None, "source": "Metrics"}
"""What turns a declared demand into a measured one, as a merge patch."""

POOLS_PER_NAMESPACE = 20
STARTING_REPLICAS = (1.3, 2.4)
"""Demand at the start, in replicas of the option that is cheapest per request."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Load offered to one pool; token lengths are means per request."""

    requests_per_second: float
    input_tokens: float
    output_tokens: float
    cached_share: float

    def as_load(self) -> dict[str, float]:
        """What the emulator's admin server takes."""
        return {
            "requestsPerSecond": self.requests_per_second,
            "inputTokens": self.input_tokens,
            "outputTokens": self.output_tokens,
            "cachedShare": self.cached_share,
        }

    def stepped(self, *, rate: float, input_tokens: float, output_tokens: float) -> Demand:
        """The same demand with rate and lengths multiplied."""
        return Demand(
            self.requests_per_second * rate,
            self.input_tokens * input_tokens,
            self.output_tokens * output_tokens,
            self.cached_share,
        )


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool with its classes as manifests, the demand they declare, and the chips that its plan takes then."""

    manifest: dict[str, Any]
    classes: tuple[dict[str, Any], ...]
    demand: Demand
    chips: Mapping[str, float]

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.manifest["metadata"]["namespace"], self.manifest["metadata"]["name"]


def node_types(nodes: int) -> list[str]:
    """The accelerator types that so many nodes are dealt to."""
    return list(NODE_SHARES)[:nodes]


def node_counts(nodes: int, pools: Sequence[Pool], growth: float) -> dict[str, int]:
    """How many nodes of each accelerator type; they add up to ``nodes``.

    Each type first gets what the pools' plans take when their demand has grown so far, and half as much again, since
    a replica needs all its chips on one node; what is left is dealt by ``NODE_SHARES``.
    """
    needed = dict.fromkeys(node_types(nodes), 1.0)
    for pool in pools:
        for accelerator, chips in pool.chips.items():
            needed[accelerator] += 1.5 * growth * chips / CHIPS_PER_NODE
    scale = min(1.0, nodes / sum(needed.values()))
    left = max(0.0, nodes - sum(needed.values())) / sum(NODE_SHARES[name] for name in needed)
    exact = {name: scale * count + left * NODE_SHARES[name] for name, count in needed.items()}
    counts = {name: max(1, int(count)) for name, count in exact.items()}
    while (missing := nodes - sum(counts.values())) != 0:
        step = 1 if missing > 0 else -1
        names = [one for one in exact if step > 0 or counts[one] > 1]
        name = max(names, key=lambda one: step * (exact[one] - counts[one]))
        counts[name] += step
    return counts


def eight_chip_kinds() -> dict[str, NodeKind]:
    """The catalogue's kinds of node, each with eight chips."""
    return {name: dataclasses.replace(kind, chips_per_node=CHIPS_PER_NODE) for name, kind in node_kinds().items()}


def make_pools(count: int, accelerators: Sequence[str], *, seed: int = 20260) -> list[Pool]:
    """Pools that can be served by these accelerator types, the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - a benchmark's variety, not a secret
    offers = [offer_of(one) for name, one in catalogue.accelerator_types().items() if name in accelerators]
    pools: list[Pool] = []
    while len(pools) < count:
        pool = _draw_pool(draw, len(pools), accelerators, offers)
        if pool is not None:
            pools.append(pool)
    return pools


def _draw_pool(draw: random.Random, index: int, accelerators: Sequence[str], offers: Sequence[Offer]) -> Pool | None:
    model = draw.choices(list(MODELS), list(MODELS.values()))[0]
    metadata: dict[str, str] = {"name": f"pool-{index:04d}", "namespace": f"fleet-{index // POOLS_PER_NAMESPACE:02d}"}
    named = draw.choices([names for names, _ in VENDORS], [weight for _, weight in VENDORS])[0]
    precisions: list[dict[str, Any]] = [{}, {"weights": ["Fp8"]}, {"weights": ["Bf16", "Fp8"], "kv": ["Bf16", "Fp8"]}]
    candidates = [
        {"type": one, "tensorParallel": list(WIDTHS), **draw.choice(precisions)} for one in named if one in accelerators
    ]
    if named and not candidates:
        return None
    manifest: dict[str, Any] = {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "InferencePool",
        "metadata": metadata,
        "spec": {
            "model": {"name": model},
            "serving": {"template": _template(metadata["name"], model)},
            **({"accelerators": candidates} if candidates else {}),
            "replicas": {"min": 1, "max": 60, "spare": draw.choice([0, 0, 1])},
            "costTarget": {"usdPerMillionTokens": f"{draw.uniform(0.05, 1.5):.2f}"},
        },
    }
    classes = tuple(_class(draw, metadata, number) for number in range(draw.choice([1, 1, 2, 3])))
    best = _cheapest(manifest, classes, offers)
    if best is None:
        return None
    mean = {
        side: sum(c["spec"]["tokens"][side]["mean"] for c in classes) / len(classes) for side in ("input", "output")
    }
    cached = float(classes[0]["spec"]["tokens"]["cachedShare"])
    replicas = draw.uniform(*STARTING_REPLICAS)
    demand = Demand(best.requests_per_second * PLANNING_UTILISATION * replicas, mean["input"], mean["output"], cached)
    for one in classes:
        one["spec"]["demand"] = {"requestsPerSecond": f"{demand.requests_per_second / len(classes):.6f}"}
    needed = (replicas + manifest["spec"]["replicas"]["spare"]) * best.option.chips
    return Pool(manifest, classes, demand, {best.option.accelerator: needed})


def _cheapest(
    manifest: Mapping[str, Any], classes: Sequence[Mapping[str, Any]], offers: Sequence[Offer]
) -> Candidate | None:
    """The option that serves the pool at the lowest cost per request; ``None`` when none can."""
    pool = parse(manifest)
    usable = [one for raw in classes if isinstance(one := parse(raw), WorkloadClass)]
    if not isinstance(pool, InferencePool) or len(usable) != len(classes):
        raise ValueError(f"a manifest of the benchmark is invalid: {pool} {[parse(raw) for raw in classes]}")
    model = catalogue.models()[str(pool.spec.model.name)]
    market = find_candidates(
        model,
        offers,
        class_demands(usable),
        {
            one.type: Allowed(one.tensor_parallel, weights=tuple(map(str, one.weights)), kv=tuple(map(str, one.kv)))
            for one in pool.spec.accelerators
        },
        default_weights=model.native_weights,
        default_kv="Bf16",
        memo=EstimateMemo(),
    )
    return min(market.candidates, key=lambda one: one.usd_per_request, default=None)


def _class(draw: random.Random, pool: Mapping[str, str], number: int) -> dict[str, Any]:
    into, out = round(10 ** draw.uniform(2.3, 3.8)), round(10 ** draw.uniform(1.4, 3.0))
    return {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "WorkloadClass",
        "metadata": {"name": f"{pool['name']}-{number}", "namespace": pool["namespace"]},
        "spec": {
            "poolRef": {"name": pool["name"]},
            "demand": {"source": "Metrics"},
            "tokens": {
                "input": {"mean": into, "p95": 3 * into},
                "output": {"mean": out, "p95": 4 * out},
                "cachedShare": f"{draw.choice([0.0, 0.1, 0.25, 0.4])}",
            },
            "objectives": [
                {
                    "metric": "TTFT",
                    "percentile": 95,
                    "milliseconds": draw.choice([500, 800, 1500, 3000]),
                    "perThousandInputTokensMilliseconds": draw.choice([100, 200]),
                },
                {"metric": "TPOT", "percentile": 95, "milliseconds": draw.choice([30, 40, 50, 80])},
            ],
        },
    }


def _template(name: str, model: str) -> dict[str, Any]:
    """A pod template of the length that people write."""
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5}
    return {
        "metadata": {"labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "benchmark"}},
        "spec": {
            "terminationGracePeriodSeconds": 300,
            "containers": [
                {
                    "name": "engine",
                    "image": "vllm/vllm-openai:v0.32.0",
                    "args": [f"--model=models/{model}", f"--served-model-name={model}", "--enable-prefix-caching"],
                    "env": [{"name": "HF_HOME", "value": "/models"}, {"name": "VLLM_LOGGING_LEVEL", "value": "INFO"}],
                    "ports": [{"name": "http", "containerPort": 8000}],
                    "resources": {"requests": {"cpu": "4", "memory": "32Gi"}},
                    "startupProbe": {**probe, "failureThreshold": 360},
                    "readinessProbe": probe,
                    "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 - a pod's own
                }
            ],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}],
        },
    }
