"""Scenarios from files: YAML that is checked field by field, with what ``--set`` changes, and those that ship."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel

from tidefleet import catalogue
from tidefleet.economics.accelerator import BYTES_PER_VALUE
from tidefleet.simulator.scenario import Scenario

SHIPPED = Path(__file__).parent / "scenarios"

MOST_BYTES = 1_000_000
_MOST_DEPTH = 40
_MOST_PROBLEMS = 8
_FREE = "settings"
"""The field whose keys are names of a study's own, not fields of a scenario."""

_EXAMPLES: Mapping[str, object] = {
    "kind": "fleet",
    "name": "my-week",
    "model": "llama-3.3-70b",
    "accelerator": "h200-sxm",
    "replicas": 64,
    "source": "mooncake-conversation",
    "shape": "chat",
    "share": 0.25,
    "ttftSeconds": 0.8,
    "tpotSeconds": 0.05,
    "objective": "{ttftSeconds: 0.8, tpotSeconds: 0.05}",
    "deadlineSeconds": 86400,
    "volumeShare": 0.2,
    "medium": "host",
    "tokens": 2000000,
    "bytesPerSecond": 2.5e10,
    "class": "chat",
    "rateFactor": 2.0,
    "outputFactor": 100.0,
    "siteKilowatts": 400,
    "study": "kv-or-prefill",
    "liveSessions": 16,
    "kvTokens": 900000,
    "usdPerChipHour": 7.9,
    "pools": "[{model: llama-3.3-70b, accelerator: h200-sxm, replicas: 64}]",
    "classes": "[{name: chat, source: mooncake-conversation, share: 1.0}]",
    "settings": "{speed: 2}",
    "nodeHoursBetweenFailures": 1000,
    "engineHoursBetweenFailures": 500,
    "spotStormAtSeconds": 36000,
    "outputCapTokens": 32768,
    "usdPerGpuHour": 2.0,
    "seconds": 86400,
    "beginSeconds": 0,
    "spill": "{usdPerMillionInputTokens: 0.9, usdPerMillionOutputTokens: 3.6}",
    "serves": "main",
    "usdPerMillionInputTokens": 0.9,
    "usdPerMillionOutputTokens": 3.6,
}


class ScenarioError(ValueError):
    """A scenario that cannot be used: which file, line and field, what came, what was expected, an example."""


