"""How fast, how small and how quiet the operator is: a real process against a local control plane.

    python benchmarks/operator.py --pools 200 --nodes 500 [--json]

Starts a local cluster with simulated nodes, installs the chart (the operator runs with its ServiceAccount), creates
pools that differ in model, classes, lengths and objectives, runs the operator and an engine for every pod, steps the
demand of all pools several times. Between start and steps it leaves everything alone for some loops.

full_pass_seconds     the longest pass after a step, in which rate and token lengths of every pool changed, so that no
                      estimate is remembered; the writes of new replicas and statuses are in it. Median of the steps.
rss_mb                resident memory of the operator's process at the end, imports included (peak_rss_mb: the most).
quiet_writes          writes by the operator that the API server counted in the quiet loops (Lease and Events apart).
reaction_seconds      from a demand step to the new replica count on the API server, over all steps and all pools whose
                      count changed: median (and reaction_p95_seconds, reaction_max_seconds). The new count is the one
                      three loops after the step. Steps come at different moments of the loop.
cluster_start_seconds start of the control plane with its programs built; median.

All of it shares one machine, and the control plane, which carries every pod's life, takes most of its processor time.
What other programs took meanwhile is others_cpu_share: above a few hundredths, seconds say little about the operator.
"""

# This file has the name of a module of the standard library: its folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [_ROOT, f"{_ROOT}/deploy/local", *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterable, Sequence  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402
from statistics import median, quantiles  # noqa: E402

import httpx  # noqa: E402
from benchmarks.measuring import (  # noqa: E402
    Pass,
    ReplicaLog,
    Server,
    changed_fields,
    cpu_seconds,
    machine_cpu_seconds,
    memory_mb,
    passes,
    samples,
    wait_for,
)
from benchmarks.pools import MEASURED, Demand, Pool, eight_chip_kinds, make_pools, node_counts, node_types  # noqa: E402

from localcluster import ControlPlane, LocalClusterError, apply_nodes, binaries, nodes_for  # noqa: E402

ROOT = Path(_ROOT).resolve()
TIDEFLEET = (sys.executable, "-m", "tidefleet")
NAMESPACE = "tidefleet-system"
PARALLEL_REQUESTS = 16

LOOPS_STILL = 3
MOST_LOOPS_TO_SETTLE = 40
"""The quiet loops are counted after so many in a row without a write, and at the latest after so many in all.

The operator takes means over ten minutes: what it measured at the start of a load is gone from them only then.
"""

LIMITS = {"full_pass_seconds": 5.0, "rss_mb": 300.0, "quiet_writes": 0.0, "cluster_start_seconds": 15.0}
"""At 200 pools x 500 nodes; the limit of reaction_seconds follows from the period."""

STEPS = ((1.30, 1.12, 1.0), (1.25, 1.0, 1.10), (1.30, 0.92, 1.06), (1.2, 1.06, 0.94), (1.2, 1.12, 1.0))
"""Factors of rate, input and output tokens, one step after the other: estimates are new each time."""


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


@dataclass(slots=True)
class Figures:
    """What was measured; ``context`` explains it."""

    figures: dict[str, float] = field(default_factory=dict)
    context: dict[str, object] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> str:
        """One object: the figures, then what explains them."""
        ratios = {name: round(self.figures[name] / limit, 3) for name, limit in self.limits.items() if limit}
        return json.dumps({**self.figures, **self.context, "limits": self.limits, "ratios": ratios}, indent=2)

    def as_table(self) -> str:
        """Figure, limit, ratio; then the context."""
        rows = [f"{'figure':<24}{'value':>10}{'limit':>10}{'ratio':>8}"]
        for name, value in self.figures.items():
            limit = self.limits[name]
            ratio = f"{value / limit:.2f}" if limit else ("met" if value <= limit else "MISSED")
            rows.append(f"{name:<24}{value:>10g}{limit:>10g}{ratio:>8}")
        rows += ["", *(f"{name:<34}{value}" for name, value in self.context.items())]
        return "\n".join(rows)


