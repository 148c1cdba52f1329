"""Why a node must not be flipped: marks, upgrades under way, a human's cordon, replicas that may not move, bad health.

Each is a sentence that says what would have to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tidefleet.api import AcceleratorType
from tidefleet.cluster.records import Node, Pod
from tidefleet.controller import marks
from tidefleet.controller.adoption import Autoscaler
from tidefleet.controller.flips.dress import DO_NOT_DISRUPT
from tidefleet.controller.flips.units import Unit
from tidefleet.controller.view import PoolView
from tidefleet.flipping.phase import Phase

DRIVER_UPGRADE_LABEL = "nvidia.com/gpu-driver-upgrade-state"
MIG_CONFIG_LABEL = "nvidia.com/mig.config"
MIG_STATE_LABEL = "nvidia.com/mig.config.state"
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"
SCALE_DOWN_DISABLED = "cluster-autoscaler.kubernetes.io/scale-down-disabled"

READY_TOLERATION_SECONDS = 60.0
"""How long a node may be NotReady before it counts as unhealthy, by our own clock."""

_LEAVING = (
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
)
_DURATION = re.compile(r"(?:(?P<h>[0-9]{1,5})h)?(?:(?P<m>[0-9]{1,6})m)?(?:(?P<s>[0-9]{1,7})s)?")


def seconds_of(text: str) -> float | None:
    """Seconds of a duration such as ``90m`` or ``1h30m``; ``None`` when it is none."""
    found = _DURATION.fullmatch(text)
    if not text or found is None:
        return None
    hours, minutes, seconds = (int(found[name] or 0) for name in ("h", "m", "s"))
    return 3600.0 * hours + 60.0 * minutes + seconds


@dataclass(slots=True)
class HealthClock:
    """Since when each condition of each node has been bad, by our own clock: a node's own times may be wrong."""

    _since: dict[tuple[str, str], float] = field(default_factory=dict)

    def unhealthy(self, unit: Unit, kind: AcceleratorType, now: float) -> str:
        """What is wrong with a unit's nodes for longer than is tolerated; empty when nothing is."""
        worst = ""
        for node in unit.nodes:
            watched = [("Ready", "False", READY_TOLERATION_SECONDS), ("Ready", "Unknown", READY_TOLERATION_SECONDS)]
            watched += [
                (one.type, str(one.status), float(one.toleration_seconds)) for one in kind.spec.health.conditions
            ]
            for name, status, toleration in watched:
                key = (node.name, f"{name}={status}")
                if node.conditions.get(name) != status:
                    self._since.pop(key, None)
                    continue
                since = self._since.setdefault(key, now)
                if now - since >= toleration:
                    worst = worst or f"node {node.name} has had {name}={status} for {now - since:.0f} s"
        return worst

    def forget_all_but(self, nodes: Iterable[str]) -> None:
        """Forget nodes that are gone."""
        kept = set(nodes)
        for key in [key for key in self._since if key[0] not in kept]:
            del self._since[key]


def vetoes(unit: Unit, *, now: float, conflicts: Mapping[str, str], outnumbered: frozenset[str]) -> tuple[str, ...]:
    """Reasons not to lend a unit, the first that were found first.

    Args:
        conflicts: who else scales a workload, in words, by ``pool workload``.
        outnumbered: uids of pods that their StatefulSet or LeaderWorkerSet is about to remove anyway.
    """
    found: list[str] = []
    if unit.trouble:
        found.append(unit.trouble)
    for node in unit.nodes:
        found += _of_node(node, unit, now)
    if len(unit.pools) > 1:
        names = ", ".join("/".join(one) for one in sorted(unit.pools))
        found.append(f"pods of several pools are on it ({names}); expected those of one")
    if unit.others and not unit.journal.phase.is_lent and unit.journal.phase is not Phase.VERIFYING:
        pod = unit.others[0]
        found.append(f"pod {pod.namespace}/{pod.name} of somebody else holds its accelerators")
    for one in unit.serving:
        pod = one.pod
        found += _of_mark(f"pod {pod.namespace}/{pod.name}", pod.annotations, pod.created, now)
        if pod.annotations.get(DO_NOT_DISRUPT) == "true" or pod.annotations.get(SAFE_TO_EVICT) == "false":
            found.append(f"pod {pod.namespace}/{pod.name} is marked as not to be disrupted")
        if one.is_ordinal and pod.uid not in outnumbered:
            found.append(
                f"{one.served.name} removes its highest ordinal wherever that is; pod {pod.name} cannot be moved"
            )
        conflict = conflicts.get(f"{'/'.join(one.pool)} {one.served.name}")
        if conflict:
            found.append(conflict)
    return tuple(dict.fromkeys(found))


