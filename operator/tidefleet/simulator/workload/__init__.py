"""What arrives in a scenario: sessions drawn from real traces, traces replayed as they are, and training jobs.

Everything is read once (``load``); sessions are then drawn 600 s at a time from the seed, the class and the bin alone,
so that any stretch of a week can be made without the rest of it, and comes out alike however it is asked for.
"""

from tidefleet.simulator.workload.drawn import Workload, load
from tidefleet.simulator.workload.files import TraceError
from tidefleet.simulator.workload.training import Backlog, TrainingJob, backlog

__all__ = ["Backlog", "TraceError", "TrainingJob", "Workload", "backlog", "load"]
