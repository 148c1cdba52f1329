"""The `tidefleet` command (and `kubectl tidefleet`): puts the subcommands together."""

from __future__ import annotations

from typing import Annotated

import typer

from tidefleet import __version__
from tidefleet.cli import (
    compare,
    conformance,
    cost,
    crds,
    demand,
    emulator,
    explain,
    flip,
    flips,
    money,
    operator,
    pause,
    plan,
    report,
    route,
    router,
    simulate,
    validate,
)

app = typer.Typer(
    name="tidefleet",
    help="Runs fleets of accelerators for LLM inference at the lowest cost per token.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    add_completion=True,
)
app.add_typer(operator.app, name="operator")
app.add_typer(router.app, name="router")
app.add_typer(route.app, name="route")
app.add_typer(crds.app, name="crds")
app.add_typer(emulator.app, name="emulator")
app.command("validate")(validate.validate)
app.command("plan")(plan.plan)
app.command("top")(route.top)
app.command("explain")(explain.explain)
app.command("flips")(flips.flips)
app.command("flip")(flip.flip)
app.command("pause")(pause.pause)
app.command("cost")(cost.cost)
app.command("conformance")(conformance.conformance)
app.command("compare")(compare.compare)
app.command("simulate")(simulate.simulate)
app.command("demand")(demand.demand)
app.command("money")(money.money)
app.command("report")(report.report)


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
