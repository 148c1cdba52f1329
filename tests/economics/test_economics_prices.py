"""Price books: units, currencies, owned chips, ages; files of every kind of wrong."""

from __future__ import annotations

import math
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidefleet import catalogue
from tidefleet.catalogue.price_book import LARGEST_BYTES
from tidefleet.economics.owned import Ownership, capital_recovery_factor, owned_usd_per_chip_hour
from tidefleet.economics.prices import (
    MOST_ROWS,
    UNITS,
    BadPriceBook,
    from_the_future,
    price_book,
    stale_after_days,
    staleness,
)

DAY = date(2026, 11, 21)
ROW: dict[str, Any] = {
    "accelerator": "h100-sxm",
    "capacityType": "OnDemand",
    "price": 2.19,
    "currency": "USD",
    "unit": "chip-hour",
    "asOf": DAY,
}
OWNED: dict[str, Any] = {"accelerator": "h100-sxm", "capacityType": "Owned", "currency": "USD", "capex": 30000,
                         "depreciationYears": 4}  # fmt: skip
EUR = {"EUR": {"usd": 1.08, "asOf": date(2026, 11, 20)}}


def quote(currencies: Any = None, chips: dict[str, int | None] | None = None, **changes: Any) -> Any:
    row = {key: value for key, value in {**ROW, **changes}.items() if value != "ABSENT"}
    return price_book({"prices": [row], "currencies": currencies}, chips_per_node=chips).quotes[0]


def problem(**changes: Any) -> str:
    with pytest.raises(BadPriceBook) as raised:
        quote(**changes)
    return str(raised.value)


# --- units and currencies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "unit", "expected"),
    [
        (2.19, "chip-hour", "2.19"),
        (1460, "chip-month", "2"),
        (17520, "chip-year", "2"),
        (16, "node-hour", "2"),
        (11680, "node-month", "2"),
        (140160, "node-year", "2"),
    ],
)
def test_prices_of_every_unit_become_usd_per_chip_hour(price: float, unit: str, expected: str) -> None:
    assert quote(price=price, unit=unit, chips={"h100-sxm": 8}).usd_per_chip_hour == Decimal(expected)
    assert quote(price=price, unit=unit, chipsPerNode=8).usd_per_chip_hour == Decimal(expected)


