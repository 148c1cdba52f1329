"""The samples: valid, plannable with the shipped prices, accepted by the API server, with a day of demand."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.api import ApiError
from tidefleet import catalogue
from tidefleet.api import InferencePool, Site, WorkloadClass, validation
from tidefleet.planning import from_api
from tidefleet.planning.options import EstimateMemo, find_candidates
from tidefleet.planning.pool import PoolPlan, PoolProblem, plan_pool

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "deploy" / "samples"
FILES = sorted([*SAMPLES.glob("*.yaml"), *(SAMPLES / "adopted").glob("*.yaml")])
POOLS = ("chat", "code", "reasoning")
OBJECTIVES = {"chat": (800, 50), "code": (400, 40), "reasoning": (1500, 40)}


def manifests(*paths: Path) -> list[dict[str, Any]]:
    return [one for path in paths for one in yaml.safe_load_all(path.read_text()) if one]


def ours() -> list[Any]:
    return [
        validation.parse(one, strict=True) for one in manifests(*FILES) if one["apiVersion"].startswith("tidefleet.io")
    ]


def day() -> list[dict[str, str]]:
    with (SAMPLES / "traces" / "day.csv").open() as file:
        return list(csv.DictReader(file))


def test_samples_are_valid_and_in_their_namespace():
    found = ours()
    assert [str(one) for one in found if isinstance(one, validation.Invalid)] == []
    assert {one.name for one in found if isinstance(one, InferencePool)} == {*POOLS, "assistant"}
    assert any(isinstance(one, Site) for one in found)
    namespaces = {
        one["metadata"].get("namespace") for one in manifests(*FILES) if one["kind"] not in ("Namespace", "Site")
    }
    assert namespaces == {"tidefleet-samples"}
    assert manifests(FILES[0])[0]["kind"] == "Namespace", "the namespace has to be applied first"


def test_objectives_are_those_of_the_simulation():
    for one in ours():
        if isinstance(one, WorkloadClass) and one.name in OBJECTIVES:
            by_metric = {str(objective.metric): objective for objective in one.spec.objectives}
            ttft, tpot = OBJECTIVES[one.name]
            assert by_metric["TTFT"].milliseconds == ttft
            assert by_metric["TTFT"].per_thousand_input_tokens_milliseconds == 100
            assert by_metric["TPOT"].milliseconds == tpot


def test_template_of_every_pool_has_an_engine_container_on_the_engines_port():
    for one in ours():
        if isinstance(one, InferencePool) and one.spec.serving.template:
            containers = one.spec.serving.template["spec"]["containers"]
            engine = next(container for container in containers if container["name"] == "engine")
            assert [port["containerPort"] for port in engine["ports"]] == [one.spec.serving.engine.port]


@pytest.mark.parametrize("name", POOLS)
def test_pool_can_be_planned_within_its_target_through_the_whole_day(name):
    found = {(type(one).__name__, one.name): one for one in ours()}
    pool, wclass = found["InferencePool", name], found["WorkloadClass", name]
    offers = [from_api.offer_of(validation.parse(one)) for one in catalogue.accelerator_manifests()]
    if pool.spec.accelerators:
        offers = [one for one in offers if one.accelerator.name in {each.type for each in pool.spec.accelerators}]
    model = catalogue.models()[pool.spec.model.name]
    classes = from_api.class_demands([wclass], 1.0)
    native = model.native_weights
    allowed = from_api.allowed_of(pool, [wclass], native_weights=native, defaults=(native, "Bf16"))
    defaults = {"default_weights": model.native_weights, "default_kv": "Bf16"}
    market = find_candidates(model, offers, classes, allowed, **defaults, memo=EstimateMemo())
    bounds = pool.spec.replicas
    rates = [float(row["requests_per_second"]) for row in day() if row["pool"] == name]
    for rate in (min(rates), max(rates)):
        problem = PoolProblem(
            *(name, classes, rate, market, bounds.min, bounds.max, bounds.spare),
            target_usd_per_million_tokens=float(pool.spec.cost_target.usd_per_million_tokens),
        )
        plan = plan_pool(problem)
        assert isinstance(plan, PoolPlan)
        assert plan.shortfall == 0
        if rate == max(rates):
            assert plan.missed == ()


def test_day_has_every_bin_of_every_pool():
    rows = day()
    seconds = [str(600 * bin_) for bin_ in range(144)]
    for pool in POOLS:
        own = [row for row in rows if row["pool"] == pool]
        assert [row["second"] for row in own] == seconds
        assert all(float(row["requests_per_second"]) > 0 for row in own)
        assert all(int(row["input_tokens"]) > 0 and int(row["output_tokens"]) > 0 for row in own)
        assert {float(row["cached_share"]) for row in own} <= {0.35, 0.3, 0.1}
    assert len(rows) == len(POOLS) * 144


def test_day_has_the_attribution_its_licences_ask_for():
    for name in ("NOTICE", "README.md"):
        text = (SAMPLES / "traces" / name).read_text()
        for part in ("Azure", "b469a11", "Creative Commons Attribution 4.0", "ServeGen", "f891d11", "Apache License"):
            assert part in text, (name, part)


@pytest.mark.cluster
def test_api_server_accepts_every_sample_and_its_pod_template(cluster, namespace):
    api = cluster.api()
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for definition in manifests(*(ROOT / "crds").glob("*.yaml")):
        api.apply(f"{definitions}/{definition['metadata']['name']}", definition)
    plurals = {"InferencePool": "inferencepools", "WorkloadClass": "workloadclasses", "Site": "sites"}
    for one in manifests(*FILES):
        if one["kind"] in ("InferencePool", "WorkloadClass"):
            one["metadata"]["namespace"] = namespace
            path = f"/apis/tidefleet.io/v1alpha1/namespaces/{namespace}/{plurals[one['kind']]}"
        elif one["kind"] == "Site":
            path = "/apis/tidefleet.io/v1alpha1/sites"
        elif one["kind"] == "Deployment":
            one["metadata"]["namespace"] = namespace
            path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
        else:
            continue
        create(api, f"{path}?dryRun=All&fieldValidation=Strict", one)
        template = one["spec"].get("serving", {}).get("template") if one["kind"] == "InferencePool" else None
        if template:
            pod = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"], "metadata": {"generateName": "p-"}}
            api.create(f"/api/v1/namespaces/{namespace}/pods?dryRun=All&fieldValidation=Strict", pod)


def create(api, path, body):
    """Create once the definitions that were just applied are served."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return api.create(path, body)
        except ApiError as error:
            if error.status not in (404, 429, 503) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
