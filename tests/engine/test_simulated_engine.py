"""The simulator's engine beside a real vLLM: speeds fitted to one load foretell another."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from engine_loads import Asked, Speeds, Took, drawn, fitted, measured, one_after_another, simulated

from localcluster.processes import Processes
from realengine import engine, environment, model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]
CHUNK, BATCH = 512, 16
NEAR = 0.2
TRIES = 3
"""Other work on a shared machine changes an engine's speed between two loads; both are measured again then."""


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[engine.Engine]:
    environment.ensure()
    directory = model.write_model(tmp_path_factory.mktemp("model") / "small", hidden=512, layers=8)
    processes = Processes(Path(tempfile.mkdtemp(prefix="tidefleet-engine-")))
    try:
        found = engine.start(processes, "vllm", directory, served_name="small", batched_tokens=CHUNK)
        engine.wait(processes, found)
        measured(found.address, "small", drawn(np.random.default_rng(0), 6, 4.0, (32, 600), (8, 16)))
        yield found
    finally:
        processes.close()


def kv_tokens(one: engine.Engine) -> float:
    """KV room of an engine, by its own word."""
    page = httpx.get(f"http://{one.address}/metrics", timeout=10).text
    found = re.search(r'^vllm:cache_config_info\{.*num_gpu_blocks="(\d+)".*\}', page, re.MULTILINE)
    assert found, page[:2000]
    return float(found[1]) * engine.BLOCK_TOKENS


def means(took: Sequence[Took]) -> np.ndarray:
    return np.array([[one.ttft, one.tpot] for one in took]).mean(axis=0)


def test_speeds_fitted_to_one_load_foretell_first_tokens_and_paces_of_another(vllm: engine.Engine) -> None:
    """Fitted to a ramp from one request at a time to many; then longer answers, and prompts that go on from others."""
    room = kv_tokens(vllm)

    def run(load: Sequence[Asked], speeds: Speeds) -> list[Took]:
        return simulated(load, speeds, block=engine.BLOCK_TOKENS, kv_tokens=room, max_batch=BATCH)

    told = []
    for number in range(TRIES):
        rng = np.random.default_rng(number)
        first = one_after_another(drawn(rng, 15, 0.8, (32, 900), (16, 64)), drawn(rng, 45, 3.0, (32, 900), (16, 64)))
        took = measured(vllm.address, "small", first)
        speeds = fitted(took, partial(run, first), Speeds(0.01, 0.01, 0.0003, 0.01, 0.001, CHUNK))
        second = drawn(rng, 60, 3.0, (200, 700), (24, 64), turns=2)
        real, ours = means(measured(vllm.address, "small", second)), means(run(second, speeds))
        fit = means(run(first, speeds)) / means(took)
        told.append(
            f"fitted {speeds}, simulated over measured {fit.round(3).tolist()}; the other load: measured TTFT "
            f"{real[0]:.3f} s, TPOT {real[1]:.4f} s, simulated {ours[0]:.3f} and {ours[1]:.4f}: "
            f"{(ours / real).round(3).tolist()}"
        )
        print(told[-1])
        if (np.abs(ours / real - 1.0) <= NEAR).all():
            return
    pytest.fail("\n".join(told))
