"""What holds the accelerators of a node, asked of the API server itself: no watch that lags may give a node away."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidefleet.cluster import records
from tidefleet.cluster.kinds import POD, RESOURCE_CLAIM, RESOURCE_SLICE
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.records import Pod
from tidefleet.cluster.transport import Unreachable
from tidefleet.controller.flips.units import FINISHED, Unit

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Devices:
    """Devices that are handed out by dynamic resource allocation, by node and driver.

    ``readable`` is false while nobody knows; an API server without the kind has none.
    """

    by_node: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    pools: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Node of each (driver, pool)."""
    tainted: Mapping[str, str] = field(default_factory=dict)
    """By node: what the taint of one of its devices says."""
    readable: bool = True


def read_devices(objects: Objects) -> Devices:
    """All devices that ResourceSlices publish."""
    try:
        if not objects.exists(RESOURCE_SLICE):
            return Devices()
        slices = objects.list(RESOURCE_SLICE)
    except (ApiFailed, Unreachable) as error:
        log.info("ResourceSlices cannot be listed", extra={"why": str(error)})
        return Devices(readable=False)
    except KindAbsent:
        return Devices()
    by_node: dict[str, dict[str, int]] = {}
    pools: dict[tuple[str, str], str] = {}
    tainted: dict[str, str] = {}
    for raw in slices:
        spec = _object(raw.get("spec"))
        node, driver = spec.get("nodeName"), spec.get("driver")
        if not isinstance(node, str) or not isinstance(driver, str):
            continue
        devices = spec.get("devices")
        devices = [one for one in devices if isinstance(one, Mapping)] if isinstance(devices, list) else []
        counts = by_node.setdefault(node, {})
        counts[driver] = counts.get(driver, 0) + len(devices)
        pools[driver, str(_object(spec.get("pool")).get("name"))] = node
        for device in devices:
            for taint in device.get("taints") or ():
                tainted[node] = f"device {device.get('name')} carries the taint {_object(taint).get('key')}"
    return Devices(by_node, pools, tainted)


def disagreement(unit: Unit, device_class: str, devices: Devices) -> str:
    """Where extended resources and ResourceSlices count a node's accelerators differently; empty where they agree."""
    if not devices.readable:
        return "ResourceSlices cannot be listed, so that claims on its accelerators are not known"
    for node in unit.nodes:
        published = devices.by_node.get(node.name, {}).get(device_class, 0) if device_class else 0
        extended = node.allocatable.get(unit.resource, 0)
        if published and extended and published != extended:
            return (
                f"node {node.name} has {extended} {unit.resource} and {published} devices of {device_class} in "
                "ResourceSlices; expected the same number"
            )
    return ""


def fresh_holders(objects: Objects, unit: Unit, devices: Devices) -> int | None:
    """Pods and claims that hold the accelerators of a unit, as the API server has them now; ``None``: not known."""
    try:
        pods = [pod for node in unit.nodes for pod in pods_on(objects, node.name)]
        held = sum(1 for pod in pods if pod.chips.get(unit.resource) and pod.phase not in FINISHED)
        if not devices.readable:
            return None
        names = {node.name for node in unit.nodes}
        if names & devices.by_node.keys():
            held += sum(1 for claim in objects.list(RESOURCE_CLAIM) if _nodes_of(claim, devices.pools) & names)
    except (ApiFailed, Unreachable, KindAbsent) as error:
        log.warning("what holds a node is not known", extra={"unit": unit.name, "why": str(error)})
        return None
    return held


def pods_on(objects: Objects, node: str) -> list[Pod]:
    """The pods on a node, in all namespaces.

    Raises:
        ApiFailed: among others where only some namespaces may be read.
        Unreachable: no answer.
    """
    return [records.pod(raw) for raw in objects.list(POD, field_selector=f"spec.nodeName={node}")]


def _nodes_of(claim: Mapping[str, Any], pools: Mapping[tuple[str, str], str]) -> set[str]:
    allocation = _object(_object(claim.get("status")).get("allocation"))
    results: Sequence[Any] = _object(allocation.get("devices")).get("results") or ()
    keys = [(str(one.get("driver")), str(one.get("pool"))) for one in results if isinstance(one, Mapping)]
    return {pools[key] for key in keys if key in pools}


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
