"""OpenCost's figures as a Prometheus answers with them, and the model that pods are known by."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from controller_builders import NOW
from test_controller_accounting import a_decision

from tidefleet.cluster.records import pod
from tidefleet.controller.accounting import Accountant
from tidefleet.controller.config import Prometheus
from tidefleet.controller.opencost import Beside, figures_of, model_of, read_opencost
from tidefleet.telemetry import Telemetry


def an_answer(*rows: tuple[dict[str, str], str]) -> dict[str, Any]:
    return {"data": {"result": [{"metric": labels, "value": [0, value]} for labels, value in rows]}}


def test_figures_are_read_by_namespace_and_model() -> None:
    found = figures_of(
        an_answer(
            ({"namespace": "prod", "model_name": "m"}, "3.5"),
            ({"namespace": "opencost", "exported_namespace": "dev", "model_name": "m"}, "1.5"),
            ({"namespace": "prod", "model_name": "broken"}, "NaN"),
            ({"namespace": "prod", "model_name": "below"}, "-1"),
            ({"model_name": "nowhere"}, "1"),
        )
    )
    assert found == {("prod", "m"): 3.5, ("dev", "m"): 1.5}


def test_without_a_prometheus_there_is_no_opencost_and_one_that_does_not_answer_leaves_it_open() -> None:
    assert read_opencost(Prometheus()) == {}
    assert read_opencost(Prometheus(url="http://127.0.0.1:9")) is None


def a_pod(**labels: str) -> Any:
    return pod({"metadata": {"name": "p", "namespace": "prod", "uid": "u", "labels": labels}, "spec": {}, "status": {}})


def test_pods_are_known_by_one_label_value_and_by_none_when_they_differ() -> None:
    one, other = a_pod(**{"llm-d.ai/model": "m"}), a_pod(**{"llm-d.ai/model": "n"})
    assert model_of([one, one, a_pod()]) == "m"
    assert model_of([one, other]) == ""
    assert model_of([]) == ""


def test_the_ratio_is_shown_per_pool_and_a_bill_that_differs_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    telemetry, decision = Telemetry(), a_decision(types=("l40s",))
    assert decision.market is not None
    per_hour = 2 * decision.market.candidates[0].price.usd_per_chip_hour
    accountant = Accountant(telemetry)

    def told(theirs: float) -> float | None:
        accountant.beside = Beside({("prod", "m"): theirs}, {("prod", "chat"): "m"})
        accountant.account([decision], (accountant._last or NOW) + 15.0)
        return telemetry.value("tidefleet_pool_opencost_cost_ratio", namespace="prod", pool="chat")

    with caplog.at_level(logging.WARNING):
        told(0.0)
        assert told(per_hour * 1.02) == pytest.approx(1.02)
        assert not [one for one in caplog.records if "apart" in getattr(one, "why", "")]
        assert told(per_hour * 2.0) == pytest.approx(2.0)
        told(per_hour * 2.0)
    assert len([one for one in caplog.records if "apart" in getattr(one, "why", "")]) == 1
    accountant.beside = replace(accountant.beside, models={("prod", "chat"): ""}) if accountant.beside else None
    accountant.account([decision], (accountant._last or NOW) + 15.0)
    assert telemetry.value("tidefleet_pool_opencost_cost_ratio", namespace="prod", pool="chat") is None
