"""The upstream InferencePool of a pool: made on request, kept, renamed and removed; somebody else's is left alone."""

from __future__ import annotations

import pytest
from operator_builders import INFERENCE_POOL, a_class, a_pool

from tidefleet.cluster.kinds import UPSTREAM_POOL
from tidefleet.controller import process

pytestmark = pytest.mark.cluster
CREATE = {"inferencePool": {"creation": "Create"}}


@pytest.fixture(autouse=True)
def looked_at_often(upstream, monkeypatch):
    """What exists is looked at often."""
    monkeypatch.setattr(process, "LOOK_AROUND_SECONDS", 0.2)


def made(place):
    return {one["metadata"]["name"]: one["spec"] for one in place.list(UPSTREAM_POOL)}


def test_it_is_made_mended_renamed_and_removed_with_the_pool(place, operator_in_process):
    place.create(a_pool(gateway=CREATE, deletionPolicy="Delete"), a_class(rate=2))
    op = operator_in_process()
    op.until(lambda: "chat" in made(place))
    spec = made(place)["chat"]
    assert spec["selector"]["matchLabels"] == {"tidefleet.io/pool": "chat", "tidefleet.io/routable": "true"}
    assert [one["number"] for one in spec["targetPorts"]] == [8000]
    assert (spec["endpointPickerRef"]["name"], spec["endpointPickerRef"]["failureMode"]) == (
        "tidefleet-router",
        "FailOpen",
    )

    path = place.path(UPSTREAM_POOL, "chat")
    place.api.merge(path, {"spec": {"endpointPickerRef": {"name": "somebody-elses"}}})
    op.until(lambda: made(place)["chat"]["endpointPickerRef"]["name"] == "tidefleet-router")

    place.set_spec(INFERENCE_POOL, "chat", gateway={"inferencePool": {"creation": "Create", "name": "other"}})
    op.until(lambda: set(made(place)) == {"other"})
    op.settle()
    version = place.list(UPSTREAM_POOL)[0]["metadata"]["resourceVersion"]
    op.advance(200)
    assert place.list(UPSTREAM_POOL)[0]["metadata"]["resourceVersion"] == version, "it is written again and again"

    place.api.delete(place.path(INFERENCE_POOL, "chat"))
    op.until(lambda: made(place) == {})


def test_it_is_removed_when_it_is_not_asked_for_any_more(place, operator_in_process):
    place.create(a_pool(gateway=CREATE), a_class(rate=2))
    op = operator_in_process()
    op.until(lambda: "chat" in made(place))
    place.set_spec(INFERENCE_POOL, "chat", gateway={"inferencePool": {"creation": "None"}})
    op.until(lambda: made(place) == {})


def test_somebody_elses_object_is_left_alone_and_told(place, operator_in_process):
    theirs = {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "chat", "namespace": place.namespace},
        "spec": {
            "selector": {"matchLabels": {"app": "theirs"}},
            "targetPorts": [{"number": 9000}],
            "endpointPickerRef": {"name": "theirs", "port": {"number": 9002}},
        },
    }
    place.api.create(place.path(UPSTREAM_POOL), theirs)
    place.create(a_pool(gateway=CREATE), a_class(rate=2))
    op = operator_in_process()
    op.until(lambda: place.events("GatewayPoolTaken"))
    op.settle()
    assert made(place)["chat"]["selector"]["matchLabels"] == {"app": "theirs"}
    assert place.condition("Ready")[0] == "True"
