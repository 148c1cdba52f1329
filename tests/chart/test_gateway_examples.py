"""The examples for other gateways: their schemas take them, and what they name is there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.api import ApiClient, ApiError
from localcluster.crds import crd_files
from localcluster.errors import LocalClusterError
from tidefleet.api import InferencePool, validation
from tidefleet.controller.config import GatewayPicker
from tidefleet.controller.gateway import wanted_spec

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "deploy" / "envoy" / name for name in ("inference-pool.yaml", "envoy-gateway.yaml")]
SAMPLES = ROOT / "deploy" / "samples"
NAMESPACE = "tidefleet-samples"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OURS_TO_REMOVE = ("gateway-api", "envoy-gateway")
WANTED = ("inferencepools.inference", "gatewayclasses", "gateways.", "httproutes", "clienttrafficpolicies")


def documents(*paths: Path) -> list[dict[str, Any]]:
    return [one for path in paths for one in yaml.safe_load_all(path.read_text()) if one]


def only(kind: str) -> dict[str, Any]:
    (found,) = [one for one in documents(*FILES) if one["kind"] == kind]
    return found


def names(found: dict[str, Any]) -> tuple[str, str, str]:
    return found["apiVersion"].rpartition("/")[0], found["kind"], found["metadata"]["name"]


def test_every_object_that_one_of_them_names_is_among_them() -> None:
    there = {names(one) for one in documents(*FILES)}
    gateway, route, policy = only("Gateway"), only("HTTPRoute"), only("ClientTrafficPolicy")
    api = "gateway.networking.k8s.io"
    named = [(api, "GatewayClass", gateway["spec"]["gatewayClassName"])]
    named += [(one.get("group", api), one.get("kind", "Gateway"), one["name"]) for one in route["spec"]["parentRefs"]]
    named += [(one["group"], one["kind"], one["name"]) for one in policy["spec"]["targetRefs"]]
    named += [
        (one["group"], one["kind"], one["name"]) for rule in route["spec"]["rules"] for one in rule["backendRefs"]
    ]
    assert len(named) == 4
    assert set(named) <= there
    namespaces = {one["metadata"].get("namespace") for one in documents(*FILES) if one["kind"] != "GatewayClass"}
    assert namespaces == {NAMESPACE} == {documents(SAMPLES / "00-namespace.yaml")[0]["metadata"]["name"]}


def test_the_pool_is_what_the_operator_makes_for_the_sample() -> None:
    (raw,) = [one for one in documents(SAMPLES / "10-chat.yaml") if one["kind"] == "InferencePool"]
    sample = validation.parse(raw)
    assert isinstance(sample, InferencePool)
    assert only("InferencePool")["spec"] == wanted_spec(sample, GatewayPicker())


def test_the_picker_is_the_service_that_the_chart_makes_there_and_leads_to_the_routers_port(render: Any) -> None:
    found = render({"router": {"enabled": True, "exposeIn": [NAMESPACE]}}, show_only=["router"])
    services = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one for one in found if one["kind"] == "Service"
    }
    picker = only("InferencePool")["spec"]["endpointPickerRef"]
    alias = services[NAMESPACE, picker["name"]]
    assert [one["port"] for one in alias["spec"]["ports"]] == [picker["port"]["number"]]
    name, namespace, *_ = alias["spec"]["externalName"].split(".")
    own = {one["port"]: one["targetPort"] for one in services[namespace, name]["spec"]["ports"]}
    (deployment,) = [one for one in found if one["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    listens = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert f"--port={listens[own[picker['port']['number']]]}" in container["args"]


@pytest.fixture
def definitions(cluster: Any) -> Iterator[dict[tuple[str, str], tuple[str, bool]]]:
    """Where the API server has each kind that the examples use, and whether it is namespaced."""
    api: ApiClient = cluster.api()
    try:
        found = {
            source: [one for one in documents(*crd_files(source)) if one["metadata"]["name"].startswith(WANTED)]
            for source in (*OURS_TO_REMOVE, "gateway-api-inference-extension")
        }
    except LocalClusterError as reason:
        pytest.skip(f"no definitions of other projects here: {reason}")
    where = {}
    for one in (one for each in found.values() for one in each):
        api.apply(f"{DEFINITIONS}/{one['metadata']['name']}", one)
        spec = one["spec"]
        key = (spec["group"], spec["names"]["kind"])
        where[key] = (spec["names"]["plural"], spec["scope"] == "Namespaced")
    yield where
    for one in (one for source in OURS_TO_REMOVE for one in found[source]):
        with contextlib.suppress(ApiError):
            api.delete(f"{DEFINITIONS}/{one['metadata']['name']}")


def once_served(create: Callable[[], Any]) -> Any:
    """What comes of it, once a definition that was just written is served."""
    end = time.monotonic() + 30
    while True:
        try:
            return create()
        except ApiError as error:
            if error.status not in (404, 429, 503) or time.monotonic() > end:
                raise
        time.sleep(0.1)


@pytest.mark.cluster
def test_an_api_server_takes_every_document_and_none_with_a_field_that_the_schema_has_not(
    cluster: Any, namespace: str, definitions: dict[tuple[str, str], tuple[str, bool]]
) -> None:
    api = cluster.api()
    for one in documents(*FILES):
        plural, namespaced = definitions[names(one)[:2]]
        if namespaced:
            one["metadata"]["namespace"] = namespace
        there = f"/namespaces/{namespace}" if namespaced else ""
        path = f"/apis/{one['apiVersion']}{there}/{plural}?dryRun=All&fieldValidation=Strict"
        once_served(lambda path=path, one=one: api.create(path, one))
        with pytest.raises(ApiError, match="nonsense"):
            once_served(lambda path=path, one=one: api.create(path, {**one, "spec": {**one["spec"], "nonsense": 1}}))
