"""Labels and annotations that tidefleet writes, and how they are read back. Forged ones are ignored, never trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tidefleet.cluster import labels
from tidefleet.cluster.lease import MAX_EPOCH
from tidefleet.planning.options import Option

POOL_LABEL = labels.POOL_LABEL
OPTION_LABEL = labels.OPTION_LABEL
ROUTABLE_LABEL = labels.ROUTABLE_LABEL
WORKER_INDEX_LABEL = labels.WORKER_INDEX_LABEL
ENGINE_ANNOTATION = labels.ENGINE_ANNOTATION
OPTION_ANNOTATION = "tidefleet.io/option"
TEMPLATE_ANNOTATION = "tidefleet.io/template"
HOST_TIER_ANNOTATION = "tidefleet.io/host-kv-bytes"
"""On a workload: room of the KV tier in host memory that we start its engines with, in bytes; absent for none."""

EPOCH_ANNOTATION = "tidefleet.io/epoch"
DECISION_ANNOTATION = "tidefleet.io/decision-id"
ADOPTED_ANNOTATION = "tidefleet.io/adopted"
RESET_CALIBRATION_ANNOTATION = "tidefleet.io/reset-calibration"
"""On a pool: with each change of its value, all that was learned from the pool's engines is forgotten."""

HISTORY_ANNOTATION = "tidefleet.io/demand-history"
CLIQUE_LABEL = "nvidia.com/gpu.clique"
"""On a node, by NVIDIA's GPU feature discovery: nodes of one multi-node NVLink partition have the same value."""

FLIP_ANNOTATION = "tidefleet.io/flip"
"""On a node: the journal of its flips. On a serving pod that stopped taking requests for one: what was there before."""
FLIP_REQUEST_ANNOTATION = "tidefleet.io/flip-request"
"""On a node: what a person asks for, as ``tidefleet flip`` writes it."""
DO_NOT_FLIP = "tidefleet.io/do-not-flip"
FINALIZER = "tidefleet.io/pool"
RELEASED_ANNOTATION = "tidefleet.io/released-at"
FIELD_MANAGER = "tidefleet"

RELEASED_SECONDS = 3600.0
"""A finalizer that was lifted for an uninstall is not put back for this long."""


def read_host_tier(annotations: Mapping[str, str]) -> int:
    """Bytes of the tier in host memory that a workload's engines are started with; 0 where it says none or nonsense."""
    text = annotations.get(HOST_TIER_ANNOTATION, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


def write_option(option: Option) -> str:
    """An option as the value of an annotation."""
    return json.dumps(
        {
            "accelerator": option.accelerator,
            "capacityType": option.capacity_type,
            "tensorParallel": option.tensor_parallel,
            "weights": option.weights,
            "kv": option.kv,
        },
        separators=(",", ":"),
    )


def read_option(annotations: Mapping[str, str]) -> Option | None:
    """The option that a workload says it is; ``None`` when it says none or nonsense."""
    try:
        raw: Any = json.loads(annotations.get(OPTION_ANNOTATION, ""))
        width = raw["tensorParallel"]
        texts = [raw[name] for name in ("accelerator", "capacityType", "weights", "kv")]
    except (ValueError, TypeError, KeyError):
        return None
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        return None
    if not all(isinstance(text, str) and 0 < len(text) <= 63 for text in texts):
        return None
    return Option(texts[0], texts[1], width, texts[2], texts[3])


def read_epoch(annotations: Mapping[str, str]) -> int:
    """The epoch of the leader that last wrote an object; 0 when none, nonsense, or one that no Lease can come to."""
    text = annotations.get(EPOCH_ANNOTATION, "")
    epoch = int(text) if text.isdecimal() and len(text) < 12 else 0
    return epoch if epoch <= MAX_EPOCH else 0


def read_adopted(annotations: Mapping[str, str]) -> tuple[str, int] | None:
    """The uid of the pool that adopted a workload and the replicas it had then; ``None`` when none."""
    try:
        raw: Any = json.loads(annotations.get(ADOPTED_ANNOTATION, ""))
        pool, replicas = raw["poolUid"], raw["replicas"]
    except (ValueError, TypeError, KeyError):
        return None
    if not isinstance(pool, str) or isinstance(replicas, bool) or not isinstance(replicas, int) or replicas < 0:
        return None
    return pool, replicas


def write_adopted(pool: str, uid: str, replicas: int) -> str:
    """The annotation that remembers what a workload was when a pool adopted it; the uid, since names come back."""
    return json.dumps({"pool": pool, "poolUid": uid, "replicas": replicas}, separators=(",", ":"))


def was_released(annotations: Mapping[str, str], now: float) -> bool:
    """Whether the finalizer was lifted for an uninstall a short while ago (``now`` in real unix seconds)."""
    text = annotations.get(RELEASED_ANNOTATION, "")
    return text.isdecimal() and len(text) < 12 and 0 <= now - int(text) < RELEASED_SECONDS


def decision_epoch(decision_id: object) -> int:
    """The epoch inside a decision id such as ``e7-00001c``; 0 when there is none."""
    head = decision_id.split("-", 1)[0] if isinstance(decision_id, str) else ""
    return int(head[1:]) if head.startswith("e") and head[1:].isdecimal() and len(head) < 13 else 0
