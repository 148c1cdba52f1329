"""Directories of traces: another with the same names and fields is read alike, one that is not usable is told."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidefleet.simulator.fits import peak_over_mean
from tidefleet.simulator.scenario import Class, Pool, Scenario
from tidefleet.simulator.workload import TraceError, Workload, load
from tidefleet.simulator.workload.arrivals import servegen
from tidefleet.simulator.workload.files import text
from tidefleet.simulator.workload.shared_prefix import profile

pa = pytest.importorskip("pyarrow", reason="reading zstd and parquet needs pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROOT = Path(__file__).resolve().parents[2]
TRACES = Path(os.environ.get("TIDEFLEET_SHARED", ROOT.parent / "shared")) / "traces"
needs_traces = pytest.mark.skipif(not TRACES.exists(), reason=f"no traces at {TRACES}; TIDEFLEET_SHARED names another")

MOONCAKE, CLAUDE = "mooncake_conversation_trace.jsonl.zst", "agentic_claude_code.jsonl.zst"
RAG, CHUNKS = "ragpulse_trace.jsonl.zst", "ragpulse_chunk_tokens.csv.zst"
RATES, LENGTHS, CLIENTS, GAPS = (
    "servegen_rates.parquet",
    "servegen_lengths.parquet",
    "servegen_clients.csv",
    "servegen_gaps.csv",
)
AZURE, SHAPES = "azure2023_code.parquet", "fleet_shape_7d_10min.csv"
PROFILES = "llmd_shared_prefix_workloads.csv"
SOURCES = {
    "chat": "mooncake-conversation",
    "agentic": "claude-code",
    "rag": "ragpulse",
    "code": "azure2023-code",
    "api": "servegen:m-large",
}


def compressed(path: Path, words: str) -> None:
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write(words.encode())


def lines(rows: Iterable[object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: Sequence[Sequence[object]], end: str = "\n") -> str:
    return "".join(",".join(map(str, row)) + end for row in rows)


def conversations() -> list[dict[str, Any]]:
    return [
        {
            "timestamp": 400 * turn,
            "input_length": 1024 * (turn + 1),
            "output_length": 20,
            "hash_ids": [0, *range(10 * (turn % 5) + 1, 10 * (turn % 5) + 2 * (turn + 1))],
            "family": turn % 5,
        }
        for turn in range(20)
    ]


def agents() -> list[dict[str, Any]]:
    request = {"t": 0.0, "in": 6400, "out": 30, "think": 2.0, "api": 1.5, "stop": "tool_use", "blocks": [[1, 100]]}
    return [
        {"id": f"s{one}", "model": "m", "tool_tokens": 2048, "system_tokens": 1024, "requests": [request, request]}
        for one in range(4)
    ]


def answers() -> list[dict[str, Any]]:
    return [
        {
            "t": 300.0 * one,
            "session": one,
            "input_length": 900,
            "output_length": 50,
            "sys": [1],
            "passages": [2, 3 + one],
            "history": [],
            "web": [],
            "user": [9],
        }
        for one in range(12)
    ]


def rates() -> dict[str, list[Any]]:
    bins = [600 * one for one in range(144)]
    found: dict[str, list[Any]] = {name: [] for name in ("model", "client", "t", "n", "cv", "pat", "shape")}
    for client in (3, 7):
        for at in bins:
            for name, value in zip(found, ("m-large", client, at, 5 + client, 1.0, 1, 1.0), strict=True):
                found[name].append(value)
    return found


def lengths() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in ("model", "client", "window_start", "field", "q100")}
    for client in (3, 7):
        for window in range(4):
            for field, mean in (("input_tokens", 900.0), ("output_tokens", 70.0)):
                values = (np.arange(100.0) + mean).tolist()
                for name, value in zip(found, ("m-large", client, 21_600 * window, field, values), strict=True):
                    found[name].append(value)
    return found


def shapes() -> list[list[object]]:
    rows: list[list[object]] = [[600 * one, 1.0, 1.0 + (one % 144 > 70)] for one in range(1008)]
    return [["t", "calm", "busy"], *rows]


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """A small directory with all that is read."""
    compressed(tmp_path / MOONCAKE, lines(conversations()))
    compressed(tmp_path / CLAUDE, lines(agents()))
    compressed(tmp_path / RAG, lines(answers()))
    compressed(tmp_path / CHUNKS, table([("chunk_id", "component", "tokens"), *((one, "c", 256) for one in range(20))]))
    pq.write_table(pa.table(rates()), tmp_path / RATES)
    pq.write_table(pa.table(lengths()), tmp_path / LENGTHS)
    (tmp_path / CLIENTS).write_text(
        table([("model", "client", "class"), ("m-large", 3, "mixed"), ("m-large", 7, "mixed")])
    )
    (tmp_path / GAPS).write_text(table([("model", "t"), ("m-large", 1200)]))
    pq.write_table(pa.table({"t_s": [0.0, 1.0, 2.5], "input": [100, 900, 300], "output": [3, 5, 0]}), tmp_path / AZURE)
    (tmp_path / SHAPES).write_text(table(shapes()))
    (tmp_path / PROFILES).write_text(
        "profile,groups,prompts_per_group,system_prompt_tokens,question_tokens,output_tokens,arrival,"
        'stages_rate_x_seconds\nsmall,3,2,640,128,9,poisson,"2x10;3x5"\n'
    )
    return tmp_path


def read(traces: Path, name: str) -> Workload:
    pool = Pool(model="llama-3.1-8b", accelerator="h100-sxm", replicas=1, chips_per_replica=1)
    wclass = Class(name=name, source=SOURCES[name], share=1.0, shape="busy")
    scenario = Scenario(name="read", kind="fleet", seconds=86_400.0, pools=(pool,), classes=(wclass,))
    return load(scenario, traces, seed=1)


def drawn(traces: Path, name: str) -> list[tuple[float, tuple[tuple[float, int, int, bytes], ...]]]:
    """All that begins in half an hour, by value."""
    found = read(traces, name).scale(name, 0.05).sessions(name, 0.0, 1800.0)
    return [
        (one.begins, tuple((turn.pause, turn.tokens, turn.output, turn.keys.tobytes()) for turn in one.turns))
        for one in found
    ]


def backwards(row: dict[str, Any]) -> dict[str, Any]:
    return {"extra": None, **dict(reversed(row.items()))}


def floats(row: dict[str, Any]) -> dict[str, Any]:
    """Whole numbers written with a point, one level deep."""

    def one(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], int):
            return [float(each) for each in value]
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    return {name: one(value) for name, value in row.items()}


def otherwise_written(traces: Path, target: Path) -> Path:
    """The same contents in another order of fields and rows, of other types, with fields and line ends that differ."""
    target.mkdir()
    for name, rows in ((MOONCAKE, conversations()), (RAG, answers())):
        halves = lines(floats(backwards(row)) for row in rows).encode()
        frames = b""
        for part in (halves[:100], halves[100:]):  # two frames, as a tool that appends writes them
            sink = pa.BufferOutputStream()
            with pa.CompressedOutputStream(sink, "zstd") as stream:
                stream.write(part)
            frames += sink.getvalue().to_pybytes()
        (target / name).write_bytes(frames)
    compressed(target / CLAUDE, lines(backwards(row) for row in agents()) + "\n")
    compressed(
        target / CHUNKS, table([("tokens", "new", "chunk_id"), *(("256.0", "", one) for one in range(20))], "\r\n")
    )
    for name, columns in ((RATES, rates()), (LENGTHS, lengths())):
        whole = pa.table({"extra": [0] * len(columns["model"]), **dict(reversed(columns.items()))})
        for place, column in enumerate(whole.column_names):
            if pa.types.is_integer(whole.schema.field(column).type):
                whole = whole.set_column(place, column, whole[column].cast(pa.float64()))
        place = whole.column_names.index("model")
        whole = whole.set_column(place, "model", whole["model"].dictionary_encode())
        order = np.random.default_rng(1).permutation(len(whole))
        pq.write_table(whole.take(pa.array(order)), target / name, row_group_size=7, compression="zstd")
    quoted = [('"class"', '"client"', '"model"'), ("mixed", '"7"', "m-large"), ("mixed", "3", '"m-large"')]
    (target / CLIENTS).write_text(table(quoted, "\r\n"), newline="")
    (target / GAPS).write_text("why,t,model\r\ndown,1200.0,m-large\r\n", newline="")
    azure = pa.table({"output": [3.0, 5.0, 0.0], "input": pa.array([100, 900, 300], pa.int16()), "t_s": [0, 1, 2]})
    pq.write_table(azure, target / AZURE)
    week = [
        [row[2], row[1], f" {row[0]}" if place == 0 else f"{float(str(row[0]))}"] for place, row in enumerate(shapes())
    ]
    (target / SHAPES).write_text("\ufeff" + table(week, "\r\n"), encoding="utf-8", newline="")
    with (target / PROFILES).open("w", newline="") as file:
        csv.writer(file).writerows([row[::-1] for row in csv.reader((traces / PROFILES).read_text().splitlines())])
    return target


@pytest.mark.parametrize("name", SOURCES)
def test_order_of_fields_types_of_numbers_line_ends_and_more_fields_make_no_difference(
    traces: Path, tmp_path: Path, name: str
) -> None:
    other = otherwise_written(traces, tmp_path / "other")
    first = drawn(traces, name)
    assert len(first) > 20
    assert drawn(other, name) == first


def test_profiles_and_shapes_are_found_by_the_names_of_their_columns(traces: Path, tmp_path: Path) -> None:
    other = otherwise_written(traces, tmp_path / "other")
    assert profile(other, "small") == profile(traces, "small")
    scenario = read(traces, "chat").scenario
    ratio = peak_over_mean(scenario, scenario.classes, traces)
    assert ratio is not None
    assert ratio > 1.2
    assert peak_over_mean(scenario, scenario.classes, other) == pytest.approx(ratio)


def jsonl(name: str, rows: Callable[[], list[dict[str, Any]]], **changes: Any) -> Callable[[Path], None]:
    """Writes a file whose third line differs."""

    def write(root: Path) -> None:
        found = rows()
        found[2] = {**found[2], **changes}
        compressed(root / name, lines(found))

    return write


def parquet(name: str, columns: Callable[[], dict[str, list[Any]]], column: str, value: Any) -> Callable[[Path], None]:
    """Writes a file whose third row differs."""

    def write(root: Path) -> None:
        found = columns()
        found[column][2] = value
        pq.write_table(pa.table(found), root / name)

    return write


def one_request(**changes: Any) -> dict[str, Any]:
    return {"requests": [{**agents()[0]["requests"][0], **changes}]}


def plain(name: str, words: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(words)


def cut(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-40])


def gone(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def week(change: Callable[[list[list[object]]], list[list[object]]]) -> Callable[[Path], object]:
    return lambda root: (root / SHAPES).write_text(table(change(shapes())))


def azure(name: str, value: object) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        found: dict[str, list[Any]] = {"t_s": [0.0, 1.0, 2.5], "input": [100, 900, 300], "output": [3, 5, 1]}
        found[name][2] = value
        pq.write_table(pa.table(found), root / AZURE)

    return write


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("chat", gone(MOONCAKE), f"{MOONCAKE}: no such file; expected a directory of traces"),
        ("chat", plain(MOONCAKE, "{}"), f"{MOONCAKE}:1: .*; expected UTF-8 text, compressed if its name ends in .zst"),
        ("agentic", cut(CLAUDE), rf"{CLAUDE}:\d+: Truncated compressed stream"),
        ("chat", lambda root: compressed(root / MOONCAKE, ""), f"{MOONCAKE}: no request; expected at least one"),
        ("chat", jsonl(MOONCAKE, conversations, family="abc"), ":3: family is 'abc'; expected a number"),
        ("chat", jsonl(MOONCAKE, conversations, family=None), ":3: family is None; expected a number"),
        ("chat", jsonl(MOONCAKE, conversations, input_length=1e18), ":3: input_length is 1e[+]18; expected at most"),
        ("chat", jsonl(MOONCAKE, conversations, input_length=7.5), ":3: input_length is 7.5; expected a whole number"),
        ("chat", jsonl(MOONCAKE, conversations, hash_ids=[0.5]), r":3: hash_ids is \[0.5\]; expected a list of ids"),
        ("chat", jsonl(MOONCAKE, conversations, timestamp=-1), ":3: timestamp is -1; expected a number from 0 on"),
        ("agentic", jsonl(CLAUDE, agents, requests=None), ":3: requests is None; expected a list"),
        ("agentic", jsonl(CLAUDE, agents, tool_tokens=10**15), ":3: tool_tokens is 1000000000000000; expected at"),
        ("agentic", jsonl(CLAUDE, agents, **one_request(blocks=[[-5, 3]])), r":3: requests\[0\].blocks is -5"),
        ("agentic", jsonl(CLAUDE, agents, **one_request(blocks=[[1, 10**12]])), r"blocks has \[1, 1000000000000\]"),
        ("agentic", jsonl(CLAUDE, agents, **one_request(blocks=[1, 2])), r":3: requests\[0\] is .*; expected in, out"),
        ("agentic", jsonl(CLAUDE, agents, **one_request(think=-1)), r":3: requests\[0\].think is -1"),
        ("rag", jsonl(RAG, answers, session="abc"), ":3: session is 'abc'; expected a number"),
        ("rag", jsonl(RAG, answers, passages=["x"]), r":3: passages is \['x'\]; expected a list of ids"),
        ("rag", jsonl(RAG, answers, web=None), ":3: web is None; expected a list of ids"),
        ("rag", jsonl(RAG, answers, user=[[1]]), r":3: user is \[\[1\]\]; expected a list of ids"),
        ("rag", lambda root: compressed(root / CHUNKS, "chunk_id,tokens\n1,-4\n"), ":2: tokens is '-4'; expected"),
        ("rag", lambda root: compressed(root / CHUNKS, "chunk_id,tokens\n1,4e7\n"), ":2: tokens is 4e7; expected"),
        ("rag", lambda root: compressed(root / CHUNKS, "chunk_id,tokens\n"), f"{CHUNKS}: no row; expected chunk_id"),
        ("code", plain(AZURE, "t_s,input,output\n0,1,1\n"), f"{AZURE}: Parquet .*; expected a parquet file with t_s"),
        ("code", azure("t_s", float("nan")), ": row 2: t_s is nan; expected a number from 0 on"),
        ("code", azure("input", None), ": row 2: input is None; expected a number from 1 on"),
        ("code", azure("output", -1), ": row 2: output is -1; expected a number from 0 on"),
        ("api", parquet(RATES, rates, "n", None), ": row 2: n is None; expected a number from 0 on"),
        ("api", parquet(RATES, rates, "t", -600), ": row 2: t is -600; expected a number from 0 on"),
        ("api", parquet(RATES, rates, "client", 2.5), ": row 2: client is 2.5; expected a whole number"),
        ("api", parquet(RATES, rates, "model", None), ": row 2: model is None; expected a name, e.g. m-mid"),
        ("api", parquet(LENGTHS, lengths, "window_start", -5), ": row 2: window_start is -5; expected"),
        ("api", parquet(LENGTHS, lengths, "q100", [1.0]), r": row 2: q100 is \[1.0\]; expected 100 numbers"),
        ("api", parquet(LENGTHS, lengths, "q100", [float("inf")] * 100), ": row 2: q100 is .*; expected 100 numbers"),
        ("api", plain(GAPS, "model,t\nm-large,soon\n"), f"{GAPS}:2: t is 'soon'; expected a number"),
        ("api", plain(GAPS, ""), f"{GAPS}:1: no column 'model', there are 'none'"),
        ("chat", week(lambda rows: rows[: 1 + 6 * 144]), r":865: ends after 864 lines of 600 s \(6.00 days\)"),
        ("chat", week(lambda rows: rows[:50] + rows[51:]), ":51: t is 30000; expected a line for every 600 s"),
        ("chat", week(lambda rows: [*rows[:9], [4800, 1, "nan"], *rows[10:]]), ":10: busy is 'nan'; expected a number"),
        ("chat", week(lambda rows: [*rows[:9], [4800, 1], *rows[10:]]), ":10: '4800,1' has 2 fields; expected 3"),
        ("chat", week(lambda rows: [*rows[:9], [4800, '"1', 1], *rows[10:]]), r":\d+: .* has \d fields; expected 3"),
        ("chat", lambda root: shutil.copy(root / AZURE, root / SHAPES), f"{SHAPES}:1: .*; expected UTF-8 text"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_trace_is_told_with_its_place(
    traces: Path, name: str, change: Callable[[Path], object], words: str
) -> None:
    change(traces)
    with pytest.raises(TraceError, match=words):
        read(traces, name)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("small,0,2,640,128,9,poisson,2x10", ":2: groups is '0'; expected a whole number from 1 on"),
        ("small,3,2,-640,128,9,poisson,2x10", ":2: system_prompt_tokens is '-640'; expected"),
        ("small,3,2,640,128,9,poisson,nanx10", ":2: stages_rate_x_seconds is 'nan'; expected"),
        ("small,3,2,640,128,9,poisson,0x10", ":2: stages_rate_x_seconds has '0x10'; expected a rate and seconds"),
        ("small,3,2,640,128,9,poisson,2x10x3", ":2: stages_rate_x_seconds has '2x10x3'; expected"),
        ("small,3,2,640,128,9,poisson,", ":2: stages_rate_x_seconds is ''; expected"),
        ("other,3,2,640,128,9,poisson,2x10", "no profile 'small'; expected one of other"),
    ],
)
def test_what_is_wrong_in_a_profile_is_told_with_its_line(traces: Path, row: str, words: str) -> None:
    header = (traces / PROFILES).read_text().partition("\n")[0]
    (traces / PROFILES).write_text(f"{header}\n{row}\n")
    with pytest.raises(TraceError, match=words):
        profile(traces, "small")


def test_a_session_without_requests_is_left_out(traces: Path) -> None:
    rows = agents()
    rows[1]["requests"] = []
    compressed(traces / CLAUDE, lines(rows))
    assert read(traces, "agentic").stream("agentic").source.count == 3


def test_clients_whose_gaps_were_not_fitted_come_at_random(traces: Path) -> None:
    found = rates()
    found["shape"], found["cv"], found["pat"] = [None] * 288, [None] * 288, [None] * 288
    columns = {
        name: pa.array(values, pa.float64()) if name in {"shape", "cv", "pat"} else values
        for name, values in found.items()
    }
    pq.write_table(pa.table(columns), traces / RATES)
    clients = read(traces, "api").stream("api").clients
    assert clients is not None
    assert (clients.shapes == 1.0).all()


@needs_traces
def test_a_week_that_goes_on_where_the_last_one_ended_gives_the_same_clients_as_one_that_begins_anew(
    tmp_path: Path,
) -> None:
    found = pq.read_table(TRACES / RATES)
    later = pa.array(found["t"].to_numpy() + 604_800, pa.int32())
    pq.write_table(found.set_column(found.column_names.index("t"), "t", later), tmp_path / RATES)
    shutil.copyfile(TRACES / CLIENTS, tmp_path / CLIENTS)
    gaps = [one.split(",") for one in text(TRACES / GAPS)]
    moved = [(model, at if at == "t" else int(at) + 604_800) for model, at in gaps]
    (tmp_path / GAPS).write_text(table(moved))
    first, second = (servegen(root, "m-mid", ("interactive",)) for root in (TRACES, tmp_path))
    assert second.own_rate == first.own_rate
    for when in (0.0, 313_200.0, 604_199.0, 700_000.0):  # the second is masked
        ours, theirs = first.mix(when), second.mix(when)
        assert theirs.clients.tolist() == ours.clients.tolist()
        assert theirs.shares.tolist() == ours.shares.tolist()
