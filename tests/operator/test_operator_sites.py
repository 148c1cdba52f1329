"""Pools that share the power of a site."""

from __future__ import annotations

import pytest
from operator_builders import a_class, a_pool, an_accelerator

from tidefleet.cluster.kinds import SITE

pytestmark = pytest.mark.cluster


def test_pools_share_the_power_of_a_site_and_the_rest_goes_elsewhere(place, operator_in_process):
    one = place.unique("one")
    place.create(an_accelerator(one, "0.50"))
    accelerators = [{"type": one}, {"type": "h100-sxm"}]
    for name in ("chat", "code"):
        place.create(a_pool(name, accelerators=accelerators), a_class(name, rate=12))
    op = operator_in_process()
    op.settle()
    free = {name: place.replicas(name) for name in ("chat", "code")}
    assert free["chat"][one] >= 2  # alone, both take the cheap one
    assert free["code"].keys() == {one}

    name = place.unique("hall")
    spec = {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L40S"}, "powerLimitWatts": 100_000, "pue": "1.2"}
    place.create({"kind": "Site", "metadata": {"name": name}, "spec": spec})
    op.until(lambda: (place.get(SITE, name) or {}).get("status", {}).get("watts"), "the site's power in its status")
    drawn = place.get(SITE, name)["status"]["watts"]
    assert not place.status()["plan"].get("shadowPrices")

    place.merge(SITE, name, {"spec": {"powerLimitWatts": int(0.6 * drawn)}})  # room for one of the two pools

    def shared() -> bool:
        said = [place.status(pool)["plan"] for pool in ("chat", "code")]
        return any("kW at" in each["what"] for plan in said for each in plan.get("shadowPrices", ()))

    op.until(shared, "a solution of the fleet")
    planned = [each for pool in ("chat", "code") for each in place.status(pool)["plan"]["options"]]
    here = sum(each["replicas"] for each in planned if each["accelerator"] == one)
    assert 0 < here <= 0.6 * (free["chat"][one] + free["code"][one])
    assert any(each["accelerator"] == "h100-sxm" and each["replicas"] for each in planned)
