"""What a node wears in each phase: our label, our taints, the journal; and what was there before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tidefleet.cluster.labels import DUTY_LABEL
from tidefleet.cluster.records import Node, Taint
from tidefleet.controller import marks
from tidefleet.flipping.journal import Before, Journal, write
from tidefleet.flipping.phase import Phase

FLIP_TAINT = "tidefleet.io/flip"
DUTY_TAINT = "tidefleet.io/duty"
SKIP_UPGRADE_LABEL = "nvidia.com/gpu-driver-upgrade.skip"
"""Keeps NVIDIA's GPU operator from upgrading the driver of a node in mid-flip."""

DO_NOT_DISRUPT = "karpenter.sh/do-not-disrupt"
"""Keeps Karpenter from removing a node in mid-flip, or with training on it."""

_DUTIES: Mapping[Phase, str | None] = {
    Phase.SERVING: "serving",
    Phase.PLANNED: "serving",
    Phase.CORDONED: "serving",
    Phase.DRAINING: "serving",
    Phase.VERIFYING: "serving",
    Phase.TRAINING: "training",
    Phase.RECALLING: "training",
    Phase.RECLAIMING: "training",
    Phase.WARMING: "serving",
    Phase.QUARANTINED: None,
}


def taints_of(phase: Phase) -> tuple[Taint, ...]:
    """Our taints in a phase. Serving pods tolerate none of them, and training pods only that of Training."""
    moving = Taint(FLIP_TAINT, str(phase).lower(), "NoSchedule")
    lent = Taint(DUTY_TAINT, "training", "NoSchedule")
    match phase:
        case Phase.SERVING | Phase.PLANNED | Phase.WARMING:
            return ()
        case Phase.TRAINING:
            return (lent,)
        case Phase.RECALLING | Phase.RECLAIMING:
            return (lent, moving)
        case _:
            return (moving,)


def before_of(node: Node, journal: Journal) -> Before:
    """What stood on a node under the keys that a flip writes, as its journal has it, else as it is now."""
    if journal.phase is not Phase.SERVING and (journal.before.labels or journal.before.annotations):
        return journal.before
    return Before(
        labels={SKIP_UPGRADE_LABEL: node.labels.get(SKIP_UPGRADE_LABEL)},
        annotations={DO_NOT_DISRUPT: node.annotations.get(DO_NOT_DISRUPT)},
    )


def node_change(node: Node, journal: Journal, *, own: Journal | None) -> dict[str, Any] | None:
    """The merge patch that dresses a node for a journal, all of it in one write; ``None`` when it is dressed.

    Args:
        node: as it is.
        journal: of its unit, as it ought to be.
        own: the journal that the node carries now; what was there before the flip is taken from it.
    """
    own_before = before_of(node, own) if own is not None and own.phase is not Phase.SERVING else None
    if journal.phase is Phase.SERVING:
        mine = replace(journal, before=Before())
        before = own_before or Before()
        labels: dict[str, str | None] = dict(before.labels)
        annotations: dict[str, str | None] = dict(before.annotations)
    else:
        before = own_before or before_of(node, replace(journal, phase=Phase.SERVING))
        mine = replace(journal, before=before)
        moving = journal.phase.is_moving and journal.phase is not Phase.PLANNED
        labels = {SKIP_UPGRADE_LABEL: "true"} if moving else dict(before.labels)
        annotations = {DO_NOT_DISRUPT: "true"} if journal.phase is not Phase.PLANNED else dict(before.annotations)
    labels[DUTY_LABEL] = _DUTIES[journal.phase]
    annotations[marks.FLIP_ANNOTATION] = write(mine)
    body: dict[str, Any] = {}
    metadata = {
        "labels": {key: value for key, value in labels.items() if node.labels.get(key) != value},
        "annotations": {key: value for key, value in annotations.items() if node.annotations.get(key) != value},
    }
    if any(metadata.values()):
        body["metadata"] = {key: value for key, value in metadata.items() if value}
    foreign = [one for one in node.taints if one.key not in (FLIP_TAINT, DUTY_TAINT)]
    ours = taints_of(journal.phase)
    if [one for one in node.taints if one.key in (FLIP_TAINT, DUTY_TAINT)] != list(ours):
        body["spec"] = {"taints": [_raw(one) for one in (*foreign, *ours)] or None}
    return body or None


def undressed(node: Node, own: Journal | None) -> dict[str, Any] | None:
    """The merge patch that takes everything of ours off a node; ``None`` when nothing is there."""
    before = own.before if own is not None else Before()
    wanted_labels: dict[str, str | None] = {**before.labels, DUTY_LABEL: None}
    wanted_annotations: dict[str, str | None] = {
        **before.annotations,
        marks.FLIP_ANNOTATION: None,
        marks.FLIP_REQUEST_ANNOTATION: None,
    }
    metadata = {
        "labels": {key: value for key, value in wanted_labels.items() if node.labels.get(key) != value},
        "annotations": {key: value for key, value in wanted_annotations.items() if node.annotations.get(key) != value},
    }
    body: dict[str, Any] = {}
    if any(metadata.values()):
        body["metadata"] = {key: value for key, value in metadata.items() if value}
    foreign = [one for one in node.taints if one.key not in (FLIP_TAINT, DUTY_TAINT)]
    if len(foreign) != len(node.taints):
        body["spec"] = {"taints": [_raw(one) for one in foreign] or None}
    return body or None


def _raw(taint: Taint) -> dict[str, str]:
    raw = {"key": taint.key, "value": taint.value, "effect": taint.effect, "timeAdded": taint.added}
    return {key: value for key, value in raw.items() if value}
