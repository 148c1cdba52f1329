"""What the schedule may call back before its time, and what budgets leave of that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tidefleet.api import InferencePool
from tidefleet.cluster import records
from tidefleet.controller.flips.outlook import recalls_allowed
from tidefleet.controller.flips.units import Unit
from tidefleet.flipping.journal import Journal
from tidefleet.flipping.lending import Lender, LendingMemory, LoanPlan, Needs, Round
from tidefleet.flipping.observation import Observation, Recall
from tidefleet.flipping.phase import Phase

NOW, LATER = 1_000_000.0, 1_010_000.0


def a_unit(name: str, phase: Phase) -> Unit:
    """One node of one chip."""
    node = records.node({"metadata": {"name": name, "uid": name, "labels": {}}, "spec": {}, "status": {}})
    journal = Journal(
        epoch=1, phase=phase, since=NOW - 5000.0, unit=name, members=(name,), pool="prod/chat", until=LATER
    )
    return Unit(name=name, nodes=(node,), accelerator="l40s", resource="nvidia.com/gpu", chips=1, journal=journal)


def a_round(units: list[Unit], *, loans: int, needed: int, recalls: tuple[int, str]) -> Round:
    """A pass in which the schedule lends so many nodes, and serving needs so many."""
    return Round(
        accelerator="l40s",
        units=units,
        seen={one.name: Observation() for one in units},
        needs=Needs(nodes=needed),
        plan=LoanPlan(loans=loans, ends=(LATER,) * loans, why="the load rises"),
        lenders=[Lender(pool="prod/chat", queue="Suspend")],
        allowed=4,
        held_by="",
        recalls=recalls,
        requests={},
        memory=LendingMemory(),
        recall_order=lambda away, back: [(one.name, "no job") for one in away[:back]],
        now=NOW,
    )


FLEET = [a_unit("home", Phase.SERVING), *(a_unit(f"lent-{index}", Phase.TRAINING) for index in range(3))]


@pytest.mark.parametrize(
    ("needed", "allowed", "called"),
    [(1, 3, 3), (1, 1, 1), (1, 0, 0), (3, 0, 2)],
    ids=["no budget", "one at once", "none", "what serving needs comes all the same"],
)
def test_budgets_limit_what_the_schedule_calls_back_early_and_never_what_serving_needs(needed, allowed, called):
    decision = a_round(FLEET, loans=0, needed=needed, recalls=(allowed, "budgets[0] (1 node at once)")).decide()
    assert sum(isinstance(one, Recall) for one in decision.wishes.values()) == called
    held = [one for one in decision.blocked if "calls them back" in one.why]
    assert bool(held) == (called < 3)
    assert all("budgets[0]" in one.why and one.unit == f"{3 - called} nodes of l40s" for one in held)


def test_nodes_on_their_way_home_use_up_the_recalls_of_a_budget():
    budgets = [{"reasons": ["Recall"], "nodes": 1}]
    training = {"queue": {"kind": "Suspend", "selector": {"matchLabels": {"a": "b"}}}}
    window = {"start": "22:00", "end": "06:00", "timeZone": "UTC"}
    pool = InferencePool.model_validate(
        {
            "apiVersion": "tidefleet.io/v1alpha1",
            "kind": "InferencePool",
            "metadata": {"name": "chat", "namespace": "prod"},
            "spec": {
                "model": {"name": "llama-3.3-70b"},
                "serving": {"workloads": [{"name": "chat", "accelerator": "l40s", "chipsPerReplica": 1}]},
                "flipping": {"policy": "Schedule", "windows": [window], "training": training, "budgets": budgets},
            },
        }
    )
    assert recalls_allowed(FLEET, [pool], NOW)[0] == 1
    home = replace(FLEET[1], journal=replace(FLEET[1].journal, phase=Phase.WARMING))
    allowed, held_by = recalls_allowed([FLEET[0], home, *FLEET[2:]], [pool], NOW)
    assert allowed == 0
    assert "budgets[0]" in held_by
