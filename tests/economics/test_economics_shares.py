"""The bill by component."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidefleet.economics.shares import cost_share

amounts = st.floats(0.0, 1e6)


def test_a_bill_is_split_by_the_seconds_that_each_part_set_the_pace() -> None:
    found = cost_share(
        rent_usd=8.0, utilisation=0.5, compute_seconds=1.0, memory_seconds=2.0, communication_seconds=1.0,
        power_usd=1.0, storage_usd=0.5, network_usd=0.5,
    )  # fmt: skip
    assert found.as_dict() == pytest.approx(
        {"compute": 0.1, "hbm": 0.2, "network": 0.15, "storage": 0.05, "power": 0.1, "idle": 0.4}
    )


def test_overhead_counts_as_compute_and_a_full_replica_has_no_idle_share() -> None:
    found = cost_share(rent_usd=1.0, utilisation=1.0, compute_seconds=1.0, memory_seconds=0.0, overhead_seconds=3.0)
    assert (found.compute, found.idle) == (pytest.approx(1.0), 0.0)


@given(
    rent=st.floats(1e-6, 1e6), utilisation=st.floats(1e-6, 1.0),
    seconds=st.lists(amounts, min_size=4, max_size=4), usd=st.lists(amounts, min_size=3, max_size=3),
)  # fmt: skip
def test_shares_sum_to_one_and_none_is_negative(
    rent: float, utilisation: float, seconds: list[float], usd: list[float]
) -> None:
    names = ("compute_seconds", "memory_seconds", "communication_seconds", "overhead_seconds")
    given_seconds = {**dict(zip(names, seconds, strict=True)), "memory_seconds": seconds[1] + 1e-3}
    found = cost_share(
        rent_usd=rent,
        utilisation=utilisation,
        **given_seconds,
        power_usd=usd[0],
        storage_usd=usd[1],
        network_usd=usd[2],
    )
    assert sum(found.as_dict().values()) == pytest.approx(1.0)
    assert min(found.as_dict().values()) >= 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e300, None, "1"])
@pytest.mark.parametrize(
    "name",
    [
        "rent_usd", "utilisation", "compute_seconds", "memory_seconds", "communication_seconds", "overhead_seconds",
        "power_usd", "storage_usd", "network_usd",
    ],
)  # fmt: skip
def test_hostile_amounts_are_refused_by_name(name: str, value: float) -> None:
    good = {"rent_usd": 1.0, "utilisation": 0.5, "compute_seconds": 1.0, "memory_seconds": 1.0}
    with pytest.raises(ValueError, match=name):
        cost_share(**{**good, name: value})


def test_a_bill_of_nothing_and_time_of_nobody_are_refused() -> None:
    with pytest.raises(ValueError, match="the bill is 0"):
        cost_share(rent_usd=0.0, utilisation=0.5, compute_seconds=1.0, memory_seconds=1.0)
    with pytest.raises(ValueError, match="all seconds are 0"):
        cost_share(rent_usd=1.0, utilisation=0.5, compute_seconds=0.0, memory_seconds=0.0)
    with pytest.raises(ValueError, match="utilisation"):
        cost_share(rent_usd=1.0, utilisation=0.0, compute_seconds=1.0, memory_seconds=1.0)
