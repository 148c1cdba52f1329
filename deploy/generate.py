"""Copies what the chart ships from where it is written, or checks that the copies are the same (``--check``)."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "charts/tidefleet/files"


def copies() -> dict[Path, Path]:
    """Each copy and its original."""
    found = {
        FILES / "acceleratortypes.yaml": ROOT / "operator/tidefleet/catalogue/data/acceleratortypes.yaml",
        FILES / "sample.yaml": ROOT / "deploy/samples/10-chat.yaml",
    }
    for rules in sorted((ROOT / "policies/alerts").glob("*.rules.yaml")):
        found[FILES / "rules" / rules.name] = rules
    return found


def main() -> int:
    """Copy, or check; the exit status."""
    if "--check" not in sys.argv[1:]:
        for copy, original in copies().items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(original, copy)
        return 0
    drifted = [
        copy for copy, original in copies().items() if not copy.is_file() or copy.read_bytes() != original.read_bytes()
    ]
    for copy in drifted:
        print(f"{copy.relative_to(ROOT)} is not {copies()[copy].relative_to(ROOT)}; run make generate", file=sys.stderr)
    return 1 if drifted else 0


if __name__ == "__main__":
    sys.exit(main())
