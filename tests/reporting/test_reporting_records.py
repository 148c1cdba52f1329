"""Usage records read: every form of file, an independent recomputation, and lines that cannot be counted."""

from __future__ import annotations

import gzip
import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from report_records import HOUR, START, Line, a_paid, a_request, report_on, text_of, write

from tidefleet.reporting.files import RecordsError
from tidefleet.reporting.period import Period
from tidefleet.reporting.records import read_records
from tidefleet.reporting.report import Report, report_of
from tidefleet.reporting.values import PICO, By, usd
from tidefleet.router.usage_values import LostRecord, PaidRecord, RequestRecord

LINES = [a_request(), a_request(tenant="a" * 16, usd=0.001), a_paid()]


def rows(report: Report) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report.as_json()["rows"]}


def zstd(text: str) -> bytes:
    return bytes(pyarrow.compress(text.encode(), codec="zstd", asbytes=True))


def save_parquet(path: Path, lines: list[Line]) -> None:
    names = list(dict.fromkeys(name for line in lines for name in line))
    parquet.write_table(pyarrow.table({name: [line.get(name) for line in lines] for name in names}), path)


# --- files -----------------------------------------------------------------------------------------------------------


def test_one_bill_from_every_form_of_file(tmp_path: Path) -> None:
    text = text_of(LINES)
    (tmp_path / "plain").write_text(text)
    (tmp_path / "zipped").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "parts").write_bytes(gzip.compress(text.encode()[:300]) + gzip.compress(text.encode()[300:]))
    (tmp_path / "zst").write_bytes(zstd(text))
    save_parquet(tmp_path / "columns", LINES)
    found = {path.name: report_on(path).as_json() for path in sorted(tmp_path.iterdir())}
    for one in found.values():
        del one["source"]
    assert len(found) == 5
    assert all(one == found["plain"] for one in found.values())
    assert found["plain"]["bill_usd"] == 0.46
    assert found["plain"]["notes"] == []


def test_a_directory_is_searched_and_each_file_read_once(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "usage-0.20251126T000000.000001Z.jsonl", LINES[0])
    (tmp_path / "usage.jsonl.2.gz").write_bytes(gzip.compress(text_of([LINES[1]]).encode()))
    write(tmp_path / "usage[1]*.jsonl", LINES[2])
    write(tmp_path / "usage1.jsonl.count", "not records")
    (tmp_path / "again.jsonl").symlink_to(tmp_path / "usage[1]*.jsonl")
    found = read_records([tmp_path, tmp_path / "usage[1]*.jsonl"], By.TENANT, HOUR, top=9)
    assert found.cells
    assert not found.counted
    assert [usd(one) for one in found.paid.values()] == [0.46]
    assert sum(cell.figures.requests for cell in found.cells) == 2
    assert found.notes == ["1 files in the directories have other names and were not read"]


def test_a_name_with_a_pattern_in_it_is_that_file_alone(tmp_path: Path) -> None:
    asked = write(tmp_path / "a[12].jsonl", a_request())
    write(tmp_path / "a1.jsonl", a_request(), a_request())
    assert rows(report_on(asked))["9f86d081884c7d65"]["requests"] == 1


