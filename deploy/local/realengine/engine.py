"""One vLLM engine on loopback, as a process of the caller's."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from localcluster.errors import LocalClusterError
from localcluster.ports import free_ports
from localcluster.processes import Processes
from realengine import environment

BLOCK_TOKENS = 32
"""Block sizes are multiples of 32 on a CPU."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine: its process, and its ports for requests, KV events and their replay."""

    name: str
    port: int
    events_port: int
    replay_port: int
    served_name: str

    @property
    def address(self) -> str:
        """Of its HTTP server."""
        return f"127.0.0.1:{self.port}"

    @property
    def arguments(self) -> list[str]:
        """What a pod's container would be started with, as far as a router reads it."""
        return ["--block-size", str(BLOCK_TOKENS), "--kv-events-config", self.events_config]

    @property
    def events_config(self) -> str:
        """``--kv-events-config``."""
        return json.dumps(
            {
                "enable_kv_cache_events": True,
                "publisher": "zmq",
                "endpoint": f"tcp://*:{self.events_port}",
                "replay_endpoint": f"tcp://*:{self.replay_port}",
                "topic": f"kv@{self.address}@{self.served_name}",
            }
        )


def start(
    processes: Processes,
    name: str,
    model: Path,
    *,
    served_name: str = "tiny",
    shared_store: Path | None = None,
    batched_tokens: int | None = None,
) -> Engine:
    """Start an engine; `wait` until it answers (35 to 60 s on two cores).

    Args:
        shared_store: directory through which engines hand KV to each other; see ``plugin/prefix_connector.py``.
        batched_tokens: of a step, at most; vLLM's own choice unless given.

    Raises:
        LocalClusterError: vLLM cannot be had.
    """
    python = environment.ensure()
    port, events_port, replay_port = free_ports(3)
    engine = Engine(name, port, events_port, replay_port, served_name)
    command = [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--served-model-name", served_name, "--host", "127.0.0.1", "--port", str(engine.port)),
        *("--load-format", "dummy", "--enforce-eager", "--enable-prefix-caching", "--seed", "0"),
        "--enable-prompt-tokens-details",
        *("--block-size", str(BLOCK_TOKENS), "--max-model-len", "4096", "--max-num-seqs", "16"),
        *("--kv-events-config", engine.events_config),
    ]
    if batched_tokens is not None:
        command += ["--max-num-batched-tokens", str(batched_tokens)]
    if shared_store is not None:
        connector = {
            "kv_connector": "PrefixConnector",
            "kv_connector_module_path": "prefix_connector",
            "kv_role": "kv_both",
            "kv_connector_extra_config": {"shared_storage_path": str(shared_store)},
        }
        command += ["--kv-transfer-config", json.dumps(connector)]
    variables = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONPATH": str(Path(__file__).parent / "plugin"),
    }
    processes.start(name, command, env=variables, grace_seconds=10.0)
    return engine


def wait(processes: Processes, engine: Engine, *, limit_seconds: float = 300.0) -> None:
    """Until it answers.

    Raises:
        LocalClusterError: it ended, or took too long; the end of its log is in the message.
    """
    end = time.monotonic() + limit_seconds
    while time.monotonic() < end and processes.exit_codes().get(engine.name) is None:
        try:
            with urllib.request.urlopen(f"http://{engine.address}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.5)
    raise LocalClusterError(f"{engine.name} does not answer:\n{processes.log_tail(engine.name)}")
