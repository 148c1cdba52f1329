"""What an hour of an accelerator costs whoever bought it: capital, its cost, and what keeps it running."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tidefleet.economics.lognormal import checked

HOURS_PER_YEAR = 8760.0
HOURS_PER_MONTH = HOURS_PER_YEAR / 12.0


@dataclass(frozen=True, slots=True)
class Ownership:
    """Terms on which one chip is owned, with its share of host, network and building.

    Attributes:
        capex_usd: paid once, USD per chip; above 0.
        depreciation_years: life over which it is paid off, years; above 0.
        wacc: cost of capital per year as a share, e.g. 0.08; 0 = none.
        salvage_usd: worth at the end of that life, USD per chip, at most ``capex_usd``.
        opex_usd_per_hour: space, staff, repair, USD per chip-hour; electricity only if it is not counted elsewhere.
        availability: share of hours in which the chip can be used, in (0, 1].
    """

    capex_usd: float
    depreciation_years: float
    wacc: float = 0.0
    salvage_usd: float = 0.0
    opex_usd_per_hour: float = 0.0
    availability: float = 1.0


def capital_recovery_factor(wacc: float, years: float) -> float:
    """CRF = i / (1 - (1 + i)^-n): the yearly payment for each USD borrowed at rate i for n years; 1/n at i = 0.

    Raises:
        ValueError: the rate is not in 0..1, or the years are not in (0, 100].
    """
    wacc = checked("wacc", wacc, most=1.0, example="0.08")
    years = checked("depreciationYears", years, least=0.01, most=100.0, example="4")
    return 1.0 / years if wacc < 1e-12 else wacc / -math.expm1(-years * math.log1p(wacc))


def owned_usd_per_chip_hour(own: Ownership) -> float:
    """c = (capex - salvage * (1 + i)^-n) * CRF(i, n) / 8760 / availability + opex, USD per usable chip-hour.

    The salvage value comes at the end, so it counts for what it is worth today.

    Raises:
        ValueError: a term is missing, negative, not finite, or contradicts another; the message names it.
    """
    capex = checked("capex", own.capex_usd, least=1e-9, most=1e9, example="30000")
    salvage = checked("salvage", own.salvage_usd, most=1e9, example="3000")
    if salvage > capex:
        raise ValueError(f"salvage is {salvage:g}; expected at most the capex of {capex:g}, e.g. {capex / 10:g}")
    opex = checked("opexPerHour", own.opex_usd_per_hour, most=1e4, example="0.35")
    availability = checked("availability", own.availability, least=1e-3, most=1.0, example="0.97")
    factor = capital_recovery_factor(own.wacc, own.depreciation_years)
    invested = capex - salvage * math.pow(1.0 + own.wacc, -own.depreciation_years)
    return invested * factor / HOURS_PER_YEAR / availability + opex