def test_a_gzip_file_that_ends_too_early_is_read_up_to_there_and_told(tmp_path: Path) -> None:
    many = [a_request(tenant=os.urandom(8).hex()) for _ in range(5000)]
    whole = gzip.compress(text_of(many).encode())
    (tmp_path / "live.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "done.jsonl.gz").write_bytes(gzip.compress(text_of([a_paid()]).encode()))
    found = report_on(tmp_path)
    assert found.found.counted["unfinished_files"] == 1
    assert 1000 < found.bill.whole.figures.requests < 5000
    assert found.bill.total == round(0.46 * PICO) or found.bill.overused > 0
    assert any("live.jsonl.gz" in note for note in found.notes())


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_zstd_file_that_ends_too_early_is_told(tmp_path: Path, share: float) -> None:
    many = [a_request(tenant=os.urandom(8).hex()) for _ in range(8000)]
    whole = zstd(text_of(many))
    path = tmp_path / "live.jsonl.zst"
    path.write_bytes(whole[: int(len(whole) * share)])
    found = report_on(path)
    assert found.found.counted["unfinished_files"] == 1
    assert 0 < found.bill.whole.figures.requests < 8000
    path.write_bytes(whole + zstd(text_of([a_paid()])))
    assert report_on(path).found.counted == {}


def test_records_as_the_router_encodes_them_are_read_whole(tmp_path: Path) -> None:
    unit = {"namespace": "ml", "pool": "chat", "accelerator": "h200-sxm", "capacity_type": "OnDemand"}
    asked = RequestRecord(
        **unit, end=START + 1.0, workload_class="talk", model="llama-3.3-70b", team="search", feature="answers",
        tenant="a" * 16, task="b" * 16, outcome="success", result="ok", input_tokens=1200, cached_tokens=800,
        reasoning_tokens=200, output_tokens=310, recomputed_tokens=50, recomputed_cause="evicted", saved_seconds=0.11,
        accelerator_seconds=0.84, usd=0.00073, revenue_usd=0.0021, slo="met",
    )  # fmt: skip
    nowhere = {**unit, "accelerator": "", "capacity_type": ""}
    refused = RequestRecord(**nowhere, end=START + 2.0, workload_class="", model="", result="refused")
    paid = PaidRecord(**unit, start=START, end=START + 60.0, accelerator_seconds=480.0, usd=0.46, source="router-0")
    lost = LostRecord(start=START, end=START + 1.0, records=17, source="router-0")
    path = tmp_path / "usage.jsonl"
    path.write_bytes(msgspec.json.Encoder().encode_lines([asked, refused, paid, lost]))
    for by, name in ((By.TENANT, "a" * 16), (By.TEAM, "search"), (By.FEATURE, "answers"), (By.CLASS, "ml/talk"),
                     (By.POOL, "ml/chat"), (By.ACCELERATOR, "h200-sxm")):  # fmt: skip
        report = report_on(path, by)
        row = rows(report)[name]
        assert report.found.counted == {}
        assert report.found.lost_records == 17
        assert report.as_json()["bill_usd"] == 0.46
        assert (row["usage_usd"], row["revenue_usd"], row["slo_share"], row["tasks_succeeded"]) == (
            0.00073, 0.0021, 1.0, 1,
        )  # fmt: skip
        kinds = ("input", "cached", "output", "reasoning", "good")
        assert [row[f"{kind}_tokens"] for kind in kinds] == [1200, 800, 310, 200, 310]
        assert row["wasted_recomputed_usd"] == pytest.approx({"evicted": 50 * 0.11 / 800 * 0.00073 / 0.84}, rel=1e-6)
        assert report.bill.whole.figures.refused_requests == 1


# --- an independent recomputation ------------------------------------------------------------------------------------

some_usd = st.integers(0, 10**9).map(lambda nano: nano / 1e9)
requests = st.fixed_dictionaries({
    "pool": st.sampled_from("ab"),
    "accelerator": st.sampled_from(["h100-sxm", "b200", ""]),
    "tenant": st.sampled_from([None, "t1", "t2", "t3"]),
    "task": st.sampled_from([None, None, "k1", "k2"]),
    "outcome": st.sampled_from([None, None, "success", "failure"]),
    "result": st.sampled_from(["ok", "ok", "error", "cut", "refused"]),
    "input_tokens": st.integers(0, 9000),
    "cached_tokens": st.integers(0, 9000),
    "output_tokens": st.integers(0, 900),
    "usd": st.none() | some_usd,
    "revenue_usd": st.none() | some_usd,
    "slo": st.sampled_from([None, "met", "missed"]),
}).map(lambda changed: a_request(**changed))  # fmt: skip
paids = st.fixed_dictionaries({
    "pool": st.sampled_from("abc"),
    "accelerator": st.sampled_from(["h100-sxm", "b200"]),
    "start": st.integers(0, 3).map(lambda minute: START + 60.0 * minute),
    "usd": some_usd,
    "source": st.sampled_from(["r0", "r1"]),
}).map(lambda changed: a_paid(**changed, end=changed["start"] + 60.0))  # fmt: skip
Unit = tuple[str, str]


def whole(dollars: float | None) -> int:
    """USD of a line as 10^-12 USD, by another way than the product's."""
    return round(Fraction(repr(dollars or 0.0)) * 10**12)


def paid_by_unit(lines: list[Line]) -> dict[Unit, int]:
    minutes: dict[tuple[str, str, float], int] = {}
    for line in lines:
        if line["type"] == "paid":
            key = (line["pool"], line["accelerator"], line["start"])
            minutes[key] = max(minutes.get(key, 0), whole(line["usd"]))
    found: dict[Unit, int] = {}
    for (pool, accelerator, _), cost in minutes.items():
        found[pool, accelerator] = found.get((pool, accelerator), 0) + cost
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(requests | paids, min_size=1, max_size=30), by=st.sampled_from(By))
def test_figures_are_those_of_plain_sums_over_the_lines(tmp_path: Path, lines: list[Line], by: By) -> None:
    report = report_on(write(tmp_path / "usage.jsonl", *lines), by)
    asked = [line for line in lines if line["type"] == "request"]
    paid = paid_by_unit(lines)
    used: dict[Unit, int] = {}
    for line in asked:
        unit = (line["pool"], line["accelerator"])
        used[unit] = used.get(unit, 0) + whole(line["usd"])
    bill = sum(paid.values()) + sum(cost for unit, cost in used.items() if unit not in paid)
    assert report.bill.total == bill
    assert sum(row.allocated for row in report.bill.rows) + sum(report.bill.lines.values()) == bill

    ends = {task: [one["outcome"] for one in asked if one["task"] == task] for task in ("k1", "k2")}

    def failed(line: Line) -> bool:
        if line["task"] is None:
            return line["outcome"] == "failure"
        return "failure" in ends[line["task"]] and "success" not in ends[line["task"]]

    figures = report.bill.whole.figures
    assert figures.requests == len(asked)
    assert figures.used == sum(used.values())
    assert figures.revenue == sum(whole(line["revenue_usd"]) for line in asked)
    assert figures.error == sum(whole(line["usd"]) for line in asked if line["result"] == "error")
    assert figures.failed == sum(whole(line["usd"]) for line in asked if line["result"] == "ok" and failed(line))
    assert figures.tokens == sum(line[f"{kind}_tokens"] for line in asked for kind in ("input", "cached", "output"))
    assert figures.good_tokens == sum(
        line["output_tokens"] for line in asked if line["result"] == "ok" and line["slo"] == "met"
    )
    tasks = report.bill.whole.tasks
    assert tasks is not None
    alone = [line["outcome"] for line in asked if line["task"] is None]
    assert tasks.succeeded == sum("success" in one for one in ends.values()) + alone.count("success")
    assert tasks.failed == sum("failure" in o and "success" not in o for o in ends.values()) + alone.count("failure")
    if by is By.TENANT:
        for row in report.bill.rows:
            mine = [line for line in asked if (line["tenant"] or "(none)") == row.name]
            assert (row.figures.requests, row.figures.used) == (len(mine), sum(whole(line["usd"]) for line in mine))


