"""Numbers as people read them in a reason: few significant digits, no exponents."""

from __future__ import annotations

import math


def rounded(value: float, digits: int = 2) -> float:
    """The value with so many significant digits; 0, infinite (or nearly so) and NaN stay as they are."""
    if value == 0 or not abs(value) < 1e300:
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))


def rounded_down(value: float, digits: int = 2) -> float:
    """As ``rounded``, but never above a value of at least 0: for a limit that must hold as it is told."""
    short = rounded(value, digits)
    if short <= value or not math.isfinite(short):
        return short
    return rounded(short - 10.0 ** (math.floor(math.log10(value)) + 1 - digits), digits)


_PROVENANCES = {
    "Live": "calibrated live",
    "Profile": "measured profile",
    "Group": "calibrated by group",
    "AIConfigurator": "aiconfigurator",
}


def sureness(provenance: str, sigma: float) -> str:
    """What an estimate rests on and how sure it is, e.g. ``calibrated live, ±4 %``."""
    return f"{_PROVENANCES.get(provenance, provenance.lower())}, ±{100.0 * sigma:.0f} %"


def brief(value: float, digits: int = 2) -> str:
    """The value with so many significant digits and thousands separators, e.g. ``0.42``, ``7.3``, ``1,200``."""
    short = rounded(value, digits)
    if not math.isfinite(short):
        return str(short)
    places = 0 if short == 0 else max(0, digits - 1 - math.floor(math.log10(abs(short))))
    text = f"{short:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
