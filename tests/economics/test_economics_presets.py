"""Presets: every figure has a source, laws exist, and the traces they come from still say so."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tidefleet.economics.lognormal import law
from tidefleet.economics.presets import CHOICE, PRESETS, preset
from tidefleet.economics.tasks import CallClass, RequestLengths, TokenRates, task_cost

SHARED = Path(os.environ.get("TIDEFLEET_SHARED", Path(__file__).resolve().parents[3] / "shared"))

FIGURES = {
    "input": ("input_mean", "input_p95"),
    "output": ("output_mean", "output_p95"),
    "reasoning": ("reasoning_mean", "reasoning_p95"),
    "reasoning_cap": ("reasoning_cap",),
    "cached_share": ("cached_share",),
    "turns_per_session": ("turns_per_session",),
    "calls_per_task": ("calls_per_task", "calls_p95"),
    "think_seconds": ("think_seconds",),
    "turns_per_day": ("turns_per_day",),
    "objectives": ("objectives",),
    "deadline_seconds": ("deadline_seconds",),
}
NOTHING_SAID = {"turns_per_session": 1.0, "calls_per_task": 1.0, "calls_p95": 0.0}


def test_the_six_common_uses_are_there() -> None:
    assert list(PRESETS) == ["chat", "code", "rag", "agent", "reasoning", "batch"]
    assert all(name == one.name for name, one in PRESETS.items())
    with pytest.raises(ValueError, match="preset is 'chats'; expected one of chat, code"):
        preset("chats")
    with pytest.raises(ValueError, match="expected one of"):
        preset(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PRESETS)
def test_every_figure_of_a_preset_has_a_source(name: str) -> None:
    one = PRESETS[name]
    for topic, attributes in FIGURES.items():
        stated = [a for a in attributes if getattr(one, a) not in (NOTHING_SAID.get(a, 0.0), ())]
        if stated:
            assert len(one.sources.get(topic, "")) > 10, (name, topic)
    assert set(one.sources) <= set(FIGURES)
    assert {one.sources[topic] for topic in ("input", "output")} & {CHOICE} == set()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_can_be_estimated_and_priced(name: str) -> None:
    one = PRESETS[name]
    assert one.shape.uncached + one.shape.cached == pytest.approx(one.input_mean)
    assert one.shape.output_p95 >= one.shape.output_mean
    assert (one.deadline_seconds > 0) != bool(one.objectives)
    lengths = RequestLengths(
        law(one.input_mean, one.input_p95),
        law(one.output_mean, one.output_p95),
        law(one.reasoning_mean, one.reasoning_p95, one.reasoning_cap or float("inf")),
        one.cached_share,
    )
    call = CallClass(
        lengths,
        TokenRates(1e-6, 1e-7, 4e-6),
        one.calls_per_task,
        one.calls_p95,
        turns_per_session=one.turns_per_session,
    )
    cost = task_cost({name: call}, name).usd
    assert 0.0 < cost.p50 <= cost.p95 <= cost.p99


@pytest.mark.parametrize(("name", "file"), [("chat", "azure2023_conv.parquet"), ("code", "azure2023_code.parquet")])
def test_lengths_are_those_of_the_trace_they_name(name: str, file: str) -> None:
    path = SHARED / "traces" / file
    if not path.exists():
        pytest.skip(f"{path} is not here")
    table = pytest.importorskip("pyarrow.parquet").read_table(path)
    for side, mean, p95 in (
        ("input", PRESETS[name].input_mean, PRESETS[name].input_p95),
        ("output", PRESETS[name].output_mean, PRESETS[name].output_p95),
    ):
        tokens = np.array(table[side])
        assert mean == pytest.approx(tokens.mean(), rel=0.01)
        assert p95 == pytest.approx(np.percentile(tokens, 95), rel=0.01)
