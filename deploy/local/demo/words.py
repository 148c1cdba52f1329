"""Numbers and times as the demo writes them."""

from collections.abc import Sequence
from datetime import UTC, datetime

BARS = "▁▂▃▄▅▆▇█"


def usd(value: float) -> str:
    """Dollars with three or so significant digits, e.g. $0.241, $18.2, $4,120."""
    if abs(value) >= 1000:
        return f"${value:,.0f}"
    if abs(value) >= 100:
        return f"${value:.0f}"
    if abs(value) >= 10:
        return f"${value:.1f}"
    if abs(value) >= 1 or value == 0:
        return f"${value:.2f}"
    return f"${value:.3f}".removesuffix("0")


def rate(value: float) -> str:
    """Requests per second, e.g. 8.4, 112."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def many(value: float) -> str:
    """A large count, e.g. 812, 14.2 k, 3.1 M, 15.9 B."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            shown = value / limit
            return f"{shown:.0f} {unit}" if shown >= 100 else f"{shown:.1f} {unit}"
    return f"{value:.0f}"


def clock(at: float) -> str:
    """Hour and minute of simulated Unix seconds, e.g. 14:20."""
    return datetime.fromtimestamp(at, tz=UTC).strftime("%H:%M")


def date(at: float) -> str:
    """Weekday and date of simulated Unix seconds, e.g. Mon 13 May 2024."""
    return datetime.fromtimestamp(at, tz=UTC).strftime("%a %d %b %Y")


def percent(value: float) -> str:
    """A share as a percentage, e.g. 71 %, 99.6 %; never rounded up to 100 %."""
    if value >= 0.99995:
        return "100 %"
    return f"{min(value, 0.999) * 100:.1f} %" if value >= 0.95 else f"{value * 100:.0f} %"


def sparkline(values: Sequence[float], width: int, *, top: float | None = None) -> str:
    """Values as a row of bars, averaged to `width` characters, 0 at the bottom."""
    if not values or width <= 0:
        return ""
    highest = max(values) if top is None else top
    cells = []
    for index in range(width):
        begin = index * len(values) // width
        part = values[begin : max(begin + 1, (index + 1) * len(values) // width)]
        level = sum(part) / len(part) / highest if highest > 0 else 0.0
        cells.append(BARS[min(len(BARS) - 1, max(0, round(level * (len(BARS) - 1))))])
    return "".join(cells)
