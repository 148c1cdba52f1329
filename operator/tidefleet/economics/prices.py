"""A price book: what accelerators cost at one's own providers and in one's own racks, in USD per chip-hour.

Rows name accelerator, market, price, currency, unit, date and source; owned chips give capital and its terms instead of
a price. Nothing is guessed: a currency without a dated rate, a node price without a chip count, or a unit that is not
one of these is an error that names row and field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from tidefleet.economics.owned import HOURS_PER_MONTH, HOURS_PER_YEAR, Ownership, owned_usd_per_chip_hour

CAPACITY_TYPES = ("OnDemand", "Spot", "Reserved", "Owned")
UNITS: Mapping[str, float] = {
    "chip-hour": 1.0,
    "chip-month": HOURS_PER_MONTH,
    "chip-year": HOURS_PER_YEAR,
    "node-hour": 1.0,
    "node-month": HOURS_PER_MONTH,
    "node-year": HOURS_PER_YEAR,
}
"""Units a price may have, and their hours: a month is 730 hours, a year 8,760."""

OWNED_TERMS = ("capex", "depreciationYears", "salvage", "wacc", "opexPerHour", "availability")
COLUMNS = (
    "accelerator", "capacityType", "provider", "region", "price", "currency", "unit", "chipsPerNode", "asOf", "source",
    "plausibility", "usdPerUnit", "rateAsOf", *OWNED_TERMS,
)  # fmt: skip
MOST_ROWS = 10_000
MOST_PROBLEMS = 20
_LONGEST = 256
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")
_DEAREST = Decimal(10) ** 12
_DEAREST_HOUR = Decimal(10) ** 8
_FINEST = Decimal(1).scaleb(-9)
_FIRST_YEAR, _LAST_YEAR = 1900, 2099
"""As far as dates of the API go."""


class BadPriceBook(ValueError):
    """A price book cannot be used; ``problems`` holds one sentence for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        super().__init__("; ".join(problems[:MOST_PROBLEMS]) + more)


@dataclass(frozen=True, slots=True)
class Rate:
    """What one unit of a currency is worth in USD, and since when."""

    usd: Decimal
    as_of: date


@dataclass(frozen=True, slots=True)
class Quote:
    """One price of the book.

    Attributes:
        usd_per_chip_hour: normalised, to a billionth of a USD.
        as_of: the older of the price's date and the currency rate's; ``None``: undated.
        source: where it comes from.
        stated: the price as it was written, e.g. ``1,460 EUR per chip-month at 1.08 USD``.
        override: taken as it is, however far from what such accelerators are known to cost.
    """

    accelerator: str
    capacity_type: str
    provider: str
    region: str
    usd_per_chip_hour: Decimal
    as_of: date | None
    source: str
    stated: str
    override: bool = False

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is the price of."""
        return self.accelerator, self.capacity_type, self.provider, self.region


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Quotes in the order of the book; no two of the same accelerator, capacity type, provider and region."""

    quotes: tuple[Quote, ...] = ()

    def of(self, accelerator: str) -> tuple[Quote, ...]:
        """The quotes of one accelerator type."""
        return tuple(one for one in self.quotes if one.accelerator == accelerator)

    def strangers(self, known: Iterable[str]) -> tuple[str, ...]:
        """Accelerators that the book prices and nobody else knows: most often a slip of the pen."""
        names = set(known)
        return tuple(sorted({one.accelerator for one in self.quotes} - names))


class _Problem(Exception):
    """One field that cannot be used: what came, what was expected, an example."""

    def __init__(self, field: str, got: object, expected: str, example: str) -> None:
        super().__init__(field)
        self.field, self.got, self.expected, self.example = field, got, expected, example

    def at(self, where: str) -> str:
        """The whole sentence, with the row it is about."""
        got = "missing" if self.got is None else _shown(self.got)
        return f"{where}{self.field} is {got}; expected {self.expected}, e.g. {self.example}"


def _shown(value: object) -> str:
    """A value for a message: short, whatever it is."""
    match value:
        case str():
            return f"{value[:60]!r}{'...' if len(value) > 60 else ''}"
        case bool() | Decimal() | float() | date():
            return str(value)[:60]
        case int():
            return str(value) if abs(value) < 10**40 else f"an integer of {value.bit_length()} bits"
        case list() | tuple():
            return f"a list of {len(value)}"
        case Mapping():
            return f"a mapping of {len(value)}"
        case _:
            return f"a {type(value).__name__}"


