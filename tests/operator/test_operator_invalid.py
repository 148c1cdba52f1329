"""What is wrong is named in a condition; what runs goes on running, and nobody else is touched."""

from __future__ import annotations

from typing import Any

import pytest
from operator_builders import (
    ACCELERATOR_TYPE,
    DEPLOYMENT,
    INFERENCE_POOL,
    WORKLOAD_CLASS,
    Place,
    a_class,
    a_pool,
    a_template,
    an_accelerator,
)

pytestmark = pytest.mark.cluster


def serving(template: dict[str, Any]) -> dict[str, Any]:
    """The `serving` of a pool with a template."""
    return {"template": template, "engine": {"type": "VLLM", "port": 8000}}


def badly_named() -> dict[str, Any]:
    """A template that only the API server finds fault with."""
    template = a_template("--seed=1")
    template["spec"]["containers"][0]["imagePullPolicy"] = "Sometimes"
    return template


FAULTS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "unknown-model": (
        {"model": {"name": "llama-9-900b"}},
        "UnknownModel",
        (
            "spec.model.name",
            '"llama-9-900b"',
            "expected a model of the catalogue",
            ", or spec.model.architecture",
        ),
    ),
    "unknown-accelerator": (
        {"accelerators": [{"type": "l40s"}, {"type": "h100-xl"}]},
        "UnknownAccelerator",
        ("spec.accelerators[1].type", '"h100-xl"', "expected an AcceleratorType", "e.g. h100-sxm"),
    ),
    "too-large": (
        {"model": {"name": "llama-3.1-405b"}, "accelerators": [{"type": "l40s"}]},
        "NoCandidateFits",
        ("no accelerator can serve this pool", "l40s", "GB"),
    ),
    "no-engine": (
        {"serving": serving(a_template(containers=("server", "proxy")))},
        "NoEngineContainer",
        ("spec.serving.template.spec.containers", "expected one container", "name: engine"),
    ),
    "refused": (
        {"serving": serving(badly_named())},
        "TemplateRejected",
        ("the API server refuses", "imagePullPolicy", '"Sometimes"', "supported values"),
    ),
}


def versions(place: Place, pool: str) -> dict[str, tuple[int, str]]:
    """Generation and uid of a pool's Deployments: any change of their specs raises the generation."""
    return {
        one["metadata"]["name"]: (one["metadata"]["generation"], one["metadata"]["uid"])
        for one in place.deployments(pool).values()
    }


def test_a_pool_that_becomes_invalid_is_named_and_goes_on_running_and_recovers(place, operator_in_process):
    pools = list(FAULTS)
    for one in (*pools, "healthy"):
        place.create(a_pool(one), a_class(one))
    op = operator_in_process()
    op.settle(*pools, "healthy")
    before = {one: versions(place, one) for one in pools}

    for one, (change, reason, words) in FAULTS.items():
        place.set_spec(INFERENCE_POOL, one, **change)
        op.until(lambda one=one, reason=reason: place.has("Validated", "False", reason, one),
                 f"{one} is {reason}")  # fmt: skip
        message = place.condition("Validated", one)[2]
        assert f"InferencePool {place.namespace}/{one}" in message or reason == "NoCandidateFits"
        for word in words:
            assert word in message
        assert place.condition("Ready", one)[0] == "False"
        assert place.status(one)["observedGeneration"] == place.pool(one)["metadata"]["generation"]
        assert place.status(one)["plan"]["options"], "what was planned before stays to be read"
    op.advance(2000)
    assert {one: versions(place, one) for one in pools} == before

    place.set_spec(WORKLOAD_CLASS, "healthy", demand={"requestsPerSecond": "30"})
    op.until(lambda: sum(place.replicas("healthy").values()) > 1, "the healthy pool goes on being scaled")

    for one, (change, _, _) in FAULTS.items():
        whole = a_pool(one)["spec"]
        place.set_spec(INFERENCE_POOL, one, **{field: whole[field] for field in change})
    op.settle(*pools)
    assert {one: set(versions(place, one)) for one in pools} == {one: set(before[one]) for one in pools}


