"""The metrics of flips: what each call makes visible, and that nothing is left of a pool that is gone."""

from __future__ import annotations

import re

from tidefleet.telemetry import METRICS, FlipMeter, Telemetry
from tidefleet.telemetry.flips import Direction, FlipCause, Result

CHAT = ("prod", "chat")


def a_meter() -> FlipMeter:
    return FlipMeter(Telemetry())


def value(meter: FlipMeter, name: str, **labels: str) -> float | None:
    return meter.telemetry.value(f"tidefleet_{name}", **labels)


def test_the_first_flip_of_a_pool_is_an_increase() -> None:
    meter = a_meter()
    labels = {"namespace": "prod", "pool": "chat", "direction": "training", "result": "done", "reason": "Loan"}
    meter.appear(CHAT)
    assert value(meter, "flips_total", **labels) == 0.0
    meter.ended(CHAT, direction="training", result="done", reason="Loan", decision_id="d-1")
    assert value(meter, "flips_total", **labels) == 1.0


def test_phases_are_timed_in_seconds_and_a_clock_that_went_back_counts_as_none() -> None:
    meter = a_meter()
    for seconds in (40.0, -3.0):
        meter.left("Draining", seconds)
    assert value(meter, "flip_duration_seconds_sum", phase="Draining") == 40.0
    assert value(meter, "flip_duration_seconds_count", phase="Draining") == 2.0


def test_only_a_flip_past_its_deadline_is_overdue() -> None:
    meter = a_meter()
    meter.overdue(CHAT, training=-20.0, serving=75.0)
    found = [
        value(meter, "pool_flip_overdue_seconds", namespace="prod", pool="chat", direction=direction)
        for direction in ("training", "serving")
    ]
    assert found == [0.0, 75.0]


def test_nodes_that_came_back_are_not_lent_any_more() -> None:
    meter = a_meter()
    meter.lent(CHAT, {"h100-sxm": 3, "l40s": 1})
    meter.lent(CHAT, {"h100-sxm": 2})
    labels = {"namespace": "prod", "pool": "chat"}
    assert value(meter, "pool_loaned_nodes", **labels, accelerator="h100-sxm") == 2.0
    assert value(meter, "pool_loaned_nodes", **labels, accelerator="l40s") is None


def test_costs_and_losses_add_up_and_idle_chips_belong_to_no_pool() -> None:
    meter = a_meter()
    for usd in (1.5, 2.5):
        meter.training_cost(CHAT, usd, accelerator="h100-sxm", capacity_type="Owned")
        meter.idle_cost(usd, accelerator="h100-sxm", capacity_type="Owned")
    meter.work_lost(CHAT, 1800.0, "Surge")
    kind = {"accelerator": "h100-sxm", "capacity_type": "Owned"}
    assert value(meter, "training_cost_usd_total", namespace="prod", pool="chat", **kind) == 4.0
    assert value(meter, "fleet_idle_cost_usd_total", **kind) == 4.0
    assert value(meter, "training_lost_chip_seconds_total", namespace="prod", pool="chat", cause="Surge") == 1800.0


def test_a_pool_whose_every_flip_metric_is_shown_keeps_within_forty_series_and_leaves_none_when_it_goes() -> None:
    """Every result that can come of each direction and cause, over one accelerator type."""
    meter = a_meter()
    meter.appear(CHAT)
    outbound: tuple[FlipCause, ...] = ("Loan", "Request")
    homebound: tuple[FlipCause, ...] = ("Recall", "Surge", "Request", "Health")
    ends: list[tuple[Direction, Result, FlipCause]] = [
        *(("training", result, cause) for cause in outbound for result in ("done", "rolled-back", "quarantined")),
        *(("training", "called-off", cause) for cause in outbound),
        *(("serving", result, cause) for cause in homebound for result in ("done", "quarantined")),
    ]
    for direction, result, cause in ends:
        meter.ended(CHAT, direction=direction, result=result, reason=cause)
    meter.allowed(CHAT, {"Loan": 1, "Recall": 2, "Rebalance": 0})
    meter.lent(CHAT, {"h100-sxm": 1})
    for cause in ("Recall", "Surge", "Health"):
        meter.work_lost(CHAT, 1.0, cause)
    page = meter.telemetry.render()[1].decode()
    own = [line for line in page.splitlines() if 'pool="chat"' in line]
    assert len(own) <= 28
    assert len(own) == len(ends) + 3 + 1 + 3 + 2
    meter.telemetry.forget(namespace="prod", pool="chat")
    assert 'pool="chat"' not in meter.telemetry.render()[1].decode()


def test_the_words_of_labels_are_in_the_metrics_help() -> None:
    help_ = METRICS["tidefleet_flips_total"].help
    for word in (*re.findall(r'"([\w-]+)"', str(Result.__args__)), "Loan", "Surge"):  # type: ignore[attr-defined]
        assert word in help_
