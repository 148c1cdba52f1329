"""The command line: `python -m demo`."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from demo.show import Options, Show, console_for
from demo.stage import ROOT, Stage
from localcluster import LocalClusterError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHORTEST_SECONDS = 24.0
"""The operator's longest period is an hour, and it makes a pass about once in a real second."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    options = _options(argv)
    console = console_for()
    stage = Stage(threading.Event(), lambda line: console.print(f"  [dim]{line}[/]", highlight=False, soft_wrap=True))
    stage.no_kueue = options.no_kueue
    show = Show(options, stage, console)
    thread = threading.Thread(target=show.run, name="show", daemon=True)
    interrupted = False
    try:
        stage.find_programs()
        thread.start()
        while thread.is_alive():
            thread.join(0.2)
    except KeyboardInterrupt:
        interrupted = True
    except LocalClusterError as error:
        show.failure = error
    finally:
        _end(stage, thread)
    if interrupted:
        print("demo: stopped; nothing is left running", file=sys.stderr)
        return 130
    if show.failure is not None:
        kind = "" if isinstance(show.failure, LocalClusterError) else f"{type(show.failure).__name__}: "
        print(f"demo: {kind}{show.failure}", file=sys.stderr)
        return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does, once: nothing interrupts the clearing up, which is bounded in time."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end(stage: Stage, thread: threading.Thread) -> None:
    """Stop the cluster until the show is over: a start that is under way finds it gone and gives up."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    stage.stopping.set()
    stage.cluster.stop()
    while thread.is_alive():
        thread.join(0.2)
        stage.cluster.stop()


def _options(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="A day of a fleet: a local control plane with simulated accelerators, the chart, two operators, "
        "emulated engines and a day of real demand. Ctrl-C ends it at any time and leaves nothing behind.",
    )
    parser.add_argument(
        "--seconds", type=float, default=150.0, metavar="N", help="real seconds of the day (default: %(default)g)"
    )
    parser.add_argument(
        "--start-hour", type=float, default=0.0, metavar="H", help="hour at which the day begins (default: %(default)g)"
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running afterwards (or DEMO_KEEP=1)")
    parser.add_argument("--no-kueue", action="store_true", help="train by suspended Jobs, without the Kueue controller")
    parser.add_argument("--no-live", action="store_true", help="plain lines instead of the live view")
    parser.add_argument(
        "--html", type=Path, default=ROOT / "build" / "demo" / "day.html", metavar="PATH", help="picture of the day"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="the summary's figures")
    parser.add_argument("--svg", type=Path, metavar="PATH", help="a small picture of the day, for the README")
    given = parser.parse_args(argv)
    if not SHORTEST_SECONDS <= given.seconds <= 86400.0:
        parser.error(f"--seconds is {given.seconds:g}; expected {SHORTEST_SECONDS:g} to 86400, e.g. 150")
    if not 0.0 <= given.start_hour < 24.0:
        parser.error(f"--start-hour is {given.start_hour:g}; expected 0 to below 24, e.g. 8")
    return Options(
        seconds=given.seconds,
        start_hour=given.start_hour,
        keep=given.keep or os.environ.get("DEMO_KEEP", "") not in ("", "0"),
        live=not given.no_live,
        no_kueue="--no-kueue was given" if given.no_kueue else "",
        html=given.html,
        json=given.json,
        svg=given.svg,
    )


if __name__ == "__main__":
    sys.exit(main())
