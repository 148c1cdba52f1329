"""Helm, and what the chart renders."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster import binaries
from localcluster.loader import LOADER

CHART = Path(__file__).resolve().parents[2] / "charts" / "tidefleet"

Helm = Callable[..., subprocess.CompletedProcess[str]]
Render = Callable[..., list[dict[str, Any]]]


class UniqueKeys(LOADER):
    """Refuses a mapping that has a key twice, as an API server does and PyYAML does not."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """The mapping."""
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is there twice: {keys}"
        return super().construct_mapping(node, deep)


@pytest.fixture(scope="session")
def chart() -> Path:
    """The chart's directory."""
    return CHART


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Runs Helm with its files in a directory of its own."""
    program = binaries.find("helm")
    home = tmp_path_factory.mktemp("helm")
    surroundings = {
        **os.environ,
        "HELM_CACHE_HOME": str(home / "cache"),
        "HELM_CONFIG_HOME": str(home / "config"),
        "HELM_DATA_HOME": str(home / "data"),
    }

    def run(*arguments: str | Path, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [program, *arguments], env=surroundings, input=stdin, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"helm {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
        return done

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Renders the chart as release `tidefleet` in `tidefleet-system`; the objects, hooks included."""

    def run(
        values: Mapping[str, Any] | None = None, *arguments: str, show_only: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        chosen = [part for name in show_only for part in ("--show-only", f"templates/{name}.yaml")]
        done = helm(
            *("template", "tidefleet", CHART, "--namespace", "tidefleet-system", "--values", "-", *chosen, *arguments),
            stdin=yaml.safe_dump(dict(values or {})),
        )
        return [one for one in yaml.load_all(done.stdout, UniqueKeys) if one]

    return run
