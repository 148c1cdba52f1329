"""The router behind a real Envoy, against that Envoy alone, in one run; Envoy and its picker on this machine's cores.

    python benchmarks/router_envoy.py [--json] [--seconds N] [--profile]

Ten endpoints of an engine that answers at once (one process), Envoy with one thread, the router in a process of its
own (its processor time is read from /proc), and a client process. Bodies are chat completions of 2 kB and 128 kB; half
of a prompt is shared by all and half is one of 64 texts. Envoy alone spreads requests over the same endpoints; with
the router every body and every answer passes through it (full duplex). The two take turns.

share_2k, share_128k        requests/s with the router over those of Envoy alone; closed loop of 16 connections.
picker_cpu_ms_2k, _128k     processor time of the router per request in that loop.
envoy_added_ms_p50, _p95    time of a request with the router less that without, one connection, 2 kB.
picker_cores, picker_cpu_us_per_request
                            at an open loop of 500 requests/s of 2 kB, or as many as were reached (``open_loop``, with
                            the p95 that it added); ``cores_at_99_of_128k``: at 99 requests/s of 128 kB.
client_ceiling_per_second   the client straight at the engines, 2 kB, 16 connections; ``client_ceiling_128k``.
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", f"{_ROOT}/deploy/local", _ROOT, *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import contextlib  # noqa: E402
import cProfile  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import pstats  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.router_fleet import fleet_of  # noqa: E402

from localcluster import envoy  # noqa: E402
from localcluster.ports import free_ports  # noqa: E402
from localcluster.processes import Processes  # noqa: E402
from tidefleet.cluster.labels import POOL_LABEL  # noqa: E402
from tidefleet.router.process import RouterProcess, Settings, spare_the_collector, write_ports  # noqa: E402

MODEL, ENDPOINTS, CONNECTIONS, OPEN_RATE, OPEN_CONNECTIONS = "llama-3.1-8b", 10, 16, 500.0, 64
_HTTP = str(Path(__file__).with_name("router_envoy_http.py"))
SIZES = {"2k": 2_000, "128k": 128_000}
SMALL_RATE = 99.0
PEERS = (
    ("GIE EPP v1.5.0 (Go)", 0.16, 0.04, 0.51, 3.8, "measured on 2 shared cores behind Envoy, c=16, 10 endpoints"),
    (
        "llm-d scheduler v0.7.1 (Go)",
        0.14,
        0.06,
        0.38,
        3.8,
        "measured on 2 shared cores behind Envoy, c=16, 10 endpoints",
    ),
    ("goal", 0.25, 0.12, 0.25, 1.2, "shares at least, milliseconds at most"),
)
Figures = dict[str, Any]


# --- the router ------------------------------------------------------------------------------------------------------


def pods_at(ports: Sequence[int]) -> list[dict[str, Any]]:
    """A pod of pool prod/chat at each port of loopback."""
    engine = {"model": MODEL, "accelerator": "h100-sxm", "tensorParallel": 1, "weights": "Bf16", "kv": "Bf16"}
    labels = {POOL_LABEL: "chat", "tidefleet.io/option": "x", "tidefleet.io/routable": "true"}
    return [
        {
            "metadata": {
                "namespace": "prod",
                "name": f"chat-{index}",
                "uid": f"chat-{index}",
                "labels": labels,
                "annotations": {"tidefleet.io/engine": json.dumps({**engine, "port": port})},
            },
            "spec": {"containers": [{"name": "engine", "image": "engine", "args": ["--model", MODEL]}]},
            "status": {
                "phase": "Running",
                "podIP": "127.0.0.1",
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        for index, port in enumerate(ports)
    ]


def route(ports: Sequence[int], told: Path, profile: Path | None) -> None:
    """Be the router until SIGTERM."""
    settings = Settings(port=free_ports(1)[0], http_port=0, secret=b"s" * 16)
    process = RouterProcess(settings, fleet=fleet_of(pods_at(ports), MODEL), started=write_ports(told))
    spare_the_collector()
    if profile is None:
        process.run()
        return
    with cProfile.Profile() as found:
        process.run()
    found.dump_stats(profile)


# --- the measurement -------------------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """Processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Ground:
    """What runs: ports of the engines, of Envoy alone, of Envoy with the router, and the router's process."""

    engines: tuple[int, ...]
    alone: int
    routed: int
    router: int

    def call(self, ports: Sequence[int], size: str, seconds: float, connections: int, rate: float = 0.0) -> Figures:
        """Have a client process call; ``cpu_ms`` is the router's time per request, ``cores`` that per second."""
        argv = [sys.executable, _HTTP, "client", "--ports", ",".join(map(str, ports))]
        argv += ["--size", str(SIZES[size]), "--seconds", str(seconds)]
        argv += ["--connections", str(connections), "--rate", str(rate)]
        before = cpu_seconds(self.router)
        answer = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=seconds + 60)
        found: Figures = json.loads(answer.stdout)
        used = cpu_seconds(self.router) - before
        if set(found["statuses"]) != {"200"}:
            raise RuntimeError(f"statuses {found['statuses']} of {found['count']} requests, expected 200 only")
        return found | {"cpu_ms": used / found["count"] * 1e3, "cores": used / found["count"] * found["per_second"]}


