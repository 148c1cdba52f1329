"""How commands print: tables for people, JSON for programs, errors on stderr."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table


class Form(StrEnum):
    """What a command prints."""

    TABLE = "table"
    JSON = "json"


def print_json(value: Any) -> None:
    """A value as indented JSON on stdout; see ``json_text``."""
    typer.echo(json_text(value))


def json_text(value: Any) -> str:
    """A value as indented JSON; a number that JSON has no word for (infinite, NaN) is null."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: _finite(one) for key, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
        case _:
            return value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; columns that begin with ``#`` are numbers and aligned to the right."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip("#"), justify="right" if column.startswith("#") else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(soft_wrap=False).print(table)


def fail(message: str, status: int = 1) -> NoReturn:
    """Say what is wrong on stderr and end."""
    typer.echo(f"tidefleet: {message}", err=True)
    raise typer.Exit(status)
