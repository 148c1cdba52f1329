"""A price book laid over accelerator types: what the book prices it prices alone, the rest keeps its own prices."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from decimal import Decimal

from tidefleet.api import AcceleratorType
from tidefleet.api.accelerator_type import Plausibility, Price
from tidefleet.api.vocabulary import CapacityType
from tidefleet.economics.prices import PriceBook, Quote


def known_prices(kinds: Iterable[AcceleratorType]) -> dict[str, tuple[Decimal, ...]]:
    """USD per chip-hour that a catalogue lists, by type: what a price of the same type is compared with."""
    return {kind.name: tuple(one.usd_per_chip_hour for one in kind.spec.prices) for kind in kinds}


def node_chips(kinds: Iterable[AcceleratorType]) -> dict[str, int | None]:
    """Chips of a node by type, for prices per node."""
    return {kind.name: kind.spec.chips_per_node for kind in kinds}


def priced(kind: AcceleratorType, book: PriceBook) -> AcceleratorType:
    """The type with the book's prices in the place of its own, for each capacity type that the book prices.

    The book is what one pays: a list price of another provider that happens to be lower must not be chosen before it.
    Node selectors, terms and availability of the type's own prices are kept: a book does not state them.
    """
    quotes = book.of(kind.name)
    if not quotes:
        return kind
    replaced = {one.capacity_type for one in quotes}
    own = kind.spec.prices
    kept = tuple(one for one in own if str(one.capacity_type) not in replaced)
    prices = (*(_entry(one, own) for one in quotes), *kept)
    return kind.model_copy(update={"spec": kind.spec.model_copy(update={"prices": prices})})


def in_term(kind: AcceleratorType, today: datetime.date) -> AcceleratorType:
    """The type without prices whose term is over."""
    kept = tuple(one for one in kind.spec.prices if one.term_ends_on is None or today <= one.term_ends_on)
    if len(kept) == len(kind.spec.prices):
        return kind
    return kind.model_copy(update={"spec": kind.spec.model_copy(update={"prices": kept})})


def _entry(quote: Quote, own: Iterable[Price]) -> Price:
    same = [one for one in own if str(one.capacity_type) == quote.capacity_type]
    exact = [one for one in same if (one.provider, one.region) == (quote.provider, quote.region)]
    like = next(iter(exact or same), None)
    words = "; ".join(part for part in (quote.source, f"price book: {quote.stated}") if part)
    return Price(
        capacity_type=CapacityType(quote.capacity_type),
        provider=quote.provider,
        region=quote.region,
        usd_per_chip_hour=quote.usd_per_chip_hour,
        as_of=quote.as_of,
        source=words[:1024],
        node_selector=like.node_selector if like else {},
        minimum_term_days=like.minimum_term_days if like else None,
        term_ends_on=like.term_ends_on if like else None,
        chips=like.chips if like else None,
        availability=like.availability if like else None,
        plausibility=Plausibility.OVERRIDE if quote.override else None,
    )


def with_book(kinds: Mapping[str, AcceleratorType], book: PriceBook) -> dict[str, AcceleratorType]:
    """Every type with the book's prices."""
    return {name: priced(kind, book) for name, kind in kinds.items()}