def conflicts_in(view: PoolView, autoscalers: Iterable[Autoscaler]) -> dict[str, str]:
    """Who else scales a pool's workloads, in words, by the name of the workload: those made from its template too."""
    found = {name: fault.message for name, fault in view.conflicts.items()}
    for served in view.served:
        for one in autoscalers:
            kind, name = str(served.kind.kind), served.workload.name if served.workload is not None else ""
            if (one.namespace, one.target_kind, one.target_name) == (view.pool.namespace, kind, name):
                words = f"{kind} {name} is also scaled by {one.kind} {one.namespace}/{one.name}; expected no other"
                found.setdefault(served.name, f"{words} autoscaler of what the pool {view.pool.name} scales: delete it")
    return found


def _of_node(node: Node, unit: Unit, now: float) -> list[str]:
    found: list[str] = []
    if node.unschedulable:
        found.append(
            f"node {node.name} is cordoned (spec.unschedulable); kubectl uncordon {node.name} when it may be used"
        )
    if node.deleting:
        found.append(f"node {node.name} is being deleted")
    upgrade = node.labels.get(DRIVER_UPGRADE_LABEL, "")
    if upgrade not in ("", "upgrade-done"):
        found.append(f"node {node.name}: its driver is being upgraded ({DRIVER_UPGRADE_LABEL}={upgrade})")
    state = node.labels.get(MIG_STATE_LABEL, "success")
    if MIG_CONFIG_LABEL in node.labels and state not in ("", "success"):
        wanted = node.labels[MIG_CONFIG_LABEL]
        found.append(f"node {node.name}: its MIG configuration {wanted} is {state}; expected success")
    found += [
        f"node {node.name} carries the taint {taint.key}; somebody is about to take it away"
        for taint in node.taints
        if taint.key in _LEAVING
    ]
    found += _of_mark(f"node {node.name}", node.annotations, node.created, now)
    ours = not unit.journal.phase.is_moving and unit.journal.phase is not Phase.TRAINING
    if ours and node.annotations.get(DO_NOT_DISRUPT) == "true":
        found.append(f"node {node.name} is marked {DO_NOT_DISRUPT}")
    if node.annotations.get(SCALE_DOWN_DISABLED) == "true":
        found.append(f"node {node.name} is marked {SCALE_DOWN_DISABLED}")
    return found


def _of_mark(what: str, annotations: Mapping[str, str], began: float, now: float) -> list[str]:
    text = annotations.get(marks.DO_NOT_FLIP)
    if text is None or text == "false":
        return []
    seconds = seconds_of(text)
    if text != "true" and seconds is None:
        example = 'expected "true" or a duration, e.g. "90m"'
        return [f"{what} is marked {marks.DO_NOT_FLIP}: {text[:40]!r}, which is not understood; {example}"]
    if seconds is not None and now - began >= seconds:
        return []
    left = "" if seconds is None else f" for {(seconds - (now - began)) / 60:.0f} min more"
    return [f"{what} is marked {marks.DO_NOT_FLIP}{left}"]


def leaves_by_itself(pods: Iterable[Pod], surplus: int) -> frozenset[str]:
    """Uids of the ``surplus`` pods with the highest ordinals."""

    def ordinal(pod: Pod) -> int:
        tail = pod.name.rsplit("-", 1)[-1]
        return int(tail) if tail.isdecimal() else -1

    ordered = sorted(pods, key=ordinal, reverse=True)
    return frozenset(pod.uid for pod in ordered[: max(0, surplus)])
