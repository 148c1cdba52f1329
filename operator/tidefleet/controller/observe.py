"""Gathers what decisions are taken from: custom resources, workloads, pods, nodes and engine readings."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from tidefleet.api import AcceleratorType, InferencePool, Reason, Site, WorkloadClass
from tidefleet.api.inference_pool import WorkloadKind
from tidefleet.api.validation import Invalid, implausible_prices
from tidefleet.cluster.inventory import Inventory
from tidefleet.cluster.kinds import (
    ACCELERATOR_TYPE,
    DEPLOYMENT,
    INFERENCE_POOL,
    LEADER_WORKER_SET,
    SITE,
    STATEFUL_SET,
    WORKLOAD_CLASS,
    Kind,
)
from tidefleet.cluster.records import Node, Pod, Workload
from tidefleet.controller import marks
from tidefleet.controller.adoption import Autoscaler, conflicts_of
from tidefleet.controller.calibrating import revision_of
from tidefleet.controller.collector import Collector, PoolKey, Target
from tidefleet.controller.places import (
    matches,
    nodes_at,
    placed,
    reserved_chips,
    site_limits,
    standing,
    tariff_faults,
)
from tidefleet.controller.price_source import Prices
from tidefleet.controller.store import Seen, Store
from tidefleet.controller.template import UnusableTemplate, check_template, deployment_name
from tidefleet.controller.trainers import follows, trainers_of, with_trainer
from tidefleet.controller.view import Chips, Fault, PoolView, Served
from tidefleet.economics.architecture import Architecture
from tidefleet.planning.calls import Calls, calls_between, with_called
from tidefleet.planning.coordination import SiteLimit
from tidefleet.planning.from_api import UnknownModel, architecture_of, offer_of, stored_precision
from tidefleet.planning.options import Offer, Option
from tidefleet.planning.prices import in_term, node_chips, priced

log = logging.getLogger(__name__)

WORKLOAD_KINDS: Mapping[WorkloadKind, Kind] = {
    WorkloadKind.DEPLOYMENT: DEPLOYMENT,
    WorkloadKind.STATEFUL_SET: STATEFUL_SET,
    WorkloadKind.LEADER_WORKER_SET: LEADER_WORKER_SET,
}


@dataclass(frozen=True, slots=True)
class TypeSeen:
    """An AcceleratorType, what it offers, and its nodes."""

    seen: Seen
    kind: AcceleratorType
    offer: Offer
    faults: tuple[Fault, ...]
    nodes: int
    chips: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything observed in one pass."""

    now: float
    pools: tuple[tuple[Seen, PoolView | Fault], ...]
    types: Mapping[str, TypeSeen]
    classes: tuple[tuple[Seen, tuple[Fault, ...]], ...]
    sites: tuple[tuple[Seen, tuple[Fault, ...], int], ...]
    bad_types: tuple[tuple[Seen, Fault], ...]
    site_limits: tuple[SiteLimit, ...] = ()


