"""KV tiers as arguments of engines state them."""

from __future__ import annotations

import pytest

from tidefleet.api.inference_pool import EngineType
from tidefleet.controller.engine_tiers import Stated, stated

GIB = 2**30


@pytest.mark.parametrize(
    ("engine", "arguments", "expected"),
    [
        ("VLLM", ["--model=m"], None),
        ("VLLM", ["--kv-offloading-size=64"], Stated("--kv-offloading-size", 64 * GIB)),
        ("VLLM", ["--kv_offloading_size", "1.5"], Stated("--kv-offloading-size", 1.5 * GIB)),
        ("VLLM", ["--kv-offloading-size=64", "--kv-offloading-size=8"], Stated("--kv-offloading-size", 8 * GIB)),
        ("VLLM", ["--kv-offloading-size=$(SIZE)"], Stated("--kv-offloading-size", None)),
        ("VLLM", ["--kv-transfer-config", '{"kv_connector": "NixlConnector"}'], Stated("--kv-transfer-config", None)),
        (
            "VLLM",
            ['--kv-transfer-config={"kv_connector_extra_config": {"cpu_bytes_to_use": 8589934592}}'],
            Stated("--kv-transfer-config", 8 * GIB),
        ),
        ("VLLM", ["--kv-transfer-config=[1"], Stated("--kv-transfer-config", None)),
        ("VLLM", ["--kv-transfer-config.kv_connector=NixlConnector"], Stated("--kv-transfer-config", None)),
        ("VLLM", ["--hicache-size=30"], None),
        ("SGLANG", ["--enable-hierarchical-cache", "--hicache-size", "30"], Stated("--hicache-size", 2 * 30e9)),
        ("SGLANG", ["--enable-hierarchical-cache"], Stated("--enable-hierarchical-cache", None)),
        ("SGLANG", ["--enable-hierarchical-cache", "--hicache-size=0"], Stated("--enable-hierarchical-cache", None)),
        ("SGLANG", ["--hicache-size=30"], Stated("--hicache-size", None)),  # without what enables it
        ("SGLANG", ["--enable-lmcache"], Stated("--enable-lmcache", None)),
        ("OTHER", ["--kv-offloading-size=64"], None),
    ],
)
def test_what_arguments_state(engine: str, arguments: list[str], expected: Stated | None) -> None:
    assert stated(EngineType[engine], arguments, ranks=2) == expected
