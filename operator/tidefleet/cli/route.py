"""`tidefleet route explain` and `tidefleet top`: why a request goes where it goes, and how each pool is doing now."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidefleet.cli.output import Form, fail, print_json, print_table

app = typer.Typer(help="What the router decides, and why.", no_args_is_help=True)

DEFAULT = "http://127.0.0.1:9090"
Router = Annotated[
    str,
    typer.Option(
        "--router",
        envvar="TIDEFLEET_ROUTER",
        help="HTTP address of a router, e.g. after kubectl port-forward deploy/tidefleet-router 9090.",
    ),
]
LARGEST_BODY = 32 * 2**20


@app.command()
def explain(
    body: Annotated[
        Path | None, typer.Argument(help="A request's JSON body, - for standard input; without it, the last picks.")
    ] = None,
    path: Annotated[str, typer.Option(help="The path it would be posted to.")] = "/v1/chat/completions",
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="A header of it, e.g. 'x-session-id: 42'; repeatable.")
    ] = None,
    pool: Annotated[str, typer.Option(help="Only picks of this pool, NAMESPACE/NAME.")] = "",
    limit: Annotated[int, typer.Option(help="How many of the last picks.", min=1, max=256)] = 5,
    router: Router = DEFAULT,
    output: Annotated[Form, typer.Option("--output", "-o", help="table or json.")] = Form.TABLE,
) -> None:
    """Why this endpoint, and what the others would have cost. Nothing is sent to an engine."""
    if body is None:
        found = _get(router, "/debug/picks", {"pool": pool, "limit": str(limit)})
    else:
        found = [_post(router, path, _body(body), _headers(header or []))]
    if output is Form.JSON:
        print_json(found if body is None else found[0])
        return
    if not found:
        typer.echo("the router has picked nothing yet")
    for one in found:
        _print_pick(one)
    if body is not None and "address" not in found[0]:
        raise typer.Exit(1)


def _print_pick(one: dict[str, Any]) -> None:
    if "address" not in one:
        typer.echo(f"not picked ({one['status'] or 'queued'}): {one['reason']}")
        return
    exact = "" if one["tokensExact"] else "about "
    typer.echo(
        f"{one['pool']}: {one['address']} for {exact}{one['promptTokens']:,} prompt tokens"
        + (f" of class {one['workloadClass']}" if one["workloadClass"] else "")
    )
    typer.echo(f"  {one['reason']}")
    rows = [_row(one["chosen"], "picked")] + [_row(other, other["excluded"]) for other in one["others"][:9]]
    columns = (
        "endpoint",
        "#held",
        "#wait ms",
        "#fetch ms",
        "#prefill ms",
        "#harm ms",
        "#late ms",
        "#total ms",
        "#µUSD",
        "",
    )
    print_table("", columns, rows)
    if len(one["others"]) > 9:
        typer.echo(f"  and {len(one['others']) - 9} more")
    if one.get("afterwards"):
        typer.echo(f"  its KV until the next turn: {one['afterwards']['tier']} ({one['afterwards']['reason']})")
    typer.echo("")


def _row(terms: dict[str, Any], word: str) -> tuple[str, ...]:
    held = " + ".join(f"{count:,} {tier}" for tier, count in terms["hitTokens"].items() if count) or "0"

    def ms(name: str) -> str:
        return f"{1000.0 * terms[name]:,.1f}"

    names = ("waitSeconds", "fetchSeconds", "prefillSeconds", "harmSeconds", "lateSeconds", "totalSeconds")
    return (terms["address"], held, *map(ms, names), f"{1e6 * terms['usd']:,.2f}", word)


def top(
    router: Router = DEFAULT,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2, max=60.0)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print once and end.")] = False,
    output: Annotated[Form, typer.Option("--output", "-o", help="table or json (once).")] = Form.TABLE,
) -> None:
    """A live view of the pools behind a router: hit rate, load balance, TTFT, and each endpoint's load."""
    if output is Form.JSON:
        print_json(_get(router, "/debug/pools"))
        return
    console = Console()
    if once or not sys.stdout.isatty():
        console.print(_view(_get(router, "/debug/pools"), {}, interval))
        return
    before: dict[str, Any] = {}
    with Live(console=console, auto_refresh=False, screen=True) as live:
        try:
            while True:
                pools = _get(router, "/debug/pools")
                live.update(_view(pools, before, interval), refresh=True)
                before = {one["pool"]: one["totals"] for one in pools}
                time.sleep(interval)
        except KeyboardInterrupt:
            return


