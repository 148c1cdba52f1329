"""The chart on a real API server: install, what the account may do, upgrade after edits, uninstall.

Releases have a namespace of their own; definitions belong to the whole cluster and are left there, so installs take
them over, from other releases (`--take-ownership`) and from other tests (`--force-conflicts`).
"""

from __future__ import annotations

import contextlib
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

from localcluster.api import ApiClient, ApiError
from localcluster.cluster import Cluster
from localcluster.crds import crd_files
from localcluster.loader import LOADER
from tidefleet.catalogue import accelerator_manifests

pytestmark = [pytest.mark.cluster, pytest.mark.chart]

ROOT = Path(__file__).resolve().parents[2]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OURS = [f"{kind}.tidefleet.io" for kind in ("acceleratortypes", "inferencepools", "sites", "workloadclasses")]
CLUSTER_SCOPED = {
    "CustomResourceDefinition": DEFINITIONS,
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}
NAMESPACED = {
    "ConfigMap": "api/v1:configmaps",
    "Service": "api/v1:services",
    "ServiceAccount": "api/v1:serviceaccounts",
    "Pod": "api/v1:pods",
    "Deployment": "apis/apps/v1:deployments",
    "Job": "apis/batch/v1:jobs",
    "Role": "apis/rbac.authorization.k8s.io/v1:roles",
    "RoleBinding": "apis/rbac.authorization.k8s.io/v1:rolebindings",
    "PodDisruptionBudget": "apis/policy/v1:poddisruptionbudgets",
    "NetworkPolicy": "apis/networking.k8s.io/v1:networkpolicies",
    "PrometheusRule": "apis/monitoring.coreos.com/v1:prometheusrules",
    "ServiceMonitor": "apis/monitoring.coreos.com/v1:servicemonitors",
}


def path_of(manifest: dict[str, Any]) -> str:
    """Where the API server has an object."""
    kind, metadata = manifest["kind"], manifest["metadata"]
    if kind in CLUSTER_SCOPED:
        return f"{CLUSTER_SCOPED[kind]}/{metadata['name']}"
    group, plural = NAMESPACED[kind].split(":")
    return f"/{group}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"


class Release:
    """One release of the chart, `tidefleet` in a namespace of its own."""

    def __init__(self, cluster: Cluster, helm: Any, chart: Path, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.api = cluster.api()
        self._helm = helm
        self._chart = chart

    def helm(self, command: str, *arguments: Any, check: bool = True) -> Any:
        """Run one Helm command on this release."""
        return self._helm(
            *(command, "tidefleet", *arguments, "--namespace", self.namespace, "--kubeconfig", self.cluster.kubeconfig),
            check=check,
        )

    def install(self, *arguments: str, replicas: int = 0) -> None:
        """Install, without waiting for pods; definitions that other tests left or applied are taken over."""
        taking = ("--take-ownership", "--force-conflicts")
        self.helm("install", self._chart, *taking, "--set", f"replicas={replicas}", *arguments)

    def upgrade(self, *arguments: str, replicas: int = 0, check: bool = True) -> Any:
        """Upgrade with these values and no others."""
        return self.helm("upgrade", self._chart, "--set", f"replicas={replicas}", *arguments, check=check)

    def uninstall(self) -> None:
        """Uninstall without hooks: simulated pods do nothing, so tests that need the hook run its command."""
        self.helm("uninstall", "--no-hooks", "--ignore-not-found")

    def manifests(self, which: str = "manifest") -> list[dict[str, Any]]:
        """What Helm says it installed, or its hooks."""
        done = self._helm("get", which, "tidefleet", "-n", self.namespace, "--kubeconfig", self.cluster.kubeconfig)
        return [one for one in yaml.load_all(done.stdout, LOADER) if one]

    def live(self) -> dict[str, dict[str, Any]]:
        """The same objects as the API server has them, by path."""
        return {path_of(one): self.api.get(path_of(one)) for one in self.manifests()}

    def config_map(self, name: str) -> dict[str, Any]:
        """One ConfigMap of the release."""
        return self.api.get(f"/api/v1/namespaces/{self.namespace}/configmaps/{name}")

    def may(self, verb: str, resource: str, *, namespace: str = "", name: str = "", subresource: str = "") -> bool:
        """Whether the operator's account is allowed this."""
        group, _, plural = resource.rpartition("/")
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{self.namespace}:tidefleet",
                "groups": [
                    "system:serviceaccounts",
                    f"system:serviceaccounts:{self.namespace}",
                    "system:authenticated",
                ],
                "resourceAttributes": {
                    **{"verb": verb, "group": group, "resource": plural, "namespace": namespace},
                    **{"name": name, "subresource": subresource},
                },
            },
        }
        answer = self.api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])