def price_book(raw: Any, *, chips_per_node: Mapping[str, int | None] | None = None) -> PriceBook:
    """The price book in a loaded YAML or JSON document.

    The document is a mapping of ``prices`` (a list of rows) and ``currencies`` (by code: ``usd``, ``asOf``). Columns of
    a row are those of ``COLUMNS``; ``usdPerUnit`` and ``rateAsOf`` give a row its own rate, for files without a table.

    Args:
        chips_per_node: chips of a node by accelerator, for prices per node; a row's ``chipsPerNode`` wins.

    Raises:
        BadPriceBook: something in it cannot be used; every row is judged before that is said.
    """
    if not isinstance(raw, Mapping):
        raise BadPriceBook([f"the price book is {_shown(raw)}; expected a mapping, e.g. prices: [...]"])
    problems = [
        f"{_shown(key)} is not a part of a price book; expected prices or currencies, e.g. prices: [...]"
        for key in raw
        if key not in ("prices", "currencies", "apiVersion", "kind")
    ]
    rates: dict[str, Rate] = {"USD": Rate(Decimal(1), date.max)}
    currencies = raw.get("currencies") or {}
    if isinstance(currencies, Mapping):
        for code, entry in list(currencies.items())[:MOST_ROWS]:
            try:
                rates[_code(code)] = _rate_of(_code(code), entry)
            except _Problem as problem:
                problems.append(problem.at(f"currencies.{_shown(code)}: "))
    else:
        problems.append(f"currencies is {_shown(currencies)}; expected a mapping, e.g. EUR: {{usd: 1.08, asOf: ...}}")
    rows = raw.get("prices")
    if not isinstance(rows, list | tuple):
        got = "missing" if rows is None else _shown(rows)
        raise BadPriceBook([*problems, f"prices is {got}; expected a list of rows, e.g. [{{accelerator: h100-sxm}}]"])
    if len(rows) > MOST_ROWS:
        raise BadPriceBook([*problems, f"prices has {len(rows)} rows; expected at most {MOST_ROWS}"])
    quotes: dict[tuple[str, str, str, str], Quote] = {}
    for index, row in enumerate(rows):
        where = f"prices[{index}]: "
        try:
            quote = _quote(row, rates, chips_per_node or {})
            if quote.key in quotes:
                raise _Problem("accelerator", quote.accelerator, "one row for each market of it", "another region")
            quotes[quote.key] = quote
        except _Problem as problem:
            problems.append(problem.at(where))
        except ValueError as error:
            problems.append(f"{where}{error}")
    if problems:
        raise BadPriceBook(problems)
    return PriceBook(tuple(quotes.values()))


def _code(value: object) -> str:
    if not isinstance(value, str) or not value.isalnum() or len(value) > 8:
        raise _Problem("currency", value, "a code of letters", "EUR")
    return value


def _rate_of(code: str, entry: object) -> Rate:
    if not isinstance(entry, Mapping):
        raise _Problem("rate", entry, "a mapping of usd and asOf", "{usd: 1.08, asOf: 2026-11-20}")
    for key in entry:
        if key not in ("usd", "asOf", "source"):
            raise _Problem("rate", _shown(key), "usd, asOf and source", "usd: 1.08")
    rate = Rate(_amount(entry, "usd", "USD for one unit", "1.08"), _day(entry, "asOf", required=True) or date.max)
    if code == "USD" and rate.usd != 1:
        raise _Problem("usd", rate.usd, "1 for USD itself", "1")
    return rate


