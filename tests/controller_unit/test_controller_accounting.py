"""Dollars and tokens as they are counted, and how many series a leader exports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from controller_builders import NOW, SHIPPED, a_class, a_kind, a_pool, a_served, a_view, an_option, offers

from tidefleet.controller import marks
from tidefleet.controller.accounting import Accountant
from tidefleet.controller.calibrating import workload_key
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.decision import Decision
from tidefleet.controller.opencost import Beside
from tidefleet.controller.view import Chips, Fault, PoolMemory, Reason
from tidefleet.controller.work import EngineWork
from tidefleet.economics.ledger import Worked
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.options import Electricity, EstimateMemo
from tidefleet.telemetry import METRICS, Telemetry

SIX = ("h100-sxm", "h200-sxm", "b200-sxm", "l40s", "a100-sxm-80", "mi300x")

OF_LENDERS = {
    "tidefleet_flips_allowed",
    "tidefleet_pool_flip_overdue_seconds",
    "tidefleet_pool_loaned_nodes",
}
"""Gauges that only a pool has that may lend nodes."""

OF_ADOPTERS = {"tidefleet_pool_adopted_cost_usd_per_hour"}
"""Gauges that only a pool has that adopted its workloads."""


@dataclass
class Tallies:
    """What a collector would have counted since it was last asked."""

    tokens: Mapping[str, float] = field(default_factory=lambda: {"input": 600.0, "cached": 400.0, "output": 250.0})

    work: tuple[EngineWork, ...] = ()

    def take_tokens(self, _pool: tuple[str, str]) -> Mapping[str, float]:
        return self.tokens

    def take_work(self, _pool: tuple[str, str]) -> tuple[EngineWork, ...]:
        return self.work


def a_decision(
    name: str = "chat",
    *,
    types: tuple[str, ...] = SIX,
    classes: int = 3,
    tiers: tuple[dict[str, Any], ...] = (),
    classes_are: tuple[Any, ...] | None = None,
    **changes: Any,
) -> Decision:
    """A pool that runs on all these types at once, with a target and a budget."""
    spec = {"costTarget": {"usdPerMillionTokens": "0.60", "monthlyBudgetUsd": "9000"}, "kvCache": {"tiers": [*tiers]}}
    pool = a_pool(name, **spec)
    options = [an_option(one) for one in types]
    facts: dict[str, Any] = {
        "served": tuple(a_served(pool, one, replicas=2) for one in options),
        "chips": {(one, "OnDemand"): Chips(scheduled=2, ready=2) for one in types},
        "classes": classes_are or tuple(a_class(f"class-{i}", pool=name, revenue={"free": {}}) for i in range(classes)),
        "reading": Known(NOW, 20.0, "Engines"),
        "busy_ratio": 0.5,
        **changes,
    }
    view = a_view(pool, *(SHIPPED[one] for one in types), **facts)
    return decide(view, PoolMemory(DemandHistory(600.0)), OperatorConfiguration(), EstimateMemo())


def an_accountant(telemetry: Telemetry) -> Accountant:
    return Accountant(telemetry, collector=Tallies())  # type: ignore[arg-type]


def cost(telemetry: Telemetry, accelerator: str) -> float | None:
    labels = {"namespace": "prod", "pool": "chat", "accelerator": accelerator, "capacity_type": "OnDemand"}
    return telemetry.value("tidefleet_pool_cost_usd_total", **labels)


def test_the_rent_of_the_time_between_two_passes_is_counted() -> None:
    telemetry, one = Telemetry(), a_decision(types=("l40s",))
    accountant = an_accountant(telemetry)
    accountant.account([one], NOW)
    assert not cost(telemetry, "l40s")  # nothing is known of the time before
    accountant.account([one], NOW + 1800)
    assert one.market is not None
    price = next(c.price.usd_per_chip_hour for c in one.market.candidates)
    assert cost(telemetry, "l40s") == pytest.approx(2 * price * 0.5)
    accountant.account([one], NOW + 1000)  # a clock that goes back takes nothing away
    assert cost(telemetry, "l40s") == pytest.approx(2 * price * 0.5)


HOST = {"medium": "Host", "maxBytesPerReplica": 2**39, "bytesPerSecond": 50_000_000_000, "usdPerGibMonth": "0.73"}
STORE = {**HOST, "medium": "Shared", "maxBytesPerReplica": 2**40}


def on_the_page(telemetry: Telemetry, name: str) -> float:
    """What the public page says of a counter of the pool, all its series together."""
    lines = series(telemetry, namespace="prod", pool="chat")
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))


def test_the_rent_of_given_tiers_is_part_of_what_a_pool_costs() -> None:
    telemetry, bare, one = Telemetry(), Telemetry(), a_decision(types=("l40s",), tiers=(HOST, STORE))
    for told, decision in ((telemetry, one), (bare, a_decision(types=("l40s",)))):
        accountant = an_accountant(told)
        accountant.account([decision], NOW)
        accountant.account([decision], NOW + 3600)
    rent = 2 * 0.73 / 730.5 * (512 + 1024)  # of two replicas in an hour
    assert on_the_page(telemetry, "tidefleet_pool_kv_tier_cost_usd_total") == pytest.approx(rent, rel=1e-3)
    without = on_the_page(bare, "tidefleet_pool_cost_usd_total")
    assert on_the_page(telemetry, "tidefleet_pool_cost_usd_total") == pytest.approx(without + rent, rel=1e-3)
    assert not [line for line in series(bare) if line.startswith("tidefleet_pool_kv_tier")]
    assert one.plan is not None  # the plan and the bill have the same rent
    storage = sum(each.replicas * each.candidate.storage_usd_per_hour for each in one.plan.chosen)
    assert storage == pytest.approx(rent / 2 * one.plan.replicas, rel=1e-3)


def test_the_rent_of_planned_tiers_is_that_of_their_sizes_and_outlives_the_plan() -> None:
    agent = a_class(
        demand={"requestsPerSecond": "2"},
        tokens={"input": {"mean": 12000}, "output": {"mean": 200}, "cachedShare": "0.1"},
        turnsPerSession="9",
        revenue={"free": {}},
    )
    one = a_decision(types=("h100-sxm",), tiers=({**STORE, "sizing": "Planned"},), classes_are=(agent,), reading=None)
    assert one.plan is not None
    assert one.plan.tiers is not None
    size = one.plan.tiers.tiers[0].bytes_per_replica
    assert 0 < size <= 2**40
    telemetry = Telemetry()
    accountant = an_accountant(telemetry)
    accountant.account([one], NOW)
    accountant.account([one], NOW + 3600)
    rent = 2 * 0.73 / 730.5 * size / 2**30
    assert on_the_page(telemetry, "tidefleet_pool_kv_tier_cost_usd_total") == pytest.approx(rent, rel=1e-3)
    broken = replace(one, plan=None, market=None, targets=())
    accountant.account([broken], NOW + 7200)  # nobody says how large they are now: they go on costing
    assert on_the_page(telemetry, "tidefleet_pool_kv_tier_cost_usd_total") == pytest.approx(2 * rent, rel=1e-3)


def test_a_host_tier_costs_what_engines_are_started_with_whatever_the_plan_says() -> None:
    one = a_decision(types=("h100-sxm",), tiers=({**HOST, "sizing": "Planned"},))
    served = replace(
        one.view.served[0],
        workload=replace(one.view.served[0].workload, annotations={marks.HOST_TIER_ANNOTATION: str(2**35)}),
    )
    telemetry = Telemetry()
    accountant = an_accountant(telemetry)
    for plan in (one.plan, None):
        told = replace(one, view=replace(one.view, served=(served,)), plan=plan)
        accountant.account([told], NOW)
        accountant.account([told], NOW + 3600)
    rent = 2 * 0.73 / 730.5 * 32
    assert on_the_page(telemetry, "tidefleet_pool_kv_tier_cost_usd_total") == pytest.approx(2 * rent, rel=1e-3)


def test_an_invalid_pool_is_paid_for_too() -> None:
    telemetry, fault = Telemetry(), Fault(Reason.UNKNOWN_MODEL, "x")
    accountant, invalid = an_accountant(telemetry), a_decision(types=("l40s",), faults=(fault,))
    accountant.account([invalid], NOW)
    accountant.account([invalid], NOW + 3600)
    assert (cost(telemetry, "l40s") or 0) > 0


def test_the_tokens_of_the_classes_are_the_tokens_of_the_pool() -> None:
    telemetry = Telemetry()
    an_accountant(telemetry).account([a_decision()], NOW)
    for direction, amount in Tallies().tokens.items():
        of_classes = [
            telemetry.value(
                "tidefleet_pool_tokens_total",
                namespace="prod",
                pool="chat",
                workload_class=f"class-{i}",
                direction=direction,
            )
            for i in range(3)
        ]
        assert sum(one or 0.0 for one in of_classes) == pytest.approx(amount)


def series(telemetry: Telemetry, **labels: str) -> list[str]:
    """Samples of the page that carry these labels."""
    page = telemetry.render()[1].decode().splitlines()
    return [
        line
        for line in page
        if not line.startswith("#") and all(f'{name}="{value}"' in line for name, value in labels.items())
    ]


def test_a_pool_exports_no_more_series_than_its_budget() -> None:
    """At most 40 a pool, 12 more per accelerator type and 60 per class."""
    telemetry = Telemetry()
    accountant = an_accountant(telemetry)
    for passed in range(3):
        accountant.account([a_decision(), a_decision("code")], NOW + 15 * passed)
    mine = series(telemetry, namespace="prod", pool="chat")
    of_types = [line for line in mine if "accelerator=" in line]
    of_classes = [line for line in mine if "workload_class=" in line]
    assert len(of_types) <= 12 * len(SIX)
    assert len(of_classes) <= 60 * 3
    assert len(mine) - len(of_types) - len(of_classes) <= 40
    assert len(mine) == len(series(telemetry, namespace="prod", pool="code"))
    assert len(mine) > 30  # it is a leader's registry that is looked at


def test_the_series_of_a_pool_do_not_grow_as_time_passes() -> None:
    telemetry = Telemetry()
    accountant = an_accountant(telemetry)
    counts = []
    for passed in range(5):
        types = SIX[passed % 3 : passed % 3 + 3]
        accountant.account([a_decision(types=types)], NOW + 15 * passed)
        counts.append(len(series(telemetry, pool="chat")))
    stayed = len([line for line in series(telemetry, pool="chat") if "accelerator=" in line])
    assert stayed <= 12 * len(SIX)
    assert counts[-1] <= counts[2] + 3 * 3


def test_a_deleted_pool_leaves_nothing() -> None:
    telemetry = Telemetry()
    accountant = an_accountant(telemetry)
    accountant.account([a_decision(), a_decision("code")], NOW)
    accountant.account([a_decision(), a_decision("code")], NOW + 15)
    accountant.forget("prod", "chat")
    assert not series(telemetry, pool="chat")
    assert series(telemetry, pool="code")


def test_conditions_are_counted_by_status_and_old_counts_go_to_zero() -> None:
    telemetry = Telemetry()
    accountant = an_accountant(telemetry)
    labels = {"kind": "InferencePool", "condition": "Validated"}

    def counted(status: str) -> float | None:
        return telemetry.value("tidefleet_condition_objects", **labels, status=status)

    accountant.conditions([("InferencePool", a_decision().verdicts), ("InferencePool", a_decision("b").verdicts)])
    assert counted("True") == 2.0
    invalid = a_decision(faults=(Fault(Reason.UNKNOWN_MODEL, "x"),))
    accountant.conditions([("InferencePool", invalid.verdicts)])
    assert (counted("True"), counted("False")) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("uid", "mark", "expected"), [("uid-chat", 3, 3.0), ("uid-other", 3, None), ("uid-chat", None, None)]
)
def test_what_adopted_replicas_would_cost_is_told_of_the_pool_that_adopted_them(
    uid: str, mark: int | None, expected: float | None
) -> None:
    pool, option = a_pool(), an_option("l40s")
    served = a_served(pool, option, replicas=1)
    assert served.workload is not None
    text = {marks.ADOPTED_ANNOTATION: marks.write_adopted("prod/chat", uid, mark)} if mark is not None else {}
    served = replace(served, workload=replace(served.workload, annotations=text))
    telemetry, decision = Telemetry(), a_decision(types=("l40s",), served=(served,))
    an_accountant(telemetry).account([decision], NOW)
    told = telemetry.value("tidefleet_pool_adopted_cost_usd_per_hour", namespace="prod", pool="chat")
    assert decision.market is not None
    price = decision.market.candidates[0].price.usd_per_chip_hour
    assert told == (None if expected is None else pytest.approx(expected * option.chips * price))


def test_every_gauge_of_a_pool_has_a_value_once_it_is_planned() -> None:
    telemetry, decision = Telemetry(), a_decision()
    options = {workload_key(one.option, "chat"): one.option for one in decision.view.served}
    seen = tuple(EngineWork(one, leaving=False, spells=(Worked(15.0, 10.0, 10.0, 1.0),)) for one in options)
    accountant = Accountant(telemetry, collector=Tallies(work=seen))  # type: ignore[arg-type]
    accountant.beside = Beside({("prod", "m"): 1.0}, {("prod", "chat"): "m"})
    for passed in range(3):
        accountant.account([decision], NOW + 15 * passed)
    page = telemetry.render()[1].decode()
    for name, spec in METRICS.items():
        if (
            spec.process == "operator"
            and spec.kind == "gauge"
            and spec.labels[:2] == ("namespace", "pool")
            and name not in OF_LENDERS | OF_ADOPTERS
        ):
            assert f"{name}{{" in page, name


def test_electricity_that_an_owner_pays_is_counted_at_the_price_of_the_moment() -> None:
    kind = a_kind("l40s", prices=[{"capacityType": "Owned", "usdPerChipHour": "1.00"}])
    (offer,) = offers(kind)

    def counted(now: float | None) -> float:
        paid = Electricity("berlin", 0.10, now, 1.5)
        pool = a_pool(accelerators=[{"type": "l40s", "capacityTypes": ["Owned"]}])
        view = a_view(
            pool,
            kind,
            offers=(replace(offer, electricity=paid),),
            chips={("l40s", "Owned"): Chips(scheduled=4, ready=4)},
            reading=Known(NOW, 2.0, "Engines"),
        )
        decision = decide(view, PoolMemory(DemandHistory(600.0)), OperatorConfiguration(), EstimateMemo())
        telemetry = Telemetry()
        accountant = an_accountant(telemetry)
        accountant.account([decision], NOW)
        accountant.account([decision], NOW + 1800.0)
        labels = {"namespace": "prod", "pool": "chat", "accelerator": "l40s", "capacity_type": "Owned"}
        return telemetry.value("tidefleet_pool_cost_usd_total", **labels) or 0.0

    assert counted(None) == pytest.approx(4 * 1.00 / 2)  # the tariff does not say
    extra = counted(0.20) - counted(None)
    assert 4 * 0.1 * 1.5 * 0.20 / 2 < extra <= 4 * 0.35 * 1.5 * 0.20 / 2  # an L40S draws at most 350 W
    assert counted(-100.0) == 0.0
