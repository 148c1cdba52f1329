"""A router of several workers as a process: `python workers_process.py FILE` with (settings, workers, fleet, told)."""

import pickle
import sys
from pathlib import Path

from tidefleet.router.process import write_ports
from tidefleet.router.supervising import Supervisor
from tidefleet.telemetry import logs

if __name__ == "__main__":
    settings, workers, fleet, told = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 - the test's own
    logs.set_up("text", "info")
    sys.exit(Supervisor(settings, workers, fleet=fleet, started=write_ports(told), hung_seconds=6.0).run())
