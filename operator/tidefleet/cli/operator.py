"""`tidefleet operator`: runs the operator process, and lifts its finalizers before it is removed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from tidefleet.cluster.clock import parse_clock
from tidefleet.cluster.connection import NoConnection
from tidefleet.controller.config import BadConfiguration, OperatorConfiguration, load_configuration
from tidefleet.controller.process import CannotStart, OperatorProcess, run_until_signalled
from tidefleet.controller.release import release_finalizers
from tidefleet.telemetry import logs

app = typer.Typer(help="The operator process.", no_args_is_help=True)

Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", envvar="KUBECONFIG", help="Credentials; in a pod its ServiceAccount's.")
]


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Option("--config", help="OperatorConfiguration (YAML); the options below override it.")
    ] = None,
    kubeconfig: Kubeconfig = None,
    namespaces: Annotated[str, typer.Option(help="Namespaces to serve, e.g. prod,staging; all by default.")] = "",
    node_selector: Annotated[str, typer.Option(help="Only nodes with these labels are seen, e.g. fleet=a.")] = "",
    period: Annotated[float | None, typer.Option(help="Seconds between two passes of the fleet loop.", min=0.1)] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Port of /metrics, /healthz and /readyz; 0 takes a free one.", min=0, max=65535)
    ] = None,
    lease_namespace: Annotated[str, typer.Option(help="Namespace of the Lease.")] = "",
    prometheus_url: Annotated[str, typer.Option(help="Ask this Prometheus instead of scraping the engines.")] = "",
    log_format: Annotated[str, typer.Option(help="json or text.")] = "",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "",
    clock: Annotated[str, typer.Option(help="A scaled clock, for simulations.", hidden=True)] = "real",
) -> None:
    """Run the operator until SIGTERM: several may run, one leads."""
    try:
        settings = load_configuration(config)
        changes: dict[str, object] = {}
        if namespaces:
            changes["namespaces"] = [one for one in namespaces.split(",") if one]
        if node_selector:
            changes["nodeSelector"] = node_selector
        if period is not None:
            changes["periodSeconds"] = period
        if metrics_port is not None:
            changes["metrics"] = {**settings.metrics.model_dump(by_alias=True), "port": metrics_port}
        if lease_namespace:
            changes["leaderElection"] = {
                **settings.leader_election.model_dump(by_alias=True),
                "namespace": lease_namespace,
            }
        if prometheus_url:
            changes["prometheus"] = {**settings.prometheus.model_dump(by_alias=True), "url": prometheus_url}
        if log_format:
            changes["logFormat"] = log_format
        if log_level:
            changes["logLevel"] = log_level
        if changes:
            settings = OperatorConfiguration.model_validate({**settings.model_dump(by_alias=True), **changes})
        time = parse_clock(clock)
    except (BadConfiguration, ValueError) as error:
        typer.echo(f"tidefleet: {error}", err=True)
        raise typer.Exit(2) from error
    logs.set_up(settings.log_format, settings.log_level)
    try:
        status = run_until_signalled(OperatorProcess(settings, time, kubeconfig))
    except (CannotStart, NoConnection) as error:
        logging.getLogger("tidefleet").error("%s", error)
        raise typer.Exit(1) from error
    raise typer.Exit(status)


@app.command("release-finalizers")
def release(
    kubeconfig: Kubeconfig = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="OperatorConfiguration, for its namespaces and nodeSelector.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Undress also nodes whose accelerators training holds.")
    ] = False,
) -> None:
    """Take the operator's finalizer off all pools and the marks of flips off all nodes, for when it is gone."""
    try:
        settings = load_configuration(config)
        released, failed = release_finalizers(
            kubeconfig, settings.namespaces, node_selector=settings.node_selector, dry_run=dry_run, force=force
        )
    except (BadConfiguration, NoConnection, CannotStart) as error:
        typer.echo(f"tidefleet: {error}", err=True)
        raise typer.Exit(1) from error
    for name in released:
        typer.echo(f"{'would release' if dry_run else 'released'} {name}")
    for name, why in failed:
        typer.echo(f"not released {name}: {why}", err=True)
    raise typer.Exit(1 if failed else 0)
