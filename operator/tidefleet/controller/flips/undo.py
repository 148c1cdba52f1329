"""Takes off nodes and serving pods whatever a flip put there, for the day the operator is uninstalled."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tidefleet.cluster import records
from tidefleet.cluster.kinds import NODE, POD
from tidefleet.cluster.labels import DUTY_LABEL
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.records import Node, Pod
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import Conflict, Gone, MergePatch, Writer, Written
from tidefleet.controller import marks
from tidefleet.controller.flips.dress import DUTY_TAINT, FLIP_TAINT, undressed
from tidefleet.controller.flips.pods import pod_change
from tidefleet.controller.flips.units import FINISHED
from tidefleet.flipping.journal import Journal, read
from tidefleet.flipping.machine import Wanted
from tidefleet.flipping.phase import Phase

ATTEMPTS = 5
REASON = "uninstall"


@dataclass(slots=True)
class Undone:
    """What was undressed (``node NAME``, ``pod NAMESPACE/NAME``), and what was not, each with the reason."""

    done: list[str] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)


def undo_flips(objects: Objects, writer: Writer, *, node_selector: str = "", force: bool = False) -> Undone:
    """Undress every node that carries marks of a flip, unless training holds it; and restore the serving pods on it.

    Args:
        node_selector: only nodes with these labels, as the operator sees them, e.g. ``fleet=a``; all when empty.
        force: undress nodes that training holds, too. Its pods stay where they are.
    """
    undone = Undone()
    try:
        nodes = [records.node(raw) for raw in objects.list(NODE, label_selector=node_selector)]
    except (ApiFailed, Unreachable, KindAbsent) as error:
        undone.left.append(("nodes", f"they cannot be listed: {error}"))
        return undone
    for node in nodes:
        if is_dressed(node):
            _undo(objects, writer, node, force, undone)
    return undone


def is_dressed(node: Node) -> bool:
    """Whether a node carries our journal, our label or one of our taints."""
    ours = {FLIP_TAINT, DUTY_TAINT} & {one.key for one in node.taints}
    return bool(ours) or marks.FLIP_ANNOTATION in node.annotations or DUTY_LABEL in node.labels


def _undo(objects: Objects, writer: Writer, node: Node, force: bool, undone: Undone) -> None:
    name = f"node {node.name}"
    for attempt in range(ATTEMPTS):
        own = _journal(node)
        try:
            raws = objects.list(POD, field_selector=f"spec.nodeName={node.name}")
        except (ApiFailed, Unreachable, KindAbsent) as error:
            undone.left.append((name, f"the pods on it cannot be listed: {error}"))
            return
        held = [] if force or _serves(own) else [one for one in map(_holder, raws) if one]
        if held:
            undone.left.append((name, _held_words(node.name, own, held)))
            return
        body = undressed(node, own)
        outcome = writer.execute(_patch(node, body)) if body is not None else Gone()
        if isinstance(outcome, Written | Gone):
            if body is not None:
                undone.done.append(name)
            _restore_pods(writer, [records.pod(raw) for raw in raws], node.name, undone)
            return
        if not isinstance(outcome, Conflict) or attempt == ATTEMPTS - 1:
            undone.left.append((name, str(outcome)))
            return
        time.sleep(0.2 * (attempt + 1))
        try:
            raw = objects.get(NODE, "", node.name)
        except (ApiFailed, Unreachable, KindAbsent) as error:
            undone.left.append((name, f"it cannot be read: {error}"))
            return
        if raw is None:
            return
        node = records.node(raw)


def _patch(node: Node, body: dict[str, Any]) -> MergePatch:
    return MergePatch(
        kind=NODE,
        namespace="",
        name=node.name,
        body=body,
        uid=node.uid,
        resource_version=node.resource_version,
        reason=REASON,
        decision_id="",
    )


def _journal(node: Node) -> Journal | None:
    found = read(node.annotations[marks.FLIP_ANNOTATION]) if marks.FLIP_ANNOTATION in node.annotations else None
    return found if isinstance(found, Journal) else None


def _serves(own: Journal | None) -> bool:
    """Whether training cannot be on a node: it serves, or was never let in."""
    return own is not None and (own.phase.is_outbound or own.phase in (Phase.SERVING, Phase.WARMING))


def _holder(raw: Mapping[str, Any]) -> str:
    """``namespace/name`` of a pod that no pool owns and that holds devices, Terminating ones included; else empty."""
    pod = records.pod(raw)
    holds = any(pod.chips.values()) or bool(raw.get("spec", {}).get("resourceClaims"))
    serves = marks.POOL_LABEL in pod.labels
    return f"{pod.namespace}/{pod.name}" if holds and not serves and pod.phase not in FINISHED else ""


def _held_words(node: str, own: Journal | None, held: list[str]) -> str:
    phase = str(own.phase) if own is not None else "without a journal that can be read"
    namespace, _, pod = held[0].partition("/")
    more = f" and {len(held) - 1} more" if len(held) > 1 else ""
    return (
        f"it is {phase} and pod {held[0]}{more} holds its accelerators; suspend or delete the job it belongs to "
        f"(kubectl get pod {pod} --namespace {namespace} -o jsonpath='{{.metadata.ownerReferences}}'), see what is "
        f"left with kubectl get pods --all-namespaces --field-selector spec.nodeName={node}, and run this again; "
        "or give --force, which undresses it all the same and leaves the pods"
    )


def _restore_pods(writer: Writer, pods: list[Pod], unit: str, undone: Undone) -> None:
    for pod in pods:
        change = pod_change(pod, Wanted(), unit=unit, reason=REASON, decision_id="")
        if change is None:
            continue
        outcome = writer.execute(change)
        name = f"pod {pod.namespace}/{pod.name}"
        if isinstance(outcome, Written):
            undone.done.append(name)
        elif not isinstance(outcome, Gone):
            undone.left.append((name, str(outcome)))
