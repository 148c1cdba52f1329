"""The demo from start to end: steps, the day, the summary, the pictures."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live

from demo import page, picture, words
from demo.day import DAY_SECONDS, Bin, load_of, rates_from, read_day
from demo.errors import StepFailed, Stopped
from demo.night import window_words as night_words
from demo.nightly import night_day
from demo.record import Record
from demo.screen import WIDTH, Screen, plain_line
from demo.stage import NODES, SAMPLES, Stage, Time
from demo.static_fleet import StaticFleet, static_fleets
from demo.streams import Clients
from demo.summary import DaySummary, render, summarise
from demo.trainer import Trainer
from demo.watch import POOLS, Watcher
from demo.witness import Witness
from localcluster import LocalClusterError

NAMESPACE = "tidefleet-samples"
MONDAY = 1715558400.0
"""2024-05-13 00:00 UTC, the day of the Azure traces."""

PERIOD_SIMULATED_SECONDS = 15.0
PASS_REAL_SECONDS = 0.5
LEAD_REAL_SECONDS = 20.0
"""The evening before: the fleet grows to what midnight asks for, as it would not have to if it had run already."""

RECALL_SECONDS = 720.0
RECALL_REAL_SECONDS = 6.0
"""From a recall until the node serves: four passes of the operator, and the start of engines, both in real time."""

KEPT_DAYS = 60
_REFRESHES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line said."""

    seconds: float = 150.0
    start_hour: float = 0.0
    keep: bool = False
    live: bool = True
    no_kueue: str = ""
    html: Path
    json: Path | None = None
    svg: Path | None = None