@dataclass(slots=True)
class Observer:
    """Reads store, inventory and collector; keeps nothing but its sources."""

    store: Store
    inventory: Inventory
    models: Mapping[str, Architecture]
    shipped: frozenset[tuple[str, str, str, str, Decimal]] = frozenset()
    known_prices: Mapping[str, Sequence[Decimal]] = field(default_factory=dict)
    """USD per chip-hour that the shipped catalogue lists, by type; others are compared with them."""
    prices: Prices = field(default_factory=Prices)
    """The price book, as last read."""
    autoscalers: Sequence[Autoscaler] | None = None
    """Autoscalers as last listed; ``None`` while they are not known, and then no adopted workload is scaled."""
    budgets: Sequence[Mapping[str, Any]] | None = None
    """PodDisruptionBudgets as last listed; ``None`` while they are not known."""
    gateway_pools: Sequence[Mapping[str, Any]] | None = None
    """Upstream InferencePools as last listed; ``None`` while they are not known, or where the kind is absent."""
    collector: Collector | None = None
    whole_racks: bool = False
    """Whether types that are bought as whole racks count so."""

    def observe(self, now: float) -> Fleet:
        """The fleet as it is known at ``now``."""
        types, bad_types = self._types(now)
        nodes = self.inventory.nodes()
        places = [seen.parsed for seen in self.store.all(SITE) if isinstance(seen.parsed, Site)]
        there = standing(places, [one.kind for one in types.values()], nodes)
        types = {
            one.accelerator.name: replace(types[one.accelerator.name], offer=one)
            for one in placed([one.offer for one in types.values()], places, there, now=now)
        }
        offers, offers_here = self._offers(types)
        classes_of, unreadable, class_rows = self._classes()
        calls = calls_between([one for members in classes_of.values() for one in members])
        class_rows = [(seen, (*faults, *_call_faults(seen, calls))) for seen, faults in class_rows]
        workloads: dict[PoolKey, list[Workload]] = {}
        for workload in self.inventory.workloads():
            name = workload.labels.get(marks.POOL_LABEL)
            if name:
                workloads.setdefault((workload.namespace, name), []).append(workload)
        adopters = self._adopters()
        pools: list[tuple[Seen, PoolView | Fault]] = []
        kinds = {name: one.kind for name, one in types.items()}
        for seen in self.store.all(INFERENCE_POOL):
            if isinstance(seen.parsed, Invalid):
                pools.append((seen, Fault(seen.parsed.reason, str(seen.parsed).replace("\n", "; "))))
                continue
            pool = seen.parsed
            assert isinstance(pool, InferencePool)  # noqa: S101 - the store parses by kind
            own = workloads.get(pool.key, [])
            named = bool(pool.spec.accelerators or pool.spec.serving.workloads)
            mine = classes_of.get(pool.key, ())
            trainers = trainers_of(mine, self.inventory.pods(pool.key[0])) if any(map(follows, mine)) else {}
            view = PoolView(
                pool=pool,
                now=now,
                classes=tuple(
                    with_trainer(with_called(one, calls.called.get(one.key)), trainers.get(one.name)) for one in mine
                ),
                trainers=trainers,
                called={one.name: calls.called[one.key] for one in mine if one.key in calls.called},
                unreadable_classes=tuple(unreadable.get(pool.key, ())),
                kinds=kinds,
                offers=offers if named else _with_running(offers_here, offers, own),
                reading=self.collector.reading(pool.key) if self.collector else None,
                measured=self.collector.measured(pool.key) if self.collector else None,
                busy_ratio=self.collector.busy_ratio(pool.key) if self.collector else None,
                price_fault=self.prices.fault,
                reuse=self.collector.reuse(pool.key) if self.collector else None,
                tiers_seen=self.collector.tiers_seen(pool.key) if self.collector else None,
                groups=self.inventory.serves(LEADER_WORKER_SET),
            )
            try:
                pools.append((seen, self._complete(view, own, adopters)))
            except Exception as error:  # whatever one user's object holds must not stop the others
                log.exception("observing failed", extra={"pool": str(pool)})
                fault = Fault(Reason.INVALID_FIELD, f"{pool} cannot be read: {type(error).__name__}: {error}")
                pools.append((seen, replace(view, faults=(fault,))))
        sites = tuple(self._site(seen) for seen in self.store.all(SITE))
        pools = _with_reserved(pools, types, nodes)
        limits = site_limits(places, there)
        return Fleet(now, tuple(pools), types, tuple(class_rows), sites, tuple(bad_types), limits)

    def _types(self, now: float) -> tuple[dict[str, TypeSeen], list[tuple[Seen, Fault]]]:
        nodes = self.inventory.nodes()
        found: dict[str, TypeSeen] = {}
        bad: list[tuple[Seen, Fault]] = []
        today = datetime.datetime.fromtimestamp(now, tz=datetime.UTC).date()
        for seen in self.store.all(ACCELERATOR_TYPE):
            if isinstance(seen.parsed, Invalid):
                bad.append((seen, Fault(seen.parsed.reason, str(seen.parsed).replace("\n", "; "))))
                continue
            assert isinstance(seen.parsed, AcceleratorType)  # noqa: S101
            kind = in_term(priced(seen.parsed, self.prices.book), today)
            wrong = implausible_prices(kind, self.known_prices.get(kind.name, ()))
            where = "" if kind is seen.parsed else " (with the price book's prices)"
            faults = tuple(Fault(Reason.PRICE_IMPLAUSIBLE, f"{one}{where}") for one in wrong)
            offer = offer_of(kind, shipped=self.shipped, implausible=bool(wrong), whole_racks=self.whole_racks)
            mine = [node for node in nodes if matches(kind, node)]
            resource = kind.spec.resource_name or ""
            chips = sum(node.allocatable.get(resource, 0) for node in mine)
            found[kind.name] = TypeSeen(seen, kind, offer, faults, len(mine), chips)
        return found, bad

    def chips_per_node(self) -> dict[str, int | None]:
        """Chips of a node by accelerator type, for prices per node."""
        kinds = [seen.parsed for seen in self.store.all(ACCELERATOR_TYPE)]
        return node_chips(one for one in kinds if isinstance(one, AcceleratorType))

    @staticmethod
    def _offers(types: Mapping[str, TypeSeen]) -> tuple[tuple[Offer, ...], tuple[Offer, ...]]:
        """What may be named, and what is a candidate where nothing is named: types with nodes, if any type has some.

        A type without nodes is fine when somebody buys nodes for pending pods, but then somebody asked for it.
        """
        every = tuple(one.offer for one in types.values())
        if not any(one.nodes for one in types.values()):
            return every, every
        absent = "no node of this type is in the cluster; name it in spec.accelerators to use it all the same"
        here = tuple(
            one.offer if one.nodes else replace(one.offer, plan_only=one.offer.plan_only or absent)
            for one in types.values()
        )
        return every, here

    def _classes(
        self,
    ) -> tuple[dict[PoolKey, list[WorkloadClass]], dict[PoolKey, list[str]], list[tuple[Seen, tuple[Fault, ...]]]]:
        """Usable classes by pool, names of unusable ones by pool, and all of them with what is wrong."""
        by_pool: dict[PoolKey, list[WorkloadClass]] = {}
        unreadable: dict[PoolKey, list[str]] = {}
        asking: list[tuple[str, str, str]] = []
        rows: list[tuple[Seen, tuple[Fault, ...]]] = []
        for seen in self.store.all(WORKLOAD_CLASS):
            if isinstance(seen.parsed, Invalid):
                rows.append((seen, (Fault(seen.parsed.reason, str(seen.parsed).replace("\n", "; ")),)))
                spec = seen.raw.get("spec")
                ref = spec.get("poolRef") if isinstance(spec, Mapping) else None
                if isinstance(ref, Mapping):
                    key = (seen.metadata.namespace, str(ref.get("name")))
                    unreadable.setdefault(key, []).append(seen.metadata.name)
                calls = spec.get("calls") if isinstance(spec, Mapping) else None
                named = [one for one in calls if isinstance(one, Mapping)] if isinstance(calls, list) else []
                asking += [(seen.metadata.namespace, str(one.get("class")), seen.metadata.name) for one in named]
                continue
            wclass = seen.parsed
            assert isinstance(wclass, WorkloadClass)  # noqa: S101
            key = (wclass.namespace, wclass.spec.pool_ref.name)
            faults: tuple[Fault, ...] = ()
            if self.store.get(INFERENCE_POOL, *key) is None:
                expected = f"expected an InferencePool in namespace {key[0]}, e.g. chat"
                message = f'{wclass}: spec.poolRef.name is "{key[1]}"; {expected}'
                faults = (Fault(Reason.POOL_NOT_FOUND, message),)
            elif not wclass.metadata.deletion_timestamp:
                by_pool.setdefault(key, []).append(wclass)
            rows.append((seen, faults))
        pool_of = {one.key: key for key, members in by_pool.items() for one in members}
        for namespace, called, caller in asking:  # what it asks of another pool is not known either
            if (namespace, called) in pool_of:
                unreadable.setdefault(pool_of[namespace, called], []).append(caller)
        return by_pool, unreadable, rows

    def _adopters(self) -> dict[tuple[str, str, str], str]:
        """Which pool adopts a workload: (namespace, kind, name) to the first pool, by name, that lists it."""
        owners: dict[tuple[str, str, str], str] = {}
        for seen in self.store.all(INFERENCE_POOL):
            if isinstance(seen.parsed, InferencePool):
                for ref in seen.parsed.spec.serving.workloads or ():
                    owners.setdefault((seen.parsed.namespace, str(ref.kind), ref.name), seen.parsed.name)
        return owners

    def _complete(
        self, view: PoolView, workloads: Sequence[Workload], adopters: Mapping[tuple[str, str, str], str]
    ) -> PoolView:
        """The view with model, workloads, chips and faults."""
        pool, faults = view.pool, list[Fault]()
        try:
            view = replace(view, architecture=architecture_of(pool, self.models))
        except UnknownModel as error:
            faults.append(Fault(Reason.UNKNOWN_MODEL, str(error)))
        named = [(f"spec.accelerators[{i}].type", one.type) for i, one in enumerate(pool.spec.accelerators)]
        named += [
            (f"spec.serving.workloads[{i}].accelerator", one.accelerator)
            for i, one in enumerate(pool.spec.serving.workloads or ())
        ]
        for path, name in named:
            if name not in view.kinds:
                near = ", ".join([each for each in view.kinds if each.split("-")[0] == name.split("-")[0]][:3])
                message = f'{pool}: {path} is "{name}"; expected an AcceleratorType, e.g. {near or "h100-sxm"}'
                faults.append(Fault(Reason.UNKNOWN_ACCELERATOR, message))
        if pool.spec.serving.template is not None:
            try:
                check_template(pool)
            except UnusableTemplate as error:
                faults.append(Fault(error.reason, str(error)))
            served = _own(pool, workloads)
            pods = {one.name: self.inventory.pods(pool.namespace, _selector(one)) for one in served}
            return replace(view, faults=tuple(faults), served=served, chips=_chips(view, served, pods))
        served = adopted_workloads(
            pool,
            view.architecture,
            lambda kind, name: self.inventory.workload(WORKLOAD_KINDS[kind], pool.namespace, name),
        )
        conflicts: dict[str, Fault] = {}
        for ref, one in zip(pool.spec.serving.workloads or (), served, strict=True):
            owner = adopters.get((pool.namespace, str(ref.kind), ref.name), pool.name)
            if owner != pool.name:
                message = f"{pool}: {ref.kind} {ref.name} is already adopted by InferencePool {pool.namespace}/{owner}"
                conflicts[one.name] = Fault(Reason.ANOTHER_POOL, message)
            else:
                conflicts |= conflicts_of(pool, ref, one.name, one.workload, self.autoscalers)
        pods = {
            one.name: self.inventory.pods(pool.namespace, one.workload.selector)
            for one in served
            if one.workload and one.workload.selector and not one.workload.match_expressions_present
        }
        chips = _chips(view, served, pods)
        return replace(view, faults=tuple(faults), served=served, conflicts=conflicts, chips=chips)

    def _site(self, seen: Seen) -> tuple[Seen, tuple[Fault, ...], int]:
        if isinstance(seen.parsed, Invalid):
            return seen, (Fault(seen.parsed.reason, str(seen.parsed).replace("\n", "; ")),), 0
        site = seen.parsed
        assert isinstance(site, Site)  # noqa: S101
        return seen, tariff_faults(site), nodes_at(site, self.inventory.nodes())

    def pods_of(self, pool: InferencePool) -> list[tuple[str, Pod]]:
        """The pods that serve a pool, with the option they are of: not whatever carries a label of ours."""
        if pool.spec.serving.workloads is None:
            options = {one.name.rsplit("-", 1)[-1] for one in _own(pool, self._workloads_of(pool))}
            pods = self.inventory.pods_of_pool(pool.namespace, pool.name)
            keyed = [(pod.labels.get(marks.OPTION_LABEL, ""), pod) for pod in pods if pod.owner_uid]
            return [(key, pod) for key, pod in keyed if key in options]
        found: list[tuple[str, Pod]] = []
        for ref in pool.spec.serving.workloads:
            workload = self.inventory.workload(WORKLOAD_KINDS[ref.kind], pool.namespace, ref.name)
            if workload and workload.selector and not workload.match_expressions_present:
                pods = self.inventory.pods(pool.namespace, workload.selector)
                found += [(f"{ref.kind}/{ref.name}", pod) for pod in pods]
        return found

    def _workloads_of(self, pool: InferencePool) -> list[Workload]:
        here = self.inventory.workloads(pool.namespace)
        return [one for one in here if one.labels.get(marks.POOL_LABEL) == pool.name]

    def targets(self) -> dict[PoolKey, tuple[Target, ...]]:
        """The engines to read, by pool: every ready pod that has an address; of a group of pods the leader alone."""
        found: dict[PoolKey, tuple[Target, ...]] = {}
        for seen in self.store.all(INFERENCE_POOL):
            pool = seen.parsed
            if not isinstance(pool, InferencePool):
                continue
            pods = self.pods_of(pool)
            engine = pool.spec.serving.engine
            found[pool.key] = tuple(
                Target(
                    pod.uid,
                    f"{pod.namespace}/{pod.name}",
                    f"http://{_host(pod.pod_ip)}:{engine.port}{engine.metrics_path}",
                    pod.ready,
                    pod.restarts,
                    workload,
                    revision_of(pod),
                    _is_leaving(pod),
                )
                for workload, pod in pods
                if pod.pod_ip and not pod.deleting and pod.phase == "Running" and _answers(pod)
            )
        return found


