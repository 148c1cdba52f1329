"""`tidefleet pause`: stops loans, or calls all of them back, of one pool or of the fleet; and shows what is paused."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.markup import escape

from tidefleet.api.flipping import PauseScope
from tidefleet.cli.operator import Kubeconfig
from tidefleet.cli.output import Form, fail, print_json, print_table
from tidefleet.cluster.connection import NoConnection, connect
from tidefleet.cluster.identity import authenticated_user
from tidefleet.cluster.kinds import CONFIG_MAP, INFERENCE_POOL, LEASE
from tidefleet.cluster.lease import NoFence
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import Conflict, Create, Denied, Failed, Invalid, MergePatch, Outcome, Writer, Written

FLEET = "tidefleet-pause"
"""Name of the ConfigMap, in the operator's namespace, that pauses every pool."""

LEASE_NAME = "tidefleet"
FIELD_MANAGER = "tidefleet-cli"
LONGEST_NAME = 128
LONGEST_REASON = 512
_EFFECT = {
    PauseScope.NONE: "flipping goes on",
    PauseScope.NEW_LOANS: "no node sets out to training; what is lent stays lent until its window ends",
    PauseScope.RECALL_ALL: "no node sets out to training, and every node that is lent is called back now",
}


@dataclass(frozen=True, slots=True)
class Paused:
    """One pause. ``what`` is ``namespace/name`` of a pool, or ``fleet``."""

    what: str
    scope: str
    by: str
    reason: str
    at: str = ""

    def as_json(self) -> dict[str, Any]:
        """The pause as values for JSON."""
        return {"what": self.what, "scope": self.scope, "by": self.by, "reason": self.reason, "at": self.at or None}


