"""KV tiers in an engine's arguments: what a template sets up by itself, and what we set up for the plan.

vLLM (0.14 and newer): ``--kv-offloading-size`` is the room in host memory in GiB, of all tensor-parallel ranks
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
from typing import Any

from tidefleet.api.inference_pool import EngineType
from tidefleet.cluster.arguments import value_of
from tidefleet.cluster.records import quantity
from tidefleet.economics.memory import GIB

GB = 1e9

VLLM_SIZE = ("--kv-offloading-size", "--kv_offloading_size")
VLLM_BACKEND = ("--kv-offloading-backend", "--kv_offloading_backend")
VLLM_CONNECTOR = ("--kv-transfer-config", "--kv_transfer_config")
SGLANG_ENABLE, SGLANG_SIZE = "--enable-hierarchical-cache", "--hicache-size"
SGLANG_OTHERS = ("--hicache-ratio", "--enable-lmcache")
SGLANG_NO_TREE = "--disable-radix-cache"
SGLANG_MODE = "--disaggregation-mode"


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
    names = {argument.partition("=")[0].partition(".")[0] for argument in arguments}  # vLLM: --NAME.KEY VALUE, too
    if engine is EngineType.VLLM:
        if names & set(VLLM_SIZE):
            return Stated(VLLM_SIZE[0], _number(value_of(arguments, *VLLM_SIZE), GIB))
        if names & set(VLLM_CONNECTOR):
            return Stated(VLLM_CONNECTOR[0], _of_connector(value_of(arguments, *VLLM_CONNECTOR)))
    if engine is EngineType.SGLANG:
        size = _number(value_of(arguments, SGLANG_SIZE), GB * ranks)
        if size is not None and SGLANG_ENABLE in names:
            return Stated(SGLANG_SIZE, size)
        for name in (SGLANG_ENABLE, SGLANG_SIZE, *SGLANG_OTHERS):
            if name in names:
                return Stated(name, None)
    return None


def forbidding(engine: EngineType, arguments: Sequence[str]) -> str | None:
    """The argument beside which an engine does not start with a tier; ``None`` where there is none.

    SGLang's tier hangs on its radix tree (``server_args.py``), which engines that only decode do without.
    """
    if engine is not EngineType.SGLANG:
        return None
    if SGLANG_NO_TREE in arguments:
        return SGLANG_NO_TREE
    return f"{SGLANG_MODE} decode" if value_of(arguments, SGLANG_MODE) == "decode" else None


def arguments_for(engine: EngineType, size: float, *, ranks: int) -> list[str]:
    """The arguments for a tier of so many bytes in host memory; none for a size of 0.

    SGLang takes whole GB of each rank: less than asked for by up to one GB a rank, and at least one.
    """
    if size <= 0.0:
        return []
    if engine is EngineType.VLLM:
        return [f"{VLLM_SIZE[0]}={size / GIB:.6g}", f"{VLLM_BACKEND[0]}=native"]
    return [SGLANG_ENABLE, f"{SGLANG_SIZE}={max(1, math.floor(size / GB / ranks + 1e-9))}"]


def with_memory(resources: Mapping[str, Any], size: float) -> dict[str, Any]:
    """A container's resources that hold a tier of this size: its request grows by it, up to its limit.

    A container with a limit alone requests that already. One with neither requests the tier.
    """
    limit, request = quantity(memory_of(resources, "limits")), quantity(memory_of(resources, "requests"))
    if not size or (limit and not request):
        return dict(resources)
    wanted = request + math.ceil(size)
    return {
        **resources,
        "requests": {**(resources.get("requests") or {}), "memory": str(min(wanted, limit) if limit else wanted)},
    }


def memory_of(resources: Mapping[str, Any], which: str) -> object:
    """The memory that a container's resources ask for or are limited to, as it is written there."""
    listed = resources.get(which)
    return listed.get("memory") if isinstance(listed, Mapping) else None


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