def adopted_workloads(
    pool: InferencePool, architecture: Architecture | None, find: Callable[[WorkloadKind, str], Workload | None]
) -> tuple[Served, ...]:
    """The workloads that a pool adopts, in the order of its spec; none for a pool with a template.

    Capacity type and precisions are the first that the pool's entry for the accelerator lists.
    """
    found = []
    wishes = {one.type: one for one in pool.spec.accelerators}
    native = architecture.native_weights if architecture else "Bf16"
    for ref in pool.spec.serving.workloads or ():
        wish = wishes.get(ref.accelerator)
        name = f"{ref.kind}/{ref.name}"
        option = Option(
            accelerator=ref.accelerator,
            capacity_type=str(wish.capacity_types[0]) if wish else "OnDemand",
            tensor_parallel=ref.chips_per_replica,
            weights=stored_precision(wish.weights[0]) if wish and wish.weights else native,
            kv=stored_precision(wish.kv[0]) if wish and wish.kv else "Bf16",
            workload=name,
        )
        found.append(Served(name, option, find(ref.kind, ref.name)))
    return tuple(found)


def _call_faults(seen: Seen, calls: Calls) -> tuple[Fault, ...]:
    """What is wrong with a class's calls: its own demand counts all the same."""
    found = calls.faults.get((seen.metadata.namespace, seen.metadata.name))
    return () if found is None else (Fault(*found),)


