"""A price book laid over accelerator types."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

from tidefleet import catalogue
from tidefleet.api import AcceleratorType
from tidefleet.api.accelerator_type import Plausibility
from tidefleet.api.validation import implausible_prices, parse
from tidefleet.economics.prices import PriceBook, price_book
from tidefleet.planning.from_api import chosen_price, offer_of, shipped_prices
from tidefleet.planning.prices import in_term, known_prices, node_chips, priced, with_book

KINDS = catalogue.accelerator_types()
H100 = KINDS["h100-sxm"]


def a_book(*rows: dict[str, Any]) -> PriceBook:
    base = {"accelerator": "h100-sxm", "capacityType": "OnDemand", "currency": "USD", "unit": "chip-hour"}
    return price_book({"prices": [{**base, **row} for row in rows]}, chips_per_node=node_chips(KINDS.values()))


def test_what_the_book_prices_is_used_even_where_a_list_price_is_lower() -> None:
    book = a_book({"provider": "acme", "price": 9, "asOf": date(2026, 11, 20), "source": "contract 4711"})
    entry = chosen_price(priced(H100, book), "OnDemand")
    assert entry is not None
    assert (entry.usd_per_chip_hour, entry.provider, entry.as_of) == (Decimal(9), "acme", date(2026, 11, 20))
    assert entry.source == "contract 4711; price book: 9 USD per chip-hour"
    assert chosen_price(H100, "OnDemand").usd_per_chip_hour < 9  # type: ignore[union-attr]


def test_markets_and_types_that_the_book_does_not_name_keep_their_prices() -> None:
    book = a_book({"price": 2})
    found = with_book(KINDS, book)
    for market in ("Spot", "Reserved", "Owned"):
        assert chosen_price(found["h100-sxm"], market) == chosen_price(H100, market)
    assert {name: kind for name, kind in found.items() if kind is not KINDS[name]}.keys() == {"h100-sxm"}
    assert priced(H100, PriceBook()) is H100


def test_an_unpriced_type_becomes_a_candidate_and_a_book_price_is_not_the_catalogues() -> None:
    name = next(name for name, kind in KINDS.items() if not kind.spec.prices)
    kind = priced(KINDS[name], a_book({"accelerator": name, "price": 2}))
    offer = offer_of(kind, shipped=shipped_prices(KINDS.values()), placeable=False)
    assert offer.prices["OnDemand"].usd_per_chip_hour == 2.0
    assert not offer.prices["OnDemand"].catalogue
    assert offer_of(KINDS[name]).prices == {}


def test_node_selectors_of_a_market_stay_with_it() -> None:
    spot = H100.spec.prices[0].model_copy(update={"capacity_type": "Spot", "node_selector": {"market": "spot"}})
    kind = H100.model_copy(update={"spec": H100.spec.model_copy(update={"prices": (spot,)})})
    found = priced(kind, a_book({"capacityType": "Spot", "price": 1}, {"price": 2}))
    assert {str(one.capacity_type): dict(one.node_selector) for one in found.spec.prices} == {
        "Spot": {"market": "spot"}, "OnDemand": {},
    }  # fmt: skip


def test_a_mistake_of_unit_in_the_book_is_noticed_unless_it_says_that_it_is_right() -> None:
    known = known_prices(KINDS.values())["h100-sxm"]
    wrong = priced(H100, a_book({"price": 1460}))
    assert "month" in implausible_prices(wrong, known)[0].expected
    right = priced(H100, a_book({"price": 1460, "plausibility": "Override"}))
    assert right.spec.prices[0].plausibility is Plausibility.OVERRIDE
    assert implausible_prices(right, known) == ()


def test_a_price_per_node_is_divided_by_the_chips_that_the_type_states() -> None:
    entry = chosen_price(priced(H100, a_book({"price": 16, "unit": "node-hour"})), "OnDemand")
    assert entry is not None
    assert entry.usd_per_chip_hour == 2


RESERVED = {
    "capacityType": "Reserved", "provider": "", "region": "", "usdPerChipHour": "2.05", "minimumTermDays": 365,
    "termEndsOn": "2027-03-31", "chips": 64, "availability": "0.99", "nodeSelector": {"contract": "4711"},
}  # fmt: skip


def a_reserved_type() -> AcceleratorType:
    raw = next(one for one in catalogue.accelerator_manifests() if one["metadata"]["name"] == "h100-sxm")
    kind = parse({**raw, "spec": {**raw["spec"], "prices": [RESERVED, raw["spec"]["prices"][0]]}})
    assert isinstance(kind, AcceleratorType), kind
    return kind


def test_a_price_is_used_up_to_the_last_day_of_its_term() -> None:
    kind = a_reserved_type()
    assert in_term(kind, date(2027, 3, 31)) is kind
    over = in_term(kind, date(2027, 4, 1))
    assert chosen_price(over, "Reserved") is None
    assert chosen_price(over, "OnDemand") == chosen_price(kind, "OnDemand")


def test_a_book_changes_what_a_commitment_costs_and_not_what_it_is() -> None:
    entry = chosen_price(priced(a_reserved_type(), a_book({"capacityType": "Reserved", "price": 1.8})), "Reserved")
    assert entry is not None
    assert entry.usd_per_chip_hour == Decimal("1.8")
    assert (entry.minimum_term_days, entry.term_ends_on, entry.chips) == (365, date(2027, 3, 31), 64)
    assert (entry.availability, dict(entry.node_selector)) == (Decimal("0.99"), {"contract": "4711"})
