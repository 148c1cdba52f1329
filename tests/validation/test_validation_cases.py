"""The calculations behind the published figures: exact allocation by slices, the day's plan, rows in words."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import validation_deepseek as deepseek
from benchmarks import validation_engines as engines
from benchmarks import validation_melange as melange

loads = st.lists(st.floats(0.05, 4.0), min_size=1, max_size=3)
prices = st.tuples(st.floats(0.5, 5.0), st.floats(0.5, 5.0))


def assigned(busy: dict[str, list[float]], price: dict[str, float], slices: int) -> float:
    """The cheapest cost over every assignment of every single slice."""
    names = list(busy)
    buckets = len(busy[names[0]])
    best = math.inf
    for choice in itertools.product(names, repeat=buckets * slices):
        total = dict.fromkeys(names, 0.0)
        for index, name in enumerate(choice):
            total[name] += busy[name][index // slices] / slices
        best = min(best, sum(price[name] * math.ceil(total[name] - 1e-9) for name in names))
    return best


@settings(deadline=None, max_examples=50)
@given(loads, prices, st.floats(0.2, 3.0), st.integers(1, 2))
def test_the_allocation_by_slices_is_the_best_of_all_assignments(first, price, factor, slices) -> None:
    busy = {"a": first, "b": [factor * one for one in first]}
    cost = dict(zip("ab", price, strict=True))
    assert melange.by_slices(busy, cost, slices).usd_per_hour == pytest.approx(assigned(busy, cost, slices))


@settings(deadline=None, max_examples=50)
@given(loads, loads, prices)
def test_flow_is_never_dearer_than_slices(first, second, price) -> None:
    size = min(len(first), len(second))
    busy = {"a": first[:size], "b": second[:size]}
    cost = dict(zip("ab", price, strict=True))
    assert melange.by_flow(busy, cost).usd_per_hour <= melange.by_slices(busy, cost, 3).usd_per_hour + 1e-9


def test_a_type_that_cannot_serve_gets_no_slice() -> None:
    found = melange.by_slices({"a": [math.inf], "b": [1.5]}, {"a": 0.1, "b": 2.0}, 4)
    assert found == melange.Allocation({"b": 2}, 4.0)


def test_terciles_of_lengths_keep_their_mean() -> None:
    shapes = melange._terciles(4000.0, 2.25, 200.0)
    assert sum(shape.input_mean for shape in shapes) / 3 == pytest.approx(4000.0)
    assert shapes[0].input_mean < shapes[1].input_mean < shapes[2].input_mean


def test_a_span_without_a_begin_goes_on_from_the_one_before() -> None:
    spans = deepseek.nodes_of_the_day("10 (12:00-00:00, 06:00-12:00), 4 (00:00-01:30), 2 (-06:00)")
    assert spans == [(12.0, 24.0, 10.0), (6.0, 12.0, 10.0), (0.0, 1.5, 4.0), (1.5, 6.0, 2.0)]


def test_a_slower_user_lets_a_node_make_more_tokens() -> None:
    group = deepseek._decode_group(0.0)
    assert deepseek.tokens_per_node(group, 15.0) > deepseek.tokens_per_node(group, 25.0) > 0
    assert deepseek.tokens_per_node(group, 1e6) == 0.0


def test_a_looser_objective_never_serves_less() -> None:
    replica = engines._replica("llama-3.1-8b", "h100-sxm", 1, "Bf16")
    shape = engines.TokenShape(1000.0, 500.0)
    rates = [engines._rate_per_chip(replica, shape, seconds) for seconds in (0.001, 0.02, 0.05, math.inf)]
    assert rates[0] == 0.0
    assert rates == sorted(rates)
