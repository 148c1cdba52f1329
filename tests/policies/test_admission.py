"""The admission policies on a real API server: what they let through, what they refuse, and that the operator works."""

from __future__ import annotations

import contextlib
import copy
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster import binaries
from localcluster.api import ApiClient, ApiError
from localcluster.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.chart]

ROOT = Path(__file__).resolve().parents[2]
RBAC = "/apis/rbac.authorization.k8s.io/v1"
TYPES = "/apis/tidefleet.io/v1alpha1/acceleratortypes"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OPERATOR = "tidefleet-admission-tests"
"""Namespace of the release, and the start of all its cluster-wide names."""


def eventually(check: Callable[[], Any], what: str = "", *, seconds: float = 60.0) -> Any:
    """The first true answer of `check`."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)
    return answer


@pytest.fixture(scope="module")
def guarded(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster with our definitions and the chart with its policies; they are gone afterwards."""
    api = cluster.api()
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        definition = yaml.safe_load(file.read_text())
        api.apply(f"{DEFINITIONS}/{definition['metadata']['name']}", definition)
    eventually(lambda: api.is_ok(TYPES))
    home = tmp_path_factory.mktemp("helm")
    surroundings = {**os.environ, **{f"HELM_{name}_HOME": str(home / name) for name in ("CACHE", "CONFIG", "DATA")}}

    def helm(*arguments: str) -> None:
        command = [binaries.find("helm"), *arguments, "-n", OPERATOR, "--kubeconfig", cluster.kubeconfig]
        done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    helm(
        "install", "tests", str(ROOT / "charts" / "tidefleet"), "--create-namespace",
        *("--set", f"replicas=0,crds.enabled=false,admission.enabled=true,fullnameOverride={OPERATOR}"),
    )  # fmt: skip
    only = {"metadata": {"labels": {"tidefleet.io/recommend-only": "true"}}}
    api.merge(f"/api/v1/namespaces/{OPERATOR}", only)
    wait_until_in_force(cluster)
    yield cluster
    helm("uninstall", "tests", "--no-hooks")


def wait_until_in_force(cluster: Cluster) -> None:
    """An API server takes a moment to learn of a policy: ask as somebody without rights beyond RBAC, without effect."""
    rights = (rule("tidefleet.io", "acceleratortypes", "inferencepools"), rule("apps", "deployments"))
    prober = Person(cluster, OPERATOR, "prober", *rights)
    pools = f"/apis/tidefleet.io/v1alpha1/namespaces/{OPERATOR}/inferencepools"
    questions = {
        TYPES: priced_type("probe"),
        f"/apis/apps/v1/namespaces/{OPERATOR}/deployments": a_deployment(labels={"tidefleet.io/pool": "chat"}),
        pools: a_pool(),
    }
    for path, body in questions.items():
        refused(lambda path=path, body=body: prober.api.create(f"{path}?dryRun=All", body), "expected")
    prober.end()


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


