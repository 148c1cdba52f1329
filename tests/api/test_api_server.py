"""A real API server takes the generated CRDs, and judges the table of objects as the pydantic validator does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from api_objects import BASES, GOOD, OURS, SCHEMA_BAD, UNKNOWN_FIELDS, Case, Raw
from flipping_objects import a_full_status

from tidefleet.api import KINDS, crds, validation
from tidefleet.api.validation import Invalid

if TYPE_CHECKING:
    from localcluster import Cluster
    from localcluster.api import ApiClient

pytestmark = pytest.mark.cluster

CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP_PATH = "/apis/tidefleet.io/v1alpha1"
ALREADY_THERE = 409


def wait_until(what: str, holds: Any) -> None:
    for _ in range(300):
        if holds():
            return
        time.sleep(0.1)
    pytest.fail(f"{what}: not within 30 s")


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[ApiClient]:
    """A client to a server that has our CRDs; those that were not there before are taken away again."""
    client = cluster.api()
    ours = [name for name in crds.manifests() if not client.exists(f"{CRD_PATH}/{name}")]
    for name in ours:
        client.create(CRD_PATH, crds.manifests()[name])
    for kind in KINDS:
        wait_until(f"{kind.PLURAL} are served", lambda kind=kind: client.is_ok(f"{GROUP_PATH}/{kind.PLURAL}"))
    yield client
    for name in ours:
        client.delete(f"{CRD_PATH}/{name}")
    for name in ours:
        wait_until(f"{name} is gone", lambda name=name: not client.exists(f"{CRD_PATH}/{name}"))


def collection(raw: Raw) -> str:
    kind = validation.KINDS[raw["kind"]]
    return f"{GROUP_PATH}/namespaces/default/{kind.PLURAL}" if kind.NAMESPACED else f"{GROUP_PATH}/{kind.PLURAL}"


def verdict(api: ApiClient, raw: Raw, validation_mode: str = "Strict") -> str:
    """What the server says against the object; empty when it takes it."""
    from localcluster.api import ApiError

    try:
        api.create(f"{collection(raw)}?dryRun=All&fieldValidation={validation_mode}", raw)
    except ApiError as error:
        if error.status == ALREADY_THERE:  # another test's object of that name; the schema has been checked before
            return ""
        if error.status not in (400, 422):
            raise
        return str(error)
    return ""


def test_the_server_and_the_validator_judge_every_object_alike(api: ApiClient) -> None:
    disagreements = []
    for case in (*GOOD, *SCHEMA_BAD):
        ours = validation.parse_schema(case.raw, strict=True)
        theirs = verdict(api, case.raw)
        if isinstance(ours, Invalid) != bool(theirs):
            disagreements.append(f"{case}\n    ours: {ours!s:.300}\n    theirs: {theirs or 'taken':.600}")
    assert not disagreements, "\n".join(disagreements)


def test_what_only_we_judge_is_taken_by_the_server(api: ApiClient) -> None:
    assert [str(case) for case in OURS if verdict(api, case.raw)] == []


def test_unknown_fields_are_refused_strictly_and_ignored_otherwise(api: ApiClient) -> None:
    for case in UNKNOWN_FIELDS:
        assert verdict(api, case.raw), case
        loose = validation.parse_schema(case.raw)
        assert bool(verdict(api, case.raw, "Ignore")) == isinstance(loose, Invalid), case


def test_the_rules_speak_the_language_of_the_house(api: ApiClient) -> None:
    said = verdict(api, Case("pool", (("spec.replicas", {"min": 9, "max": 2}),)).raw)
    assert "spec.replicas.min: expected a number not above max, e.g. 1" in said
    said = verdict(api, Case("pool", (("spec.serving", {}),)).raw)
    assert "spec.serving: expected exactly one of template and workloads" in said


def test_defaults_of_the_server_are_those_of_the_validator(api: ApiClient) -> None:
    for case in GOOD:
        raw = {**case.raw, "metadata": {**case.raw["metadata"], "name": f"unlike-{case.raw['metadata']['name']}"[:60]}}
        stored = api.create(f"{collection(raw)}?dryRun=All", raw)
        here = validation.parse(case.raw)
        there = validation.parse(stored, strict=True)
        assert not isinstance(here, Invalid)
        assert not isinstance(there, Invalid), str(there)
        assert there.spec == here.spec, case


def test_a_pool_cannot_change_between_template_and_workloads(api: ApiClient, namespace: str) -> None:
    from localcluster.api import ApiError

    path = f"{GROUP_PATH}/namespaces/{namespace}/inferencepools"
    api.create(path, {**BASES["pool"], "metadata": {"name": "chat"}})
    change = {"spec": {"serving": {"template": None, **BASES["adopting"]["spec"]["serving"]}}}
    with pytest.raises(ApiError, match=r"spec\.serving: expected no change between template and workloads"):
        api.merge(f"{path}/chat", change)
    api.merge(f"{path}/chat", {"spec": {"serving": {"template": {"metadata": {"labels": {"a": "b"}}}}}})


def test_the_scale_subresource_pins_and_reports(api: ApiClient, namespace: str) -> None:
    from localcluster.api import ApiError

    path = f"{GROUP_PATH}/namespaces/{namespace}/inferencepools"
    api.create(path, {**BASES["pool"], "metadata": {"name": "chat"}})
    with pytest.raises(ApiError):
        api.get(f"{path}/chat/scale")
    api.merge(f"{path}/chat/scale", {"spec": {"replicas": 3}})
    assert api.get(f"{path}/chat")["spec"]["pinnedReplicas"] == 3
    api.merge(f"{path}/chat/status", {"status": {"replicas": 2, "selector": "tidefleet.io/pool=chat"}})
    scale = api.get(f"{path}/chat/scale")
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 2, "selector": "tidefleet.io/pool=chat"}
    api.merge(f"{path}/chat", {"spec": {"pinnedReplicas": None}})
    assert "pinnedReplicas" not in api.get(f"{path}/chat")["spec"]


def test_kubectl_shows_the_columns(api: ApiClient, cluster: Cluster, namespace: str) -> None:
    from localcluster import binaries

    path = f"{GROUP_PATH}/namespaces/{namespace}/inferencepools"
    raw = {**BASES["pool"], "metadata": {"name": "chat"}}
    raw["spec"] = {**raw["spec"], "costTarget": {"usdPerMillionTokens": "0.60"}}
    api.create(path, raw)
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "PlanAvailable",
        "message": "8 of 8 replicas",
        "lastTransitionTime": "2026-11-21T08:30:00Z",
        "observedGeneration": 1,
    }
    status = {
        "conditions": [ready],
        "observedGeneration": 1,
        "replicas": 8,
        "accelerators": "6 h200-sxm (fp8, tp2), 2 l40s",
        "plan": {"usdPerMillionTokens": "0.52", "savingsUsdPerHour": "6.40"},
        "demand": {"outputTokensPerSecond": "900"},
        "utilization": "0.62",
        "kvHitRatio": "0.48",
        "nextFlip": "22:00 Europe/Berlin",
        "flipping": {"loanedNodes": 3},
    }
    api.merge(f"{path}/chat/status", {"status": status})

    def table(*more: str) -> list[str]:
        command = [str(binaries.find("kubectl")), "--kubeconfig", str(cluster.kubeconfig), "-n", namespace]
        answer = subprocess.run([*command, "get", "tpool", *more], capture_output=True, text=True, check=True)
        return answer.stdout.splitlines()

    header, row = table()
    columns = ["NAME", "READY", "MODE", "ACCELERATORS", "REPLICAS", "$/1M", "TARGET", "NEXT-FLIP", "REASON", "AGE"]
    assert header.split() == columns
    for text in ("True", "Enforce", "6 h200-sxm (fp8, tp2), 2 l40s", "8", "0.52", "0.60", "22:00", "PlanAvailable"):
        assert text in row
    header, row = table("-o", "wide")
    assert header.split() == [*columns, "PINNED", "SAVINGS", "LOANED", "KV-HIT", "UTIL", "TOK/S", "MESSAGE"]
    for text in ("6.40", "0.48", "0.62", "900", "8 of 8 replicas"):
        assert text in row


def test_a_status_as_the_operator_writes_it_is_taken(api: ApiClient, namespace: str) -> None:
    from tidefleet.api.conditions import Condition, ConditionStatus
    from tidefleet.api.inference_pool_status import InferencePoolStatus, PlannedOption, PlanStatus

    path = f"{GROUP_PATH}/namespaces/{namespace}/inferencepools"
    api.create(path, {**BASES["pool"], "metadata": {"name": "chat"}})
    option = PlannedOption.model_validate(
        {"accelerator": "h200-sxm", "capacityType": "OnDemand", "tensorParallel": 2, "replicas": 3, "chips": 6}
    )
    condition = Condition.model_validate(
        {
            "type": "Ready",
            "status": ConditionStatus.TRUE,
            "reason": "PlanAvailable",
            "lastTransitionTime": "2026-11-21T08:30:00Z",
            "observedGeneration": 1,
        }
    )
    status = InferencePoolStatus(
        conditions=(condition,),
        observed_generation=1,
        replicas=3,
        plan=PlanStatus(options=(option,), reason="cheapest"),
    )
    api.merge(f"{path}/chat/status", {"status": status.dump()})
    stored = validation.parse(api.get(f"{path}/chat"))
    assert isinstance(stored, validation.InferencePool)
    assert stored.status == status


def test_the_fullest_status_of_flipping_is_taken_and_a_fuller_one_is_not(api: ApiClient, namespace: str) -> None:
    from localcluster.api import ApiError
    from tidefleet.api.flipping_status import FlippingStatus
    from tidefleet.api.inference_pool_status import InferencePoolStatus

    path = f"{GROUP_PATH}/namespaces/{namespace}/inferencepools"
    api.create(path, {**BASES["pool"], "metadata": {"name": "chat"}})
    status = InferencePoolStatus(flipping=FlippingStatus.model_validate(a_full_status()))
    api.merge(f"{path}/chat/status", {"status": status.dump()})
    stored = validation.parse(api.get(f"{path}/chat"))
    assert isinstance(stored, validation.InferencePool)
    assert stored.status == status
    for more in ({"needed": [1] * 97}, {"units": [{"name": "a", "phase": "Asleep"}]}):
        with pytest.raises(ApiError, match="flipping"):
            api.merge(f"{path}/chat/status", {"status": {"flipping": {**a_full_status(), **more}}})
