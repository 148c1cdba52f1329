"""What of ours is left where no journal accounts for it: found, and told with what would be done; never acted on."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from tidefleet.cluster.kinds import COHORT, NODE, Kind
from tidefleet.cluster.labels import DUTY_LABEL
from tidefleet.cluster.objects import ApiFailed, Objects
from tidefleet.cluster.records import Node
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import Delete
from tidefleet.controller import marks
from tidefleet.controller.act import Actor
from tidefleet.controller.flips.dress import DUTY_TAINT, FLIP_TAINT
from tidefleet.controller.flips.units import Unit
from tidefleet.controller.training.kueue import abandoned

log = logging.getLogger(__name__)

COHORT_PREFIX = "tidefleet-"


@dataclass(frozen=True, slots=True)
class Stray:
    """An object of ours, or with something of ours on it, that no flip accounts for."""

    kind: Kind
    name: str
    uid: str
    words: str


def stray_nodes(nodes: Iterable[Node], units: Iterable[Unit]) -> list[Stray]:
    """Nodes with our label and no journal, and those with anything of ours that belong to no unit.

    A node of a unit with our taint and no journal is none of them: it is quarantined, and told as that.
    """
    known = {name for unit in units for name in unit.names}
    found = []
    for node in nodes:
        journal = marks.FLIP_ANNOTATION in node.annotations
        taints = sorted({one.key for one in node.taints if one.key in (FLIP_TAINT, DUTY_TAINT)})
        duty = node.labels.get(DUTY_LABEL)
        words = ""
        if node.name not in known and (journal or taints):
            what = " and ".join([*(["a journal"] if journal else []), *(f"the taint {one}" for one in taints)])
            words = (
                f"node {node.name} carries {what} of tidefleet.io and no accelerators of a known AcceleratorType; "
                "nothing is done about it: make its type known again, or take them off"
            )
        elif duty is not None and not journal and not taints:
            words = (
                f"node {node.name} carries the label {DUTY_LABEL}={duty[:63]} and no journal; a flip of it would set "
                f"the label anew, nothing else is done about it: kubectl label node {node.name} {DUTY_LABEL}-"
            )
        if words:
            found.append(Stray(NODE, node.name, node.uid, words))
    return found


def stray_cohorts(
    objects: Objects, pools: Collection[tuple[str, str]], namespaces: Sequence[str]
) -> list[Stray] | None:
    """Cohorts of ours whose pool lends nothing through Kueue; ``None`` where they cannot be listed.

    Args:
        pools: (namespace, name) of every pool that lends through Kueue, or still has nodes out.
        namespaces: those that this operator serves; empty for all. Cohorts of others' pools are none of its business.
    """
    try:
        writes = abandoned(objects, pools, decision_id="")
    except (ApiFailed, Unreachable) as error:
        log.info("Cohorts cannot be listed", extra={"why": str(error)})
        return None
    mine = tuple(f"{COHORT_PREFIX}{one}-" for one in namespaces) or (COHORT_PREFIX,)
    return [
        Stray(
            COHORT,
            one.name,
            one.uid,
            f"Cohort {one.name} is ours, and {one.reason}; it would be deleted, unless ClusterQueues name it: "
            f"kubectl delete cohorts.kueue.x-k8s.io {one.name}",
        )
        for one in writes
        if isinstance(one, Delete) and one.kind == COHORT and one.name.startswith(mine)
    ]


@dataclass(slots=True)
class Sweep:
    """Tells each stray once, in the log and as an Event, and again when it is another story."""

    actor: Actor
    _told: dict[tuple[str, str], str] = field(default_factory=dict)

    def tell(self, strays: Iterable[Stray], *, decision_id: str) -> None:
        """Tell what has not been told; what is gone is forgotten."""
        present = {(one.kind.kind, one.uid): one for one in strays}
        for key, one in present.items():
            if self._told.get(key) == one.words:
                continue
            log.warning("left behind", extra={"object": f"{one.kind.kind} {one.name}", "why": one.words})
            self.actor.events.emit(
                one.kind, None, one.name, one.uid, type_="Warning", reason="LeftBehind", message=one.words,
                annotations={marks.DECISION_ANNOTATION: decision_id},
            )  # fmt: skip
        self._told = {key: one.words for key, one in present.items()}
