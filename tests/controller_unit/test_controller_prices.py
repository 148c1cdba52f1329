"""The price book as the operator has it: read again when it changes, the last good one kept, told by PricingFresh."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from controller_builders import NOW, a_kind, a_view, offers

from tidefleet.api import ConditionType, Reason
from tidefleet.api.inference_pool import Candidate
from tidefleet.api.vocabulary import CapacityType
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.price_source import LONGEST_FAULT, PriceSource
from tidefleet.controller.view import PoolMemory
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.options import EstimateMemo

TODAY = date.fromtimestamp(NOW)
ROW = "- {{accelerator: l40s, capacityType: OnDemand, price: {price}, currency: USD, unit: chip-hour}}\n"
CHIPS = {"l40s": 4}


def a_price(days: int, market: str = "OnDemand", usd: str = "0.90") -> dict[str, Any]:
    day = (TODAY - timedelta(days=days)).isoformat()
    return {"capacityType": market, "provider": "", "region": "", "usdPerChipHour": usd, "asOf": day}


def verdict(*prices: dict[str, Any], fault: str = "", settings: OperatorConfiguration | None = None) -> tuple[Any, str]:
    kind = a_kind("l40s", prices=list(prices))
    view = a_view(None, kind, offers=offers(kind), reading=Known(NOW, 0.1, "test"), price_fault=fault)
    if prices[0]["capacityType"] == "Spot":
        wish = Candidate(type="l40s", capacity_types=(CapacityType.SPOT,))
        spec = view.pool.spec.model_copy(update={"accelerators": (wish,)})
        view = replace(view, pool=view.pool.model_copy(update={"spec": spec}))
    decision = decide(view, PoolMemory(DemandHistory(0.0)), settings or OperatorConfiguration(), EstimateMemo())
    assert decision.plan is not None, decision.reason
    assert decision.plan.chosen
    found = decision.verdict(ConditionType.PRICING_FRESH)
    assert found is not None
    return found.reason, found.message


@pytest.mark.parametrize(
    ("price", "reason", "words"),
    [
        (a_price(90), Reason.FRESH, ""),
        (a_price(91), Reason.STALE, "91 days old, more than 90"),
        (a_price(7, "Spot"), Reason.FRESH, ""),
        (a_price(8, "Spot"), Reason.STALE, "8 days old, more than 7"),
        (a_price(-400), Reason.DATED_IN_FUTURE, "400 days ahead of the clock"),
    ],
)
def test_a_price_is_stale_by_its_market_and_still_used(price: dict[str, Any], reason: Reason, words: str) -> None:
    found, message = verdict(price)
    assert found is reason
    assert words in message


def test_a_faulty_price_book_is_told_and_closes_nothing() -> None:
    assert verdict(a_price(1), fault="prices.yaml: price is nan") == (
        Reason.PRICE_BOOK_FAULTY,
        "prices.yaml: price is nan",
    )


def test_a_book_is_read_again_when_it_changes_and_the_last_good_one_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    source = PriceSource(file, CHIPS)
    absent = source.read({})
    assert (absent.book.quotes, "cannot be read" in absent.fault) == ((), True)
    file.write_text("prices:\n" + ROW.format(price="0.90"))
    good = source.read({})
    assert ([float(one.usd_per_chip_hour) for one in good.book.quotes], good.fault) == ([0.9], "")
    file.write_text("prices:\n" + ROW.format(price=".nan"))
    bad = source.read({})
    assert bad.book == good.book
    assert "prices[0]: price is nan" in bad.fault
    file.write_text("prices:\n" + ROW.format(price="0.80"))
    assert [float(one.usd_per_chip_hour) for one in source.read({}).book.quotes] == [0.8]
    file.write_text("prices:\n" + ROW.format(price="x" * 5000) * 50)
    assert len(source.read({}).fault) <= LONGEST_FAULT


def test_a_price_of_nobodys_accelerator_is_told_and_the_others_count(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("prices:\n" + ROW.format(price="0.90") + ROW.format(price="1").replace("l40s", "l40sx"))
    found = PriceSource(file, CHIPS).read({})
    assert len(found.book.quotes) == 2
    assert "l40sx; no AcceleratorType has that name" in found.fault
    assert PriceSource(file, CHIPS).read({"l40sx": None}).fault == ""
    assert PriceSource(None).read({}).book.quotes == ()
