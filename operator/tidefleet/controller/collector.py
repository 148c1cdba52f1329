"""Collects what engines report, beside the fleet loop: a thread that scrapes pods or asks a Prometheus.

The loop never waits for it; it takes the newest readings. Each pool's engines are read within one period, many at a
time, each answer bounded in time and size.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from tidefleet.cluster.clock import Clock
from tidefleet.controller.config import Prometheus
from tidefleet.controller.metrics_page import PAGE_LIMIT, EngineCounters, Unusable, read_page
from tidefleet.controller.readings import DRAIN_SECONDS, EngineMemory, PoolEngines, Sample, TokenTally, pool_reading
from tidefleet.planning.demand import Empty, Reading, Stale, is_usable
from tidefleet.telemetry import Telemetry

log = logging.getLogger(__name__)

AT_ONCE = 64
SCRAPE_SECONDS = 5.0
PoolKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """One engine to read: its pod and the address of its metrics page."""

    uid: str
    pod: str
    url: str


@dataclass(slots=True)
class _PoolState:
    memory: EngineMemory = field(default_factory=EngineMemory)
    tally: TokenTally = field(default_factory=TokenTally)
    reading: Reading | None = None
    busy: float | None = None


class Collector(threading.Thread):
    """Reads engines once per period.

    Args:
        targets: what to read now, by pool; called before each round.
        clock: stamps samples; the period runs on it.
        period_seconds: time between two rounds.
        prometheus: asked instead of the engines when it has a url.
        on_round: called after each round.
    """

    def __init__(
        self,
        targets: Callable[[], Mapping[PoolKey, tuple[Target, ...]]],
        *,
        clock: Clock,
        period_seconds: float,
        telemetry: Telemetry,
        prometheus: Prometheus | None = None,
        on_round: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(name="collector", daemon=True)
        self._targets = targets
        self._clock = clock
        self._period = period_seconds
        self._telemetry = telemetry
        self._prometheus = prometheus if prometheus and prometheus.url else None
        self._on_round = on_round
        self._pools: dict[PoolKey, _PoolState] = {}
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self.rounds = 0
        self.last_round_seconds = 0.0

    @property
    def drain_seconds(self) -> float:
        """Within what time waiting requests should be worked off."""
        return max(DRAIN_SECONDS, 2.0 * self._period)

    def reading(self, pool: PoolKey) -> Reading | None:
        """The newest reading of a pool; ``None`` before its first round."""
        with self._lock:
            state = self._pools.get(pool)
            return state.reading if state else None

    def busy_ratio(self, pool: PoolKey) -> float | None:
        """Share of the pool's engines that had a request running in the last round."""
        with self._lock:
            state = self._pools.get(pool)
            return state.busy if state else None

    def take_tokens(self, pool: PoolKey) -> Mapping[str, float]:
        """Tokens by direction since this was last called."""
        with self._lock:
            state = self._pools.get(pool)
            return state.tally.take() if state else {}

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread."""
        self._halt.set()
        self.join(timeout)

    def run(self) -> None:
        """The thread's body."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._collect())

    async def _collect(self) -> None:
        timeout = aiohttp.ClientTimeout(total=SCRAPE_SECONDS)
        connector = aiohttp.TCPConnector(limit=AT_ONCE, force_close=False, ttl_dns_cache=60)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session:
            while not self._halt.is_set():
                began = time.monotonic()
                try:
                    await self._round(session)
                except Exception:
                    log.exception("a round of collecting failed")
                self.rounds += 1
                self.last_round_seconds = time.monotonic() - began
                self._telemetry.observe("reconcile_duration_seconds", self.last_round_seconds, kind="collect")
                if self._on_round is not None:
                    self._on_round()
                wait = self._period / self._clock.scale - (time.monotonic() - began)
                await asyncio.to_thread(self._halt.wait, max(0.0, wait))

    async def _round(self, session: aiohttp.ClientSession) -> None:
        targets = self._targets()
        with self._lock:
            for gone in set(self._pools) - set(targets):
                del self._pools[gone]
        flat = [target for each in targets.values() for target in each]
        if self._prometheus is not None:
            answers = await self._ask_prometheus(session, flat)
        else:
            gate = asyncio.Semaphore(AT_ONCE)
            got = await asyncio.gather(*(self._scrape(session, gate, target) for target in flat))
            answers = dict(zip((target.uid for target in flat), got, strict=True))
        for pool, engines in targets.items():
            self._take_in(pool, {target.uid: answers[target.uid] for target in engines})

    def _take_in(self, pool: PoolKey, answers: Mapping[str, Sample | str]) -> None:
        now = self._clock.now()
        with self._lock:
            state = self._pools.setdefault(pool, _PoolState())
            engines: PoolEngines = state.memory.step(answers)
            state.memory.forget_all_but(answers)
            state.tally.add(engines.fresh)
            state.reading = pool_reading(engines, now=now, last=state.reading, drain_seconds=self.drain_seconds)
            count = len(engines.rates)
            state.busy = sum(one.running > 0 for one in engines.rates) / count if count else None
        source = "prometheus" if self._prometheus else "engines"
        self._telemetry.count("empty_answers_total", float(engines.faulty), source=source)
        if isinstance(state.reading, Empty | Stale):
            log.debug("demand of %s/%s: %s", *pool, state.reading.why)

    async def _scrape(self, session: aiohttp.ClientSession, gate: asyncio.Semaphore, target: Target) -> Sample | str:
        async with gate:
            try:
                async with session.get(target.url, allow_redirects=False) as response:
                    if response.status != 200:
                        return f"{target.pod} answered {response.status}"
                    page = await response.content.read(PAGE_LIMIT)
                    at = self._clock.now()
                return Sample(at, read_page(page.decode("utf-8", "replace")))
            except Unusable as error:
                return f"{target.pod}: {error}"
            except TimeoutError:
                return f"{target.pod} did not answer within {SCRAPE_SECONDS:g} s"
            except (aiohttp.ClientError, OSError, ValueError) as error:
                return f"{target.pod} cannot be reached: {type(error).__name__}"

    async def _ask_prometheus(self, session: aiohttp.ClientSession, targets: list[Target]) -> dict[str, Sample | str]:
        """One query per metric for all pods; a pod without an answer is faulty, never zero.

        Raw samples are asked for, with their own times: an instant query repeats the last value until the next scrape,
        so that rates between two of its answers would be nothing and then twice too much.
        """
        config = self._prometheus
        assert config is not None  # noqa: S101 - the caller checked
        headers = {}
        if config.token_file:
            token = await asyncio.to_thread(Path(config.token_file).read_text)
            headers["Authorization"] = f"Bearer {token.strip()}"
        tls: ssl.SSLContext | bool = ssl.create_default_context(cafile=config.ca_file) if config.ca_file else True
        by_pod: dict[str, dict[str, tuple[float, float]]] = {}
        try:
            for name in _PROMETHEUS_METRICS:
                query = f"{name}[{config.window_seconds}s]"
                url = f"{config.url.rstrip('/')}/api/v1/query"
                async with session.post(url, data={"query": query}, headers=headers, ssl=tls) as response:
                    body = await response.json()
                    if response.status != 200 or body.get("status") != "success":
                        raise ValueError(f"Prometheus answered {response.status}: {str(body.get('error', ''))[:200]}")
                    _read_matrix(body, name, by_pod)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, LookupError, TypeError) as error:
            return dict.fromkeys((target.uid for target in targets), f"Prometheus: {error or type(error).__name__}")
        return {target.uid: _sample(by_pod.get(target.pod), target.pod) for target in targets}


