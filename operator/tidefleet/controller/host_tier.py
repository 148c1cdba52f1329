"""Who sets a pool's engines up with the KV tier in host memory: we by their arguments, the template, or the owner."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tidefleet import catalogue
from tidefleet.api import InferencePool
from tidefleet.api.inference_pool import EngineType
from tidefleet.api.inference_pool_status import TierSetBy
from tidefleet.cluster.arguments import arguments_of
from tidefleet.cluster.records import quantity
from tidefleet.controller.engine_tiers import GB, arguments_for, forbidding, memory_of, stated
from tidefleet.controller.template import UnusableTemplate, engine_container, plans_host_tier
from tidefleet.economics.memory import GIB
from tidefleet.planning.from_api import UnknownModel, architecture_of

ENGINE_BYTES = 16.0 * GIB
"""Host memory that an engine is taken to need beside its KV tier where a container's memory is limited: assumed."""

FIRST_VERSION: Mapping[EngineType, tuple[int, ...]] = {EngineType.VLLM: (0, 14), EngineType.SGLANG: (0, 5, 9)}
"""Versions from which on engines have the arguments, and tell what they find in the tier: one that nobody can see would
be paid for and not counted on. A version that the owner does not name is taken to be newer."""

FIRST_VLLM_MIXED = (0, 23)
"""Version from which on vLLM keeps a tier beside layers of several kinds. Before, models with state-space layers do not
start with one (vLLM issue 36463), and those with windowed layers keep every layer's cache in full (issue 41830)."""

OVER_ROOM = 1.25
"""SGLang does not start with a host tier that is smaller than the room on its devices; that is known within 5 %."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class HostSetup:
    """How the engines of a pool come by their tier in host memory.

    Attributes:
        room: bytes of a replica that the template gives it, where it does.
        most: bytes that it may have where we set it; infinite where nothing limits it.
        because: why it is not we who set it, or what limits it; empty where there is nothing to say.
    """

    by: TierSetBy
    room: float | None = None
    most: float = math.inf
    because: str = ""


def host_setup(pool: InferencePool) -> HostSetup:
    """Who sets the tier up, by the pool's spec alone."""
    engine, template = pool.spec.serving.engine, pool.spec.serving.template
    if template is None:
        return HostSetup(TierSetBy.OWNER, because="adopted workloads keep their arguments")
    if engine.type is EngineType.OTHER:
        return HostSetup(TierSetBy.OWNER, because="arguments of engines of type Other are not known")
    try:
        container = engine_container(pool, template)
    except UnusableTemplate:
        return HostSetup(TierSetBy.OWNER, because="the template has no engine's container")
    found = stated(engine.type, arguments_of(container), ranks=narrowest(pool))
    if found is not None and found.host_bytes:
        return HostSetup(TierSetBy.TEMPLATE, room=found.host_bytes, because=f"the template sets {found.argument}")
    if found is not None:
        return HostSetup(TierSetBy.OWNER, because=f"the template sets {found.argument}, which does not tell its room")
    forbids = forbidding(engine.type, arguments_of(container))
    if forbids is not None:
        return HostSetup(TierSetBy.OWNER, because=f"the template sets {forbids}, beside which {engine.type} has none")
    if not container.get("args") and not container.get("command"):
        return HostSetup(TierSetBy.OWNER, because="the template has no arguments, and ours would replace the image's")
    version = _VERSION.match(str(engine.version or ""))
    mixed = version is not None and engine.type is EngineType.VLLM and _has_several_kinds_of_layers(pool)
    first = FIRST_VLLM_MIXED if mixed else FIRST_VERSION[engine.type]
    named = tuple(int(one) for one in version.groups() if one) if version is not None else first
    if named < first[: len(named)]:
        needed = ".".join(map(str, first)) + (
            ", which a model with windowed or state-space layers needs" if mixed else ""
        )
        return HostSetup(TierSetBy.OWNER, because=f"{engine.type} {engine.version} is older than {needed}")
    limit = _memory_limit(container)
    if not limit:
        return HostSetup(TierSetBy.OPERATOR)
    most = max(0.0, limit - ENGINE_BYTES)
    return HostSetup(
        TierSetBy.OPERATOR,
        most=most,
        because=f"the engine's limits.memory of {limit / GIB:.5g} GiB leaves {most / GIB:.5g} GiB beside "
        f"{ENGINE_BYTES / GIB:g} GiB for the engine itself",
    )


def _has_several_kinds_of_layers(pool: InferencePool) -> bool:
    try:
        return architecture_of(pool, catalogue.models()).windowed_layers > 0
    except UnknownModel:
        return False


def narrowest(pool: InferencePool) -> int:
    """The fewest tensor-parallel ranks that a replica may have: what is said of each rank is at least so many times."""
    widths = [min(one.tensor_parallel, default=1) for one in pool.spec.accelerators]
    return min(widths, default=1)


def is_ours(pool: InferencePool) -> bool:
    """Whether the plan says how large the host tier is, and we set it."""
    return plans_host_tier(pool) and host_setup(pool).by is TierSetBy.OPERATOR


def whole(engine: EngineType, most: float) -> float:
    """The largest size that arguments say without rounding: whole GiB (vLLM) or GB (SGLang), if it is one or more."""
    unit = GIB if engine is EngineType.VLLM else GB
    return math.floor(most / unit) * unit if most >= unit else most


def words(pool: InferencePool, size: float, named: float, *, ranks: int, group: int = 1) -> tuple[TierSetBy, str]:
    """Who sets a host tier of this size up, and that in words.

    Args:
        size: bytes of a replica by the plan.
        named: those that the tier's ``maxBytesPerReplica`` names.
        ranks: tensor-parallel ranks of a replica; ``group`` its pods.
    """
    found = host_setup(pool)
    if found.by is TierSetBy.OPERATOR and group > 1:
        return TierSetBy.OWNER, "set the engines up with it: a replica on several nodes keeps its arguments"
    if found.by is TierSetBy.TEMPLATE:
        room = found.room or 0.0
        other = f", not the {named / GIB:.5g} that the tier names" if abs(room - named) > 0.01 * named else ""
        return found.by, f"{found.because}: {room / GIB:.5g} GiB a replica{other}"
    if found.by is TierSetBy.OWNER:
        return found.by, f"set the engines up with it: {found.because}"
    less = f"; {found.because}" if found.most < named else ""
    if not is_ours(pool):
        return TierSetBy.OWNER, "set the engines up with it"
    if not size:
        return found.by, f"engines are started without it{less}"
    arguments = " ".join(arguments_for(pool.spec.serving.engine.type, size, ranks=ranks))
    return found.by, f"engines are started with {arguments}{less}"


def _memory_limit(container: Mapping[str, Any]) -> int:
    """Bytes; 0 where there is none."""
    resources = container.get("resources")
    return quantity(memory_of(resources, "limits")) if isinstance(resources, Mapping) else 0
