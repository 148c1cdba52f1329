"""What a serving pod says of its engine: addresses, model, precision, and where its KV events are, out of raw JSON.

A pod that the operator made carries ``tidefleet.io/engine``; of any pod the engine's arguments are read, so that a
router finds block sizes and event sockets without being told. Whatever cannot be read is left out and said in ``odd``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidefleet.cluster import records
from tidefleet.cluster.arguments import ENGINE_CONTAINER, arguments_of, containers_of, many_of, value_of
from tidefleet.cluster.labels import ENGINE_ANNOTATION, OPTION_LABEL, ROUTABLE_LABEL, WORKER_INDEX_LABEL
from tidefleet.router.subscribing import Source

PORTS_ANNOTATION = "tidefleet.io/engine-ports"
"""Ports of data-parallel ranks that answer by themselves, e.g. ``8000,8001``; each is an endpoint of its own."""

MOST_RANKS = 64


@dataclass(frozen=True, slots=True)
class Rank:
    """One address that answers requests: a pod's engine, or one data-parallel rank of it.

    Attributes:
        address: ``ip:port``, IPv6 in brackets.
        ready: the pod is Ready and not being deleted.
        leaving: it still answers but takes no new sessions: the operator took its routable label off, or it ends.
        block_tokens: tokens of a KV block; 0 where nobody says.
        events: where it publishes KV events; None where it does not.
        by_priority: its engine serves requests by the priority that they carry.
        served_names: names under which the engine answers; empty where only the pool's model is known.
        option: key of the option of its pool that it is, where the operator made it.
        restarts: of the pod's containers; with one more its engine may hold nothing of what it held.
        odd: what of the pod's words could not be read.
        host_kv_bytes: room of its KV tier in host memory, as the operator tells it; 0: none, ``None``: not told.
    """

    address: str
    namespace: str
    pod: str
    uid: str
    pool: str
    node: str
    rank: int
    ready: bool
    leaving: bool
    accelerator: str
    chips: int
    weights: str
    kv: str
    role: str
    block_tokens: int
    events: Source | None
    served_names: tuple[str, ...]
    adapters: tuple[str, ...]
    config: Mapping[str, Any] | None
    model: str
    option: str = ""
    restarts: int = 0
    by_priority: bool = False
    odd: tuple[str, ...] = ()
    host_kv_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SlimPod:
    """What is kept of a pod: its record, and the command and arguments of its engine's container."""

    record: records.Pod
    arguments: tuple[str, ...]


def slim(raw: Mapping[str, Any]) -> SlimPod | None:
    """What is kept of a Pod's JSON; None of one that has no IP or has ended."""
    record = records.pod(raw)
    if not record.pod_ip or record.phase in ("Succeeded", "Failed"):
        return None
    listed = containers_of(raw.get("spec"))
    chosen = next((one for one in listed if one.get("name") == ENGINE_CONTAINER), listed[0] if listed else {})
    return SlimPod(record, tuple(arguments_of(chosen)))


def ranks_of(pod: SlimPod, pool: str, ports: Sequence[int]) -> tuple[Rank, ...]:
    """The addresses of a pod that serves a pool; none of a worker of a group.

    Args:
        ports: the engine's as its pool says, several for data-parallel ranks; the pod's own annotation wins.
    """
    own, arguments = pod.record, pod.arguments
    if own.labels.get(WORKER_INDEX_LABEL, "0") != "0":
        return ()
    odd: list[str] = []
    facts = _facts(own.annotations.get(ENGINE_ANNOTATION), odd)
    named = _ports(own.annotations.get(PORTS_ANNOTATION), odd)
    one = facts.get("port")
    if not named:
        named = (one,) if isinstance(one, int) and 0 < one < 65536 and len(ports) < 2 else tuple(ports)
    events = _events(arguments, own.pod_ip, odd)
    leaving = own.deleting or (OPTION_LABEL in own.labels and own.labels.get(ROUTABLE_LABEL) != "true")
    return tuple(
        Rank(
            address=f"{_host(own.pod_ip)}:{port}",
            namespace=own.namespace,
            pod=own.name,
            uid=own.uid,
            pool=pool,
            node=own.node,
            rank=index,
            ready=own.ready and not own.deleting,
            leaving=leaving,
            accelerator=_word(facts.get("accelerator")),
            chips=max(1, _int(facts.get("tensorParallel"), sum(own.chips.values()) or 1)),
            weights=_word(facts.get("weights")),
            kv=_word(facts.get("kv")) or "Bf16",
            role=_word(facts.get("role")) or "Aggregated",
            block_tokens=_block_tokens(arguments),
            events=_of_rank(events, index),
            served_names=_names(arguments, facts),
            adapters=tuple(sorted(_adapters(arguments))),
            config=facts["config"] if isinstance(facts.get("config"), dict) else None,
            model=_word(facts.get("model")),
            option=own.labels.get(OPTION_LABEL, ""),
            restarts=own.restarts,
            by_priority=value_of(arguments, "--scheduling-policy") == "priority",
            odd=tuple(odd),
            host_kv_bytes=_bytes(facts.get("hostKvBytes")),
        )
        for index, port in enumerate(named)
    )