def test_a_pool_that_is_invalid_from_the_start_makes_nothing_and_is_mended(place, operator_in_process):
    for one, (change, _, _) in FAULTS.items():
        place.create(a_pool(one, **change), a_class(one))
    place.create(a_pool("healthy"), a_class("healthy"))
    op = operator_in_process()
    for one, (_, reason, _) in FAULTS.items():
        op.until(lambda one=one, reason=reason: place.has("Validated", "False", reason, one), f"{one} is {reason}")
        assert place.deployments(one) == {}
    op.settle("healthy")
    assert op.metric("tidefleet_condition_objects", kind="InferencePool", condition="Validated", status="False") == len(
        FAULTS
    )

    for one in FAULTS:
        place.delete(INFERENCE_POOL, one)
        place.create(a_pool(one))
    op.settle(*FAULTS)


def test_a_monthly_price_given_as_hourly_is_named_and_not_planned_with(place, operator_in_process):
    good, bad = place.unique("good"), place.unique("bad")
    place.create(an_accelerator(good, "3.00"), an_accelerator(bad, "1350"))
    place.create(a_pool(accelerators=[{"type": good}, {"type": bad}]), a_class())
    place.create(a_pool("alone", accelerators=[{"type": bad}]), a_class("alone"))
    op = operator_in_process()
    op.settle()
    assert list(place.replicas()) == [good]

    def verdict(kind: str) -> tuple[str, str, str]:
        found = place.get(ACCELERATOR_TYPE, bad)["status"]["conditions"]
        return next((one["status"], one["reason"], one["message"]) for one in found if one["type"] == kind)

    status, reason, message = verdict("Validated")
    assert (status, reason) == ("False", "PriceImplausible")
    for word in (f"AcceleratorType {bad}", "spec.prices[0].usdPerChipHour", "1350", "expected", "month", "e.g."):
        assert word in message
    op.until(lambda: place.has("Validated", "False", "NoCandidatePriced", "alone"))
    assert place.deployments("alone") == {}

    place.set_spec(ACCELERATOR_TYPE, bad, prices=[{"capacityType": "OnDemand", "usdPerChipHour": "1.85"}])
    op.settle("alone")
    assert verdict("Validated")[0] == "True"


def test_an_accelerator_that_loses_its_price_keeps_what_it_serves(place, operator_in_process):
    mine = place.unique("mine")
    place.create(an_accelerator(mine, "1.00"), a_pool(accelerators=[{"type": mine}, {"type": "l40s"}]), a_class())
    op = operator_in_process()
    op.settle()
    before = versions(place, "chat")

    place.set_spec(ACCELERATOR_TYPE, mine, prices=[])
    op.until(lambda: place.has("PricingFresh", "False", "Unpriced"), str(place.condition("PricingFresh")))
    op.advance(5000)
    op.advance(5000)
    assert versions(place, "chat") == before
    assert "the last one, $1 per chip-hour, is used" in place.condition("PricingFresh")[2]


def test_a_workload_class_of_no_pool_is_named(place, operator_in_process):
    place.create(a_class("nobody"), a_pool(), a_class())
    op = operator_in_process()
    op.settle()

    def reason() -> list[tuple[str, str]]:
        found = place.get(WORKLOAD_CLASS, "nobody").get("status", {}).get("conditions", [])
        return [(one["reason"], one["message"]) for one in found if one["type"] == "Validated"]

    ((word, message),) = reason()
    assert word == "PoolNotFound"
    assert 'spec.poolRef.name is "nobody"' in message

    place.create(a_pool("nobody"))
    op.settle("nobody")
    assert reason()[0][0] == "Valid"


def test_a_template_over_the_limit_is_named(place, operator_in_process):
    huge = a_template()
    huge["metadata"] = {"annotations": {f"note-{number}": "x" * 20_000 for number in range(8)}}
    place.create(a_pool(serving=serving(huge)), a_class())
    op = operator_in_process()
    op.until(lambda: place.has("Validated", "False", "TemplateTooLarge"))
    assert "131072" in place.condition("Validated")[2]
    assert place.list(DEPLOYMENT) == []
