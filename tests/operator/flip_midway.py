"""A fleet in mid-flip: one node drains and cannot finish, one trains with a job on it, and one warms up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flip_demand import train
from flip_faults import SLOT, Ground
from flip_phases import put, seen
from operator_builders import Place, a_class

from tidefleet.cluster.kinds import JOB, PDB
from tidefleet.flipping.phase import Phase

THEIRS = {"key": "example.com/theirs", "effect": "PreferNoSchedule"}
"""A taint of somebody else, on every node before anything flips."""


@dataclass(frozen=True, slots=True)
class Midway:
    """The fleet, and which of its nodes is where."""

    ground: Ground
    draining: int
    training: int
    warming: int

    @property
    def all(self) -> tuple[int, int, int]:
        """The three."""
        return self.draining, self.training, self.warming

    def is_home(self, index: int) -> bool:
        """Whether a node serves and wears what it wore before, but for the record of its flips."""
        node = self.ground.node(index)
        meta = node["metadata"]
        clean = node["spec"].get("taints") == [THEIRS] and not self.ground.journal(index).get("before")
        clean &= meta["labels"].get("tidefleet.io/duty") in (None, "serving")
        clean &= meta["labels"].get("nvidia.com/gpu-driver-upgrade.skip") == "false"
        return (
            clean and self.ground.phase(index) == "Serving" and "karpenter.sh/do-not-disrupt" not in meta["annotations"]
        )

    def suspended(self) -> bool:
        """Whether the job waits, none of its pods left."""
        job = self.ground.place.get(JOB, "night")
        return job is not None and job["spec"]["suspend"] is True and not self.ground.job_pods("night")

    def routable(self) -> list[bool]:
        """Whether each replica takes requests."""
        pods = [one for index in range(len(self.ground.names)) for one in self.ground.pods(index)]
        return [one["metadata"]["labels"].get("tidefleet.io/routable") == "true" for one in pods]


def midway(ground: Ground, place: Place, *, settings: Mapping[str, Any] | None = None, **pool: Any) -> Midway:
    """Bring a ground of seven nodes there; the two replicas are required at every write."""
    budget = {"maxUnavailable": 0, "selector": {"matchLabels": {"tidefleet.io/pool": "chat"}}}
    place.api.create(
        place.path(PDB),
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "never"}, "spec": budget},
    )
    for index in range(len(ground.names)):
        ground.mark(index, labels={"nvidia.com/gpu-driver-upgrade.skip": "false"}, spec={"taints": [THEIRS]})
    place.create(
        ground.a_pool(replicas=2, flipping=ground.flipping(drain={"timeoutSeconds": 3000}), **pool), a_class(rate=1)
    )
    ground.start(**(settings or {}))
    ground.serve(2)
    draining, _ = ground.serving_on()
    training, warming = [index for index in range(len(ground.names)) if index not in ground.serving_on()][-2:]
    ground.ask(training, "training")
    ground.reaches("Training", training, step=5.0)
    train(ground, "night")
    ground.until(lambda: ground.job_pods("night"), "a job trains", step=5.0)
    ground.step(SLOT)  # after a step of so many nodes, the next one waits
    ground.ask(draining, "training")
    ground.until(lambda: ground.phase(draining) == "Draining" or _refused(ground, draining), "it drains", step=2.0)
    put(ground, warming, Phase.WARMING)  # type: ignore[arg-type]
    seen(ground.op, ground, [warming])  # type: ignore[arg-type]
    return Midway(ground, draining, training, warming)


def _refused(ground: Ground, index: int) -> bool:
    """Whether a loan was refused, which ends the test with the reason."""
    if why := ground.events("FlipRefused", index):
        raise RuntimeError(why[0])
    return False