@dataclass(slots=True)
class Bench:
    """One cluster with one operator, and the phases of the measurement."""

    options: argparse.Namespace
    cluster: ControlPlane
    server: Server
    result: Figures
    pools: list[Pool] = field(default_factory=list)
    demand: dict[tuple[str, str], Demand] = field(default_factory=dict)
    pid: int = 0
    metrics_url: str = ""
    emulator: httpx.Client = field(default_factory=httpx.Client)

    @property
    def log(self) -> Path:
        """The operator's log."""
        return self.cluster.processes.log_path("operator")

    def passes(self, start: float = 0.0, end: float = float("inf")) -> list[Pass]:
        """Passes that ended between two times."""
        return [one for one in passes(self.log) if start < one.ended <= end]

    def prepare(self) -> None:
        """Nodes, chart, pools and classes."""
        self.pools = make_pools(self.options.pools, node_types(self.options.nodes))
        growth = math.prod(one[0] * max(one[1], one[2]) for one in self._steps())
        counts = node_counts(self.options.nodes, self.pools, growth)
        began = time.monotonic()
        apply_nodes(self.cluster.kubeconfig, nodes_for(counts, kinds=eight_chip_kinds()))
        say(f"{self.options.nodes} nodes of {len(counts)} types in {time.monotonic() - began:.1f} s")
        chart = [
            binaries.find("helm"), "install", "tidefleet", ROOT / "charts" / "tidefleet", "--namespace", NAMESPACE,
            "--create-namespace", "--set", "replicas=0", "--kubeconfig", self.cluster.kubeconfig,
        ]  # fmt: skip
        done = subprocess.run([str(one) for one in chart], capture_output=True, text=True, check=False)
        if done.returncode:
            raise LocalClusterError(f"helm install failed: {done.stderr[-2000:]}")
        self.demand = {one.key: one.demand for one in self.pools}
        api = self.cluster.api()
        for name in sorted({namespace for namespace, _ in self.demand}):
            api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        began = time.monotonic()
        root = "/apis/tidefleet.io/v1alpha1/namespaces"
        objects = [(f"{root}/{one.key[0]}/inferencepools", one.manifest) for one in self.pools]
        objects += [(f"{root}/{one.key[0]}/workloadclasses", each) for one in self.pools for each in one.classes]
        self._at_once(objects, lambda pair: api.create(*pair))
        say(f"chart, {len(self.pools)} pools with {len(objects) - len(self.pools)} classes; "
            f"created in {time.monotonic() - began:.1f} s")  # fmt: skip
        self.result.context |= {
            "pools": len(self.pools), "nodes": self.options.nodes, "classes": len(objects) - len(self.pools)
        }  # fmt: skip

    def start(self) -> None:
        """The emulator and the operator; returns after the first pass."""
        self.cluster.run("emulator", [*TIDEFLEET, "emulator", "run", "--kubeconfig", self.cluster.kubeconfig])
        access = self.cluster.service_account_kubeconfig(NAMESPACE, "tidefleet")
        began = time.time()
        self.pid = self.cluster.run(
            "operator",
            [*TIDEFLEET, "operator", "run", "--kubeconfig", access, "--period", f"{self.options.period:g}",
             "--metrics-port", "0", "--lease-namespace", NAMESPACE, "--log-format", "json", "--log-level", "debug"],
        )  # fmt: skip
        if not wait_for(self.passes, seconds=120):
            raise LocalClusterError("the operator finished no pass")
        first = self.passes()[0]
        port = re.findall(r'"port": (\d+)', self.log.read_text(encoding="utf-8"))[0]
        self.metrics_url = f"http://127.0.0.1:{port}/metrics"
        admin = re.findall(r"emulator admin (http://\S+)", self.cluster.log("emulator", lines=10_000))[0]
        self.emulator = httpx.Client(base_url=admin, timeout=30.0, trust_env=False)
        say(f"first pass {first.seconds:.2f} s (plan {first.plan_seconds:.2f}, writes {first.act_seconds:.2f})")
        self.result.context |= {
            "first_pass_seconds": round(first.seconds, 3),
            "first_pass_plan_seconds": round(first.plan_seconds, 3),
            "operator_start_to_first_pass_seconds": round(first.ended - began, 2),
        }

    def measure_demand(self) -> None:
        """Offer the declared demand as load and then have it measured, so that plans and history begin with it."""
        self.offer()
        time.sleep(2 * self.options.period)
        api = self.cluster.api()
        root = "/apis/tidefleet.io/v1alpha1/namespaces"
        names = [one["metadata"]["name"] for pool in self.pools for one in pool.classes]
        spaces = [one["metadata"]["namespace"] for pool in self.pools for one in pool.classes]
        patch = {"spec": {"demand": MEASURED}}
        paths = [f"{root}/{space}/workloadclasses/{name}" for space, name in zip(spaces, names, strict=True)]
        self._at_once(paths, lambda path: api.merge(path, patch))

    def settle(self, log: ReplicaLog, *, seconds: float) -> None:
        """Wait until what is asked for runs, or as many as find a place: nothing changes for a few periods."""
        seen: tuple[int, int, int] | None = None
        since = time.monotonic()

        def rests() -> bool:
            nonlocal seen, since
            ready, count, _ = self.server.ready_pods()
            if (ready, count, log.total()) != seen:
                seen, since = (ready, count, log.total()), time.monotonic()
            return bool(ready == count == log.total()) or time.monotonic() - since > max(9.0, 4 * self.options.period)

        if not (wait_for(rests, seconds=seconds, every=1.0) and seen is not None and len(set(seen)) == 1):
            ready, count, _ = self.server.ready_pods()
            say(f"{ready} of {count} pods are ready, {log.total()} are asked for")

    def offer(self, factors: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> float:
        """Give every pool its next load; returns the Unix time at which the last one had it."""
        rate, into, out = factors
        self.demand = {
            key: one.stepped(rate=rate, input_tokens=into, output_tokens=out) for key, one in self.demand.items()
        }
        loads = list(self.demand.items())
        self._at_once(
            loads,
            lambda one: self.emulator.put("/load/{}/{}".format(*one[0]), json=one[1].as_load()).raise_for_status(),
        )
        return time.time()

    def steps(self, log: ReplicaLog) -> None:
        """Step the demand of all pools, each step at another moment of the loop, and see what follows."""
        period = self.options.period
        longest: list[float] = []
        writing: list[float] = []
        cold: list[float] = []
        reactions: list[float] = []
        firsts: list[float] = []
        for number, factors in enumerate(self._steps()):
            last = self.passes()[-1].ended
            phase = (number + 0.5) / self.options.steps
            time.sleep(max(0.0, last + phase * period - time.time()))
            begun = time.time()
            at = self.offer(factors)
            time.sleep(max(0.0, at + 3 * period + 1.0 - time.time()))
            after = self.passes(begun, at + 3 * period + 1.0)
            slowest = max(after, key=lambda one: one.seconds)
            longest.append(slowest.seconds)
            writing.append(slowest.act_seconds)
            cold.append(max(one.plan_seconds for one in after))
            end = time.time()
            changed = [key for key in self.demand if log.reached(key, begun, end) is not None]
            reactions += [seconds for key in changed if (seconds := log.reached(key, at, end)) is not None]
            firsts += [seconds for key in changed if (seconds := log.first_change(key, at, end)) is not None]
            say(
                f"step {number + 1}: {len(changed)} pools changed; longest pass {slowest.seconds:.2f} s "
                f"(plan {slowest.plan_seconds:.2f}, writes {slowest.act_seconds:.2f}); passes "
                + ", ".join(f"{one.seconds:.2f}" for one in after)
            )
        reactions = reactions or [float("nan")]
        self.result.figures["full_pass_seconds"] = round(median(longest), 3)
        self.result.figures["reaction_seconds"] = round(median(reactions), 2)
        self.result.context |= {
            "full_pass_max_seconds": round(max(longest), 3),
            "full_pass_plan_seconds": round(median(cold), 3),
            "full_pass_write_seconds": round(median(writing), 3),
            "reaction_p95_seconds": round(quantiles(reactions, n=20)[-1] if len(reactions) > 1 else reactions[0], 2),
            "reaction_max_seconds": round(max(reactions), 2),
            "reaction_first_change_seconds": round(median(firsts or [float("nan")]), 2),
            "reactions_measured": len(reactions),
        }

    def quiet(self) -> None:
        """Leave everything alone and count what the operator writes all the same."""
        period = self.options.period
        time.sleep(2 * period)
        still, before = 0, self.server.writes()[0]
        for _ in range(MOST_LOOPS_TO_SETTLE):
            time.sleep(period)
            now = self.server.writes()[0]
            still, before = (still + 1 if now == before else 0), now
            if still == LOOPS_STILL:
                break
        writes, events = self.server.writes()
        told, began, used = self._told_writes(), time.time(), cpu_seconds(self.pid)
        statuses = self.server.statuses()
        say(f"quiet for {self.options.quiet_loops} loops")
        time.sleep(self.options.quiet_loops * period + 1.0)
        writes_after, events_after = self.server.writes()
        kinds = {name: count - told.get(name, 0) for name, count in self._told_writes().items()}
        seen = self.passes(began)
        self.result.figures["quiet_writes"] = writes_after - writes
        self.result.context |= {
            "quiet_loops": len(seen),
            "quiet_pass_seconds": round(median(one.seconds for one in seen), 3) if seen else None,
            "quiet_writes_by_kind": {name: count for name, count in kinds.items() if count},
            "quiet_changes": changed_fields(statuses, self.server.statuses()),
            "quiet_events": events_after - events,
            "quiet_cpu_share": round((cpu_seconds(self.pid) - used) / (time.time() - began), 3),
        }

    def sizes(self) -> None:
        """Memory, pods, scraping."""
        page = httpx.get(self.metrics_url, trust_env=False).text
        name = "tidefleet_reconcile_duration_seconds"
        total, rounds = (
            next((value for labels, value in samples(page, f"{name}_{part}") if labels.get("kind") == "collect"), 0.0)
            for part in ("sum", "count")
        )
        ready, count, chips = self.server.ready_pods()
        now, peak = memory_mb(self.pid)
        self.result.figures["rss_mb"] = round(now, 1)
        self.result.context |= {
            "peak_rss_mb": round(peak, 1),
            "scrape_round_seconds": round(total / rounds, 3) if rounds else None,
            "pods": count,
            "pods_ready": ready,
            "chips": chips,
            "metrics_page_kb": round(len(page) / 1e3),
        }

    def _steps(self) -> list[tuple[float, float, float]]:
        return [STEPS[number % len(STEPS)] for number in range(self.options.steps)]

    def _told_writes(self) -> dict[str, int]:
        page = httpx.get(self.metrics_url, trust_env=False).text
        return {f"{one['kind']} {one['outcome']}": round(n) for one, n in samples(page, "tidefleet_api_writes_total")}

    @staticmethod
    def _at_once(items: Sequence[object], work: object) -> None:
        with ThreadPoolExecutor(PARALLEL_REQUESTS) as pool:
            for _ in pool.map(work, items):  # type: ignore[arg-type]
                pass


def measure(options: argparse.Namespace) -> Figures:
    """Every figure, in one run."""
    os.environ.setdefault("GOGC", "400")  # servers of a few minutes' life collect too often, on the operator's cores
    limits = {**LIMITS, "reaction_seconds": 2 * options.period + 2.0}
    result = Figures(
        limits=limits,
        context={
            "period_seconds": options.period,
            "cpus": os.cpu_count(),
        },
    )
    starts = []
    for _ in range(options.starts - 1):
        with ControlPlane(pod_cidr=options.pod_cidr) as cluster:
            starts.append(cluster.start_seconds)
    with ControlPlane(
        pod_cidr=options.pod_cidr, unlimited_requests=True, node_lease_seconds=max(40, options.nodes // 2)
    ) as cluster:
        starts.append(cluster.start_seconds)
        say("cluster started in " + ", ".join(f"{one:.1f} s" for one in starts))
        busy, ours, since = *machine_cpu_seconds(), time.time()
        server = Server(cluster.kubeconfig)
        bench = Bench(options, cluster, server, result)
        try:
            bench.prepare()
            with ReplicaLog(Server(cluster.kubeconfig)) as log:
                bench.start()
                bench.settle(log, seconds=60)
                bench.measure_demand()
                bench.quiet()
                bench.steps(log)
                bench.sizes()
                now_busy, now_ours = machine_cpu_seconds()
                others = (now_busy - busy) - (now_ours - ours)
                share = others / (time.time() - since) / (os.cpu_count() or 1)
                result.context["others_cpu_share"] = round(max(0.0, share), 3)
                if log.failed:
                    say(f"the watch of Deployments broke off: {log.failed}")
            if options.keep_log:
                options.keep_log.write_bytes(bench.log.read_bytes())
        except BaseException:
            for line in cluster.log("operator", lines=10).splitlines() if bench.pid else ():
                print(line[:400], file=sys.stderr)
            raise
        finally:
            server.close()
    result.figures["cluster_start_seconds"] = round(median(starts), 2)
    order = ("full_pass_seconds", "rss_mb", "quiet_writes", "reaction_seconds", "cluster_start_seconds")
    result.figures = {name: result.figures[name] for name in order}
    return result


def arguments(given: Iterable[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pools", type=int, default=200)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--period", type=float, default=15.0, help="seconds between two passes of the fleet loop")
    parser.add_argument("--steps", type=int, default=3, help="demand steps")
    parser.add_argument("--quiet-loops", type=int, default=5, help="loops in which nothing changes")
    parser.add_argument("--starts", type=int, default=3, help="starts of a cluster, of which the last one is used")
    parser.add_argument("--pod-cidr", help="loopback addresses for simulated pods (default: any that are free)")
    parser.add_argument("--keep-log", type=Path, help="where to copy the operator's log")
    return parser.parse_args(None if given is None else list(given))


def main() -> int:
    """Measure and print."""
    options = arguments()
    began = time.monotonic()
    result = measure(options)
    say(f"{time.monotonic() - began:.0f} s in all")
    print(result.as_json() if options.json else result.as_table())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LocalClusterError as error:
        sys.exit(f"benchmark: {error}")
