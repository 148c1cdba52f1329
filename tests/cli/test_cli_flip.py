"""`tidefleet flip` and `tidefleet pause` on a real API server: what they write, refuse and say."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import Result
from flips_builders import NOW, a_pool, rfc3339
from typer.testing import CliRunner

from localcluster.api import ApiError
from localcluster.cluster import Cluster
from tidefleet.api import KINDS, crds
from tidefleet.cli.main import app
from tidefleet.controller.flips.requests import read_request
from tidefleet.flipping.journal import Before, Journal, write
from tidefleet.flipping.lending import FlipRequest
from tidefleet.flipping.phase import Phase

pytestmark = pytest.mark.cluster

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = "/apis/tidefleet.io/v1alpha1"
REQUEST = "tidefleet.io/flip-request"


def eventually(check: Callable[[], Any], what: str = "") -> Any:
    deadline = time.monotonic() + 30.0
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.1)
    return answer


class Here:
    """A namespace with an accelerator type of its own, nodes of it, and the commands."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace, self.api = cluster, namespace, cluster.api()
        self.kind = f"h100-{uuid.uuid4().hex[:6]}"
        self.made: list[str] = []

    def run(self, *arguments: str, user: str | None = None) -> Result:
        kubeconfig = user or str(self.cluster.kubeconfig)
        environment = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "KUBECONFIG": "", "USER": "alice"}
        return CliRunner().invoke(app, [*arguments, "--kubeconfig", kubeconfig], env=environment)

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        made = self.api.create(path, body)
        self.made.append(f"{path}/{body['metadata']['name']}")
        return made

    def type(self) -> None:
        spec = {
            "vendor": "NVIDIA",
            "memoryBytes": 85899345920,
            "memoryBytesPerSecond": 3350000000000,
            "computeFlops": {"bf16": 989000000000000},
            "tdpWatts": 700,
            "resourceName": "nvidia.com/gpu",
            "nodeSelector": {"gpu": self.kind},
            "chipsPerNode": 8,
        }
        body = {
            "apiVersion": "tidefleet.io/v1alpha1", "kind": "AcceleratorType", "metadata": {"name": self.kind},
            "spec": spec,
        }  # fmt: skip
        self.create(f"{GROUP}/acceleratortypes", body)

    def node(self, journal: Journal | None = None, *, plain: bool = False, **annotations: str) -> str:
        name = f"node-{uuid.uuid4().hex[:6]}"
        labels = {} if plain else {"gpu": self.kind}
        if journal is not None:
            told = Journal(
                **{f: getattr(journal, f) for f in Journal.__dataclass_fields__} | {"unit": name, "members": (name,)}
            )
            annotations["tidefleet.io/flip"] = write(told)
        metadata = {"name": name, "labels": labels, "annotations": annotations}
        self.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        chips = {"nvidia.com/gpu": "8"}
        self.api.merge(f"/api/v1/nodes/{name}/status", {"status": {"allocatable": chips, "capacity": chips}})
        return name

    def pool(self, name: str = "chat", **flipping: Any) -> None:
        queue = {"kind": "Kueue", "clusterQueue": "night"}
        spec = {
            "model": {"name": "llama-3.1-8b"},
            "serving": {"workloads": [{"name": "chat", "accelerator": self.kind, "chipsPerReplica": 2}]},
            "flipping": {"policy": "Forecast", "training": {"queue": queue}, **flipping},
        }
        body = {
            "apiVersion": "tidefleet.io/v1alpha1", "kind": "InferencePool",
            "metadata": {"name": name, "namespace": self.namespace}, "spec": spec,
        }  # fmt: skip
        self.create(f"{GROUP}/namespaces/{self.namespace}/inferencepools", body)

    def pod(self, node: str, name: str = "chat-1", **annotations: str) -> None:
        """A pod of the workload `chat` that is bound to a node and holds two of its chips."""
        container = {"name": "c", "image": "c", "resources": {"limits": {"nvidia.com/gpu": "2"}}}
        metadata = {"name": name, "labels": {"app": "chat"}, "annotations": annotations}
        spec = {"nodeName": node, "containers": [container], "tolerations": [{"operator": "Exists"}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        self.create(f"/api/v1/namespaces/{self.namespace}/pods", body)

    def workload(self) -> None:
        labels = {"app": "chat"}
        container = {"name": "c", "image": "c", "resources": {"limits": {"nvidia.com/gpu": "2"}}}
        spec = {
            "replicas": 0, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        }  # fmt: skip
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "chat"}, "spec": spec}
        self.create(f"/apis/apps/v1/namespaces/{self.namespace}/deployments", body)

    def request(self, node: str) -> FlipRequest | None:
        annotations = self.api.get(f"/api/v1/nodes/{node}")["metadata"].get("annotations", {})
        found = read_request(annotations)
        assert found is None or isinstance(found, FlipRequest)
        return found

    def end(self) -> None:
        for path in reversed(self.made):
            with contextlib.suppress(ApiError):
                self.api.delete(path)


