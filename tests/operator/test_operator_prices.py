"""The price book, read by a whole operator from a file that changes under it."""

from __future__ import annotations

import pytest
from operator_builders import a_class, a_pool, an_accelerator

from tidefleet.cluster.kinds import ACCELERATOR_TYPE
from tidefleet.controller import process

pytestmark = pytest.mark.cluster


def test_the_price_book_decides_and_a_change_of_it_is_seen(place, operator_in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "LOOK_AROUND_SECONDS", 0.5)
    one, other = place.unique("one"), place.unique("other")
    place.create(an_accelerator(one, "3.00"), an_accelerator(other, "1.00"))
    place.create(a_pool(accelerators=[{"type": one}, {"type": other}]), a_class())
    book = tmp_path / "prices.yaml"

    def write(price: str, unit: str = "chip-hour") -> None:
        row = f"{{accelerator: {one}, capacityType: OnDemand, price: {price}, currency: USD, unit: {unit}}}"
        book.write_text(f"prices:\n- {row}\n")

    def validated() -> str:
        found = place.get(ACCELERATOR_TYPE, one)["status"]["conditions"]
        return next(each["message"] for each in found if each["type"] == "Validated")

    write("0.50")
    op = operator_in_process(priceFile=str(book))
    op.settle()
    assert list(place.replicas()) == [one]
    assert place.get(ACCELERATOR_TYPE, one)["status"]["priceUsed"] == "0.5"

    write(".nan")
    op.until(lambda: place.has("PricingFresh", "False", "PriceBookFaulty"), str(place.condition("PricingFresh")))
    assert "prices[0]: price is nan" in place.condition("PricingFresh")[2]
    assert list(place.replicas()) == [one]

    write("1350")
    op.until(lambda: "looks like a price per month" in validated())
    assert validated().endswith("(with the price book's prices)")

    write("876", "chip-month")
    op.until(lambda: place.get(ACCELERATOR_TYPE, one)["status"].get("priceUsed") == "1.2")
    op.until(lambda: not place.has("PricingFresh", "False", "PriceBookFaulty"), str(place.condition("PricingFresh")))


@pytest.mark.parametrize("there", [True, False])
def test_an_operator_starts_without_a_usable_price_book(place, operator_in_process, tmp_path, there):
    mine = place.unique("mine")
    place.create(an_accelerator(mine, "1.00"), a_pool(accelerators=[{"type": mine}]), a_class())
    book = tmp_path / "prices.csv"
    if there:
        book.write_text("price\n1\n")
    op = operator_in_process(priceFile=str(book))
    op.settle()
    assert list(place.replicas()) == [mine]
    assert place.has("PricingFresh", "False", "PriceBookFaulty")
    assert str(book) in place.condition("PricingFresh")[2]
