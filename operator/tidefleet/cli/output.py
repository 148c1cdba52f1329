"""How commands print: tables for people, JSON for programs, errors on stderr."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
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


def put(text: str, path: Path | None, *, option: str = "--output-file") -> None:
    """A text on stdout, or into a file, whose name is then told; see ``save``."""
    if path is None:
        typer.echo(text.rstrip("\n"))
        return
    save(text, path, option=option)
    typer.echo(f"wrote {path}")


def save(text: str, path: Path, *, option: str = "--output-file") -> None:
    """A text into a file; one that cannot be written ends the command, with the ``option`` that named it."""
    try:
        path.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    except OSError as error:
        fail(f"{option} {path}: cannot be written: {error.strerror}; expected a file in a directory that exists", 2)


def fail(message: str, status: int = 1) -> NoReturn:
    """Say what is wrong on stderr and end."""
    typer.echo(f"tidefleet: {message}", err=True)
    raise typer.Exit(status)
