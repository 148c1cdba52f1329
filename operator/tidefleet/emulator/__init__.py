"""vLLM-compatible engines for simulated pods: one process listens on every pod's own address.

An `Engine` counts most of its tokens as a fluid and serves some real streams; both share one batch, one KV cache and
the timing of ``tidefleet.economics``. A `Fleet` keeps one engine per pod, splits each pool's load over its pods and
applies faults. `run` is the process; `Running` is the same in a thread, for tests and without Kubernetes.

May import ``tidefleet.cluster``, ``catalogue``, ``telemetry``, ``planning``, ``economics`` and ``api``; never the
controller.
"""

from tidefleet.emulator.engine import Engine
from tidefleet.emulator.faults import Fault, FaultKind
from tidefleet.emulator.fleet import Fleet
from tidefleet.emulator.load import Load
from tidefleet.emulator.pods import EngineFacts, KvEvents, SimulatedPod
from tidefleet.emulator.process import Running, run

__all__ = ["Engine", "EngineFacts", "Fault", "FaultKind", "Fleet", "KvEvents", "Load", "Running", "SimulatedPod", "run"]
