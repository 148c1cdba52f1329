"""Envoy on loopback, from one of the configurations in deploy/envoy with its addresses replaced."""

import copy
import json
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from localcluster.binaries import find
from localcluster.errors import LocalClusterError
from localcluster.ports import free_ports
from localcluster.processes import Processes

CONFIGURATIONS = Path(__file__).resolve().parents[2] / "envoy"
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Envoy:
    """A running Envoy; `Processes.end` of its name ends it."""

    name: str
    port: int
    """Where clients reach it, on 127.0.0.1."""
    admin_port: int

    def counters(self, *, prefix: str) -> Mapping[str, int]:
        """Its counters and gauges whose names begin with the prefix."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/stats?format=json", timeout=10) as answer:
            stats = json.load(answer)["stats"]
        return {one["name"]: one["value"] for one in stats if one.get("name", "").startswith(prefix)}


def bootstrap(
    configuration: str,
    *,
    listen: Address,
    admin: Address,
    picker: Address | None,
    endpoints: Sequence[Address],
    response_bodies: bool = True,
) -> dict[str, Any]:
    """The configuration as a document, with the addresses of this run.

    Args:
        configuration: A file name in deploy/envoy without its ending, e.g. ``full-duplex``.
        listen: Where clients reach it.
        admin: Its admin server.
        picker: The endpoint picker; None leaves Envoy alone, without the filter, to compare with.
        endpoints: The engines.
        response_bodies: Whether the picker sees what engines answer; without it answers outlive the picker.

    Raises:
        LocalClusterError: There is no such configuration.
    """
    path = CONFIGURATIONS / f"{configuration}.yaml"
    if not path.is_file():
        known = "full-duplex, headers-only"
        raise LocalClusterError(f"no configuration {configuration!r} in {CONFIGURATIONS}; expected one of {known}")
    document: dict[str, Any] = copy.deepcopy(yaml.safe_load(path.read_text(encoding="utf-8")))
    document["admin"]["address"] = _address(admin)
    resources = document["static_resources"]
    outer = next(one for one in resources["listeners"] if one["name"] == "inference")
    outer["address"] = _address(listen)
    for cluster in resources["clusters"]:
        if cluster["name"] == "endpoints":
            _fill(cluster, endpoints)
        elif cluster["name"] == "picker":
            _fill(cluster, [picker] if picker else [])
    for listener in resources["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        if picker is None:
            manager["http_filters"] = [one for one in manager["http_filters"] if "ext_proc" not in one["name"]]
        elif not response_bodies:
            for one in manager["http_filters"]:
                if "ext_proc" in one["name"]:
                    one["typed_config"]["processing_mode"] |= {
                        "response_body_mode": "NONE",
                        "response_trailer_mode": "SKIP",
                    }
    return document


def start(
    processes: Processes,
    configuration: str,
    *,
    picker: Address | None,
    endpoints: Sequence[Address],
    response_bodies: bool = True,
    name: str = "envoy",
    threads: int = 1,
    limit_seconds: float = 20.0,
) -> Envoy:
    """Start it and wait until it listens.

    Raises:
        LocalClusterError: It is not ready in time; the end of its log is in the message.
    """
    port, admin_port = free_ports(2)
    document = bootstrap(
        configuration,
        listen=("127.0.0.1", port),
        admin=("127.0.0.1", admin_port),
        picker=picker,
        endpoints=endpoints,
        response_bodies=response_bodies,
    )
    path = processes.directory / f"{name}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    argv = [find("envoy"), "-c", path, "--concurrency", str(threads), "--use-dynamic-base-id", "--log-level", "warn"]
    processes.start(name, [str(one) for one in argv], grace_seconds=1.0)
    envoy = Envoy(name, port, admin_port)
    end = time.monotonic() + limit_seconds
    while time.monotonic() < end and processes.exit_codes().get(name) is None:
        if _ready(admin_port):
            return envoy
        time.sleep(0.05)
    tail = processes.log_tail(name)
    processes.end(name)
    raise LocalClusterError(f"{name} is not ready after {limit_seconds:g} s:\n{tail}")


def _ready(admin_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _address(address: Address) -> dict[str, Any]:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}


def _fill(cluster: dict[str, Any], addresses: Sequence[Address]) -> None:
    assignment = cluster["load_assignment"]
    assignment["endpoints"] = [{"lb_endpoints": [{"endpoint": {"address": _address(one)}} for one in addresses]}]
