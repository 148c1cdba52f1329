"""What capacity can be had over the coming months, and what demand may come.

Time runs in months: point 0 is today, month m lies between points m - 1 and m. What is ordered at point t is in service
from point t + lead on. Prices are today's in USD and fall by a share a year; capacity is in tokens a month.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidefleet.economics.investment import Residual
from tidefleet.economics.lognormal import checked

Floats = NDArray[np.float64]

MOST_MONTHS = 120
MOST_TYPES = 200
MOST_SCENARIOS = 500
_MOST_USD = 1e12

AGEING = Residual(loss_per_year=0.35, floor_share=0.05)
"""What a used chip is worth where nothing is said: an assumption. 65 % after a year, 27 % after three."""


@dataclass(frozen=True, slots=True)
class Term:
    """A commitment: paid each month whether used or not, at the price of the month in which it begins."""

    months: int
    usd_per_chip_month: float


@dataclass(frozen=True, slots=True)
class Purchase:
    """Terms of buying a chip.

    Attributes:
        usd_per_chip: today, with its share of host, network and building.
        lead_months: from the order, when it is paid, to service.
        running_usd_per_chip_month: space, staff, repair and electricity while it is owned.
        residual: what it is worth used.
        selling_cost_share: of that worth, lost whenever it is sold.
        price_decline_per_year: of the price when new.
    """

    usd_per_chip: float
    lead_months: int = 0
    running_usd_per_chip_month: float = 0.0
    residual: Residual = AGEING
    selling_cost_share: float = 0.1
    price_decline_per_year: float = 0.0


@dataclass(frozen=True, slots=True)
class Holding:
    """Chips owned already, and what one is worth used, today, before the cost of selling it."""

    chips: float
    worth_usd_per_chip: float


@dataclass(frozen=True, slots=True)
class ChipType:
    """One accelerator type as it can be had.

    Attributes:
        tokens_per_chip_month: at the load that is planned for.
        rent_usd_per_chip_month: without commitment; ``None``: cannot be rented so.
        terms: commitments on offer.
        purchase: ``None``: cannot be bought.
        holding: what is owned of it; its running cost and residual are those of ``purchase``.
        price_decline_per_year: of rent and commitments.
        from_month: first point at which it can be ordered or rented.
        superseded_at: point at which its successor comes; ``None``: not within sight.
        superseded_loss_share: of its worth used, lost from then on.
        chips_per_order: chips are bought and committed to in multiples of these; 0: in any fraction.
        purchasable: False: the terms of purchase hold for what is owned only.
    """

    name: str
    tokens_per_chip_month: float
    rent_usd_per_chip_month: float | None = None
    terms: tuple[Term, ...] = ()
    purchase: Purchase | None = None
    holding: Holding | None = None
    price_decline_per_year: float = 0.0
    from_month: int = 0
    superseded_at: int | None = None
    superseded_loss_share: float = 0.0
    chips_per_order: float = 1.0
    purchasable: bool = True


@dataclass(frozen=True, slots=True)
class TokenOffer:
    """Tokens bought as such: an external API, or a next generation of which only its $/token is known.

    Attributes:
        action: what taking it is called: External, or Rent for chips to come.
    """

    name: str
    usd_per_million_tokens: float
    price_decline_per_year: float = 0.0
    from_month: int = 0
    action: str = "External"


@dataclass(frozen=True, slots=True)
class Market:
    """All that is on offer for one pool.

    Attributes:
        known_from: point from which it is known which scenario came; orders before are the same in all.
        discount_per_year: what money costs a year, a share.
    """

    months: int
    types: tuple[ChipType, ...]
    offers: tuple[TokenOffer, ...] = ()
    known_from: int = 6
    discount_per_year: float = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """Tokens a month by scenario: ``tokens`` has shape (scenarios, months), ``probability`` sums to 1."""

    tokens: Floats
    probability: Floats


def check(market: Market, demand: Demand) -> None:
    """Judge every number.

    Raises:
        ValueError: one cannot be used; the message names the type, the field, the value and what was expected.
    """
    checked("months", market.months, least=1, most=MOST_MONTHS, example="36")
    checked("known_from", market.known_from, most=market.months, example="6")
    checked("discount_per_year", market.discount_per_year, most=10.0, example="0.1")
    for one, most, what in ((market.types, MOST_TYPES, "types"), (demand.probability, MOST_SCENARIOS, "scenarios")):
        if len(one) > most:
            raise ValueError(f"there are {len(one)} {what}; expected at most {most}")
    for kind in market.types:
        try:
            _check_type(kind, market.months)
        except ValueError as error:
            raise ValueError(f"{kind.name}: {error}") from None
    for offer in market.offers:
        try:
            checked("usd_per_million_tokens", offer.usd_per_million_tokens, most=1e9, example="0.60")
            checked("price_decline_per_year", offer.price_decline_per_year, least=-1.0, most=1.0, example="0.2")
            checked("from_month", offer.from_month, most=1200, example="18")
        except ValueError as error:
            raise ValueError(f"{offer.name}: {error}") from None
    if demand.tokens.shape != (len(demand.probability), market.months):
        shape = " x ".join(map(str, demand.tokens.shape))
        raise ValueError(f"tokens have shape {shape}; expected scenarios x months, e.g. 3 x {market.months}")
    if not (np.isfinite(demand.tokens).all() and (demand.tokens >= 0).all() and (demand.tokens <= 1e24).all()):
        raise ValueError("tokens hold a negative number, one above 1e24, or none; expected e.g. 2e12 a month")
    if not (demand.probability >= 0).all() or not math.isclose(float(demand.probability.sum()), 1.0, abs_tol=1e-6):
        raise ValueError(f"probability sums to {demand.probability.sum():g}; expected 1, e.g. 0.25, 0.5, 0.25")


def _check_type(kind: ChipType, months: int) -> None:
    checked("tokens_per_chip_month", kind.tokens_per_chip_month, least=1e-9, most=1e18, example="5e9")
    checked("price_decline_per_year", kind.price_decline_per_year, least=-1.0, most=1.0, example="0.2")
    checked("from_month", kind.from_month, most=1200, example="12")
    checked("superseded_loss_share", kind.superseded_loss_share, most=1.0, example="0.3")
    checked("chips_per_order", kind.chips_per_order, most=1e6, example="8")
    if kind.rent_usd_per_chip_month is not None:
        checked("rent_usd_per_chip_month", kind.rent_usd_per_chip_month, most=_MOST_USD, example="1500")
    for term in kind.terms:
        checked("terms.months", term.months, least=1, most=1200, example="12")
        checked("terms.usd_per_chip_month", term.usd_per_chip_month, most=_MOST_USD, example="1100")
    if kind.holding is not None:
        checked("holding.chips", kind.holding.chips, most=1e9, example="64")
        checked("holding.worth_usd_per_chip", kind.holding.worth_usd_per_chip, most=_MOST_USD, example="12000")
    if (own := kind.purchase) is not None:
        checked("purchase.usd_per_chip", own.usd_per_chip, most=_MOST_USD, example="30000")
        lead = checked("purchase.lead_months", own.lead_months, most=1200, example="3")
        if lead >= months:
            raise ValueError(f"purchase.lead_months is {lead:g}; expected less than the horizon of {months}, e.g. 3")
        checked("purchase.running_usd_per_chip_month", own.running_usd_per_chip_month, most=_MOST_USD, example="250")
        checked("purchase.selling_cost_share", own.selling_cost_share, most=1.0, example="0.1")
        checked("purchase.price_decline_per_year", own.price_decline_per_year, least=-1.0, most=1.0, example="0.15")
        own.residual.share(0)
