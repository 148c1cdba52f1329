"""`tidefleet plan`: what the operator would choose for manifests, without a cluster."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from tidefleet import catalogue
from tidefleet.api import AcceleratorType, InferencePool, Reason, Site, WorkloadClass
from tidefleet.catalogue.aiconfigurator import kernel_tables
from tidefleet.cli import margins
from tidefleet.cli.output import Form, fail, print_json
from tidefleet.cli.plan_table import compared, print_comparison, print_decision
from tidefleet.cli.prices import with_price_book
from tidefleet.cli.validate import complaints
from tidefleet.cluster.kinds import DEPLOYMENT
from tidefleet.cluster.records import Workload
from tidefleet.cluster.records import workload as workload_record
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import NOTHING_SHARED, Share, decide
from tidefleet.controller.decision import Decision
from tidefleet.controller.filling import node_sizes, steered_shares, with_idle
from tidefleet.controller.observe import adopted_workloads
from tidefleet.controller.places import placed, site_limits, tariff_faults
from tidefleet.controller.sharing import SOLVER_SECONDS, Plans, shares_of
from tidefleet.controller.status import pool_status
from tidefleet.controller.view import Fault, PoolMemory, PoolView
from tidefleet.economics.tasks import TaskCost, TokenRates
from tidefleet.planning.calls import calls_between, with_called
from tidefleet.planning.coordination import SharedLimits, coordinate, exceeded, first_come
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.filling import fill
from tidefleet.planning.fleet import SolverFailed
from tidefleet.planning.from_api import UnknownModel, architecture_of, is_deferrable, offer_of, shipped_prices
from tidefleet.planning.nodes import is_worth_a_plan
from tidefleet.planning.options import EstimateMemo
from tidefleet.planning.prices import in_term
from tidefleet.planning.problem import PoolPlan
from tidefleet.planning.tasks import rates_of, task_cost_of
from tidefleet.planning.what_if import (
    BadQuestion,
    parse_what_if,
    why_nothing_changes,
    with_api_prices,
    with_demand,
    with_prices,
)

_LEAST_RATE, _MOST_RATE = 1e-9, 1e12
"""Requests per second that may be asked for, as far as a number of the API goes and beyond what any fleet serves."""


def plan(
    filenames: Annotated[
        list[str], typer.Option("--filename", "-f", help="File, directory, or - for standard input; may be repeated.")
    ],
    demand: Annotated[
        list[str] | None,
        typer.Option("--demand", help="Requests per second of a measured pool, e.g. prod/chat=20; may be repeated."),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option("--prices", help="A price book, YAML or CSV; its prices win over all others.")
    ] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            help="Plan once more under another price, demand, hit rate or API price, e.g. price:h200-sxm=2.9, "
            "demand:chat*1.3, hit:chat=0.3, api-price:*0.2; several hold together.",
        ),
    ] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option("--quota", help="Most chips of a type for all pools together, e.g. h200-sxm=16; may be repeated."),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            help="Where the nodes of a type stand, with several Sites in the files, e.g. h200-sxm=berlin; may be "
            "repeated. All types stand at an only Site.",
        ),
    ] = None,
    whole_nodes: Annotated[
        bool,
        typer.Option(help="Count rent by whole nodes where the chips of a node are known, else by the chip."),
    ] = False,
    whole_racks: Annotated[
        bool,
        typer.Option(help="Plan types that are bought as racks (scaleUp.boughtAs Domain) by whole racks."),
    ] = False,
    compare_roles: Annotated[
        bool, typer.Option("--compare-roles", help="Also price prefill and decode on replicas of their own.")
    ] = False,
    output: Annotated[Form, typer.Option("--output", "-o", help="table or json.")] = Form.TABLE,
) -> None:
    """Plan pools from manifests: accelerators, replicas, cost, and why. Needs no cluster.

    Accelerators are those that ship with tidefleet, and those in the files, which win. Sites in the files limit power,
    price electricity, and take their round trip off latencies.
    """
    found, objects = complaints(filenames)
    for each in found:
        typer.echo(str(each), err=True)
    if found:
        raise typer.Exit(1)
    rates = _rates(demand or [])
    pools = [one for one in objects if isinstance(one, InferencePool)]
    if not pools:
        fail("no InferencePool in these files; expected at least one, e.g. deploy/samples/10-chat.yaml")
    known = {f"{pool.namespace}/{pool.name}" for pool in pools} | {pool.name for pool in pools}
    for name in rates.keys() - known:
        fail(f"--demand names {name}; expected a pool of these files, e.g. {sorted(known)[-1]}={rates[name]:g}", 2)
    today = datetime.datetime.now(tz=datetime.UTC).date()
    kinds = with_price_book(_kinds([one for one in objects if isinstance(one, AcceleratorType)]), prices)
    kinds = {name: in_term(one, today) for name, one in kinds.items()}
    classes = [one for one in objects if isinstance(one, WorkloadClass)]
    sites = [one for one in objects if isinstance(one, Site)]
    there = _standing(sites, kinds, at or [])
    nodes = node_sizes(kinds.values()) if whole_nodes else {}
    limits = SharedLimits(chips=_quotas(quota or [], kinds), sites=site_limits(sites, there), nodes=nodes)
    terms = _Terms(limits, sites, there, compare_roles, whole_racks)
    decisions = _decided(pools, classes, kinds, rates, terms)
    changed: list[Decision] = []
    idle: list[str] = []
    if what_if:
        supposed, idle = _supposed(what_if, classes, kinds, rates)
        changed = _decided(pools, *supposed, terms)
    tasks = _tasks(decisions)
    if output is Form.JSON:
        answers = [{**_as_json(one), "classes": _classes_json(one, tasks[one.view.pool.key])} for one in decisions]
        for answer, before, after in zip(answers, decisions, changed, strict=False):
            answer["whatIf"] = {"questions": what_if, "notes": idle, **compared(before, after), **_as_json(after)}
        print_json(answers)
    else:
        for one in decisions:
            print_decision(one, tasks[one.view.pool.key])
        if changed:
            print_comparison(what_if or [], decisions, changed)
        for note in idle:
            typer.echo(f"  {note}")
    if any(one.plan is None for one in decisions):
        raise typer.Exit(1)


def _quotas(texts: Sequence[str], kinds: Mapping[str, AcceleratorType]) -> dict[str, int]:
    quotas = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in kinds or not value.isdecimal() or len(value) > 9:
            fail(f"--quota is {text!r}; expected TYPE=CHIPS of a known type, e.g. h200-sxm=16", 2)
        quotas[name] = int(value)
    return quotas


def _standing(
    sites: Sequence[Site], kinds: Mapping[str, AcceleratorType], texts: Sequence[str]
) -> dict[str, frozenset[str]]:
    """The types that stand at each site, by its name: without a cluster there are no nodes to tell."""
    names = [one.name for one in sites]
    told: dict[str, str] = {}
    for text in texts:
        kind, _, site = text.partition("=")
        if kind not in kinds or site not in names:
            example = f"h200-sxm={names[0]}" if names else "h200-sxm=berlin, with a Site of that name in the files"
            fail(f"--at is {text!r}; expected TYPE=SITE of a known type and a Site of the files, e.g. {example}", 2)
        told[kind] = site
    for site_found in sites:
        for fault in tariff_faults(site_found):
            typer.echo(f"{fault.message}; its tariff is not used", err=True)
    if len(names) > 1 and not told:
        fail(f"the files have {len(names)} Sites; say which types stand where, e.g. --at h200-sxm={names[0]}", 2)
    told = told or dict.fromkeys(kinds if names else (), names[0] if names else "")
    return {name: frozenset(kind for kind, where in told.items() if where == name) for name in names}


@dataclass(frozen=True, slots=True)
class _Terms:
    """What holds for all pools of one answer; ``there`` are the types at each site, by its name."""

    limits: SharedLimits
    sites: Sequence[Site]
    there: Mapping[str, frozenset[str]]
    compare_roles: bool
    whole_racks: bool = False
    memo: EstimateMemo = field(default_factory=lambda: EstimateMemo(other=kernel_tables()))


def _decided(
    pools: Sequence[InferencePool],
    classes: Sequence[WorkloadClass],
    kinds: dict[str, AcceleratorType],
    rates: dict[str, float],
    terms: _Terms,
) -> list[Decision]:
    """The decisions about all pools, within what they share."""
    decisions = [_decide(pool, classes, kinds, rates, terms) for pool in pools]
    plans = [(one.problem, one.plan) for one in decisions if one.problem is not None and one.plan is not None]
    shares = _shares(plans, terms.limits)
    decisions = [
        _decide(one.view.pool, classes, kinds, rates, terms, share)
        if one.problem is not None and (share := shares.get(one.problem.pool)) is not None
        else one
        for one in decisions
    ]
    return list(with_idle(decisions, terms.limits.nodes, on_paper=True))


def _shares(plans: Plans, limits: SharedLimits) -> dict[str, Share]:
    """What each pool gets of what they share, or should use for the sake of whole nodes."""
    if exceeded(plans, limits):
        found = coordinate([problem for problem, _ in plans], limits, clock=time.monotonic, seconds=SOLVER_SECONDS)
        if isinstance(found, SolverFailed):
            typer.echo(f"what the pools share is dealt out by priority, since {found.why}", err=True)
            found = first_come(plans, limits)
        return shares_of(found, plans)
    if not is_worth_a_plan({problem.pool: plan.chosen for problem, plan in plans}, limits.nodes):
        return {}
    filled = fill(plans, limits, clock=time.monotonic, seconds=SOLVER_SECONDS)
    if isinstance(filled, SolverFailed):
        typer.echo(f"whole nodes are not planned together: {filled.why}", err=True)
        return {}
    return steered_shares(filled, plans)


def _supposed(
    texts: Sequence[str], classes: Sequence[WorkloadClass], kinds: dict[str, AcceleratorType], rates: dict[str, float]
) -> tuple[tuple[Sequence[WorkloadClass], dict[str, AcceleratorType], dict[str, float]], list[str]]:
    """Classes, accelerator types and rates as the questions suppose them; and which of them change nothing, and why."""
    try:
        questions = [parse_what_if(one) for one in texts]
        asked, measured = with_demand(with_api_prices(classes, questions), rates, questions)
        idle = [words for one in questions if (words := why_nothing_changes(one, classes, rates))]
        return (asked, with_prices(kinds, questions), measured), idle
    except BadQuestion as error:
        fail(f"--what-if {error}", 2)


def _rates(texts: Sequence[str]) -> dict[str, float]:
    rates = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            rates[name] = float(value)
        except ValueError:
            fail(f"--demand is {text!r}; expected POOL=REQUESTS_PER_SECOND, e.g. prod/chat=20", 2)
        if not (rates[name] == 0 or _LEAST_RATE <= rates[name] <= _MOST_RATE):
            bounds = f"0, or a number from {_LEAST_RATE:g} to {_MOST_RATE:g}"
            fail(f"--demand {name} is {value}; expected {bounds} requests per second, e.g. 20", 2)
    return rates


def _kinds(given: Sequence[AcceleratorType]) -> dict[str, AcceleratorType]:
    return {**catalogue.accelerator_types(), **{one.name: one for one in given}}


def _decide(
    pool: InferencePool,
    classes: Sequence[WorkloadClass],
    kinds: dict[str, AcceleratorType],
    rates: dict[str, float],
    terms: _Terms,
    share: Share = NOTHING_SHARED,
) -> Decision:
    now = time.time()
    faults: tuple[Fault, ...] = ()
    architecture = None
    try:
        architecture = architecture_of(pool, catalogue.models())
    except UnknownModel as error:
        faults = (Fault(Reason.UNKNOWN_MODEL, str(error)),)
    shipped = shipped_prices(catalogue.accelerator_types().values())
    rate = rates.get(f"{pool.namespace}/{pool.name}", rates.get(pool.name))
    calls = calls_between(classes)
    mine = [one for one in classes if (one.namespace, one.spec.pool_ref.name) == pool.key]
    view = PoolView(
        pool=pool,
        now=now,
        faults=faults,
        architecture=architecture,
        classes=tuple(with_called(one, calls.called.get(one.key)) for one in mine),
        called={one.name: calls.called[one.key] for one in mine if one.key in calls.called},
        kinds=kinds,
        offers=placed(
            (offer_of(one, shipped=shipped, placeable=False, whole_racks=terms.whole_racks) for one in kinds.values()),
            terms.sites,
            terms.there,
            now=now,
        ),
        served=adopted_workloads(pool, architecture, lambda _kind, name: _imagined(pool.namespace, name)),
        reading=None if rate is None else Known(now, rate, "--demand", stated=True),
        compare_roles=terms.compare_roles,
    )
    memory = PoolMemory(DemandHistory(0.0))
    found = decide(view, memory, OperatorConfiguration(), terms.memo, share)
    if memory.waiting.unit and any(is_deferrable(one) for one in view.classes):
        # What a replica carries is known now, so that work which may wait can be fitted into what is idle.
        again = PoolMemory(DemandHistory(0.0))
        again.waiting.unit = memory.waiting.unit
        found = decide(view, again, OperatorConfiguration(), terms.memo, share)
    return found


def _imagined(namespace: str, name: str) -> Workload:
    """A workload to adopt that nothing is known of but its name."""
    return workload_record(DEPLOYMENT, {"metadata": {"namespace": namespace, "name": name}, "spec": {"replicas": 0}})


def _as_json(decision: Decision) -> dict[str, Any]:
    pool = decision.view.pool
    status = pool_status(decision, before={}, generation=0, decision_id="", now=decision.view.now)
    return {
        "pool": f"{pool.namespace}/{pool.name}",
        "accelerators": decision.summary,
        "reason": decision.reason,
        "requestsPerSecond": decision.rate,
        "plan": status.get("plan"),
        "nodes": {} if decision.plan is None else _nodes(decision.plan),
        "idle_usd_per_hour": 0.0 if decision.plan is None else sum(n.own_usd_per_hour for n in decision.plan.nodes),
        "conditions": {
            one["type"]: {k: one[k] for k in ("status", "reason", "message")} for one in status["conditions"]
        },
    }


def _nodes(plan: PoolPlan) -> dict[str, int]:
    """Whole nodes by type that a pool stands on, with others or alone."""
    found: dict[str, int] = {}
    for one in plan.nodes:
        found[one.accelerator] = found.get(one.accelerator, 0) + one.nodes
    return found


def _tasks(decisions: Sequence[Decision]) -> dict[tuple[str, str], dict[str, TaskCost]]:
    """What a task of each class costs, by pool and class, where the plans tell what all tokens in it cost."""
    classes = [one for decision in decisions for one in decision.view.classes]
    rates: dict[tuple[str, str], TokenRates] = {}
    for decision in decisions:
        if decision.plan is not None:
            found = rates_of(decision.plan, decision.classes)
            rates |= {(decision.view.pool.namespace, name): one for name, one in found.items()}
    answer: dict[tuple[str, str], dict[str, TaskCost]] = {}
    for decision in decisions:
        mine = answer.setdefault(decision.view.pool.key, {})
        near = {name: one for (space, name), one in rates.items() if space == decision.view.pool.namespace}
        for wclass in decision.view.classes:
            with contextlib.suppress(ValueError):  # calls that lead nowhere: DemandKnown tells of them
                if (cost := task_cost_of(wclass, classes, near)) is not None:
                    mine[wclass.name] = cost
    return answer


def _classes_json(decision: Decision, tasks: Mapping[str, TaskCost]) -> list[dict[str, Any]]:
    """What a task of each class costs, and what the class leaves, where that is known."""
    earned = margins.earnings(decision)
    answer = []
    for name in dict.fromkeys((*tasks, *earned)):
        row: dict[str, Any] = {"name": name}
        if name in tasks:
            usd = tasks[name].usd
            row["usdPerTask"] = {"mean": usd.mean, "p50": usd.p50, "p95": usd.p95, "p99": usd.p99}
        if name in earned:
            row["margin"] = margins.as_json(earned[name])
        answer.append(row)
    return answer