@contextlib.contextmanager
def a_ground(profile: Path | None) -> Iterator[Ground]:
    """Start engines, router and both Envoys."""
    directory = Path(tempfile.mkdtemp(prefix="tidefleet-router-envoy-"))
    processes = Processes(directory)
    try:
        ports = tuple(free_ports(ENDPOINTS))
        listed = ",".join(map(str, ports))
        told = {role: directory / f"{role}.told" for role in ("engines", "router")}
        pids = {}
        for role, path in told.items():
            argv = [sys.executable, *([_HTTP, role] if role == "engines" else [__file__, "--router"])]
            argv += ["--ports", listed, "--told", str(path)]
            argv += ["--profile-to", str(profile)] if profile is not None and role == "router" else []
            pids[role] = processes.start(role, argv, grace_seconds=20.0)
            until = time.monotonic() + 30.0
            while not path.exists():
                if time.monotonic() > until or processes.exit_codes().get(role) is not None:
                    raise RuntimeError(f"{role} did not start:\n{processes.log_tail(role)}")
                time.sleep(0.05)
        picker = ("127.0.0.1", int(json.loads(told["router"].read_text(encoding="utf-8"))["extProc"]))
        places = [("127.0.0.1", port) for port in ports]
        alone = envoy.start(processes, "full-duplex", picker=None, endpoints=places, name="alone")
        routed = envoy.start(processes, "full-duplex", picker=picker, endpoints=places, name="routed")
        yield Ground(ports, alone.port, routed.port, pids["router"])
        processes.end("router")
    finally:
        processes.close()


def envoy_part(seconds: float, profile: Path | None = None) -> Figures:
    """All figures; each closed loop is measured in two turns of half the seconds."""
    found: Figures = {"load_average_before": os.getloadavg()[0], "cores_here": os.cpu_count()}
    with a_ground(profile) as ground:
        ground.call([ground.routed], "2k", 1.0, CONNECTIONS)
        for key, name in (("client_ceiling_per_second", "2k"), ("client_ceiling_128k", "128k")):
            found[key] = ground.call(ground.engines, name, 1.5, CONNECTIONS)["per_second"]
        for name in SIZES:
            turns = [
                (
                    ground.call([ground.alone], name, seconds / 2, CONNECTIONS),
                    ground.call([ground.routed], name, seconds / 2, CONNECTIONS),
                )
                for _ in range(2)
            ]
            alone, routed = (sum(turn[i]["per_second"] for turn in turns) / len(turns) for i in range(2))
            found[f"alone_per_second_{name}"], found[f"routed_per_second_{name}"] = alone, routed
            found[f"share_{name}"] = routed / alone
            spent = sum(turn[1]["cpu_ms"] * turn[1]["count"] for turn in turns)
            found[f"picker_cpu_ms_{name}"] = spent / sum(turn[1]["count"] for turn in turns)
        one, other = (ground.call([port], "2k", seconds, 1) for port in (ground.alone, ground.routed))
        for name in ("p50", "p95"):
            found[f"envoy_added_ms_{name}"] = other[f"{name}_ms"] - one[f"{name}_ms"]
        one, other = (
            ground.call([port], "2k", seconds, OPEN_CONNECTIONS, OPEN_RATE) for port in (ground.alone, ground.routed)
        )
        found["picker_cores"], found["picker_cpu_us_per_request"] = other["cores"], other["cpu_ms"] * 1e3
        found["open_loop"] = {
            "wanted_per_second": OPEN_RATE,
            "reached_per_second": other["per_second"],
            "added_ms_p50": other["p50_ms"] - one["p50_ms"],
            "added_ms_p95": other["p95_ms"] - one["p95_ms"],
            "late": other["late"],
        }
        large = ground.call([ground.routed], "128k", seconds, OPEN_CONNECTIONS, SMALL_RATE)
        found["cores_at_99_of_128k"] = {
            "cores": large["cores"],
            "reached_per_second": large["per_second"],
            "p95_ms": large["p95_ms"],
        }
    keys = ("share_2k", "share_128k", "picker_cpu_ms_2k", "picker_cpu_ms_128k")
    found["peers"] = [dict(zip(("name", *keys, "source"), peer, strict=True)) for peer in PEERS]
    return found | {"load_average_after": os.getloadavg()[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; the router is a process of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--profile", action="store_true", help="also where the router's time goes (it slows it down)")
    parser.add_argument("--router", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ports", help=argparse.SUPPRESS)
    parser.add_argument("--told", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--profile-to", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.router:
        return route([int(one) for one in asked.ports.split(",")], asked.told, asked.profile_to)
    with tempfile.TemporaryDirectory() as kept:
        profile = Path(kept) / "router.profile" if asked.profile else None
        found = envoy_part(asked.seconds, profile)
        if profile is not None:
            pstats.Stats(str(profile), stream=sys.stderr).sort_stats("tottime").print_stats(45)
    if asked.json:
        print(json.dumps(found, indent=2))
        return None
    for name, value in found.items():
        for one in value if isinstance(value, list) else [value]:
            print(f"{name:28} {one if isinstance(one, dict) else format(one, '.4g')}")
    return None


if __name__ == "__main__":
    main()
