"""The `tidefleet` command (and `kubectl tidefleet`): puts the subcommands together.

A subcommand's module is imported when it is asked for: each needs its part of the house, and all of them together take
twice as long to import as the operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from tidefleet import __version__

SUBCOMMANDS: Mapping[str, str] = {
    "operator": "operator:app",
    "router": "router:app",
    "route": "route:app",
    "crds": "crds:app",
    "emulator": "emulator:app",
    "validate": "validate:validate",
    "plan": "plan:plan",
    "top": "route:top",
    "explain": "explain:explain",
    "flips": "flips:flips",
    "flip": "flip:flip",
    "pause": "pause:pause",
    "cost": "cost:cost",
    "conformance": "conformance:conformance",
    "compare": "compare:compare",
    "simulate": "simulate:simulate",
    "demand": "demand:demand",
    "money": "money:money",
    "report": "report:report",
}
"""Each subcommand's module in this package, and what it is there: a group of its own, or a function."""


class _Subcommands(TyperGroup):
    """The subcommands, in the order that help lists them."""

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(SUBCOMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        del ctx
        # For a name that nobody knows all are loaded: the error suggests those that are spelled alike.
        for name in (cmd_name,) if cmd_name in SUBCOMMANDS else SUBCOMMANDS:
            if name not in self.commands:
                self.commands[name] = _loaded(name)
        return self.commands.get(cmd_name)


def _loaded(name: str) -> Any:
    module, _, attribute = SUBCOMMANDS[name].partition(":")
    found = getattr(import_module(f"tidefleet.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        group = get_group(found)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return get_command(alone)


app = typer.Typer(
    name="tidefleet",
    cls=_Subcommands,
    help="Runs fleets of accelerators for LLM inference at the lowest cost per token.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    add_completion=True,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidefleet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    del version


def main() -> None:
    """The entry point."""
    app()
