"""`tidefleet report`: all forms carry the same figures, and what is wrong is said with an example."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tidefleet
from tidefleet.cli.main import app

START = 1_764_115_200.0
RANGE = "2025-11-26..2025-11-26"
SPITE = '=<b>"x"\x1b[31m'
"""A name that means mischief to a page, a terminal and a spreadsheet."""


def a_request(**changed: Any) -> dict[str, Any]:
    return {
        "v": 1, "type": "request", "end": START + 30.0, "namespace": "ml", "pool": "chat", "workload_class": "chat",
        "model": "llama-3.3-70b", "accelerator": "h200-sxm", "capacity_type": "OnDemand", "team": "search",
        "feature": "answers", "tenant": "9f86d081884c7d65", "task": "1" * 16, "outcome": "success", "result": "ok",
        "input_tokens": 1200, "cached_tokens": 800, "output_tokens": 310, "recomputed_tokens": 0,
        "saved_seconds": 0.11, "accelerator_seconds": 0.84, "usd": 0.0123, "revenue_usd": 0.0021, "slo": "met",
    } | changed  # fmt: skip


@pytest.fixture
def usage(tmp_path: Path) -> Path:
    """Two teams, waste of every kind, an idle pool, and a torn line."""
    lines: list[dict[str, Any]] = [
        a_request(),
        a_request(team=SPITE, usd=0.02, result="error", recomputed_tokens=500, recomputed_cause="evicted"),
        a_request(team="ads", usd=0.03, revenue_usd=None, recomputed_tokens=700, recomputed_cause="evicted"),
        a_request(team="ads", usd=0.01, result="cut", slo="missed", task="2" * 16, outcome="failure"),
        {"v": 1, "type": "paid", "start": START, "end": START + 60.0, "namespace": "ml", "pool": "chat",
         "accelerator": "h200-sxm", "capacity_type": "OnDemand", "accelerator_seconds": 480.0, "usd": 0.46},
    ]  # fmt: skip
    path = tmp_path / "usage.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines) + '{"v":1,"typ')
    return path


def told(*words: object) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, words)])


def answer_of(usage: Path, form: str, *words: str) -> str:
    told_ = told("--records", usage, "--range", RANGE, "--by", "team", "-o", form, *words)
    assert told_.exit_code == 0, told_.output
    return str(told_.output)


class Cells(HTMLParser):
    """Exact figures of the table of rows: by the row's name, by the column's."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, dict[str, float]] = {}
        self.kinds: list[str] = []
        self.outside: list[str] = []
        self._name = ""
        self._in_head = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.outside += [value or "" for name, value in attrs if name in ("src", "href") and (value or "#")[0] != "#"]
        self._in_head = tag == "th" and found.get("scope") == "row"
        if self._in_head:
            self._name = ""
        if tag == "tr" and found.get("class"):
            self.kinds.append(found["class"] or "")
        if found.get("data-name", "_usd") != "_usd":
            self.rows.setdefault(self._name, {})[found["data-name"] or ""] = float(found["data-value"] or "")

    def handle_data(self, data: str) -> None:
        if self._in_head:
            self._name += data

    def handle_endtag(self, tag: str) -> None:
        self._in_head = False


def test_json_csv_and_html_carry_the_same_figures(usage: Path) -> None:
    answer = json.loads(answer_of(usage, "json"))
    table = [*csv.DictReader(io.StringIO(answer_of(usage, "csv")))]
    page = Cells()
    page.feed(answer_of(usage, "html"))
    expected = [("row", row) for row in answer["rows"]]
    expected += [("line", {"name": line["name"], "allocated_usd": line["usd"]}) for line in answer["lines"]]
    expected += [("total", answer["total"])]
    assert [row["kind"] for row in table] == page.kinds == [kind for kind, _ in expected]
    for (kind, row), line in zip(expected, table, strict=True):
        recomputed = row.pop("wasted_recomputed_usd", {})
        assert line["wasted_recomputed_evicted_usd"] == ("" if kind == "line" else str(recomputed.get("evicted", "")))
        name = row.pop("name")
        shown = name.replace("\x1b", "�")
        assert line["name"] == (f"'{shown}" if name == SPITE else shown)
        assert {key: float(line[key]) for key in row if line[key]} == {
            key: value for key, value in row.items() if value is not None
        }
        drawn = page.rows[shown]
        assert drawn
        assert all(drawn[key] == value for key, value in row.items() if value is not None and key in drawn)
        assert {"allocated_usd"} <= drawn.keys()


