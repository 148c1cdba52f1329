"""A long run of the router behind a real Envoy while its engines die, return and forget.

    python benchmarks/router_soak.py [--minutes 30] [--rate 300] [--workers 1] [--json]

Ten emulated engines (one process) that publish KV events, the router, Envoy with one thread, and a client that posts
at Poisson arrivals whatever happens: sessions of prompts in token ids that grow by a turn each, half of them streamed.
Every few seconds an engine dies (its connections are reset, all it held is lost) and is back some seconds later, or
drops its prefix cache; three at most are down at a time, so somebody is ready at any moment.

wrong_5xx           answers from 500 on; 0 expected
unanswered          requests that got no answer: no connection, or none within 60 s; 0 expected where the machine holds
                    the rate (late tells)
cut                 streams that had begun when their engine died
refused             429, of the router's own choice
p50_ms, p95_ms      from posting to the whole answer; first_p50_ms, first_p95_ms: to its first byte
rss_mib             memory of the router (all its processes) at even distances; rss_slope_mib_per_hour: a line through
                    the second half of its samples
reached_per_second  requests that ended, per second; late: arrivals posted over 50 ms late, as the client had no time,
                    and longest_stall_ms, the worst of them: what stalls the client stalls the others on its machine
blocks, blocks_of_an_engine_at_most
                    known to the router at the end; an engine holds 4,000
hit_ratio           prompt tokens that engines found in their caches; predicted_hit_ratio: as the router expected
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", f"{_ROOT}/deploy/local", _ROOT, *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import asyncio  # noqa: E402
import contextlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import signal  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import aiohttp  # noqa: E402
import numpy as np  # noqa: E402
from benchmarks.router_fleet import PORT, accelerators, fleet_of  # noqa: E402

from localcluster import envoy  # noqa: E402
from localcluster.addresses import PodRange  # noqa: E402
from localcluster.ports import free_ports  # noqa: E402
from localcluster.processes import Processes  # noqa: E402
from tidefleet import catalogue  # noqa: E402
from tidefleet.cluster.clock import ScaledClock  # noqa: E402
from tidefleet.cluster.labels import POOL_LABEL  # noqa: E402
from tidefleet.emulator import Fleet as Engines  # noqa: E402
from tidefleet.emulator import Running, SimulatedPod  # noqa: E402
from tidefleet.planning.from_api import accelerator_of  # noqa: E402
from tidefleet.router.pool_state import Limits  # noqa: E402
from tidefleet.router.process import RouterProcess, Settings, write_ports  # noqa: E402
from tidefleet.router.supervising import Supervisor  # noqa: E402
from tidefleet.telemetry import logs  # noqa: E402

MODEL, ENGINES, EVENTS, REPLAY = "llama-3.1-8b", 10, 5557, 5558
BLOCKS = 4000
"""Of an engine's prefix cache."""
INDEX_BLOCKS = 100_000
"""Of the router's indexes: their memory is allotted at once and taken as they fill, here within minutes, not hours."""
SCALE = 30.0
"""How much faster than real ones the engines are: the router is measured, not they."""
SESSIONS, FIRST_TOKENS, TURN_TOKENS, LONGEST_TOKENS, ANSWER_TOKENS = 400, 160, 24, 640, 6
MOST_DOWN, CHAOS_SECONDS, LEAST_DOWN_SECONDS, MOST_DOWN_SECONDS = 3, 2.0, 2.0, 8.0
LATE_SECONDS, LIMIT_SECONDS, SAMPLE_SECONDS, SHOWN_SAMPLES = 0.05, 60.0, 2.0, 20
Figures = dict[str, Any]


# --- what runs -------------------------------------------------------------------------------------------------------


def pods_at(hosts: Sequence[str]) -> list[dict[str, Any]]:
    """Pods of pool prod/chat as the API server tells them; their engines publish KV events."""
    engine = {"model": MODEL, "accelerator": "h100-sxm", "weights": "Bf16", "kv": "Bf16", "port": PORT}
    engine |= {"kvEvents": {"port": EVENTS, "replayPort": REPLAY}, "numGpuBlocksOverride": BLOCKS}
    told = {"endpoint": f"tcp://*:{EVENTS}", "replay_endpoint": f"tcp://*:{REPLAY}"}
    arguments = ["--model", MODEL, "--kv-events-config", json.dumps(told)]
    labels = {POOL_LABEL: "chat", "tidefleet.io/option": "x", "tidefleet.io/routable": "true"}
    return [
        {
            "metadata": {
                "namespace": "prod",
                "name": f"chat-{index}",
                "uid": f"chat-{index}",
                "labels": labels,
                "annotations": {"tidefleet.io/engine": json.dumps(engine)},
            },
            "spec": {"containers": [{"name": "engine", "image": "engine", "args": arguments}]},
            "status": {"phase": "Running", "podIP": host, "conditions": [{"type": "Ready", "status": "True"}]},
        }
        for index, host in enumerate(hosts)
    ]