@pytest.fixture(scope="module")
def defined(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with our definitions; those that were not there before are taken away again."""
    client = cluster.api()
    ours = [name for name in crds.manifests() if not client.exists(f"{DEFINITIONS}/{name}")]
    for name in ours:
        client.create(DEFINITIONS, crds.manifests()[name])
    for kind in KINDS:
        eventually(lambda kind=kind: client.is_ok(f"{GROUP}/{kind.PLURAL}"), kind.PLURAL)
    yield cluster
    for name in ours:
        client.delete(f"{DEFINITIONS}/{name}")
    for name in ours:
        eventually(lambda name=name: not client.exists(f"{DEFINITIONS}/{name}"), name)


@pytest.fixture
def here(defined: Cluster, namespace: str) -> Iterator[Here]:
    eventually(lambda: defined.api().exists(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"))
    one = Here(defined, namespace)
    one.type()
    yield one
    one.end()


def a_journal(phase: Phase, **more: Any) -> Journal:
    now = time.time()
    return Journal(
        epoch=3, phase=phase, since=now - 600, unit="x", accelerator="h100-sxm", why="surplus at night",
        **{"before": Before(), **more},
    )  # fmt: skip


# --- flip ------------------------------------------------------------------------------------------------------------


def test_a_node_is_asked_for_training_by_an_annotation_that_the_operator_reads(here: Here) -> None:
    here.pool()
    node = here.node()
    result = here.run("flip", node, "--to", "training", "--until", "8h")
    assert result.exit_code == 0, result.stderr
    found = here.request(node)
    assert found is not None
    assert found.to == "training"
    assert (
        found.by
        == here.api.create(
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
        )["status"]["userInfo"]["username"]
    )
    assert abs(found.at - time.time()) < 60
    assert found.until is not None
    assert abs(found.until - found.at - 8 * 3600) < 60
    assert f"{node}: asked to training, by {found.by} (8 nvidia.com/gpu, {here.kind})" in result.stdout
    assert "against it" not in result.stdout


def test_a_dry_run_asks_for_nothing_and_names_every_step_and_every_veto(here: Here) -> None:
    here.pool(drain={"timeoutSeconds": 90, "onTimeout": "Kill"})
    here.workload()
    node = here.node(**{"tidefleet.io/do-not-flip": "true"})
    here.pod(node, **{"tidefleet.io/do-not-flip": "90m"})
    result = here.run("flip", node, "--to", "training", "--dry-run")
    assert result.exit_code == 1, result.stderr
    assert here.request(node) is None
    for words in (
        f"{node}: would be asked to training",
        "stands at: Serving",
        f"holds its accelerators: pod {here.namespace}/chat-1",
        "Cordoned   taint tidefleet.io/flip=cordoned:NoSchedule",
        "finish what runs (after 90 s Kill), then leave",
        "Verifying  until no pod or claim holds its 8 nvidia.com/gpu",
        "until the open window ends, else for 8 hours",
        f"against it: node {node} is marked tidefleet.io/do-not-flip",
        f"against it: pod {here.namespace}/chat-1 is marked tidefleet.io/do-not-flip for 90 min more",
        "nothing was asked (--dry-run); the operator would refuse it now",
    ):
        assert words in result.stdout, result.stdout


def test_without_marks_the_same_dry_run_finds_nothing_against_it(here: Here) -> None:
    here.pool()
    here.workload()
    node = here.node()
    here.pod(node)
    result = here.run("flip", node, "--to", "training", "--dry-run", "-o", "json")
    answer = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (answer["against"], answer["dryRun"], answer["phase"]) == ([], True, "Serving")
    assert answer["pods"] == [f"{here.namespace}/chat-1"]
    assert [one["phase"] for one in answer["steps"]] == ["Planned", "Cordoned", "Draining", "Verifying", "Training"]


def test_a_pod_of_somebody_else_and_a_cordon_speak_against_it(here: Here) -> None:
    here.pool()
    node = here.node()
    here.pod(node, "stranger")
    here.api.merge(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": True}})
    answer = json.loads(here.run("flip", node, "--to", "training", "--dry-run", "-o", "json").stdout)
    assert any(f"kubectl uncordon {node}" in one for one in answer["against"])
    assert f"pod {here.namespace}/stranger of somebody else holds its accelerators" in answer["against"]


@pytest.mark.parametrize(
    ("flipping", "words"),
    [
        ({"policy": "Never"}, "never lends (spec.flipping.policy is Never)"),
        ({"training": None}, "has no queue (spec.flipping.training is missing)"),
        (
            {"pause": {"scope": "RecallAll", "by": "bob", "reason": "audit"}},
            "is paused: every loan is recalled, by bob: audit",
        ),
    ],
)
def test_a_type_that_no_pool_lends_is_said_with_the_reason(here: Here, flipping: dict[str, Any], words: str) -> None:
    here.pool(**flipping)
    answer = json.loads(here.run("flip", here.node(), "--to", "training", "--dry-run", "-o", "json").stdout)
    (against,) = answer["against"]
    assert against.startswith(f"no pool lends nodes of type {here.kind}: {here.namespace}/chat ")
    assert words in against


def test_a_loan_is_called_back_and_a_flip_that_has_not_arrived_is_rolled_back(here: Here) -> None:
    here.pool()
    lent = here.node(a_journal(Phase.TRAINING, pool=f"{here.namespace}/chat", until=time.time() + 3600, trained=True))
    called = here.run("flip", lent, "--to", "serving", "--dry-run")
    assert called.exit_code == 0, called.stderr
    assert "Recalling  no further job comes; 0 pods get 120 s for a checkpoint, then go" in called.stdout
    assert "Warming" in called.stdout
    early = here.node(a_journal(Phase.DRAINING, pool=f"{here.namespace}/chat"))
    back = here.run("flip", early, "--to", "serving", "-o", "json")
    assert [one["phase"] for one in json.loads(back.stdout)["steps"]] == ["Serving"]
    found = here.request(early)
    assert found is not None
    assert (found.to, found.until) == ("serving", None)


def test_a_quarantined_node_is_released_and_what_still_holds_it_is_named(here: Here) -> None:
    node = here.node(a_journal(Phase.QUARANTINED, cause="held"))
    here.pod(node, "leftover")
    told = here.run("flip", node, "--release", "--dry-run")
    assert told.exit_code == 1
    assert f"1 pods still hold its accelerators ({here.namespace}/leftover); end them" in told.stdout
    assert here.run("flip", node, "--release").exit_code == 0
    found = here.request(node)
    assert found is not None
    assert found.to == "release"


@pytest.mark.parametrize(
    ("phase", "arguments", "words"),
    [
        (None, ["--release"], "is in phase Serving; expected Quarantined: there is nothing to release it from"),
        (None, ["--to", "serving"], "serves already"),
        (Phase.TRAINING, ["--to", "training"], "is on loan already"),
        (Phase.DRAINING, ["--to", "training"], "is on its way to training already (Draining: surplus at night)"),
        (
            Phase.WARMING,
            ["--to", "training"],
            "is on its way back (Warming: surplus at night); ask again when it serves",
        ),
        (Phase.RECALLING, ["--to", "serving"], "is on its way back already"),
        (Phase.QUARANTINED, ["--to", "training"], "release it first: tidefleet flip"),
    ],
)
def test_what_makes_no_sense_in_a_phase_is_refused(
    here: Here, phase: Phase | None, arguments: list[str], words: str
) -> None:
    node = here.node(a_journal(phase, until=time.time() + 3600) if phase else None)
    result = here.run("flip", node, *arguments)
    assert result.exit_code == 1
    assert words in result.stderr
    assert here.request(node) is None


def test_unknown_nodes_and_nodes_without_accelerators_are_refused(here: Here) -> None:
    node, plain = here.node(), here.node(plain=True)
    unknown = here.run("flip", f"{node[:-1]}", "--to", "training")
    assert unknown.exit_code == 1
    assert f"there is no node {node[:-1]}; expected a node of the cluster, e.g. {node}" in unknown.stderr
    bare = here.run("flip", plain, "--to", "training")
    assert f"node {plain} has no accelerator of a known type (extended resources: nvidia.com/gpu: 8)" in bare.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected one of --to training, --to serving and --release"),
        (["--to", "training", "--release"], "expected one of --to training"),
        (["--to", "idle"], "--to is 'idle'; expected training or serving"),
        (["--to", "serving", "--until", "8h"], "--until is for --to training"),
        (["--to", "training", "--until", "25:00"], "expected a time of day, a duration or RFC 3339"),
        (["--to", "training", "--until", "soon"], "expected a time of day, a duration or RFC 3339"),
        (["--to", "training", "--until", "2020-01-01T00:00:00Z"], "which is past"),
        (["--to", "training", "--time-zone", "Mars"], "expected a zone of the IANA database"),
    ],
)
def test_options_that_do_not_fit_are_named(here: Here, arguments: list[str], words: str) -> None:
    result = here.run("flip", "node-1", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_an_earlier_request_is_named_before_it_is_replaced(here: Here) -> None:
    here.pool()
    node = here.node(**{REQUEST: '{"to":"serving","by":"bob","at":1}'})
    assert (
        'an earlier request is replaced: {"to":"serving","by":"bob","at":1}'
        in here.run("flip", node, "--to", "training").stdout
    )


def test_whoever_may_not_write_nodes_is_told_so(here: Here, namespace: str) -> None:
    here.pool()
    rbac, name = "/apis/rbac.authorization.k8s.io/v1", f"reader-{namespace}"
    rules = [
        {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["get", "list"]},
        {
            "apiGroups": ["tidefleet.io", "apps", "leaderworkerset.x-k8s.io"],
            "resources": ["*"],
            "verbs": ["get", "list"],
        },
    ]
    version = "rbac.authorization.k8s.io/v1"
    here.create(
        f"{rbac}/clusterroles",
        {"apiVersion": version, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules},
    )
    here.create(f"{rbac}/clusterrolebindings", {
        "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
    })  # fmt: skip
    reader = here.cluster.service_account_kubeconfig(namespace, "default")
    for more in ([], ["--dry-run"]):
        result = here.run("flip", here.node(), "--to", "training", *more, user=str(reader))
        assert result.exit_code == 1
        assert "the API server does not let you ask" in result.stderr
        assert f"system:serviceaccount:{namespace}:default" in result.stderr


# --- flips and explain, from the cluster -----------------------------------------------------------------------------


def test_flips_and_explain_read_the_status_from_the_cluster(here: Here) -> None:
    here.pool()
    quiet = here.run("flips", f"{here.namespace}/chat")
    assert quiet.exit_code == 0, quiet.stderr
    assert quiet.stdout.startswith(f"{here.namespace}/chat: Never (nodes)")
    raw = a_pool()
    path = f"{GROUP}/namespaces/{here.namespace}/inferencepools/chat/status"
    here.api.merge(path, {"status": raw["status"]})
    at = ("--at", rfc3339(NOW))
    shown = here.run("flips", "chat", "-n", here.namespace, *at)
    assert shown.exit_code == 0, shown.stderr
    assert "JobSet/research/large" in shown.stdout
    (day,) = json.loads(here.run("flips", "-n", here.namespace, *at, "-o", "json").stdout)
    assert day["pool"] == f"{here.namespace}/chat"
    assert len(day["units"]) == 6
    explained = here.run("explain", f"{here.namespace}/chat").stdout
    assert "lending: Schedule, " in explained
    assert "saves $211.20, costs $8.40; 1.10 $/chip-hour against 0.04 of flips" in explained
    missing = here.run("flips", "nothing", "-n", here.namespace)
    assert missing.exit_code == 1
    assert f"there is no InferencePool {here.namespace}/nothing; there are: " in missing.stderr


# --- pause -----------------------------------------------------------------------------------------------------------


def pause_of(here: Here) -> dict[str, Any]:
    path = f"{GROUP}/namespaces/{here.namespace}/inferencepools/chat"
    found: dict[str, Any] = here.api.get(path)["spec"]["flipping"].get("pause", {})
    return found


def test_a_pool_is_paused_shown_and_goes_on(here: Here) -> None:
    here.pool()
    pool = f"{here.namespace}/chat"
    dry = here.run("pause", pool, "--scope", "NewLoans", "--reason", "launch day", "--dry-run")
    assert f"{pool}: the pause would be NewLoans (was None), by " in dry.stdout
    assert pause_of(here).get("scope") in (None, "None")
    assert here.run("pause", pool).stdout == f"{pool} is not paused\n"

    done = here.run("pause", "chat", "-n", here.namespace, "--scope", "RecallAll", "--reason", "launch [day]")
    assert done.exit_code == 0, done.stderr
    assert "every node that is lent is called back now" in done.stdout
    assert pause_of(here)["scope"] == "RecallAll"
    assert pause_of(here)["reason"] == "launch [day]"
    for shown in (here.run("pause"), here.run("pause", pool)):
        assert pool in shown.stdout
        assert "launch [day]" in shown.stdout
    (told,) = json.loads(here.run("pause", pool, "-o", "json").stdout)
    assert (told["what"], told["scope"], told["by"]) == (pool, "RecallAll", pause_of(here)["by"])

    on = json.loads(here.run("pause", pool, "--scope", "None", "-o", "json").stdout)
    assert (on["before"], on["scope"]) == ("RecallAll", "None")
    assert pause_of(here)["scope"] == "None"
    assert "reason" not in pause_of(here)


def test_the_fleet_is_paused_by_a_config_map_in_the_operators_namespace(here: Here) -> None:
    place = ("--fleet", "--operator-namespace", here.namespace)
    path = f"/api/v1/namespaces/{here.namespace}/configmaps/tidefleet-pause"
    dry = here.run("pause", *place, "--scope", "RecallAll", "--reason", "audit", "--dry-run")
    assert dry.exit_code == 0, dry.stderr
    assert not here.api.exists(path)
    assert here.run("pause", *place).stdout == "nothing is paused\n"
    for scope in ("RecallAll", "NewLoans"):
        done = here.run("pause", *place, "--scope", scope, "--reason", "audit")
        assert done.stdout.startswith(f"fleet: the pause is {scope} (was "), done.stderr
        data = here.api.get(path)["data"]
        assert (data["scope"], data["reason"]) == (scope, "audit")
        assert data["by"]
    assert "fleet  NewLoans" in here.run("pause").stdout
    here.run("pause", *place, "--scope", "None")
    assert here.run("pause", *place).stdout == "nothing is paused\n"


def test_the_operators_namespace_is_found_by_its_lease_and_asked_for_where_there_is_none(here: Here) -> None:
    leases = "/apis/coordination.k8s.io/v1"
    there = [
        one["metadata"]["namespace"]
        for one in here.api.get(f"{leases}/leases?fieldSelector=metadata.name%3Dtidefleet")["items"]
    ]
    asked = here.run("pause", "--fleet", "--scope", "NewLoans", "--reason", "audit", "--dry-run")
    if len(there) != 1:
        assert "expected --operator-namespace" in asked.stderr
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "tidefleet"}, "spec": {}}
    here.create(f"{leases}/namespaces/{here.namespace}/leases", body)
    asked = here.run("pause", "--fleet", "--scope", "NewLoans", "--reason", "audit", "--dry-run")
    if there:
        assert "expected --operator-namespace" in asked.stderr
    else:
        assert asked.exit_code == 0, asked.stderr


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["chat", "--fleet"], "got a pool and --fleet; expected one of them", 2),
        (["--scope", "NewLoans", "--reason", "x"], "expected a pool or --fleet", 2),
        (["chat", "--scope", "NewLoans"], "--reason is missing", 2),
        (["chat", "--scope", "RecallAll", "--reason", "x" * 513], "at most 512", 2),
        (["chat", "--reason", "x"], "--reason goes with --scope", 2),
        (["nowhere/chat", "--scope", "None"], "there is no InferencePool nowhere/chat", 1),
        (["nowhere/chat"], "there is no InferencePool nowhere/chat", 1),
    ],
)
def test_a_pause_that_does_not_fit_is_named(here: Here, arguments: list[str], words: str, status: int) -> None:
    result = here.run("pause", *arguments)
    assert result.exit_code == status
    assert words in result.stderr
