"""Which engine a pod runs, read from its ``tidefleet.io/engine`` annotation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tidefleet.cluster.labels import ENGINE_ANNOTATION
from tidefleet.economics.accelerator import BYTES_PER_VALUE, Accelerator
from tidefleet.economics.architecture import Architecture, UnusableConfig, architecture_from_config
from tidefleet.economics.replica import Replica

_EXAMPLE = (
    '{"model": "llama-3.3-70b", "accelerator": "h200-sxm", "tensorParallel": 2, '
    '"weights": "Fp8", "kv": "Bf16", "port": 8000}'
)


_STORED_AS = {"Fp16": "Bf16", "Int8": "Fp8", "Mxfp4": "Fp4", "Int4": "Fp4"}


class Pod(Protocol):
    """What the emulator needs of a pod; ``tidefleet.cluster``'s records and `SimulatedPod` both have it."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def annotations(self) -> Mapping[str, str]: ...
    @property
    def ready(self) -> bool: ...
    @property
    def pod_ip(self) -> str: ...
    @property
    def deleting(self) -> bool: ...
    @property
    def restarts(self) -> int: ...


@dataclass(frozen=True, slots=True)
class SimulatedPod:
    """A pod without a cluster."""

    namespace: str
    name: str
    uid: str
    pod_ip: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ready: bool = True
    deleting: bool = False
    restarts: int = 0


class UnusableAnnotation(ValueError):
    """A pod's engine annotation cannot be read; the message names pod, field, value and expectation."""


@dataclass(frozen=True, slots=True)
class KvEvents:
    """Where an engine publishes what its prefix cache holds; ``replay_port`` 0: it replays nothing."""

    port: int
    replay_port: int = 0


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What one pod's engine is.

    Attributes:
        served_name: model name that clients send and metrics carry.
        port: TCP port on the pod's address.
        max_sequences: most sequences in one batch, as ``--max-num-seqs``; 0 = as the cost model.
        kv_blocks: blocks of the prefix cache, as ``--num-gpu-blocks-override``; 0 = what the memory holds.
        kv_events: None: it publishes none.
        host_kv_bytes: room of its KV tier in host memory, as ``--kv-offloading-size``; 0 = it has none.
    """

    replica: Replica
    served_name: str
    port: int
    max_sequences: int = 0
    kv_blocks: int = 0
    kv_events: KvEvents | None = None
    host_kv_bytes: int = 0


def engine_facts(
    pod: Pod, accelerators: Mapping[str, Accelerator], models: Mapping[str, Architecture]
) -> EngineFacts | None:
    """The engine a pod asks for; ``None`` when it carries no annotation and so runs none.

    The annotation is JSON with ``model`` and ``accelerator`` (catalogue names), and optionally ``tensorParallel`` (1),
    ``weights`` (as published), ``kv`` (``Bf16``), ``port`` (8000), ``servedModelName``, ``maxNumSeqs``,
    ``numGpuBlocksOverride``, ``hostKvBytes``, ``kvEvents`` (``{"port": 5557, "replayPort": 5558}``) and ``config``: the
    fields of a Hugging Face config.json for a model that the catalogue lacks.

    Raises:
        UnusableAnnotation: naming the field.
    """
    text = pod.annotations.get(ENGINE_ANNOTATION)
    if text is None:
        return None
    where = f"Pod {pod.namespace}/{pod.name}: {ENGINE_ANNOTATION}"
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise UnusableAnnotation(f"{where} is not JSON ({error}); expected e.g. {_EXAMPLE}") from None
    if not isinstance(raw, dict):
        raise UnusableAnnotation(f"{where} is not an object; expected e.g. {_EXAMPLE}")
    name = raw.get("model")
    if not isinstance(name, str) or not name:
        raise UnusableAnnotation(f"{where}.model is {name!r}; expected a model's name, e.g. {_EXAMPLE}")
    model = _model(where, name, raw.get("config"), models)
    accelerator = accelerators.get(str(raw.get("accelerator")))
    if accelerator is None:
        raise UnusableAnnotation(
            f"{where}.accelerator is {raw.get('accelerator')!r}; expected a name of the catalogue, e.g. h200-sxm"
        )
    weights = _precision(where, "weights", raw.get("weights", model.native_weights))
    kv = _precision(where, "kv", raw.get("kv", "Bf16"))
    if accelerator.compute_precision(weights) is None or "Bf16" not in accelerator.flops:
        raise UnusableAnnotation(f"{where}: no 16-bit compute figure is known for {accelerator.name}")
    served = raw.get("servedModelName", name)
    if not isinstance(served, str) or not served:
        raise UnusableAnnotation(f"{where}.servedModelName is {served!r}; expected a name, e.g. llama-3.3-70b")
    chips = _integer(where, "tensorParallel", raw.get("tensorParallel", 1), 1, 1024)
    if chips > 1 and not accelerator.link_bytes_per_second(chips):
        raise UnusableAnnotation(f"{where}: no link bandwidth is known for {chips} chips of {accelerator.name}")
    return EngineFacts(
        replica=Replica(model=model, accelerator=accelerator, chips=chips, weights=weights, kv=kv),
        served_name=served,
        port=_integer(where, "port", raw.get("port", 8000), 1, 65535),
        max_sequences=_integer(where, "maxNumSeqs", raw.get("maxNumSeqs", 0), 0, 1_000_000),
        kv_blocks=_integer(where, "numGpuBlocksOverride", raw.get("numGpuBlocksOverride", 0), 0, 10_000_000),
        kv_events=_kv_events(where, raw.get("kvEvents")),
        host_kv_bytes=_integer(where, "hostKvBytes", raw.get("hostKvBytes", 0), 0, 10**18),
    )


def _kv_events(where: str, raw: object) -> KvEvents | None:
    if raw is None:
        return None
    if not isinstance(raw, Mapping):
        raise UnusableAnnotation(f'{where}.kvEvents is {raw!r}; expected e.g. {{"port": 5557, "replayPort": 5558}}')
    return KvEvents(
        _integer(where, "kvEvents.port", raw.get("port"), 1, 65535),
        _integer(where, "kvEvents.replayPort", raw.get("replayPort", 0), 0, 65535),
    )


def _model(where: str, name: str, config: object, models: Mapping[str, Architecture]) -> Architecture:
    if isinstance(config, Mapping):
        try:
            return architecture_from_config(name, config)
        except UnusableConfig as error:
            raise UnusableAnnotation(f"{where}.config: {error}") from None
    if name not in models:
        raise UnusableAnnotation(f"{where}.model is {name!r}; expected a name of the catalogue, or a config beside it")
    return models[name]


def _precision(where: str, key: str, value: Any) -> str:
    stored = _STORED_AS.get(value, value) if isinstance(value, str) else value
    if stored not in BYTES_PER_VALUE:
        known = ", ".join([*BYTES_PER_VALUE, *_STORED_AS])
        raise UnusableAnnotation(f"{where}.{key} is {value!r}; expected one of {known}")
    return str(stored)


def _integer(where: str, key: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UnusableAnnotation(f"{where}.{key} is {value!r}; expected a whole number from {low} to {high}")
    return value