def emulate(hosts: Sequence[str], told: Path) -> None:
    """Be the engines until SIGTERM."""
    known = {name: accelerator_of(one) for name, one in accelerators().items()}
    clock = ScaledClock(SCALE, time.time(), time.time())
    with Running(Engines(known, catalogue.models(), clock)) as running:
        pods = [
            SimulatedPod(
                "prod",
                raw["metadata"]["name"],
                raw["metadata"]["uid"],
                raw["status"]["podIP"],
                raw["metadata"]["labels"],
                raw["metadata"]["annotations"],
            )
            for raw in pods_at(hosts)
        ]
        running.set_pods(pods)
        told.with_suffix(".new").write_text(json.dumps({"admin": running.admin}), encoding="utf-8")
        told.with_suffix(".new").replace(told)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


def route(hosts: Sequence[str], told: Path, workers: int) -> None:
    """Be the router until SIGTERM."""
    logs.set_up("text", "warning")
    limits = Limits(index_blocks=INDEX_BLOCKS)
    settings = Settings(port=free_ports(1)[0], http_port=0, secret=b"s" * 16, limits=limits)
    if workers > 1:
        started = write_ports(told)
        Supervisor(settings, workers, fleet=fleet_of(pods_at(hosts), MODEL), started=started, log_level="warning").run()
    else:
        RouterProcess(settings, fleet=fleet_of(pods_at(hosts), MODEL), started=write_ports(told)).run()


@dataclass(frozen=True, slots=True)
class Ground:
    """What runs: Envoy's address, the admin of the engines, the router's HTTP and process."""

    gateway: str
    admin: str
    http: str
    router: int
    hosts: tuple[str, ...]


@contextlib.contextmanager
def a_ground(workers: int) -> Iterator[Ground]:
    """Start engines, router and Envoy; all end with the block."""
    directory = Path(tempfile.mkdtemp(prefix="tidefleet-soak-"))
    with contextlib.ExitStack() as stack:
        network = ".".join(stack.enter_context(PodRange.claim()).cidr.split(".")[:2])
        hosts = tuple(f"{network}.0.{index + 2}" for index in range(ENGINES))
        processes = Processes(directory)
        stack.callback(processes.close)
        found, pids = {}, {}
        for role in ("engines", "router"):
            told = directory / f"{role}.told"
            argv = [sys.executable, __file__, "--role", role, "--hosts", ",".join(hosts), "--told", str(told)]
            pids[role] = processes.start(role, [*argv, "--workers", str(workers)], grace_seconds=20.0)
            until = time.monotonic() + 60.0
            while not told.exists():
                if time.monotonic() > until or processes.exit_codes().get(role) is not None:
                    raise RuntimeError(f"{role} did not start:\n{processes.log_tail(role)}")
                time.sleep(0.05)
            found[role] = json.loads(told.read_text(encoding="utf-8"))
        picker, places = ("127.0.0.1", int(found["router"]["extProc"])), [(host, PORT) for host in hosts]
        gateway = envoy.start(processes, "full-duplex", picker=picker, endpoints=places, threads=workers)
        http = f"http://127.0.0.1:{found['router']['http']}"
        yield Ground(
            f"http://127.0.0.1:{gateway.port}", f"http://{found['engines']['admin']}", http, pids["router"], hosts
        )
        if said := processes.log_tail("router", lines=10):
            print(said, file=sys.stderr)