def shipped() -> Mapping[str, Path]:
    """The scenarios that come with tidefleet, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def load_scenario(name: str, changes: Sequence[str] = ()) -> Scenario:
    """A scenario that ships, by its name, or one from a file.

    Args:
        name: a shipped scenario's name, or the path of a YAML file (it ends in .yaml or .yml, or has a directory).
        changes: ``path=value`` each; a path goes by fields, places and names, e.g. ``pools.main.replicas=128``.

    Raises:
        ScenarioError: there is no such scenario, or it is not valid.
    """
    path = _path_of(name)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ScenarioError(f"{path}: is larger than {MOST_BYTES:,} bytes; expected a small file of YAML")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(
            f"{path}: cannot be read: {error.strerror}; expected a file of YAML or one of {', '.join(shipped())}"
        ) from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: is not text in UTF-8 (byte {error.start}); expected a file of YAML") from None
    return parse_scenario(text, str(path), changes)


def _path_of(name: str) -> Path:
    known = shipped()
    if name in known:
        return known[name]
    if "/" in name or name.endswith((".yaml", ".yml")) or Path(name).is_file():
        return Path(name)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ScenarioError(
        f"there is no scenario {name[:80]!r}; expected one of {', '.join(known)}, or a file, e.g. mine.yaml{hint}"
    )


def parse_scenario(text: str, where: str, changes: Sequence[str] = ()) -> Scenario:
    """A scenario from the text of a file.

    Args:
        where: names the file in errors.

    Raises:
        ScenarioError: it is not valid.
    """
    root, raw = _yaml(text, where)
    if not isinstance(raw, dict):
        raise ScenarioError(f"{where}: holds {_shown(raw)}; expected fields of a scenario, e.g. name: my-week")
    changed = {_change(raw, one): one for one in changes}
    try:
        scenario = Scenario.model_validate(raw)
    except ValidationError as error:
        found = [_problem(one, root, raw, where, changed) for one in error.errors()]
        more = [f"and {len(found) - _MOST_PROBLEMS} more"] if len(found) > _MOST_PROBLEMS else []
        raise ScenarioError("\n".join([*found[:_MOST_PROBLEMS], *more])) from None
    problems = [f"{_place(where, root, loc, changed)}: {words}" for loc, words in _inconsistencies(scenario)]
    if problems:
        raise ScenarioError("\n".join(problems))
    return scenario


def _yaml(text: str, where: str) -> tuple[yaml.Node | None, Any]:
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ScenarioError(
                    f"{where}:{_line(event)}: *{event.anchor} is an alias; expected the values written out"
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_DEPTH:
                raise ScenarioError(f"{where}:{_line(event)}: is nested deeper than {_MOST_DEPTH} levels")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_twice(root, where)
        return root, yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = str(getattr(error, "problem", None) or error).split("\n")[0][:200]
        raise ScenarioError(f"{where}{line}: is not YAML: {problem}; expected e.g. name: my-week") from None
    except (ValueError, OverflowError) as error:
        if isinstance(error, ScenarioError):
            raise
        raise ScenarioError(f"{where}: holds a value that YAML cannot read: {str(error)[:200]}") from None


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


def _refuse_twice(node: yaml.Node | None, where: str) -> None:
    """A key that comes twice would silently lose one of its values."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                raise ScenarioError(f"{where}:{line}: {name} comes a second time (first on line {seen[name]})")
            seen[name] = line
            _refuse_twice(value, where)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_twice(value, where)


# --- changes ---------------------------------------------------------------------------------------------------------


def _change(raw: dict[str, Any], text: str) -> tuple[str | int, ...]:
    """Apply ``path=value`` to the raw fields; the place it changed."""
    dotted, equals, value = text.partition("=")
    steps = [one for one in dotted.strip().split(".") if one]
    if not equals or not steps:
        raise ScenarioError(f"--set {text[:120]}: expected FIELD=VALUE, e.g. --set pools.main.replicas=128")
    try:
        new = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):
        raise ScenarioError(f"--set {text[:120]}: {value[:80]!r} is not a value; expected e.g. 128 or 0.9") from None
    place: list[str | int] = []
    here: Any = raw
    for index, step in enumerate(steps):
        last = index == len(steps) - 1
        key: str | int
        if isinstance(here, list):
            key = _item(here, step, text, dotted)
        elif isinstance(here, dict):
            key = step if _FREE in place else _field(here, step)
        else:
            raise ScenarioError(f"--set {text[:120]}: {'.'.join(map(str, place))} is {_shown(here)}; it has no fields")
        place.append(key)
        if last:
            here[key] = new
        else:
            if isinstance(here, dict) and here.get(str(key)) is None:
                here[key] = {}
            here = here[key]
    return tuple(place)


def _field(here: Mapping[str, Any], step: str) -> str:
    camel = to_camel(step) if "_" in step else step
    return step if step in here else camel


def _item(here: Sequence[Any], step: str, text: str, dotted: str) -> int:
    if step.isdecimal() and len(step) < 9 and int(step) < len(here):
        return int(step)
    names = [one.get("name") or ("main" if "model" in one else None) if isinstance(one, dict) else None for one in here]
    if step in names:
        return names.index(step)
    known = ", ".join(str(name if name is not None else index) for index, name in enumerate(names)) or "none"
    raise ScenarioError(f"--set {text[:120]}: there is no {step[:40]} in {dotted[:80]}; there are: {known}")


# --- what is wrong ---------------------------------------------------------------------------------------------------


