"""`tidefleet flip`: asks for a node to train, to serve again, or to be released; the operator carries it out."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from tidefleet.cli.flip_case import Case, Refused, read_case
from tidefleet.cli.flips import zone_of
from tidefleet.cli.flips_day import unix
from tidefleet.cli.operator import Kubeconfig
from tidefleet.cli.output import Form, fail, print_json
from tidefleet.cluster.connection import NoConnection, connect
from tidefleet.cluster.identity import authenticated_user
from tidefleet.cluster.kinds import NODE
from tidefleet.cluster.lease import NoFence
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import Conflict, Denied, Failed, MergePatch, Outcome, Writer, Written
from tidefleet.controller import marks
from tidefleet.controller.flips.requests import VALID_SECONDS
from tidefleet.controller.flips.vetoes import seconds_of
from tidefleet.flipping.journal import Journal
from tidefleet.flipping.lending import Ask
from tidefleet.flipping.phase import Phase

FIELD_MANAGER = "tidefleet-cli"
LONGEST_NAME = 256
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """What is asked, and what will come of it.

    Attributes:
        steps: phases that follow, each with what is done.
        against: why the operator would refuse it now; empty when nothing speaks against it.
        notes: what else is worth knowing.
    """

    case: Case
    ask: Ask
    until: float | None
    steps: tuple[tuple[str, str], ...]
    against: tuple[str, ...]
    notes: tuple[str, ...] = ()


def flip(
    node: Annotated[str, typer.Argument(help="Name of the node; those that change hands with it go along.")],
    to: Annotated[str, typer.Option("--to", help="training or serving.")] = "",
    release: Annotated[
        bool, typer.Option("--release", help="Release a quarantined node: it is verified again.")
    ] = False,
    until: Annotated[
        str, typer.Option(help="When the loan is to end: 06:30, 8h, or RFC 3339. By default with the open window.")
    ] = "",
    time_zone: Annotated[str, typer.Option(help="IANA zone of --until 06:30; this machine's by default.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask for nothing: say what would be done, and what speaks against it.")
    ] = False,
    output: Annotated[Form, typer.Option("--output", "-o", help="table or json.")] = Form.TABLE,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Ask for a node to train, to serve again, or to be released; the operator answers with an Event on the node."""
    ask = _ask(to, release=release)
    now, zone = time.time(), zone_of(time_zone)
    ends = _ends(until, now, zone, ask)
    try:
        api = connect(kubeconfig)
        objects, writer = Objects(api), Writer(api, NoFence(), field_manager=FIELD_MANAGER)
        by = authenticated_user(api)[:LONGEST_NAME]
        outcome: Outcome = Conflict("")
        for _ in range(_ATTEMPTS):
            answer = answer_to(read_case(objects, node, now), ask, ends, now)
            outcome = writer.execute(request(answer, by=by, now=now), dry_run=dry_run)
            if not isinstance(outcome, Conflict):
                break
    except Refused as error:
        fail(str(error))
    except (NoConnection, ApiFailed, KindAbsent, Unreachable) as error:
        fail(str(error))
    if not isinstance(outcome, Written):
        fail(_unwritten(node, outcome))
    if output is Form.JSON:
        print_json(as_json(answer, by=by, now=now, dry_run=dry_run))
    else:
        print_answer(answer, by=by, dry_run=dry_run, zone=zone)
    if dry_run and answer.against:
        raise typer.Exit(1)


def _ask(to: str, *, release: bool) -> Ask:
    if bool(to) == release:
        fail("expected one of --to training, --to serving and --release", 2)
    if release:
        return Ask.RELEASE
    if to not in (Ask.TRAINING, Ask.SERVING):
        fail(f"--to is {to!r}; expected training or serving", 2)
    return Ask(to)


def _ends(text: str, now: float, zone: ZoneInfo | None, ask: Ask) -> float | None:
    """When a loan is to end, in Unix seconds: the next time the clock says so, after a duration, or at a moment."""
    if not text:
        return None
    if ask is not Ask.TRAINING:
        fail("--until is for --to training: a loan ends, serving does not", 2)
    ends: float | None
    seconds = seconds_of(text)
    try:
        if seconds is not None:
            ends = now + seconds
        elif len(text) == 5 and text[2] == ":":
            local = datetime.datetime.fromtimestamp(now, tz=zone).astimezone(zone)
            wall = local.replace(hour=int(text[:2]), minute=int(text[3:]), second=0, microsecond=0)
            ends = wall.timestamp()
            if ends <= now:
                ends = (wall + datetime.timedelta(days=1)).timestamp()
        else:
            ends = unix(datetime.datetime.fromisoformat(text))
    except ValueError:
        fail(
            f"--until is {text!r}; expected a time of day, a duration or RFC 3339, e.g. 06:30, 8h, 2026-11-22T06:30Z", 2
        )
    if ends <= now:
        fail(f"--until is {text!r}, which is past; expected a time to come, e.g. 8h", 2)
    return float(int(ends))


