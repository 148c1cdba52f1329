"""What owners may get wrong about loans: said in a condition and an Event, and nothing that serves is touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from flip_demand import QUICK, a_lender, lent, on, pass_by
from flip_faults import Ground
from flip_ground import window
from operator_builders import ACCELERATOR_TYPE, INFERENCE_POOL, a_class, an_accelerator

from localcluster.api import ApiError

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


PRODUCT = "nvidia.com/gpu.product"


def set_flipping(ground: Ground, **more: Any) -> None:
    """Replace fields of the pool's `flipping`."""
    ground.place.merge(INFERENCE_POOL, "chat", {"spec": {"flipping": more}})


def test_windows_that_make_no_sense_are_refused_named_or_joined_and_what_is_lent_stays_whole(flip_ground, place, clock):
    ground = flip_ground(nodes=4)
    pool = a_lender(ground, flipping=ground.flipping())
    now = clock.now()
    for windows, words in (
        ([], "at least one window"),
        ([window(now, 1.0, 1.0)], "another time than start"),
        ([window(now, 1.0, 2.0) | {"start": "25:00"}], "start"),
    ):
        wrong = copy.deepcopy(pool)
        wrong["spec"]["flipping"]["windows"] = windows
        with pytest.raises(ApiError) as refused:
            place.create(wrong)
        assert refused.value.status == 422
        assert words in str(refused.value)

    two = [window(now, -2.0, 0.5), window(now, 0.25, 8.0)]  # either alone would be too short, or not open yet
    pool["spec"]["flipping"]["windows"] = two
    place.create(pool, a_class(rate=1))
    ground.start(flipping=QUICK)
    ground.serve(1)
    lent(ground, 1)
    (name,) = on(ground, "Training")
    index = ground.names.index(name)
    assert ground.journal(index)["until"] > now + 7 * 3600.0

    set_flipping(ground, windows=[two[0], two[1] | {"timeZone": "Mars/Olympus"}])
    ground.until(lambda: place.condition("Validated")[0] == "False", "the zone is named", step=20.0)
    assert "Mars/Olympus" in place.condition("Validated")[2]
    assert "spec.flipping.windows[1].timeZone" in place.condition("Validated")[2]
    ground.until(lambda: [one for one in place.events("Degraded") if "Mars/Olympus" in one["note"]], "an Event")
    before = place.replicas()
    ground.reaches("Serving", index, step=20.0)  # what lends no more has its nodes back
    assert "its spec is invalid" in ground.events("Recalled", index)[0]
    pass_by(ground, 1800.0, step=300.0)
    assert on(ground, "Serving") == ground.names
    assert place.replicas() == before

    set_flipping(ground, windows=[window(now, -1.0, 8.0)])
    ground.until(lambda: place.condition("Validated")[0] == "True", "it is mended", step=20.0)
    lent(ground, 1)
    assert ground.sound()


def test_a_queue_that_is_missing_or_cannot_be_reached_is_said_and_lends_nothing(flip_ground, place):
    ground = flip_ground(nodes=4)
    flipping = ground.flipping(begin=-1.0, end=10.0)
    place.create(a_lender(ground, flipping={**flipping, "training": None}), a_class(rate=1))
    ground.start(flipping=QUICK)
    ground.serve(1)
    pass_by(ground, 1200.0, step=300.0)
    assert place.has("Flipping", "False", "QueueMissing")
    assert "spec.flipping.training is missing" in place.condition("Flipping")[2]
    set_flipping(ground, training={"queue": {"kind": "Kueue", "clusterQueue": "night"}})
    pass_by(ground, 1200.0, step=300.0)
    assert place.has("Flipping", "False", "KueueAbsent"), place.condition("Flipping")
    assert "kind: Suspend" in place.condition("Flipping")[2]
    told = [one["note"] for one in place.events("Degraded")]
    assert [one for one in told if one.startswith("Flipping=False (QueueMissing): ")]
    assert [one for one in told if one.startswith("Flipping=False (KueueAbsent): ")]
    assert on(ground, "Serving") == ground.names
    set_flipping(ground, training=None)
    set_flipping(ground, training=flipping["training"])
    lent(ground, 1)
    assert ground.sound()


def test_a_type_without_a_price_lends_by_its_windows_and_never_stops_the_rest(flip_ground, place):
    ground = flip_ground(nodes=4)
    mine = place.unique("mine")
    with pytest.raises(ApiError):
        place.create(an_accelerator(place.unique("negative"), "-1.00"))
    place.made.clear()
    place.create(an_accelerator(mine, "1.00", nodeSelector={PRODUCT: mine}))
    for index in range(4):
        ground.mark(index, labels={PRODUCT: mine})
    flipping = ground.flipping(begin=-1.0, end=10.0)
    flipping["training"]["valueUsdPerChipHour"] = "0.80"
    place.create(a_lender(ground, accelerators=[{"type": mine}], flipping=flipping), a_class(rate=1))
    ground.start(flipping=QUICK)
    ground.serve(1)
    lent(ground, 1)
    assert "savesUsd" in place.status()["flipping"]["worth"]
    place.set_spec(ACCELERATOR_TYPE, mine, prices=[])
    ground.until(lambda: place.has("PricingFresh", "False", "Unpriced"), "it is said", step=20.0)
    lent(ground, 2)
    assert sum(place.ready_replicas().values()) == 1
    assert ground.sound()
