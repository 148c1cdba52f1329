"""Round accelerators and models whose times can be computed by hand, and the shipped ones."""

from __future__ import annotations

import csv
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tidefleet import catalogue
from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.efficiency import Efficiency
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import TokenShape
from tidefleet.planning.from_api import accelerator_of

MODELS = catalogue.models()
ACCELERATORS = {name: accelerator_of(kind) for name, kind in catalogue.accelerator_types().items()}
NATIVE = {name: model.native_weights for name, model in MODELS.items()}

models = st.sampled_from([MODELS[name] for name in sorted(MODELS)])
accelerators = st.sampled_from([ACCELERATORS[name] for name in sorted(ACCELERATORS)])
precisions = st.sampled_from(["Bf16", "Fp8", "Fp4"])


def an_accelerator(**changes: Any) -> Accelerator:
    """100 TFLOP/s at 16 bits, 200 at 8, 1 TB/s, 100 GB, links of 100 GB/s in a domain of eight."""
    facts: dict[str, Any] = {
        "name": "round",
        "memory_bytes": 100e9,
        "memory_bytes_per_second": 1e12,
        "flops": {"Bf16": 100e12, "Fp8": 200e12},
        "scale_up_bytes_per_second": 100e9,
        "scale_up_domain": 8,
        "scale_out_bytes_per_second": 10e9,
        "chips_per_node": 8,
    }
    return Accelerator(**{**facts, **changes})


def a_model(**changes: Any) -> Architecture:
    """A dense model of 10 billion parameters: 10 layers, 10 query and 2 KV heads of 100, width 1,000."""
    facts: dict[str, Any] = {
        "name": "round-10b",
        "layers": 10,
        "hidden_size": 1000,
        "heads": 10,
        "kv_heads": 2,
        "head_dim": 100,
        "parameters": 10e9,
        "active_parameters": 10e9,
        "vocabulary": 100_000,
        "context_tokens": 100_000,
    }
    return Architecture(**{**facts, **changes})


def a_moe(**changes: Any) -> Architecture:
    """10 billion parameters, 8 of them in 8 experts of which a token uses 2."""
    return a_model(
        **{
            "name": "round-moe",
            "active_parameters": 4e9,
            "expert_parameters": 8e9,
            "experts": 8,
            "experts_per_token": 2,
            "moe_layers": 10,
            **changes,
        }
    )


def a_replica(
    model: Architecture | None = None,
    accelerator: Accelerator | None = None,
    *,
    chips: int = 1,
    weights: str = "Bf16",
    kv: str = "Bf16",
    efficiency: Efficiency | None = None,
) -> Replica:
    """A replica of the round model on the round accelerator."""
    return Replica(model or a_model(), accelerator or an_accelerator(), chips, weights, kv, efficiency or Efficiency())


def served(replica: Replica, shape: TokenShape, *objectives: Any) -> Estimate:
    """The operating point of a replica that can serve."""
    found = estimate(replica, shape, objectives)
    assert isinstance(found, Estimate), found
    return found


@cache
def published(name: str) -> tuple[dict[str, str], ...]:
    """The rows of a table of published measurements; the test is skipped where the tables are not at hand."""
    beside = Path(__file__).parents[3] / "shared" / "catalog"
    where = Path(os.environ.get("TIDEFLEET_CATALOG_DIR", beside)) / name
    if not where.is_file():
        pytest.skip(f"{name} is not at hand; set TIDEFLEET_CATALOG_DIR to the directory of published measurements")
    with where.open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
