"""The command line of the emulator, as far as it goes without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tidefleet.cli import emulator as command


def test_the_address_check_says_whether_pods_can_be_played_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PROBED", "127.0.0.1")
    found = CliRunner().invoke(command.app, ["run", "--address-check"])
    assert (found.exit_code, "can be bound" in found.output) == (0, True)
    monkeypatch.setattr(command, "PROBED", "192.0.2.1")
    found = CliRunner().invoke(command.app, ["run", "--address-check"])
    assert found.exit_code == 1
    assert "cannot listen on 192.0.2.1" in found.output
    assert "add" in found.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--clock", "fast"], "expected 'real'"),
        (["--admin", "0.0.0.0:80"], "loopback"),
        (["--admin", "127.0.0.1:99999"], "loopback"),
    ],
)
def test_a_bad_argument_is_named(arguments: list[str], words: str) -> None:
    found = CliRunner().invoke(command.app, ["run", *arguments])
    assert found.exit_code == 2
    assert words in found.output


def test_a_missing_kubeconfig_is_an_error_in_one_line(tmp_path: Path) -> None:
    found = CliRunner().invoke(command.app, ["run", "--kubeconfig", str(tmp_path / "absent")])
    assert found.exit_code == 1
    assert found.output.splitlines()[-1].startswith("error:")
    assert str(tmp_path) in found.output
