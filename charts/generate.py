"""Brings the chart's generated files up to date: copies of what is kept elsewhere, and the README's table of values.

`python charts/generate.py` writes them; with `--check` it names those that differ and ends with 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "tidefleet"
_MARK = "<!-- values: generated from values.yaml by charts/generate.py -->"


def generated() -> Mapping[Path, str]:
    """Every generated file of the chart, and what it should hold."""
    copies = {
        CHART / "files" / "acceleratortypes.yaml": ROOT / "operator/tidefleet/catalogue/data/acceleratortypes.yaml",
        CHART / "files" / "sample.yaml": ROOT / "deploy/samples/10-chat.yaml",
        **{CHART / "files" / "crds" / path.name: path for path in (ROOT / "crds").glob("*.yaml")},
        **{CHART / "files" / "admission" / path.name: path for path in (ROOT / "policies/admission").glob("*.yaml")},
        **{CHART / "files" / "rules" / path.name: path for path in (ROOT / "policies/alerts").glob("*.rules.yaml")},
    }
    wanted = {target: source.read_text(encoding="utf-8") for target, source in copies.items()}
    readme = CHART / "README.md"
    head, _, _ = readme.read_text(encoding="utf-8").partition(_MARK)
    wanted[readme] = f"{head}{_MARK}\n\n{values_table((CHART / 'values.yaml').read_text(encoding='utf-8'))}"
    return wanted


def orphans(wanted: Mapping[Path, str]) -> list[Path]:
    """Files among the generated ones whose source is gone."""
    there = [*(CHART / "files").rglob("*.yaml")]
    return sorted(path for path in there if path not in wanted)


def values_table(text: str) -> str:
    """A Markdown table of the values: key, default, and the comment above the key.

    Raises:
        ValueError: A value has no comment.
    """
    rows: list[tuple[str, str, str]] = []
    values = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    described_above: list[int] = []
    for line in text.splitlines():
        if not line.strip():
            comment = []
        elif line.lstrip().startswith("#"):
            comment.append(line.lstrip().removeprefix("#").strip())
        elif match := re.match(r"^( *)([A-Za-z][A-Za-z0-9]*):", line):
            indent = len(match[1])
            path = [*((at, key) for at, key in path if at < indent), (indent, match[2])]
            described_above = [at for at in described_above if at < indent]
            if not described_above:
                value = _at(values, [key for _, key in path])
                if comment:
                    rows.append((".".join(key for _, key in path), json.dumps(value), " ".join(comment)))
                    described_above.append(indent)
                elif not isinstance(value, dict) or not value:
                    raise ValueError(f"values.yaml: {'.'.join(key for _, key in path)} has no comment above it")
            comment = []
    lines = ["| value | default | what it does |", "| --- | --- | --- |"]
    lines += [f"| `{key}` | `{default}` | {what.replace('|', chr(92) + '|')} |" for key, default, what in rows]
    return "\n".join(lines) + "\n"


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


def main() -> int:
    """Write or check; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if a file is out of date")
    check = parser.parse_args().check
    wanted = generated()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    left = orphans(wanted)
    for path in (*stale, *left):
        print(f"{path.relative_to(ROOT)}: {'has no source any more' if path in left else 'out of date'}")
        if not check:
            if path in left:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(wanted[path], encoding="utf-8")
    return 1 if check and (stale or left) else 0


if __name__ == "__main__":
    sys.exit(main())
