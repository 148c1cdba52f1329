"""``tidefleet conformance``: does an endpoint picker keep the protocol?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tidefleet.cli.output import Form, fail, print_json, print_table


def conformance(
    *,
    target: Annotated[str, typer.Option(help="The picker's gRPC address, HOST:PORT.")],
    endpoints: Annotated[
        str, typer.Option(help="Every endpoint it may choose, ip:port by comma; learnt from its answers if not given.")
    ] = "",
    model: Annotated[str, typer.Option(help="A model that it serves.")] = "model",
    mode: Annotated[str, typer.Option(help="How the gateway uses it: full-duplex or headers-only.")] = "full-duplex",
    tls: Annotated[bool, typer.Option("--tls", help="Connect by TLS.")] = False,
    tls_ca: Annotated[Path | None, typer.Option(help="The CA of its certificate; the system's if not given.")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="Our certificate, where it asks for one.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The key of our certificate.")] = None,
    tls_server_name: Annotated[str, typer.Option(help="The name in its certificate, if not that of --target.")] = "",
    only: Annotated[list[str] | None, typer.Option(help="Cases to run, e.g. 'subset.*'; may be repeated.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which an answer has not come.")] = 10.0,
    strict: Annotated[bool, typer.Option("--strict", help="Fail for SHOULD clauses too.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write the results to this file as JUnit XML.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Only list the cases.")] = False,
    output: Annotated[Form, typer.Option("-o", "--output", help="How to print.")] = Form.TABLE,
) -> None:
    """Put an endpoint picker to the cases of the Endpoint Picker Protocol; any picker, not only this one.

    The picker must be ready, with endpoints in its pool; no request reaches them. Ends with 1 if a MUST clause
    fails, with 2 if the cases cannot be run.
    """
    try:
        from tidefleet import conformance as suite  # noqa: PLC0415 - grpc is loaded by this command only
        from tidefleet.conformance import junit as report  # noqa: PLC0415
    except ImportError as error:
        fail(f"the suite needs the package {error.name}: pip install grpcio", status=2)
    if mode not in ("full-duplex", "headers-only"):
        fail(f"--mode is {mode!r}; expected full-duplex or headers-only", status=2)
    if ":" not in target:
        fail(f"--target is {target!r}; expected HOST:PORT, e.g. 127.0.0.1:9002", status=2)
    try:
        chosen = suite.cases(only or ())
    except ValueError as error:
        fail(f"--only: {error}", status=2)
    if listing:
        _print_list(chosen, output)
        return
    picker = suite.Target(
        target,
        endpoints=tuple(one.strip() for one in endpoints.split(",") if one.strip()),
        model=model,
        credentials=_credentials(tls, tls_ca, tls_certificate, tls_key),
        server_name=tls_server_name or None,
        deadline_seconds=timeout,
        bodies=mode == "full-duplex",
    )
    results = suite.run(picker, chosen)
    if junit is not None:
        junit.write_text(report.junit(results, target=target), encoding="utf-8")
    counts = {one.value: sum(result.outcome is one for result in results) for one in suite.Outcome}
    failed = [one for one in results if one.outcome is suite.Outcome.FAILED]
    wrong = [one for one in failed if strict or one.case.level is suite.Level.MUST]
    if output is Form.JSON:
        print_json({"target": target, **counts, "must_failed": len(wrong), "cases": [_row(one) for one in results]})
    else:
        rows = [(one.outcome.value, one.case.level.value, one.case.name, one.message or "") for one in results]
        print_table("", ("outcome", "level", "case", "what happened"), rows)
        typer.echo(", ".join(f"{number} {name}" for name, number in counts.items()))
    raise typer.Exit(1 if wrong else 0)


def _row(result: Any) -> dict[str, Any]:
    return {
        "name": result.case.name,
        "level": result.case.level.value,
        "clause": result.case.clause,
        "outcome": result.outcome.value,
        "message": result.message,
        "seconds": round(result.seconds, 4),
    }


def _print_list(chosen: list[Any], output: Form) -> None:
    if output is Form.JSON:
        print_json([{"name": one.name, "level": one.level.value, "clause": one.clause} for one in chosen])
    else:
        print_table("", ("level", "case", "clause"), [(one.level.value, one.name, one.clause) for one in chosen])


def _credentials(tls: bool, ca: Path | None, certificate: Path | None, key: Path | None) -> Any:
    if not tls and ca is None and certificate is None:
        return None
    import grpc  # noqa: PLC0415 - loaded by this command only

    try:
        return grpc.ssl_channel_credentials(
            ca.read_bytes() if ca else None,
            key.read_bytes() if key else None,
            certificate.read_bytes() if certificate else None,
        )
    except OSError as error:
        fail(f"a file for TLS cannot be read: {error}", status=2)