def answer_to(case: Case, ask: Ask, until: float | None, now: float) -> Answer:
    """What a request would come to.

    Raises:
        Refused: it makes no sense in the node's present phase.
    """
    journal, name = case.unit.journal, case.node.name
    phase = journal.phase
    against: list[str] = []
    match ask:
        case Ask.RELEASE if phase is not Phase.QUARANTINED:
            raise Refused(f"node {name} is in phase {phase}; expected Quarantined: there is nothing to release it from")
        case Ask.TRAINING | Ask.SERVING if phase is Phase.QUARANTINED:
            raise Refused(
                f"node {name} is quarantined ({journal.why}); release it first: tidefleet flip {name} --release"
            )
        case Ask.TRAINING if phase is Phase.TRAINING and (until is None or until <= (journal.until or 0.0)):
            raise Refused(f"node {name} is on loan already, until {_told(journal.until)}; a later --until prolongs it")
        case Ask.TRAINING if phase.is_homebound:
            raise Refused(f"node {name} is on its way back ({phase}: {journal.why}); ask again when it serves")
        case Ask.TRAINING if phase.is_outbound:
            raise Refused(f"node {name} is on its way to training already ({phase}: {journal.why})")
        case Ask.SERVING if phase is Phase.SERVING:
            raise Refused(f"node {name} serves already")
        case Ask.SERVING if phase.is_homebound:
            raise Refused(f"node {name} is on its way back already ({phase}: {journal.why})")
        case Ask.TRAINING:
            against = [*case.vetoes, *_not_lendable(case)]
        case Ask.RELEASE if case.unit.holders:
            pods = ", ".join(f"{one.namespace}/{one.name}" for one in _held(case)[:4])
            against = [
                f"{case.unit.holders} pods still hold its accelerators ({pods}); end them, or it is quarantined again"
            ]
        case _:
            pass
    return Answer(case, ask, until, _steps(case, ask, until), tuple(dict.fromkeys(against)), _notes(case, ask, now))


def _not_lendable(case: Case) -> list[str]:
    if case.lenders:
        return []
    why = "; ".join(case.idle) or "no InferencePool runs on this type"
    return [f"no pool lends nodes of type {case.unit.accelerator}: {why}"]


def _held(case: Case) -> list[Any]:
    return [*(one.pod for one in case.unit.serving), *case.unit.others]


def _notes(case: Case, ask: Ask, now: float) -> tuple[str, ...]:
    notes: list[str] = []
    if len(case.unit.nodes) > 1:
        names = ", ".join(one.name for one in case.unit.nodes)
        notes.append(f"{len(case.unit.nodes)} nodes change hands together: {names}")
    if case.unit.missing:
        notes.append(f"of its unit these nodes are gone: {', '.join(case.unit.missing)}")
    flipping = case.pool.status.flipping if case.pool is not None else None
    if ask is Ask.TRAINING and flipping and flipping.needed_nodes is not None and flipping.serving_nodes is not None:
        needed, serving = flipping.needed_nodes, flipping.serving_nodes
        if serving - case.unit.size < needed:
            notes.append(f"serving needs {needed} nodes and {serving} serve: the operator will refuse while that is so")
    before = case.node.annotations.get(marks.FLIP_REQUEST_ANNOTATION)
    if before is not None:
        notes.append(f"an earlier request is replaced: {before[:200]}")
    notes.append(
        f"the operator answers in its next passes; a request older than {VALID_SECONDS / 60:.0f} min is dropped"
    )
    return tuple(notes)


def _steps(case: Case, ask: Ask, until: float | None) -> tuple[tuple[str, str], ...]:
    """The phases to come, each with what is done in it."""
    unit, journal = case.unit, case.unit.journal
    chips = f"{unit.chips} {unit.resource}"
    spec = case.pool.spec.flipping if case.pool is not None else None
    drain = spec.drain if spec else None
    grace = spec.training.checkpoint_grace_seconds if spec and spec.training else 120
    pods = len(unit.serving)
    back = (
        ("Reclaiming", f"until no pod or claim holds its {chips}"),
        ("Warming", "the taints go, duty=serving; replicas come back and answer a trial request"),
        ("Serving", "done"),
    )
    if ask is Ask.RELEASE:
        return (("Verifying", f"until no pod or claim holds its {chips}, and the node is healthy"), *back[1:])
    if ask is Ask.SERVING:
        if journal.phase.is_outbound:
            return (("Serving", "the flip is rolled back: taint, labels and replicas are as before"),)
        return (
            ("Recalling", f"no further job comes; {len(unit.others)} pods get {grace} s for a checkpoint, then go"),
            *back,
        )
    if journal.phase is Phase.TRAINING:
        return (("Training", f"the loan is prolonged until {_told(until)}"),)
    timeout = (f"after {drain.timeout_seconds} s {drain.on_timeout}") if drain else "after 600 s RollBack"
    ends = f"until {_told(until)}" if until is not None else "until the open window ends, else for 8 hours"
    return (
        ("Planned", "the journal is written; nothing else changes"),
        (
            "Cordoned",
            f"taint {marks.FLIP_ANNOTATION}=cordoned:NoSchedule; replicas elsewhere take over from {pods} pods",
        ),
        ("Draining", f"no further request reaches the {pods} pods; they finish what runs ({timeout}), then leave"),
        ("Verifying", f"until no pod or claim holds its {chips}"),
        (
            "Training",
            f"label tidefleet.io/duty=training and its taint; the queue gets {unit.chips} accelerators {ends}",
        ),
    )


