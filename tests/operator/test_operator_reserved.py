"""Reserved nodes of the cluster are used first, since they are paid for either way."""

from __future__ import annotations

import pytest
from operator_builders import ACCELERATOR_TYPE, a_class, a_pool, an_accelerator

pytestmark = pytest.mark.cluster


def test_reserved_chips_that_are_owed_for_a_term_are_used_before_cheaper_ones(place, operator_in_process):
    own = place.unique("own")
    here = {"nvidia.com/gpu.product": "NVIDIA-L40S"}
    term = {"capacityType": "Reserved", "usdPerChipHour": "1.50", "nodeSelector": here}
    prices = [{"capacityType": "OnDemand", "usdPerChipHour": "1.00"}, term]
    place.create(an_accelerator(own, prices=prices))
    place.create(a_pool(accelerators=[{"type": own, "capacityTypes": ["OnDemand", "Reserved"]}]), a_class(rate=6))
    op = operator_in_process()
    op.settle()

    def paid() -> set[str]:
        return {one["capacityType"] for one in place.status()["plan"]["options"] if one["replicas"]}

    assert paid() == {"OnDemand"}
    term["minimumTermDays"] = 365
    place.set_spec(ACCELERATOR_TYPE, own, prices=prices)
    op.advance(900)
    op.until(lambda: paid() == {"Reserved"}, "the reserved chips are planned", step=20)
    assert "are owed for reserved chips in any case" in place.status()["plan"]["reason"]
