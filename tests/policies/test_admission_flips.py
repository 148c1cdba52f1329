"""The admission policies on flips: journals are the operator's, requests are made by few and in their own name."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from admission_people import DUTY, OPERATOR, Person, a_pool, refused, rule

from localcluster.api import ApiClient, ApiError
from localcluster.cluster import Cluster
from tidefleet.cluster import records
from tidefleet.controller.flips.dress import node_change
from tidefleet.controller.flips.requests import read_request
from tidefleet.flipping.journal import Journal
from tidefleet.flipping.lending import FlipRequest
from tidefleet.flipping.phase import Phase

pytestmark = [pytest.mark.cluster, pytest.mark.chart]

People = Callable[..., Person]
JOURNAL = '{"v":1,"epoch":9,"phase":"Training","since":1,"unit":"n"}'
TAINT = {"key": "tidefleet.io/flip", "value": "draining", "effect": "NoSchedule"}
FOREIGN = {"key": "team", "value": "a", "effect": "NoSchedule"}
NODES = rule("", "nodes", "nodes/status")


@pytest.fixture
def node(guarded: Cluster) -> Iterator[str]:
    """The path of a node that nobody has flipped."""
    name = f"flipped-{uuid.uuid4().hex[:6]}"
    path = f"/api/v1/nodes/{name}"
    guarded.api().create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    yield path
    with contextlib.suppress(ApiError):
        guarded.api().delete(path)


def annotated(**annotations: str | None) -> dict[str, Any]:
    found = {f"tidefleet.io/{key.replace('_', '-')}": text for key, text in annotations.items()}
    return {"metadata": {"annotations": found}}


LENT = {"key": "tidefleet.io/duty", "value": "training", "effect": "NoSchedule"}
FORGERIES = {
    "annotation tidefleet.io/flip": annotated(flip=JOURNAL),
    "label tidefleet.io/duty": {"metadata": {"labels": DUTY}},
    "taint tidefleet.io/flip=draining:NoSchedule": {"spec": {"taints": [FOREIGN, TAINT]}},
    "taint tidefleet.io/duty=training:NoSchedule": {"spec": {"taints": [LENT]}},
}


@pytest.mark.parametrize("what", FORGERIES)
def test_nobody_but_the_operator_says_that_a_node_was_flipped(person: People, node: str, what: str) -> None:
    admin = person("node-admin", NODES)
    name = node.rsplit("/", 1)[1]
    refused(lambda: admin.api.merge(node, FORGERIES[what]), f"Node {name}: {what} is set or taken away by system:")


def test_a_journal_cannot_be_forged_through_the_status_either(guarded: Cluster, person: People, node: str) -> None:
    admin = person("node-admin", NODES)
    refused(lambda: admin.api.merge(f"{node}/status", annotated(flip=JOURNAL)), "annotation tidefleet.io/flip is set")
    admin.api.merge(f"{node}/status", {"status": {"capacity": {"nvidia.com/gpu": "8"}}})
    assert guarded.api().get(node)["status"]["capacity"]["nvidia.com/gpu"] == "8"
    assert "tidefleet.io/flip" not in guarded.api().get(node)["metadata"].get("annotations", {})


def test_what_the_operator_wrote_is_taken_away_by_nobody_else(guarded: Cluster, person: People, node: str) -> None:
    admin = person("node-admin", NODES)
    for patch in (annotated(flip=JOURNAL), {"metadata": {"labels": DUTY}}, {"spec": {"taints": [FOREIGN, TAINT]}}):
        guarded.api().merge(node, patch)
    unlabelled = {"metadata": {"labels": {"tidefleet.io/duty": None}}}
    changed = {"spec": {"taints": [TAINT | {"value": "verifying"}]}}
    refused(lambda: admin.api.merge(node, annotated(flip=None)), "annotation tidefleet.io/flip is set or taken away")
    refused(lambda: admin.api.merge(node, unlabelled), "label tidefleet.io/duty")
    untainted = {"spec": {"taints": [FOREIGN]}}
    refused(lambda: admin.api.merge(node, untainted), "taint tidefleet.io/flip=draining:NoSchedule")
    refused(lambda: admin.api.merge(node, changed), "=verifying:NoSchedule")


def test_everything_else_on_a_node_is_as_free_as_before(guarded: Cluster, person: People, node: str) -> None:
    admin = person("node-admin", NODES)
    guarded.api().merge(node, annotated(flip=JOURNAL))
    guarded.api().merge(node, {"spec": {"taints": [TAINT]}})
    admin.api.merge(node, {"metadata": {"labels": {"rack": "7"}, "annotations": {"tidefleet.io/do-not-flip": "90m"}}})
    admin.api.merge(node, {"spec": {"unschedulable": True, "taints": [TAINT, FOREIGN]}})
    found = guarded.api().get(node)
    assert found["metadata"]["labels"]["rack"] == "7"
    assert FOREIGN in found["spec"]["taints"]


def test_a_new_node_may_not_come_with_a_duty(person: People) -> None:
    admin = person("node-admin", NODES)
    metadata = {"name": f"new-{uuid.uuid4().hex[:6]}", "labels": DUTY}
    body = {"apiVersion": "v1", "kind": "Node", "metadata": metadata}
    refused(
        lambda: admin.api.create("/api/v1/nodes?dryRun=All", body), f"Node {metadata['name']}: label tidefleet.io/duty"
    )


def asked_by(name: str, **more: Any) -> dict[str, Any]:
    return annotated(
        flip_request=json.dumps({"to": "training", "by": name, "at": 1764028800, **more}, separators=(",", ":"))
    )


def test_only_those_with_the_verb_flip_ask_and_only_in_their_own_name(
    guarded: Cluster, person: People, node: str, namespace: str
) -> None:
    admin = person("node-admin", NODES)
    flipper = person("flipper", role=f"{OPERATOR}-flipper")
    names = {who: f"system:serviceaccount:{namespace}:{who}" for who in ("node-admin", "flipper")}
    refused(
        lambda: admin.api.merge(node, asked_by(names["node-admin"])),
        f"e.g. by a ClusterRoleBinding to the ClusterRole {OPERATOR}-flipper",
    )
    for forged in (
        asked_by("alice"),
        annotated(flip_request='{"to":"training","at":1}'),
        asked_by("alice", note=f'"by":"{names["flipper"]}"'),
        annotated(flip_request='{"by":"' + names["flipper"] + '","to":"training","at":1,"by":"alice"}'),
        annotated(flip_request='{"by":"' + names["flipper"] + '","to":"training","at":1,"\\u0062y":"alice"}'),
    ):
        refused(lambda forged=forged: flipper.api.merge(node, forged), 'in another name; expected "by":')
    flipper.api.merge(node, asked_by(names["flipper"], until=1764060000))
    found = read_request(guarded.api().get(node)["metadata"]["annotations"])
    assert isinstance(found, FlipRequest)
    assert (found.to, found.by) == ("training", names["flipper"])
    admin.api.merge(node, {"metadata": {"labels": {"rack": "8"}}})
    admin.api.merge(node, annotated(flip_request=None))


def test_a_flipper_moves_nothing_itself(person: People, node: str) -> None:
    flipper = person("flipper", role=f"{OPERATOR}-flipper")
    for what, patch in FORGERIES.items():
        refused(lambda patch=patch: flipper.api.merge(node, patch), what)


def test_the_operators_account_writes_a_whole_flip_and_takes_a_request_away(guarded: Cluster, node: str) -> None:
    """Each phase as the operator dresses a node for it, by the account and the rights that the chart gives it."""
    api, name = guarded.api(), node.rsplit("/", 1)[1]
    phases = (Phase.PLANNED, Phase.CORDONED, Phase.TRAINING, Phase.RECALLING, Phase.QUARANTINED, Phase.SERVING)
    with ApiClient.from_kubeconfig(guarded.service_account_kubeconfig(OPERATOR, OPERATOR)) as operator:
        api.merge(node, asked_by("tidefleet-local-admin"))
        journal = Journal(epoch=1, phase=Phase.SERVING, since=0.0, unit=name, members=(name,))
        own: Journal | None = None
        for at, phase in enumerate(phases):
            journal = journal.to(phase, 100.0 + at)
            change = node_change(records.node(api.get(node)), journal, own=own)
            assert change is not None
            operator.merge(node, change)
            own = journal
        operator.merge(node, annotated(flip_request=None))
    assert not [one for one in api.get(node)["spec"].get("taints", ()) if one["key"].startswith("tidefleet.io/")]


# --- caps ------------------------------------------------------------------------------------------------------------


def lending(*budgets: dict[str, Any], policy: str = "Forecast") -> dict[str, Any]:
    pool = a_pool()
    pool["spec"]["flipping"] = {
        "policy": policy,
        "training": {"queue": {"clusterQueue": "night"}},
        "budgets": list(budgets),
    }
    return pool


CRON = {"schedule": "0 22 * * *", "durationSeconds": 3600, "timeZone": "UTC"}


def test_a_capped_namespace_lends_only_so_many_nodes_at_a_time(
    guarded: Cluster, person: People, namespace: str
) -> None:
    path = f"/apis/tidefleet.io/v1alpha1/namespaces/{namespace}/inferencepools"
    editor = person("editor", rule("tidefleet.io", "inferencepools"))
    before = lending() | {"metadata": {"name": "before"}}
    editor.api.create(path, before)
    guarded.api().merge(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {"tidefleet.io/loan-cap": "2"}}})
    words = f"InferencePool {namespace}/chat: spec.flipping.budgets holds no limit of 2 nodes or fewer on loans"

    def trial(pool: dict[str, Any]) -> None:
        editor.api.create(f"{path}?dryRun=All", pool)

    refused(lambda: trial(lending()), words)
    for budgets in ([{"nodes": 3}], [{"nodes": "1%"}], [{"nodes": 1, "reasons": ["Recall"]}], [{"nodes": 1, **CRON}]):
        refused(lambda budgets=budgets: trial(lending(*budgets)), words)
    for budgets in ([{"nodes": 2}], [{"nodes": "2", "reasons": ["Loan"]}], [{"nodes": "50%"}, {"nodes": 0}]):
        trial(lending(*budgets))
    trial(lending(policy="Never"))
    trial(a_pool())
    editor.api.merge(f"{path}/before", {"metadata": {"labels": {"team": "a"}}})
    refused(
        lambda: editor.api.merge(f"{path}/before", {"spec": {"replicas": {"max": 3}}}), "before: spec.flipping.budgets"
    )


def test_a_cap_that_is_no_number_is_named(guarded: Cluster, person: People, namespace: str) -> None:
    path = f"/apis/tidefleet.io/v1alpha1/namespaces/{namespace}/inferencepools"
    editor = person("editor", rule("tidefleet.io", "inferencepools"))
    guarded.api().merge(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {"tidefleet.io/loan-cap": "few"}}})

    def answer() -> None:
        try:
            editor.api.create(f"{path}?dryRun=All", lending({"nodes": 1}))
        except ApiError as error:
            raise ApiError(f"403 {error}", status=403) from error

    refused(answer, "the label tidefleet.io/loan-cap is few; expected a number of nodes")
