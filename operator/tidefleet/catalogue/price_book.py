"""Reads a price book from a YAML, JSON or CSV file, and refuses files that are too large or refer to themselves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tidefleet.economics.prices import COLUMNS, MOST_ROWS, BadPriceBook, PriceBook, price_book

LARGEST_BYTES = 1024 * 1024
"""What a ConfigMap can hold."""

_NEEDED = ("accelerator", "capacityType", "currency")


class _Plain(yaml.SafeLoader):
    """YAML without anchors: an alias lets a few lines stand for more than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.line + 1} refers to an anchor; write the values out")
        return super().compose_node(parent, index)


def load_price_book(path: Path, *, chips_per_node: Mapping[str, int | None] | None = None) -> PriceBook:
    """The price book in a file; ``.csv`` is read as CSV, anything else as YAML.

    Args:
        chips_per_node: chips of a node by accelerator, for prices per node.

    Raises:
        BadPriceBook: the file cannot be read, is too large, or something in it cannot be used.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise BadPriceBook([f"{path}: cannot be read: {error.strerror or error}"]) from error
    if len(data) > LARGEST_BYTES:
        raise BadPriceBook([f"{path}: is larger than {LARGEST_BYTES} bytes; expected a price book, e.g. prices: [...]"])
    try:
        text = data.decode("utf-8-sig")
        return parse_price_book(text, form=path.suffix.lower().lstrip("."), chips_per_node=chips_per_node)
    except UnicodeDecodeError as error:
        raise BadPriceBook([f"{path}: is not UTF-8 (byte {error.start})"]) from error
    except BadPriceBook as error:
        raise BadPriceBook([f"{path}: {one}" for one in error.problems]) from error


def parse_price_book(
    text: str, *, form: str = "yaml", chips_per_node: Mapping[str, int | None] | None = None
) -> PriceBook:
    """The price book in a text.

    Args:
        form: ``csv``, else YAML or JSON.
        chips_per_node: chips of a node by accelerator, for prices per node.

    Raises:
        BadPriceBook: it cannot be parsed, or something in it cannot be used.
    """
    if form == "csv":
        return price_book({"prices": _csv_rows(text)}, chips_per_node=chips_per_node)
    try:
        raw = yaml.load(text, Loader=_Plain)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:300]
        raise BadPriceBook([f"is not YAML: {why}"]) from error
    return price_book(raw, chips_per_node=chips_per_node)


def _csv_rows(text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [str(name).strip() for name in reader.fieldnames or ()]
        problems = [
            f"column {name[:60]!r} is not known; expected {', '.join(COLUMNS)}" for name in names if name not in COLUMNS
        ]
        least = ", ".join(_NEEDED)
        problems += [f"column {name} is missing; expected at least {least}" for name in _NEEDED if name not in names]
        problems += [f"column {name} is there twice" for name in sorted(set(names)) if names.count(name) > 1]
        if problems:
            raise BadPriceBook(problems)
        reader.fieldnames = names
        rows: list[dict[str, Any]] = []
        for row in reader:
            if len(rows) >= MOST_ROWS:
                raise BadPriceBook([f"line {reader.line_num}: expected at most {MOST_ROWS} rows"])
            if None in row or None in row.values():
                expected = f"expected {len(names)} values, as in the first line"
                raise BadPriceBook([f"line {reader.line_num}: has another number of values; {expected}"])
            rows.append(dict(row))
        return rows
    except csv.Error as error:
        raise BadPriceBook([f"line {reader.line_num}: is not CSV: {error}"]) from error
