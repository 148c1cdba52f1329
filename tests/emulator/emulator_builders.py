"""Small values that emulator tests are made of."""

from __future__ import annotations

import json
from typing import Any

from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.architecture import Architecture, architecture_from_config
from tidefleet.economics.replica import Replica
from tidefleet.emulator import Engine, EngineFacts, SimulatedPod

H100 = Accelerator(
    name="h100-sxm",
    memory_bytes=85.0e9,
    memory_bytes_per_second=3.35e12,
    flops={"Bf16": 989e12, "Fp8": 1979e12},
    scale_up_bytes_per_second=450e9,
    scale_up_domain=8,
    scale_out_bytes_per_second=50e9,
    chips_per_node=8,
)
LLAMA_8B = architecture_from_config(
    "llama-3.1-8b",
    {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
    },
)
ACCELERATORS = {H100.name: H100}
MODELS = {LLAMA_8B.name: LLAMA_8B}


def a_replica(model: Architecture = LLAMA_8B, chips: int = 1, weights: str = "Bf16") -> Replica:
    """A model on H100s."""
    return Replica(model=model, accelerator=H100, chips=chips, weights=weights, kv="Bf16")


def an_engine(*, now: float = 0.0, max_sequences: int = 0, host_kv_bytes: int = 0) -> Engine:
    """An engine of Llama 3.1 8B on one H100."""
    facts = EngineFacts(a_replica(), "llama-3.1-8b", 8000, max_sequences, host_kv_bytes=host_kv_bytes)
    return Engine(facts, now)


def an_annotation(**changes: Any) -> str:
    """The engine annotation, with fields changed."""
    return json.dumps(
        {
            "model": "llama-3.1-8b",
            "accelerator": "h100-sxm",
            "tensorParallel": 1,
            "weights": "Bf16",
            "kv": "Bf16",
            "port": 8000,
            **changes,
        }
    )


def a_pod(
    name: str = "chat-0",
    *,
    ip: str = "127.77.0.2",
    pool: str = "chat",
    annotation: str | None = None,
    routable: str | None = "true",
    **state: Any,
) -> SimulatedPod:
    """A ready pod of pool prod/chat."""
    labels = {"tidefleet.io/pool": pool} | ({} if routable is None else {"tidefleet.io/routable": routable})
    annotations = {"tidefleet.io/engine": an_annotation() if annotation is None else annotation}
    return SimulatedPod("prod", name, f"uid-{name}", ip, labels, annotations, **state)
