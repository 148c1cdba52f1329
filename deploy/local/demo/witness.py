"""What is seen of nodes, pods and engines while the night goes on, for the ledger; and which requests flips cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from demo.ledger import AWAY, LENT, OUTBOUND, Held, Look, NodeStory, TrainingPod
from demo.night import TRAINS_LABEL
from demo.trainer import CHECKPOINTED_AT, read_time

JOURNAL = "tidefleet.io/flip"
POOL_LABEL = "tidefleet.io/pool"

Raw = Mapping[str, Any]


@dataclass(slots=True)
class Witness:
    """Keeps what it saw. Only nodes of the types that may be lent count.

    Attributes:
        types: accelerator types that may be lent.
        looks: one a moment.
        reasons: what the journals gave as the reason of each change, by node and time.
        cut: requests that were in an engine when its pod went while its node was on its way to training.
        streams_failed: real streams that failed, at the second try too, on nodes in a flip.
        short: requests that were given up while a replica waited for a node and one of its kind was away.
        blocked: looks at which the operator told that a unit of a type could not be lent, by type and reason.
    """

    types: frozenset[str]
    looks: list[Look] = field(default_factory=list)
    nodes: dict[str, NodeStory] = field(default_factory=dict)
    training: dict[str, TrainingPod] = field(default_factory=dict)
    reasons: dict[tuple[str, float], str] = field(default_factory=dict)
    cut: float = 0.0
    short: float = 0.0
    streams_failed: int = 0
    blocked: dict[tuple[str, str], int] = field(default_factory=dict)
    _places: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    _counted: dict[str, float] = field(default_factory=dict)
    _lost: dict[str, float] = field(default_factory=dict)

    def see(
        self,
        at: float,
        *,
        nodes: Sequence[Raw],
        pods: Sequence[Raw],
        engines: Sequence[Raw],
        outcome: Mapping[str, Raw],
        used: Mapping[str, float],
    ) -> None:
        """Take in one look.

        Args:
            at: Unix seconds of the fleet's clock.
            nodes: as the API server has them, with `pods` of the pools' namespace.
            engines: what each engine does, as the emulator tells it.
            outcome: what became of each pool's requests, likewise.
            used: see `Look`.
        """
        for raw in nodes:
            self._read_node(raw)
        running = {one["pod"]: float(one.get("running", 0.0)) for one in engines}
        held: dict[str, list[Held]] = {}
        waiting: set[str] = set()
        seen: set[str] = set()
        for raw in pods:
            meta, node = raw["metadata"], raw["spec"].get("nodeName", "")
            labels = meta.get("labels") or {}
            pool, trains = labels.get(POOL_LABEL, ""), labels.get(TRAINS_LABEL) == "true"
            if not pool and not trains:
                continue
            phase = (raw.get("status") or {}).get("phase", "Pending")
            if not node and pool and phase == "Pending":
                waiting.add(pool)
            if node not in self.nodes:
                continue
            seen.add(meta["uid"])
            if trains:
                self._read_training(raw, node, at)
            if phase in ("Succeeded", "Failed"):
                continue
            ready = _is_ready(raw) if pool else phase == "Running"
            busy = min(1.0, running.get(meta["name"], 0.0)) if pool else float(ready)
            held.setdefault(node, []).append(Held(meta["uid"], _chips(raw), pool, ready, busy))
            if pool:
                self._places[meta["name"]] = (node, pool, at)
        for uid, one in self.training.items():
            one.gone = one.gone or uid not in seen
        self._count(at, outcome, waiting)
        self.looks.append(Look(at, {name: tuple(each) for name, each in held.items()}, dict(used)))

    def see_blocked(self, blocked: Sequence[Raw]) -> None:
        """Take in what the lending pool's status says of loans that are due and not made."""
        for one in blocked:
            key = (str(one["unit"]).rpartition("-")[0], str(one["why"]))
            self.blocked[key] = self.blocked.get(key, 0) + 1

    def blame(self, pod: str) -> bool:
        """Count a real stream that a pod failed, if its node is in a flip."""
        node, _, last = self._places.get(pod, ("", "", 0.0))
        mine = bool(node) and self.nodes[node].at(self.looks[-1].at if self.looks else last) in AWAY
        self.streams_failed += mine
        return mine

    def phase_counts(self) -> dict[str, int]:
        """Nodes by phase, as last seen."""
        found: dict[str, int] = {}
        at = self.looks[-1].at if self.looks else 0.0
        for one in self.nodes.values():
            phase = one.at(at)
            found[phase] = found.get(phase, 0) + 1
        return found

    def _read_node(self, raw: Raw) -> None:
        name = raw["metadata"]["name"]
        accelerator = name.rpartition("-")[0]
        if accelerator not in self.types:
            return
        story = self.nodes.get(name)
        if story is None:
            allocatable = raw["status"].get("allocatable") or {}
            chips = max((int(value) for key, value in allocatable.items() if "/" in key), default=0)
            story = self.nodes[name] = NodeStory(name, accelerator, chips)
        text = (raw["metadata"].get("annotations") or {}).get(JOURNAL)
        if text:
            told = json.loads(text)
            for at, phase in told.get("history") or ():
                story.phases[float(at)] = str(phase)
            if told.get("history"):
                self.reasons.setdefault((name, float(told["history"][-1][0])), str(told.get("why", "")))

    def _read_training(self, raw: Raw, node: str, at: float) -> None:
        meta, phase = raw["metadata"], (raw.get("status") or {}).get("phase")
        one = self.training.get(meta["uid"])
        if one is None:
            if phase == "Pending":
                return
            one = self.training[meta["uid"]] = TrainingPod(meta["uid"], node, _chips(raw), at, at)
        one.last = at
        one.succeeded = one.succeeded or phase == "Succeeded"
        one.gone = one.gone or phase == "Failed" or "deletionTimestamp" in meta
        told = read_time((meta.get("annotations") or {}).get(CHECKPOINTED_AT))
        one.checkpoint = told if told is not None else one.checkpoint

    def _count(self, at: float, outcome: Mapping[str, Raw], waiting: set[str]) -> None:
        """Count the requests that flips cost."""
        phases = {name: one.at(at) for name, one in self.nodes.items()}
        away = any(phase in AWAY for phase in phases.values())
        for pool, told in outcome.items():
            lost = float(told.get("lost_requests", 0.0))
            if pool in waiting and away:
                self.short += lost - self._lost.get(pool, lost)
            self._lost[pool] = lost
            for pod, requests in (told.get("interrupted_by_pod") or {}).items():
                fresh = float(requests) - self._counted.get(pod, 0.0)
                self._counted[pod] = float(requests)
                node, _, last = self._places.get(pod, ("", "", at))
                if fresh > 0 and node and self._was_leaving(node, last, at):
                    self.cut += fresh

    def _was_leaving(self, node: str, begin: float, end: float) -> bool:
        story = self.nodes[node]
        return story.at(end) in (*OUTBOUND, LENT) or any(
            phase in OUTBOUND for at, phase in story.phases.items() if begin <= at <= end
        )


def _is_ready(raw: Raw) -> bool:
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _chips(raw: Raw) -> int:
    """Accelerators of a pod: its containers' limits of extended resources."""
    limits = [(one.get("resources") or {}).get("limits") or {} for one in raw["spec"].get("containers") or ()]
    return sum(int(value) for each in limits for key, value in each.items() if "/" in key)