@dataclass(slots=True)
class Show:
    """One run of the demo, on a thread of its own."""

    options: Options
    stage: Stage
    console: Console
    record: Record = field(default_factory=Record)
    failure: BaseException | None = None
    timings: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """The thread's body; what went wrong is kept in ``failure``."""
        try:
            self._run()
        except Stopped:
            pass
        except BaseException as error:
            if not self.stage.stopping.is_set():
                self.failure = error

    def _run(self) -> None:
        stage, options, scale = self.stage, self.options, DAY_SECONDS / self.options.seconds
        begun = time.monotonic()
        day = read_day(SAMPLES / "traces" / "day.csv")
        self._step("control plane", stage.start_cluster)
        self._step("nodes", stage.create_nodes)
        period = round(max(PERIOD_SIMULATED_SECONDS, PASS_REAL_SECONDS * scale), 3)
        self._step("training queue", stage.start_queue)
        recall = max(RECALL_SECONDS, RECALL_REAL_SECONDS * scale)
        self._step("helm install", lambda: stage.install_chart(period, recall_seconds=recall))
        self._step("samples", stage.apply_samples)
        self._step("night", lambda: stage.prepare_night(NAMESPACE, scale))
        self.record.witness = witness = Witness(frozenset(stage.lendable))
        start = MONDAY + options.start_hour * 3600.0
        clock = Time(scale, time.time() + LEAD_REAL_SECONDS, start)
        end = start + DAY_SECONDS
        self._step("processes", lambda: stage.start_processes(clock))
        loads = {
            pool: load_of(
                bins, midnight=MONDAY, begin=start - 3 * DAY_SECONDS,
                end=end + (KEPT_DAYS if options.keep else 1) * DAY_SECONDS,
            )
            for pool, bins in day.items()
        }  # fmt: skip
        self._step("demand", lambda: stage.offer(NAMESPACE, loads))
        self._step("operators", stage.wait_for_operators)
        watcher = Watcher(stage, clock, NAMESPACE, self.record, seconds=min(0.5, options.seconds / 120))
        clients = Clients(stage, NAMESPACE, self.record, seconds=min(3.0, options.seconds / 10))
        trainer = Trainer(stage, clock, NAMESPACE, seconds=min(0.3, options.seconds / 300))
        watching = (watcher, clients, trainer)
        for one in watching:
            one.start()
        self.timings["until_the_day"] = round(time.monotonic() - begun, 1)
        try:
            ttft_before = self._follow(clock, day, end, watching)
        finally:
            for one in reversed(watching):
                one.stop()
        static = self._static(day)
        self.timings["total"] = round(time.monotonic() - begun, 1)
        with self.record.lock:
            told = night_day(
                witness, watcher.totals, queue=stage.queue.words, window=night_words(), start=start, end=end
            )
        summary = summarise(
            self.record, start=start, end=end, real_seconds=options.seconds,
            static=static, ttft_before=ttft_before, timings=self.timings, pass_seconds=period, night=told,
        )  # fmt: skip
        self._tell(summary, clock, end, day)
        if options.keep:
            self._keep()

    def _step(self, name: str, do: Callable[[], str]) -> None:
        begun = time.monotonic()
        with self._busy(name):
            try:
                told = do()
            except Stopped:
                raise
            except Exception as error:
                if self.stage.stopping.is_set():
                    raise Stopped from error
                if isinstance(error, LocalClusterError):
                    raise StepFailed(f"step “{name}”: {error}") from error
                raise StepFailed(f"step “{name}”: {type(error).__name__}: {error}") from error
        seconds = time.monotonic() - begun
        self.timings[name] = round(seconds, 2)
        self.console.print(f"[green]✓[/] [bold]{name:<14}[/] [dim]{seconds:4.1f} s[/]  {told}", highlight=False)

    @contextlib.contextmanager
    def _busy(self, name: str) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        with self.console.status(f"[bold]{name}[/]", spinner="dots"):
            yield

    def _follow(
        self, clock: Time, day: dict[str, tuple[Bin, ...]], end: float, watching: Sequence[threading.Thread]
    ) -> dict[str, dict[float, float]]:
        """Show the day until it is over; the histograms as they were when it began."""
        before: dict[str, dict[float, float]] | None = None
        start, options = clock.start, self.options
        with contextlib.ExitStack() as stack:
            live = None
            if options.live and self.console.is_terminal:
                rates = {pool: rates_from(bins, options.start_hour) for pool, bins in day.items()}
                self.console.print()
                screen = Screen(self.record, clock, rates, end)
                live = stack.enter_context(Live(screen, console=self.console, refresh_per_second=_REFRESHES))
            next_line = clock.now()
            while (now := clock.now()) < end:
                self.stage.check()
                if dead := [one.name for one in watching if not one.is_alive()]:
                    raise StepFailed(f"the demo's own thread “{dead[0]}” has ended")
                if before is None and now >= start:
                    before = {pool: dict(buckets) for pool, buckets in self.record.ttft.items()}
                if live is None and now >= next_line:
                    with self.record.lock:
                        self.console.print(plain_line(self.record, clock, end), highlight=False, soft_wrap=True)
                    next_line += 3600.0
                self.stage.wait(min(0.25, max(0.01, (end - now) / clock.scale)))
            self.stage.wait(2.0 * min(0.5, options.seconds / 120))  # the last moment lies behind the end
        return before or {}

    def _static(self, day: dict[str, tuple[Bin, ...]]) -> dict[str, StaticFleet]:
        api = self.stage.cluster.api()
        objects = []
        for kind, path in (
            ("InferencePool", POOLS.format(namespace=NAMESPACE)),
            ("WorkloadClass", POOLS.format(namespace=NAMESPACE).replace("inferencepools", "workloadclasses")),
            ("AcceleratorType", "/apis/tidefleet.io/v1alpha1/acceleratortypes"),
        ):
            items = api.get(path)["items"]
            objects += [{"apiVersion": "tidefleet.io/v1alpha1", "kind": kind, **one} for one in items]
        with self._busy("what a fixed fleet would cost"):
            return static_fleets(objects, day, NODES)

    def _tell(self, summary: DaySummary, clock: Time, end: float, day: dict[str, tuple[Bin, ...]]) -> None:
        console, options = self.console, self.options
        console.print()
        console.rule(f"{words.date(clock.start)}, {summary.hours:.0f} h in {summary.real_seconds:.0f} s", align="left")
        console.print(render(summary))
        console.print()
        with self.record.lock:
            charts = picture.charts(self.record, summary, start=clock.start, end=end)
        _write(options.html, page.render(charts, summary))
        console.print(f"The day as a picture: {options.html}", soft_wrap=True, highlight=False)
        if options.svg is not None:
            _write(options.svg, picture.small(charts, summary))
            console.print(f"The small picture:    {options.svg}", soft_wrap=True, highlight=False)
        if options.json is not None:
            _write(options.json, json.dumps(summary.as_json(), indent=2, default=str) + "\n")

    def _keep(self) -> None:
        stage, console = self.stage, self.console
        config = stage.cluster.kubeconfig
        console.print(f"\n[bold]Everything stays up until Ctrl-C.[/] The day goes on, over and over. Look around:\n\n"
                      f"  export KUBECONFIG={config}\n"
                      f"  kubectl get tpool -A\n"
                      f"  kubectl get events -n {NAMESPACE}\n"
                      f"  .venv/bin/tidefleet explain {NAMESPACE}/chat\n", highlight=False, soft_wrap=True)  # fmt: skip
        for name, url in stage.metrics.items():
            console.print(f"  curl {url}   # {name}", highlight=False, soft_wrap=True)
        console.print(f"  curl {stage.admin}/load   # what the clients see", highlight=False, soft_wrap=True)
        while True:
            stage.check()
            stage.wait(1.0)


def console_for(width: int | None = None) -> Console:
    """A console for the demo's output; as wide as the live view needs where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=width or max(WIDTH, 160))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
