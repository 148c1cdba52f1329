"""List prices of external APIs for a book that names a provider and no price."""

from __future__ import annotations

from collections.abc import Callable

from tidefleet.catalogue.external_prices import PricesNotInstalled
from tidefleet.economics.external import ExternalOffer, PerToken
from tidefleet.planning.outlook.book import Book, ExternalPrice


class NoListPrice(ValueError):
    """A provider's list price is not known; the message names the field and what to do."""


def with_list_prices(book: Book, offers: Callable[[str], tuple[ExternalOffer, ...]]) -> Book:
    """The book with a list price wherever it names a provider without one: the cheapest of that provider's offers.

    Args:
        offers: what providers charge for a model of the catalogue.

    Raises:
        NoListPrice: the provider has none for the pool's model, or none can be read.
    """
    pools = []
    for i, pool in enumerate(book.pools):
        external = []
        for j, one in enumerate(pool.external):
            if one.usd_per_million_input_tokens is not None:
                external.append(one)
                continue
            path = f"Book {book.name}: pools[{i}].external[{j}]"
            external.append(_listed(path, one, pool.model, offers))
        pools.append(pool.model_copy(update={"external": tuple(external)}))
    return book.model_copy(update={"pools": tuple(pools)})


def _listed(
    path: str, one: ExternalPrice, model: str, offers: Callable[[str], tuple[ExternalOffer, ...]]
) -> ExternalPrice:
    wanted = "expected usdPerMillionInputTokens and usdPerMillionOutputTokens, e.g. 0.88 and 0.88"
    try:
        found = offers(model) if model else ()
    except PricesNotInstalled as error:
        raise NoListPrice(f"{path} has no price, and list prices cannot be read: {error}; {wanted}") from error
    prices = [each.billing for each in found if each.provider == one.provider and isinstance(each.billing, PerToken)]
    if not prices:
        known = ", ".join(sorted({each.provider for each in found})[:8]) or "nobody"
        raise NoListPrice(
            f"{path}.provider is {one.provider!r}, of whom no list price for {model or 'the pool'} is known (known: "
            f"{known}); {wanted}"
        )
    price = min(prices, key=lambda each: each.input + each.output)
    return one.model_copy(
        update={
            "usd_per_million_input_tokens": price.input,
            "usd_per_million_output_tokens": price.output,
            "usd_per_million_cached_input_tokens": price.cached_input,
        }
    )
