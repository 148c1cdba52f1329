"""Times of prefills and decode steps by aiconfigurator-core, from the optional package of that name.

The package interpolates tables of kernels that were measured one by one. Its errors in serving were measured for one
version of it (``economics.group_table``), so no other version is asked. It is imported when somebody asks, not before.
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tidefleet.economics.efficiency import generation_of
from tidefleet.economics.evidence import Correction
from tidefleet.economics.groups import Group
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill

PACKAGE, MEASURED_VERSION = "aiconfigurator-core", "0.12.0"

CONTEXT_TOKENS = 2048
"""Context and prompt length at which its times are put over the roofline's. Over the runs that it can predict, factors
taken there are off by as much as times at each run's own lengths."""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

_MODELS: Mapping[str, str] = {
    "deepseek-r1": "deepseek-ai/DeepSeek-R1",
    "gpt-oss-120b": "openai/gpt-oss-120b",
    "llama-3.1-70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama-3.1-8b": "meta-llama/Meta-Llama-3.1-8B",
    "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B",
    "qwen3-32b": "Qwen/Qwen3-32B",
}
"""The package's names of the models that groups are named by."""

_SYSTEMS: Mapping[str, str] = {
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "b200-sxm": "b200_sxm",
    "b300-sxm": "b300_sxm",
    "gb200-nvl72": "gb200",
    "gb300-nvl72": "gb300",
}
_DENSE: Mapping[str, str] = {"Bf16": "bfloat16", "Fp8": "fp8", "Fp4": "nvfp4"}
_BLOCKS: Mapping[str, str] = {"Bf16": "bfloat16", "Fp8": "fp8_block", "Fp4": "nvfp4"}
_CACHE: Mapping[str, str] = {"Bf16": "bfloat16", "Fp8": "fp8"}


def why_not() -> str:
    """Why the package cannot be asked, for people; empty where it can."""
    try:
        version = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return f"{PACKAGE} is not installed; it comes with tidefleet[aiconfigurator]"
    if version != MEASURED_VERSION:
        return f"{PACKAGE} is {version}; its error was measured for {MEASURED_VERSION} only"
    return ""


@dataclass(slots=True)
class KernelTables:
    """The package's times as factors on the roofline; remembers answers, of which each takes about half a second."""

    _known: dict[Replica, Correction | None] = field(default_factory=dict)

    def __call__(self, group: Group, replica: Replica) -> Correction | None:
        """Factors on the times of a replica of this group; ``None`` where the package has no tables for it."""
        if replica not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[replica] = _correction(group, replica)
        return self._known[replica]


_MOST_KNOWN = 512


def kernel_tables() -> KernelTables | None:
    """The package's times, or ``None`` where it is not installed in the version that was measured."""
    return None if why_not() else KernelTables()


def _correction(group: Group, replica: Replica) -> Correction | None:
    if group.model not in _MODELS or replica.accelerator.name not in _SYSTEMS:
        return None
    for name in ("aiconfigurator_core", "aiconfigurator"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it tells of every table that it falls back to
    try:
        engine = _engine(group, replica)
        steps = [engine.predict_decode_latency(batch, CONTEXT_TOKENS) / 1e3 for batch in BATCHES]
        first = engine.predict_prefill_latency(1, CONTEXT_TOKENS) / 1e3
    except Exception:  # no one class of it covers all that its tables may lack
        return None
    ranks = float(replica.data_parallel)
    modelled = decode_step(replica, ranks * np.array(BATCHES, dtype=float), float(CONTEXT_TOKENS)).seconds
    factors = [float(step / ours) for step, ours in zip(steps, modelled, strict=True)]
    into = first / float(prefill(replica, float(CONTEXT_TOKENS), 0.0).seconds[0])
    if not all(math.isfinite(one) and one > 0.0 for one in (*factors, into)):
        return None
    return Correction(
        "AIConfigurator",
        sigma=1.0,
        decode=tuple((float(batch), factor) for batch, factor in zip(BATCHES, factors, strict=True)),
        prefill=into,
        source=f"{PACKAGE} {MEASURED_VERSION}",
    )


def _engine(group: Group, replica: Replica) -> Any:
    """The package's engine for a replica; whatever it raises where it has no such model, system or table."""
    core = importlib.import_module("aiconfigurator_core")
    build = importlib.import_module("aiconfigurator_core.sdk.engine")
    systems = str(Path(str(core.__file__)).parent / "systems")
    spec = build.compile_engine(
        _MODELS[group.model],
        _SYSTEMS[replica.accelerator.name],
        replica.engine.lower(),
        tp_size=replica.tp,
        attention_dp_size=replica.data_parallel,
        systems_path=systems,
        kvcache_quant_mode=_CACHE[replica.kv],
        **_precisions(replica),
    )
    return core.AicEngine.from_spec(spec, systems)


def _precisions(replica: Replica) -> dict[str, Any]:
    """How weights are stored and multiplied, and how experts are spread, in the package's words."""
    model, weights = replica.model, replica.weights
    if not model.is_moe:
        return {"gemm_quant_mode": _DENSE[weights]}
    widths = {
        "moe_tp_size": replica.expert_chips // max(1, replica.expert_parallel),
        "moe_ep_size": replica.expert_parallel,
    }
    if model.only_experts_quantised(weights):
        hopper = generation_of(replica.accelerator.name) == "Hopper"
        experts = "w4a16_mxfp4" if hopper else "w4a8_mxfp4_mxfp8"
        return {"gemm_quant_mode": "bfloat16", "moe_quant_mode": experts, **widths}
    return {"gemm_quant_mode": _BLOCKS[weights], "moe_quant_mode": _BLOCKS[weights], **widths}
