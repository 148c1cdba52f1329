"""KV tiers in an engine's arguments: what a template sets up by itself.

vLLM (0.12 and newer): ``--kv-offloading-size`` is the room in host memory in GiB, of all tensor-parallel ranks
together, and ``--kv-offloading-backend`` who manages it, ``native`` or ``lmcache`` (``vllm/config/cache.py``; the
argument parser takes underscores for dashes). ``--kv-transfer-config`` names a connector in JSON instead.
SGLang: ``--enable-hierarchical-cache`` with ``--hicache-size``, whole GB (1e9 bytes) of each rank, or, without it,
``--hicache-ratio`` times the room on the device (``mem_cache/memory_pool_host.py``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidefleet.api.inference_pool import EngineType
from tidefleet.cluster.arguments import value_of
from tidefleet.economics.memory import GIB

GB = 1e9

VLLM_SIZE = ("--kv-offloading-size", "--kv_offloading_size")
VLLM_BACKEND = ("--kv-offloading-backend", "--kv_offloading_backend")
VLLM_CONNECTOR = ("--kv-transfer-config", "--kv_transfer_config")
SGLANG_ENABLE, SGLANG_SIZE = "--enable-hierarchical-cache", "--hicache-size"
SGLANG_OTHERS = ("--hicache-ratio", "--enable-lmcache")


@dataclass(frozen=True, slots=True)
class Stated:
    """A tier that arguments set up.

    Attributes:
        argument: which one does.
        host_bytes: its room in host memory for a replica; ``None`` where the arguments do not tell.
    """

    argument: str
    host_bytes: float | None


def stated(engine: EngineType, arguments: Sequence[str], *, ranks: int) -> Stated | None:
    """The tier that an engine's arguments set up; ``None`` where they set up none, or the engine is not known.

    Args:
        ranks: tensor-parallel ranks of a replica.
    """
    names = {argument.partition("=")[0] for argument in arguments}
    if engine is EngineType.VLLM:
        if names & set(VLLM_SIZE):
            return Stated(VLLM_SIZE[0], _number(value_of(arguments, *VLLM_SIZE), GIB))
        if names & set(VLLM_CONNECTOR):
            return Stated(VLLM_CONNECTOR[0], _of_connector(value_of(arguments, *VLLM_CONNECTOR)))
    if engine is EngineType.SGLANG:
        size = _number(value_of(arguments, SGLANG_SIZE), GB * ranks)
        if size is not None:
            return Stated(SGLANG_SIZE, size)
        for name in (SGLANG_ENABLE, *SGLANG_OTHERS):
            if name in names:
                return Stated(name, None)
    return None


def _number(text: str, unit: float) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value * unit if math.isfinite(value) and value > 0.0 else None


def _of_connector(text: str) -> float | None:
    """Host memory of a connector of vLLM's own, in bytes."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    extra = found.get("kv_connector_extra_config") if isinstance(found, Mapping) else None
    size = extra.get("cpu_bytes_to_use") if isinstance(extra, Mapping) else None
    return _number(str(size), 1.0) if isinstance(size, int | float | str) and not isinstance(size, bool) else None