def pause(
    pool: Annotated[str, typer.Argument(help="InferencePool, as NAME or NAMESPACE/NAME.")] = "",
    fleet: Annotated[bool, typer.Option("--fleet", help="Every pool of the operator.")] = False,
    scope: Annotated[
        PauseScope | None,
        typer.Option(help="NewLoans: nothing sets out. RecallAll: everything comes back too. None: ends the pause."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for those who find it paused.")] = "",
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace of the pool.")] = "default",
    operator_namespace: Annotated[
        str,
        typer.Option(
            envvar="TIDEFLEET_OPERATOR_NAMESPACE",
            help="Where the operator runs; by default where its Lease is found.",
        ),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be changed.")] = False,
    output: Annotated[Form, typer.Option("--output", "-o", help="table or json.")] = Form.TABLE,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Pause loans to training; without --scope, show what is paused, by whom and why."""
    if "/" in pool:
        namespace, _, pool = pool.partition("/")
    _check(pool, fleet=fleet, scope=scope, reason=reason)
    try:
        api = connect(kubeconfig)
        objects = Objects(api)
        if scope is None:
            _show(objects, pool, namespace, operator_namespace, fleet=fleet, output=output)
            return
        asked = Paused(
            what="fleet" if fleet else f"{namespace}/{pool}",
            scope=str(scope),
            by=authenticated_user(api)[:LONGEST_NAME],
            reason=reason,
            at=datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        writer = Writer(api, NoFence(), field_manager=FIELD_MANAGER)
        place = _operator_namespace(objects, operator_namespace) if fleet else namespace
        outcome: Outcome = Conflict("")
        before = ""
        for _ in range(3):
            write, before = _fleet_write(objects, place, asked) if fleet else _pool_write(objects, place, pool, asked)
            outcome = writer.execute(write, dry_run=dry_run)
            if not isinstance(outcome, Conflict):
                break
    except (NoConnection, ApiFailed, KindAbsent, Unreachable) as error:
        fail(str(error))
    if not isinstance(outcome, Written):
        fail(_unwritten(asked.what, outcome))
    if output is Form.JSON:
        print_json({**asked.as_json(), "before": before, "dryRun": dry_run})
        return
    told = "would be" if dry_run else "is"
    typer.echo(f"{asked.what}: the pause {told} {scope} (was {before}), by {asked.by}: {_EFFECT[scope]}")


def _check(pool: str, *, fleet: bool, scope: PauseScope | None, reason: str) -> None:
    if pool and fleet:
        fail("got a pool and --fleet; expected one of them", 2)
    if scope is not None and not (pool or fleet):
        fail(
            "--scope says how far, not what; expected a pool or --fleet, e.g. tidefleet pause chat --scope NewLoans", 2
        )
    if scope not in (None, PauseScope.NONE) and not reason.strip():
        fail('--reason is missing; expected why, for those who find it paused, e.g. --reason "launch day"', 2)
    if scope is None and reason:
        fail(f"--reason goes with --scope; expected one of {', '.join(PauseScope)}", 2)
    if len(reason) > LONGEST_REASON:
        fail(f"--reason has {len(reason)} characters; expected at most {LONGEST_REASON}", 2)


def _pool_write(objects: Objects, namespace: str, name: str, asked: Paused) -> tuple[MergePatch, str]:
    raw = objects.get(INFERENCE_POOL, namespace, name)
    if raw is None:
        metas = [one["metadata"] for one in objects.list(INFERENCE_POOL)]
        there = ", ".join(f"{one['namespace']}/{one['name']}" for one in metas[:8]) or "none"
        fail(f"there is no InferencePool {namespace}/{name}; there are: {there}")
    value = {"scope": asked.scope, "by": asked.by, "reason": asked.reason or None}
    write = MergePatch(
        kind=INFERENCE_POOL,
        namespace=namespace,
        name=name,
        body={"spec": {"flipping": {"pause": value}}},
        uid=str(raw["metadata"]["uid"]),
        resource_version=str(raw["metadata"]["resourceVersion"]),
        reason=f"pause by {asked.by}",
        decision_id="",
    )
    return write, _pause_of(raw).scope


def _fleet_write(objects: Objects, namespace: str, asked: Paused) -> tuple[MergePatch | Create, str]:
    raw = objects.get(CONFIG_MAP, namespace, FLEET)
    data = {"scope": asked.scope, "by": asked.by, "reason": asked.reason, "at": asked.at}
    why = f"pause by {asked.by}"
    if raw is None:
        labels = {"app.kubernetes.io/part-of": "tidefleet"}
        body = {"metadata": {"name": FLEET, "namespace": namespace, "labels": labels}, "data": data}
        return Create(kind=CONFIG_MAP, body=body, reason=why, decision_id=""), str(PauseScope.NONE)
    write = MergePatch(
        kind=CONFIG_MAP,
        namespace=namespace,
        name=FLEET,
        body={"data": data},
        uid=str(raw["metadata"]["uid"]),
        resource_version=str(raw["metadata"]["resourceVersion"]),
        reason=why,
        decision_id="",
    )
    return write, _fleet_pause(raw).scope


def _operator_namespace(objects: Objects, given: str) -> str:
    """Where the operator runs: as given, else where a Lease of its name is."""
    if given:
        return given
    found = sorted(
        {str(one["metadata"]["namespace"]) for one in objects.list(LEASE, field_selector=f"metadata.name={LEASE_NAME}")}
    )
    if len(found) != 1:
        there = ", ".join(found) or "none"
        fail(
            f"the operator's namespace is not known: Leases named {LEASE_NAME} are in {there}; "
            "expected --operator-namespace, e.g. --operator-namespace tidefleet-system"
        )
    return found[0]


def _pause_of(raw: dict[str, Any]) -> Paused:
    meta = raw["metadata"]
    found = ((raw.get("spec") or {}).get("flipping") or {}).get("pause") or {}
    scope, by, reason = (str(found.get(key) or "") for key in ("scope", "by", "reason"))
    return Paused(f"{meta.get('namespace', 'default')}/{meta['name']}", scope or "None", by, reason)


def _fleet_pause(raw: dict[str, Any]) -> Paused:
    data = raw.get("data") or {}
    return Paused(
        "fleet", data.get("scope") or "None", data.get("by") or "", data.get("reason") or "", data.get("at") or ""
    )


def _show(objects: Objects, pool: str, namespace: str, operator_namespace: str, *, fleet: bool, output: Form) -> None:
    found: list[Paused] = []
    if not pool:
        maps = (
            [objects.get(CONFIG_MAP, operator_namespace, FLEET)]
            if operator_namespace
            else objects.list(CONFIG_MAP, field_selector=f"metadata.name={FLEET}")
        )
        found += [_fleet_pause(one) for one in maps if one is not None]
    if not fleet:
        raws = [objects.get(INFERENCE_POOL, namespace, pool)] if pool else objects.list(INFERENCE_POOL)
        if pool and raws == [None]:
            fail(f"there is no InferencePool {namespace}/{pool}")
        found += [_pause_of(one) for one in raws if one is not None]
    paused = [one for one in found if one.scope != PauseScope.NONE]
    if output is Form.JSON:
        print_json([one.as_json() for one in paused])
    elif not paused:
        typer.echo("nothing is paused" if not pool else f"{namespace}/{pool} is not paused")
    else:
        rows = [(one.what, one.scope, one.by or "-", one.reason or "-", one.at or "-") for one in paused]
        print_table("", ("WHAT", "SCOPE", "BY", "REASON", "SINCE"), [[escape(cell) for cell in row] for row in rows])


def _unwritten(what: str, outcome: Outcome) -> str:
    match outcome:
        case Denied(message):
            return f"{what}: the API server does not let you pause it: {message}"
        case Conflict():
            return f"{what} changes all the time; ask again"
        case Failed(message) | Invalid(message):
            return f"{what}: {message}"
        case _:
            return f"{what}: {outcome}"