@pytest.mark.parametrize("by", By)
def test_keys_below_the_largest_share_a_row(tmp_path: Path, by: By) -> None:
    lines = [
        a_request(tenant=f"{n}", team=f"{n}", feature=f"{n}", workload_class=f"{n}", pool=f"{n}", accelerator=f"{n}",
                  usd=0.01 * (n + 1))
        for n in range(6)
    ]  # fmt: skip
    nobody = dict.fromkeys(("tenant", "team", "feature"), None)
    report = report_on(write(tmp_path / "usage.jsonl", *lines, a_request(**nobody, usd=0.001)), by, top=2)
    shown = report.as_json()["rows"]
    assert len(shown) == 3
    assert shown[-1]["name"] == "(others)"
    assert [row["usage_usd"] for row in shown] == pytest.approx([0.06, 0.05, 0.101])


def test_without_a_name_there_is_a_row_for_that(tmp_path: Path) -> None:
    path = write(tmp_path / "usage.jsonl", a_request(tenant=None, usd=0.5), a_request(tenant=""), a_request(tenant="x"))
    assert {name: row["requests"] for name, row in rows(report_on(path, top=1)).items()} == {"(none)": 2, "(others)": 1}


def test_a_task_that_failed_is_a_loss_and_a_successful_one_has_the_price_of_all(tmp_path: Path) -> None:
    path = write(
        tmp_path / "usage.jsonl",
        a_request(task="k1", usd=0.2),
        a_request(task="k1", usd=0.3, outcome="failure"),
        a_request(task="k1", usd=0.1, outcome="success"),
        a_request(task="k2", usd=0.25),
        a_request(task="k2", usd=0.05, outcome="failure"),
        a_request(task="k3", usd=0.4),
        a_request(usd=0.15, outcome="success"),
    )
    total = report_on(path).as_json()["total"]
    assert (total["tasks_succeeded"], total["tasks_failed"]) == (2, 1)
    assert total["usd_per_successful_task"] == pytest.approx((0.6 + 0.3 + 0.15) / 2)
    assert total["wasted_failed_tasks_usd"] == pytest.approx(0.3)


