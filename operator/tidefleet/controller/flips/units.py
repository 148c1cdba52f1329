"""The units of a fleet: nodes that change hands alone, and groups of nodes that do so together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tidefleet.api import AcceleratorType
from tidefleet.cluster.kinds import LEADER_WORKER_SET, STATEFUL_SET
from tidefleet.cluster.records import Node, Pod
from tidefleet.controller import marks
from tidefleet.controller.collector import PoolKey
from tidefleet.controller.flips.dress import DUTY_TAINT, FLIP_TAINT
from tidefleet.controller.places import matches
from tidefleet.controller.view import PoolView, Served
from tidefleet.flipping.journal import Journal, Unreadable, agreed, read
from tidefleet.flipping.phase import Phase

GROUP_LABEL = "leaderworkerset.sigs.k8s.io/group-key"
"""The same on all pods of one group of a LeaderWorkerSet."""

FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class ServingPod:
    """A pod that serves a pool, with the workload it belongs to."""

    pool: PoolKey
    served: Served
    pod: Pod

    @property
    def is_ordinal(self) -> bool:
        """Whether its workload removes the highest ordinal first, whatever a deletion cost says."""
        return self.served.kind in (STATEFUL_SET, LEADER_WORKER_SET)


@dataclass(frozen=True, slots=True)
class Unit:
    """One node, or an atomic group of them, as it is on the cluster.

    Attributes:
        name: the node's name, or that of the group.
        nodes: its members that exist, by name; ``missing`` those that are gone, or whose journals know nothing of it.
        accelerator, resource: what it holds; ``chips`` how many there are on all its nodes.
        journal: where it stands, in phase Serving since 0 when it has never flipped.
        lagging: nodes on which the journal is another one; ``bare`` those of a unit in a flip that have none at all.
        trouble: why a journal cannot be read, or is missing where a taint of ours stands.
        serving: pods of pools on it; ``others`` any other pods that hold its accelerators, those of pools that cannot
            be read among them.
    """

    name: str
    nodes: tuple[Node, ...]
    accelerator: str
    resource: str
    chips: int
    journal: Journal
    missing: tuple[str, ...] = ()
    lagging: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    trouble: str = ""
    serving: tuple[ServingPod, ...] = ()
    others: tuple[Pod, ...] = ()

    @property
    def pools(self) -> frozenset[PoolKey]:
        """Pools with pods on it."""
        return frozenset(one.pool for one in self.serving)

    @property
    def strangers(self) -> tuple[Pod, ...]:
        """Pods on it that no pool has ever had: those of training."""
        return tuple(pod for pod in self.others if not was_serving(pod))

    @property
    def names(self) -> frozenset[str]:
        """Names of its nodes that exist."""
        return frozenset(node.name for node in self.nodes)

    @property
    def size(self) -> int:
        """Its number of nodes, missing ones included."""
        return len(self.nodes) + len(self.missing)

    @property
    def holders(self) -> int:
        """Pods that hold its accelerators, terminating ones included."""
        return len(self.serving) + len(self.others)


def was_serving(pod: Pod) -> bool:
    """Whether a pod is a pool's, though the pool cannot be read now or is gone: it carries marks that only those do."""
    return marks.FLIP_ANNOTATION in pod.annotations or marks.POOL_LABEL in pod.labels


def serving_pods(
    views: Iterable[PoolView], pods_of: Mapping[tuple[PoolKey, str], Sequence[Pod]]
) -> dict[str, ServingPod]:
    """The pods that serve pools, by uid."""
    found: dict[str, ServingPod] = {}
    for view in views:
        key = view.pool.key
        for served in view.served:
            for pod in pods_of.get((key, served.name), ()):
                found[pod.uid] = ServingPod(key, served, pod)
    return found


def units_of(
    kinds: Mapping[str, AcceleratorType], nodes: Iterable[Node], pods: Iterable[Pod], serving: Mapping[str, ServingPod]
) -> list[Unit]:
    """Every unit with accelerators of a known type, by name.

    In a flip, nodes stay together whose journals name each other; else those of one NVLink partition and those that one
    group of a LeaderWorkerSet spans do. A node of several types, or of none, is no unit.

    Args:
        pods: all pods of the cluster as far as they can be seen; those without a node are passed over.
        serving: pods of pools, by uid.
    """
    by_node: dict[str, list[Pod]] = {}
    for pod in pods:
        if pod.node and pod.chips and pod.phase not in FINISHED:
            by_node.setdefault(pod.node, []).append(pod)
    typed: dict[str, tuple[Node, AcceleratorType]] = {}
    for node in nodes:
        of = [kind for kind in kinds.values() if matches(kind, node)]
        if len(of) == 1 or (of and len({one.spec.resource_name for one in of}) == 1):
            typed[node.name] = (node, of[0])
    journals = {name: _journal(node) for name, (node, _) in typed.items()}
    units: list[Unit] = []
    for name, (bound, missing) in sorted(_groups(typed, journals, by_node).items()):
        members = tuple(sorted(bound | missing))
        here = tuple(typed[one][0] for one in sorted(bound))
        kind = typed[here[0].name][1]
        resource = kind.spec.resource_name or ""
        held = [pod for node in here for pod in by_node.get(node.name, ()) if pod.chips.get(resource)]
        stories = {node.name: journals[node.name] for node in here}
        journal, trouble = _state(name, members, kind.name, stories, here)
        units.append(
            Unit(
                name=name,
                nodes=here,
                accelerator=kind.name,
                resource=resource,
                chips=sum(node.allocatable.get(resource, 0) for node in here),
                journal=journal,
                missing=tuple(sorted(missing)),
                lagging=tuple(
                    node.name
                    for node in here
                    if not (isinstance(story := stories[node.name], Journal) and story.same_state(journal))
                    and not (story is None and not journal.since)
                ),
                bare=tuple(name for name, story in stories.items() if story is None and journal.since),
                trouble=trouble,
                serving=tuple(serving[pod.uid] for pod in held if pod.uid in serving),
                others=tuple(pod for pod in held if pod.uid not in serving),
            )
        )
    return units


