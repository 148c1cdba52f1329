"""Replicas wider than a node: one LeaderWorkerSet per option, whose groups of pods lie on as many nodes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tidefleet.api import AcceleratorType, InferencePool
from tidefleet.api.inference_pool import EngineType
from tidefleet.controller import marks
from tidefleet.controller.template import deployment_for, engine_container, with_argument
from tidefleet.controller.view import PoolView, Served
from tidefleet.planning.from_api import rack_chips
from tidefleet.planning.options import ANY_TYPE, Allowed, Offer, Option

RENDEZVOUS_PORT = 20000
"""Where the pods of an SGLang group find their leader; vLLM has a port of its own for that."""

NAME_LABEL = "leaderworkerset.sigs.k8s.io/name"
INDEX_LABEL = "leaderworkerset.sigs.k8s.io/group-index"
"""On every pod of a LeaderWorkerSet, by its controller: which set, and which of its groups."""

_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def group_size(option: Option, kind: AcceleratorType) -> int:
    """Pods of one replica: 1 when a node has chips enough, otherwise chips over chips per node, rounded up."""
    per_node = int(kind.spec.chips_per_node or 0)
    return 1 if per_node <= 0 else max(1, -(-option.chips // per_node))


def across_nodes(view: PoolView, offers: Sequence[Offer], allowed: Mapping[str, Allowed]) -> tuple[Offer, ...]:
    """Offers that may be wider than a node, where somebody can make a group of pods of them.

    That takes LeaderWorkerSets in the cluster, an engine that we know how to start on several nodes, and widths that
    the owner names and whole nodes make up. All other offers stay bound to a node, which is told of wider ones.
    """
    if view.pool.spec.serving.engine.type is EngineType.OTHER:
        return tuple(offers)
    if not view.groups and not any(one.group > 1 for one in view.served):
        return tuple(offers)
    result = []
    for offer in offers:
        per_node = offer.accelerator.chips_per_node
        wish = allowed.get(offer.accelerator.name, allowed.get(ANY_TYPE, Allowed()))
        wide = [width for width in wish.tensor_parallel if width > per_node > 0]
        if wide and all(width % per_node == 0 for width in wide):
            offer = replace(offer, accelerator=replace(offer.accelerator, chips_per_node=0))  # noqa: PLW2901
        result.append(offer)
    return tuple(result)


def workload_for(
    pool: InferencePool,
    served: Served,
    kind: AcceleratorType,
    *,
    native_weights: str,
    replicas: int,
    host_bytes: float = 0.0,
) -> dict[str, Any]:
    """The Deployment of an option, or the LeaderWorkerSet where a replica needs several nodes.

    Args:
        host_bytes: room of the KV tier in host memory that engines are started with; one on several nodes has none.

    Raises:
        UnusableTemplate: no container to put the engine in.
    """
    body = deployment_for(
        pool, served.option, kind,
        native_weights=native_weights, replicas=replicas, host_bytes=host_bytes if served.group == 1 else 0.0,
    )  # fmt: skip
    if served.group == 1:
        return body
    template = body["spec"]["template"]
    body["spec"] = {
        "replicas": replicas,
        "leaderWorkerTemplate": {
            "size": served.group,
            "restartPolicy": "RecreateGroupOnPodRestart",
            "leaderTemplate": _pod(pool, template, served, kind, leads=True),
            "workerTemplate": _pod(pool, template, served, kind, leads=False),
        },
    }
    if rack_chips(kind):
        for which in ("leaderTemplate", "workerTemplate"):
            _keep_together(body["spec"]["leaderWorkerTemplate"][which], served.name)
    return body


def _keep_together(pod: dict[str, Any], name: str) -> None:
    """The pods of one group lie in one scale-up domain where there is room in one, whatever else the template prefers.

    A preference, since API servers before 1.31 may drop ``matchLabelKeys``: all groups would have to share a domain.
    """
    term = {
        "topologyKey": marks.CLIQUE_LABEL,
        "labelSelector": {"matchLabels": {NAME_LABEL: name}},
        "matchLabelKeys": [INDEX_LABEL],
    }
    affinity = dict(pod["spec"].get("affinity") or {})
    near = dict(affinity.get("podAffinity") or {})
    wishes = list(near.get(_PREFERRED) or ())
    near[_PREFERRED] = [*wishes, {"weight": 100, "podAffinityTerm": term}]
    pod["spec"]["affinity"] = {**affinity, "podAffinity": near}


def _pod(
    pool: InferencePool, template: Mapping[str, Any], served: Served, kind: AcceleratorType, *, leads: bool
) -> dict[str, Any]:
    """One pod of a group: its share of the chips, and who and where its leader is.

    Workers serve no requests: they are not routable, nobody reads their metrics, and probes of the engine's port would
    never succeed. A group is ready when all its pods are.
    """
    pod = copy.deepcopy(dict(template))
    container = dict(engine_container(pool, pod))
    resource = kind.spec.resource_name or ""
    for which in ("limits", "requests"):
        container["resources"][which][resource] = str(served.option.chips // served.group)
    field = "args" if "args" in container or "command" not in container else "command"
    container[field] = _arguments(pool, list(container.get(field) or ()), served.group, leads=leads)
    if not leads:
        for probe in _PROBES:
            container.pop(probe, None)
        pod["metadata"]["labels"].pop(marks.ROUTABLE_LABEL, None)
        pod["metadata"]["annotations"].pop(marks.ENGINE_ANNOTATION, None)
    name = container.get("name")
    pod["spec"]["containers"] = [container if one.get("name") == name else one for one in pod["spec"]["containers"]]
    return pod


def _arguments(pool: InferencePool, arguments: list[str], size: int, *, leads: bool) -> list[str]:
    """Arguments that join the pods of a group; the LeaderWorkerSet controller sets the variables in each container.

    vLLM: "Running vLLM with MultiProcessing" of its parallelism guide (rank 0 serves, the others run headless). SGLang:
    "multi-node deployment" of its documentation.
    """
    arguments = with_argument(arguments, str(size), "--nnodes")
    arguments = with_argument(arguments, "$(LWS_WORKER_INDEX)", "--node-rank")
    if pool.spec.serving.engine.type is EngineType.SGLANG:
        return with_argument(arguments, f"$(LWS_LEADER_ADDRESS):{RENDEZVOUS_PORT}", "--dist-init-addr")
    arguments = with_argument(arguments, "mp", "--distributed-executor-backend")
    arguments = with_argument(arguments, "$(LWS_LEADER_ADDRESS)", "--master-addr")
    arguments = [one for one in arguments if one != "--headless"]
    return arguments if leads else [*arguments, "--headless"]
