"""Generated files of the chart are up to date."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_generated_files_of_the_chart_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "charts" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nrun: python charts/generate.py"
