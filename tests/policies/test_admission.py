"""The admission policies on a real API server: what they let through, what they refuse, and that the operator works."""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from admission_people import OPERATOR, ROOT, TYPES, a_deployment, a_pool, eventually, priced_type, refused, rule

from localcluster.api import ApiError
from localcluster.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.chart]


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
    assert [one.stem for one in files] == ["flips", "loan-cap", "marks", "prices", "recommend-only"]
    for file in files:
        policy, binding = yaml.safe_load_all(file.read_text())
        assert policy["metadata"]["name"] == binding["spec"]["policyName"] == f"tidefleet-{file.stem}"
        assert policy["spec"]["failurePolicy"] == "Fail"
        assert binding["spec"]["validationActions"] == ["Deny"]
