"""Rollouts follow their trainer: what is asked for, what is owed, and what is said of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from controller_builders import a_class

from tidefleet.controller.trainers import trainers_of, with_trainer
from tidefleet.controller.waiting import Waiting
from tidefleet.planning.from_api import class_demands

DAY, NOON, SLOT = 86_400.0, 20_000 * 86_400.0 + 43_200.0, 900.0
VOLUME = 864_000_000  # 10,000 tokens/s


def rollouts(share: float | None = None, **trainer: Any) -> Any:
    """A class that follows the JobSet grpo, whose trainer runs so far."""
    named = {"kind": "JobSet", "name": "grpo", **trainer}
    demand = {"volumeTokensPerDay": VOLUME, "deadlineSeconds": 1800, "whileTraining": named}
    one = a_class("rollouts", demand=demand)
    return one if share is None else with_trainer(one, SimpleNamespace(share=share, words=""))  # type: ignore[arg-type]


def a_pod(one: Any, phase: str = "Running", *, job: str = "grpo", deleting: bool = False, namespace: str = "") -> Any:
    labels = {"jobset.sigs.k8s.io/jobset-name": job}
    return SimpleNamespace(namespace=namespace or one.namespace, labels=labels, phase=phase, deleting=deleting)


def test_a_trainer_counts_by_its_running_pods_of_all_that_it_has_at_full_strength():
    one = rollouts()
    pods = [
        a_pod(one), a_pod(one), a_pod(one, "Pending"), a_pod(one, deleting=True),
        a_pod(one, "Succeeded"), a_pod(one, job="other"), a_pod(one, namespace="elsewhere"),
    ]  # fmt: skip
    found = trainers_of([one, a_class()], pods)
    assert found.keys() == {"rollouts"}
    assert found["rollouts"].share == 0.5
    assert found["rollouts"].words == "rollouts follows JobSet grpo, of which 2 of 4 pods run"
    assert trainers_of([rollouts(pods=8)], pods)["rollouts"].share == 0.25
    assert trainers_of([rollouts(pods=1)], pods)["rollouts"].share == 1.0
    assert trainers_of([one], [])["rollouts"].share == 0.0
    assert "no pod runs" in trainers_of([one], [])["rollouts"].words


def planned(work: Waiting, one: Any, now: float) -> float:
    """Tokens per second that are worked off for it now, where ten replicas are idle."""
    mix = class_demands([a_class()], 1.0)
    steady = np.zeros(192)
    work.unit = 100.0
    if work.is_due([one], now):
        work.schedule([one], mix, steady, now=now, least=10, most=10)
    assert work.plan is not None
    return work.plan.rate_at("rollouts", now) / work._per_token["rollouts"]


def test_what_is_worked_off_follows_the_trainer_from_pass_to_pass():
    work = Waiting()
    work.progress([rollouts(1.0)], None, NOON)
    assert planned(work, rollouts(1.0), NOON) == pytest.approx(10_000, rel=0.01)
    work.progress([rollouts(0.5)], None, NOON + 60)
    half = planned(work, rollouts(0.5), NOON + 60)
    assert half == pytest.approx(5_000, rel=0.1)
    work.progress([rollouts(0.0)], None, NOON + 120)
    assert planned(work, rollouts(0.0), NOON + 120) < 500, "a trainer that is suspended asks for nothing"


def test_what_a_trainer_is_owed_grows_no_further_than_its_deadline():
    work = Waiting()
    work.progress([rollouts(1.0)], None, NOON)
    for step in range(1, 100):
        work.progress([rollouts(1.0)], None, NOON + step * SLOT)
    assert work.owed["rollouts"] == pytest.approx(10_000 * 1800)
    assert planned(work, rollouts(1.0), NOON + 99 * SLOT) > 10_000, "what is owed comes on top"


def test_a_pool_with_nothing_but_rollouts_asks_for_nothing_while_nobody_trains():
    assert sum(one.share for one in class_demands([rollouts(0.0)])) == pytest.approx(1.0)