def _problem(
    error: Any,
    root: yaml.Node | None,
    raw: Mapping[str, Any],
    where: str,
    changed: Mapping[tuple[str | int, ...], str],
) -> str:
    loc = tuple(error["loc"])
    leaf = next((str(one) for one in reversed(loc) if isinstance(one, str)), "")
    path, came = _words(loc), error.get("input")
    match error["type"]:
        case "extra_forbidden":
            fields = _fields_at(loc[:-1])
            near = difflib.get_close_matches(leaf, fields, n=1, cutoff=0.6)
            words = f"{path} is not a field; expected one of {', '.join(fields)}"
            words += f"; did you mean {near[0]}?" if near else ""
        case "missing":
            words = f"{path} is missing; expected e.g. {leaf}: {_example(leaf)}"
        case _:
            wanted = re.sub(r"^(Input|String|Value) should ", "", error["msg"])
            wanted = wanted if wanted != error["msg"] else f"be right ({error['msg']})"
            words = f"{path} is {_shown(came)}; expected it to {wanted}, e.g. {leaf}: {_example(leaf)}"
    del raw
    return f"{_place(where, root, loc, changed)}: {words}"


def _words(loc: Sequence[str | int]) -> str:
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in loc).lstrip(".") or "it"


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, dict | list) else ("a mapping" if isinstance(value, dict) else "a list")
    return text if len(text) <= 80 else f"{text[:77]}..."


def _example(leaf: str) -> object:
    if leaf in _EXAMPLES:
        return _EXAMPLES[leaf]
    for model in _models(Scenario, []):
        for name, field in model.model_fields.items():
            if (field.alias or name) == leaf and isinstance(field.default, str | int | float):
                return str(field.default).lower() if isinstance(field.default, bool) else field.default
    return 1


def _models(model: type[BaseModel], seen: list[type[BaseModel]]) -> list[type[BaseModel]]:
    """A model and all that its fields hold."""
    if model not in seen:
        seen.append(model)
        for field in model.model_fields.values():
            inner = _model_in(field.annotation)
            if inner is not None:
                _models(inner, seen)
    return seen


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _model_in(one)) is not None), None)


