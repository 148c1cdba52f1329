"""The dashboards: they ask for what is exported and recorded, in PromQL that Prometheus understands."""

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from localcluster import binaries
from tidefleet.telemetry import METRICS

ROOT = Path(__file__).resolve().parents[2]
DASHBOARDS = sorted((ROOT / "charts" / "tidefleet" / "files" / "dashboards").glob("*.json"))
RULES = sorted((ROOT / "policies" / "alerts").glob("*.rules.yaml"))
HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


def texts(path):
    """All queries of a dashboard, those of its variables too."""
    board = json.loads(path.read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    found += [one["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    return found


def selectors(text):
    """(metric or recorded series, names of the labels that its matchers use)."""
    for name, matchers in re.findall(r"((?:\w+:)?tidefleet_\w+(?::\w+)?)(?:\{([^}]*)\})?", text):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


def test_there_are_dashboards():
    assert [path.stem for path in DASHBOARDS] == ["money"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_every_series_that_a_panel_asks_for_is_exported_or_recorded_with_these_labels(path):
    recorded = {
        rule["record"]
        for file in RULES
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    asked = [pair for text in texts(path) for pair in selectors(text)]
    assert len(asked) > 20
    for name, labels in asked:
        if ":" in name:
            assert name in recorded
            assert labels <= set(name.split(":")[0].split("_")), name
            continue
        plain = name if name in METRICS else HISTOGRAM.sub("", name)
        assert plain in METRICS, name
        assert labels <= {*METRICS[plain].labels, "le"}, name


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_prometheus_understands_every_query(path, tmp_path):
    queries = [text for text in texts(path) if not text.startswith("label_values(")]
    filled = [text.replace("$__rate_interval", "5m") for text in queries]
    file = tmp_path / "rules.yaml"
    rules = [{"record": f"query:{index}", "expr": text} for index, text in enumerate(filled)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(
        [binaries.find("promtool"), "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda p: p.stem)
def test_every_panel_says_what_it_shows_and_in_what_unit(path):
    board = json.loads(path.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["title"] for panel in panels}) >= len(panels) - 1
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(one["datasource"]["uid"] == "${source}" for one in panel["targets"]), panel["title"]


def test_the_files_are_what_the_code_makes():
    spec = importlib.util.spec_from_file_location("dashboards", ROOT / "deploy" / "dashboards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages = module.pages()
    assert sorted(pages) == DASHBOARDS
    assert not [path.name for path, text in pages.items() if path.read_text() != text], "run make generate"


OF_MONEY = re.compile(
    r"tidefleet_(pool_(cost|tokens|needed|lost|energy|revenue|monthly|\w+_ratio$)|plan_\w+_usd|(training|fleet_idle)_cost)"
)


def test_every_metric_of_money_is_in_a_rule_or_a_panel():
    words = "\n".join(path.read_text() for path in (*RULES, *DASHBOARDS))
    money = {name for name, one in METRICS.items() if OF_MONEY.match(name) and one.kind != "histogram"}
    assert len(money) > 12
    assert not {name for name in money if name not in words}
