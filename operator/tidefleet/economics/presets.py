"""Common uses of a language model as starting points: lengths, reuse, turns and objectives, each figure with a source.

A preset is where somebody begins who has not measured yet. Lengths and reuse were computed from the published traces
that ``sources`` names (means and 95th percentiles over requests; reuse with an unlimited prefix cache, as an upper
bound). Objectives are those of published benchmarks where one states them. What is somebody's choice says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidefleet.economics.shape import Objective, TokenShape

CHOICE = "a choice, not a measurement"

_AZURE_2023 = "Azure/AzurePublicDataset, AzureLLMInferenceTrace 2023"
_MOONCAKE = "kvcache-ai/Mooncake FAST25 conversation trace"
_RAGPULSE = "flashserve/RAGPulse, requests of 4 days"
_SERVEGEN_R1 = "alibaba/ServeGen, deepseek-r1, 37 clients weighted by requests"
_SERVEGEN_BATCH = "alibaba/ServeGen, m-large clients without a daily rhythm, weighted by requests"
_CLAUDE_CODE = "callanjfox/kv-cache-tester, 436 Claude Code sessions of 27,679 requests"
_MLPERF = "MLPerf Inference v5.0 rules, Llama 2 70B interactive: p99 TTFT 450 ms, TPOT 40 ms"
_MLPERF_SERVER = "MLPerf Inference v4.0 rules, Llama 2 70B server: p99 TTFT 2 s, TPOT 200 ms"


@dataclass(frozen=True, slots=True)
class Preset:
    """One common use.

    Attributes:
        name: as it is chosen, e.g. ``chat``.
        what: one sentence for the user.
        input_mean, input_p95: prompt tokens, cached ones included.
        output_mean, output_p95: visible tokens generated.
        reasoning_mean, reasoning_p95, reasoning_cap: tokens generated before the first visible one; a cap of 0: none.
        cached_share: share of prompt tokens found in the prefix cache.
        turns_per_session, calls_per_task: as in WorkloadClass; ``calls_p95`` over tasks, 0 where all are alike.
        think_seconds: mean pause between an answer and the session's next request; 0: nobody waits to type.
        turns_per_day: turns of one user in a day, for costs per user.
        objectives: promises by percentile; empty for work that only has a deadline.
        deadline_seconds: within which deferrable work must be done; 0: not deferrable.
        sources: where each figure comes from, by attribute.
    """

    name: str
    what: str
    input_mean: float
    input_p95: float
    output_mean: float
    output_p95: float
    cached_share: float
    reasoning_mean: float = 0.0
    reasoning_p95: float = 0.0
    reasoning_cap: float = 0.0
    turns_per_session: float = 1.0
    calls_per_task: float = 1.0
    calls_p95: float = 0.0
    think_seconds: float = 0.0
    turns_per_day: float = 0.0
    objectives: tuple[Objective, ...] = ()
    deadline_seconds: float = 0.0
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def shape(self) -> TokenShape:
        """Token lengths for an estimate; reasoning is output."""
        return TokenShape(
            input_mean=self.input_mean,
            output_mean=self.output_mean + self.reasoning_mean,
            input_p95=self.input_p95,
            output_p95=self.output_p95 + self.reasoning_p95,
            cached_share=self.cached_share,
            reasoning_mean=self.reasoning_mean,
            reasoning_p95=self.reasoning_p95,
            calls_per_task=self.calls_per_task,
        )


def _preset(preset: Preset) -> tuple[str, Preset]:
    return preset.name, preset


PRESETS: Mapping[str, Preset] = dict(
    (
        _preset(
            Preset(
                name="chat",
                what="people talking with an assistant",
                input_mean=1246.0, input_p95=4086.0, output_mean=204.0, output_p95=451.0,
                cached_share=0.36, turns_per_session=1.6, think_seconds=60.0, turns_per_day=12.0,
                objectives=(Objective("TTFT", 0.45, 99.0), Objective("TPOT", 0.04, 99.0)),
                sources={
                    "input": f"{_AZURE_2023} conv: 12,337 requests",
                    "output": f"{_AZURE_2023} conv: 12,337 requests",
                    "cached_share": f"{_MOONCAKE}: 35.7 % of prompt tokens in 512-token blocks",
                    "turns_per_session": f"{_MOONCAKE}: 1.62 requests per conversation family",
                    "think_seconds": CHOICE,
                    "turns_per_day": CHOICE,
                    "objectives": _MLPERF,
                },
            )
        ),
        _preset(
            Preset(
                name="code",
                what="completions while somebody types",
                input_mean=2033.0, input_p95=7328.0, output_mean=27.5, output_p95=87.0,
                cached_share=0.0, think_seconds=10.0, turns_per_day=200.0,
                objectives=(Objective("TTFT", 0.45, 99.0), Objective("TPOT", 0.04, 99.0)),
                sources={
                    "input": f"{_AZURE_2023} code: 6,621 requests",
                    "output": f"{_AZURE_2023} code: 6,621 requests",
                    "cached_share": "unknown in that trace, so none is assumed",
                    "think_seconds": CHOICE,
                    "turns_per_day": CHOICE,
                    "objectives": _MLPERF,
                },
            )
        ),
        _preset(
            Preset(
                name="rag",
                what="answers from retrieved passages",
                input_mean=2940.0, input_p95=4391.0, output_mean=275.0, output_p95=658.0,
                cached_share=0.31, turns_per_session=1.8, think_seconds=60.0, turns_per_day=8.0,
                objectives=(Objective("TTFT", 2.0, 99.0), Objective("TPOT", 0.2, 99.0)),
                sources={
                    "input": f"{_RAGPULSE}: 4,393 requests",
                    "output": f"{_RAGPULSE}: 4,393 requests",
                    "cached_share": f"{_RAGPULSE}: 31.4 % of prompt tokens by prefix of chunks",
                    "turns_per_session": f"{_RAGPULSE}: 1.80 requests per session",
                    "think_seconds": CHOICE,
                    "turns_per_day": CHOICE,
                    "objectives": _MLPERF_SERVER,
                },
            )
        ),
        _preset(
            Preset(
                name="agent",
                what="a coding agent that calls tools in a loop",
                input_mean=121_146.0, input_p95=337_924.0, output_mean=439.0, output_p95=1517.0,
                cached_share=0.963, turns_per_session=63.0, calls_per_task=63.5, calls_p95=188.0,
                think_seconds=138.0, turns_per_day=200.0,
                objectives=(Objective("TTFT", 2.0, 95.0), Objective("TPOT", 0.04, 95.0)),
                sources={
                    "input": _CLAUDE_CODE,
                    "output": f"{_CLAUDE_CODE}; reasoning is part of it",
                    "cached_share": f"{_CLAUDE_CODE}: prefix reuse within a session, 64-token blocks",
                    "turns_per_session": f"{_CLAUDE_CODE}: 63.5 requests per session, p95 188",
                    "calls_per_task": f"{_CLAUDE_CODE}: a session counted as one task",
                    "think_seconds": f"{_CLAUDE_CODE}: mean gap of the client, median 10 s",
                    "turns_per_day": CHOICE,
                    "objectives": CHOICE,
                },
            )
        ),
        _preset(
            Preset(
                name="reasoning",
                what="a model that thinks before it answers",
                input_mean=1430.0, input_p95=8419.0, output_mean=467.0, output_p95=1695.0,
                cached_share=0.0, reasoning_mean=1080.0, reasoning_p95=3954.0, reasoning_cap=32_768.0,
                think_seconds=60.0, turns_per_day=8.0,
                objectives=(Objective("TTFT", 2.0, 99.0), Objective("TPOT", 0.08, 99.0)),
                sources={
                    "input": _SERVEGEN_R1,
                    "output": f"{_SERVEGEN_R1}: 1,547 tokens generated (p95 5,649), of which 30.2 % are visible",
                    "reasoning": f"{_SERVEGEN_R1}: mean share of reasoning 69.8 %, applied to mean and p95",
                    "reasoning_cap": "DeepSeek-R1 model card: at most 32,768 tokens generated",
                    "cached_share": "unknown in that trace, so none is assumed",
                    "think_seconds": CHOICE,
                    "turns_per_day": CHOICE,
                    "objectives": "MLPerf Inference v5.1, DeepSeek-R1 server: p99 TTFT 2 s, TPOT 80 ms (recalled)",
                },
            )
        ),
        _preset(
            Preset(
                name="batch",
                what="work that may wait until tomorrow",
                input_mean=909.0, input_p95=2394.0, output_mean=170.0, output_p95=564.0,
                cached_share=0.0, deadline_seconds=86_400.0,
                sources={
                    "input": _SERVEGEN_BATCH,
                    "output": _SERVEGEN_BATCH,
                    "cached_share": "unknown in that trace, so none is assumed",
                    "deadline_seconds": "the 24-hour window of public batch APIs",
                },
            )
        ),
    )
)  # fmt: skip
"""By name: chat, code, rag, agent, reasoning and batch."""


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none; the message lists them.
    """
    try:
        return PRESETS[name]
    except (KeyError, TypeError):
        raise ValueError(f"preset is {str(name)[:40]!r}; expected one of {', '.join(PRESETS)}") from None
