"""The demo's arithmetic and pictures, from values; no server runs here."""

import io
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from demo import draw, page, picture, words
from demo.counters import Sample, Totals, quantile, read_page
from demo.day import DAY_SECONDS, load_of, rates_from, read_day
from demo.record import Moment, PoolNow, Record, Streams, Told, covered_share, usd_per_hour, usd_per_million
from demo.streams import ready_endpoints
from demo.summary import DaySummary, render, summarise
from tidefleet.emulator.load import parse_load

TRACE = Path(__file__).parents[2] / "deploy" / "samples" / "traces" / "day.csv"
MIDNIGHT = 1715558400.0
VOID = frozenset({"meta"})


def page_of(value: float, *, pool: str = "chat", accelerator: str = "b200-sxm") -> tuple[Sample, ...]:
    return (Sample("usd_total", frozenset({("pool", pool), ("accelerator", accelerator)}), value),)


def a_moment(at: float, *, usd: float, tokens: float, ready: int = 4, load: float | None = 0.5) -> Moment:
    return Moment(
        at=at,
        offered=10.0,
        demand=11.0,
        ready={"b200-sxm": ready},
        desired={"b200-sxm": 4},
        usd={"b200-sxm": usd},
        tokens=tokens,
        plan_usd_per_hour=57.0,
        load=load,
        lost=0.0,
        finished=tokens / 1000.0,
    )


def a_day() -> Record:
    """24 hours of a pool at 10 $/h and 20 M tokens/h, with a decision at 08:00."""
    record = Record()
    record.pools["chat"] = PoolNow("chat", model="llama-3.3-70b", target=0.4, accelerators="4 b200-sxm (fp8, tp1)")
    record.moments["chat"] = [
        a_moment(MIDNIGHT + minute * 60.0, usd=minute / 6.0, tokens=minute * 1e6 / 3.0)
        for minute in range(-120, 1450, 10)
    ]
    why = 'cheapest for 10 requests/s & <nothing> "else"; next is https://example.invalid/x'
    record.told.append(Told(MIDNIGHT + 8 * 3600.0, "chat", ("chat-1a2b3c4d 3 -> 4",), why))
    record.streams["chat"] = Streams(served=12)
    record.ready_since["chat"] = MIDNIGHT - 600.0
    return record


def a_summary(record: Record) -> DaySummary:
    return summarise(
        record,
        start=MIDNIGHT,
        end=MIDNIGHT + DAY_SECONDS,
        real_seconds=150.0,
        static={},
        ttft_before={},
        timings={},
        pass_seconds=576.0,
    )


def test_counters_add_up_what_was_counted_since_the_first_look() -> None:
    totals = Totals()
    for value in (100.0, 130.0, 190.0):
        totals.add("a", page_of(value))
    assert totals.sum("usd_total", pool="chat") == 90.0


def test_a_counter_that_was_reset_counts_from_zero_again() -> None:
    totals = Totals()
    for value in (0.0, 50.0, 20.0, 25.0):
        totals.add("a", page_of(value))
    assert totals.sum("usd_total") == 75.0


def test_a_failover_goes_on_where_the_old_leader_ended() -> None:
    totals = Totals()
    for value in (0.0, 40.0, 60.0):
        totals.add("a", page_of(value))
        totals.add("b", ())  # waits for leadership and counts nothing
    for value in (5.0, 12.0):
        totals.add("b", page_of(value))
    assert totals.sum("usd_total") == 72.0


def test_counters_are_told_apart_by_labels() -> None:
    totals = Totals()
    totals.add("a", ())
    totals.add("a", (*page_of(3.0), *page_of(4.0, accelerator="h100-sxm"), *page_of(5.0, pool="code")))
    assert totals.by("usd_total", "accelerator", pool="chat") == {"b200-sxm": 3.0, "h100-sxm": 4.0}
    assert totals.sum("usd_total", pool="code") == 5.0