def test_a_currency_is_changed_at_the_books_own_rate_and_is_as_old_as_the_older_of_the_two() -> None:
    found = quote(currencies=EUR, price=2, currency="EUR")
    assert found.usd_per_chip_hour == Decimal("2.16")
    assert found.as_of == date(2026, 11, 20)
    assert found.stated == "2 EUR per chip-hour at 1.08 USD"
    by_row = quote(price=2, currency="EUR", usdPerUnit="1.10", rateAsOf="2026-11-19")
    assert (by_row.usd_per_chip_hour, by_row.as_of) == (Decimal("2.2"), date(2026, 11, 19))
    assert quote(asOf="ABSENT").as_of is None
    assert quote(asOf="2026-11-21").as_of == DAY


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"currency": "GBP"}, ("currency is 'GBP'", "EUR, USD", "GBP: {usd: ..., asOf: ...}")),
        ({"currency": "ABSENT"}, ("currency is missing",)),
        ({"unit": "hour"}, ("unit is 'hour'", "chip-hour", "node-month")),
        ({"unit": "ABSENT"}, ("unit is missing",)),
        ({"unit": "node-hour"}, ("chipsPerNode is missing", "none is known for h100-sxm")),
        ({"unit": "node-hour", "chipsPerNode": 2.5}, ("chipsPerNode is 2.5", "whole number")),
        ({"unit": "node-hour", "chipsPerNode": 0}, ("chipsPerNode is 0",)),
        ({"capacityType": "on-demand"}, ("capacityType is 'on-demand'", "OnDemand, Spot, Reserved, Owned")),
        ({"accelerator": "ABSENT"}, ("accelerator is missing", "h100-sxm")),
        ({"accelerator": "h100 sxm"}, ("accelerator is 'h100 sxm'",)),
        ({"price": "ABSENT"}, ("price is missing", "2.10")),
        ({"price": "2,19"}, ("price is '2,19'", "plain number")),
        ({"price": "$2.19"}, ("price is '$2.19'",)),
        ({"price": 1e-12}, ("at least a billionth",)),
        ({"price": 10**9}, ("at most 100000000 USD an hour",)),
        ({"price": 10**12, "currency": "EUR", "usdPerUnit": 10**12, "rateAsOf": DAY}, ("at most 100000000 USD",)),
        ({"asOf": "21.11.2026"}, ("asOf is '21.11.2026'", "2026-11-21")),
        ({"asOf": "2026-02-30"}, ("asOf is '2026-02-30'",)),
        ({"asOf": 20261121}, ("asOf is 20261121",)),
        ({"asOf": "2100-01-01"}, ("asOf is 2100-01-01", "a date from 1900 to 2099")),
        ({"asOf": date(1, 1, 1)}, ("asOf is 0001-01-01", "a date from 1900 to 2099")),
        ({"currency": "CHF", "usdPerUnit": "1.1", "rateAsOf": "9999-12-31"}, ("rateAsOf is 9999-12-31",)),
        ({"plausibility": "yes"}, ("plausibility is 'yes'", "Checked or Override")),
        ({"usdPerHour": 2}, ("'usdPerHour' is 2", "one of the columns")),
        ({"capex": 30000}, ("capex is 30000", "capacityType Owned only")),
        ({"capacityType": "Owned", "capex": 30000}, ("price is 2.19", "either a price or terms of ownership")),
        ({"usdPerUnit": 1.1}, ("usdPerUnit is 1.1", "1 for USD")),
        ({"currency": "EUR", "usdPerUnit": 1.1}, ("rateAsOf is missing",)),
        ({"source": "x" * 300}, ("source is 'xxxx", "at most 256")),
        ({"source": "a\x00b"}, ("source is",)),
        ({"provider": ["aws"]}, ("provider is a list of 1",)),
        ({"region": {}}, ("region is a mapping of 0",)),
    ],
)
def test_what_cannot_be_used_is_named_with_an_example(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    message = problem(currencies=EUR, **changes)
    assert message.startswith("prices[0]: ")
    for word in (*words, "expected", "e.g."):
        assert word in message
    assert len(message) < 600


HOSTILE = [
    math.nan, math.inf, -math.inf, -1, 0, 1e300, True, "NaN", "inf", "-3", "1e400", "1_000", "", " ", "x" * 10_000,
    10**5000, [], {}, "٢", date(2026, 1, 1), b"2", object(), None,
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("field", ["price", "chipsPerNode", "usdPerUnit", "rate"])
def test_no_amount_slips_through_that_is_not_a_number_above_zero(field: str, value: Any) -> None:
    if field == "rate":
        message = problem(currencies={"EUR": {"usd": value, "asOf": DAY}})
        assert "usd" in message
    elif field == "chipsPerNode":
        assert "chipsPerNode" in problem(unit="node-hour", chipsPerNode=value)
    elif field == "usdPerUnit":
        absent = value is None or (isinstance(value, str) and not value.strip())
        assert ("currency" if absent else "usdPerUnit") in problem(currency="EUR", usdPerUnit=value, rateAsOf=DAY)
    else:
        assert "price" in problem(price=value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
        max_leaves=20,
    )
)
def test_whatever_a_book_holds_it_is_a_book_or_a_list_of_problems(raw: Any) -> None:
    for document in (raw, {"prices": raw}, {"prices": [raw]}, {"prices": [{**ROW, "price": raw}]},
                     {"prices": [ROW], "currencies": raw}, {"prices": [ROW], "currencies": {"EUR": raw}}):  # fmt: skip
        try:
            assert all(one.usd_per_chip_hour > 0 for one in price_book(document).quotes)
        except BadPriceBook as error:
            assert error.problems  # noqa: PT017
            assert len(str(error)) < 20_000  # noqa: PT017


def test_every_problem_is_told_at_once_and_one_market_has_one_price() -> None:
    with pytest.raises(BadPriceBook) as raised:
        price_book({"prices": [ROW, {**ROW, "price": 3}, {**ROW, "provider": "acme", "price": -1}, 7], "extra": 1})
    assert len(raised.value.problems) == 4
    assert "one row for each market" in str(raised.value)
    two = price_book({"prices": [ROW, {**ROW, "provider": "acme"}]})
    assert len(two.of("h100-sxm")) == 2
    assert two.strangers(["h100-sxm"]) == ()
    assert two.strangers(["l40s"]) == ("h100-sxm",)
    with pytest.raises(BadPriceBook, match=f"at most {MOST_ROWS}"):
        price_book({"prices": [ROW] * (MOST_ROWS + 1)})


@given(price=st.decimals(Decimal("0.001"), Decimal(10_000), places=4), unit=st.sampled_from(sorted(UNITS)))
def test_a_price_times_its_hours_and_chips_is_the_price_again(price: Decimal, unit: str) -> None:
    found = quote(price=str(price), unit=unit, chipsPerNode=8).usd_per_chip_hour
    back = float(found) * UNITS[unit] * (8 if unit.startswith("node") else 1)
    assert back == pytest.approx(float(price), rel=1e-4, abs=1e-4)


# --- owned -----------------------------------------------------------------------------------------------------------


def test_capital_is_recovered_by_the_annuity_that_textbooks_give() -> None:
    assert capital_recovery_factor(0.08, 4) == pytest.approx(0.301921, abs=1e-6)
    assert capital_recovery_factor(0.0, 4) == 0.25
    assert capital_recovery_factor(1e-13, 4) == pytest.approx(0.25)
    payments = sum(capital_recovery_factor(0.08, 4) / 1.08**year for year in range(1, 5))
    assert payments == pytest.approx(1.0)  # worth today what was borrowed


def test_an_owned_chip_costs_its_yearly_capital_over_its_usable_hours_and_its_upkeep() -> None:
    plain = owned_usd_per_chip_hour(Ownership(capex_usd=35040.0, depreciation_years=4.0))
    assert plain == pytest.approx(1.0)
    full = owned_usd_per_chip_hour(Ownership(30000.0, 4.0, 0.08, 3000.0, 0.35, 0.95))
    yearly = (30000.0 - 3000.0 / 1.08**4) * capital_recovery_factor(0.08, 4)
    assert full == pytest.approx(yearly / 8760 / 0.95 + 0.35)
    sold_for_its_price = owned_usd_per_chip_hour(Ownership(30000.0, 4.0, 0.08, salvage_usd=30000.0))
    assert sold_for_its_price == pytest.approx(30000.0 * 0.08 / 8760)  # interest is all that is left


def test_a_book_takes_terms_of_ownership_in_any_currency() -> None:
    row = {**OWNED, "currency": "EUR", "wacc": 0.08, "salvage": 3000, "opexPerHour": 0.35, "availability": 0.95}
    found = price_book({"prices": [row], "currencies": EUR}).quotes[0]
    expected = owned_usd_per_chip_hour(Ownership(32400.0, 4.0, 0.08, 3240.0, 0.378, 0.95))
    assert float(found.usd_per_chip_hour) == pytest.approx(expected, abs=1e-8)
    assert (found.capacity_type, found.as_of) == ("Owned", date(2026, 11, 20))
    assert "30000 EUR capex" in found.stated


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"capex": 0}, "capex"),
        ({"capex": None}, "capex"),
        ({"depreciationYears": None}, "depreciationYears"),
        ({"depreciationYears": 0}, "depreciationYears"),
        ({"depreciationYears": 1000}, "depreciationYears"),
        ({"wacc": 8}, "wacc"),
        ({"wacc": -0.1}, "wacc"),
        ({"salvage": 40000}, "salvage"),
        ({"availability": 97}, "availability"),
        ({"availability": 0}, "availability"),
        ({"opexPerHour": math.nan}, "opexPerHour"),
        ({"opexPerHour": 1e9}, "opexPerHour"),
    ],
)
def test_terms_that_cannot_be_are_refused_by_name(change: dict[str, Any], word: str) -> None:
    row = {**OWNED, "wacc": 0.08, **change}
    with pytest.raises(BadPriceBook, match=rf"prices\[0\]: {word} is"):
        price_book({"prices": [row]})


