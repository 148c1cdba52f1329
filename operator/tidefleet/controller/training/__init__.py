"""Who trains on loaned nodes: what is told to a queue, which jobs are there, and how they are asked to leave.

The phases of nodes are decided elsewhere. A trainer is given the nodes on loan and says, each pass anew, what ought to
be written so that jobs are on verified nodes only and leave them in time. It keeps nothing that it may not lose.
"""

from collections.abc import Mapping, Sequence

from tidefleet.api.flipping import QueueKind
from tidefleet.cluster.objects import Objects
from tidefleet.controller.training.kueue import KueueTrainer
from tidefleet.controller.training.lending import (
    Fault,
    FaultReason,
    Lending,
    LoanedNode,
    LoanType,
    Stop,
    Trainer,
    TrainingJob,
    TrainingSeen,
)
from tidefleet.controller.training.suspend import SuspendTrainer

__all__ = [
    "Fault",
    "FaultReason",
    "Lending",
    "LoanType",
    "LoanedNode",
    "Stop",
    "Trainer",
    "TrainingJob",
    "TrainingSeen",
    "trainers",
]


def trainers(objects: Objects, namespaces: Sequence[str] | None = None) -> Mapping[QueueKind, Trainer]:
    """A trainer for each kind of queue; all pools may share them.

    Args:
        objects: reads.
        namespaces: those that may be read; ``None`` for all.
    """
    return {
        QueueKind.KUEUE: KueueTrainer(objects, namespaces=namespaces),
        QueueKind.SUSPEND: SuspendTrainer(objects, namespaces=namespaces),
    }