def test_what_a_pod_counted_before_the_first_look_is_its_pools() -> None:
    totals = Totals()
    totals.add("pod-1", page_of(7.0), from_start=True, zone="x")
    assert totals.sum("usd_total", zone="x") == 7.0


def test_a_metrics_page_is_read_by_prefix() -> None:
    text = '# HELP x_a words\n# TYPE x_a counter\nx_a_total{pool="chat"} 3\n# TYPE y gauge\ny 2\nx_b 1\n'
    samples = read_page(text, prefix="x_")
    assert [(one.name, one.value, one.label("pool")) for one in samples] == [
        ("x_a_total", 3.0, "chat"),
        ("x_b", 1.0, ""),
    ]


def test_quantile_lies_on_a_line_within_its_bucket() -> None:
    infinity = float("inf")
    assert quantile({0.5: 50.0, 1.0: 100.0, infinity: 100.0}, 0.75) == pytest.approx(0.75)
    assert quantile({0.5: 50.0, 1.0: 90.0, infinity: 100.0}, 0.95) == 1.0
    assert quantile({0.5: 0.0, infinity: 0.0}, 0.95) is None
    assert quantile({}, 0.95) is None


def test_the_day_has_144_bins_for_each_pool() -> None:
    day = read_day(TRACE)
    assert sorted(day) == ["chat", "code", "reasoning"]
    assert {len(bins) for bins in day.values()} == {144}


def test_a_row_that_is_no_number_is_named_by_its_line(tmp_path: Path) -> None:
    bad = tmp_path / "day.csv"
    bad.write_text("second,pool,requests_per_second,input_tokens,output_tokens,cached_share\n0,chat,many,1,1,0\n")
    with pytest.raises(ValueError, match=r"day\.csv:2: .*many.*expected e\.g\. 600,chat"):
        read_day(bad)


@pytest.mark.parametrize("hour", [0.0, 8.5, 23.0])
def test_the_curve_keeps_the_days_requests_whenever_it_begins(hour: float) -> None:
    bins = read_day(TRACE)["chat"]
    start = MIDNIGHT + hour * 3600.0
    load = parse_load(load_of(bins, midnight=MIDNIGHT, begin=start - 3600.0, end=start + DAY_SECONDS))
    wanted = sum(one.requests_per_second * 600.0 for one in bins)
    assert load.requests(start, start + DAY_SECONDS) == pytest.approx(wanted, rel=0.002)
    assert load.rate(start) == pytest.approx(rates_from(bins, hour)[0], rel=0.1)


def test_usd_per_million_divides_what_both_counters_gained() -> None:
    moments = a_day().moments["chat"]
    assert usd_per_million(moments, MIDNIGHT + 7200.0) == pytest.approx(0.5)
    assert usd_per_hour(moments, MIDNIGHT + 7200.0) == pytest.approx(10.0)
    assert usd_per_million([], MIDNIGHT) is None
    idle = [a_moment(MIDNIGHT + at, usd=at, tokens=0.0) for at in (0.0, 3600.0, 7200.0)]
    assert usd_per_million(idle, MIDNIGHT + 7200.0) is None


def test_time_counts_as_covered_only_while_ready_replicas_carry_the_demand() -> None:
    moments = [
        a_moment(0.0, usd=0, tokens=0, load=0.9),
        a_moment(60.0, usd=0, tokens=0, load=1.0),
        a_moment(120.0, usd=0, tokens=0, ready=0, load=0.2),
        a_moment(180.0, usd=0, tokens=0, load=None),
        a_moment(240.0, usd=0, tokens=0),
    ]
    assert covered_share(moments) == 0.25
    assert covered_share(moments[:1]) == 0.0


