"""Engines that are slower than the cost model thinks: the plan follows what they show, and returns."""

from __future__ import annotations

import pytest
from operator_builders import INFERENCE_POOL, Place, a_class, a_pool, tidefleet

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

L40S = [{"type": "l40s"}]
RATE = 13.0
HALF_LIFE = 600.0


def option(place: Place) -> dict[str, str]:
    """The one option of the pool's plan."""
    (found,) = place.status()["plan"]["options"]
    return dict(found)


def total(place: Place) -> int:
    return sum(place.replicas().values())


@pytest.mark.parametrize("declared", [RATE, None])
def test_a_plan_follows_engines_that_get_slower_and_returns_when_they_recover(
    place, operator_in_process, engines, declared
):
    place.create(a_pool(accelerators=L40S), a_class(rate=declared))
    op = operator_in_process(calibration={"halfLifeSeconds": HALF_LIFE})
    engines.load(RATE)
    op.settle()
    assert option(place)["provenance"] == "Roofline"

    def factor(phase: str = "decode") -> float:
        return op.metric(
            "tidefleet_pool_calibration_factor",
            namespace=place.namespace, pool="chat", accelerator="l40s", phase=phase,
        )  # fmt: skip

    assert factor() == factor("prefill") == 1.0

    def until(check, most: float) -> None:
        """Let at most so many seconds pass until it holds, and then until the replicas serve."""
        end = op.clock.now() + most
        while not check() and op.clock.now() < end:
            op.observe(50)
        assert check(), (factor(), option(place))
        op.until(lambda: sum(place.ready_replicas().values()) == total(place) == engines.count())

    until(lambda: option(place)["provenance"] == "Live", 2000)
    op.observe(2 * HALF_LIFE)
    assert factor() == pytest.approx(1.0, abs=0.06)
    assert float(option(place)["sigma"]) <= 0.12
    fast = total(place)

    engines.slow(1.4)
    until(lambda: factor() > 1.3 and factor("prefill") > 1.3, 6 * HALF_LIFE)
    op.observe(2 * HALF_LIFE)
    op.settle()
    slow = total(place)
    assert slow > fast
    code, words = tidefleet("explain", "chat", "-n", place.namespace, "--kubeconfig", place.cluster.kubeconfig)
    assert code == 0, words
    assert "calibrated live, ±" in words

    engines.slow(1.0)
    until(lambda: factor() < 1.1 and factor("prefill") < 1.1, 6 * HALF_LIFE)
    until(lambda: total(place) <= fast, 4 * HALF_LIFE)
    assert total(place) == fast

    place.merge(INFERENCE_POOL, "chat", {"metadata": {"annotations": {"tidefleet.io/reset-calibration": "1"}}})
    op.until(lambda: option(place)["provenance"] == "Roofline")
    assert factor() == 1.0


def test_engines_that_lie_teach_nothing(place, operator_in_process, engines):
    place.create(a_pool(accelerators=L40S), a_class(rate=RATE))
    op = operator_in_process(calibration={"halfLifeSeconds": HALF_LIFE})
    engines.load(RATE)
    op.settle()
    for kind in ("nan-metrics", "empty-metrics", "negative-metrics", "garbage"):
        engines.fault(kind)
        op.observe(800)
        assert option(place)["provenance"] == "Roofline", kind
    assert (
        "roofline, ±"
        in tidefleet("explain", "chat", "-n", place.namespace, "--kubeconfig", place.cluster.kubeconfig)[1]
    )
