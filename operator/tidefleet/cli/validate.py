"""`tidefleet validate`: says everything that is wrong with manifests, before a cluster sees them."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from tidefleet import catalogue
from tidefleet.api import GROUP, validation
from tidefleet.api.accelerator_type import AcceleratorType
from tidefleet.api.base import render
from tidefleet.api.references import check
from tidefleet.api.validation import Invalid, Parsed
from tidefleet.planning.prices import known_prices

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 300
MAX_NODES = 500_000
"""Values in one document with its aliases written out: enough for thousands of objects, too few for an alias bomb."""
SUFFIXES = frozenset({".yaml", ".yml", ".json"})


class OutputForm(StrEnum):
    """How the answer is written."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file: where it begins, and what it holds or why it cannot be read."""

    file: str
    line: int
    content: Any = None
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class Complaint:
    """One problem and where the document begins that has it."""

    file: str
    line: int
    object: str
    path: str
    message: str
    reason: str

    def __str__(self) -> str:
        """One line, file and line first."""
        return f"{self.file}:{self.line}: {self.message}"


class UnreadableError(Exception):
    """A file or document cannot be read; the message says why."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML as kubectl does: no times of day taken for numbers, no dates, exponents without a sign."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  PyYAML's own interface

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A map with string keys, each once."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if key.value in seen:
                raise UnreadableError(f"line {key.start_mark.line + 1}: the key {render(key.value)} stands twice")
            seen.add(key.value)
        result: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return {key if isinstance(key, str) else render(key): value for key, value in result.items()}


_MERGE = "tag:yaml.org,2002:merge"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", list("tTfFyYnNoO")),
    ("int", r"[-+]?(0b[01_]+|0[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?([0-9][0-9_]*\.?[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _size(node: yaml.Node, sizes: dict[int, int], above: set[int]) -> int:
    """Values below a node with aliases written out.

    Raises:
        UnreadableError: A value contains itself, or there are too many values.
    """
    if id(node) in above:
        raise UnreadableError("a value contains itself")
    if id(node) not in sizes:
        above.add(id(node))
        below: Iterable[yaml.Node] = ()
        if isinstance(node, yaml.MappingNode):
            below = (part for pair in node.value for part in pair)
        elif isinstance(node, yaml.SequenceNode):
            below = node.value
        sizes[id(node)] = 1 + sum(_size(each, sizes, above) for each in below)
        above.discard(id(node))
    if sizes[id(node)] > MAX_NODES:
        raise UnreadableError(f"more than {MAX_NODES} values, aliases written out")
    return sizes[id(node)]


def _measure(text: str) -> None:
    """Goes through the text without building anything: libyaml's composer ends the process on deep nesting.

    Raises:
        UnreadableError: It is nested too deep, or has too many values.
        YAMLError: It is no YAML.
    """
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise UnreadableError(f"nested deeper than {MAX_DEPTH} levels")
        if count > 2 * MAX_NODES:
            raise UnreadableError(f"more than {MAX_NODES} values")


def documents(text: str, file: str) -> Iterator[Document]:
    """The documents of a text; what cannot be read is a document that says why, and ends the file."""
    line = 1
    try:
        # A text that breaks off still has its first documents read; the composer then meets the same error.
        with contextlib.suppress(yaml.YAMLError):
            _measure(text)
        with contextlib.ExitStack() as stack:
            loader = _Loader(text)
            stack.callback(loader.dispose)
            while loader.check_node():
                node = loader.get_node()
                line = node.start_mark.line + 1
                _size(node, {}, set())
                for item in _items(loader.construct_document(node)):
                    yield Document(file, line, item)
    except UnreadableError as error:
        yield Document(file, line, unreadable=str(error))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        yield Document(file, mark.line + 1 if mark else line, unreadable=f"no YAML: {error.problem or error.context}")
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:
        yield Document(file, line, unreadable=f"no YAML: {render(str(error))}")
    except RecursionError:
        yield Document(file, line, unreadable="nested too deep")


def _items(content: Any) -> Iterator[Any]:
    """The objects of a document: those of a List, else the one there is."""
    if content is None:
        return
    if isinstance(content, dict) and content.get("kind") == "List" and isinstance(content.get("items"), list):
        yield from content["items"]
    else:
        yield content


def read(name: str) -> str:
    """The text of a file, or of standard input for `-`.

    Raises:
        UnreadableError: It cannot be read, is too large or is no UTF-8.
    """
    try:
        if name == "-":
            raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(name, "rb") as stream:
                raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from None
    if len(raw) > MAX_BYTES:
        raise UnreadableError(f"larger than {MAX_BYTES // 1024 // 1024} MiB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise UnreadableError("no UTF-8 text") from None


def files(names: Sequence[str]) -> Iterator[str]:
    """The files meant: those named, and every manifest below a directory, in order of their names."""
    for name in names:
        path = Path(name)
        if name != "-" and path.is_dir():
            yield from (str(each) for each in sorted(path.rglob("*")) if each.suffix in SUFFIXES and each.is_file())
        else:
            yield name


def _is_ours(content: Any) -> bool:
    """Whether the object claims to be of our group; what has no apiVersion does, so that it is complained of."""
    version = content.get("apiVersion") if isinstance(content, dict) else None
    return not isinstance(version, str) or version.partition("/")[0] == GROUP


def _is_a_manifest(content: Any) -> bool:
    """Whether it means to be one: below a directory, files of options and terms stand beside manifests."""
    return not isinstance(content, dict) or "apiVersion" in content or "kind" in content


def complaints(names: Sequence[str]) -> tuple[list[Complaint], list[Parsed]]:
    """Everything that is wrong in the files, and the objects that are right on their own."""
    found: list[Complaint] = []
    parsed: dict[str, Parsed] = {}
    places: dict[str, Document] = {}

    def complain(place: Document, name: str, path: str, message: str, reason: str = "InvalidField") -> None:
        found.append(Complaint(place.file, place.line, name, path, message, reason))

    for name in files(names):
        try:
            texts = list(documents(read(name), name))
        except UnreadableError as error:
            texts = [Document(name, 1, unreadable=str(error))]
        for document in texts:
            if document.unreadable:
                complain(document, "", "", document.unreadable, "Unreadable")
                continue
            if not _is_ours(document.content) or (name not in names and not _is_a_manifest(document.content)):
                continue
            result = validation.parse(document.content, strict=True)
            if isinstance(result, Invalid):
                for each in result.problems:
                    complain(document, each.object, each.path, str(each), each.reason)
                continue
            if str(result) in parsed:
                first = places[str(result)]
                text = f"{result}: metadata.name stands in {first.file}:{first.line} already; expected each object once"
                complain(document, str(result), "metadata.name", text)
                continue
            parsed[str(result)], places[str(result)] = result, document

    for each in _between(list(parsed.values())):
        complain(places[each.object], each.object, each.path, str(each), each.reason)
    return found, list(parsed.values())


def _between(objects: list[Parsed]) -> Iterator[validation.Problem]:
    """Implausible prices, and what objects say of each other and of the shipped catalogue."""
    shipped = catalogue.accelerator_types()
    known = known_prices(shipped.values())
    for each in objects:
        if isinstance(each, AcceleratorType):
            yield from validation.implausible_prices(each, known.get(each.name, ()))
    yield from check(objects, accelerators=shipped.keys(), models=catalogue.models().keys())


def validate(
    filenames: Annotated[
        list[str], typer.Option("--filename", "-f", help="File, directory, or - for standard input; may be repeated.")
    ],
    output: Annotated[OutputForm, typer.Option("--output", "-o", help="Lines to read, or JSON.")] = OutputForm.TABLE,
) -> None:
    """Check manifests without a cluster: fields, bounds, units, and references between the objects."""
    found, right = complaints(filenames)
    if output is OutputForm.JSON:
        problems = [
            {
                "file": each.file,
                "line": each.line,
                "object": each.object,
                "path": each.path,
                "reason": each.reason,
                "message": each.message,
            }
            for each in found
        ]
        typer.echo(json.dumps({"objects": [str(each) for each in right], "problems": problems}, indent=2))
    else:
        for each in found:
            typer.echo(str(each))
        wrong = f"{len(found)} problem" + ("" if len(found) == 1 else "s")
        count = f"{len(right)} valid object" + ("" if len(right) == 1 else "s")
        typer.echo(f"{count}, {wrong if found else 'no problems'}", err=True)
    if found or not right:
        if not found:
            typer.echo(f"no object of {GROUP} found", err=True)
        raise typer.Exit(1)
