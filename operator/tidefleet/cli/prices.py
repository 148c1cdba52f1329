"""`--prices FILE`: a price book laid over the accelerator types that a command works with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tidefleet import catalogue
from tidefleet.api import AcceleratorType
from tidefleet.api.validation import implausible_prices
from tidefleet.cli.output import fail
from tidefleet.economics.prices import BadPriceBook
from tidefleet.planning.prices import known_prices, node_chips, priced


def with_price_book(kinds: Mapping[str, AcceleratorType], path: Path | None) -> dict[str, AcceleratorType]:
    """The types with a price book's prices; as they are without one.

    Ends the command, with every problem, when the book cannot be used, prices a type that nobody knows, or holds a
    price that looks like a mistake of unit and does not say that it is right.
    """
    if path is None:
        return dict(kinds)
    try:
        book = catalogue.load_price_book(path, chips_per_node=node_chips(kinds.values()))
    except BadPriceBook as error:
        fail("\n".join(f"--prices {one}" for one in error.problems), 2)
    strangers = book.strangers(kinds)
    if strangers:
        near = [name for name in kinds if name.split("-")[0] == strangers[0].split("-")[0]] or sorted(kinds)
        fail(f"--prices {path}: prices {', '.join(strangers)}; expected an AcceleratorType, e.g. {near[0]}", 2)
    shipped = known_prices(catalogue.accelerator_types().values())
    found = {name: priced(kind, book) for name, kind in kinds.items()}
    wrong = [
        f"--prices {path}: {problem}"
        for name, kind in found.items()
        if book.of(name)
        for problem in implausible_prices(kind, shipped.get(name, ()))
    ]
    if wrong:
        fail("\n".join(wrong), 2)
    return found
