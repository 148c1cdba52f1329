"""What a kilowatt-hour costs at a moment, on the clocks of its zone."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tidefleet.economics.tariff import Tariff, Window

BERLIN = ZoneInfo("Europe/Berlin")


def a_window(usd: float, start: str, end: str, *days: int, zone: str = "Europe/Berlin") -> Window:
    first, last = ([int(one) for one in text.split(":")] for text in (start, end))
    return Window(usd, 60 * first[0] + first[1], 60 * last[0] + last[1], frozenset(days), zone)


def at(text: str, zone: ZoneInfo = BERLIN, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


NIGHT_AND_DAY = Tariff((a_window(0.08, "22:00", "06:00"), a_window(0.30, "06:00", "22:00")))


@pytest.mark.parametrize(
    ("moment", "usd"),
    [("21:59", 0.30), ("22:00", 0.08), ("23:59", 0.08), ("00:00", 0.08), ("05:59", 0.08), ("06:00", 0.30)],
)
def test_a_window_past_midnight_ends_on_the_next_day(moment: str, usd: float) -> None:
    assert NIGHT_AND_DAY.at(at(f"2026-11-25T{moment}")) == usd


def test_days_are_those_on_which_a_window_begins() -> None:
    weekend = Tariff((a_window(0.05, "22:00", "06:00", 5),))  # Saturday night
    said = {text: weekend.at(at(text)) for text in ("2026-11-28T23:00", "2026-11-29T05:00", "2026-11-28T05:00")}
    assert said == {"2026-11-28T23:00": 0.05, "2026-11-29T05:00": 0.05, "2026-11-28T05:00": None}
    assert Tariff((a_window(0.05, "00:00", "24:00", 6),)).at(at("2026-11-29T23:59")) == 0.05


def test_the_first_of_overlapping_windows_counts_and_zones_may_differ() -> None:
    both = Tariff((a_window(0.5, "12:00", "13:00", zone="UTC"), a_window(0.1, "00:00", "24:00")))
    assert [both.at(at(f"2026-07-01T{hour}:30")) for hour in ("12", "13", "14", "15")] == [0.1, 0.1, 0.5, 0.1]
    assert Tariff().at(0.0) is None


def test_clocks_that_are_put_back_or_forward_neither_lose_nor_invent_a_price() -> None:
    early = Tariff((a_window(0.04, "02:00", "03:00"), a_window(0.20, "00:00", "24:00")))
    twice = [early.at(at("2026-10-25T02:30", fold=fold)) for fold in (0, 1)]
    assert twice == [0.04, 0.04]  # shown twice, an hour apart
    assert at("2026-10-25T02:30", fold=1) - at("2026-10-25T02:30") == 3600.0
    skipped = [early.at(at("2026-03-29T01:59") + 60.0 * minute) for minute in range(5)]
    assert skipped == [0.20] * 5  # from 01:59 to 03:00: the cheap hour is not shown at all
    whole_day = sum(early.at(at("2026-10-25T00:00") + 900.0 * i) == 0.04 for i in range(100))
    assert whole_day == 8


def test_the_mean_is_of_quarters_of_an_hour_for_which_a_price_is_known() -> None:
    assert NIGHT_AND_DAY.mean(at("2026-11-25T20:07"), 4 * 3600.0) == pytest.approx((8 * 0.30 + 8 * 0.08) / 16)
    only = Tariff((a_window(0.08, "22:00", "23:00"),))
    assert only.mean(at("2026-11-25T20:00"), 4 * 3600.0) == pytest.approx(0.08)
    assert only.mean(at("2026-11-25T10:00"), 4 * 3600.0) is None
    assert only.mean(at("2026-11-25T22:59"), 0.0) == 0.08
