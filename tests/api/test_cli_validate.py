"""`tidefleet validate`: files in, every problem with its place out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from tidefleet.cli.validate import documents, validate

app = typer.Typer()
app.command()(validate)

POOL = """
apiVersion: tidefleet.io/v1alpha1
kind: InferencePool
metadata: {name: chat, namespace: prod}
spec:
  model: {name: llama-3.3-70b}
  serving: {template: {spec: {containers: [{name: engine, image: vllm}]}}}
"""
CLASS = """
apiVersion: tidefleet.io/v1alpha1
kind: WorkloadClass
metadata: {name: web, namespace: prod}
spec:
  poolRef: {name: chat}
  objectives: [{metric: TTFT, milliseconds: 300}]
"""


def run(tmp_path: Path, text: str | bytes, *more: str) -> Result:
    path = tmp_path / "objects.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return CliRunner().invoke(app, ["-f", str(path), *more])


def test_good_files_are_good(tmp_path: Path) -> None:
    result = run(tmp_path, f"{POOL}---{CLASS}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: x}}\n")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "2 valid objects, no problems" in result.stderr


def test_files_of_terms_beside_manifests_are_complained_of_only_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "book.yaml").write_text("name: chat-business\npools: []\n")
    (tmp_path / "pool.yaml").write_text(POOL)
    result = CliRunner().invoke(app, ["-f", str(tmp_path)])
    assert result.exit_code == 0
    assert "1 valid object, no problems" in result.stderr
    result = CliRunner().invoke(app, ["-f", str(tmp_path / "book.yaml")])
    assert result.exit_code == 1
    assert "apiVersion is missing" in result.stdout
    (tmp_path / "pool.yaml").write_text(POOL.replace("apiVersion: tidefleet.io/v1alpha1", ""))
    result = CliRunner().invoke(app, ["-f", str(tmp_path)])
    assert "apiVersion is missing" in result.stdout


def test_a_problem_has_file_line_and_the_house_form(tmp_path: Path) -> None:
    result = run(tmp_path, f"{POOL}---{CLASS.replace('300', '0')}")
    assert result.exit_code == 1
    assert result.stdout == (
        f"{tmp_path}/objects.yaml:9: WorkloadClass prod/web: spec.objectives[0].milliseconds is 0; "
        "expected a positive integer, e.g. 300\n"
    )


def test_unknown_fields_are_refused(tmp_path: Path) -> None:
    result = run(tmp_path, POOL.replace("  model:", "  replica: {min: 2}\n  model:"))
    assert result.exit_code == 1
    assert "spec.replica is an object with min; expected a field that exists, e.g. replicas" in result.stdout


def test_references_are_checked_over_all_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pool.yml").write_text(POOL)
    (tmp_path / "a" / "class.yaml").write_text(CLASS.replace("name: chat", "name: chta"))
    (tmp_path / "a" / "notes.txt").write_text("no YAML: [")
    result = CliRunner().invoke(app, ["-f", str(tmp_path)])
    assert result.exit_code == 1
    assert 'class.yaml:2: WorkloadClass prod/web: spec.poolRef.name is "chta"' in result.stdout
    assert '"chat"' in result.stdout


def test_the_catalogue_is_known(tmp_path: Path) -> None:
    result = run(tmp_path, POOL.replace("llama-3.3-70b", "lama-3.3-70b") + "  accelerators: [{type: h100}]\n")
    assert 'spec.model.name is "lama-3.3-70b"' in result.stdout
    assert 'spec.accelerators[0].type is "h100"; expected the name of an AcceleratorType' in result.stdout


def test_a_price_per_month_is_noticed(tmp_path: Path) -> None:
    text = """
apiVersion: tidefleet.io/v1alpha1
kind: AcceleratorType
metadata: {name: mine}
spec:
  vendor: NVIDIA
  memoryBytes: 85899345920
  memoryBytesPerSecond: 3.35e12
  computeFlops: {bf16: 9.89e14}
  prices: [{capacityType: OnDemand, usdPerChipHour: "1533"}]
"""
    result = run(tmp_path, text)
    assert result.exit_code == 1
    assert "looks like a price per month" in result.stdout
    noted = text.replace("{name: mine}", '{name: mine, annotations: {tidefleet.io/accept-implausible-price: "true"}}')
    assert run(tmp_path, noted).exit_code == 0


def test_an_object_twice_is_told(tmp_path: Path) -> None:
    result = run(tmp_path, f"{POOL}---{POOL}")
    assert result.exit_code == 1
    assert "metadata.name stands in" in result.stdout


def test_standard_input_and_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["-f", "-", "-o", "json"], input=CLASS.replace("300", "0"))
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["objects"] == []
    (problem,) = answer["problems"]
    assert problem["file"] == "-"
    assert problem["line"] == 2
    assert problem["object"] == "WorkloadClass prod/web"
    assert problem["path"] == "spec.objectives[0].milliseconds"
    assert problem["reason"] == "InvalidField"


def test_a_list_is_its_items(tmp_path: Path) -> None:
    items = json.dumps({"apiVersion": "v1", "kind": "List", "items": [json.loads('{"kind": "Nonsense"}'), 5]})
    result = run(tmp_path, items)
    assert result.exit_code == 1
    assert 'kind is "Nonsense"' in result.stdout
    assert "manifest is 5" in result.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "no YAML"),
        ("a: 1\nb: 2\na: 3\n", 'the key "a" stands twice'),
        ("a: &a [*a]\n", "contains itself"),
        (b"\xff\xfe\xfa", "no UTF-8"),
        (b"#" * (8 * 1024 * 1024 + 1), "larger than 8 MiB"),
        ("[" * 100_000, "nested deeper"),
        ("- " * 100_000, "nested deeper"),
        ("a: !!python/object/apply:os.system [ls]", "no YAML"),
        ("a: \0", "no YAML"),
        (
            "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
            + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)),
            "values, aliases written out",
        ),
    ],
    ids=["broken", "twice", "circle", "binary", "large", "deep", "deeper", "tag", "control", "bomb"],
)
def test_hostile_files_are_refused_with_a_reason(tmp_path: Path, text: str | bytes, words: str) -> None:
    result = run(tmp_path, text)
    assert result.exit_code == 1
    assert words in result.stdout


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["-f", str(tmp_path / "none.yaml")])
    assert result.exit_code == 1
    assert "No such file" in result.stdout


def test_yaml_is_read_as_kubectl_reads_it() -> None:
    (document,) = documents(
        "a: 22:00\nb: 2026-11-21\nc: 3.35e12\nd: yes\ne: 0777\nf: ~\n1: x\ng: 1e3\nh: v1.2.3\n", "f"
    )
    assert document.content == {
        "a": "22:00",
        "b": "2026-11-21",
        "c": 3.35e12,
        "d": True,
        "e": 511,
        "f": None,
        "1": "x",
        "g": 1000.0,
        "h": "v1.2.3",
    }


def test_anchors_and_merges_work() -> None:
    (document,) = documents("a: &a {x: 1}\nb: *a\nc:\n  <<: *a\n  y: 2\n", "f")
    assert document.content == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}