def _view(pools: list[dict[str, Any]], before: dict[str, Any], interval: float) -> Group:
    if not pools:
        return Group(Text("the router knows no pool"))
    summary = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "pool",
        "req/s",
        "TTFT",
        "hit rate",
        "predicted",
        "max/mean load",
        "queue",
        "failed",
        "refused",
        "knows by",
    ):
        summary.add_column(name, justify="left" if name in ("pool", "knows by") else "right")
    parts: list[Table | Text] = [summary]
    for one in pools:
        totals = one["totals"]
        rate = "-"
        if one["pool"] in before:
            rate = f"{(totals['requests'] - before[one['pool']]['requests']) / interval:,.1f}"
        knows = "KV events" if one["kvEvents"] and one["tokenizer"] else "its own placements"
        summary.add_row(
            one["pool"],
            rate,
            _seconds(totals["ttftSeconds"]),
            _share(totals["hitRatio"]),
            _share(totals["predictedHitRatio"]),
            f"{one['loadMaxOverMean']:.2f}",
            str(one["queueRequests"]),
            f"{totals['failed']:,}",
            f"{totals['refused']:,}",
            knows,
        )
        table = Table(box=None, pad_edge=False, header_style="bold", title=one["pool"], title_justify="left")
        for name in ("endpoint", "pod", "accelerator", "running", "waiting", "blocks", "$/h", "state", ""):
            table.add_column(name, justify="right" if name in ("running", "waiting", "blocks", "$/h") else "left")
        for end in sorted(one["endpoints"], key=lambda each: -(each["running"] + each["waiting"]))[:20]:
            table.add_row(
                end["address"],
                end["pod"],
                end["accelerator"],
                f"{end['running']:.0f}",
                f"{end['waiting']:.0f}",
                f"{end['blocks']:,}",
                f"{end['usdPerHour']:.2f}",
                end["state"],
                end["odd"],
            )
        parts += [Text(""), table]
        if len(one["endpoints"]) > 20:
            parts.append(Text(f"and {len(one['endpoints']) - 20} endpoints with less load"))
    return Group(*parts)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{1000.0 * value:,.0f} ms"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100.0 * value:.1f} %"


def _get(router: str, path: str, params: dict[str, str] | None = None) -> Any:
    try:
        answer = httpx.get(f"{router.rstrip('/')}{path}", params=params, timeout=10.0)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        fail(_unreachable(router, error))
    return _json(answer, router)


def _post(router: str, path: str, body: bytes, headers: dict[str, str]) -> Any:
    try:
        answer = httpx.post(
            f"{router.rstrip('/')}/explain", params={"path": path}, content=body, headers=headers, timeout=30.0
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        fail(_unreachable(router, error))
    return _json(answer, router)


def _unreachable(router: str, error: Exception) -> str:
    return (
        f"the router at {router} does not answer ({error}); in a cluster: kubectl port-forward -n tidefleet-system "
        "deploy/tidefleet-router 9090, or give --router"
    )


def _json(answer: httpx.Response, router: str) -> Any:
    if answer.status_code != 200:
        fail(f"the router at {router} answers {answer.status_code}: {answer.text.strip()[:300]}")
    try:
        return answer.json()
    except ValueError:
        fail(f"{router} is no router: it answers no JSON; expected the address of its HTTP, e.g. {DEFAULT}")


def _body(path: Path) -> bytes:
    try:
        raw = sys.stdin.buffer.read(LARGEST_BODY) if str(path) == "-" else path.read_bytes()
    except OSError as error:
        fail(f"{path}: {error.strerror}", 2)
    try:
        json.loads(raw)
    except ValueError as error:
        fail(f'{path} is no JSON ({error}); expected a request\'s body, e.g. {{"model": "m", "messages": []}}', 2)
    return raw


def _headers(given: list[str]) -> dict[str, str]:
    found = {}
    for one in given:
        name, colon, value = one.partition(":")
        if not colon or not name.strip():
            fail(f"--header is {one!r}; expected NAME: VALUE, e.g. 'x-session-id: 42'", 2)
        found[name.strip()] = value.strip()
    return found