def _journal(node: Node) -> Journal | Unreadable | None:
    text = node.annotations.get(marks.FLIP_ANNOTATION)
    if text is None:
        return None
    found = read(text)
    if isinstance(found, Journal) and node.name not in found.members:
        return Unreadable(f"it is about {found.unit}, not about this node")
    if isinstance(found, Journal) and found.unit != min(found.members):
        return Unreadable(f"its unit is {found.unit}; expected the first of its nodes, {min(found.members)}")
    return found


def _groups(
    typed: Mapping[str, tuple[Node, AcceleratorType]],
    journals: Mapping[str, Journal | Unreadable | None],
    pods: Mapping[str, Sequence[Pod]],
) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """Names of units, each with the names of its nodes that exist, and of those that do not, or do not belong to it.

    What one journal says of other nodes counts only where those agree, or where they have none and stand in the same
    partition or group: nobody takes nodes away from serving by what he writes on another one.
    """
    together = _together(typed, pods)
    groups: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
    taken: set[str] = set()
    moving = [(name, one) for name, one in journals.items() if isinstance(one, Journal)]
    moving = [(name, one) for name, one in moving if one.phase is not Phase.SERVING]
    for name, story in sorted(moving, key=lambda pair: (-pair[1].turn, pair[0])):
        if name in taken:
            continue
        bound = {name}
        for other in set(story.members) & typed.keys() - taken:
            told = journals[other]
            if isinstance(told, Journal) and told.phase is not Phase.SERVING:
                agrees = told.unit == story.unit and name in told.members
            else:
                agrees = any({name, other} <= one for one in together)
            if agrees:
                bound.add(other)
        missing = frozenset(story.members) - bound
        known = story.unit in bound or story.unit not in typed
        title = story.unit if known and story.unit not in groups else min(bound)
        groups[title] = frozenset(bound), missing
        taken |= bound
    for members in _merged([one - taken for one in together]):
        groups[min(members)] = frozenset(members), frozenset()
        taken |= members
    groups |= {name: (frozenset({name}), frozenset()) for name in typed if name not in taken}
    return groups


def _together(typed: Mapping[str, tuple[Node, AcceleratorType]], pods: Mapping[str, Sequence[Pod]]) -> list[set[str]]:
    """Nodes that stand together whatever journals say: of one NVLink partition, or under one group of pods."""
    found: dict[str, set[str]] = {}
    for name, (node, kind) in typed.items():
        clique = node.labels.get(marks.CLIQUE_LABEL, "")
        domain = kind.spec.scale_up.domain_chips if kind.spec.scale_up else 0
        if clique and domain > (kind.spec.chips_per_node or 0):
            found.setdefault(f"clique/{clique}", set()).add(name)
        for pod in pods.get(name, ()):
            if pod.labels.get(GROUP_LABEL):
                found.setdefault(f"group/{pod.namespace}/{pod.labels[GROUP_LABEL]}", set()).add(name)
    return _merged(found.values())


def _merged(sets: Iterable[set[str]]) -> list[set[str]]:
    """Sets that share an element become one."""
    merged: list[set[str]] = []
    for one in sets:
        if len(one) < 2:
            continue
        apart = [other for other in merged if not other & one]
        joined = set(one).union(*(other for other in merged if other & one))
        merged = [*apart, joined]
    return merged


def _state(
    name: str,
    members: tuple[str, ...],
    accelerator: str,
    stories: Mapping[str, Journal | Unreadable | None],
    nodes: Sequence[Node],
) -> tuple[Journal, str]:
    """Where a unit stands, and what is wrong with what its nodes say of it.

    A change of phase reaches one node after the other; until all have it, the unit is where the newest journal says.
    One that serves consists of the nodes that stand together now, whoever did when it last flipped.
    """
    fresh = Journal(epoch=0, phase=Phase.SERVING, since=0.0, unit=name, members=members, accelerator=accelerator)
    written = [one for one in stories.values() if isinstance(one, Journal)]
    bad = {node: one.why for node, one in stories.items() if isinstance(one, Unreadable)}
    tainted = [node.name for node in nodes if any(taint.key in (FLIP_TAINT, DUTY_TAINT) for taint in node.taints)]
    trouble = "; ".join(f"the journal on node {node} cannot be read: {why}" for node, why in sorted(bad.items()))
    orphans = [node for node in tainted if not isinstance(stories[node], Journal)]
    if orphans:
        lost = f"node {', '.join(orphans)} carries a taint of tidefleet.io and no journal that can be read"
        way_out = f"it is quarantined: look what is on it, then `tidefleet flip {orphans[0]} --release`"
        return fresh, "; ".join(one for one in (trouble, lost, way_out) if one)
    if not written:
        if trouble:
            take_off = f"kubectl annotate node {' '.join(sorted(bad))} {marks.FLIP_ANNOTATION}-"
            trouble = f"{trouble}; it is not lent until that is taken off: {take_off}"
        return fresh, trouble
    newest = agreed(written)
    if newest.phase is Phase.SERVING:
        newest = replace(newest, unit=name, members=members)
    return newest, trouble
