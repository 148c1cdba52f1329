"""What `tidefleet flip` goes by: a node, the unit it moves with, the pods on it, and the pools that could lend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tidefleet.api import AcceleratorType, InferencePool
from tidefleet.api.flipping import FlippingPolicy
from tidefleet.api.inference_pool import Mode
from tidefleet.api.validation import parse
from tidefleet.cli.flips_day import paused_words
from tidefleet.cluster import records
from tidefleet.cluster.kinds import (
    ACCELERATOR_TYPE,
    DEPLOYMENT,
    INFERENCE_POOL,
    LEADER_WORKER_SET,
    NODE,
    POD,
    STATEFUL_SET,
)
from tidefleet.cluster.objects import KindAbsent, Objects
from tidefleet.cluster.records import Node, Pod, Workload
from tidefleet.controller import marks
from tidefleet.controller.flips.units import GROUP_LABEL, ServingPod, Unit, units_of
from tidefleet.controller.flips.vetoes import leaves_by_itself, vetoes
from tidefleet.controller.observe import WORKLOAD_KINDS
from tidefleet.controller.places import matches
from tidefleet.controller.view import Served
from tidefleet.flipping.journal import Journal, read
from tidefleet.planning.options import Option


class Refused(Exception):
    """The request cannot be made; the message says what is expected instead."""


@dataclass(frozen=True, slots=True)
class Case:
    """A node and what would move with it.

    Attributes:
        node: as it is; ``unit`` the unit it belongs to.
        vetoes: why the unit must not be lent, each with what would have to change.
        lenders: pools that may lend nodes of its type; ``idle`` the others that could, each with the reason.
        pool: the pool with replicas on it, or that has lent it; ``None`` where there is none.
    """

    node: Node
    unit: Unit
    vetoes: tuple[str, ...]
    lenders: tuple[InferencePool, ...]
    idle: tuple[str, ...]
    pool: InferencePool | None


def read_case(objects: Objects, name: str, now: float) -> Case:
    """Everything about a node that a flip of it depends on and that can be seen from outside.

    Raises:
        Refused: there is no such node, or it has no accelerator of a known type.
        ApiFailed, KindAbsent, Unreachable: the cluster could not be read.
    """
    nodes = {one.name: one for one in map(records.node, objects.list(NODE))}
    if name not in nodes:
        near = difflib.get_close_matches(name, list(nodes), n=5, cutoff=0.5) or sorted(nodes)[:5]
        raise Refused(
            f"there is no node {name}; expected a node of the cluster, e.g. {', '.join(near) or 'none is there'}"
        )
    node = nodes[name]
    kinds = _types(objects)
    if not any(matches(kind, node) for kind in kinds.values()):
        raise Refused(_without_accelerator(node, kinds))
    pools = _pools(objects)
    pods = _pods(objects, nodes, node)
    serving = _serving(objects, pools, pods)
    unit = next((one for one in units_of(kinds, nodes.values(), pods, serving) if name in _names(one)), None)
    if unit is None:
        raise Refused(f"node {name} matches AcceleratorTypes of several resources; expected those of one")
    found = list(vetoes(unit, now=now, conflicts={}, outnumbered=_top(unit, serving.values())))
    lenders, idle = _lenders(pools, unit)
    key = next(iter(sorted(unit.pools)), None) or _key(unit.journal.pool)
    return Case(
        node=node,
        unit=unit,
        vetoes=tuple(found),
        lenders=lenders,
        idle=idle,
        pool=next((one for one in pools if one.key == key), None),
    )


def _types(objects: Objects) -> dict[str, AcceleratorType]:
    """The AcceleratorTypes that can be used, by name."""
    found = (parse(one) for one in objects.list(ACCELERATOR_TYPE))
    return {one.name: one for one in found if isinstance(one, AcceleratorType)}


def _pools(objects: Objects) -> list[InferencePool]:
    """The pools that can be used."""
    return [one for one in map(parse, objects.list(INFERENCE_POOL)) if isinstance(one, InferencePool)]


def _names(unit: Unit) -> set[str]:
    return {one.name for one in unit.nodes}


def _key(pool: str) -> tuple[str, str]:
    namespace, _, name = pool.partition("/")
    return namespace, name


def _without_accelerator(node: Node, kinds: dict[str, AcceleratorType]) -> str:
    held = ", ".join(f"{name}: {count}" for name, count in sorted(node.allocatable.items()) if "/" in name)
    placed = sorted(name for name, one in kinds.items() if one.spec.node_selector and one.spec.resource_name)
    return (
        f"node {node.name} has no accelerator of a known type (extended resources: {held or 'none'}); expected a node "
        f"with the labels of an AcceleratorType's spec.nodeSelector; of {len(kinds)} AcceleratorTypes "
        f"{len(placed)} name one"
    )


def _pods(objects: Objects, nodes: dict[str, Node], node: Node) -> list[Pod]:
    """Pods on the node and on those that may move with it."""
    own = _on(objects, node.name)
    groups = {one.labels[GROUP_LABEL] for one in own if one.labels.get(GROUP_LABEL)}
    others = {one.name for one in nodes.values() if _clique(one) and _clique(one) == _clique(node)}
    journal = read(node.annotations.get(marks.FLIP_ANNOTATION, ""))
    others |= set(journal.members) if isinstance(journal, Journal) else set()
    for group in sorted(groups):
        label = f"{GROUP_LABEL}={group}"
        others |= {one.node for one in map(records.pod, objects.list(POD, None, label)) if one.node}
    found = [*own, *(pod for name in sorted(others - {node.name}) if name in nodes for pod in _on(objects, name))]
    return list({one.uid: one for one in found}.values())


def _on(objects: Objects, node: str) -> list[Pod]:
    return [records.pod(one) for one in objects.list(POD, field_selector=f"spec.nodeName={node}")]


def _clique(node: Node) -> str:
    return node.labels.get(marks.CLIQUE_LABEL, "")


def _serving(objects: Objects, pools: Sequence[InferencePool], pods: Sequence[Pod]) -> dict[str, ServingPod]:
    """Which of the pods serve a pool, and by which workload."""
    found: dict[str, ServingPod] = {}
    for namespace in sorted({one.namespace for one in pods if one.chips}):
        here = [one for one in pools if one.namespace == namespace]
        workloads = _workloads(objects, namespace) if here else []
        for pool in here:
            adopted = {(WORKLOAD_KINDS[one.kind], one.name) for one in pool.spec.serving.workloads or ()}
            for one in workloads:
                if (one.kind, one.name) not in adopted and one.labels.get(marks.POOL_LABEL) != pool.name:
                    continue
                option = marks.read_option(one.annotations) or Option("", "", 1, "", "", one.name)
                served = Served(f"{one.kind}/{one.name}", option, one, one.pods_per_replica)
                for pod in pods:
                    if pod.namespace == namespace and one.selector and one.selector.items() <= pod.labels.items():
                        found.setdefault(pod.uid, ServingPod(pool.key, served, pod))
    return found


def _workloads(objects: Objects, namespace: str) -> list[Workload]:
    found: list[Workload] = []
    for kind in (DEPLOYMENT, STATEFUL_SET, LEADER_WORKER_SET):
        try:
            found += [records.workload(kind, one) for one in objects.list(kind, namespace)]
        except KindAbsent:
            continue
    return found


def _top(unit: Unit, serving: Iterable[ServingPod]) -> frozenset[str]:
    """Pods that their workload would remove first when it is scaled down by as many as the unit holds of it."""
    found: frozenset[str] = frozenset()
    everywhere = list(serving)
    for served in {one.served.name: one.served for one in unit.serving if one.is_ordinal}.values():
        all_ = [one.pod for one in everywhere if one.served.name == served.name]
        here = [one.pod for one in unit.serving if one.served.name == served.name]
        complete = served.workload is not None and len(all_) >= served.workload.replicas * served.group
        found |= leaves_by_itself(all_, len(here)) if complete else frozenset()
    return found


def _lenders(pools: Sequence[InferencePool], unit: Unit) -> tuple[tuple[InferencePool, ...], tuple[str, ...]]:
    lenders: list[InferencePool] = []
    idle: list[str] = []
    for pool in sorted(pools, key=lambda one: one.key):
        types = {one.type for one in pool.spec.accelerators} | {
            one.accelerator for one in pool.spec.serving.workloads or ()
        }
        if types and unit.accelerator not in types:
            continue
        flipping, name = pool.spec.flipping, f"{pool.namespace}/{pool.name}"
        if flipping.policy is FlippingPolicy.NEVER:
            idle.append(f"{name} never lends (spec.flipping.policy is Never)")
        elif pool.spec.mode is not Mode.ENFORCE:
            idle.append(f"{name} does not flip (spec.mode is {pool.spec.mode}; expected Enforce)")
        elif flipping.training is None:
            idle.append(f"{name} has no queue (spec.flipping.training is missing)")
        elif paused := paused_words(flipping.pause.scope, flipping.pause.by, flipping.pause.reason):
            idle.append(f"{name} is paused: {paused}")
        else:
            lenders.append(pool)
    return tuple(lenders), tuple(idle)
