"""Real clients: streaming chat requests to ready pods, and the engines' own histograms of the time to first token."""

import itertools
import json
import random
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from demo.counters import Totals, read_page
from demo.record import Record, Streams
from demo.stage import Stage
from localcluster.api import ApiError

POOL_LABEL = "tidefleet.io/pool"
ROUTABLE_LABEL = "tidefleet.io/routable"
TTFT = "vllm:time_to_first_token_seconds"
PORT = 8000
_STREAM_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A ready pod."""

    pool: str
    pod: str
    address: str


def ready_endpoints(pods: Sequence[Mapping[str, Any]]) -> list[Endpoint]:
    """The pods that serve: ready, with an address, routable, not on their way out."""
    found = []
    for one in pods:
        status, metadata = one.get("status") or {}, one["metadata"]
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or ())
        labels = metadata.get("labels") or {}
        routed = labels.get(ROUTABLE_LABEL, "true") == "true"
        if ready and routed and status.get("podIP") and "deletionTimestamp" not in metadata:
            pool = labels.get(POOL_LABEL, "")
            found.append(Endpoint(pool, metadata["name"], f"{status['podIP']}:{PORT}"))
    return found


class Clients(threading.Thread):
    """Sends one stream per pool every few seconds, and reads the engines' histograms now and then."""

    def __init__(self, stage: Stage, namespace: str, record: Record, *, seconds: float, every: int = 3) -> None:
        super().__init__(name="clients", daemon=True)
        self._stage, self._namespace, self._record = stage, namespace, record
        self._seconds, self._every = seconds, every
        self._halt = threading.Event()
        self._http = httpx.Client(trust_env=False, timeout=httpx.Timeout(_STREAM_SECONDS, connect=2.0))
        self._histograms = Totals()
        self._choose = random.Random(7)  # noqa: S311  chooses pods, not secrets

    def stop(self) -> None:
        """End the thread, with a last look at the histograms."""
        self._halt.set()
        self.join(2 * _STREAM_SECONDS)
        self._http.close()

    def run(self) -> None:
        """The thread's body."""
        with ThreadPoolExecutor(4, thread_name_prefix="client") as workers:
            for turn in itertools.count():
                if self._halt.wait(self._seconds) or self._stage.stopping.is_set():
                    return
                try:
                    endpoints = self._endpoints()
                    list(workers.map(lambda pool: self._serve(pool, endpoints), list(self._record.pools)))  # noqa: B023
                    if turn % self._every == 0:
                        self._read_histograms(endpoints, workers)
                except (httpx.HTTPError, ApiError, ValueError, RuntimeError):
                    continue  # the cluster is on its way out, or was busy: the next turn tells

    def _endpoints(self) -> list[Endpoint]:
        path = f"/api/v1/namespaces/{self._namespace}/pods?labelSelector={POOL_LABEL}"
        return ready_endpoints(self._stage.cluster.api().get(path)["items"])

    def _serve(self, pool: str, endpoints: Sequence[Endpoint]) -> None:
        """One stream; as a gateway would, one more try on another pod when the first is gone before it answers."""
        mine = [one for one in endpoints if one.pool == pool]
        if not mine:
            return
        first = second = self._choose.choice(mine)
        kept = self._record.streams.setdefault(pool, Streams())
        problem = self._stream(first)
        if problem and len(mine) > 1:
            kept.retried += 1
            second = self._choose.choice([one for one in mine if one is not first])
            problem = self._stream(second)
        if problem:
            kept.failed += 1
            if self._record.witness is not None:
                self._record.witness.blame(second.pod)
            kept.last_error = problem
        else:
            kept.served += 1

    def _stream(self, endpoint: Endpoint) -> str:
        """What went wrong; empty when the stream came to its end with text in it."""
        now = self._record.pools.get(endpoint.pool)
        body = {
            "model": now.model if now else "",
            "messages": [{"role": "user", "content": "When does the tide turn, and who pays for it?"}],
            "max_tokens": 16,
            "stream": True,
        }
        pieces, ended = 0, False
        try:
            with self._http.stream("POST", f"http://{endpoint.address}/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    text = answer.read()[:200].decode(errors="replace")
                    return f"{endpoint.pod} answered {answer.status_code}: {text}"
                for line in answer.iter_lines():
                    if line == "data: [DONE]":
                        ended = True
                    elif line.startswith("data: "):
                        pieces += bool(json.loads(line.removeprefix("data: "))["choices"])
        except (httpx.HTTPError, ValueError, KeyError) as error:
            return f"{endpoint.pod}: {type(error).__name__}: {error}"
        return "" if ended and pieces else f"{endpoint.pod}: the stream ended after {pieces} pieces without [DONE]"

    def _read_histograms(self, endpoints: Sequence[Endpoint], workers: ThreadPoolExecutor) -> None:
        for one, page in zip(endpoints, workers.map(self._page, endpoints), strict=True):
            samples = read_page(page, prefix=f"{TTFT}_bucket")
            self._histograms.add(one.pod, samples, from_start=True, pool=one.pool)
        for pool in {one.pool for one in endpoints}:
            by_bound = self._histograms.by(f"{TTFT}_bucket", "le", pool=pool)
            self._record.ttft[pool] = {float(bound): count for bound, count in by_bound.items()}

    def _page(self, endpoint: Endpoint) -> str:
        try:
            answer = self._http.get(f"http://{endpoint.address}/metrics")
            return answer.text if answer.status_code == 200 else ""
        except httpx.HTTPError:
            return ""
