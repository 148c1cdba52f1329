"""Pools that share the power of a site."""

from __future__ import annotations

import pytest
from operator_builders import a_class, a_pool, an_accelerator, tidefleet

from tidefleet.cluster.kinds import INFERENCE_POOL, SITE

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


def test_a_pool_that_moves_starts_no_more_beside_the_old_ones_than_the_site_has_power_for(place, operator_in_process):
    one, other = place.unique("one"), place.unique("other")
    place.create(an_accelerator(one, "2.00"), an_accelerator(other, "2.00"))
    place.create(a_pool(accelerators=[{"type": one}]), a_class(rate=18))
    asked: list[int] = []
    op = operator_in_process(before_write=lambda _: asked.append(sum(place.replicas().values())))
    op.settle()
    needed = place.replicas()[one]
    assert needed >= 4

    name = place.unique("hall")
    spec = {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L40S"}, "powerLimitWatts": 100_000}
    place.create({"kind": "Site", "metadata": {"name": name}, "spec": spec})
    op.until(lambda: (place.get(SITE, name) or {}).get("status", {}).get("watts"), "the site's power in its status")
    op.advance(900)
    chips = needed * 350  # those that may not be used any more count at full load
    place.merge(SITE, name, {"spec": {"powerLimitWatts": chips + 2 * 350}})  # room for two or three beside them
    place.set_spec(INFERENCE_POOL, "chat", accelerators=[{"type": other}])

    op.until(lambda: "that are being replaced" in place.condition("Reconciling")[2], "some that wait", step=10)
    assert "are not enough for them beside" in place.status()["plan"]["reason"]
    assert 0 < place.replicas()[other] < needed
    op.until(lambda: place.replicas() == {one: 0, other: needed}, "the old ones are gone", step=10)
    op.settle(step=10)
    assert max(asked) < 2 * needed


def test_electricity_of_owned_chips_is_in_a_pools_cost_and_explained(place, operator_in_process):
    own = place.unique("own")
    owned = [{"capacityType": "Owned", "usdPerChipHour": "0.50"}]
    place.create(an_accelerator(own, prices=owned))
    place.create(a_pool(accelerators=[{"type": own, "capacityTypes": ["Owned"]}]), a_class(rate=12))
    op = operator_in_process()
    op.settle()
    replicas = place.replicas()[own]
    assert float(place.status()["plan"]["usdPerHour"]) == pytest.approx(0.5 * replicas)

    name = place.unique("hall")
    tariff = [{"usdPerKilowattHour": "0.50", "timeZone": "Europe/Berlin"}]
    spec = {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L40S"}, "pue": "1.5", "tariff": tariff}
    place.create({"kind": "Site", "metadata": {"name": name}, "spec": spec})
    op.until(lambda: "are electricity" in place.status()["plan"]["reason"], "electricity in the plan", step=20)
    assert 0.5 * replicas < float(place.status()["plan"]["usdPerHour"]) <= (0.5 + 0.5 * 1.5 * 0.35) * replicas * 1.05
    code, said = tidefleet("explain", f"{place.namespace}/chat", "--kubeconfig", place.cluster.kubeconfig)
    assert code == 0
    assert "are electricity" in said

    tariff[0]["usdPerKilowattHour"] = "50"  # cents
    place.merge(SITE, name, {"spec": {"tariff": tariff}})
    op.until(lambda: "are electricity" not in place.status()["plan"]["reason"], "the tariff is not used", step=20)
    (told,) = [one for one in place.get(SITE, name)["status"]["conditions"] if one["type"] == "Validated"]
    assert (told["status"], told["reason"]) == ("False", "PriceImplausible")
    assert "spec.tariff[0].usdPerKilowattHour" in told["message"]