def rss_mib(pid: int) -> float:
    """Resident memory of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    total = 0
    for one in (str(pid), *children):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{one}/statm").read_text(encoding="ascii").split()[1])
    return total * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- the run ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Session:
    """A conversation in token ids."""

    number: int
    ids: list[int] = field(default_factory=list)
    busy: bool = False
    began: int = 0

    def next_turn(self, chance: random.Random) -> None:
        """Go on, or begin another conversation where it is long."""
        if not self.ids or len(self.ids) > LONGEST_TOKENS:
            self.began += 1
            start = (self.number * 1000 + self.began) * 1000 % 4_000_000_000
            self.ids = list(range(64)) + [start + at for at in range(FIRST_TOKENS)]
        else:
            self.ids += [chance.randrange(1_000_000) for _ in range(chance.randrange(1, 2 * TURN_TOKENS))]


class Soak:
    """One run; what was found is in its attributes."""

    def __init__(self, ground: Ground, rate: float, seconds: float, seed: int = 1) -> None:
        self._ground, self._rate, self._seconds = ground, rate, seconds
        self._chance = random.Random(seed)  # noqa: S311 - arrivals and faults of a benchmark
        self._free = [Session(number) for number in range(SESSIONS)]
        self.statuses: Counter[str] = Counter()
        self.chaos: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.taken: list[float] = []
        self.first: list[float] = []
        self.memory: list[tuple[float, float]] = []
        self.cut = self.late = self.cached = self.prompt = 0
        self._down: dict[int, float] = {}
        self.ended_at = self.longest_stall = 0.0

    async def run(self) -> None:
        """Post, break and watch until the time is over."""
        timeout = aiohttp.ClientTimeout(total=LIMIT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as client:
            self._began = time.monotonic()
            others = [asyncio.create_task(one) for one in (self._break(client), self._watch())]
            posted: set[asyncio.Task[None]] = set()
            due = self._began
            while (now := time.monotonic()) - self._began < self._seconds:
                if now < due:
                    await asyncio.sleep(due - now)
                    continue
                self.late += now - due > LATE_SECONDS
                self.longest_stall = max(self.longest_stall, now - due)
                session = self._free.pop(self._chance.randrange(len(self._free))) if self._free else Session(SESSIONS)
                task = asyncio.create_task(self._post(client, session))
                posted.add(task)
                task.add_done_callback(posted.discard)
                due += self._chance.expovariate(self._rate)
            while posted:
                await asyncio.wait(posted)
            self.ended_at = time.monotonic() - self._began
            for one in others:
                one.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            for index in list(self._down):
                await self._lift(client, index)

    async def _post(self, client: aiohttp.ClientSession, session: Session) -> None:
        session.next_turn(self._chance)
        stream = bool(session.number % 2)
        body = {"model": MODEL, "prompt": session.ids, "max_tokens": ANSWER_TOKENS, "stream": stream}
        began, begun = time.monotonic(), False
        try:
            url, headers = f"{self._ground.gateway}/v1/completions", {"x-session-id": f"soak-{session.number}"}
            async with client.post(url, json=body, headers=headers) as answer:
                begun = answer.status == 200
                piece = await answer.content.readany()
                self.first.append(time.monotonic() - began)
                raw = piece + await answer.content.read()
                self._ended(str(answer.status), raw)
                if answer.status == 200:
                    self.taken.append(time.monotonic() - began)
                    if stream and not raw.rstrip().endswith(b"[DONE]"):
                        self.cut += 1
                    elif not stream:
                        usage = json.loads(raw)["usage"]
                        self.cached += usage["prompt_tokens_details"]["cached_tokens"]
                        self.prompt += usage["prompt_tokens"]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if begun:
                self.cut += 1
            else:
                self._ended(type(error).__name__, b"")
        finally:
            if session.number < SESSIONS:
                self._free.append(session)

    def _ended(self, status: str, raw: bytes) -> None:
        self.statuses[status] += 1
        if not status.isdecimal() or int(status) >= 500:
            at = time.monotonic() - self._began
            self.wrong.append(f"{at:.1f} s: {status} {raw[:160].decode('utf-8', 'replace')}; down: {[*self._down]}")

    async def _break(self, client: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(self._chance.expovariate(1.0 / CHAOS_SECONDS))
            now = time.monotonic()
            for index in [one for one, until in self._down.items() if until <= now]:
                await self._lift(client, index)
            index = self._chance.randrange(ENGINES)
            if index in self._down:
                continue
            if self._chance.random() < 0.5 and len(self._down) < MOST_DOWN:
                url = f"{self._ground.admin}/faults/prod/chat-{index}"
                self._down[index] = now + self._chance.uniform(LEAST_DOWN_SECONDS, MOST_DOWN_SECONDS)
                async with client.put(url, json={"kind": "crash"}) as answer:
                    answer.raise_for_status()
                self.chaos["died"] += 1
            else:
                with contextlib.suppress(aiohttp.ClientError):
                    async with client.post(f"http://{self._ground.hosts[index]}:{PORT}/reset_prefix_cache") as answer:
                        answer.raise_for_status()
                    self.chaos["forgot"] += 1

    async def _lift(self, client: aiohttp.ClientSession, index: int) -> None:
        async with client.delete(f"{self._ground.admin}/faults/prod/chat-{index}") as answer:
            answer.raise_for_status()
        del self._down[index]
        self.chaos["returned"] += 1

    async def _watch(self) -> None:
        told = time.monotonic()
        while True:
            now = time.monotonic()
            self.memory.append((now - self._began, rss_mib(self._ground.router)))
            if now - told > 30.0:
                told = now
                words = f"{sum(self.statuses.values())} requests, {len(self.wrong)} wrong, {self.late} late"
                words += f", {self.memory[-1][1]:.0f} MiB"
                print(f"{now - self._began:.0f} s: {words}", file=sys.stderr, flush=True)
            await asyncio.sleep(SAMPLE_SECONDS)


def figures(soak: Soak, rate: float, workers: int, pool: Figures) -> Figures:
    """What the run showed."""
    times = np.array([at for at, _ in soak.memory])
    sizes = np.array([size for _, size in soak.memory])
    second = times >= times[-1] / 2
    slope = float(np.polyfit(times[second], sizes[second], 1)[0]) * 3600.0 if second.sum() > 2 else 0.0
    shown = np.unique(np.linspace(0, len(sizes) - 1, SHOWN_SAMPLES).astype(int))
    totals = pool["totals"]
    return {
        "minutes": soak.ended_at / 60.0,
        "workers": workers,
        "wanted_per_second": rate,
        "reached_per_second": sum(soak.statuses.values()) / soak.ended_at,
        "late": soak.late,
        "longest_stall_ms": soak.longest_stall * 1e3,
        "requests": sum(soak.statuses.values()),
        "statuses": dict(soak.statuses),
        "wrong_5xx": sum(count for status, count in soak.statuses.items() if status.isdecimal() and int(status) >= 500),
        "unanswered": sum(count for status, count in soak.statuses.items() if not status.isdecimal()),
        "wrong_examples": soak.wrong[:10],
        "cut": soak.cut,
        "refused": soak.statuses["429"],
        "chaos": dict(soak.chaos),
        **{
            name: float(np.percentile(values, q)) * 1e3
            for name, values, q in (
                ("p50_ms", soak.taken, 50),
                ("p95_ms", soak.taken, 95),
                ("first_p50_ms", soak.first, 50),
                ("first_p95_ms", soak.first, 95),
            )
        },
        "rss_mib": [round(float(sizes[at]), 1) for at in shown],
        "rss_slope_mib_per_hour": slope,
        "hit_ratio": soak.cached / max(1, soak.prompt),
        "predicted_hit_ratio": totals["predictedHitRatio"],
        "router_requests": totals["requests"],
        "blocks": pool["blocks"],
        "blocks_of_an_engine_at_most": max(one["blocks"] for one in pool["endpoints"]),
        "load_average": os.getloadavg()[0],
        "cores_here": os.cpu_count(),
    }


async def soaked(ground: Ground, rate: float, seconds: float, workers: int) -> Figures:
    """Run and tell."""
    async with aiohttp.ClientSession() as client:

        async def view() -> Figures:
            async with client.get(f"{ground.http}/debug/pools") as answer:
                found: list[Figures] = await answer.json()
                return found[0] if found else {}

        until = time.monotonic() + 60.0
        while not (known := (await view()).get("endpoints")) or any(one["state"] != "healthy" for one in known):
            if time.monotonic() > until:
                raise RuntimeError("the router does not know its endpoints")
            await asyncio.sleep(0.1)
        soak = Soak(ground, rate, seconds)
        await soak.run()
        return figures(soak, rate, workers, await view())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; engines and router are processes of this file. The exit status is 1 where an answer was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=300.0, help="requests per second")
    parser.add_argument("--workers", type=int, default=1, help="processes of the router")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--role", choices=("engines", "router"), help=argparse.SUPPRESS)
    parser.add_argument("--hosts", help=argparse.SUPPRESS)
    parser.add_argument("--told", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.role == "engines":
        emulate(asked.hosts.split(","), asked.told)
        return 0
    if asked.role == "router":
        route(asked.hosts.split(","), asked.told, asked.workers)
        return 0
    with a_ground(asked.workers) as ground:
        found = asyncio.run(soaked(ground, asked.rate, 60.0 * asked.minutes, asked.workers))
    if asked.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:24} {format(value, '.4g') if isinstance(value, float) else value}")
    return 1 if found["wrong_5xx"] or found["unanswered"] else 0


if __name__ == "__main__":
    sys.exit(main())
