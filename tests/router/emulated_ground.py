"""Emulated engines on loopback addresses of their own, as pods that a router can serve."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from router_ground import ENGINE, a_served_pod, accelerators

from localcluster.addresses import PodRange
from localcluster.binaries import find
from localcluster.errors import LocalClusterError
from tidefleet import catalogue
from tidefleet.cluster.clock import ScaledClock
from tidefleet.emulator import Fleet as Engines
from tidefleet.emulator import Running, SimulatedPod
from tidefleet.emulator.server import unbindable
from tidefleet.planning.from_api import accelerator_of


@dataclass
class Emulated:
    """Engines that run.

    Attributes:
        pods: the JSON that the API server would give of them; places: their addresses, in the same order.
        simulated: as the emulator has them.
    """

    running: Running
    pods: list[dict[str, Any]]
    places: list[tuple[str, int]]
    simulated: list[SimulatedPod]

    @property
    def addresses(self) -> list[str]:
        """``ip:port`` of each."""
        return [f"{host}:{port}" for host, port in self.places]

    def blocks(self) -> dict[str, int]:
        """Blocks that each engine holds, by its address."""

        def count(fleet: Engines) -> dict[str, int]:
            found = ((slot.address, slot.engine) for slot in fleet.slots.values())
            return {f"{at[0]}:{at[1]}": len(engine.cache) for at, engine in found if engine is not None}

        return self.running.call(count)

    def fault(self, index: int, kind: str | None) -> None:
        """Have an engine fail, or be well again."""
        name = self.pods[index]["metadata"]["name"]
        with httpx.Client(base_url=f"http://{self.running.admin}", timeout=10) as admin:
            url = f"/faults/prod/{name}"
            (admin.put(url, json={"kind": kind}) if kind else admin.delete(url)).raise_for_status()


@contextlib.contextmanager
def emulated(count: int, *, scale: float = 20.0, events: Sequence[int] = (), **engine: Any) -> Iterator[Emulated]:
    """So many engines until the block ends; skips where Envoy or loopback addresses are missing.

    Args:
        events: numbers of those whose pods say that they publish KV events, and that do; ~n: n only says so.
        scale: how much faster than this machine's their clock runs.
        engine: fields of their annotation.
    """
    try:
        find("envoy")
    except LocalClusterError as reason:
        pytest.skip(f"no Envoy here: {reason}")
    known = {name: accelerator_of(one) for name, one in accelerators().items()}
    clock = ScaledClock(scale, 1_700_000_000.0, 1_700_000_000.0)
    with PodRange.claim() as own, Running(Engines(known, catalogue.models(), clock)) as running:
        network = ".".join(own.cidr.split(".")[:2])
        if problem := unbindable(f"{network}.0.2"):
            pytest.skip(problem)
        places = [(host, free_port(host)) for host in (f"{network}.0.{index + 2}" for index in range(count))]
        pods = [a_served_pod(one, f"chat-{index}") for index, one in enumerate(places)]
        simulated = []
        for index, (pod, (host, port)) in enumerate(zip(pods, places, strict=True)):
            facts = {**ENGINE, "port": port, **engine}
            if index in events or ~index in events:
                ports = free_port(host), free_port(host)
                said = {"endpoint": f"tcp://*:{ports[0]}", "replay_endpoint": f"tcp://*:{ports[1]}"}
                pod["spec"]["containers"][0]["args"] += ["--kv-events-config", json.dumps(said)]
                if index in events:
                    facts["kvEvents"] = {"port": ports[0], "replayPort": ports[1]}
            own_facts, notes = pod["metadata"], {"tidefleet.io/engine": json.dumps(facts)}
            simulated.append(
                SimulatedPod("prod", own_facts["name"], own_facts["uid"], host, own_facts["labels"], notes)
            )
        running.set_pods(simulated)
        yield Emulated(running, pods, places, simulated)


def free_port(host: str) -> int:
    """A port that is free on a host now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