def test_the_summary_leaves_out_the_evening_before() -> None:
    summary = a_summary(a_day())
    (chat,) = summary.pools
    assert chat.dollars == pytest.approx(240.0)
    assert chat.tokens == pytest.approx(480e6)
    assert chat.usd_per_million == pytest.approx(0.5)
    assert not chat.meets_target
    assert (chat.decisions, chat.streams_served, chat.covered, chat.was_ready) == (1, 12, 1.0, True)
    assert summary.as_json()["pools"][0]["accelerators"] == pytest.approx({"b200-sxm": 240.0})


def test_the_summary_renders_for_a_terminal() -> None:
    console = Console(width=100, file=io.StringIO())
    console.print(render(a_summary(a_day())))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "480 M" in text
    assert "$0.50" in text


def test_endpoints_are_ready_pods_that_stay() -> None:
    def pod(name: str, *, ready: str = "True", ip: str = "127.3.0.2", **metadata: object) -> dict[str, object]:
        labels = {"tidefleet.io/pool": "chat"}
        status = {"podIP": ip, "conditions": [{"type": "Ready", "status": ready}]}
        return {"metadata": {"name": name, "labels": labels, **metadata}, "status": status}

    leaving = pod("leaving", deletionTimestamp="2024-05-13T00:00:00Z")
    found = ready_endpoints([pod("a"), pod("b", ready="False"), pod("c", ip=""), leaving])
    assert [(one.pod, one.pool, one.address) for one in found] == [("a", "chat", "127.3.0.2:8000")]


class Checker(HTMLParser):
    """Keeps the open elements, and what the page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    record = a_day()
    summary = a_summary(record)
    shown = picture.charts(record, summary, start=MIDNIGHT, end=MIDNIGHT + DAY_SECONDS)
    text = page.render(shown, summary)
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert checker.loaded == []
    assert "url(" not in text
    assert "&lt;nothing&gt;" in text
    assert "prefers-color-scheme:dark" in text


def test_the_small_picture_is_well_formed_and_small() -> None:
    record = a_day()
    summary = a_summary(record)
    shown = picture.charts(record, summary, start=MIDNIGHT, end=MIDNIGHT + DAY_SECONDS)
    text = picture.small(shown, summary)
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314  our own text
    assert len(text) < 150_000


def test_a_pool_that_was_never_seen_draws_nothing_and_breaks_nothing() -> None:
    record = Record()
    record.pools["chat"] = PoolNow("chat")
    summary = a_summary(record)
    shown = picture.charts(record, summary, start=MIDNIGHT, end=MIDNIGHT + DAY_SECONDS)
    assert "nothing was measured" in page.render(shown, summary)


@pytest.mark.parametrize(
    ("value", "top"), [(0.0, 1.0), (0.95, 1.0), (1.0, 1.0), (13.0, 16.0), (240.0, 240.0), (301.0, 400.0)]
)
def test_an_axis_ends_at_a_round_number(value: float, top: float) -> None:
    assert draw.ceiling(value) == pytest.approx(top)


@pytest.mark.parametrize(
    ("change", "by"), [(("x 3 -> 4", "y 2 -> 0"), -1), (("x 0 -> 2",), 2), (("template of x",), None), ((), None)]
)
def test_a_decision_moves_so_many_replicas(change: tuple[str, ...], by: int | None) -> None:
    assert picture.moved(change) == by


def test_words() -> None:
    assert [words.usd(value) for value in (0.4, 0.299, 0.025, 1.5, 18.24, 179.6, 8126.0, 0.0)] == [
        "$0.40", "$0.299", "$0.025", "$1.50", "$18.2", "$180", "$8,126", "$0.00",
    ]  # fmt: skip
    assert [words.percent(value) for value in (1.0, 0.99999, 0.9996, 0.962, 0.43)] == [
        "100 %", "100 %", "99.9 %", "96.2 %", "43 %",
    ]  # fmt: skip
    assert [words.many(value) for value in (812, 21_500, 3.1e6, 51e9)] == ["812", "21.5 k", "3.1 M", "51.0 B"]
    assert words.sparkline([0, 1, 2, 4], 4) == "▁▃▅█"
    assert words.sparkline([], 4) == ""
