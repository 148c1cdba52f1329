"""Tests with real vLLM engines on the CPU; `make test-engine` runs them, everything else leaves them out."""

import os

import pytest

ASKED = "TIDEFLEET_TEST_ENGINE"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get(ASKED):
        return
    for item in items:
        if "engine" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=f"real engines take minutes: make test-engine ({ASKED}=1)"))