def _fields_at(loc: Sequence[str | int]) -> list[str]:
    """The fields of the part of a scenario at this place."""
    model: type[BaseModel] = Scenario
    for step in loc:
        if isinstance(step, str):
            for name, field in model.model_fields.items():
                if step in (name, field.alias):
                    model = _model_in(field.annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _place(
    where: str, root: yaml.Node | None, loc: Sequence[str | int], changed: Mapping[tuple[str | int, ...], str]
) -> str:
    """``file:line``, or the ``--set`` that put the value there."""
    for place, text in changed.items():
        if tuple(loc[: len(place)]) == place:
            return f"{where} with --set {text[:120]}"
    node, line = root, 1
    for step in loc:
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            names = {str(step), to_camel(str(step))}
            for key, value in node.value:
                if key.value in names:
                    found, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = node.value[step]
            line = found.start_mark.line + 1
        if found is None:
            break
        node = found
    return f"{where}:{line}"


def _inconsistencies(scenario: Scenario) -> list[tuple[tuple[str | int, ...], str]]:
    """What single fields cannot show: names that lead nowhere, and parts that a kind must have."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    pools = [one.name for one in scenario.pools]
    classes = [one.name for one in scenario.classes]
    kinds = set(catalogue.accelerator_types())
    models = catalogue.models()
    if scenario.kind == "study":
        if scenario.study is None:
            found.append((("study",), "study is missing; expected a name where kind is study, e.g. kv-or-prefill"))
    else:
        for field, names, example in (("pools", pools, "pools"), ("classes", classes, "classes")):
            if not names:
                found.append(((field,), f"{field} is empty; expected e.g. {field}: {_EXAMPLES[example]}"))
    for field, names in (("pools", pools), ("classes", classes)):
        for index, name in enumerate(names):
            if name in names[:index]:
                found.append(((field, index, "name"), f"{field}[{index}].name is {name!r} a second time"))
    for index, pool in enumerate(scenario.pools):
        for name, precision in (("weights", pool.weights), ("kv", pool.kv)):
            if precision not in BYTES_PER_VALUE:
                words = f"pools[{index}].{name} is {precision!r}; expected one of {', '.join(BYTES_PER_VALUE)}"
                found.append((("pools", index, name), f"{words}, e.g. {name}: Fp8"))
        for name, value, known in (("model", pool.model, models), ("accelerator", pool.accelerator, kinds)):
            if value not in known:
                near = difflib.get_close_matches(value, list(known), n=3, cutoff=0.4) or sorted(known)[:3]
                found.append(
                    (
                        ("pools", index, name),
                        f"pools[{index}].{name} is {value!r}; expected a name of the catalogue, e.g. {', '.join(near)}",
                    )
                )
    found += _sharing(scenario)
    own = [pool.name for pool in scenario.pools if pool.serves is None]
    for index, one in enumerate(scenario.classes):
        if one.pool not in own:
            found.append(
                (
                    ("classes", index, "pool"),
                    f"classes[{index}].pool is {one.pool!r}; expected one of {', '.join(own) or 'the pools'}",
                )
            )
        if scenario.kind == "fleet" and (one.objective is None) == (one.deadline_seconds is None):
            came = "neither objective nor" if one.objective is None else "both objective and"
            found.append(
                (
                    ("classes", index),
                    f"classes[{index}] ({one.name}) has {came} deadlineSeconds; expected objective where somebody "
                    f"waits, deadlineSeconds where work may wait, e.g. objective: {_EXAMPLES['objective']}",
                )
            )
        if one.spill is not None and one.deadline_seconds is not None:
            words = (
                f"classes[{index}] ({one.name}) has both spill and deadlineSeconds; expected spill where somebody waits"
            )
            found.append((("classes", index, "spill"), f"{words}, e.g. objective: {_EXAMPLES['objective']}"))
    found += [
        (("shapes", name), f"shapes.{name} is of no class; expected one of {', '.join(classes)}")
        for name in scenario.shapes
        if name not in classes
    ]
    for index, surge in enumerate(scenario.surges):
        if surge.wclass not in classes:
            found.append(
                (
                    ("surges", index, "class"),
                    f"surges[{index}].class is {surge.wclass!r}; expected one of {', '.join(classes)}",
                )
            )
        if surge.begin_seconds >= scenario.seconds:
            found.append(
                (
                    ("surges", index, "beginSeconds"),
                    f"surges[{index}].beginSeconds is {surge.begin_seconds:g}; expected before the end at "
                    f"{scenario.seconds:g}",
                )
            )
    return found


def _sharing(scenario: Scenario) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong with pools that serve the demand of another."""
    own = {one.name: one for one in scenario.pools if one.serves is None}
    for index, pool in enumerate(scenario.pools):
        if pool.serves is None:
            continue
        whose, where = own.get(pool.serves), f"pools[{index}]"
        if scenario.kind != "fleet":
            yield (("pools", index, "serves"), f"{where}.serves is {pool.serves!r}; expected none in a {scenario.kind}")
        elif whose is None:
            words = f"{where}.serves is {pool.serves!r}; expected a pool with a demand of its own"
            yield ("pools", index, "serves"), f"{words}, e.g. {', '.join(own) or 'main'}"
        else:
            for name, field in (("model", "model"), ("replicasPerNode", "replicas_per_node"), ("role", "role")):
                came, expected = getattr(pool, field), getattr(whose, field)
                if came != expected:
                    words = f"{where}.{name} is {came!r}; expected that of {whose.name}, whose demand it serves"
                    yield ("pools", index, name), f"{words}, e.g. {name}: {expected}"
