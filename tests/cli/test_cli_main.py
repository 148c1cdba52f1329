"""The command as a whole: subcommands come when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tidefleet import __version__
from tidefleet.cli.main import SUBCOMMANDS, app


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_help(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert f"Usage: tidefleet {name}" in " ".join(done.output.split())


def test_a_misspelled_subcommand_is_answered_with_the_one_that_was_meant() -> None:
    done = CliRunner().invoke(app, ["mony"])
    assert done.exit_code == 2
    assert "Did you mean 'money'?" in " ".join(done.output.split())


def test_a_command_imports_nothing_of_the_processes_it_does_not_run() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from tidefleet.cli.main import app\n"
        "done = CliRunner().invoke(app, ['--version'])\n"
        "print(done.output.strip())\n"
        "print(sorted({one.split('.')[1] for one in sys.modules if one.startswith('tidefleet.')}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    version, parts = done.stdout.splitlines()
    assert version == f"tidefleet {__version__}"
    assert parts == "['cli']"
