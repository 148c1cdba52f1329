"""What people ask for with `tidefleet flip` and `tidefleet pause`, carried out on the real API server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flip_ground import journal, lending, nodes, of_phase, phases
from operator_builders import Place, a_class, a_pool, tidefleet

from tidefleet.cluster.kinds import NODE
from tidefleet.controller.status import timestamp

pytestmark = pytest.mark.cluster

REQUEST = "tidefleet.io/flip-request"


def cli(place: Place, *arguments: str) -> tuple[int, str]:
    """Run a command against the place's cluster: its status, and all it printed."""
    return tidefleet(*arguments, "--kubeconfig", place.cluster.kubeconfig)


def named(place: Place, name: str) -> dict[str, Any]:
    """A node by its name."""
    return next(one for one in nodes(place) if one["metadata"]["name"] == name)


def phase_of(place: Place, name: str) -> str:
    """Where a node stands."""
    return str(journal(named(place, name)).get("phase", "Serving"))


def test_a_node_trains_and_serves_again_by_hand_outside_of_any_window(place, clock, flipping_operator, watcher):
    closed = lending(clock.now(), begin=8.0, end=10.0)
    place.create(a_pool(accelerators=[{"type": "l40s"}], flipping=closed), a_class(rate=6))
    op = flipping_operator()
    op.settle()
    watcher.required[place.namespace, "chat"] = sum(place.replicas().values())
    name = nodes(place)[-1]["metadata"]["name"]
    status, said = cli(place, "flip", name, "--to", "training", "--until", "4h")
    assert status == 0, said
    assert "against it" not in said
    op.until(lambda: phase_of(place, name) == "Training", f"{name} on loan", step=10.0)
    assert phases(place)["Training"] == 1
    assert REQUEST not in named(place, name)["metadata"]["annotations"]
    assert journal(named(place, name))["by"]
    answers = [one["note"] for one in place.events("FlipRequested", about=name)]
    assert [one for one in answers if one.startswith(f"{name}: goes to training, as ")]

    op.advance(30.0)
    status, said = cli(place, "flips", f"{place.namespace}/chat", "-o", "json", "--at", timestamp(clock.now()))
    (day,) = json.loads(said)
    unit = next(one for one in day["units"] if one["name"] == name)
    assert unit["phase"] == "Training"
    assert any(span["phase"] == "Training" and not span["planned"] for span in unit["spans"])
    assert day["loanedNodes"] == 1

    status, said = cli(place, "flip", name, "--to", "training")
    assert status == 1
    assert "is on loan already" in said
    status, said = cli(place, "flip", name, "--to", "serving")
    assert status == 0, said
    op.until(lambda: phase_of(place, name) == "Serving", f"{name} back", step=10.0)
    assert not named(place, name)["spec"].get("taints")
    assert watcher.breaches == []


def test_what_speaks_against_it_is_said_at_once_and_by_the_operator_too(place, clock, flipping_operator, watcher):
    place.create(a_pool(accelerators=[{"type": "l40s"}], flipping=lending(clock.now(), begin=8.0)), a_class(rate=6))
    op = flipping_operator()
    op.settle()
    name = nodes(place)[-1]["metadata"]["name"]
    mark = {"metadata": {"annotations": {"tidefleet.io/do-not-flip": "true"}}}
    place.api.merge(place.path(NODE, name), mark)
    words = f"node {name} is marked tidefleet.io/do-not-flip"
    status, said = cli(place, "flip", name, "--to", "training", "--dry-run")
    assert (status, words in said) == (1, True)
    status, said = cli(place, "flip", name, "--to", "training")
    assert (status, f"against it: {words}" in said) == (0, True)
    op.until(lambda: REQUEST not in named(place, name)["metadata"]["annotations"], "an answer", step=10.0)
    (answer,) = [one for one in place.events("FlipRefused", about=name) if words in one["note"]]
    assert answer["type"] == "Warning"
    assert phase_of(place, name) == "Serving"
    assert watcher.breaches == []


def test_a_pause_of_the_pool_calls_everything_back_and_says_who_asked(place, clock, flipping_operator, watcher):
    place.create(a_pool(accelerators=[{"type": "l40s"}], flipping=lending(clock.now())), a_class(rate=6))
    op = flipping_operator()
    op.settle()
    op.until(lambda: phases(place)["Training"] >= 2, "two nodes on loan", step=15.0)
    status, said = cli(place, "pause", f"{place.namespace}/chat", "--scope", "RecallAll", "--reason", "launch day")
    assert status == 0, said
    op.until(lambda: phases(place)["Serving"] == 10, "all nodes back", step=15.0)
    assert place.condition("Flipping")[:2] == ("False", "Paused")
    assert "launch day" in json.dumps(place.status()["conditions"])
    for _ in range(10):
        op.advance(60.0)
    assert phases(place)["Serving"] == 10
    status, said = cli(place, "pause", f"{place.namespace}/chat", "--scope", "None")
    assert status == 0, said
    op.until(lambda: of_phase(place, "Training"), "lent again", step=300.0)
    assert watcher.breaches == []


def test_the_load_of_the_last_hours_is_told_though_no_process_remembers_it(place, clock, flipping_operator):
    place.create(a_pool(accelerators=[{"type": "l40s"}], flipping=lending(clock.now(), begin=8.0)), a_class(rate=6))
    op = flipping_operator()
    op.settle()
    for _ in range(6):
        op.read_engines()
        op.advance(900.0)
    before = place.status()["flipping"]["neededBefore"]
    assert len(before) >= 5
    op.stop()
    op = flipping_operator()
    op.settle()
    op.advance(900.0)
    after = place.status()["flipping"]["neededBefore"]
    assert after[: len(before)] == before
    status, said = cli(place, "flips", f"{place.namespace}/chat", "-o", "json", "--at", timestamp(clock.now()))
    (day,) = json.loads(said)
    assert [one for one in day["needed"][:96] if one is not None][: len(before)] == before