def _facts(text: str | None, odd: list[str]) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        odd.append(f"{ENGINE_ANNOTATION} is no JSON object")
        return {}
    return found


def _block_tokens(arguments: Sequence[str]) -> int:
    given = value_of(arguments, "--block-size", "--page-size")
    return int(given) if given.isdecimal() and 0 < int(given[:5]) <= 4096 and len(given) < 6 else 0


def _events(arguments: Sequence[str], ip: str, odd: list[str]) -> Source | None:
    given = value_of(arguments, "--kv-events-config")
    if not given:
        return None
    try:
        config = json.loads(given)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        odd.append("--kv-events-config is no JSON object")
        return None
    if config.get("enable_kv_cache_events") is False or config.get("publisher", "zmq") != "zmq":
        return None
    port = _port_of(config.get("endpoint", "tcp://*:5557"))
    if port is None:
        odd.append('--kv-events-config names an endpoint that is no tcp://HOST:PORT; expected e.g. "tcp://*:5557"')
        return None
    replay = _port_of(config.get("replay_endpoint"))
    host = _host(ip)
    return Source(f"tcp://{host}:{port}", f"tcp://{host}:{replay}" if replay else "")


def _of_rank(source: Source | None, rank: int) -> Source | None:
    """Where a data-parallel rank publishes: each of vLLM's ranks adds its number to both ports."""
    if source is None or rank == 0:
        return source

    def moved(endpoint: str) -> str:
        head, _, port = endpoint.rpartition(":")
        return f"{head}:{int(port) + rank}" if endpoint else ""

    return Source(moved(source.events), moved(source.replay))


def _port_of(endpoint: object) -> int | None:
    if not isinstance(endpoint, str) or not endpoint.startswith("tcp://"):
        return None
    text = endpoint.rpartition(":")[2]
    return int(text) if text.isdecimal() and 0 < int(text) < 65536 else None


def _ports(text: str | None, odd: list[str]) -> tuple[int, ...]:
    if text is None:
        return ()
    parts = [one.strip() for one in text.split(",")]
    if len(parts) > MOST_RANKS or not all(one.isdecimal() and 0 < int(one) < 65536 for one in parts):
        odd.append(f'{PORTS_ANNOTATION} is no list of at most {MOST_RANKS} ports; expected e.g. "8000,8001"')
        return ()
    return tuple(dict.fromkeys(int(one) for one in parts))


def _names(arguments: Sequence[str], facts: Mapping[str, Any]) -> tuple[str, ...]:
    given = many_of(arguments, "--served-model-name")
    word = _word(facts.get("servedModelName"))
    return tuple(dict.fromkeys([*given, *([word] if word else [])]))


def _adapters(arguments: Sequence[str]) -> set[str]:
    """Names of LoRA adapters: ``--lora-modules name=path ...``, or JSON objects with a name (vLLM)."""
    found = set()
    for one in many_of(arguments, "--lora-modules"):
        name = one.partition("=")[0]
        if one.startswith("{"):
            try:
                name = _word(json.loads(one).get("name"))
            except (ValueError, AttributeError, RecursionError):
                name = ""
        if name:
            found.add(name)
    return found


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


def _word(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= 512 else ""


def _bytes(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**60 else None


def _int(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536 else default
