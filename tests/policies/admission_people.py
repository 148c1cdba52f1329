"""Somebody with rights of their own on a cluster with the chart's admission policies, and what they try to write."""

from __future__ import annotations

import contextlib
import copy
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from localcluster.api import ApiClient, ApiError
from localcluster.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]
RBAC = "/apis/rbac.authorization.k8s.io/v1"
TYPES = "/apis/tidefleet.io/v1alpha1/acceleratortypes"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
DUTY = {"tidefleet.io/duty": "training"}
OPERATOR = "tidefleet-admission-tests"
"""Namespace of the release, and the start of all its cluster-wide names."""


def eventually(check: Callable[[], Any], what: str = "", *, seconds: float = 60.0) -> Any:
    """The first true answer of `check`."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
    return answer


class Person:
    """Somebody with a ServiceAccount of their own and these rights in the whole cluster."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, *rules: dict[str, Any], role: str = "") -> None:
        self._admin, self.name = cluster.api(), f"{name}-{namespace}"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        self._admin.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
        if not role:
            body = {"metadata": {"name": self.name}, "rules": list(rules)}
            self._admin.create(f"{RBAC}/clusterroles", {"apiVersion": "rbac.authorization.k8s.io/v1",
                                                        "kind": "ClusterRole", **body})  # fmt: skip
        self._admin.create(f"{RBAC}/clusterrolebindings", {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": self.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role or self.name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        })  # fmt: skip
        self.api = ApiClient.from_kubeconfig(cluster.service_account_kubeconfig(namespace, name))

    def end(self) -> None:
        """Take the rights away."""
        self.api.close()
        for kind in ("clusterrolebindings", "clusterroles"):
            with contextlib.suppress(ApiError):
                self._admin.delete(f"{RBAC}/{kind}/{self.name}")


def rule(group: str, *resources: str, verbs: tuple[str, ...] = ("get", "create", "update", "patch")) -> dict[str, Any]:
    """One rule of a role."""
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


def refused(act: Callable[[], Any], words: str) -> None:
    """The policy refuses, with these words; what is allowed is tried again, since a policy may not be known yet."""

    def answer() -> str:
        try:
            act()
        except ApiError as error:
            return str(error)
        return ""

    message = eventually(answer, f"refused: {words}", seconds=20.0)
    assert "403" in message, message
    assert words in message, message


def priced_type(name: str) -> dict[str, Any]:
    """An AcceleratorType like the L40S, with a price."""
    shipped = yaml.safe_load_all((ROOT / "operator/tidefleet/catalogue/data/acceleratortypes.yaml").read_text())
    found = copy.deepcopy(next(one for one in shipped if one["metadata"]["name"] == "l40s"))
    found["metadata"] = {"name": name}
    found["spec"]["prices"] = [{"capacityType": "OnDemand", "usdPerChipHour": "2.00"}]
    return found


def a_deployment(**metadata: Any) -> dict[str, Any]:
    """A Deployment without replicas."""
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "c"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", **metadata}, "spec": spec}


def a_pool(mode: str | None = None, **metadata: Any) -> dict[str, Any]:
    """A pool."""
    template = {"spec": {"containers": [{"name": "engine", "image": "vllm"}]}}
    spec = {"model": {"name": "llama-3.1-8b"}, "serving": {"template": template}}
    return {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": "chat", **metadata},
        "spec": {**spec, **({"mode": mode} if mode else {})},
    }


def wait_until_in_force(cluster: Cluster) -> None:
    """An API server takes a moment to learn of a policy: ask as somebody without rights beyond RBAC, without effect."""
    kinds = ("acceleratortypes", "inferencepools")
    rights = (rule("tidefleet.io", *kinds), rule("apps", "deployments"), rule("", "nodes"))
    prober = Person(cluster, OPERATOR, f"prober-{uuid.uuid4().hex[:6]}", *rights)
    pools = f"/apis/tidefleet.io/v1alpha1/namespaces/{OPERATOR}/inferencepools"
    questions = {
        TYPES: priced_type("probe"),
        f"/apis/apps/v1/namespaces/{OPERATOR}/deployments": a_deployment(labels={"tidefleet.io/pool": "chat"}),
        pools: a_pool(),
        "/api/v1/nodes": {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "probe", "labels": DUTY}},
    }
    for path, body in questions.items():
        refused(lambda path=path, body=body: prober.api.create(f"{path}?dryRun=All", body), "expected")
    prober.end()
