"""Flips whose way out is blocked: they are rolled back, and whoever served serves on, at every write."""

from __future__ import annotations

import pytest
from operator_builders import a_class

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


def test_a_node_with_a_replica_is_lent_by_hand_and_comes_back(flip_ground, place):
    ground = flip_ground()
    place.create(ground.a_pool(), a_class(rate=1))
    ground.start()
    ground.serve(1)
    (there,) = ground.serving_on()
    ground.ask(there, "training")
    ground.reaches("Training", there, step=5.0)
    ground.ask(there, "serving")
    ground.reaches("Serving", there, step=20.0)
    assert ground.sound()