def _with_reserved(
    pools: list[tuple[Seen, PoolView | Fault]], types: Mapping[str, TypeSeen], nodes: Sequence[Node]
) -> list[tuple[Seen, PoolView | Fault]]:
    """The pools, with the reserved chips that each may use, at a price that is owed in any case."""
    reserved = {name: chips for name, one in types.items() if (chips := reserved_chips(one.kind, nodes))}
    if not reserved:
        return pools
    views = [view for _, view in pools if isinstance(view, PoolView)]
    held = {name: sum(_reserved_held(view, name) for view in views) for name in reserved}

    def seen_by(view: PoolView) -> PoolView:
        free = {name: max(0, chips - held[name] + _reserved_held(view, name)) for name, chips in reserved.items()}
        return replace(view, offers=tuple(_committed(one) if one.accelerator.name in free else one
                                          for one in view.offers), reserved=free)  # fmt: skip

    return [(seen, seen_by(view) if isinstance(view, PoolView) else view) for seen, view in pools]


def _reserved_held(view: PoolView, name: str) -> int:
    return view.chips.get((name, "Reserved"), Chips()).scheduled


def _committed(offer: Offer) -> Offer:
    prices = {kind: replace(one, committed=True) if kind == "Reserved" else one for kind, one in offer.prices.items()}
    return replace(offer, prices=prices)


