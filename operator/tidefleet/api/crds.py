"""The CustomResourceDefinitions: names, columns and subresources around the generated schemas."""

from __future__ import annotations

from typing import Any

from tidefleet.api import schema
from tidefleet.api.accelerator_type import AcceleratorType
from tidefleet.api.base import GROUP, VERSION, Resource
from tidefleet.api.inference_pool import InferencePool
from tidefleet.api.site import Site
from tidefleet.api.workload_class import WorkloadClass

CATEGORY = "tidefleet"

Column = dict[str, Any]


def _column(name: str, path: str, description: str, *, kind: str = "string", wide: bool = False) -> Column:
    column: Column = {"name": name, "type": kind, "description": description, "jsonPath": path}
    return {**column, "priority": 1} if wide else column


def _condition(kind: str, what: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{what}'


_READY = _column("READY", _condition("Ready", "status"), "Whether the planned replicas are available.")
_REASON = _column("REASON", _condition("Ready", "reason"), "Why it is ready or not, in one word.")
_MESSAGE = _column("MESSAGE", _condition("Ready", "message"), "The same in words.", wide=True)
_VALID = _column("VALID", _condition("Validated", "status"), "Whether the object can be planned with.")
_WHY = _column("REASON", _condition("Validated", "reason"), "Why it is valid or not, in one word.")
_WORDS = _column("MESSAGE", _condition("Validated", "message"), "The same in words.", wide=True)
_AGE = _column("AGE", ".metadata.creationTimestamp", "Time since it was created.", kind="date")

COLUMNS: dict[type[Resource], list[Column]] = {
    InferencePool: [
        _READY,
        _column("MODE", ".spec.mode", "How far the operator goes."),
        _column("ACCELERATORS", ".status.accelerators", "The plan in one line."),
        _column("REPLICAS", ".status.replicas", "Replicas over all accelerator types.", kind="integer"),
        _column("$/1M", ".status.plan.usdPerMillionTokens", "USD for a million tokens, blended."),
        _column("TARGET", ".spec.costTarget.usdPerMillionTokens", "What a million tokens may cost, in USD."),
        _column("NEXT-FLIP", ".status.nextFlip", "The next flip between serving and training."),
        _REASON,
        _AGE,
        _column("PINNED", ".spec.pinnedReplicas", "Replicas that the pool is pinned to.", kind="integer", wide=True),
        _column("SAVINGS", ".status.plan.savingsUsdPerHour", "USD an hour less than one accelerator type.", wide=True),
        _column("LOANED", ".status.flipping.loanedNodes", "Nodes on loan to training.", kind="integer", wide=True),
        _column("KV-HIT", ".status.kvHitRatio", "Share of input tokens found in the KV cache.", wide=True),
        _column("UTIL", ".status.utilization", "Needed accelerator-seconds over paid ones.", wide=True),
        _column("TOK/S", ".status.demand.outputTokensPerSecond", "Output tokens per second.", wide=True),
        _MESSAGE,
    ],
    WorkloadClass: [
        _READY,
        _column("POOL", ".spec.poolRef.name", "The pool that serves it."),
        _column("PRIORITY", ".spec.priority", "Who goes first when capacity is scarce.", kind="integer"),
        _column("DEMAND", _condition("DemandKnown", "reason"), "Where its demand is known from."),
        _column("REQ/S", ".status.observed.requestsPerSecond", "Requests per second."),
        _REASON,
        _AGE,
        _column("PROVENANCE", ".status.provenance", "Where the numbers come from.", wide=True),
        _MESSAGE,
    ],
    AcceleratorType: [
        _VALID,
        _column("VENDOR", ".spec.vendor", "Who makes it."),
        _column("NODES", ".status.nodes", "Nodes of the type.", kind="integer"),
        _column("CHIPS", ".status.chips", "Accelerators on them.", kind="integer"),
        _column("IN-USE", ".status.chipsInUse", "Accelerators that pods hold.", kind="integer"),
        _column("PRICE", ".status.priceUsed", "The price that plans use."),
        _WHY,
        _AGE,
        _column("RESOURCE", ".spec.resourceName", "Extended resource that pods ask for.", wide=True),
        _WORDS,
    ],
    Site: [
        _VALID,
        _column("NODES", ".status.nodes", "Nodes there.", kind="integer"),
        _column("WATTS", ".status.watts", "Estimated power.", kind="integer"),
        _column("LIMIT", ".spec.powerLimitWatts", "Most power.", kind="integer"),
        _column("PUE", ".spec.pue", "Facility power over IT power."),
        _WHY,
        _AGE,
        _WORDS,
    ],
}
"""What `kubectl get` shows of each kind; wide columns with `-o wide` only."""

SCALE = {
    "specReplicasPath": ".spec.pinnedReplicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}


def name(kind: type[Resource]) -> str:
    """The name of the CustomResourceDefinition, e.g. inferencepools.tidefleet.io."""
    return f"{kind.PLURAL}.{GROUP}"


def manifest(kind: type[Resource]) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind, as JSON-like values.

    Raises:
        SchemaError: A field has no structural schema.
    """
    subresources: dict[str, Any] = {"status": {}}
    if kind is InferencePool:
        subresources["scale"] = dict(SCALE)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name(kind), "labels": {"app.kubernetes.io/part-of": "tidefleet"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.NAMESPACED else "Cluster",
            "names": {
                "kind": kind.KIND,
                "listKind": f"{kind.KIND}List",
                "plural": kind.PLURAL,
                "singular": kind.KIND.lower(),
                "shortNames": [kind.SHORT_NAME],
                "categories": [CATEGORY],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema.structural(schema.resource(kind))},
                    "subresources": subresources,
                    "additionalPrinterColumns": [dict(column) for column in COLUMNS[kind]],
                }
            ],
        },
    }


def manifests() -> dict[str, dict[str, Any]]:
    """Every CustomResourceDefinition by its name.

    Raises:
        SchemaError: A field has no structural schema.
    """
    return {name(kind): manifest(kind) for kind in COLUMNS}
