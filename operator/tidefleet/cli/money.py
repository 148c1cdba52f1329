"""`tidefleet money`: tokens, cost, revenue and cash over months, and what to buy, commit to, rent and sell."""

from __future__ import annotations

import datetime
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tidefleet import catalogue
from tidefleet.catalogue.aiconfigurator import kernel_tables
from tidefleet.cli.hosting import offers_of
from tidefleet.cli.money_listed import NoListPrice, with_list_prices
from tidefleet.cli.money_page import page
from tidefleet.cli.money_rows import answer_of, what_if_of
from tidefleet.cli.money_table import print_money
from tidefleet.cli.output import fail, json_text, put
from tidefleet.cli.prices import with_price_book
from tidefleet.cli.validate import UnreadableError, documents, read
from tidefleet.planning.capacity.market import MOST_MONTHS
from tidefleet.planning.outlook.book import BadBook, Book, parse_book
from tidefleet.planning.outlook.outlook import Outlook, outlook
from tidefleet.planning.outlook.pricing import Facts
from tidefleet.planning.outlook.supposed import supposed
from tidefleet.planning.what_if import MONEY_KINDS, BadQuestion, parse_what_if

_MOST_ELASTICITY = 100.0


class MoneyForm(StrEnum):
    """What the command prints."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


def money(
    filename: Annotated[
        str, typer.Option("--filename", "-f", help="The book: a file of YAML or JSON, or - for standard input.")
    ],
    horizon: Annotated[str, typer.Option(help="How far to look: months or years, e.g. 36m or 3y.")] = "36m",
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            help="Look once more under another price of external APIs, of what is sold, of electricity or of chips, "
            "another hit rate or demand, e.g. api-price:*0.2, sell-price:chat*0.2, electricity:*2, hit:chat=0.3, "
            "price:h200-sxm*0.7, demand:chat*1.5; several hold together.",
        ),
    ] = None,
    elasticity: Annotated[
        str, typer.Option(help="How demand answers to price: D' = D (p'/p)^-e for each of these, e.g. 0.5,1,2.")
    ] = "0.5,1,2",
    prices: Annotated[
        Path | None,
        typer.Option("--prices", help="A price book laid over the catalogue, for rents the book leaves out."),
    ] = None,
    form: Annotated[MoneyForm, typer.Option("-o", "--output", help="table, json or html.")] = MoneyForm.TABLE,
    output_file: Annotated[Path | None, typer.Option(help="File to write to, instead of standard output.")] = None,
) -> None:
    """What pools cost, earn and are worth over months, and what to buy, commit to, rent and sell for them.

    The book states pools, terms of accelerators, classes and what they earn, and scenarios of demand. What a chip
    serves comes from the same cost model as `tidefleet cost`, unless the book states it.
    """
    months = _months(horizon)
    elasticities = _elasticities(elasticity)
    facts = _facts(prices)
    book = _book(filename, facts, months)
    try:
        questions = [parse_what_if(one, MONEY_KINDS) for one in what_if or []]
        changed = supposed(book, questions, facts.kinds) if questions else None
    except BadQuestion as error:
        fail(f"--what-if {error}", 2)
    found = _looked(book, facts, months)
    answer = answer_of(found, elasticities)
    if changed is not None:
        answer["what_if"] = what_if_of(what_if or [], found, _looked(changed, facts, months))
    _write(answer, form, output_file)


def _months(text: str) -> int:
    match = re.fullmatch(r"\s*([0-9]{1,6})\s*([my]?)\s*", text)
    months = int(match[1]) * (12 if match[2] == "y" else 1) if match else 0
    if not 1 <= months <= MOST_MONTHS:
        fail(f"--horizon is {text[:40]!r}; expected 1 to {MOST_MONTHS} months, e.g. 36m or 3y", 2)
    return months


def _elasticities(text: str) -> list[float]:
    found: list[float] = []
    for one in text.split(","):
        try:
            value = float(one)
        except ValueError:
            value = -1.0
        if not 0.0 <= value <= _MOST_ELASTICITY:
            fail(f"--elasticity is {text[:80]!r}; expected numbers from 0 to {_MOST_ELASTICITY:g}, e.g. 0.5,1,2", 2)
        found.append(value)
    return found


def _facts(prices: Path | None) -> Facts:
    today = datetime.datetime.now(tz=datetime.UTC).date()
    kinds = with_price_book(catalogue.accelerator_types(), prices)
    return Facts(kinds, catalogue.models(), today, other=kernel_tables())


def _book(filename: str, facts: Facts, months: int) -> Book:
    try:
        found = list(documents(read(filename), filename))
    except UnreadableError as error:
        fail(f"{filename}: {error}; expected a book, e.g. deploy/samples/money/book.yaml", 2)
    if len(found) != 1 or found[0].unreadable:
        told = found[0].unreadable if found and found[0].unreadable else f"holds {len(found)} documents"
        line = found[0].line if found else 1
        fail(f"{filename}:{line}: {told}; expected one book, e.g. deploy/samples/money/book.yaml", 2)
    try:
        book = parse_book(found[0].content, accelerators=facts.kinds.keys(), models=facts.models.keys(), months=months)
        return with_list_prices(book, offers_of)
    except NoListPrice as error:
        fail(f"{filename}: {error}", 2)
    except BadBook as error:
        fail("\n".join(f"{filename}: {line}" for line in str(error).splitlines()), 2)


def _looked(book: Book, facts: Facts, months: int) -> Outlook:
    try:
        return outlook(book, facts, months)
    except ValueError as error:
        fail(f"Book {book.name}: {error}")


def _write(answer: dict[str, Any], form: MoneyForm, path: Path | None) -> None:
    match form:
        case MoneyForm.JSON:
            text = json_text(answer)
        case MoneyForm.HTML:
            text = page(answer)
        case MoneyForm.TABLE:
            if path is None:
                print_money(answer)
                return
            text = print_money(answer, capture=True)
    put(text, path)
