"""Curves and windows that several tests of flipping use."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tidefleet.api.flipping import Budget, Window

DEEPSEEK_NODES = 278
# Hours from midnight: deepseek-ai/open-infra-index, 202502OpenSourceWeek, day 6, figure "H800 Node Count", digitised.
DEEPSEEK_SPANS = (
    (0.0, 1.25, 218), (1.25, 2.0, 188), (2.0, 2.75, 158), (2.75, 3.0, 128), (3.0, 3.5, 98), (3.5, 6.5, 68),
    (6.5, 7.0, 98), (7.0, 7.5, 128), (7.5, 8.0, 188), (8.0, 8.5, 218), (8.5, 24.0, 278),
)  # fmt: skip


def deepseek_day() -> list[float]:
    """Nodes that serve in DeepSeek's published day, by quarters of an hour from noon as it was published."""
    need = np.zeros(96)
    for begin, end, nodes in DEEPSEEK_SPANS:
        need[int(begin * 4) : int(end * 4)] = nodes
    return np.roll(need, 48).tolist()


def traces_week(*, slots_a_day: int) -> NDArray[np.float64]:
    """A smooth week of mixed demand, its peak 1, from the shared traces; skips the test where they are absent."""
    root = Path(os.environ.get("TIDEFLEET_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    path = root / "traces" / "fleet_shape_7d_10min.csv"
    if not path.exists():
        pytest.skip("no fleet_shape_7d_10min.csv; set TIDEFLEET_SHARED to the directory that has traces/")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    mixed = np.array([sum(float(row[name]) for name in ("chat_global", "code", "rag", "reasoning")) for row in rows])
    smooth = np.convolve(np.concatenate([mixed[-6:], mixed, mixed[:6]]), np.ones(13) / 13.0, mode="valid")
    week = smooth.reshape(7 * slots_a_day, -1).max(axis=1)
    return np.asarray(week / week.max())


def a_window(
    start: str = "22:00", end: str = "06:30", days: tuple[str, ...] = (), zone: str = "Europe/Berlin"
) -> Window:
    """A window of a pool's spec."""
    return Window.model_validate({"start": start, "end": end, "days": list(days), "timeZone": zone})


def a_budget(nodes: int | str, *reasons: str, **fields: object) -> Budget:
    """A budget of a pool's spec."""
    return Budget.model_validate({"nodes": nodes, "reasons": list(reasons), **fields})
