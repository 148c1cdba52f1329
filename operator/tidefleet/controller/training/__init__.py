"""Who trains on loaned nodes: what is told to a queue, which jobs are there, and how they are asked to leave.

The phases of nodes are decided elsewhere. A trainer is given the nodes on loan and says, each pass anew, what ought to
be written so that jobs are on verified nodes only and leave them in time. It keeps nothing that it may not lose.
"""

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
]
