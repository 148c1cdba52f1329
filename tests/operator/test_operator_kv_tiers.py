"""KV tiers on a real API server: engines are started with what the plan says, and what they lack is not counted on."""

from __future__ import annotations

import pytest
from operator_builders import INFERENCE_POOL, WORKLOAD_CLASS, a_class, a_pool, a_template

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


def planned(place):
    return sum(one["replicas"] for one in place.status()["plan"]["options"])


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
    counted = planned(place)
    assert place.status()["plan"]["kvTiers"]["use"] == "Counted"
    assert place.condition("KvTiersFound")[:2] == ("Unknown", "NotSeenYet")

    watch(op, 40)
    assert place.condition("KvTiersFound")[:2] == ("False", "NotSetUp"), place.condition("KvTiersFound")
    assert "--kv-offloading-size" in place.condition("KvTiersFound")[2]
    assert place.status()["plan"]["kvTiers"]["use"] == "Advice"
    doubted = planned(place)
    assert doubted > counted
    assert total(place) >= doubted
    op.until(lambda: [one for one in place.events("Degraded") if "KvTiersFound" in one["note"]])

    engine = template["spec"]["containers"][0]
    engine["args"] = [*engine["args"][:-1], "--kv-offloading-size=64"]
    place.set_spec(INFERENCE_POOL, "chat", serving=serving)
    op.until(lambda: place.condition("KvTiersFound")[:2] == ("True", "HitsSeen"), "hits", step=30.0)
    assert place.status()["plan"]["kvTiers"]["use"] == "Counted"
    watch(op, 20)
    assert place.condition("KvTiersFound")[:2] == ("True", "HitsSeen")
    assert float(place.status()["kvHitRatio"]) == pytest.approx(0.6, abs=0.05)
    assert planned(place) < doubted
    op.until(lambda: total(place) == planned(place), "as planned", step=50.0)


def engine_of(place):
    (made,) = place.deployments().values()
    (engine,) = made["spec"]["template"]["spec"]["containers"]
    return made, engine


def offloading(engine):
    """What an engine is told of its tier."""
    return [one for one in engine["args"] if "offloading" in one]


def test_engines_are_started_with_the_size_of_the_plan_and_keep_it(place, operator_in_process, engines):
    place.create(
        a_pool(accelerators=[{"type": "h100-sxm"}], kvCache={"tiers": [HOST]}), of_agents(rate=RATE)
    )  # fmt: skip
    op = operator_in_process()
    op.settle()
    (tier,) = place.status()["plan"]["kvTiers"]["tiers"]
    size = tier["bytesPerReplica"]
    assert size > 0
    made, engine = engine_of(place)
    expected = [f"--kv-offloading-size={size / 2**30:g}", "--kv-offloading-backend=native"]
    assert offloading(engine) == expected
    assert tier["setBy"] == "Operator"
    assert " ".join(expected) in tier["setUp"]
    assert (
        engine["resources"]["requests"]["memory"] == f"{size // 2**30}Gi"
        or int(engine["resources"]["requests"]["memory"]) == size
    )
    op.until(lambda: engines.count() == total(place))
    engines.load(RATE, into=INTO, out=OUT, tiers=0.6)
    op.until(lambda: place.condition("KvTiersFound")[:2] == ("True", "HitsSeen"), "hits", step=30.0)
    rent = op.metric(
        "tidefleet_pool_kv_tier_cost_usd_total",
        namespace=place.namespace, pool="chat", accelerator="h100-sxm", capacity_type="OnDemand",
    )  # fmt: skip
    op.advance(3600)
    after = op.metric(
        "tidefleet_pool_kv_tier_cost_usd_total",
        namespace=place.namespace, pool="chat", accelerator="h100-sxm", capacity_type="OnDemand",
    )  # fmt: skip
    assert after - rent == pytest.approx(total(place) * size / 2**30 * 0.02 / 730, rel=2e-3)

    # Another leader finds the size on the workload, and a little more demand starts no engine anew.
    template = made["spec"]["template"]
    op.stop()
    op = operator_in_process()
    place.set_spec(WORKLOAD_CLASS, "chat", demand={"requestsPerSecond": f"{1.05 * RATE:g}"})
    for _ in range(4):
        op.observe(60.0)
    made, engine = engine_of(place)
    assert offloading(engine) == expected
    assert place.condition("KvTiersFound")[:2] == ("True", "HitsSeen")
    assert made["spec"]["template"] == template

    # What the template says wins.
    serving = {"template": a_template("--kv-offloading-size=48"), "engine": {"type": "VLLM", "port": 8000}}
    place.set_spec(INFERENCE_POOL, "chat", serving=serving)
    op.until(lambda: offloading(engine_of(place)[1]) == ["--kv-offloading-size=48"], "the template's own size")
    op.until(lambda: place.status()["plan"]["kvTiers"]["tiers"][0]["setBy"] == "Template", step=30.0)
    (tier,) = place.status()["plan"]["kvTiers"]["tiers"]
    assert tier["bytesPerReplica"] == 48 * 2**30
    assert "not the 256 that the tier names" in tier["setUp"]
    assert "tidefleet.io/host-kv-bytes" not in engine_of(place)[0]["metadata"]["annotations"]