def eventually(check: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true answer of `check`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := check():
            return answer
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds} s")


@pytest.fixture
def release(cluster, helm, chart, namespace) -> Iterator[Release]:
    """A release that is not installed yet, and is uninstalled after the test."""
    one = Release(cluster, helm, chart, namespace)
    yield one
    one.uninstall()


@pytest.fixture
def monitoring_definitions(cluster) -> Iterator[list[dict[str, Any]]]:
    """The Prometheus operator's definitions, to be created by the test; gone after it."""
    wanted = ("prometheusrules", "servicemonitors", "podmonitors")
    found = [
        yaml.safe_load(path.read_text())
        for path in crd_files("prometheus-operator")
        if any(f"_{kind}" in path.name or path.name.startswith(kind) or kind in path.name for kind in wanted)
    ]
    assert len(found) == len(wanted), [one["metadata"]["name"] for one in found]
    yield found
    for one in found:
        with contextlib.suppress(ApiError):
            cluster.api().delete(path_of(one))
    for one in found:
        eventually(lambda one=one: not cluster.api().exists(path_of(one)))


def create_definitions(cluster: Cluster, definitions: list[dict[str, Any]]) -> None:
    for one in definitions:
        cluster.api().create(DEFINITIONS, one)
    for one in definitions:
        eventually(lambda one=one: is_established(cluster.api().get(path_of(one))))
    eventually(lambda: cluster.api().is_ok("/apis/monitoring.coreos.com/v1"))


def served(api: ApiClient, path: str) -> Any:
    """What is at `path`, once the API server serves it: a definition that was just written is not there at once."""

    def get() -> Any:
        try:
            return api.get(path)
        except ApiError as error:
            if error.status not in (404, 429, 503):
                raise
            return None

    return eventually(get)


def is_established(definition: dict[str, Any]) -> bool:
    conditions = {c["type"]: c["status"] for c in (definition.get("status") or {}).get("conditions") or []}
    return conditions.get("Established") == "True"


def test_install_creates_definitions_account_service_and_catalogue(release):
    release.install()
    for name in OURS:
        eventually(lambda name=name: is_established(release.api.get(f"{DEFINITIONS}/{name}")))
    kinds = {one["kind"] for one in release.live().values()}
    assert kinds >= {"ServiceAccount", "Service", "ConfigMap", "Deployment", "ClusterRole", "Role"}
    written = release.config_map("tidefleet-catalogue")["data"]["acceleratortypes.yaml"]
    assert tuple(yaml.load_all(written, LOADER)) == accelerator_manifests()
    config = yaml.safe_load(release.config_map("tidefleet-config")["data"]["config.yaml"])
    assert config["leaderElection"]["namespace"] == release.namespace