def _quote(row: object, rates: Mapping[str, Rate], chips_per_node: Mapping[str, int | None]) -> Quote:
    if not isinstance(row, Mapping):
        raise _Problem("row", row, "a mapping", "{accelerator: h100-sxm, capacityType: OnDemand, price: 2.10}")
    for key in row:
        if key not in COLUMNS:
            raise _Problem(_shown(key), row[key], f"one of the columns {', '.join(COLUMNS)}", "price")
    accelerator = _word(row, "accelerator", "h100-sxm", required=True)
    capacity_type = _word(row, "capacityType", "OnDemand", required=True)
    if capacity_type not in CAPACITY_TYPES:
        raise _Problem("capacityType", capacity_type, f"one of {', '.join(CAPACITY_TYPES)}", "OnDemand")
    usd_per_unit, rated, currency = _exchange(row, rates)
    plausibility = _word(row, "plausibility", "Override")
    if plausibility not in ("", "Checked", "Override"):
        raise _Problem("plausibility", plausibility, "Checked or Override", "Override")
    terms = [name for name in OWNED_TERMS if _given(row, name) is not None]
    if terms and capacity_type != "Owned":
        raise _Problem(
            terms[0], row[terms[0]], "terms of ownership with capacityType Owned only", "capacityType: Owned"
        )
    if terms and _given(row, "price") is not None:
        raise _Problem("price", row["price"], "either a price or terms of ownership", "capex: 30000")
    if terms:
        hourly, stated = _owned(row, usd_per_unit), f"{_given(row, 'capex')} {currency} capex"
    else:
        price = _amount(row, "price", "an amount", "2.10")
        unit, hours, chips = _unit(row, accelerator, chips_per_node)
        hourly = price * usd_per_unit / Decimal(hours) / chips
        stated = f"{price:f} {currency} per {unit}"
    if currency != "USD":
        stated += f" at {usd_per_unit:f} USD"
    if hourly > _DEAREST_HOUR:
        raise _Problem("price", stated, f"at most {_DEAREST_HOUR:f} USD an hour", "2.10")
    hourly = Decimal(f"{hourly.quantize(_FINEST):f}".rstrip("0").rstrip("."))  # 20, not 2E+1
    if hourly <= 0:
        raise _Problem("price", stated, "at least a billionth of a USD an hour", "2.10")
    dated = _day(row, "asOf")
    as_of = min(dated, rated) if dated is not None else None if rated == date.max else rated
    return Quote(
        accelerator=accelerator,
        capacity_type=capacity_type,
        provider=_word(row, "provider", "acme"),
        region=_word(row, "region", "eu-central-1"),
        usd_per_chip_hour=hourly,
        as_of=as_of,
        source=_text(row, "source", "contract of 2026-11-01"),
        stated=stated,
        override=plausibility == "Override",
    )


def _exchange(row: Mapping[str, Any], rates: Mapping[str, Rate]) -> tuple[Decimal, date, str]:
    """USD for one unit of the row's currency, the rate's date, and the currency."""
    currency = _word(row, "currency", "USD", required=True)
    if _given(row, "usdPerUnit") is not None:
        rate = _amount(row, "usdPerUnit", f"USD for one {currency}", "1.08")
        if currency == "USD" and rate != 1:
            raise _Problem("usdPerUnit", rate, "1 for USD itself", "1")
        return rate, _day(row, "rateAsOf", required=currency != "USD") or date.max, currency
    if currency not in rates:
        known = ", ".join(sorted(rates))
        raise _Problem(
            "currency", currency, f"one with a rate in currencies ({known})", f"{currency}: {{usd: ..., asOf: ...}}"
        )
    return rates[currency].usd, rates[currency].as_of, currency


def _unit(
    row: Mapping[str, Any], accelerator: str, chips_per_node: Mapping[str, int | None]
) -> tuple[str, float, Decimal]:
    unit = _word(row, "unit", "chip-hour", required=True)
    if unit not in UNITS:
        raise _Problem("unit", unit, f"one of {', '.join(UNITS)}", "chip-hour")
    if not unit.startswith("node"):
        return unit, UNITS[unit], Decimal(1)
    if _given(row, "chipsPerNode") is not None:
        chips = _amount(row, "chipsPerNode", "a whole number of chips", "8")
        if chips != chips.to_integral_value() or chips > 1024:
            raise _Problem("chipsPerNode", row["chipsPerNode"], "a whole number from 1 to 1024", "8")
        return unit, UNITS[unit], chips
    known = chips_per_node.get(accelerator)
    if not known:
        raise _Problem("chipsPerNode", None, f"the chips of a node, since none is known for {accelerator[:63]}", "8")
    return unit, UNITS[unit], Decimal(known)


