"""Whether a plan goes on counting on KV tiers, from what engines show of them."""

from __future__ import annotations

from typing import Any

import pytest
from controller_builders import AGENT, H100, HOST, NOW, a_class, a_pool, a_view
from hypothesis import given
from hypothesis import strategies as st

from tidefleet.api import Reason
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.decision import Decision, Verdict
from tidefleet.controller.kv_tiers import recall
from tidefleet.controller.status import pool_status
from tidefleet.controller.tier_watch import PATIENCE_SECONDS, Sight, TierSeen, TierWatch
from tidefleet.controller.verdicts import kv_tiers
from tidefleet.controller.view import PoolMemory
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.options import EstimateMemo

MINUTE = 60.0


def watched(
    *steps: tuple[float, float, float, float], expected: float = 0.2, patience: float = PATIENCE_SECONDS
) -> TierWatch:
    """A watch that saw (minutes, prompt, queried, hits) since the start, and evenly what lies between."""
    watch = TierWatch(expected=expected)
    watch.look(TierSeen(), now=NOW, patience=patience)
    before = (0.0, 0.0, 0.0, 0.0)
    for step in steps:
        for n in range(1, 61):
            minutes, *seen = (one + (two - one) * n / 60 for one, two in zip(before, step, strict=True))
            watch.look(TierSeen(*seen), now=NOW + minutes * MINUTE, patience=patience)
        before = step
    return watch


def test_hits_are_seen_at_once() -> None:
    watch = watched((1, 100_000, 80_000, 15_000))
    assert watch.sight is Sight.FOUND
    assert kv_tiers(watch) == Verdict(
        kv_tiers(watch).type, kv_tiers(watch).status, Reason.HITS_SEEN,
        "engines fetched 15% of prompt tokens from KV tiers",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("queried", "sight", "reason", "words"),
    [
        (4e6, Sight.MISSED, Reason.NO_HITS, "tokens in KV tiers and found 0"),
        (0.0, Sight.NOT_ASKED, Reason.NOT_SET_UP, "--kv-offloading-size"),
    ],
)
def test_a_tier_that_shows_no_hits_for_long_enough_is_doubted(
    queried: float, sight: Sight, reason: Reason, words: str
) -> None:
    early, late = watched((29, 5e6, queried, 0)), watched((31, 5e6, queried, 0))
    assert early.sight is Sight.UNKNOWN
    assert late.sight is sight
    assert late.doubted
    assert kv_tiers(late).reason is reason
    assert words in kv_tiers(late).message
    assert "replicas no longer count on them" in kv_tiers(late).message


def test_few_tokens_and_time_without_pages_prove_nothing() -> None:
    assert watched((31, 400_000, 300_000, 0)).sight is Sight.UNKNOWN  # 80,000 were counted on
    assert watched((600, 0, 0, 0)).sight is Sight.UNKNOWN
    watch = watched((1, 5e6, 4e6, 0), (600, 5e6, 4e6, 0), (601, 9e6, 8e6, 0))  # nobody could be read for ten hours
    assert watch.sight is Sight.UNKNOWN


def test_sessions_that_pause_long_are_waited_for() -> None:
    assert watched((31, 5e6, 4e6, 0), patience=4 * 3600.0).sight is Sight.UNKNOWN


def test_counters_that_begin_anew_begin_the_time_anew() -> None:
    assert watched((20, 5e6, 4e6, 0), (20, 0, 0, 0), (49, 8e6, 6e6, 0)).sight is Sight.UNKNOWN
    assert watched((20, 5e6, 4e6, 0), (20, 0, 0, 0), (52, 8e6, 6e6, 0)).sight is Sight.MISSED


def test_a_tier_that_is_lost_later_is_noticed_and_comes_back() -> None:
    lost = ((30, 3e6, 2.4e6, 6e5), (95, 9e6, 7.2e6, 6e5))
    assert watched(*lost).sight is Sight.MISSED
    assert watched(*lost, (100, 9.5e6, 7.6e6, 7e5)).sight is Sight.FOUND


