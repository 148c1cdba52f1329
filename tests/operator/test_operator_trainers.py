"""Rollouts on a pool follow the training job that uses them up."""

from __future__ import annotations

import pytest
from operator_builders import a_class, a_pool

from tidefleet.cluster.kinds import JOB

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


def test_replicas_for_rollouts_come_and_go_with_the_trainer(place, operator_in_process):
    trainer = {"kind": "Job", "name": "grpo", "pods": 2}
    demand = {"volumeTokensPerDay": 1_200_000_000, "deadlineSeconds": 600, "whileTraining": trainer}
    place.create(a_pool(accelerators=[{"type": "l40s"}]), a_class(demand=demand))
    op = operator_in_process()
    op.settle()
    assert sum(place.replicas().values()) == 1
    assert "chat follows Job grpo, of which 0 of 2 pods run" in place.condition("DemandKnown")[2]

    pod = {"restartPolicy": "Never", "containers": [{"name": "train", "image": "train"}]}
    labels = {"tidefleet.io/simulated-training": "true"}
    spec = {"parallelism": 2, "completions": 2, "template": {"metadata": {"labels": labels}, "spec": pod}}
    place.api.create(
        place.path(JOB), {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "grpo"}, "spec": spec}
    )
    op.until(lambda: "2 of 2 pods run" in place.condition("DemandKnown")[2], "it trains", step=1.0)
    op.until(lambda: sum(place.replicas().values()) > 1 and place.settled(), "rollouts are served", step=5.0)
    most = sum(place.replicas().values())

    place.merge(JOB, "grpo", {"spec": {"suspend": True}})
    op.until(lambda: sum(place.replicas().values()) == 1, "they are let go", step=60.0)
    assert most > 1
    assert "0 of 2 pods run" in place.condition("DemandKnown")[2]
