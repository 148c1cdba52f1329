"""The bill divided: everything sums to it, to the last 10^-12 USD."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidefleet.reporting.bill import settle, split
from tidefleet.reporting.fit import seconds_per_prompt_token
from tidefleet.reporting.period import Period
from tidefleet.reporting.values import PICO, By, Cell, Figures, Found, Speed, Unit

AN_HOUR = Period(0.0, 3600.0)
amounts = st.integers(0, 10**15)
units = st.builds(Unit, st.just("ml"), st.sampled_from("ab"), st.sampled_from(["h100-sxm", "b200"]), st.just("Spot"))
cells = st.builds(
    lambda key, unit, used: Cell(key, unit, "m", Figures(requests=1, used=used)),
    st.sampled_from([None, "x", "y", "z"]),
    units,
    amounts,
)
causes = st.dictionaries(st.sampled_from(["idle", "drain", "warm"]), st.floats(0, 1e9))


@given(
    cells=st.lists(cells, max_size=20),
    paid=st.dictionaries(units, amounts, max_size=4),
    unused=st.dictionaries(st.tuples(st.just("ml"), st.sampled_from("ab")), causes),
    training=amounts,
    by=st.sampled_from(By),
)
def test_rows_and_lines_sum_to_the_bill_exactly(
    cells: list[Cell],
    paid: dict[Unit, int],
    unused: dict[tuple[str, str], dict[str, float]],
    training: int,
    by: By,
) -> None:
    bill = settle(Found(by, AN_HOUR, "", cells=cells, paid=paid, unused={**unused}, lines={"training": training}))
    used: dict[Unit, int] = {}
    for cell in cells:
        used[cell.unit] = used.get(cell.unit, 0) + cell.figures.used
    without_paid = sum(mine for unit, mine in used.items() if unit not in paid)
    assert bill.total == sum(paid.values()) + without_paid + training
    assert sum(row.allocated for row in bill.rows) + sum(bill.lines.values()) == bill.total
    assert sum(row.figures.used for row in bill.rows) == sum(used.values())
    assert bill.overused == sum(max(0, mine - paid.get(unit, mine)) for unit, mine in used.items())
    scales = {unit: min(Fraction(1), Fraction(paid.get(unit, mine), mine)) for unit, mine in used.items() if mine}
    shares: dict[str, Fraction] = {}
    for cell in cells:
        name = cell.key or "(none)"
        shares[name] = shares.get(name, Fraction(0)) + cell.figures.used * scales.get(cell.unit, Fraction(1))
    for row in bill.rows:
        assert abs(row.allocated - shares.get(row.name, 0)) < max(1, len(cells))
    assert all(part >= 0 for part in bill.lines.values())


@given(paid=amounts, used=st.lists(amounts, min_size=1, max_size=5))
def test_usage_above_the_bill_is_scaled_down_to_it_and_what_is_below_is_idle(paid: int, used: list[int]) -> None:
    unit = Unit("ml", "a", "b200", "Spot")
    cells = [Cell(str(at), unit, "m", Figures(used=one)) for at, one in enumerate(used)]
    bill = settle(Found(By.TENANT, AN_HOUR, "", cells=cells, paid={unit: paid}))
    assert bill.lines["idle"] == max(0, paid - sum(used))
    scale = min(1.0, paid / sum(used)) if sum(used) else 1.0
    for row in bill.rows:
        assert row.allocated == pytest.approx(row.figures.used * scale, rel=1e-9, abs=1.0)


@given(st.integers(0, 10**18), st.lists(st.integers(0, 10**12) | st.floats(0, 1e12), min_size=1, max_size=30))
def test_parts_sum_to_the_whole_and_are_less_than_one_away_from_their_share(total: int, weights: list[float]) -> None:
    parts = split(total, weights)
    assert sum(parts) == total
    of_all = sum(Fraction(one) for one in weights)
    if of_all:
        assert all(abs(part - total * Fraction(one) / of_all) < 1 for part, one in zip(parts, weights, strict=True))


def test_nothing_can_be_divided_among_nobody_but_nothing() -> None:
    assert split(0, []) == []
    with pytest.raises(ValueError, match="among nobody"):
        split(1, [])


def test_usage_above_the_bill_of_one_type_does_not_take_from_another_types_idle_time() -> None:
    one, other = Unit("ml", "a", "b200", "Spot"), Unit("ml", "a", "h100-sxm", "Spot")
    cells = [Cell("x", one, "m", Figures(used=300)), Cell("y", one, "m", Figures(used=100)),
             Cell("x", other, "m", Figures(used=10))]  # fmt: skip
    bill = settle(Found(By.TENANT, AN_HOUR, "", cells=cells, paid={one: 200, other: 50}))
    assert {row.name: row.allocated for row in bill.rows} == {"x": 160, "y": 50}
    assert bill.lines == {"idle": 40}
    assert bill.overused == 200


def test_a_pool_that_was_paid_for_and_asked_nothing_has_a_row_with_its_idle_time() -> None:
    paid = {Unit("ml", "a", "b200", "Spot"): 5 * PICO}
    bill = settle(Found(By.POOL, AN_HOUR, "", paid=paid))
    assert [(row.name, row.allocated, row.idle) for row in bill.rows] == [("ml/a", 0, 5 * PICO)]
    assert bill.lines == {"idle": 5 * PICO}


def a_speed(requests: list[tuple[float, float]], *, prompt: float, answer: float, saved: float = 0.0) -> Speed:
    taken = [(x, y, prompt * x + answer * y) for x, y in requests]
    sums = [sum(one) for one in zip(*((x, y, s, x * x, x * y, y * y, x * s, y * s) for x, y, s in taken), strict=True)]
    return Speed(len(requests), *sums, saved=saved, cached=100.0 if saved else 0.0)


def test_seconds_of_a_prompt_token_are_found_in_what_requests_took() -> None:
    mixed = [(1000.0, 100.0), (200.0, 400.0), (3000.0, 10.0)]
    assert seconds_per_prompt_token(a_speed(mixed, prompt=1e-4, answer=2e-3)) == pytest.approx(1e-4)


def test_what_routers_say_that_cached_tokens_saved_goes_before_a_fit() -> None:
    assert seconds_per_prompt_token(a_speed([(10.0, 5.0)], prompt=1.0, answer=1.0, saved=7.0)) == pytest.approx(0.07)


def test_prompts_and_answers_of_one_proportion_count_alike() -> None:
    alike = [(1000.0, 100.0), (2000.0, 200.0)]
    assert seconds_per_prompt_token(a_speed(alike, prompt=1e-4, answer=2e-3)) == pytest.approx(0.3 * 3 / 3 / 1100.0)


@given(
    cells=st.lists(cells, max_size=20),
    paid=st.dictionaries(units, amounts, max_size=4),
    share=st.floats(0.0, 1.0),
    by=st.sampled_from(By),
)
def test_the_rent_of_tiers_is_shared_by_what_used_the_unit(
    cells: list[Cell], paid: dict[Unit, int], share: float, by: By
) -> None:
    tiers = {unit: int(amount * share) for unit, amount in paid.items()}
    chips = {unit: amount - tiers[unit] for unit, amount in paid.items()}
    bare = settle(Found(by, AN_HOUR, "", cells=cells, paid=chips))
    bill = settle(Found(by, AN_HOUR, "", cells=cells, paid=paid, tiers=tiers))
    assert bill.total == bare.total + sum(tiers.values())
    assert sum(row.allocated for row in bill.rows) + sum(bill.lines.values()) == bill.total
    used = {cell.unit for cell in cells if cell.figures.used}
    assert bill.lines.get("kv tiers", 0) == sum(rent for unit, rent in tiers.items() if unit not in used)
    assert bill.idle_by_unit == bare.idle_by_unit  # capacity is not idle because a tier costs
    assert {row.name: row.figures for row in bill.rows} == {row.name: row.figures for row in bare.rows}
