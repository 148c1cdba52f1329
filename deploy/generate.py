"""Writes every generated file but the CRDs (`tidefleet crds generate`), or checks them (``--check``).

The chart's copies and table of values come from `charts/generate.py`, the reference pages from `deploy/reference.py`,
the dashboards from `deploy/dashboards.py`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"generate_{path.parent.name}", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Write, or check; the exit status."""
    wanted: dict[Path, str] = {
        **_load(ROOT / "charts/generate.py").generated(),
        **_load(ROOT / "deploy/reference.py").pages(),
        **_load(ROOT / "deploy/dashboards.py").pages(),
    }
    drifted = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    for path in drifted:
        if "--check" in sys.argv[1:]:
            print(f"{path.relative_to(ROOT)} is out of date; run make generate", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if drifted and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