@pytest.fixture
def person(guarded: Cluster, namespace: str) -> Iterator[Callable[..., Person]]:
    """Makes people."""
    eventually(lambda: guarded.api().exists(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"))
    made: list[Person] = []

    def make(name: str, *rules: dict[str, Any], role: str = "") -> Person:
        made.append(Person(guarded, namespace, name, *rules, role=role))
        return made[-1]

    yield make
    for one in made:
        one.end()


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


@pytest.fixture
def a_type(guarded: Cluster) -> Iterator[dict[str, Any]]:
    """An AcceleratorType with a price, not yet created."""
    name = f"priced-{uuid.uuid4().hex[:6]}"
    yield priced_type(name)
    with contextlib.suppress(ApiError):
        guarded.api().delete(f"{TYPES}/{name}")


def priced(usd: str) -> dict[str, Any]:
    """A change of price, as a merge patch."""
    return {"spec": {"prices": [{"capacityType": "OnDemand", "usdPerChipHour": usd}]}}


def test_prices_are_changed_only_by_those_who_may(guarded, person, a_type):
    name = a_type["metadata"]["name"]
    path = f"{TYPES}/{name}"
    writer = person("writer", rule("tidefleet.io", "acceleratortypes"))
    refused(lambda: writer.api.create(TYPES, a_type), "expected somebody with the verb setprices")
    guarded.api().create(TYPES, a_type)

    refused(
        lambda: writer.api.merge(path, priced("0.10")), f"AcceleratorType {a_type['metadata']['name']}: spec.prices"
    )
    refused(lambda: writer.api.merge(path, {"spec": {"prices": None}}), "spec.prices")
    accept = {"metadata": {"annotations": {"tidefleet.io/accept-implausible-price": "true"}}}
    refused(lambda: writer.api.merge(path, accept), "accepts an implausible one")
    writer.api.merge(path, {"spec": {"notes": "rack 7"}})
    assert guarded.api().get(path)["spec"]["notes"] == "rack 7"

    setter = person("setter", role=f"{OPERATOR}-price-setter")
    setter.api.merge(path, priced("1.75"))
    assert guarded.api().get(path)["spec"]["prices"][0]["usdPerChipHour"] == "1.75"


def a_deployment(**metadata: Any) -> dict[str, Any]:
    """A Deployment without replicas."""
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "c"}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", **metadata}, "spec": spec}


@pytest.mark.parametrize(
    "forged",
    [
        {"annotations": {"tidefleet.io/option": '{"accelerator":"h100-sxm"}'}},
        {"annotations": {"tidefleet.io/epoch": "999999"}},
        {"annotations": {"tidefleet.io/adopted": "{}"}},
        {"labels": {"tidefleet.io/pool": "chat"}},
    ],
    ids=lambda value: next(iter(next(iter(value.values())))),
)
def test_marks_on_deployments_are_the_operators(guarded, person, namespace, forged):
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    editor = person("editor", rule("apps", "deployments"))
    refused(lambda: editor.api.create(path, a_deployment(**forged)), "expected the operator alone")
    editor.api.create(path, a_deployment(annotations={"tidefleet.io/note": "mine"}, labels={"team": "chat"}))
    refused(lambda: editor.api.merge(f"{path}/web", {"metadata": forged}), "Deployment web: tidefleet.io/")

    guarded.api().merge(f"{path}/web", {"metadata": forged})
    editor.api.merge(f"{path}/web", {"spec": {"replicas": 1}, "metadata": {"labels": {"team": "code"}}})
    (kind, (key, _)) = next((kind, *values.items()) for kind, values in forged.items())
    refused(lambda: editor.api.merge(f"{path}/web", {"metadata": {kind: {key: "another"}}}), key)
    editor.api.merge(f"{path}/web", {"metadata": {kind: {key: None}}})


def test_the_duty_of_a_node_is_the_operators(guarded, person):
    name = f"duty-{uuid.uuid4().hex[:6]}"
    guarded.api().create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    try:
        admin = person("node-admin", rule("", "nodes"))
        duty = {"metadata": {"labels": {"tidefleet.io/duty": "training"}}}
        refused(lambda: admin.api.merge(f"/api/v1/nodes/{name}", duty), f"Node {name}: tidefleet.io/duty is set by")
        admin.api.merge(f"/api/v1/nodes/{name}", {"metadata": {"labels": {"rack": "7"}}})
    finally:
        guarded.api().delete(f"/api/v1/nodes/{name}")


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


def test_the_mark_of_an_uninstall_is_the_operators(person, namespace):
    path = f"/apis/tidefleet.io/v1alpha1/namespaces/{namespace}/inferencepools"
    editor = person("editor", rule("tidefleet.io", "inferencepools"))
    released = {"annotations": {"tidefleet.io/released-at": "1"}}
    refused(lambda: editor.api.create(path, a_pool(**released)), "InferencePool chat: tidefleet.io/released-at")
    editor.api.create(path, a_pool())


def test_in_a_namespace_that_only_recommends_no_pool_acts(guarded, person, namespace):
    path = f"/apis/tidefleet.io/v1alpha1/namespaces/{namespace}/inferencepools"
    editor = person("editor", rule("tidefleet.io", "inferencepools"))
    editor.api.create(path, a_pool(annotations={"note": "from before"}) | {"metadata": {"name": "before"}})
    only = {"metadata": {"labels": {"tidefleet.io/recommend-only": "true"}}}
    guarded.api().merge(f"/api/v1/namespaces/{namespace}", only)

    words = f"InferencePool {namespace}/chat: spec.mode is Enforce; expected Recommend"

    def create_and_take_back() -> None:
        """An API server may not have seen the label of the namespace yet."""
        editor.api.create(path, a_pool())
        guarded.api().delete(f"{path}/chat")

    refused(create_and_take_back, words)
    refused(lambda: editor.api.create(path, a_pool("Scale")), "spec.mode is Scale")
    editor.api.create(path, a_pool("Recommend"))
    refused(lambda: editor.api.merge(f"{path}/chat", {"spec": {"mode": "Enforce"}}), words)
    editor.api.merge(f"{path}/before", {"metadata": {"finalizers": ["tidefleet.io/test"]}})
    editor.api.merge(f"{path}/before", {"metadata": {"finalizers": []}})
    refused(
        lambda: editor.api.merge(f"{path}/before", {"spec": {"replicas": {"max": 3}}}), "before: spec.mode is Enforce"
    )
    editor.api.merge(f"{path}/before", {"spec": {"mode": "Recommend", "replicas": {"max": 3}}})


def test_a_class_cannot_name_a_pool_of_another_namespace(person, namespace):
    """No policy is needed: a reference is a name, and a name holds no namespace."""
    path = f"/apis/tidefleet.io/v1alpha1/namespaces/{namespace}/workloadclasses"
    editor = person("editor", rule("tidefleet.io", "workloadclasses"))
    tokens = {"input": {"mean": 100}, "output": {"mean": 10}}

    def a_class(**ref: str) -> dict[str, Any]:
        spec = {"poolRef": ref, "demand": {"source": "Metrics"}, "tokens": tokens}
        return {
            "apiVersion": "tidefleet.io/v1alpha1",
            "kind": "WorkloadClass",
            "metadata": {"name": "web"},
            "spec": spec,
        }

    for name in ("other/chat", "../other/chat", "other.chat/", "chat?namespace=other"):
        with pytest.raises(ApiError, match=r"422.*poolRef\.name"):
            editor.api.create(path, a_class(name=name))
    with pytest.raises(ApiError, match=r'400.*unknown field "spec\.poolRef\.namespace"'):
        editor.api.create(f"{path}?fieldValidation=Strict", a_class(name="chat", namespace="other"))
    assert editor.api.create(path, a_class(name="chat", namespace="other"))["spec"]["poolRef"] == {"name": "chat"}


def test_the_operator_works_under_its_own_policies(guarded, namespace, tmp_path):
    """Its account sets prices from the catalogue, and marks what it makes."""
    api = guarded.api()
    name = f"shipped-{uuid.uuid4().hex[:6]}"
    shipped = yaml.safe_load_all((ROOT / "operator/tidefleet/catalogue/data/acceleratortypes.yaml").read_text())
    kind = next(one for one in shipped if one["metadata"]["name"] == "l40s")
    kind["metadata"]["name"] = name
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump(kind))
    pool = a_pool()
    pool["spec"] |= {"accelerators": [{"type": name}], "deletionPolicy": "Delete"}
    api.create(f"/apis/tidefleet.io/v1alpha1/namespaces/{namespace}/inferencepools", pool)
    config = tmp_path / "operator.yaml"
    config.write_text(yaml.safe_dump({
        "namespaces": [namespace], "periodSeconds": 1, "catalogueFile": str(tmp_path / "catalogue.yaml"),
        "leaderElection": {"namespace": OPERATOR}, "metrics": {"port": 0},
    }))  # fmt: skip
    process = f"operator-{namespace}"
    guarded.run(
        process,
        [sys.executable, "-m", "tidefleet", "operator", "run", "--config", config,
         "--kubeconfig", guarded.service_account_kubeconfig(OPERATOR, OPERATOR)],
        env={"PYTHONPATH": str(ROOT / "operator"), "KUBECONFIG": ""},
    )  # fmt: skip
    try:
        deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments"
        found = eventually(lambda: api.get(deployments)["items"], guarded.log(process))
        assert found[0]["metadata"]["labels"]["tidefleet.io/pool"] == "chat"
        assert "tidefleet.io/epoch" in found[0]["metadata"]["annotations"]
        prices = eventually(lambda: api.get(f"{TYPES}/{name}")["spec"]["prices"])
        assert [one["usdPerChipHour"] for one in prices] == [one["usdPerChipHour"] for one in kind["spec"]["prices"]]
        assert "expected the operator alone" not in guarded.log(process, lines=1000)
    finally:
        guarded.end(process)
        api.merge(
            f"/apis/tidefleet.io/v1alpha1/namespaces/{namespace}/inferencepools/chat", {"metadata": {"finalizers": []}}
        )
        api.delete(f"{TYPES}/{name}")


def test_every_policy_has_a_binding_and_the_chart_ships_all():
    files = sorted((ROOT / "policies" / "admission").glob("*.yaml"))
    assert [one.stem for one in files] == ["marks", "prices", "recommend-only"]
    for file in files:
        policy, binding = yaml.safe_load_all(file.read_text())
        assert policy["metadata"]["name"] == binding["spec"]["policyName"] == f"tidefleet-{file.stem}"
        assert policy["spec"]["failurePolicy"] == "Fail"
        assert binding["spec"]["validationActions"] == ["Deny"]
