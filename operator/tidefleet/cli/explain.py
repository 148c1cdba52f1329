"""`tidefleet explain`: why a pool runs on what it runs on, in the words of its status."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from tidefleet.cli.flips_day import day_of
from tidefleet.cli.flips_table import summary
from tidefleet.cli.operator import Kubeconfig
from tidefleet.cli.output import Form, fail, print_json
from tidefleet.cli.plan_table import print_status
from tidefleet.cluster.connection import NoConnection, connect
from tidefleet.cluster.kinds import INFERENCE_POOL
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.transport import Unreachable


def explain(
    pool: Annotated[str, typer.Argument(help="InferencePool, as NAME or NAMESPACE/NAME.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the pool.")] = "default",
    output: Annotated[Form, typer.Option("--output", "-o", help="table or json.")] = Form.TABLE,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Why a pool has these accelerators: the decision in force, what lost and by how much, and what is wrong."""
    if "/" in pool:
        namespace, _, pool = pool.partition("/")
    try:
        objects = Objects(connect(kubeconfig))
        raw = objects.get(INFERENCE_POOL, namespace, pool)
        if raw is None:
            there = ", ".join(
                f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in objects.list(INFERENCE_POOL)[:8]
            )
            fail(f"there is no InferencePool {namespace}/{pool}; there are: {there or 'none'}")
    except (NoConnection, ApiFailed, KindAbsent, Unreachable) as error:
        fail(str(error))
    status: dict[str, Any] = raw.get("status") or {}
    if output is Form.JSON:
        print_json({"pool": f"{namespace}/{pool}", **status})
        return
    if not status:
        fail(f"{namespace}/{pool} has no status yet; is the operator running? (kubectl get lease -A | grep tidefleet)")
    reason = (status.get("plan") or {}).get("reason") or next(
        (one["message"] for one in status.get("conditions", ()) if one["type"] == "Ready"), "no plan"
    )
    print_status(f"{namespace}/{pool}", status, reason)
    if status.get("flipping"):
        for line in summary(day_of(raw, time.time())):
            typer.echo(line.replace(f"{namespace}/{pool}: ", "lending: ", 1))
        typer.echo("")
    if status.get("decisionId"):
        typer.echo(f"decision {status['decisionId']}")