def test_the_api_server_knows_every_field_that_the_chart_writes(release, helm, chart, cluster, monitoring_definitions):
    create_definitions(cluster, monitoring_definitions)
    values = {
        "networkPolicy": {"enabled": True, "egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}]},
        "imagePullSecrets": [{"name": "r"}],
        "tolerations": [{"operator": "Exists"}],
        "monitoring": {"enabled": "Always", "monitor": {"kind": "ServiceMonitor"}},
    }
    done = helm(
        "template", "tidefleet", chart, "--namespace", release.namespace, "--values", "-", stdin=yaml.safe_dump(values)
    )
    manifests = [one for one in yaml.load_all(done.stdout, LOADER) if one]
    assert {"NetworkPolicy", "PrometheusRule", "ServiceMonitor", "Job", "Pod"} <= {one["kind"] for one in manifests}
    for one in manifests:
        release.api.request(
            "PATCH",
            f"{path_of(one)}?dryRun=All&fieldManager=check&force=true&fieldValidation=Strict",
            one,
            content_type="application/apply-patch+yaml",
        )


def test_pods_are_admitted_where_pod_security_is_restricted(release, render):
    release.api.merge(
        f"/api/v1/namespaces/{release.namespace}",
        {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
    )
    release.install(replicas=2)
    pods = f"/api/v1/namespaces/{release.namespace}/pods"
    eventually(lambda: len(release.api.get(pods)["items"]) == 2)
    for one in render():
        if one["kind"] in ("Job", "Pod"):
            spec = one["spec"]["template"]["spec"] if one["kind"] == "Job" else one["spec"]
            pod = {
                **{"apiVersion": "v1", "kind": "Pod", "spec": spec},
                "metadata": {"name": one["metadata"]["name"], "namespace": release.namespace},
            }
            release.api.create(f"{pods}?dryRun=All", pod)


def test_account_may_do_what_the_operator_does_and_no_more(release):
    release.install()
    ns = release.namespace
    allowed = [
        *(("list", "tidefleet.io/inferencepools"), ("patch", "tidefleet.io/inferencepools")),
        *(("watch", "tidefleet.io/sites"), ("create", "tidefleet.io/acceleratortypes")),
        *(("create", "apps/deployments"), ("delete", "apps/deployments"), ("patch", "apps/statefulsets")),
        *(
            ("watch", "pods"),
            ("watch", "nodes"),
            ("patch", "nodes"),
            ("patch", "pods"),
            ("create", "events.k8s.io/events"),
            ("create", "policy/poddisruptionbudgets"),
        ),
        *(("list", "autoscaling/horizontalpodautoscalers"), ("list", "keda.sh/scaledobjects")),
        *(("list", "namespaces"), ("list", "apiextensions.k8s.io/customresourcedefinitions")),
    ]
    denied = [
        *(("get", "secrets"), ("list", "secrets"), ("get", "configmaps"), ("create", "pods"), ("delete", "pods")),
        *(("delete", "tidefleet.io/inferencepools"), ("create", "tidefleet.io/inferencepools")),
        *(("delete", "tidefleet.io/acceleratortypes"), ("patch", "tidefleet.io/workloadclasses")),
        *(("create", "nodes"), ("delete", "nodes"), ("delete", "apps/statefulsets"), ("create", "apps/statefulsets")),
        *(("patch", "apiextensions.k8s.io/customresourcedefinitions"), ("list", "coordination.k8s.io/leases")),
    ]
    assert [one for one in allowed if not release.may(*one)] == []
    assert [one for one in denied if release.may(*one)] == []
    assert release.may("patch", "tidefleet.io/inferencepools", subresource="status")
    assert not release.may("update", "tidefleet.io/inferencepools", subresource="scale")
    lease = "coordination.k8s.io/leases"
    assert release.may("update", lease, namespace=ns, name="tidefleet")
    assert release.may("create", lease, namespace=ns)
    assert not release.may("update", lease, namespace=ns, name="another")
    assert not release.may("update", lease, namespace="kube-system", name="tidefleet")
    assert release.may("get", "configmaps", namespace=ns, name="tidefleet-pause")
    assert not release.may("get", "configmaps", namespace=ns, name="another")


def test_accounts_token_reaches_the_api_with_these_rights(release, cluster):
    release.install()
    with ApiClient.from_kubeconfig(cluster.service_account_kubeconfig(release.namespace, "tidefleet")) as api:
        assert "items" in served(api, "/apis/tidefleet.io/v1alpha1/inferencepools")
        with pytest.raises(ApiError, match="403"):
            api.get(f"/api/v1/namespaces/{release.namespace}/secrets")


def test_an_install_for_namespaces_reaches_into_no_other(release, cluster):
    other = f"{release.namespace}-pools"
    release.api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    try:
        release.install("--set", f"scope.namespaces={{{other}}}")
        for verb, resource in (
            ("list", "tidefleet.io/inferencepools"),
            ("create", "apps/deployments"),
            ("list", "pods"),
        ):
            assert release.may(verb, resource, namespace=other)
            assert not release.may(verb, resource, namespace="default")
            assert not release.may(verb, resource)
        assert release.may("list", "nodes")
        assert release.may("patch", "tidefleet.io/acceleratortypes")
        assert release.may("create", "events.k8s.io/events", namespace="default")
    finally:
        release.uninstall()
        release.api.delete(f"/api/v1/namespaces/{other}")


def test_applying_the_same_again_changes_nothing(release):
    release.install()

    def versions():
        return {
            path: one["metadata"]["resourceVersion"]
            for path, one in release.live().items()
            if "Definition" not in one["kind"]
        }

    def specs():
        return {path: one["spec"] for path, one in release.live().items() if "spec" in one}

    eventually(lambda: "observedGeneration" in release.api.get(deployment_path(release)).get("status", {}))
    before, specs_before = versions(), specs()
    release.upgrade()
    assert versions() == before
    assert specs() == specs_before


def deployment_path(release: Release) -> str:
    return f"/apis/apps/v1/namespaces/{release.namespace}/deployments/tidefleet"


def test_upgrade_brings_new_values(release):
    release.install()
    release.upgrade("--set", "config.periodSeconds=3")
    config = yaml.safe_load(release.config_map("tidefleet-config")["data"]["config.yaml"])
    assert config["periodSeconds"] == 3


def test_upgrade_and_reinstall_leave_users_objects_and_edits_alone(release):
    """AcceleratorTypes and pools are no part of the release: nobody's edit can conflict with an upgrade."""
    release.install()
    for name in OURS:
        eventually(lambda name=name: is_established(release.api.get(f"{DEFINITIONS}/{name}")))
        served(release.api, f"/apis/tidefleet.io/v1alpha1/{name.partition('.')[0]}")
    suffix = uuid.uuid4().hex[:8]
    types, pools = (
        "/apis/tidefleet.io/v1alpha1/acceleratortypes",
        "/apis/tidefleet.io/v1alpha1/namespaces/{}/inferencepools",
    )
    accelerator = {**accelerator_manifests()[0], "metadata": {"name": f"mine-{suffix}"}}
    pool = next(
        one
        for one in yaml.safe_load_all((ROOT / "deploy/samples/10-chat.yaml").read_text())
        if one["kind"] == "InferencePool"
    )
    pool = {**pool, "metadata": {"name": "chat"}}
    release.api.create(types, accelerator)
    release.api.create(pools.format(release.namespace), pool)
    try:
        edit = {"spec": {"vendor": "Edited"}}
        release.api.merge(f"{types}/mine-{suffix}", edit)
        release.upgrade("--set", "config.periodSeconds=3")
        assert served(release.api, f"{types}/mine-{suffix}")["spec"]["vendor"] == "Edited"
        release.uninstall()
        release.install()
        assert served(release.api, f"{types}/mine-{suffix}")["spec"]["vendor"] == "Edited"
        assert (
            served(release.api, f"{pools.format(release.namespace)}/chat")["spec"]["model"]["name"] == "llama-3.3-70b"
        )
    finally:
        release.api.delete(f"{types}/mine-{suffix}")
        release.api.delete(f"{pools.format(release.namespace)}/chat")


def run_command(words: list[str], paths: dict[str, Path], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run what a container of the chart runs, with files in the place of what is mounted into it."""
    arguments = [str(paths.get(word, word)) for word in words]
    return subprocess.run(
        [sys.executable, "-c", "from tidefleet.cli.main import main; main()", *arguments],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT / "operator")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_helm_tests_command_accepts_the_sample_and_names_what_is_wrong_with_a_bad_one(release, tmp_path):
    """`helm test` itself would wait for a pod: those on simulated nodes are empty shells."""
    release.install()
    tests = {
        one["kind"]: one
        for one in release.manifests("hooks")
        if one["metadata"]["annotations"]["helm.sh/hook"] == "test"
    }
    (container,) = tests["Pod"]["spec"]["containers"]
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in tests["Pod"]["spec"]["volumes"]}
    assert volumes["samples"]["configMap"]["name"] == tests["ConfigMap"]["metadata"]["name"]
    sample = tmp_path / "sample.yaml"
    sample.write_text(tests["ConfigMap"]["data"]["sample.yaml"])
    paths = {f"{mounts['samples']}/sample.yaml": sample}
    done = run_command(container["args"], paths, KUBECONFIG="")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    sample.write_text(sample.read_text().replace("kind: InferencePool", "kind: InferencePools"))
    done = run_command(container["args"], paths, KUBECONFIG="")
    assert done.returncode != 0
    assert "InferencePools" in f"{done.stdout}{done.stderr}"


def test_uninstall_hooks_command_lifts_the_finalizer_with_the_charts_account(release, cluster, render, tmp_path):
    release.install("--set", f"scope.namespaces={{{release.namespace}}}")
    pools = f"/apis/tidefleet.io/v1alpha1/namespaces/{release.namespace}/inferencepools"
    served(release.api, pools)
    samples = yaml.safe_load_all((ROOT / "deploy/samples/10-chat.yaml").read_text())
    pool = next(one for one in samples if one["kind"] == "InferencePool")
    finalizers = ["tidefleet.io/pool", "example.com/other"]
    release.api.create(pools, {**pool, "metadata": {"name": "chat", "finalizers": finalizers}})
    try:
        job = next(one for one in render() if one["kind"] == "Job")
        config = tmp_path / "config.yaml"
        config.write_text(release.config_map("tidefleet-config")["data"]["config.yaml"])
        words = job["spec"]["template"]["spec"]["containers"][0]["args"]
        account = cluster.service_account_kubeconfig(release.namespace, "tidefleet")
        done = run_command(words, {"/etc/tidefleet/config.yaml": config}, KUBECONFIG=str(account))
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        assert release.api.get(f"{pools}/chat")["metadata"]["finalizers"] == ["example.com/other"]
    finally:
        release.api.merge(f"{pools}/chat", {"metadata": {"finalizers": []}})
        release.api.delete(f"{pools}/chat")


def test_an_edit_of_the_charts_own_objects_is_named_by_the_upgrade_and_can_be_overruled(release):
    """Helm applies on the server's side, so a field that somebody else set is a conflict and not lost silently."""
    release.install()
    path = f"/api/v1/namespaces/{release.namespace}/configmaps/tidefleet-catalogue"
    written = release.config_map("tidefleet-catalogue")["data"]["acceleratortypes.yaml"]
    edit = {"data": {"acceleratortypes.yaml": "# mine", "added.yaml": "# mine"}}
    release.api.merge(f"{path}?fieldManager=kubectl-edit", edit)
    release.api.merge(f"{deployment_path(release)}/scale?fieldManager=kubectl", {"spec": {"replicas": 1}})
    refused = release.upgrade(check=False)
    assert refused.returncode != 0
    assert 'conflict with "kubectl-edit"' in refused.stderr
    assert ".data.acceleratortypes.yaml" in refused.stderr
    release.upgrade("--force-conflicts")
    data = release.config_map("tidefleet-catalogue")["data"]
    assert data == {"acceleratortypes.yaml": written, "added.yaml": "# mine"}
    assert release.api.get(deployment_path(release))["spec"]["replicas"] == 0
    release.upgrade()


def test_definitions_left_by_another_release_can_be_taken_over_even_when_edited(release):
    release.install()
    release.uninstall()
    path = f"{DEFINITIONS}/{OURS[0]}"
    names = {"spec": {"names": {"shortNames": ["taccel", "edited"]}}}
    release.api.merge(f"{path}?fieldManager=kubectl-edit", names)
    release.install()
    assert release.api.get(path)["spec"]["names"]["shortNames"] == ["taccel"]


def test_uninstall_keeps_definitions_and_pools_and_removes_the_rest(release):
    release.install()
    paths = {path: one["kind"] for path, one in release.live().items()}
    release.uninstall()
    for path, kind in paths.items():
        if kind == "CustomResourceDefinition":
            assert "deletionTimestamp" not in release.api.get(path)["metadata"]
        else:
            eventually(lambda path=path: not release.api.exists(path))


def test_rules_and_monitor_are_shipped_once_the_prometheus_operator_is_there(release, cluster, monitoring_definitions):
    release.install()
    assert not {"PrometheusRule", "ServiceMonitor"} & {one["kind"] for one in release.manifests()}
    create_definitions(cluster, monitoring_definitions)
    release.upgrade("--set", "monitoring.rules.additionalLabels.release=kps")
    live = release.live()
    rule = next(one for one in live.values() if one["kind"] == "PrometheusRule")
    files = sorted((ROOT / "policies/alerts").glob("*.rules.yaml"))
    assert rule["spec"] == {"groups": [one for file in files for one in yaml.safe_load(file.read_text())["groups"]]}
    assert rule["metadata"]["labels"]["release"] == "kps"
    monitor = next(one for one in live.values() if one["kind"] == "ServiceMonitor")
    assert monitor["spec"]["endpoints"][0]["honorLabels"] is True


def test_two_releases_live_side_by_side(release, cluster, helm, chart):
    other = f"{release.namespace}-b"
    release.api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    second = Release(cluster, helm, chart, other)
    try:
        release.install()
        second.install("--set", "crds.enabled=false")
        assert release.may("list", "pods")
        second.uninstall()
        assert release.may("list", "pods")
    finally:
        second.uninstall()
        release.api.delete(f"/api/v1/namespaces/{other}")
