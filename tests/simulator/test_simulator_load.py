"""Scenario files: what is wrong is told with file, line, field, what came, what was expected and an example."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulate_builders import FLEET, STUDY

from tidefleet.simulator.load import ScenarioError, load_scenario, parse_scenario, shipped
from tidefleet.simulator.study import STUDIES


def problem_of(text: str, *changes: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text, "mine.yaml", changes)
    return str(caught.value)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_scenario_is_valid_and_has_the_name_of_its_file(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.summary
    assert scenario.study is None or scenario.study in STUDIES


def test_a_file_is_read_as_a_shipped_scenario_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY)
    assert load_scenario(str(path)) == parse_scenario(STUDY, "elsewhere")


def test_a_field_that_does_not_exist_is_told_with_its_line_and_the_nearest_one() -> None:
    told = problem_of(FLEET.replace("replicas: 8", "replicsa: 8"))
    assert "mine.yaml:8: pools[0].replicsa is not a field" in told
    assert "did you mean replicas?" in told
    assert "pools[0].replicas is missing; expected e.g. replicas: 64" in told


def test_a_value_out_of_bounds_is_told_with_its_line_and_an_example() -> None:
    told = problem_of(FLEET.replace("share: 1.0", "share: 1.5"))
    assert told == (
        "mine.yaml:13: classes[0].share is 1.5; expected it to be less than or equal to 1, e.g. share: 0.25"
    )


def test_a_value_inside_braces_is_found_too() -> None:
    told = problem_of(FLEET.replace("ttftSeconds: 0.8", "ttftSeconds: -1"))
    assert told.startswith("mine.yaml:14: classes[0].objective.ttftSeconds is -1; expected it to be greater than 0")


def test_names_of_the_catalogue_are_checked_with_near_ones() -> None:
    told = problem_of(FLEET.replace("h200-sxm", "h200"))
    assert told.startswith("mine.yaml:7: pools[0].accelerator is 'h200'; expected a name of the catalogue, e.g. ")
    assert "h200-sxm" in told


def test_a_class_without_a_pool_of_its_own_name_is_told() -> None:
    assert "classes[0].pool is 'other'; expected one of main" in problem_of(FLEET + "    pool: other\n")


def test_a_class_of_a_fleet_either_waits_or_has_an_objective() -> None:
    told = problem_of(FLEET + "    deadlineSeconds: 86400\n")
    assert "classes[0] (chat) has both objective and deadlineSeconds" in told


def test_a_key_that_comes_twice_is_refused() -> None:
    assert problem_of(STUDY + "name: again\n") == "mine.yaml:13: name comes a second time (first on line 2)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "mine.yaml: holds None; expected fields of a scenario"),
        ("- a\n- b", "mine.yaml: holds a list; expected fields"),
        ("name: [", "mine.yaml:1: is not YAML"),
        ("a: &x {b: 1}\nc: *x", "mine.yaml:2: *x is an alias; expected the values written out"),
        ("[" * 60 + "]" * 60, "nested deeper than 40 levels"),
        ("a: !!python/object/apply:os.system ['true']", "is not YAML"),
        ("a: 2026-13-99", "a value that YAML cannot read"),
        ("seconds: .inf\nname: x\nkind: replay", "seconds is inf; expected it to be a finite number"),
    ],
)
def test_hostile_files_are_clear_errors(text: str, expected: str) -> None:
    assert expected in problem_of(text)


def test_a_binary_file_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ScenarioError, match="is not text in UTF-8"):
        load_scenario(str(path))


def test_an_unknown_scenario_names_those_there_are() -> None:
    with pytest.raises(ScenarioError, match=r"there is no scenario 'kv-or-prefil'.*did you mean kv-or-prefill\?"):
        load_scenario("kv-or-prefil")
    with pytest.raises(ScenarioError, match=r"absent\.yaml: cannot be read: No such file"):
        load_scenario("absent.yaml")


def test_changes_go_by_fields_places_and_names() -> None:
    scenario = parse_scenario(
        FLEET,
        "mine.yaml",
        [
            "pools.0.replicas=128",
            "pools.main.accelerator=h100-sxm",
            "classes.chat.objective.tpotSeconds=0.1",
            "flips.recall_seconds=600",
            "peakShare=0.9",
            "settings.some_thing=3",
        ],
    )
    assert scenario.pools[0].replicas == 128
    assert scenario.pools[0].accelerator == "h100-sxm"
    assert scenario.classes[0].objective is not None
    assert scenario.classes[0].objective.tpot_seconds == 0.1
    assert scenario.flips.recall_seconds == 600
    assert scenario.peak_share == 0.9
    assert scenario.settings == {"some_thing": 3.0}


def test_what_a_change_breaks_names_the_change() -> None:
    assert problem_of(FLEET, "peakShare=1.2").startswith("mine.yaml with --set peakShare=1.2: peakShare is 1.2")
    assert "there is no side in pools.side.replicas; there are: main" in problem_of(FLEET, "pools.side.replicas=2")
    assert "expected FIELD=VALUE" in problem_of(FLEET, "replicas")
    assert "it has no fields" in problem_of(FLEET, "name.first=x")
    assert "typo is not a field" in problem_of(FLEET, "typo=1")
