"""One bill: over an hour with flips each chip is somebody's cost, and every paid second is needed or lost."""

from __future__ import annotations

import re

import pytest
from flip_demand import QUICK
from operator_builders import a_class, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

HOUR = 3600.0
NODES = 4
REVENUE = {"internal": {"usdPerMillionTokens": "0.80"}}


def sums(op, *names):
    """What the series of each counter add up to, over all their labels."""
    page = op.process.telemetry.render()[1].decode()
    return [
        sum(float(value) for value in re.findall(rf"^tidefleet_{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE))
        for name in names
    ]


def test_pools_training_and_idle_chips_are_the_bill_and_needed_and_lost_are_the_paid_seconds(
    flip_ground, place, engines
):
    ground = flip_ground(nodes=NODES)
    place.create(ground.a_pool(replicas=2), a_class(rate=4, revenue=REVENUE))
    op = ground.start(flipping=QUICK)
    ground.serve(2)
    engines.load(4.0)
    began = ground.clock.now()

    def passed():
        return ground.clock.now() - began

    lent = next(index for index in range(NODES) if index not in ground.serving_on())
    before = sums(op, "pool_cost_usd_total", "training_cost_usd_total", "fleet_idle_cost_usd_total")
    paid_before = sums(op, "pool_needed_seconds_total", "pool_lost_seconds_total")
    tokens_before = sums(op, "pool_tokens_total", "pool_revenue_usd_total")
    ground.ask(lent, "training")
    ground.reaches("Training", lent, step=5.0)
    ground.a_job("night", stop=0)
    eventually(lambda: [one for one in ground.job_pods("night") if one["status"].get("phase") == "Running"])
    while passed() < 0.6 * HOUR:
        ground.step(60.0)
    ground.ask(lent, "serving")
    ground.reaches("Serving", lent, step=5.0)
    engines.load(0.5)
    while passed() < HOUR:
        ground.step(min(60.0, HOUR - passed()))
    for _ in range(2):  # a pass that was under way when the clock moved knows nothing of it
        ground.op.advance()

    price = op.metric(
        "tidefleet_accelerator_price_usd_per_hour", accelerator="l40s", capacity_type="OnDemand", source="Catalogue"
    )
    after = sums(op, "pool_cost_usd_total", "training_cost_usd_total", "fleet_idle_cost_usd_total")
    pool, training, idle = (two - one for one, two in zip(before, after, strict=True))
    assert pool + training + idle == pytest.approx(NODES * price * passed() / HOUR, rel=1e-3)
    assert min(pool, training, idle) > 0.0

    paid_after = sums(op, "pool_needed_seconds_total", "pool_lost_seconds_total")
    needed, lost = (two - one for one, two in zip(paid_before, paid_after, strict=True))
    assert needed + lost == pytest.approx((pool + training) / price * HOUR, rel=1e-3)

    labels = {"namespace": place.namespace, "pool": "chat"}
    trained = op.metric("tidefleet_pool_needed_seconds_total", **labels, work="training")
    recalled = op.metric("tidefleet_pool_lost_seconds_total", **labels, cause="recall")
    assert trained + recalled > 0.9 * training / price * HOUR  # but for the passes before the job ran
    assert recalled > 0.0, "the job told no checkpoint, so its recall lost all of it"
    assert op.metric("tidefleet_training_lost_chip_seconds_total", **labels, cause="Recall") >= recalled

    tokens, revenue = (
        two - one
        for one, two in zip(tokens_before, sums(op, "pool_tokens_total", "pool_revenue_usd_total"), strict=True)
    )
    assert revenue == pytest.approx(tokens * 0.80 / 1e6, rel=1e-6)
    work = [op.metric("tidefleet_pool_needed_seconds_total", **labels, work=one) for one in ("prefill", "decode")]
    assert min(work) > 0.0
    assert sum(work) < needed
    ratios = [op.metric(f"tidefleet_pool_{one}_ratio", **labels) for one in ("utilization", "load", "busy")]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.05)  # of tokens that were made, and of requests that came
    assert ratios[0] < ratios[2]
    assert ground.sound()
