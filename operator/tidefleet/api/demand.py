"""How much a WorkloadClass asks for."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from tidefleet.api.base import Model, Rule
from tidefleet.api.leaves import Integer
from tidefleet.api.scalars import Name, Number


class DemandSource(StrEnum):
    """Where demand is taken from."""

    METRICS = "Metrics"


class TrainerKind(StrEnum):
    """Kinds of training jobs."""

    JOB = "Job"
    JOB_SET = "JobSet"
    TRAIN_JOB = "TrainJob"
    PY_TORCH_JOB = "PyTorchJob"


class TrainerRef(Model):
    """A training job of the class's namespace."""

    kind: TrainerKind = Field(examples=["JobSet"])
    """Job, JobSet, TrainJob or PyTorchJob."""
    name: Name = Field(examples=["grpo"])
    """Its name, e.g. grpo."""
    pods: (
        Annotated[int, Integer(minimum=1, maximum=100_000, expected="a number of pods, at least 1", example=16)] | None
    ) = None
    """Pods at full strength, e.g. 16; without it, those that there are."""


class Demand(Model):
    """How much is asked: measured, declared as a rate, or a volume with a deadline."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.requestsPerSecond), has(self.source), has(self.volumeTokensPerDay)]"
            ".filter(given, given).size() == 1",
            holds=lambda d: (
                sum(each is not None for each in (d.requests_per_second, d.source, d.volume_tokens_per_day)) == 1
            ),
            expected="exactly one of requestsPerSecond, source and volumeTokensPerDay",
            example="source: Metrics",
        ),
        Rule(
            field="deadlineSeconds",
            cel="has(self.volumeTokensPerDay) == has(self.deadlineSeconds)",
            holds=lambda d: (d.volume_tokens_per_day is None) == (d.deadline_seconds is None),
            expected="volumeTokensPerDay and deadlineSeconds together, or neither",
            example="86400",
        ),
        Rule(
            field="whileTraining",
            cel="!has(self.whileTraining) || has(self.volumeTokensPerDay)",
            holds=lambda d: d.while_training is None or d.volume_tokens_per_day is not None,
            expected="volumeTokensPerDay and deadlineSeconds beside whileTraining",
            example="volumeTokensPerDay: 2000000000",
        ),
    )

    requests_per_second: Number | None = Field(default=None, examples=["3.5"])
    """A declared rate of requests per second, e.g. "3.5"; "0" for a class that only other classes call."""
    source: DemandSource | None = None
    """Metrics: demand is observed."""
    volume_tokens_per_day: (
        Annotated[
            int, Integer(minimum=1, maximum=10**15, expected="a positive integer of tokens", example=2_000_000_000)
        ]
        | None
    ) = None
    """Deferrable work: tokens in a day, e.g. 2000000000. Needs `deadlineSeconds`."""
    deadline_seconds: (
        Annotated[int, Integer(minimum=60, maximum=2_592_000, expected="seconds from 60 to 2592000", example=86400)]
        | None
    ) = None
    """Within how many seconds deferrable work must be done, e.g. 86400."""
    while_training: TrainerRef | None = None
    """The training job that uses the tokens up, as in reinforcement learning: the volume is asked for
    at an even rate and only as far as the job's pods run; nothing while it is suspended."""
