"""Classes that call each other: demand that one declares is demand on another's pool."""

from __future__ import annotations

import pytest
from operator_builders import WORKLOAD_CLASS, a_class, a_pool

pytestmark = pytest.mark.cluster


def validated(place, name: str) -> tuple[str, str, str]:
    """The condition Validated of a class."""
    found = place.get(WORKLOAD_CLASS, name)
    conditions = (found or {}).get("status", {}).get("conditions", ())
    return next(
        ((c["status"], c["reason"], c["message"]) for c in conditions if c["type"] == "Validated"), ("", "", "")
    )


def test_declared_demand_of_an_agent_makes_replicas_of_the_pool_it_calls(place, operator_in_process):
    for name, rate in (("agent", 6), ("embed", 1)):
        place.create(a_pool(name, accelerators=[{"type": "l40s"}]), a_class(name, rate=rate))
    op = operator_in_process()
    op.settle("agent", "embed")
    before = place.replicas("embed")["l40s"]

    place.set_spec(WORKLOAD_CLASS, "agent", callsPerTask="2", calls=[{"class": "embed", "perTask": "5"}])
    op.until(lambda: place.replicas("embed")["l40s"] > before, "replicas for the calls")
    assert "15 requests/s are calls of agent" in place.condition("DemandKnown", "embed")[2]
    op.settle("agent", "embed", step=10)
    called = place.replicas("embed")["l40s"]

    place.set_spec(WORKLOAD_CLASS, "embed", calls=[{"class": "agent", "perTask": "1"}])
    op.until(lambda: validated(place, "agent")[1] == "CallCycle", "the circle is told", step=10)
    assert validated(place, "embed")[:2] == ("False", "CallCycle")
    assert "agent -> embed -> agent" in validated(place, "agent")[2]
    assert place.replicas("agent")["l40s"] >= 1
    assert place.replicas("embed")["l40s"] == called, "what runs stays for the scale-down window"
    place.merge(WORKLOAD_CLASS, "embed", {"spec": {"calls": None}})
    op.until(lambda: validated(place, "agent")[0] == "True", "mended", step=10)
    assert place.replicas("embed")["l40s"] == called