def request(answer: Answer, *, by: str, now: float) -> MergePatch:
    """The annotation that asks for it, on exactly the node that was looked at."""
    value: dict[str, Any] = {"to": str(answer.ask), "by": by, "at": int(now)}
    if answer.until is not None:
        value["until"] = int(answer.until)
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return MergePatch(
        kind=NODE,
        namespace="",
        name=answer.case.node.name,
        body={"metadata": {"annotations": {marks.FLIP_REQUEST_ANNOTATION: text}}},
        uid=answer.case.node.uid,
        resource_version=answer.case.node.resource_version,
        reason=f"asked for by {by}",
        decision_id="",
    )


def _unwritten(node: str, outcome: Outcome) -> str:
    match outcome:
        case Denied(message):
            return f"node {node}: the API server does not let you ask: {message}"
        case Conflict():
            return f"node {node} changes all the time; ask again"
        case Failed(message):
            return f"node {node}: {message}"
        case _:
            return f"node {node}: {outcome}"


def _told(moment: float | None, zone: datetime.tzinfo | None = None) -> str:
    if moment is None:
        return "an unknown time"
    return datetime.datetime.fromtimestamp(moment, tz=zone).astimezone(zone).strftime("%a %d %b %H:%M %Z")


def as_json(answer: Answer, *, by: str, now: float, dry_run: bool) -> dict[str, Any]:
    """The answer as values for JSON."""
    unit, journal = answer.case.unit, answer.case.unit.journal
    annotations: Mapping[str, str] = request(answer, by=by, now=now).body["metadata"]["annotations"]
    return {
        "node": answer.case.node.name,
        "unit": unit.name,
        "nodes": [one.name for one in unit.nodes],
        "accelerator": unit.accelerator,
        "chips": unit.chips,
        "phase": str(journal.phase),
        "since": journal.since or None,
        "until": journal.until,
        "why": journal.why,
        "request": json.loads(annotations[marks.FLIP_REQUEST_ANNOTATION]),
        "dryRun": dry_run,
        "steps": [{"phase": phase, "what": what} for phase, what in answer.steps],
        "against": list(answer.against),
        "notes": list(answer.notes),
        "pods": [f"{one.namespace}/{one.name}" for one in _held(answer.case)],
    }


def print_answer(answer: Answer, *, by: str, dry_run: bool, zone: ZoneInfo | None) -> None:
    """The answer for people."""
    unit, name = answer.case.unit, answer.case.node.name
    asked = "release from quarantine" if answer.ask is Ask.RELEASE else f"to {answer.ask}"
    head = "would be asked" if dry_run else "asked"
    typer.echo(f"{name}: {head} {asked}, by {by} ({unit.chips} {unit.resource}, {unit.accelerator})")
    typer.echo(f"  stands at: {_stands(unit.journal, zone)}")
    for pod in _held(answer.case)[:8]:
        typer.echo(
            f"  holds its accelerators: pod {pod.namespace}/{pod.name}{' (terminating)' if pod.deleting else ''}"
        )
    for phase, what in answer.steps:
        typer.echo(f"  {phase:<11}{what}")
    for note in answer.notes:
        typer.echo(f"  note: {note}")
    for one in answer.against:
        typer.echo(f"  against it: {one}")
    if dry_run:
        typer.echo("  nothing was asked (--dry-run)" + ("; the operator would refuse it now" if answer.against else ""))
    else:
        typer.echo(
            f"  the answer: kubectl get events -A --field-selector involvedObject.kind=Node,involvedObject.name={name}"
        )


def _stands(journal: Journal, zone: ZoneInfo | None) -> str:
    words = str(journal.phase)
    if journal.since:
        words += f" since {_told(journal.since, zone)}"
    if journal.until is not None:
        words += f", on loan until {_told(journal.until, zone)}"
    return f"{words}: {journal.why}" if journal.why else words
