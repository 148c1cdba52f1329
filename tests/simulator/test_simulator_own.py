"""A user's own requests: read from every kind of file, refused with the line that is wrong, drawn alike each time."""

import csv
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.simulator.scenario import Class, Pool, Scenario
from tidefleet.simulator.workload import TraceError, load
from tidefleet.simulator.workload.own import own

ROWS = [
    {"time": 10.0, "input": 1024, "output": 20, "session": "a", "hash_ids": [0, 1]},
    {"time": 11.0, "input": 1536, "output": 30, "session": "b", "hash_ids": [0, 5, 6]},
    {"time": 14.5, "input": 2048, "output": 40, "session": "a", "hash_ids": [0, 1, 2, 3]},
]


def written(path, rows=ROWS):
    kind = path.name.removesuffix(".zst").rpartition(".")[2]
    if kind == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
        return path
    if kind == "jsonl":
        data = "".join(json.dumps(one) + "\n" for one in rows)
    else:
        lines = [list(rows[0])]
        lines += [[" ".join(map(str, v)) if isinstance(v, list) else v for v in one.values()] for one in rows]
        data = "\n".join(",".join(map(str, one)) for one in lines) + "\n"
    if path.suffix == ".zst":
        import pyarrow as pa

        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(data.encode())
    else:
        path.write_text(data)
    return path


@pytest.mark.parametrize("name", ["own.csv", "own.jsonl", "own.parquet", "own.csv.zst", "own.jsonl.zst"])
def test_every_kind_of_file_says_the_same(tmp_path, name):
    found = own(written(tmp_path / name))
    assert found.count == 2
    assert found.begins.tolist() == [0.0, 1.0]
    first, second = found.turns(0, 0), found.turns(1, 0)
    assert [(one.pause, one.tokens, one.output) for one in first] == [(0.0, 1024, 20), (4.5, 2048, 40)]
    assert [(one.pause, one.tokens, one.output) for one in second] == [(0.0, 1536, 30)]
    assert first[1].keys[:2].tolist() == first[0].keys.tolist()
    assert first[0].keys[0] == second[0].keys[0] != second[0].keys[1]
    assert found.own_rate == pytest.approx(2 / 4.5)


def test_what_sessions_share_is_the_same_in_every_draw_and_nothing_else(tmp_path):
    found = own(written(tmp_path / "own.jsonl"))
    one, another = found.turns(0, 7)[1].keys, found.turns(0, 9)[1].keys
    assert one[0] == another[0]
    assert not set(one[1:].tolist()) & set(another[1:].tolist())


def test_without_blocks_a_session_goes_on_from_its_own_prompt(tmp_path):
    rows = [{name: value for name, value in one.items() if name != "hash_ids"} for one in ROWS]
    found = own(written(tmp_path / "own.csv", rows))
    first, second = found.turns(0, 0), found.turns(1, 0)
    assert first[1].keys[:2].tolist() == first[0].keys.tolist()
    assert not set(first[1].keys.tolist()) & set(second[0].keys.tolist())


def test_a_scenario_draws_from_the_file_at_any_rate_and_alike(tmp_path):
    path = written(tmp_path / "own.csv")
    scenario = Scenario(
        name="mine",
        kind="replay",
        seconds=3600.0,
        pools=(Pool(model="llama-3.1-8b", accelerator="h100-sxm", replicas=1),),
        classes=(Class(name="mine", source=str(path)),),
    )
    workload = load(scenario, tmp_path, seed=3).scale("mine", 0.5)
    whole = workload.sessions("mine", 0.0, 1200.0)
    assert len(whole) == pytest.approx(600, rel=0.2)
    parts = workload.sessions("mine", 0.0, 500.0) + workload.sessions("mine", 500.0, 1200.0)
    assert [(one.number, one.begins) for one in whole] == [(one.number, one.begins) for one in parts]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time,input\n1,2\n", r"own.csv:1: no column 'output', there are time, input; expected time, input, output"),
        ("time,input,output\n1,2\n", r"own.csv:2: '1,2' has 2 fields; expected 3"),
        ("time,input,output\n5,2,3\n4,2,3\n", r"own.csv:3: time 4 after 5; expected rows in order of time"),
        ("time,input,output\n-1,2,3\n", r"own.csv:2: time is '-1'; expected a number from 0 on"),
        ("time,input,output\n1,0,3\n", r"own.csv:2: input is '0'; expected a whole number from 1 on, e.g. 350"),
        ("time,input,output\n1,2.5,3\n", r"own.csv:2: input is '2.5'; expected a whole number from 1 on"),
        ("time,input,output\n1,1e300,3\n", r"own.csv:2: input is '1e300'; expected at most 100,000,000 tokens"),
        ("time,input,output\nnan,2,3\n", r"own.csv:2: time is 'nan'"),
        ("time,input,output\n", r"own.csv: no row"),
        ("", r"own.csv:1: no column 'time', there are none"),
        ("time,input,output,hash_ids\n1,2,3,x y\n", r"own.csv:2: hash_ids is 'x y'; expected numbers from 0 on"),
        ("time,input,output,hash_ids\n1,2,3,-4\n", r"own.csv:2: hash_ids is '-4'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_an_example(tmp_path, text, words):
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(TraceError, match=words):
        own(tmp_path / "own.csv")


def test_files_of_other_kinds_and_broken_ones_are_told(tmp_path):
    with pytest.raises(TraceError, match=r"nowhere.csv: no such file"):
        own(tmp_path / "nowhere.csv")
    (tmp_path / "own.txt").write_text("x")
    with pytest.raises(TraceError, match=r"expected .csv, .jsonl or .parquet"):
        own(tmp_path / "own.txt")
    (tmp_path / "own.parquet").write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(TraceError, match=r"expected a parquet file with time, input, output"):
        own(tmp_path / "own.parquet")
    (tmp_path / "own.jsonl").write_text('{"time": 1, "input": 2, "output": 3}\n[1]\n')
    with pytest.raises(TraceError, match=r"own.jsonl:2: .* is no JSON object"):
        own(tmp_path / "own.jsonl")


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("own")
    for name in ("own.csv", "own.jsonl"):
        (folder / name).write_bytes(data)
        with pytest.raises(TraceError):
            own(folder / name)


def test_memory_grows_by_columns_and_not_by_rows_of_objects(tmp_path):
    path = tmp_path / "own.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["time", "input", "output"])
        lines.writerows([number / 100.0, 1000 + number % 7, 50] for number in range(50_000))
    tracemalloc.start()
    found = own(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.count == 50_000
    assert np.diff(found.begins).min() >= 0.0
    assert peak < 50_000 * 200 + 8e6


def test_csv_as_spreadsheets_and_arrow_write_it_is_read(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text('"time","input","output","session"\r\n1.5,1024,20,"a, ""b"""\r\n2.5,2048,30,"a, ""b"""\r\n')
    found = own(path)
    assert (found.count, len(found.turns(0, 0))) == (1, 2)


def test_requests_without_sessions_and_blocks_are_sessions_of_one(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("time,input,output\n5,1024,20\n5.5,2048,30\n9,512,10\n")
    found = own(path)
    assert (found.count, found.longest, found.own_rate) == (3, 0.0, pytest.approx(0.75))
    assert found.begins.tolist() == [0.0, 0.5, 4.0]
    assert [(one.tokens, one.output, len(one.keys)) for one in found.turns(1, 0)] == [(2048, 30, 4)]
    assert found.nominal(2).tolist() == [0.0]
    assert found.turns(0, 0)[0].keys[0] != found.turns(2, 0)[0].keys[0]