# --- age -------------------------------------------------------------------------------------------------------------


def test_lists_are_stale_after_ninety_days_and_spot_prices_after_seven() -> None:
    def why(days: int, capacity_type: str) -> str:
        return staleness(DAY - timedelta(days=days), DAY, capacity_type)

    assert (why(90, "OnDemand"), why(7, "Spot"), why(0, "Owned")) == ("", "", "")
    assert why(91, "Reserved") == "is 91 days old, more than 90"
    assert why(8, "Spot") == "is 8 days old, more than 7"
    assert why(-3650, "OnDemand") == ""  # it has no age: see from_the_future
    assert staleness(None, DAY, "Spot") == ""
    assert stale_after_days("Spot", spot_days=1) == 1
    assert staleness(DAY - timedelta(days=91), DAY, "OnDemand", list_days=120) == ""


def test_a_price_from_the_future_is_told_as_such_from_two_days_ahead() -> None:
    assert [from_the_future(DAY + timedelta(days=days), DAY) for days in (-400, 0, 1)] == ["", "", ""]
    day = DAY + timedelta(days=730)
    assert from_the_future(day, DAY).startswith(f"is dated {day}, 730 days ahead of the clock ({DAY})")
    assert from_the_future(DAY + timedelta(days=2), DAY) != ""
    assert from_the_future(None, DAY) == ""


