"""Work that may wait, fitted into a pool's day."""

import numpy as np
from controller_builders import a_class

from tidefleet.controller.waiting import Waiting
from tidefleet.planning.from_api import class_demands

MIDNIGHT = 20_000 * 86_400.0
NIGHT, DAY = slice(0, 28), slice(28, 88)


def test_replicas_are_added_at_night_for_a_pool_that_its_day_fills() -> None:
    one = a_class("batch", demand={"volumeTokensPerDay": 400_000_000, "deadlineSeconds": 86_400})
    steady = np.full(192, 200.0)
    steady[DAY] = steady[96:][DAY] = 1000.0  # all of ten replicas
    work = Waiting(unit=100.0)
    work.schedule([one], class_demands([a_class()], 1.0), steady, now=MIDNIGHT, least=0, most=10)
    assert work.plan is not None
    assert work.plan.missing.sum() == 0.0
    assert work.units > 0
    assert work.plan.extra[NIGHT].max() > 0.0
    assert work.plan.extra[DAY].max() == 0.0
    assert (steady + work.plan.extra <= 1000.0 + 1e-6).all()
