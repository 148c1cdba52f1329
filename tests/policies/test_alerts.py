"""The alerts' rules: valid, tested by promtool, on metrics that exist, with runbooks that exist."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from localcluster import binaries
from tidefleet.telemetry import METRICS

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "policies" / "alerts"
RULES = sorted(ALERTS.glob("*.rules.yaml"))
TESTS = sorted((ALERTS / "tests").glob("*.yaml"))


def promtool(*arguments):
    environment = {**os.environ, "GOGC": "400"}  # its heap is small; less time goes into collecting garbage
    command = [binaries.find("promtool"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def rules():
    return [r for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for r in group["rules"]]


def alerts():
    return [rule for rule in rules() if "alert" in rule]


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.name)
def test_rules_are_valid(path):
    promtool("check", "rules", "--lint=all", "--lint-fatal", path)


@pytest.mark.parametrize("path", TESTS, ids=lambda p: p.stem)
def test_alerts_behave(path):
    promtool("test", "rules", path)


def test_every_metric_that_a_rule_uses_is_exported_with_these_labels():
    text = "\n".join(rule["expr"] for rule in rules())
    used = set(re.findall(r"(?<![\w:])tidefleet_\w+", text))
    assert used
    assert used <= METRICS.keys()
    for name, matchers in re.findall(r"(?<![\w:])(tidefleet_\w+)\{([^}]*)\}", text):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= set(METRICS[name].labels), name
    for name in used:
        assert {"namespace", "pool"} <= set(METRICS[name].labels), name


def test_every_recorded_series_that_is_used_is_recorded():
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    texts = [rule["expr"] for rule in rules()] + [text for rule in alerts() for text in rule["annotations"].values()]
    used = {name for text in texts for name in re.findall(r"\w+:tidefleet_\w+:\w+", text)}
    assert used <= recorded


def test_an_alert_reads_only_records_of_its_own_group():
    """Groups are evaluated apart: a record of another group may be missing or older."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            recorded = set()
            for rule in group["rules"]:
                assert set(re.findall(r"\w+:tidefleet_\w+:\w+", rule["expr"])) <= recorded, rule
                if "record" in rule:
                    recorded.add(rule["record"])


def test_every_alert_has_words_and_a_runbook_for_the_person_it_wakes():
    assert alerts()
    for alert in alerts():
        assert {"summary", "description", "dashboard", "runbook_url"} <= alert["annotations"].keys()
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert "for" in alert
        runbook = ROOT / "docs" / "runbooks" / f"{alert['alert']}.md"
        assert alert["annotations"]["runbook_url"].endswith(f"/docs/runbooks/{runbook.name}")
        assert runbook.is_file()


def test_thresholds_are_those_of_the_design():
    """factor, long, short, severity; 5 % allowed; more than 1 USD/h."""
    found = {
        (alert["labels"]["long"], alert["labels"]["short"], alert["labels"]["severity"], factor)
        for alert in alerts()
        if alert["alert"] == "TokenCostBudgetBurn"
        for factor in set(re.findall(r"> ([\d.]+) \* 0\.05", alert["expr"]))
    }
    assert found == {
        ("1h", "5m", "critical", "14.4"),
        ("6h", "30m", "critical", "6"),
        ("1d", "2h", "warning", "3"),
        ("3d", "6h", "warning", "1"),
    }
