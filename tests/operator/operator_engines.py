"""Emulated engines on the addresses of a test's pods."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tidefleet import catalogue
from tidefleet.api import AcceleratorType
from tidefleet.api.validation import parse
from tidefleet.cluster.clock import Clock
from tidefleet.cluster.connection import connect
from tidefleet.cluster.inventory import Inventory
from tidefleet.cluster.kinds import ACCELERATOR_TYPE
from tidefleet.economics.accelerator import Accelerator
from tidefleet.emulator import Fault, FaultKind, Fleet, Load, Running
from tidefleet.planning.from_api import accelerator_of

if TYPE_CHECKING:
    from operator_builders import Place


def accelerators(*made: Mapping[str, Any]) -> dict[str, Accelerator]:
    """Every accelerator that the emulator knows: the shipped ones and those that a test made."""
    found = {}
    for raw in (*catalogue.accelerator_manifests(), *made):
        kind = parse({"apiVersion": ACCELERATOR_TYPE.group_version, **raw})
        assert isinstance(kind, AcceleratorType), kind
        found[kind.name] = accelerator_of(kind)
    return found


class Engines:
    """Emulated engines on the addresses of a namespace's pods, on the clock of the test."""

    def __init__(self, place: Place, clock: Clock) -> None:
        self._namespace = place.namespace
        self.running = Running(Fleet(accelerators(*place.made), catalogue.models(), clock))
        self._changed, self._stop = threading.Event(), threading.Event()
        self._inventory = Inventory(
            connect(str(place.cluster.kubeconfig)), [place.namespace], None, lambda _: self._changed.set()
        )
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Engines:
        self.running.__enter__()
        self._inventory.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._changed.set()
        self._thread.join()
        self._inventory.stop()
        self.running.__exit__(None, None, None)

    def load(
        self, rate: float, pool: str = "chat", *, into: float = 1000.0, out: float = 200.0, tiers: float = 0.0
    ) -> None:
        """Offer requests to a pool; ``tiers`` of their prompts is found by engines that have a KV tier."""
        load = Load.constant(rate, into, out, tier_share=tiers)
        self.running.call(lambda fleet: fleet.set_load(self._namespace, pool, load))

    def fault(self, kind: str, pool: str = "chat") -> None:
        """Let all engines of a pool have a fault; an empty kind lifts it."""
        if kind:
            self.running.call(lambda fleet: fleet.set_fault(self._namespace, pool, Fault(FaultKind(kind))))
        else:
            self.running.call(lambda fleet: fleet.drop_fault(self._namespace, pool))
        self._changed.set()  # sockets of crashed engines close and open

    def slow(self, factor: float, pool: str = "chat") -> None:
        """Let everything that a pool's engines do take so many times as long."""
        from tidefleet.emulator import Fault, FaultKind

        self.running.call(lambda fleet: fleet.set_fault(self._namespace, pool, Fault(FaultKind.SLOW, factor)))

    def count(self) -> int:
        """Engines that listen."""
        return self.running.call(lambda fleet: len(fleet.listening()))

    def _follow(self) -> None:
        self._inventory.wait_synced(30.0)
        while not self._stop.is_set():
            self._changed.clear()
            self.running.set_pods(self._inventory.pods(self._namespace))
            self._changed.wait()
