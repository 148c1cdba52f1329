"""What the documentation says can be followed: links lead somewhere, commands exist, and references are complete."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from tidefleet.api.reasons import REASONS
from tidefleet.cli.main import app
from tidefleet.telemetry import METRICS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    """A page without its code blocks and inline code, in which brackets are not links."""
    return re.sub(r"`[^`\n]*`", "", _FENCE.sub("", text_of(page)))


def anchors_of(page: Path) -> set[str]:
    """The anchors that a page's headings have, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", _FENCE.sub("", text_of(page)), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number, name = 0, anchor
        while name in found:
            number += 1
            name = f"{anchor}-{number}"
        found.add(name)
    return found


@cache
def reference() -> ModuleType:
    """deploy/reference.py, which is no package's module."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "deploy" / "reference.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> str:
    return text_of(ROOT / "docs" / "reference" / name)


def commands_of(source: Path) -> Iterator[list[str]]:
    """Every `tidefleet ...` in a page's code blocks and inline code, as words, up to a pipe or the like."""
    blocks = "\n".join(code for _, code in _FENCE.findall(text_of(source)))
    lines = blocks.replace("\\\n", " ").splitlines()
    lines += re.findall(r"`(tidefleet [^`\n]+)`", _FENCE.sub("", text_of(source)))
    for line in lines:
        found = re.match(r"^\s*(?:\$ )?(?:(?:\.venv/bin/|kubectl )?tidefleet) +([^\n]+)$", line)
        if found and not re.match(r"[\w.]+ \[OPTIONS\]|.*\[OPTIONS\]", found[1]):
            yield shlex.split(re.split(r"\s[|>;&]|…|\.\.\.|  +#", found[1])[0])


@pytest.mark.parametrize("source", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(source: Path) -> None:
    broken = []
    for link in _LINK.findall(prose_of(source)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (source.parent / path).resolve() if path else source
        if not target.exists() or not target.is_relative_to(ROOT):
            broken.append(f"{link}: there is no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors_of(target):
            broken.append(f"{link}: there is no such heading")
    assert not broken


@pytest.mark.parametrize("source", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_a_code_block_is_one_that_the_cli_has(source: Path) -> None:
    known = {words[1:] for words, _ in reference().commands()}
    for words in commands_of(source):
        if words[0].startswith("-"):
            continue
        named = max((n for n in range(len(words) + 1) if tuple(words[:n]) in known), default=0)
        # --help comes before the options, so that none of them can take it as its value and the command run.
        answer = CliRunner().invoke(app, [*words[:named], "--help", *words[named:]])
        assert answer.exit_code == 0, f"tidefleet {shlex.join(words)}: {answer.output}"
        assert "Usage: tidefleet" in re.sub(r"\x1b\[[0-9;]*m", "", answer.output)


def test_commands_are_found_at_all() -> None:
    found = [words for source in PAGES for words in commands_of(source)]
    assert {"explain", "plan", "cost", "validate", "operator"} <= {words[0] for words in found}


def test_every_file_named_in_a_command_of_ours_exists() -> None:
    named = {word for source in PAGES for words in commands_of(source) for word in words if word.startswith("deploy/")}
    assert named
    assert not [word for word in named if not (ROOT / word).exists()]


def test_generated_pages_are_up_to_date() -> None:
    stale = [path.name for path, text in reference().pages().items() if not path.is_file() or text_of(path) != text]
    assert not stale, "run make generate"


def test_every_metric_is_in_its_reference() -> None:
    assert not [name for name in METRICS if f"| `{name}` |" not in page("metrics.md")]


def test_every_condition_and_reason_is_in_its_reference() -> None:
    for kind, reasons in REASONS.items():
        section = page("conditions.md").partition(f"## {kind}\n")[2].partition("\n## ")[0]
        assert not [reason for reason in reasons if f"| `{reason}` |" not in section]


def test_every_setting_is_in_its_reference() -> None:
    rows = page("configuration.md")
    paths = [path for path, _ in reference().fields()]
    assert "leaderElection.leaseSeconds" in paths
    assert not [path for path in paths if f"| `{path}` |" not in rows]


def test_every_command_and_option_is_in_its_reference() -> None:
    rows = page("cli.md")
    for words, command in reference().commands():
        if hasattr(command, "commands"):
            continue
        section = rows.partition(f"## {' '.join(words)}\n")[2].partition("\n## ")[0]
        options = [one for each in command.params if not each.hidden for one in each.opts if one.startswith("--")]
        assert section
        assert not [option for option in options if f"`{option}`" not in section]


def test_every_event_the_code_emits_is_in_its_reference() -> None:
    emitted = reference().emitted()
    assert ("InferencePool", "Normal", "Scaled") in emitted
    assert not [row for row in emitted if f"| {row[0]} | {row[1]} | `{row[2]}` |" not in page("events.md")]


def test_no_words_are_kept_for_an_event_that_is_gone() -> None:
    assert set(reference().EVENTS) == {reason for _, _, reason in reference().emitted()}


def test_every_event_of_a_flip_is_told_and_no_other() -> None:
    from tidefleet.controller.flips import sweep, telling

    source = Path(telling.__file__).read_text(encoding="utf-8")
    words = set(re.findall(r'Phase\.[A-Z]+: "(\w+)"', source))
    words |= {word for word in re.findall(r'"([A-Z][a-z]+(?:[A-Z][a-z]+)+)"', source) if f'reason = "{word}"' in source}
    words |= set(re.findall(r'_emit(?:_pool)?\([^"()]*(?:\([^()]*\))?[^"()]*"([A-Z]\w+)"', source))
    words |= set(re.findall(r'reason="(\w+)"', Path(sweep.__file__).read_text(encoding="utf-8")))
    words |= set(re.findall(r'reason = "(\w+)" if \w+ else "(\w+)"', source)[0])
    assert words == set(reference().FLIP_EVENTS)


def test_every_metric_that_is_read_is_told_to_those_who_run_prometheus() -> None:
    told = text_of(ROOT / "docs" / "how-to" / "demand-from-prometheus.md")
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "operator/tidefleet/controller").glob("*.py")]
    read = {name for source in sources for name in re.findall(r"\b(?:vllm|sglang):\w+", source)}
    assert "vllm:prompt_tokens_total" in read
    assert not [name for name in read if f"`{name}`" not in told]


def test_every_permission_the_chart_grants_is_told() -> None:
    told = text_of(ROOT / "docs" / "architecture.md").partition("## Permissions")[2].partition("\n## ")[0]
    rules = text_of(ROOT / "charts" / "tidefleet" / "templates" / "_rbac.tpl")
    granted = {
        (resource.strip(), frozenset(verb.strip() for verb in verbs.split(",")))
        for resources, verbs in re.findall(r"resources: \[([^\]]+)\]\n +verbs: \[([^\]]+)\]", rules)
        for resource in resources.split(",")
    }
    rows = {
        (resource, frozenset(verb.strip() for verb in verbs.split(",")))
        for resources, verbs in re.findall(r"^\| [^|]+ \| ([^|]+) \| ([^|]+) \|$", told, re.MULTILINE)
        for resource in re.findall(r"`([^`]+)`", resources)
    }
    assert granted
    assert not granted - rows


def test_documents_stand_alone() -> None:
    for source in PAGES:
        assert not re.search(r"/work/|\.\./shared|issue #?\d", text_of(source)), source
