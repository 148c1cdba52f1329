"""Demand that follows a training job: rollouts are asked for only as far as the trainer that uses them up runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tidefleet.api import WorkloadClass
from tidefleet.api.demand import TrainerKind
from tidefleet.cluster.records import Pod
from tidefleet.planning.from_api import with_demand

_LABELS: Mapping[TrainerKind, str] = {
    TrainerKind.JOB: "batch.kubernetes.io/job-name",
    TrainerKind.JOB_SET: "jobset.sigs.k8s.io/jobset-name",
    TrainerKind.TRAIN_JOB: "jobset.sigs.k8s.io/jobset-name",  # it is carried out by a JobSet of its name
    TrainerKind.PY_TORCH_JOB: "training.kubeflow.org/job-name",
}
"""By which the pods of a job are known; each controller writes its own."""

_OVER = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Trainer:
    """How far a class's trainer runs.

    Attributes:
        share: running pods of all that it has at full strength, from 0 to 1.
        words: that in words.
    """

    share: float
    words: str


def trainers_of(classes: Iterable[WorkloadClass], pods: Sequence[Pod]) -> dict[str, Trainer]:
    """The trainers of those classes that name one, by class."""
    found = {}
    for one in classes:
        named = one.spec.demand.while_training
        if named is None:
            continue
        label = _LABELS[named.kind]
        own = [
            pod for pod in pods
            if pod.namespace == one.namespace and pod.labels.get(label) == named.name and pod.phase not in _OVER
        ]  # fmt: skip
        running = sum(1 for pod in own if pod.phase == "Running" and not pod.deleting)
        whole = named.pods or len(own)
        share = min(1.0, running / whole) if whole else 0.0
        count = f"{running} of {whole} pods run" if whole else "no pod runs"
        found[one.name] = Trainer(share, f"{one.name} follows {named.kind} {named.name}, of which {count}")
    return found


def follows(wclass: WorkloadClass) -> bool:
    """Whether a class follows a training job."""
    return wclass.spec.demand.while_training is not None


def with_trainer(wclass: WorkloadClass, trainer: Trainer | None) -> WorkloadClass:
    """A class that asks for as much of its volume as its trainer runs; any other as it is."""
    if trainer is None:
        return wclass
    volume = int((wclass.spec.demand.volume_tokens_per_day or 0) * trainer.share)
    return with_demand(wclass, volume_tokens_per_day=volume)