# --- files -----------------------------------------------------------------------------------------------------------

CSV = "accelerator,capacityType,provider,region,price,currency,unit,asOf,source\n"


def test_yaml_json_and_csv_say_the_same(tmp_path: Path) -> None:
    texts = {
        "a.yaml": "prices:\n- {accelerator: h100-sxm, capacityType: OnDemand, provider: acme, price: 16.00,"
        " currency: USD, unit: node-hour, asOf: 2026-11-21, source: contract}\n",
        "b.json": '{"prices": [{"accelerator": "h100-sxm", "capacityType": "OnDemand", "provider": "acme", '
        '"price": "16.00", "currency": "USD", "unit": "node-hour", "asOf": "2026-11-21", "source": "contract"}]}',
        "c.csv": "\ufeff" + CSV + "h100-sxm,OnDemand,acme,,16.00,USD,node-hour,2026-11-21,contract\r\n",
    }
    books = []
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        books.append(catalogue.load_price_book(tmp_path / name, chips_per_node={"h100-sxm": 8}))
    assert [float(book.quotes[0].usd_per_chip_hour) for book in books] == [2.0, 2.0, 2.0]
    assert len({(book.quotes[0].key, book.quotes[0].as_of, book.quotes[0].source) for book in books}) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "column accelerator is missing"),
        ("a,b\n1,2\n", "column 'a' is not known"),
        ("accelerator,capacityType\n", "column currency is missing"),
        (CSV.replace("region", "provider"), "column provider is there twice"),
        (CSV + "h100-sxm,OnDemand\n", "line 2: has another number of values; expected 9"),
        (CSV + "h100-sxm,OnDemand,a,b,2,USD,chip-hour,,,surplus\n", "line 2: has another number"),
        (CSV + 'h100-sxm,"OnDemand\n', "is not CSV"),
        (CSV + "x" * 200_000 + "\n", "is not CSV: field larger"),
        (CSV + "h100-sxm,OnDemand,,,-2,USD,chip-hour,,\n", "prices[0]: price is '-2'"),
        (CSV + "h100-sxm,OnDemand,,,2,EUR,chip-hour,,\n", "prices[0]: currency is 'EUR'"),
        (CSV + "h100-sxm,OnDemand,,,2,USD,chip-hour,,\n" * (MOST_ROWS + 1), f"at most {MOST_ROWS} rows"),
    ],
)
def test_csv_that_is_wrong_is_refused_with_its_line_or_column(text: str, words: str) -> None:
    with pytest.raises(BadPriceBook) as raised:
        catalogue.parse_price_book(text, form="csv")
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prices: [", "is not YAML"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\nprices: [*b]\n", "refers to an anchor"),
        ("prices: " + "[" * 5000, "is not YAML"),
        ("prices: [{price: 1" + "0" * 5000 + "}]", ""),
        ("!!python/object/apply:os.system ['true']", "is not YAML"),
        ("- 1", "the price book is a list of 1"),
        ("", "the price book is a NoneType"),
        ("prices: 3", "prices is 3"),
        ("price: []", "'price' is not a part of a price book"),
        ("a: 1\n---\nb: 2\n", "is not YAML"),
        ("prices: []\n<<: {x: 1}", ""),
        ("\x00", "is not YAML"),
    ],
)
def test_yaml_that_is_wrong_or_a_bomb_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadPriceBook) as raised:
        catalogue.parse_price_book(text)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadPriceBook, match=r"nope\.yaml: cannot be read"):
        catalogue.load_price_book(tmp_path / "nope.yaml")
    with pytest.raises(BadPriceBook, match="cannot be read"):
        catalogue.load_price_book(tmp_path)
    big, binary = tmp_path / "big.yaml", tmp_path / "binary.yaml"
    big.write_bytes(b"#" * (LARGEST_BYTES + 1))
    binary.write_bytes(b"prices: \xff\xfe")
    with pytest.raises(BadPriceBook, match="is larger than"):
        catalogue.load_price_book(big)
    with pytest.raises(BadPriceBook, match="is not UTF-8"):
        catalogue.load_price_book(binary)