@given(
    st.lists(st.tuples(st.floats(0, 600), st.floats(0, 1e6), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40)
)
def test_a_verdict_against_tiers_always_rests_on_enough(steps: list[tuple[float, float, float, float]]) -> None:
    watch, now, seen = TierWatch(expected=0.2), NOW, TierSeen()
    watch.look(seen, now=now, patience=PATIENCE_SECONDS)
    start, prompts = now, 0.0
    for seconds, prompt, queried, hit in steps:
        now += seconds
        prompts += prompt
        asked = prompt * queried
        seen = TierSeen(seen.prompt_tokens + prompt, seen.queried_tokens + asked, seen.hit_tokens + asked * hit)
        watch.look(seen, now=now, patience=PATIENCE_SECONDS)
        if watch.doubted:
            assert now - start >= PATIENCE_SECONDS
            assert 0.2 * prompts >= 100_000
            return


# --- in the decision -------------------------------------------------------------------------------------------------

MEMO = EstimateMemo()


def a_memory() -> PoolMemory:
    return PoolMemory(DemandHistory(600.0))


def decided(memory: PoolMemory, *, at: float, seen: TierSeen | None, **tier: Any) -> Decision:
    pool = a_pool(
        accelerators=[{"type": "h100-sxm", "tensorParallel": [2]}],
        kvCache={"tiers": [{**HOST, "sizing": "Planned", **tier}]},
    )
    view = a_view(pool, H100, classes=(AGENT,), tiers_seen=seen, now=NOW + at * MINUTE)
    return decide(view, memory, OperatorConfiguration(), MEMO)


def planned(decision: Decision) -> int:
    assert decision.plan is not None
    return decision.plan.replicas


def reason(decision: Decision) -> Reason:
    (found,) = [one for one in decision.verdicts if str(one.type) == "KvTiersFound"]
    return found.reason


def test_the_plan_stops_counting_on_a_tier_without_hits_and_counts_again_when_they_are_seen() -> None:
    memory = a_memory()
    first = decided(memory, at=0, seen=TierSeen())
    assert reason(first) is Reason.NOT_SEEN_YET
    for minute in range(1, 40):
        late = decided(memory, at=minute, seen=TierSeen(minute * 8e6, 0, 0))
    assert reason(late) is Reason.NOT_SET_UP
    assert planned(late) > planned(first)
    assert late.plan is not None
    assert late.plan.tiers is not None
    assert not late.plan.tiers.counted
    again = decided(memory, at=45, seen=TierSeen(4e8, 8e7, 6e7))
    assert reason(again) is Reason.HITS_SEEN
    assert planned(again) == planned(first)


def test_the_next_leader_takes_the_verdict_and_the_sizes_from_the_status() -> None:
    memory = a_memory()
    for minute in range(40):
        late = decided(memory, at=minute, seen=TierSeen(minute * 8e6, minute * 6e6, 0))
    status = pool_status(late, before={}, generation=1, decision_id="d", now=NOW)
    fresh = a_memory()
    recall(fresh.tiers, status)
    assert fresh.tiers.sizes == memory.tiers.sizes
    kept = decided(fresh, at=41, seen=None)
    assert reason(kept) is Reason.NO_HITS
    assert planned(kept) == planned(late)
    assert kept.verdicts[-1] == late.verdicts[-1]  # the same words, not twice what to do


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"plan": None},
        {"plan": {"kvTiers": {"tiers": [{"bytesPerReplica": "x"}]}}},
        {"plan": {"kvTiers": {"tiers": 3}}, "conditions": 7},
        {"plan": {"kvTiers": {"tiers": [{"bytesPerReplica": 7, "hitShare": "0.1"}]}}, "conditions": [None, {}]},
        {"plan": {"kvTiers": {"tiers": [{"bytesPerReplica": "1", "hitShare": "0.1"}]}}, "conditions": 5},
    ],
)
def test_a_status_that_says_nothing_is_no_verdict(status: dict[str, Any]) -> None:
    memory = a_memory()
    recall(memory.tiers, status)
    assert reason(decided(memory, at=0, seen=None)) is Reason.NOT_SEEN_YET


def test_tiers_that_are_given_are_not_watched() -> None:
    memory = a_memory()
    for at in range(0, 60, 2):
        found = decided(memory, at=at, seen=TierSeen(at * 8e6, 0, 0), sizing="Fixed")
        assert "KvTiersFound" not in [str(one.type) for one in found.verdicts]


def test_what_is_fetched_from_a_tier_that_is_not_counted_on_needs_no_computing() -> None:
    """Of a tier that is counted on the plan says itself what it finds, and nothing is counted twice."""

    def cached(sizing: str, tier_hit_share: float) -> float:
        reading = Known(NOW, 6.0, "Engines", 24000.0, 300.0, 0.2, tier_hit_share=tier_hit_share)
        pool = a_pool(
            accelerators=[{"type": "h100-sxm", "tensorParallel": [2]}], kvCache={"tiers": [{**HOST, "sizing": sizing}]}
        )
        measured = AGENT.model_copy(
            update={"spec": AGENT.spec.model_copy(update={"demand": a_class(demand={"source": "Metrics"}).spec.demand})}
        )
        view = a_view(pool, H100, classes=(measured,), reading=reading)
        found = decide(view, a_memory(), OperatorConfiguration(), MEMO)
        return found.classes[0].shape.cached_share

    assert cached("Fixed", 0.3) == pytest.approx(0.5, abs=0.02)
    assert cached("Fixed", 0.0) == pytest.approx(0.2, abs=0.02)
    assert cached("Planned", 0.3) == pytest.approx(0.2, abs=0.02)
