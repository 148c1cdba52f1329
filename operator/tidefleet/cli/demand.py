"""`tidefleet demand`: what personas and features will ask of each class, as WorkloadClasses, and what came of it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from tidefleet.api import GROUP, WorkloadClass
from tidefleet.api.validation import Invalid, parse
from tidefleet.cli.demand_observed import NotObserved, from_csv, from_prometheus
from tidefleet.cli.demand_page import page
from tidefleet.cli.demand_rows import (
    CHECK_HEADS,
    CLASS_HEADS,
    MONTH_HEADS,
    Month,
    Told,
    as_json,
    check_rows,
    class_rows,
    month_rows,
)
from tidefleet.cli.output import fail, json_text, print_table, save
from tidefleet.cli.usage_file import UsageError, UsageFile, load_usage
from tidefleet.cli.validate import UnreadableError, documents, files, read
from tidefleet.controller.config import Prometheus
from tidefleet.economics.personas import ClassForecast, forecast, week_of
from tidefleet.planning.forecast_check import Seen, check, months_between, words_of_hour
from tidefleet.planning.foreseen import Foreseen, RateChoice, manifests
from tidefleet.planning.words import brief

MOST_MONTHS = 120


class DemandForm(StrEnum):
    """What the command prints."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    HTML = "html"


def demand(
    filename: Annotated[
        str, typer.Option("--filename", "-f", help="File of personas, features, classes and shapes, or - for stdin.")
    ],
    output: Annotated[
        DemandForm, typer.Option("--output", "-o", help="table, json, yaml (WorkloadClasses) or html (a picture).")
    ] = DemandForm.TABLE,
    output_file: Annotated[Path | None, typer.Option(help="File to write to, instead of standard output.")] = None,
    apply_to: Annotated[
        Path | None, typer.Option("--apply-to", help="Directory to write the WorkloadClasses to, a file each.")
    ] = None,
    month: Annotated[
        int,
        typer.Option(
            help="Month after the start to tell in full and to declare; 0: the first.", min=0, max=MOST_MONTHS
        ),
    ] = 0,
    months: Annotated[int, typer.Option(help="Months to tell in short, from the start.", min=1, max=MOST_MONTHS)] = 1,
    rate: Annotated[
        RateChoice,
        typer.Option(
            help="What WorkloadClasses declare: the p95, p50 or mean of the busiest hour of the week, or its average."
        ),
    ] = RateChoice.BUSY_P95,
    observed: Annotated[
        str,
        typer.Option(
            help="Tell what came beside the forecast: the address of a Prometheus that scrapes the router, or a file "
            "of CSV with time,class,requests_per_second."
        ),
    ] = "",
    days: Annotated[int, typer.Option(help="Days back to ask a Prometheus for.", min=1, max=90)] = 7,
    token_file: Annotated[str, typer.Option(help="File of the token that the Prometheus wants.")] = "",
    ca_file: Annotated[str, typer.Option(help="Certificates to trust the Prometheus by.")] = "",
) -> None:
    """Foresee demand from who uses what, before there are metrics; later, tell how the forecast did.

    Users, uses a day, token lengths, hours, growth and calls between classes become requests per second of each class,
    with p50 and p95, and WorkloadClasses that `tidefleet validate` and `tidefleet plan` take.
    """
    try:
        usage = load_usage(filename)
        seen = _seen(observed, usage.namespace, days, Prometheus(url=observed, token_file=token_file, ca_file=ca_file))
        told = _told(usage, filename, month, months, rate, seen)
    except (UsageError, NotObserved) as error:
        fail(str(error), 2)
    except ValueError as error:
        fail(f"{filename}: {error}", 2)
    if apply_to is not None:
        _apply(told, apply_to)
    match output:
        case DemandForm.JSON:
            _write(json_text(as_json(told)), output_file)
        case DemandForm.YAML:
            _write(yaml_text(told), output_file)
        case DemandForm.HTML:
            _write(page(told, seen), output_file)
        case DemandForm.TABLE:
            if output_file is not None:
                fail(f"--output-file {output_file}: a table goes to the terminal; expected -o json, yaml or html", 2)
            _print(told)


def _seen(source: str, namespace: str, days: int, config: Prometheus) -> tuple[Seen, ...]:
    if not source:
        return ()
    if source.startswith(("http://", "https://")):
        return from_prometheus(config, namespace, days)
    return from_csv(source)


