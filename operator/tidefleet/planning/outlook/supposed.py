"""What-ifs of a book: another price of chips, of external APIs or of what is sold, another tariff, hit rate, demand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tidefleet.api import AcceleratorType
from tidefleet.api.base import Model
from tidefleet.api.vocabulary import CapacityType
from tidefleet.planning.from_api import chosen_price
from tidefleet.planning.outlook.book import (
    AcceleratorTerms,
    Book,
    ClassTerms,
    PoolTerms,
    Rent,
    RevenueTerms,
)
from tidefleet.planning.what_if import BadQuestion, WhatIf


def supposed(book: Book, questions: Iterable[WhatIf], kinds: Mapping[str, AcceleratorType]) -> Book:
    """The book as the questions suppose it.

    Args:
        kinds: the catalogue, for rents that the book leaves to it.

    Raises:
        BadQuestion: one is about something that the book does not hold, or that it cannot change.
    """
    for question in questions:
        match question.kind:
            case "price":
                book = _priced(book, question, kinds)
            case "api-price":
                book = _with_api_price(book, question)
            case "sell-price":
                book = _sold(book, question)
            case "electricity":
                tariff = question.applied(book.electricity.usd_per_kilowatt_hour)
                if question.target:
                    raise BadQuestion(f"{question} names {question.target!r}; expected no name, e.g. electricity:*2")
                book = _changed(book, electricity=_changed(book.electricity, usd_per_kilowatt_hour=tariff))
            case "hit":
                book = _hit(book, question)
            case _:
                book = _asked(book, question)
    return book


_Part = TypeVar("_Part", bound=Model)


def _changed(model: _Part, **fields: Any) -> _Part:
    return model.model_copy(update=fields)


def _among(question: WhatIf, names: Sequence[str], what: str) -> None:
    if question.target and question.target not in names:
        example = f", e.g. {question.kind}:{names[0]}*0.5" if names else ""
        raise BadQuestion(f"{question} is about {question.target!r}; expected {what} of the book{example}")


def _is_about(question: WhatIf, *names: str) -> bool:
    return question.target in ("", *names)


def _priced(book: Book, question: WhatIf, kinds: Mapping[str, AcceleratorType]) -> Book:
    _among(question, [one.name for one in book.accelerators], "a type")
    return _changed(
        book,
        accelerators=tuple(
            _type_priced(one, question, kinds) if _is_about(question, one.name) else one for one in book.accelerators
        ),
    )


def _type_priced(one: AcceleratorTerms, question: WhatIf, kinds: Mapping[str, AcceleratorType]) -> AcceleratorTerms:
    """``*`` multiplies rent, commitments and purchase; ``=`` sets the rent."""
    if question.op == "=":
        return _changed(one, rent=Rent(usd_per_chip_hour=question.value), rentable=True)
    rent = one.rent
    if rent is None and one.rentable and one.name in kinds:
        listed = chosen_price(kinds[one.name], CapacityType.ON_DEMAND)
        rent = None if listed is None else Rent(usd_per_chip_hour=float(listed.usd_per_chip_hour))
    return _changed(
        one,
        rent=None if rent is None else Rent(usd_per_chip_hour=question.applied(rent.usd_per_chip_hour)),
        reserve=tuple(
            _changed(each, usd_per_chip_hour=question.applied(each.usd_per_chip_hour)) for each in one.reserve
        ),
        buy=None if one.buy is None else _changed(one.buy, usd_per_chip=question.applied(one.buy.usd_per_chip)),
    )


_API_PRICES = (
    "usd_per_million_input_tokens",
    "usd_per_million_output_tokens",
    "usd_per_million_cached_input_tokens",
)


def _with_api_price(book: Book, question: WhatIf) -> Book:
    providers = [each.provider for pool in book.pools for each in pool.external]
    _among(question, providers, "a provider")
    if not providers:
        raise BadQuestion(f"{question}: the book names no external API; expected one, e.g. pools[0].external")
    pools = []
    for pool in book.pools:
        external = tuple(
            _changed(each, **_applied(each, question, _API_PRICES)) if _is_about(question, each.provider) else each
            for each in pool.external
        )
        pools.append(_changed(pool, external=external))
    return _changed(book, pools=tuple(pools))


def _applied(model: Model, question: WhatIf, fields: Iterable[str]) -> dict[str, float]:
    told = {name: getattr(model, name) for name in fields}
    return {name: question.applied(value) for name, value in told.items() if value is not None}


_SOLD = {
    "usage": _API_PRICES,
    "seat": ("usd_per_month",),
    "internal": ("usd_per_million_tokens",),
}


def _sold(book: Book, question: WhatIf) -> Book:
    _among(question, [one.name for one in book.classes], "a class")
    classes = tuple(
        _changed(one, revenue=_resold(one.revenue, question))
        if one.revenue is not None and _is_about(question, one.name)
        else one
        for one in book.classes
    )
    return _changed(book, classes=classes)


def _resold(revenue: RevenueTerms, question: WhatIf) -> RevenueTerms:
    for name, fields in _SOLD.items():
        told = getattr(revenue, name)
        if told is not None:
            if name == "seat" and question.value == 0:
                raise BadQuestion(f"{question} makes a seat free; expected a price above 0, e.g. {question.kind}:*0.5")
            return _changed(revenue, **{name: _changed(told, **_applied(told, question, fields))})
    return revenue


def _hit(book: Book, question: WhatIf) -> Book:
    names = [one.name for one in book.classes] + [one.name for one in book.pools]
    _among(question, names, "a class or pool")
    stated = {each.pool: kind.name for kind in book.accelerators for each in kind.speeds}
    classes: list[ClassTerms] = []
    for one in book.classes:
        if not _is_about(question, one.name, one.pool):
            classes.append(one)
            continue
        if one.pool in stated:
            raise BadQuestion(
                f"{question}: the speed of {stated[one.pool]} for {one.pool} is stated, so no hit rate changes it; "
                "expected a pool that the cost model prices"
            )
        classes.append(_changed(one, cached_share=min(1.0, question.applied(one.cached_share))))
    return _changed(book, classes=tuple(classes))


def _asked(book: Book, question: WhatIf) -> Book:
    pools: Sequence[PoolTerms] = book.pools
    _among(question, [one.name for one in pools], "a pool")
    if question.op == "=":
        raise BadQuestion(f"{question} sets a demand; expected a factor, e.g. demand:{pools[0].name}*1.3")
    fields = ("users", "tokens_per_month")
    classes = tuple(
        _changed(one, **_applied(one, question, fields)) if _is_about(question, one.pool) else one
        for one in book.classes
    )
    return _changed(book, classes=classes)
