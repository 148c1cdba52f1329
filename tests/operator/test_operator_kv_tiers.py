"""KV tiers on a real API server: what engines lack is not counted on."""

from __future__ import annotations

import pytest
from operator_builders import INFERENCE_POOL, a_class, a_pool, a_template

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

HOST = {
    "medium": "Host",
    "maxBytesPerReplica": 2**38,
    "bytesPerSecond": 50_000_000_000,
    "usdPerGibMonth": "0.02",
    "sizing": "Planned",
}
RATE, INTO, OUT = 6.0, 12_000.0, 200.0


def of_agents(rate=None, **spec):
    """Long prompts, most of which come again within a minute and a half."""
    tokens = {"input": {"mean": INTO}, "output": {"mean": OUT}}
    return a_class(
        rate=rate, tokens=tokens, turnsPerSession="9", turnPauseSeconds=90,
        objectives=[{"metric": "TTFT", "percentile": 95, "milliseconds": 8000}], **spec,
    )  # fmt: skip


def total(place):
    return sum(place.replicas().values())


def watch(op, minutes):
    """Have the engines read once a minute."""
    for _ in range(minutes):
        op.observe(60.0)


def test_a_tier_that_engines_lack_is_not_counted_on_until_they_have_it(place, operator_in_process, engines):
    # A connector of the owner's own, of which nobody knows whether it keeps anything.
    template = a_template("--kv-transfer-config={}")
    serving = {"template": template, "engine": {"type": "VLLM", "port": 8000}}
    place.create(a_pool(accelerators=[{"type": "h100-sxm"}], serving=serving, kvCache={"tiers": [HOST]}), of_agents())
    op = operator_in_process()
    op.until(lambda: engines.count() == 1)
    engines.load(RATE, into=INTO, out=OUT, tiers=0.6)
    watch(op, 12)
    op.until(lambda: engines.count() == total(place) and sum(place.ready_replicas().values()) == total(place))
    counted = total(place)
    assert place.status()["plan"]["kvTiers"]["use"] == "Counted"
    assert place.condition("KvTiersFound")[:2] == ("Unknown", "NotSeenYet")

    watch(op, 40)
    assert place.condition("KvTiersFound")[:2] == ("False", "NotSetUp"), place.condition("KvTiersFound")
    assert "--kv-offloading-size" in place.condition("KvTiersFound")[2]
    assert place.status()["plan"]["kvTiers"]["use"] == "Advice"
    doubted = total(place)
    assert doubted > counted
    op.until(lambda: [one for one in place.events("Degraded") if "KvTiersFound" in one["note"]])

    engine = template["spec"]["containers"][0]
    engine["args"] = [*engine["args"][:-1], "--kv-offloading-size=64"]
    place.set_spec(INFERENCE_POOL, "chat", serving=serving)
    op.until(lambda: place.condition("KvTiersFound")[:2] == ("True", "HitsSeen"), "hits", step=30.0)
    assert place.status()["plan"]["kvTiers"]["use"] == "Counted"
    watch(op, 20)
    assert place.condition("KvTiersFound")[:2] == ("True", "HitsSeen")
    assert float(place.status()["kvHitRatio"]) == pytest.approx(0.6, abs=0.05)
    assert total(place) < doubted