# --- what cannot be counted ------------------------------------------------------------------------------------------

NUL = "\x00" * 4096
HOSTILE: dict[str, tuple[list[Line | str], dict[str, int]]] = {
    "a torn last line": (['{"v":1,"type":"request","end":17641'], {"unreadable": 1}),
    "no JSON": (["garbage", "[1,2]", '"words"', "null", "{}", "}{", NUL], {"unreadable": 7}),
    "two objects on a line": ([json.dumps(a_request()) * 2], {"unreadable": 1}),
    "deeply nested": (["[" * 50_000, '{"a":' * 20_000 + "1" + "}" * 20_000], {"unreadable": 2}),
    "another version": (
        [a_request(v=2), a_request(v=None), a_request(v=1.5), a_paid(v=10**30)], {"unknown_version": 4},
    ),
    "another type": ([a_request(type="refund"), a_request(type=None)], {"unknown_type": 2}),
    "nothing in a field": (
        [a_request(pool=None), a_request(namespace=None), a_request(result=None), a_request(result="fine"),
         a_request(end=None), a_paid(start=None), a_paid(accelerator=None), a_paid(accelerator_seconds=None)],
        {"incomplete": 8},
    ),
    "NaN and infinite": (
        [a_request(usd=float("nan")), a_request(usd="NaN"), a_request(output_tokens="Infinity"),
         json.dumps(a_request(usd=7777)).replace("7777", "1e999"), a_paid(usd="NaN"), a_paid(usd="-Infinity")],
        {"impossible": 6},
    ),
    "negative and absurd": (
        [a_request(usd=-0.1), a_request(input_tokens=-5), a_request(revenue_usd=-1), a_request(usd=1e12),
         a_request(cached_tokens=1e18), a_request(accelerator_seconds=-1.0), a_paid(usd=-3.0)],
        {"impossible": 7},
    ),
    "clocks that jumped": (
        [a_request(end=START + 1e9), a_request(end=-5.0), a_request(end="NaN"), a_paid(end=START - 60.0),
         a_paid(start=START, end=START)],
        {"clock": 5},
    ),
    "the same minute twice": ([a_paid(source="router-1"), a_paid(source="router-2", usd=0.2)], {"duplicate_paid": 2}),
    "no price": ([a_request(usd=None), a_request(usd="much")], {"unpriced": 2}),
    "no number": ([a_request(usd={"a": 1}, pool=["x"] * 3)], {"unpriced": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_lines_are_counted_and_the_bill_still_sums(tmp_path: Path, name: str) -> None:
    lines, counted = HOSTILE[name]
    report = report_on(write(tmp_path / "usage.jsonl", *LINES[:1], *lines, *LINES[1:]))
    assert report.found.counted == counted
    assert report.bill.total == round(0.46 * PICO)
    assert sum(row.allocated for row in report.bill.rows) + sum(report.bill.lines.values()) == report.bill.total
    assert rows(report)["a" * 16]["usage_usd"] == 0.001
    assert any(str(count) in note for count in counted.values() for note in report.notes())


def test_bytes_that_are_no_text_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    path.write_bytes(os.urandom(3000).replace(b"\n", b"x") + b"\n" + text_of(LINES).encode() + b'{"tenant":"\xff"}\r\n')
    report = report_on(path)
    assert report.found.counted == {"unreadable": 2}
    assert report.bill.total == round(0.46 * PICO)


def test_wrong_columns_of_parquet_are_counted(tmp_path: Path) -> None:
    plain = [{**one, "usd": str(one["usd"])} for one in LINES]
    save_parquet(tmp_path / "a.parquet", plain)
    save_parquet(tmp_path / "b.parquet", [{"v": 1, "type": "request", "extra": 5}])
    report = report_on(tmp_path)
    assert report.found.counted == {"incomplete": 1}
    assert report.bill.total == round(0.46 * PICO)


def test_lost_records_are_told_whenever_their_line_says_no_time(tmp_path: Path) -> None:
    lost = {"v": 1, "type": "lost", "start": START + 5.0, "end": START + 6.0, "records": 17, "source": "r"}
    another = {**lost, "start": START + 4000.0, "end": START + 4001.0}
    report = report_on(write(tmp_path / "usage.jsonl", *LINES, lost, {**lost, "start": None, "records": 3}, another))
    assert report.found.lost_records == 20
    assert any(note.startswith("20 records were lost") for note in report.notes())


def test_what_a_left_out_request_used_is_idle_time(tmp_path: Path) -> None:
    before = report_on(write(tmp_path / "usage.jsonl", *LINES))
    after = report_on(write(tmp_path / "usage.jsonl", *LINES[1:], a_request(v=3)))
    assert after.bill.total == before.bill.total
    assert after.bill.lines["idle"] - before.bill.lines["idle"] == round(0.00073 * PICO)


def test_minutes_without_a_price_are_no_bill_of_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "usage.jsonl", a_request(usd=0.25), a_paid(usd=None))
    report = report_on(path)
    assert (usd(report.bill.total), usd(report.bill.unbilled), report.bill.overused) == (0.25, 0.25, 0)
    assert "480 paid accelerator-seconds have no price and are not in the bill" in report.notes()


def test_lines_of_other_times_are_told_and_not_counted(tmp_path: Path) -> None:
    later = [a_request(end=START + 3600.0), a_paid(start=START + 3600.0, end=START + 3660.0)]
    report = report_on(write(tmp_path / "usage.jsonl", *LINES, *later))
    assert report.bill.total == round(0.46 * PICO)
    assert "2 lines are of other times" in report.notes()


# --- nothing to read -------------------------------------------------------------------------------------------------


def test_a_path_without_records_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "notes.txt", "hello")
    for path, words in (
        (tmp_path / "gone.jsonl", r"gone\.jsonl: does not exist; expected usage records, e\.g\."),
        (tmp_path / "empty", r"no file of records; expected"),
        (tmp_path / "other", r"no file of records among its 1 files; expected"),
        (Path(os.devnull), r"neither a file nor a directory; expected"),
        (write(tmp_path / "nothing.jsonl"), r"no line counts, all files are empty; expected"),
        (write(tmp_path / "foreign.jsonl", "a", "b"), r"no line counts: 2 lines that are no JSON object"),
        (
            write(tmp_path / "long.jsonl", '{"x":"' + "y" * 40_000_000 + '"}'),
            r"long\.jsonl: a line is longer than 4 MiB",
        ),
    ):
        with pytest.raises(RecordsError, match=words):
            report_on(path)


def test_parquet_that_is_none_is_a_clear_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(RecordsError, match=r"--records .*bad\.parquet: cannot be read"):
        report_on(path)


def test_a_period_without_records_is_an_error_that_tells_their_times(tmp_path: Path) -> None:
    path = write(tmp_path / "usage.jsonl", *LINES)
    with pytest.raises(RecordsError, match=r"these are from 2025-11-26T00:00:00Z .*--range 2025-11-26\.\.2025-11-26"):
        report_on(path, period=Period(START + 86_400.0, START + 90_000.0))


def test_the_same_records_come_to_the_same_figures(tmp_path: Path) -> None:
    lines = [a_request(tenant=f"{n % 7}", usd=n / 3e7, accelerator_seconds=n / 7.0) for n in range(3000)]
    path = write(tmp_path / "usage.jsonl", *lines, a_paid())
    found = [report_of(read_records([path], By.TENANT, HOUR, top=5)).bill for _ in range(2)]
    assert [(row.name, row.allocated) for row in found[0].rows] == [(row.name, row.allocated) for row in found[1].rows]
