"""Dollars, tokens and states of each pool, as counters and gauges."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tidefleet.controller import lent_costs, marks
from tidefleet.controller.calibrating import factors_in_use
from tidefleet.controller.collector import Collector
from tidefleet.controller.decision import Decision, Verdict
from tidefleet.controller.kv_tiers import given_rent, rent_of_replica
from tidefleet.controller.opencost import Beside
from tidefleet.controller.seconds import PoolSeconds
from tidefleet.controller.status import load
from tidefleet.economics.ledger import CAUSES, DATA_STALL, KV_FETCH
from tidefleet.economics.opencost import reconcile
from tidefleet.planning.earning import prices_of_class
from tidefleet.planning.from_api import is_deferrable
from tidefleet.planning.options import ClassDemand
from tidefleet.telemetry import FlipMeter, Telemetry

log = logging.getLogger(__name__)

HOUR = 3600.0

_ALWAYS = tuple(cause for cause in CAUSES if cause not in (KV_FETCH, DATA_STALL))
"""Causes that are told from the start; nobody can know the others but by what engines and trainers tell."""


@dataclass(slots=True)
class Accountant:
    """Adds up what pools cost and processed since the last pass; the leader's alone to call."""

    telemetry: Telemetry
    collector: Collector | None = None
    beside: Beside | None = None
    """What OpenCost says, as last read."""
    _last: float | None = None
    _seconds: dict[tuple[str, str], PoolSeconds] = field(default_factory=dict)
    _rents: dict[tuple[str, str], float] = field(default_factory=dict)
    _spent: dict[tuple[str, str], deque[tuple[float, float, float]]] = field(default_factory=dict)
    _verdicts: dict[tuple[str, str], str] = field(default_factory=dict)
    _rows: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def account(
        self, decisions: Sequence[Decision], now: float, supply: Mapping[str, lent_costs.TypeSupply] | None = None
    ) -> None:
        """Account for the time since the last call at the prices and chips seen now.

        A chip counts from the moment its pod has a node until the pod is gone, whether it serves or not.

        Args:
            supply: the fleet's chips by accelerator type, of which those that nobody uses are told.
        """
        hours = max(0.0, now - self._last) / HOUR if self._last is not None else 0.0
        self._last = now
        for decision in decisions:
            self._note_spending(decision, hours, self._cost(decision, hours), now)
            self._tiers(decision, hours)
            self._tokens(decision)
            self._account_seconds(decision, hours * HOUR, now)
            self._gauges(decision, now)
        self._reconcile(decisions)
        prices = {one.view.pool.key: self._prices(one) for one in decisions}
        lent_costs.account(self.telemetry, decisions, prices, supply or {}, hours)

    def _prices(self, decision: Decision) -> Mapping[tuple[str, str], float]:
        if decision.market is not None:
            found = {
                (c.option.accelerator, c.option.capacity_type): c.price.usd_per_chip_hour
                for c in decision.market.candidates
            }
        else:
            found = {}
        for offer in decision.view.offers:
            for kind, price in offer.prices.items():
                found.setdefault((offer.accelerator.name, kind), price.usd_per_chip_hour)
        return found

    @staticmethod
    def _electricity(decision: Decision) -> Mapping[tuple[str, str], float]:
        """USD per chip-hour that the owner pays for electricity at this moment, by accelerator and capacity type."""
        now = {one.accelerator.name: one.electricity.now for one in decision.view.offers if one.electricity is not None}
        found: dict[tuple[str, str], float] = {}
        for one in decision.market.candidates if decision.market else ():
            usd = now.get(one.option.accelerator)
            if usd is not None and one.owner_kilowatts:
                key = (one.option.accelerator, one.option.capacity_type)
                found[key] = max(found.get(key, -math.inf), one.owner_kilowatts / one.option.chips * usd)
        return found

    def _cost(self, decision: Decision, hours: float) -> float:
        """Count the rent of a pool's pods, in USD; what it was."""
        usd = 0.0
        pool, prices, power = decision.view.pool, self._prices(decision), self._electricity(decision)
        for (accelerator, capacity_type), chips in decision.view.chips.items():
            price = prices.get((accelerator, capacity_type))
            if price is not None:  # an unknown price is never 0: PricingFresh tells of it
                each = max(0.0, price + power.get((accelerator, capacity_type), 0.0))
                usd += chips.scheduled * each * hours
                self.telemetry.count(
                    "pool_cost_usd_total",
                    chips.scheduled * each * hours,
                    namespace=pool.namespace,
                    pool=pool.name,
                    accelerator=accelerator,
                    capacity_type=capacity_type,
                )
        return usd

    def _tiers(self, decision: Decision, hours: float) -> None:
        """Count the rent of the KV tiers of ready replicas; without a plan that of the last one."""
        pool = decision.view.pool
        if not pool.spec.kv_cache.tiers:
            return
        rents: dict[tuple[str, str], float] = {}
        for served in decision.view.served:
            rent = rent_of_replica(served, pool, decision.plan)
            if rent is None:
                rent = self._rents.get(pool.key, given_rent(pool))
            self._rents[pool.key] = rent
            key = (served.option.accelerator, served.option.capacity_type)
            rents[key] = rents.get(key, 0.0) + rent * served.ready
        for (accelerator, capacity_type), rent in rents.items():
            usd = rent * hours
            for name in ("pool_cost_usd_total", "pool_kv_tier_cost_usd_total"):
                self.telemetry.count(
                    name, usd,
                    namespace=pool.namespace, pool=pool.name, accelerator=accelerator, capacity_type=capacity_type,
                )  # fmt: skip

    def _note_spending(self, decision: Decision, hours: float, usd: float, now: float) -> None:
        spent = self._spent.setdefault(decision.view.pool.key, deque())
        spent.append((now, hours, usd))
        while spent and not now - HOUR < spent[0][0] <= now:
            spent.popleft()

    def _reconcile(self, decisions: Sequence[Decision]) -> None:
        """Show how OpenCost's bill of each pool's model compares with ours, and log when that changes."""
        if self.beside is None:
            return
        mine: dict[tuple[str, str], tuple[str, str]] = {}
        ours: dict[tuple[str, str], float] = {}
        for pool in (one.view.pool for one in decisions):
            model, spent = self.beside.models.get(pool.key, ""), self._spent.get(pool.key, ())
            hours = sum(one[1] for one in spent)
            if model and hours > 0.0:
                mine[pool.key] = line = (pool.namespace, model)
                ours[line] = ours.get(line, 0.0) + sum(one[2] for one in spent) / hours
        found = {(one.namespace, one.model): one for one in reconcile(ours, self.beside.theirs)}
        for pool in (one.view.pool for one in decisions):
            told = found.get(mine.get(pool.key, ("", "")))
            ratio = {(): told.ratio} if told is not None and told.ratio is not None else {}
            self.telemetry.show("pool_opencost_cost_ratio", ratio, namespace=pool.namespace, pool=pool.name)
            if told is not None and self.beside.theirs and self._verdicts.get(pool.key) != told.verdict:
                self._verdicts[pool.key] = told.verdict
                level = logging.INFO if told.verdict == "agrees" else logging.WARNING
                log.log(level, "the bill and OpenCost's", extra={"pool": "/".join(pool.key), "why": told.words})

    def _adopted_cost(self, decision: Decision) -> float | None:
        """USD per hour of the replicas that workloads had when adopted; ``None``: none was, or a price is missing."""
        prices, power = self._prices(decision), self._electricity(decision)
        uid, found = decision.view.pool.metadata.uid, list[float]()
        rent = given_rent(decision.view.pool)  # of tiers that are there whatever is planned
        for served in decision.view.served:
            adopted = marks.read_adopted(served.workload.annotations) if served.workload is not None else None
            if adopted is None or adopted[0] != uid:
                continue
            key = (served.option.accelerator, served.option.capacity_type)
            if key not in prices:
                return None
            each = served.option.chips * max(0.0, prices[key] + power.get(key, 0.0)) + rent
            found.append(adopted[1] * each)
        return math.fsum(found) if found else None

    def utilization(self, pool: tuple[str, str]) -> float | None:
        """Needed over paid accelerator-seconds of a pool in the last minutes; ``None`` while it is not known."""
        known = self._seconds.get(pool)
        return known.utilization if known is not None else None

    def _account_seconds(self, decision: Decision, seconds: float, now: float) -> None:
        pool = decision.view.pool
        memory = self._seconds.setdefault(pool.key, PoolSeconds())
        work = self.collector.take_work(pool.key) if self.collector is not None else ()
        lost_so_far = FlipMeter(self.telemetry).work_lost_so_far(pool.key)
        told = memory.step(decision, work, seconds=seconds, lost_so_far=lost_so_far, now=now)
        labels = {"namespace": pool.namespace, "pool": pool.name}
        serving, training = told.serving, told.training
        needed = {
            "prefill": serving.prefill,
            "decode": serving.needed - serving.prefill,
            "training": training.needed,
        }
        for kind, amount in needed.items():
            self.telemetry.count("pool_needed_seconds_total", amount, **labels, work=kind)
        for one in (serving, training):
            for cause in {*_ALWAYS, *one.lost}:
                self.telemetry.count("pool_lost_seconds_total", one.lost.get(cause, 0.0), **labels, cause=cause)
        for accelerator, joules in told.joules.items():
            self.telemetry.count("pool_energy_joules_total", joules, **labels, accelerator=accelerator)

    def _tokens(self, decision: Decision) -> None:
        if self.collector is None:
            return
        pool = decision.view.pool
        tokens = {"input": 0.0, "cached": 0.0, "output": 0.0, **self.collector.take_tokens(pool.key)}
        weights = {
            direction: {one.name: one.share * _per_request(one, direction) for one in decision.classes}
            for direction in tokens
        }
        of_classes: dict[str, dict[str, float]] = {}
        for direction, amount in tokens.items():
            total = sum(weights[direction].values())
            for name, weight in weights[direction].items():
                own = amount * (weight / total if total > 0 else 1.0 / len(weights[direction]))
                of_classes.setdefault(name, {})[direction] = own
                self.telemetry.count(
                    "pool_tokens_total",
                    own,
                    namespace=pool.namespace,
                    pool=pool.name,
                    workload_class=name,
                    direction=direction,
                )
            if not weights[direction]:
                self.telemetry.count(
                    "pool_tokens_total", amount,
                    namespace=pool.namespace, pool=pool.name, workload_class="", direction=direction,
                )  # fmt: skip
        self._revenue(decision, of_classes)

    def _revenue(self, decision: Decision, of_classes: Mapping[str, Mapping[str, float]]) -> None:
        pool = decision.view.pool
        for wclass in decision.view.classes:
            prices, tokens = prices_of_class(wclass), of_classes.get(wclass.name)
            if prices is None or tokens is None:  # what nobody says is not told as 0
                continue
            usd = prices.usd(tokens["input"], tokens["cached"], tokens["output"], batch=is_deferrable(wclass))
            self.telemetry.count(
                "pool_revenue_usd_total", usd, namespace=pool.namespace, pool=pool.name, workload_class=wclass.name
            )

    def _gauges(self, decision: Decision, now: float) -> None:
        view, plan, show = decision.view, decision.plan, self.telemetry.show
        labels = {"namespace": view.pool.namespace, "pool": view.pool.name}
        chips: Counter[tuple[str, ...]] = Counter()
        for (accelerator, _), one in view.chips.items():
            chips[accelerator, "serving"] += one.ready
            chips[accelerator, "warming"] += one.scheduled - one.ready
        chips.update(lent_costs.chips_by_state(decision))
        show("pool_accelerators", chips, **labels)
        options: dict[tuple[str, ...], float] = {}
        for target in decision.targets:
            name, accelerator = target.served.name, target.served.option.accelerator
            options[name, accelerator, "desired"] = target.planned
            options[name, accelerator, "ready"] = target.served.ready
        show("pool_option_replicas", options, **labels)
        planned = sum(t.planned for t in decision.targets) if decision.targets else sum(s.desired for s in view.served)
        ready = sum(one.ready for one in view.served)
        show("pool_replicas", {("desired",): planned, ("ready",): ready}, **labels)
        counts = {one.served.option: one.planned for one in decision.targets}
        factors = factors_in_use(decision.calibrations, decision.market, counts) if decision.market else {}
        show("pool_calibration_factor", factors, **labels)
        target_usd = view.pool.spec.cost_target.usd_per_million_tokens
        budget = view.pool.spec.cost_target.monthly_budget_usd
        single: dict[str, float | None] = {
            "pool_cost_target_usd_per_token": float(target_usd) / 1e6 if target_usd is not None else None,
            "pool_monthly_budget_usd": float(budget) if budget is not None else None,
            "pool_demand_requests_per_second": decision.rate,
            "pool_last_evaluation_timestamp_seconds": now,
            "pool_busy_ratio": view.busy_ratio,
            "plan_cost_usd_per_hour": plan.usd_per_hour if plan else None,
            "plan_lower_bound_usd_per_hour": plan.lower_bound_usd_per_hour if plan else None,
            "plan_savings_usd_per_hour": plan.savings_usd_per_hour if plan else None,
            "pool_adopted_cost_usd_per_hour": self._adopted_cost(decision),
            "pool_load_ratio": load(decision),
            "pool_utilization_ratio": self.utilization(view.pool.key),
        }
        for name, value in single.items():
            show(name, {(): value} if value is not None else {}, **labels)

    def conditions(self, rows: Iterable[tuple[str, Iterable[Verdict]]]) -> None:
        """Count objects by kind, condition and status."""
        counts: Counter[tuple[str, str, str]] = Counter(
            (kind, str(one.type), str(one.status)) for kind, verdicts in rows for one in verdicts
        )
        for key in self._rows.keys() | counts.keys():
            kind, condition, status = key
            self.telemetry.set("condition_objects", counts[key], kind=kind, condition=condition, status=status)
        self._rows = counts

    def forget(self, namespace: str, pool: str) -> None:
        """Drop every series of a deleted pool."""
        self.telemetry.forget(namespace=namespace, pool=pool)
        self._seconds.pop((namespace, pool), None)
        self._spent.pop((namespace, pool), None)
        self._rents.pop((namespace, pool), None)
        self._verdicts.pop((namespace, pool), None)


def _per_request(one: ClassDemand, direction: str) -> float:
    shape = one.shape
    return {"input": shape.uncached, "cached": shape.cached, "output": shape.output_mean}[direction]
