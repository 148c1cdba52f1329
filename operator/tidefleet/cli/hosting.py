"""Host or buy: the cheapest external offer for the same tokens, and what it takes for hosting to be cheaper."""

from __future__ import annotations

import datetime
from typing import Any

from tidefleet.catalogue.external_prices import PricesNotInstalled, external_offers
from tidefleet.economics.breakdown import Breakdown, break_even_usd_per_chip_hour
from tidefleet.economics.breakeven import Hosting, break_even_utilisation, host_or_buy
from tidefleet.economics.external import ExternalOffer, TokenVector, blended_usd_per_million, cheapest
from tidefleet.economics.money import MILLION, ChipCost, power_usd_per_hour
from tidefleet.economics.owned import HOURS_PER_MONTH
from tidefleet.economics.shape import TokenShape
from tidefleet.planning.options import PLANNING_UTILISATION


def offers_of(model: str) -> tuple[ExternalOffer, ...]:
    """What providers charge for a model today.

    Raises:
        PricesNotInstalled: genai-prices is not installed.
    """
    return external_offers(model, datetime.datetime.now(tz=datetime.UTC).date())


def tokens_of(shape: TokenShape) -> TokenVector:
    """Tokens of a mean request."""
    return TokenVector(shape.uncached, shape.cached, shape.output_mean, requests=1.0)


def host_or_buy_of(
    priced: Breakdown,
    chip: ChipCost,
    usd_per_chip_hour: float | None,
    tokens_per_month: float | None,
    utilisation: float,
) -> dict[str, Any]:
    """The lines about buying the same tokens outside, by name; ``None`` and a reason where no offer is known.

    Args:
        chip: what electricity costs beside the rent.
        usd_per_chip_hour: ``None``: no price is known, and only the price at which hosting would win is told.
        tokens_per_month: ``None``: what one replica carries.
    """
    found = priced.estimate
    answer: dict[str, Any] = {
        "external_api": None,
        "break_even_usd_per_chip_hour": None,
        "break_even_utilisation": None,
        "break_even_tokens_per_month": None,
        "break_even_tokens_per_month_always": None,
        "host_or_buy": None,
    }
    try:
        offers = offers_of(found.replica.model.name)
    except PricesNotInstalled as error:
        return answer | {"host_or_buy": str(error)}
    tokens = tokens_of(found.shape)
    offer = cheapest(offers, tokens)
    if offer is None:
        return answer | {"host_or_buy": f"no external price of {found.replica.model.name} is known"}
    api = blended_usd_per_million(offer, tokens, prompt_tokens=found.shape.input_mean)
    answer |= {
        "external_api": {
            "name": offer.name,
            "usd_per_million_tokens": api,
            "as_of": offer.as_of,
            "source": offer.source,
        },
        "break_even_usd_per_chip_hour": break_even_usd_per_chip_hour(found, api, utilisation=utilisation, chip=chip),
    }
    if usd_per_chip_hour is None:
        return answer
    full = found.requests_per_second * 3600.0 * tokens.total
    load = utilisation if utilisation < 1 else PLANNING_UTILISATION
    hosting = Hosting(priced.cost.usd_per_hour * HOURS_PER_MONTH, full * load * HOURS_PER_MONTH)
    line = host_or_buy(
        hosting,
        tokens_per_month=tokens_per_month or hosting.tokens_per_replica_month,
        api_usd_per_million_tokens=api,
        api=offer.name,
    )
    return answer | {
        "break_even_utilisation": _utilisation(priced, chip, full, api, utilisation),
        "break_even_tokens_per_month": line.break_even.first,
        "break_even_tokens_per_month_always": line.break_even.always,
        "host_or_buy": line.sentence,
    }


def _utilisation(priced: Breakdown, chip: ChipCost, full: float, api: float, utilisation: float) -> float | None:
    """Share of capacity at which hosting costs what the API does; ``None`` where a token's own power costs as much.

    Electricity is paid for idle chips, too, and grows with the load.
    """
    idle, busy, now = (power_usd_per_hour(priced.estimate, chip, load) for load in (0.0, 1.0, utilisation))
    left = api - (busy - idle) / full * MILLION
    return break_even_utilisation(priced.cost.usd_per_hour - now + idle, full, left) if left > 0 else None