def test_rows_and_lines_sum_to_the_bill(usage: Path) -> None:
    table = [*csv.DictReader(io.StringIO(answer_of(usage, "csv")))]
    parts = [float(row["allocated_usd"]) for row in table if row["kind"] != "total"]
    (total,) = [row for row in table if row["kind"] == "total"]
    assert sum(parts) == pytest.approx(0.46, abs=1e-12)
    assert float(total["allocated_usd"]) == 0.46


def test_the_page_loads_nothing_and_takes_no_name_for_a_tag(usage: Path) -> None:
    text = answer_of(usage, "html")
    page = Cells()
    page.feed(text)
    assert page.outside == []
    assert "<b>" not in text
    assert "\x1b" not in text
    assert "<script" not in text
    for words in ("The bill", "Used for nothing", "What cost more than it had to", "Notes", "1 lines that are no JSON"):
        assert words in text


def test_the_table_tells_the_bill_its_parts_waste_and_what_was_left_out(usage: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    answer_of(usage, "table", "--output-file", str(path))
    text = path.read_text()
    assert text.startswith("$0.46 from 2025-11-26T00:00:00Z to 2025-11-27T00:00:00Z, by team")
    assert re.search(r"^ads +2 +4\.62k ", text, re.MULTILINE)
    assert re.search(r"^idle +\$0\.39", text, re.MULTILINE)
    assert re.search(r"^total ", text, re.MULTILINE)
    assert re.search(r"^idle +ml/chat +\$0\.36 +84% of \$0\.46 was used by nobody", text, re.MULTILINE)
    assert "note: 1 lines that are no JSON object" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--range", "yesterday"], r"--range yesterday: cannot be read; expected a length up to now, e\.g\. 7d"),
        (["--range", "1d"], r"--range: no record is from .*; these are from 2025-11-26.*e\.g\. --range 2025-11-26"),
        (["--records", "gone"], r"--records gone: does not exist; expected usage records, e\.g\. usage\.jsonl"),
        (["--prometheus", "prometheus"], r"--prometheus prometheus: is no address; expected one like"),
        (["--output-file", "gone/report.json"], r"--output-file gone/report\.json: cannot be written"),
        (["--by", "colour"], r"colour"),
        (["--top", "0"], r"--top"),
    ],
)
def test_what_is_wrong_is_said_and_ends_with_status_two(usage: Path, words: list[str], expected: str) -> None:
    answer = told("--records", usage, "--range", RANGE, *words)
    assert answer.exit_code == 2
    assert re.search(expected, " ".join(answer.output.split()))


def test_without_a_source_both_are_named() -> None:
    answer = told("--by", "team")
    assert answer.exit_code == 2
    assert "expected --records PATH, --prometheus URL or both" in answer.output


def test_a_prometheus_alone_cannot_tell_tenants(usage: Path) -> None:
    answer = told("--prometheus", "http://127.0.0.1:1", "--by", "tenant")
    assert answer.exit_code == 2
    assert "expected usage records, e.g. --records usage.jsonl --by tenant" in answer.output


def test_without_the_library_the_extra_is_named(usage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    answer = told("--records", usage, "--range", RANGE)
    assert answer.exit_code == 2
    assert "pip install 'tidefleet[report]'" in answer.output


def test_no_other_command_loads_the_library() -> None:
    code = "import sys; import tidefleet.cli.main; sys.exit('duckdb' in sys.modules)"
    here = {**os.environ, "PYTHONPATH": str(Path(tidefleet.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=here, check=False).returncode == 0