def _owned(row: Mapping[str, Any], usd_per_unit: Decimal) -> Decimal:
    def number(name: str, expected: str, example: str, default: float | None = None) -> float:
        if _given(row, name) is None and default is not None:
            return default
        return float(_amount(row, name, expected, example, zero=default is not None))

    to_usd = float(usd_per_unit)
    own = Ownership(
        capex_usd=number("capex", "what one chip cost", "30000") * to_usd,
        depreciation_years=number("depreciationYears", "years", "4"),
        wacc=number("wacc", "the cost of capital as a share", "0.08", 0.0),
        salvage_usd=number("salvage", "what one chip is worth in the end", "3000", 0.0) * to_usd,
        opex_usd_per_hour=number("opexPerHour", "upkeep of one chip an hour", "0.35", 0.0) * to_usd,
        availability=number("availability", "a share of hours", "0.97", 1.0),
    )
    return Decimal(repr(owned_usd_per_chip_hour(own)))


def _given(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    return None if value is None or (isinstance(value, str) and not value.strip()) else value


def _amount(row: Mapping[str, Any], name: str, expected: str, example: str, *, zero: bool = False) -> Decimal:
    value = _given(row, name)
    least = "0 or more" if zero else "above 0"
    problem = _Problem(name, value, f"{expected}, a plain number {least}", example)
    if value is None or isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise problem
    text = repr(value) if isinstance(value, float) else str(value).strip() if not _huge(value) else ""
    try:
        number = Decimal(text) if text.isascii() and len(text) <= 40 and "_" not in text else None
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite() or (number < 0 if zero else number <= 0) or number > _DEAREST:
        raise problem
    return number


def _huge(value: object) -> bool:
    """An integer that would take long to print, or a long text."""
    return (isinstance(value, int) and abs(value) > 10**40) or (isinstance(value, str) and len(value) > _LONGEST)


def _word(row: Mapping[str, Any], name: str, example: str, *, required: bool = False) -> str:
    value = _given(row, name)
    if value is None and not required:
        return ""
    text = value.strip() if isinstance(value, str) else None
    if text is None or len(text) > 63 or not _WORD.issuperset(text) or not (text[0].isalnum() and text[-1].isalnum()):
        raise _Problem(name, value, "a word of letters, digits and . _ + -", example)
    return text


def _text(row: Mapping[str, Any], name: str, example: str) -> str:
    value = _given(row, name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _LONGEST or not value.isprintable():
        raise _Problem(name, value, f"a text of at most {_LONGEST} characters", example)
    return value.strip()


def _day(row: Mapping[str, Any], name: str, *, required: bool = False) -> date | None:
    value = _given(row, name)
    if value is None and not required:
        return None
    try:
        text = value.strip() if isinstance(value, str) else ""
        day = value if type(value) is date else date.fromisoformat(text if len(text) == 10 and text.isascii() else "")
    except ValueError:
        raise _Problem(name, value, "a date", "2026-11-21") from None
    if not _FIRST_YEAR <= day.year <= _LAST_YEAR:
        raise _Problem(name, day, f"a date from {_FIRST_YEAR} to {_LAST_YEAR}", "2026-11-21")
    return day


# --- age -------------------------------------------------------------------------------------------------------------


def stale_after_days(capacity_type: str, *, list_days: int = 90, spot_days: int = 7) -> int:
    """Age in days from which a price is stale: spot prices move within hours, lists within months."""
    return spot_days if capacity_type == "Spot" else list_days


def staleness(as_of: date | None, today: date, capacity_type: str, *, list_days: int = 90, spot_days: int = 7) -> str:
    """Why a price is stale, in words; empty when it is not. An undated price has no age, one of the future neither."""
    if as_of is None:
        return ""
    age = (today - as_of).days
    limit = stale_after_days(capacity_type, list_days=list_days, spot_days=spot_days)
    return f"is {age} days old, more than {limit}" if age > limit else ""


def from_the_future(as_of: date | None, today: date) -> str:
    """How far ahead of the clock a price is dated, in words; empty up to a day, which a time zone explains."""
    ahead = (as_of - today).days if as_of is not None else 0
    if as_of is None or ahead <= 1:
        return ""
    return (
        f"is dated {as_of.isoformat()}, {ahead} days ahead of the clock ({today.isoformat()}); "
        f"expected asOf of that day or earlier, or a clock that is right"
    )
