"""`tidefleet router`: runs the endpoint picker."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from tidefleet.cluster.connection import NoConnection
from tidefleet.router.exporting import Collector, headers_of
from tidefleet.router.process import RouterProcess, Settings, say_ports, spare_the_collector, write_ports
from tidefleet.router.recording import RecordSettings
from tidefleet.router.records import FileSettings
from tidefleet.router.supervising import Supervisor
from tidefleet.telemetry import logs

app = typer.Typer(help="The endpoint picker that gateways ask.", no_args_is_help=True)


@app.command()
def run(
    namespaces: Annotated[str, typer.Option(help="Namespaces to serve, e.g. prod,staging; all by default.")] = "",
    kubeconfig: Annotated[
        str | None,
        typer.Option("--kubeconfig", envvar="KUBECONFIG", help="Credentials; in a pod its ServiceAccount's."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on for ext_proc and gRPC health.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its port; 0 takes a free one.", min=0, max=65535)] = 9002,
    http_host: Annotated[str, typer.Option(help="Address of /metrics, /healthz and /readyz.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(help="Its port; 0 takes a free one.", min=0, max=65535)] = 9090,
    pool_header: Annotated[
        str,
        typer.Option(help="Header by which the gateway names the pool; clients must not be able to set it."),
    ] = "",
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="What a gateway that does not tell its modes is taken to do.")
    ] = False,
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(
            help="MODEL=DIRECTORY with tokenizer.json, as published; may be repeated. MODEL is a name that "
            "requests use, or NAMESPACE/POOL."
        ),
    ] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option(help="Up to 64 bytes that session and tenant names are hashed with, the same for all replicas."),
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM certificate; plain text without.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM key of the certificate.")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="Gateways must show a certificate of this CA.")] = None,
    reuse_port: Annotated[
        bool, typer.Option("--reuse-port", help="Share the port with other processes; the kernel spreads connections.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(help="Processes that share the port; a processor each is what they can use.", min=1, max=64),
    ] = 1,
    usage_records: Annotated[
        Path | None,
        typer.Option(
            help="Write a line of JSON for every request to this file; in a folder, to a file called after this host. "
            "Of several workers each has its own, numbered."
        ),
    ] = None,
    usage_records_megabytes: Annotated[
        int, typer.Option(help="A file of usage records that is larger is put aside, with the time in its name.", min=1)
    ] = 256,
    usage_records_keep: Annotated[
        int, typer.Option(help="Files of usage records that are put aside and kept; 0 keeps all.", min=0)
    ] = 16,
    otlp_endpoint: Annotated[
        str,
        typer.Option(
            help="Send usage records to this OpenTelemetry collector as logs, OTLP over HTTP, e.g. "
            "http://collector:4318; headers are taken from OTEL_EXPORTER_OTLP_HEADERS."
        ),
    ] = "",
    limits_share: Annotated[
        float,
        typer.Option(help="The share of tenants' limits that is this replica's own: 1 / replicas keeps the sum."),
    ] = 1.0,
    ports_file: Annotated[Path | None, typer.Option(help="Write the ports that were opened here, as JSON.")] = None,
    log_format: Annotated[str, typer.Option(help="json or text.")] = "text",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Pick endpoints for any gateway that speaks Envoy's ext_proc, until SIGTERM."""
    form: Literal["json", "text"] = "json" if log_format == "json" else "text"
    logs.set_up(form, log_level)
    try:
        settings = Settings(
            namespaces=tuple(one for one in namespaces.split(",") if one),
            kubeconfig=kubeconfig,
            host=host,
            port=port,
            http_host=http_host,
            http_port=http_port,
            pool_header=pool_header,
            headers_only=headers_only,
            tokenizers=tuple(_pair(one) for one in tokenizer or ()),
            certificate=tls_certificate,
            key=tls_key,
            client_ca=tls_client_ca,
            reuse_port=reuse_port,
            records=RecordSettings(
                file=FileSettings(usage_records, usage_records_megabytes * 2**20, usage_records_keep)
                if usage_records is not None
                else None,
                collector=Collector(otlp_endpoint, headers_of(os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")))
                if otlp_endpoint
                else None,
            ),
            limits_share=limits_share,
        )
        if secret_file is not None:
            settings = dataclasses.replace(settings, secret=_secret(secret_file))
    except ValueError as error:
        typer.echo(f"tidefleet: {error}", err=True)
        raise typer.Exit(2) from error
    started = write_ports(ports_file) if ports_file else say_ports
    try:
        if workers > 1:
            status = Supervisor(settings, workers, started=started, log_format=form, log_level=log_level).run()
        else:
            spare_the_collector()
            status = RouterProcess(settings, started=started).run()
    except (NoConnection, OSError) as error:
        logging.getLogger("tidefleet").error("%s", error)
        raise typer.Exit(1) from error
    raise typer.Exit(status)


def _pair(text: str) -> tuple[str, Path]:
    name, equals, directory = text.partition("=")
    if not equals or not name or not directory:
        raise ValueError(f"--tokenizer is {text!r}; expected MODEL=DIRECTORY, e.g. llama-3.3-70b=/models/llama-3.3-70b")
    return name, Path(directory)


def _secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ValueError(f"--secret-file {path}: {error.strerror}; expected a file of 16 to 64 bytes") from error
    if not 16 <= len(secret) <= 64:
        raise ValueError(f"--secret-file {path} holds {len(secret)} bytes; expected 16 to 64")
    return secret
