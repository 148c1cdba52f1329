"""The cheapest cover against every cover there is, on instances small enough to try them all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidefleet.planning import cover
from tidefleet.planning.cover import Item, cheapest_cover, lower_bound


@dataclass(frozen=True)
class Instance:
    items: Sequence[Item]
    demand: float
    spare: int = 0
    minimum: int = 0
    maximum: int = 6
    caps: Mapping[str, int] = field(default_factory=dict)
    firm_share: float = 0.0

    def solved(self) -> cover.Cover | None:
        return cheapest_cover(
            self.items,
            self.demand,
            spare=self.spare,
            minimum=self.minimum,
            maximum=self.maximum,
            type_caps=self.caps,
            firm_demand=self.firm_share * self.demand,
        )

    def is_cover(self, counts: Sequence[int]) -> bool:
        """The constraints as they are written in the module, one after the other."""
        if not self.minimum <= sum(counts) <= self.maximum:
            return False
        if any(n % i.multiple for n, i in zip(counts, self.items, strict=True)):
            return False
        for name, cap in self.caps.items():
            if sum(n * i.chips for n, i in zip(counts, self.items, strict=True) if i.type_name == name) > cap:
                return False
        if self.demand <= 0:
            return True
        firm = sum(n * i.coverage for n, i in zip(counts, self.items, strict=True) if i.firm)
        if firm < self.firm_share * self.demand - 1e-9:
            return False
        used = [i.coverage for n, i in zip(counts, self.items, strict=True) if n]
        covered = sum(n * i.coverage for n, i in zip(counts, self.items, strict=True))
        return covered - self.spare * max(used, default=0.0) >= self.demand - 1e-9

    def cost(self, counts: Sequence[int]) -> float:
        return sum(n * i.cost for n, i in zip(counts, self.items, strict=True))

    def best_of_all(self) -> float | None:
        every = itertools.product(range(self.maximum + 1), repeat=len(self.items))
        return min((self.cost(one) for one in every if self.is_cover(one)), default=None)


# Quarters are exact in binary, so that equal costs and coverages really are equal.
quarters = st.integers(1, 40).map(lambda n: n / 4)
items = st.lists(
    st.builds(
        Item,
        quarters,
        quarters,
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([1, 2, 4]),
        firm=st.booleans(),
        multiple=st.sampled_from([1, 1, 1, 2, 3]),
    ),
    min_size=1,
    max_size=4,
)
instances = st.builds(
    Instance,
    items,
    st.integers(0, 120).map(lambda n: n / 4),
    spare=st.integers(0, 2),
    minimum=st.integers(0, 3),
    maximum=st.integers(3, 5),
    caps=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 8), max_size=2),
    firm_share=st.sampled_from([0.0, 0.25, 0.75, 1.0]),
)


@settings(deadline=None, max_examples=200)
@given(instances)
def test_no_cover_is_cheaper_than_the_one_found(instance: Instance) -> None:
    found, best = instance.solved(), instance.best_of_all()
    if best is None:
        assert found is None
        return
    assert found is not None
    assert instance.is_cover(found.counts)
    assert found.cost == pytest.approx(instance.cost(found.counts))
    assert found.cost == pytest.approx(best)
    assert found.proven
    firm = instance.firm_share * instance.demand
    bound = lower_bound(instance.items, instance.demand, instance.spare, firm)
    narrow = lower_bound(
        instance.items, instance.demand, instance.spare, firm, minimum=instance.minimum, maximum=instance.maximum
    )
    assert bound <= narrow + 1e-9
    assert narrow <= best + 1e-9


many = st.lists(
    st.builds(
        Item,
        st.floats(0.1, 100),
        st.floats(0.1, 100),
        st.sampled_from(["a", "b", "c", "d", "e"]),
        st.sampled_from([1, 2, 4, 8]),
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@example([Item(1.0, 1.0, "a", 1)], 1e-9, 1)
@example([Item(1.0, 30.0, "a", 1)], 30.00000001, 0)
@given(many, st.floats(0, 500), st.integers(0, 2))
def test_the_lower_bound_is_below_every_cost(several: list[Item], demand: float, spare: int) -> None:
    found = cheapest_cover(several, demand, spare=spare)
    assert found is not None
    assert lower_bound(several, demand, spare) <= found.cost * (1 + 1e-9) + 1e-6


@settings(deadline=None, max_examples=100)
@given(many, st.floats(0.1, 500), st.floats(1, 3))
def test_more_demand_never_costs_less_and_more_options_never_cost_more(
    several: list[Item], demand: float, more: float
) -> None:
    cost = [cheapest_cover(several, rate, maximum=10**6) for rate in (demand, demand * more)]
    assert cost[0] is not None
    assert cost[1] is not None
    if cost[0].proven:
        assert cost[0].cost <= cost[1].cost * (1 + 1e-9)
    fewer = cheapest_cover(several[: len(several) // 2 + 1], demand)
    assert fewer is not None
    if cost[0].proven:
        assert cost[0].cost <= fewer.cost * (1 + 1e-9)


def test_the_mix_of_a_published_example_is_found() -> None:
    # A10G and A100 at $1.01 and $3.67: one of each carries what three A10G or two A100 would ($4.68, not 6.70 or 5.69).
    cards = [Item(1.01, 10.0, "a10g", 1), Item(3.67, 46.0, "a100", 1)]
    found = cheapest_cover(cards, 56.0)
    assert found is not None
    assert found.counts == (1, 1)
    assert found.cost == pytest.approx(4.68)


def test_spare_is_the_largest_replica_in_use() -> None:
    small, large = Item(1.0, 10.0, "small", 1), Item(2.5, 30.0, "large", 1)
    # 30 requests/s and one replica to lose: two large are $5; 30 + 10 by small ones are four, $4.
    found = cheapest_cover([small, large], 30.0, spare=1)
    assert found is not None
    assert found.counts == (4, 0)


def test_a_search_that_was_cut_short_says_so_and_has_a_good_cover() -> None:
    close = [Item(10 + i * 0.013, 10 + i * 0.0127, f"t{i}", 1) for i in range(12)]
    found = cheapest_cover(close, 97.0)
    assert found is not None
    assert not found.proven
    assert found.cost <= 1.05 * lower_bound(close, 97.0)


@settings(deadline=None, max_examples=100)
@given(many, st.floats(1, 5000), st.integers(0, 2000), st.floats(1.0, 3.0))
def test_a_cover_is_near_the_optimum_also_where_the_number_of_replicas_binds(
    several: list[Item], demand: float, minimum: int, room: float
) -> None:
    largest = max(one.coverage for one in several)
    maximum = max(minimum, math.ceil(room * demand / largest))
    found = cheapest_cover(several, demand, minimum=minimum, maximum=maximum)
    assert found is not None
    bound = lower_bound(several, demand, minimum=minimum, maximum=maximum)
    assert bound <= found.cost * (1 + 1e-9) + 1e-6
    assert found.cost <= bound + 3 * max(one.cost for one in several)


def test_a_thousand_replicas_at_least_are_dealt_out_well() -> None:
    curve = [Item(1.0 + 0.3 * i**1.7, 1.0 + i, f"t{i}", 1) for i in range(30)]
    for demand, spare in ((2200.0, 0), (2200.0, 1), (0.0, 1), (900.0, 2)):
        found = cheapest_cover(curve, demand, spare=spare, minimum=1000)
        assert found is not None
        assert found.cost <= 1.005 * max(1000.0, lower_bound(curve, demand, spare, minimum=1000))


def test_nothing_is_needed_for_no_demand() -> None:
    one = Item(1.0, 1.0, "a", 1)
    assert cheapest_cover([one], 0.0, spare=2) == cover.Cover((0,), 0.0, True)
    assert cheapest_cover([one], 0.0, minimum=2) == cover.Cover((2,), 2.0, True)
    assert lower_bound([one], 0.0) == 0.0


def test_limits_that_allow_no_cover_give_none() -> None:
    one = Item(1.0, 1.0, "a", 2)
    assert cheapest_cover([one], 5.0, maximum=4) is None
    assert cheapest_cover([one], 5.0, type_caps={"a": 9}) is None
    assert cheapest_cover([one], 5.0, type_caps={"a": 10}) is not None
