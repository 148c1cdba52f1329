"""`tidefleet flips`: the last and next 24 hours of nodes between serving and training, and what holds loans back."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
import yaml
from rich.console import Console

from tidefleet.api.flipping import FlippingPolicy
from tidefleet.cli.flips_day import Day, as_json, day_of, status_of, unix
from tidefleet.cli.flips_page import page
from tidefleet.cli.flips_table import print_day
from tidefleet.cli.operator import Kubeconfig
from tidefleet.cli.output import fail, json_text
from tidefleet.cluster.connection import NoConnection, connect
from tidefleet.cluster.kinds import INFERENCE_POOL
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.transport import Unreachable


class FlipsForm(StrEnum):
    """What the command prints."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


def flips(
    pool: Annotated[
        str, typer.Argument(help="InferencePool, as NAME or NAMESPACE/NAME; without one, every pool that may lend.")
    ] = "",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Namespace: of the pool (default), or to look in (all).")
    ] = "",
    output: Annotated[FlipsForm, typer.Option("--output", "-o", help="table, json or html.")] = FlipsForm.TABLE,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Pools from a file (kubectl get tpool -o yaml) instead of a cluster; - for stdin."),
    ] = None,
    time_zone: Annotated[str, typer.Option(help="IANA zone for times; by default that of the pool's window.")] = "",
    at: Annotated[str, typer.Option(help="Show this moment (RFC 3339); now by default.")] = "",
    kubeconfig: Kubeconfig = None,
) -> None:
    """The last and next 24 hours: nodes needed, each unit's ribbon, loans that are blocked, and training that waits."""
    if "/" in pool:
        namespace, _, pool = pool.partition("/")
    zone, moment = zone_of(time_zone), moment_of(at)
    raws = _from_file(source) if source is not None else _from_cluster(pool, namespace, kubeconfig)
    if source is not None and (pool or namespace):
        raws = [one for one in raws if _is_asked(one, pool, namespace)]
    days = [_day(one, moment, zone, saved=source is not None) for one in raws]
    found = [one for one in days if one is not None]
    if not found and pool and raws:
        fail(f"InferencePool {namespace or 'default'}/{pool} never lends: spec.flipping.policy is Never")
    if not found:
        what = f"InferencePool {namespace or 'default'}/{pool}" if pool else "InferencePool that may lend nodes"
        fail(f"there is no {what}; a pool lends with spec.flipping.policy Schedule or Forecast")
    match output:
        case FlipsForm.JSON:
            typer.echo(json_text([as_json(one) for one in found]))
        case FlipsForm.HTML:
            typer.echo(page(found))
        case FlipsForm.TABLE:
            console = Console(soft_wrap=False)
            for index, one in enumerate(found):
                if index:
                    typer.echo("")
                print_day(one, console)


def zone_of(name: str) -> ZoneInfo | None:
    """A zone by its IANA name; ``None`` for the default. Ends the command when there is no such zone."""
    if not name:
        return None
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError):
        fail(f"--time-zone is {name!r}; expected a zone of the IANA database, e.g. Europe/Berlin", 2)


def moment_of(text: str) -> float | None:
    """A moment in RFC 3339 as Unix seconds; ``None`` for now. Ends the command when it is none."""
    if not text:
        return None
    try:
        return unix(datetime.datetime.fromisoformat(text))
    except ValueError:
        fail(f"--at is {text!r}; expected a time in RFC 3339, e.g. 2026-11-21T22:00:00Z", 2)


def _day(raw: Mapping[str, Any], at: float | None, zone: ZoneInfo | None, *, saved: bool) -> Day | None:
    """The day of a pool; ``None`` for one that never lends."""
    status = status_of(raw).flipping
    policy = ((raw.get("spec") or {}).get("flipping") or {}).get("policy", FlippingPolicy.NEVER)
    if status is None and policy == FlippingPolicy.NEVER:
        return None
    now = at if at is not None else time.time()
    if saved and at is None and status is not None and status.slot_start is not None:
        now = unix(status.slot_start)
    return day_of(raw, now, zone=zone)


def _is_asked(raw: Mapping[str, Any], pool: str, namespace: str) -> bool:
    meta = raw.get("metadata") or {}
    return (not pool or meta.get("name") == pool) and (not namespace or meta.get("namespace", "default") == namespace)


def _from_cluster(pool: str, namespace: str, kubeconfig: str | None) -> list[dict[str, Any]]:
    try:
        objects = Objects(connect(kubeconfig))
        if not pool:
            return objects.list(INFERENCE_POOL, namespace or None)
        raw = objects.get(INFERENCE_POOL, namespace or "default", pool)
        if raw is None:
            metas = [one["metadata"] for one in objects.list(INFERENCE_POOL)]
            there = ", ".join(f"{one['namespace']}/{one['name']}" for one in metas[:8]) or "none"
            fail(f"there is no InferencePool {namespace or 'default'}/{pool}; there are: {there}")
    except (NoConnection, ApiFailed, KindAbsent, Unreachable) as error:
        fail(str(error))
    return [raw]


def _from_file(path: Path) -> list[dict[str, Any]]:
    """The InferencePools of a file of YAML or JSON; those in a List too."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        documents = [one for one in yaml.safe_load_all(text) if isinstance(one, Mapping)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fail(f"--from {path}: {str(error)[:300]}")
    items: list[dict[str, Any]] = []
    for one in documents:
        below = one.get("items")
        items += [dict(each) for each in (below if isinstance(below, list) else [one]) if isinstance(each, Mapping)]
    found = [one for one in items if one.get("kind") == "InferencePool"]
    if not found:
        fail(f"--from {path} holds no InferencePool; expected the output of kubectl get tpool NAME -o yaml")
    return found