def _told(usage: UsageFile, source: str, number: int, months: int, rate: RateChoice, seen: Sequence[Seen]) -> Told:
    start = usage.start or datetime.datetime.now(tz=datetime.UTC).date()

    @cache
    def classes_in(month: int) -> Mapping[str, ClassForecast]:
        return {one.name: one for one in forecast(usage.usage, start, month)}

    def month_of(one: int) -> Month:
        return Month(one, week_of(start, one), classes_in(one))

    chosen = month_of(number)
    foreseen = [
        Foreseen(one, chosen.classes[one.name], usage.pools[one.name], usage.specs[one.name])
        for one in usage.usage.classes
    ]
    written = manifests(foreseen, usage.namespace, rate)
    checked, unknown = check(seen, lambda at: classes_in(min(MOST_MONTHS, months_between(start, at))), chosen.classes)
    return Told(
        source=source,
        namespace=usage.namespace,
        start=start,
        chosen=chosen,
        months=[month_of(one) for one in range(months)],
        objects=[_parsed(one) for one in written],
        manifests=written,
        pools=usage.pools,
        notes=usage.notes,
        checked=checked if seen else (),
        unknown=unknown,
    )


def _parsed(manifest: Mapping[str, Any]) -> WorkloadClass:
    """The WorkloadClass of a manifest, as the API server would take it."""
    found = parse(manifest, strict=True)
    if isinstance(found, Invalid):
        raise UsageError("\n".join(str(one) for one in found.problems))
    if not isinstance(found, WorkloadClass):
        raise UsageError(f"{found} is no WorkloadClass; expected classes to make some, e.g. {{name: chat, pool: chat}}")
    return found


# --- what is written -------------------------------------------------------------------------------------------------


def yaml_text(told: Told) -> str:
    """The WorkloadClasses, each under the figures that it stands for."""
    return "---\n".join(_document(told, manifest) for manifest in told.manifests)


def _document(told: Told, manifest: Mapping[str, Any]) -> str:
    one = told.chosen.classes[manifest["metadata"]["name"]]
    busy = one.busy
    comment = (
        f"# Foreseen for the month from {told.chosen.week_of.isoformat()}, calls by other classes included:\n"
        f"# {brief(one.average.mean, 3)} requests/s on average (p95 {brief(one.average.p95, 3)}); in the busiest hour, "
        f"{words_of_hour(one.busy_hour)}, {brief(busy.mean, 3)} (p50 {brief(busy.p50, 3)}, p95 {brief(busy.p95, 3)}).\n"
    )
    return comment + yaml.safe_dump(dict(manifest), sort_keys=False, allow_unicode=True, default_flow_style=None)


def _apply(told: Told, directory: Path) -> None:
    """Write each WorkloadClass to a file of its own; one that another file of the directory has already is left."""
    if not directory.is_dir():
        fail(f"--apply-to {directory} is no directory; expected one that exists, e.g. deploy/", 2)
    wanted = {directory / f"demand-{one['metadata']['name']}.yaml": one for one in told.manifests}
    there = _elsewhere(directory, {str(path) for path in wanted})
    for name in (one["metadata"]["name"] for one in told.manifests):
        if (place := there.get((told.namespace, name))) is not None:
            fail(
                f"--apply-to {directory}: WorkloadClass {told.namespace}/{name} stands in {place} already; expected "
                "each object once, e.g. take it out there, or give another directory",
                2,
            )
    for path, manifest in wanted.items():
        try:
            path.write_text(_document(told, manifest), encoding="utf-8")
        except OSError as error:
            fail(
                f"--apply-to {directory}: {path} cannot be written: {error.strerror}; expected a directory to write to",
                2,
            )
        typer.echo(f"wrote {path}", err=True)


def _elsewhere(directory: Path, own: set[str]) -> dict[tuple[str, str], str]:
    """Where the WorkloadClasses of the directory's other files stand, by namespace and name."""
    found = {}
    for file in files([str(directory)]):
        if file in own:
            continue
        try:
            for one in documents(read(file), file):
                content: Any = one.content if isinstance(one.content, dict) else {}
                metadata, version = content.get("metadata"), str(content.get("apiVersion", ""))
                if content.get("kind") == "WorkloadClass" and version.startswith(f"{GROUP}/") and metadata:
                    key = str(metadata.get("namespace", "default")), str(metadata.get("name"))
                    found[key] = f"{file}:{one.line}"
        except (UnreadableError, AttributeError):  # `validate` tells of it
            continue
    return found


def _write(text: str, path: Path | None) -> None:
    if path is None:
        typer.echo(text.rstrip("\n"))
        return
    save(text, path)


def _print(told: Told) -> None:
    title = f"{told.namespace}, month {told.chosen.number} after {told.start.isoformat()}: requests/s foreseen"
    print_table(title, CLASS_HEADS, class_rows(told))
    if len(told.months) > 1:
        print_table("\nmonths", MONTH_HEADS, month_rows(told))
    if told.checked:
        print_table("\nforecast and observation, over the same hours", CHECK_HEADS, check_rows(told))
    for name in told.unknown:
        typer.echo(f"  {name or 'requests without a class'}: observed, and not in the forecast")
    for note in told.notes:
        typer.echo(f"  {note}")
