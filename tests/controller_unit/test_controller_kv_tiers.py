"""KV tiers of a pool in its decision: sizes that the plan counts on, sizes that are advice, and what they rest on."""

from __future__ import annotations

from typing import Any

import pytest
from controller_builders import AGENT, H100, HOST, NOW, a_pool, a_view

from tidefleet.api.inference_pool_status import PlanStatus
from tidefleet.controller import kv_tiers
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.decision import Decision
from tidefleet.controller.status import pool_status
from tidefleet.controller.view import PoolMemory, PoolView
from tidefleet.planning.demand import DemandHistory
from tidefleet.planning.options import EstimateMemo
from tidefleet.planning.reuse_curve import ReuseCurve

MEMO = EstimateMemo()
DISK = {"medium": "Disk", "maxBytesPerReplica": 2**44, "bytesPerSecond": 12_000_000_000, "usdPerGibMonth": "0.05"}


def view(*tiers: dict[str, Any], **changes: Any) -> PoolView:
    """A pool of long prompts that come again, with these tiers."""
    pool = a_pool(accelerators=[{"type": "h100-sxm", "tensorParallel": [2]}], kvCache={"tiers": list(tiers)})
    return a_view(pool, H100, **{"classes": (AGENT,), **changes})


def decided(seen: PoolView, memory: PoolMemory | None = None) -> Decision:
    return decide(seen, memory or PoolMemory(DemandHistory(600.0)), OperatorConfiguration(), MEMO)


def told(decision: Decision) -> dict[str, Any]:
    status = pool_status(decision, before={}, generation=1, decision_id="d", now=NOW)
    PlanStatus.model_validate(status["plan"], by_alias=True, by_name=False, extra="forbid")
    found: dict[str, Any] = status["plan"]["kvTiers"]
    return found


def replicas(decision: Decision) -> int:
    assert decision.plan is not None
    return decision.plan.replicas


BARE = decided(view())


def test_a_pool_without_tiers_tells_nothing_of_any() -> None:
    assert BARE.plan is not None
    assert BARE.plan.tiers is None


def test_a_tier_of_a_given_size_leaves_the_plan_as_it_is_and_tells_what_would_pay() -> None:
    found = decided(view(HOST))
    assert replicas(found) == replicas(BARE)
    advice = told(found)
    assert advice["use"] == "Advice"
    assert 0 < advice["tiers"][0]["bytesPerReplica"] <= 2**41
    assert "would save" in advice["tiers"][0]["what"]
    assert advice["source"] == "80% of prompt tokens come again after a pause of 90 s (stated)"


def test_replicas_count_on_a_tier_whose_size_the_plan_says() -> None:
    found = decided(view({**HOST, "sizing": "Planned"}))
    assert found.plan is not None
    assert BARE.plan is not None
    assert replicas(found) < replicas(BARE)
    assert found.plan.usd_per_hour < BARE.plan.usd_per_hour
    counted = told(found)
    assert counted["use"] == "Counted"
    saved = BARE.plan.usd_per_hour - found.plan.usd_per_hour
    assert float(counted["savesUsdPerHour"]) == pytest.approx(saved, rel=0.06)  # two digits are told
    assert float(counted["oversubscription"]) > 1.0


def test_the_rent_of_the_tiers_is_in_what_an_option_costs() -> None:
    found = decided(view({**HOST, "sizing": "Planned"}))
    assert found.plan is not None
    assert found.market is not None
    (chosen,) = found.plan.chosen
    (target,) = [one for one in found.targets if one.planned]
    priced = {one.option: one.usd_per_hour for one in found.market.candidates}[target.served.option]
    assert priced * target.planned == pytest.approx(found.plan.usd_per_hour)
    assert chosen.candidate.storage_usd_per_hour > 0.0
    assert "are KV tiers" in found.reason


def test_tiers_are_told_fastest_first_whatever_their_order() -> None:
    found = decided(view({**DISK, "sizing": "Planned"}, {**HOST, "sizing": "Planned"}))
    assert [one["medium"] for one in told(found)["tiers"]] == ["Host", "Disk"]


def test_what_a_router_saw_goes_before_what_classes_state() -> None:
    nothing = ReuseCurve((1e6, 1e12), (0.2, 0.2), "seen by the router")
    found = decided(view({**HOST, "sizing": "Planned"}, reuse=nothing))
    assert replicas(found) == replicas(BARE)
    assert told(found)["tiers"][0]["bytesPerReplica"] == 0
    assert told(found)["source"] == "seen by the router"


def test_the_owners_limit_of_oversubscription_holds() -> None:
    pool = a_pool(
        accelerators=[{"type": "h100-sxm", "tensorParallel": [2]}],
        kvCache={"tiers": [{**DISK, "sizing": "Planned"}], "maxOversubscription": "20"},
    )
    found = told(decided(a_view(pool, H100, classes=(AGENT,))))
    assert 1.0 <= float(found["oversubscription"]) <= 20.0


def test_choices_are_made_again_when_demand_moves_and_not_in_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []
    original = kv_tiers.tier_choices

    def counting(*given: Any, **named: Any) -> Any:
        made.append(named["requests_per_second"])
        return original(*given, **named)

    monkeypatch.setattr(kv_tiers, "tier_choices", counting)
    memory = PoolMemory(DemandHistory(600.0))
    for after in (0.0, 15.0, 30.0):
        decided(view(HOST, now=NOW + after), memory)
    assert len(made) == 1
    more = AGENT.model_copy(update={"spec": AGENT.spec.model_copy(update={"priority": 1})})
    decided(view(HOST, now=NOW + 100.0, classes=(more,)), memory)
    assert len(made) == 2