def _with_running(here: Sequence[Offer], every: Sequence[Offer], own: Sequence[Workload]) -> tuple[Offer, ...]:
    """Offers of types with nodes, and of types that a pool runs on already: their nodes may be back in a minute."""
    options = (marks.read_option(one.annotations) for one in own)
    running = {option.accelerator for option in options if option is not None}
    return tuple(whole if whole.accelerator.name in running else one for one, whole in zip(here, every, strict=True))


def _answers(pod: Pod) -> bool:
    """Whether requests go to a pod: of the pods of a LeaderWorkerSet's group they go to the first."""
    return pod.labels.get(marks.WORKER_INDEX_LABEL, "0") == "0"


def _is_leaving(pod: Pod) -> bool:
    """Whether a pod takes no further requests: it is being deleted, or ours and not routed to any more."""
    routed = not _answers(pod) or pod.labels.get(marks.ROUTABLE_LABEL) == "true"
    return pod.deleting or (marks.OPTION_LABEL in pod.labels and not routed)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _selector(one: Served) -> Mapping[str, str]:
    return one.workload.selector if one.workload else {}


def _own(pool: InferencePool, workloads: Sequence[Workload]) -> tuple[Served, ...]:
    """The pool's own workloads: those whose name, label and annotation agree. Anything else is not ours."""
    found = []
    for workload in workloads:
        option = marks.read_option(workload.annotations)
        if option is None or workload.name != deployment_name(pool.name, option):
            continue
        grouped = workload.kind is LEADER_WORKER_SET
        if not grouped and workload.kind is not DEPLOYMENT:
            continue
        # A LeaderWorkerSet selects its pods by its own name: its labels are what we can compare.
        labels = workload.labels if grouped else workload.selector
        if labels.get(marks.OPTION_LABEL) == option.key(pool.name):
            found.append(Served(workload.name, option, workload, workload.pods_per_replica))
    return tuple(sorted(found, key=lambda one: one.name))


def _chips(view: PoolView, served: Sequence[Served], pods: Mapping[str, Sequence[Pod]]) -> dict[tuple[str, str], Chips]:
    result: dict[tuple[str, str], Chips] = {}
    for one in served:
        kind = view.kinds.get(one.option.accelerator)
        resource = (kind.spec.resource_name if kind else "") or ""
        key = (one.option.accelerator, one.option.capacity_type)
        for pod in pods.get(one.name, ()):
            if pod.phase in ("Succeeded", "Failed"):
                continue
            before, held = result.get(key, Chips()), pod.chips.get(resource, 0)
            if pod.node:
                leaving = held if _is_leaving(pod) else 0
                result[key] = replace(
                    before,
                    scheduled=before.scheduled + held,
                    ready=before.ready + (held if pod.ready else 0),
                    leaving=before.leaving + leaving,
                    leaving_ready=before.leaving_ready + (leaving if pod.ready else 0),
                )
            elif pod.unschedulable_since is not None:
                result[key] = replace(
                    before,
                    waiting=before.waiting + held,
                    waiting_pods=before.waiting_pods + 1,
                    why=pod.unschedulable_message,
                )
    return result
