"""`tidefleet simulate`: what a fleet would do with a scenario's demand, beside what baselines would."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tidefleet.cli.output import fail, json_text, put
from tidefleet.cli.simulate_page import page
from tidefleet.cli.simulate_table import print_report, print_scenarios
from tidefleet.simulator import run
from tidefleet.simulator.checkpoint import CheckpointError
from tidefleet.simulator.load import ScenarioError, load_scenario, shipped
from tidefleet.simulator.measured import MeasuredError, Query, ask, with_shapes
from tidefleet.simulator.run import CannotRun, Report, Request, Spread
from tidefleet.telemetry.asking import Access, PrometheusError

MOST_SEEDS = 1000
_TELL_EVERY_SECONDS = 10.0


class SimulationForm(StrEnum):
    """What the command prints."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


def simulate(
    scenario: Annotated[
        str, typer.Argument(help="A shipped scenario's name (--list tells them), or a file of YAML.")
    ] = "",
    listed: Annotated[bool, typer.Option("--list", help="Tell the scenarios that ship, and end.")] = False,
    traces: Annotated[
        Path | None,
        typer.Option(help="Directory of the traces that the scenario's classes name.", envvar="TIDEFLEET_TRACES"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="One seed; 1 by default.", min=0)] = None,
    seeds: Annotated[
        int | None, typer.Option(help="So many seeds, 1, 2, ...; medians are told.", min=1, max=MOST_SEEDS)
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of the scenario, e.g. pools.main.replicas=128; may be repeated."),
    ] = None,
    compare: Annotated[str, typer.Option(help="Baselines to run beside ours, e.g. static,round-robin.")] = "",
    full: Annotated[bool, typer.Option("--full", help="Simulate every request, instead of samples.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes to run seeds and baselines in.", min=1, max=512)] = 1,
    resume: Annotated[
        Path | None,
        typer.Option(help="Checkpoint: go on from it where it exists, and keep in it what is done."),
    ] = None,
    dask: Annotated[str, typer.Option(help="Run on a Dask cluster, e.g. tcp://10.0.0.5:8786.")] = "",
    prometheus: Annotated[
        str, typer.Option(help="A Prometheus whose demand the classes follow, e.g. http://localhost:9090.")
    ] = "",
    query: Annotated[
        str, typer.Option(help="Rate of requests, in PromQL: one series, or one a class by one label.")
    ] = "",
    span: Annotated[str, typer.Option("--range", help="How far back it is asked, e.g. 7d or 36h.")] = "7d",
    until: Annotated[datetime | None, typer.Option(help="Until when (UTC), e.g. 2026-03-02; now by default.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with a bearer token for the Prometheus.")] = None,
    form: Annotated[SimulationForm, typer.Option("-o", "--output", help="table, json or html.")] = SimulationForm.TABLE,
    output_file: Annotated[Path | None, typer.Option(help="File to write to, instead of standard output.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell no progress.")] = False,
) -> None:
    """Simulate a fleet under a scenario's demand: utilisation, objectives met, dollars, joules, and what baselines do.

    A scenario ships with tidefleet or is a small file of YAML. Progress goes to standard error. The same scenario,
    traces and seed give the same figures, wherever they are run.
    """
    if listed:
        print_scenarios(_known(), as_json=form is SimulationForm.JSON)
        return
    if not scenario:
        fail(f"SCENARIO is missing; expected one of {', '.join(shipped())}, or a file, e.g. mine.yaml", 2)
    if seed is not None and seeds is not None:
        fail("--seed and --seeds exclude each other; expected one of them, e.g. --seeds 3", 2)
    if dask and jobs > 1:
        fail("--dask and --jobs exclude each other; a cluster has as many processes as it has workers", 2)
    if traces is not None and not traces.is_dir():
        fail(f"--traces {traces} is no directory; expected one with the traces that the scenario names", 2)
    try:
        loaded = load_scenario(scenario, change or [])
        if prometheus or query:
            loaded = with_shapes(loaded, ask(_query(prometheus, query, span, until, token_file)))
        request = Request(
            loaded,
            traces,
            tuple(range(1, seeds + 1)) if seeds is not None else (1 if seed is None else seed,),
            _names(compare),
            full,
        )
        with _progress(request, quiet=quiet) as progress:
            report = run.simulate(request, spread=_spread(jobs, dask, request), progress=progress, resume=resume)
    except (ScenarioError, CheckpointError, MeasuredError) as error:
        fail(str(error), 2)
    except CannotRun as error:
        fail(str(error))
    except KeyboardInterrupt:
        kept = f"what is done is in {resume}; the same command goes on" if resume else "with --resume FILE it is kept"
        fail(f"stopped; {kept}", 130)
    _write(report, form, output_file)


def _query(url: str, text: str, span: str, until: datetime | None, token_file: Path | None) -> Query:
    """What to ask a Prometheus."""
    if not url or not text:
        fail(
            f"--{'query' if url else 'prometheus'} is missing; expected both, e.g. --prometheus http://localhost:9090 "
            "--query 'sum(rate(vllm:request_success_total[10m]))'",
            2,
        )
    found = re.fullmatch(r"(\d{1,6})([mhdw])", span)
    if found is None:
        fail(f"--range is {span[:40]!r}; expected a number with m, h, d or w, e.g. 7d", 2)
    seconds = int(found[1]) * {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}[found[2]]
    at = time.time() if until is None else until.replace(tzinfo=UTC).timestamp()
    try:
        access = Access.with_file(url, token_file, option="--token-file")
    except PrometheusError as error:
        fail(str(error), 2)
    return Query(access, text, seconds, at)


def _known() -> list[dict[str, Any]]:
    found = []
    for name in shipped():
        one = load_scenario(name)
        found.append({"name": name, "kind": one.kind, "summary": one.summary})
    return found


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.strip().replace("-", "_") for one in text.split(",") if one.strip()))


def _spread(jobs: int, dask: str, request: Request) -> Spread:
    from tidefleet.simulator import spread  # noqa: PLC0415 - multiprocessing is not needed for one job

    if dask:
        return spread.on_dask(dask)
    if jobs > 1 and len(request.tasks) > 1:
        return spread.in_processes(jobs)
    return run.here


@contextmanager
def _progress(request: Request, *, quiet: bool) -> Iterator[run.Progress]:
    """A bar with the time left on a terminal; else a line now and then. On standard error."""
    console = Console(stderr=True)
    if quiet:
        yield lambda share, words: None
        return
    if not console.is_terminal:
        yield _lines(request.scenario.name)
        return
    columns = (
        TextColumn("{task.fields[name]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0, name=request.scenario.name)
        yield lambda share, words: bar.update(task, completed=share, description=words)


def _lines(name: str) -> run.Progress:
    began = last = time.monotonic()

    def tell(share: float, words: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _TELL_EVERY_SECONDS:
            return
        last = now
        left = f", about {(now - began) / share * (1.0 - share):.0f} s left" if share > 0.0 else ""
        typer.echo(f"{name}: {share:.0%}{left}: {words}", err=True)

    return tell


def _write(report: Report, form: SimulationForm, path: Path | None) -> None:
    match form:
        case SimulationForm.JSON:
            text = json_text(report.as_json())
        case SimulationForm.HTML:
            text = page(report)
        case SimulationForm.TABLE:
            if path is None:
                print_report(report)
                return
            text = print_report(report, capture=True)
    put(text, path)
