"""Nodes that are put into any phase of a flip by hand, and what happens to nodes themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from flip_night import Night
from operator_builders import InProcess, eventually

from tidefleet.cluster import records
from tidefleet.cluster.kinds import EVENT, NODE, POD, path
from tidefleet.controller.flips.dress import node_change
from tidefleet.flipping.journal import Journal
from tidefleet.flipping.phase import Phase

PHASES = tuple(one for one in Phase if one is not Phase.SERVING)
HOURS = 3600.0
GONE_WRONG = {"type": "Ready", "status": "False", "reason": "Test", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}


def put(night: Night, index: int, phase: Phase, *, members: tuple[int, ...] = (), **more: Any) -> None:
    """Have a node be in a phase since now, with ten minutes left of it, as a flip that a person asked for has it."""
    now, names = night.clock.now(), night.names
    group = tuple(sorted(names[one] for one in members or (index,)))
    returning = phase.is_homebound or phase in (Phase.TRAINING, Phase.QUARANTINED)
    fields = {
        "epoch": night.op.loop.actor.epoch,  # type: ignore[union-attr]
        "deadline": now + 600.0 if phase.is_moving else None,
        "until": now + 6 * HOURS,
        "trained": returning,
        "asked": now if phase is Phase.RECALLING else None,
        "cause": "canary" if phase is Phase.QUARANTINED else "",
        "by": "alice",
        "turn": 3,
        "why": "asked for by alice",
        **more,
    }
    journal = Journal(
        phase=phase,
        since=now,
        unit=group[0],
        members=group,
        pool=f"{night.place.namespace}/chat",
        accelerator=night.accelerator,
        queue="Suspend",
        **fields,
    )
    body = node_change(records.node(night.node(index)), journal, own=None)
    assert body is not None
    night.place.api.merge(night.place.path(NODE, names[index]), body)


def seen(op: InProcess, night: Night, indexes: Iterable[int]) -> None:
    """Wait until an operator's watch has the present version of these nodes."""
    wanted = {night.names[one]: int(night.node(one)["metadata"]["resourceVersion"]) for one in indexes}

    def known() -> bool:
        have = {one.name: int(one.resource_version) for one in op.process._inventory.nodes()}
        return all(have.get(name, 0) >= version for name, version in wanted.items())

    eventually(known, "the watch shows the nodes", pause=0.01)


def set_ready(night: Night, index: int, ready: bool) -> None:
    """Have a node become NotReady, or Ready again."""
    where = night.place.path(NODE, night.names[index])
    note = {"tidefleet.io/emulated-fault": None if ready else "not-ready"}
    night.place.api.merge(where, {"metadata": {"annotations": note}})
    if not ready:
        kept = [one for one in night.node(index)["status"]["conditions"] if one["type"] != "Ready"]
        night.place.api.merge(f"{where}/status", {"status": {"conditions": [*kept, GONE_WRONG]}})


def is_ready(night: Night, index: int) -> bool:
    """Whether a node says that it is."""
    conditions = night.node(index)["status"]["conditions"]
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def make_anew(night: Night, index: int) -> None:
    """Register a node again that was deleted, under its name and with nothing of what it wore."""
    old = night.made[index]
    night.place.api.create(night.place.path(NODE), old)


def told(night: Night, index: int) -> list[str]:
    """Reasons and words of all Events about a node."""
    found = night.place.api.get(path(EVENT, "default"))["items"]
    mine = [one for one in found if one.get("regarding", {}).get("name") == night.names[index]]
    return [f"{one['reason']}: {one.get('note', '')}" for one in mine]


def holder(night: Night, name: str, index: int, *, chips: int = 1) -> None:
    """A pod of somebody that holds chips of a node and tolerates everything."""
    spec: Mapping[str, Any] = {
        "nodeName": night.names[index],
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "own", "image": "own", "resources": {"limits": {"nvidia.com/gpu": chips}}}],
    }
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    night.place.api.create(night.place.path(POD), body)


def wears(night: Night, index: int) -> list[str]:
    """Keys of taints, labels and annotations of a flip that are on a node, the journal and the label of duty apart."""
    node = night.node(index)
    meta = node["metadata"]
    found = [one["key"] for one in node["spec"].get("taints") or () if one["key"].startswith("tidefleet.io/")]
    found += [key for key in ("nvidia.com/gpu-driver-upgrade.skip",) if key in meta["labels"]]
    return found + [key for key in ("karpenter.sh/do-not-disrupt",) if key in meta.get("annotations", {})]


def turns(night: Night, index: int) -> list[str]:
    """The phases that a node's journal has gone through."""
    text = night.node(index)["metadata"].get("annotations", {}).get("tidefleet.io/flip", "{}")
    return [phase for _, phase in json.loads(text).get("history", ())]