_PROMETHEUS_METRICS: Mapping[str, str] = {
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:request_success_total": "finished",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:prefix_cache_hits_total": "hit_tokens",
    "vllm:prefix_cache_queries_total": "queried_tokens",
    "vllm:request_prompt_tokens_count": "measured_prompts",
    "vllm:request_prompt_tokens_sum": "measured_prompt_tokens",
    "vllm:kv_cache_usage_perc": "kv_usage",
}
_NEEDED = ("prompt_tokens", "generation_tokens", "finished", "running", "waiting")


def _read_matrix(body: Mapping[str, Any], metric: str, by_pod: dict[str, dict[str, tuple[float, float]]]) -> None:
    """Add the newest sample of each series to its pod's sum: name of the counter -> (time, value)."""
    for one in body["data"]["result"]:
        labels = one["metric"]
        pod = by_pod.setdefault(f"{labels.get('namespace', '')}/{labels.get('pod', '')}", {})
        at, value = float(one["values"][-1][0]), float(one["values"][-1][1])
        before = pod.get(_PROMETHEUS_METRICS[metric], (at, 0.0))
        pod[_PROMETHEUS_METRICS[metric]] = (max(at, before[0]), value + before[1])


def _sample(found: Mapping[str, tuple[float, float]] | None, pod: str) -> Sample | str:
    if not found:
        return f"Prometheus has nothing about {pod}"
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        return f"Prometheus has no {missing[0]} of {pod}"
    values = {name: value for name, (_, value) in found.items()}
    bad = [name for name, value in values.items() if not is_usable(value)]
    if bad:
        return f"{bad[0]} of {pod} is {values[bad[0]]}; expected a finite number of at least 0, e.g. 42"
    at = found["prompt_tokens"][0]
    return Sample(at, EngineCounters(**{name: values.get(name, 0.0) for name in EngineCounters.__dataclass_fields__}))
