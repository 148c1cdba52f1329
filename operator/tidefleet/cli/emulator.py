"""``tidefleet emulator``: vLLM-compatible engines on the addresses of a cluster's simulated pods."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from tidefleet import catalogue, emulator
from tidefleet.api import validation
from tidefleet.api.accelerator_type import AcceleratorType
from tidefleet.cluster.clock import parse_clock
from tidefleet.cluster.connection import NoConnection
from tidefleet.economics.accelerator import Accelerator
from tidefleet.emulator.server import unbindable
from tidefleet.planning.from_api import accelerator_of

app = typer.Typer(help="Emulated inference engines for simulated pods.", no_args_is_help=True)

PROBED = "127.1.0.2"
"""An address of the kind that simulated pods have."""


@app.callback()
def _emulator() -> None:
    """Emulated inference engines for simulated pods."""


@app.command()
def run(
    *,
    kubeconfig: Annotated[Path | None, typer.Option(help="Cluster whose pods to emulate.")] = None,
    admin: Annotated[str, typer.Option(help="Loopback address of the admin server; port 0 takes a free one.")] = (
        "127.0.0.1:0"
    ),
    clock: Annotated[
        str, typer.Option(help="'real', or e.g. 'scale=576,real=1763800000,simulated=1715299200'.")
    ] = "real",
    namespaces: Annotated[str, typer.Option(help="Namespaces to look in, by comma; all by default.")] = "",
    catalogue_file: Annotated[
        Path | None, typer.Option("--catalogue", help="AcceleratorType manifests; the shipped ones by default.")
    ] = None,
    kv_events: Annotated[
        str,
        typer.Option(
            help="PORT[,REPLAY_PORT] on each pod's address where its engine publishes its KV blocks as vLLM does, "
            "e.g. 5557,5558; none by default. A pod's own annotation wins."
        ),
    ] = "",
    address_check: Annotated[
        bool, typer.Option("--address-check", help="Only say whether pod addresses can be bound here.")
    ] = False,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="End when the parent process does.")
    ] = False,
) -> None:
    """Listen on every ready pod that carries the annotation tidefleet.io/engine, until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    problem = unbindable(PROBED)
    if address_check:
        typer.echo(problem or f"pod addresses such as {PROBED} can be bound here")
        raise typer.Exit(1 if problem else 0)
    if problem:
        typer.echo(f"warning: {problem}", err=True)
    try:
        time, address, events = parse_clock(clock), _address(admin), _kv_events(kv_events)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        emulator.run(
            kubeconfig=str(kubeconfig) if kubeconfig else None,
            clock=time,
            accelerators=_accelerators(catalogue_file),
            models=catalogue.models(),
            admin=address,
            namespaces=[name for name in namespaces.split(",") if name],
            exit_with_parent=exit_with_parent,
            kv_events=events,
            announce=lambda line: print(line, flush=True),
        )
    except (NoConnection, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _accelerators(path: Path | None) -> dict[str, Accelerator]:
    parsed = (validation.parse(manifest) for manifest in catalogue.accelerator_manifests(path))
    return {kind.name: accelerator_of(kind) for kind in parsed if isinstance(kind, AcceleratorType)}


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host not in ("127.0.0.1", "localhost", "[::1]") or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"--admin is {text!r}; expected a loopback address and port, e.g. 127.0.0.1:0")
    return host.strip("[]"), int(port)


def _kv_events(text: str) -> emulator.KvEvents | None:
    if not text:
        return None
    ports = text.split(",")
    if len(ports) > 2 or not all(one.isdigit() and 0 < int(one) < 65536 for one in ports):
        raise ValueError(f"--kv-events is {text!r}; expected a port, or two by comma, e.g. 5557,5558")
    return emulator.KvEvents(*(int(one) for one in ports))


if __name__ == "__main__":
    app()
