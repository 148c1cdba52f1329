"""Collects what engines report, beside the fleet loop: a thread that scrapes pods or asks a Prometheus.

The loop never waits for it; it takes the newest readings. Each pool's engines are read within one period, many at a
time, each answer bounded in time and size.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import aiohttp
import uvloop

from tidefleet.cluster.clock import Clock
from tidefleet.controller.calibrating import IntervalTrail, Round
from tidefleet.controller.config import Prometheus, Router
from tidefleet.controller.metrics_page import PAGE_LIMIT, Unusable, read_page
from tidefleet.controller.prometheus import ask, read_all
from tidefleet.controller.readings import (
    DRAIN_SECONDS,
    EngineMemory,
    EngineRates,
    LengthWindow,
    RecentWindow,
    Sample,
    TokenTally,
    Trouble,
    pool_reading,
)
from tidefleet.controller.reuse import PERIOD_SECONDS, ask_routers
from tidefleet.controller.tier_watch import TierSeen
from tidefleet.controller.work import EngineWork, WorkLog
from tidefleet.planning.demand import Cause, Reading, Stale
from tidefleet.planning.reuse_curve import ReuseCurve
from tidefleet.telemetry import Telemetry

log = logging.getLogger(__name__)

AT_ONCE = 64
AT_ONCE_PER_POOL = 16
SCRAPE_SECONDS = 5.0

UNREAD_SECONDS, UNREAD_PERIODS = 240.0, 4.0
"""Seconds, and periods, without a further sample after which nothing is said of an engine's work: a Prometheus scrapes
once a minute as it is usually set up."""

PoolKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """One engine: its pod (``namespace/name``), the address of its metrics page, whether the pod is ready, restarts.

    ``workload`` says which option of the pool it belongs to, ``revision`` by which pod template; one that is
    ``leaving`` takes no further requests.
    """

    uid: str
    pod: str
    url: str
    ready: bool = True
    restarts: int = 0
    workload: str = ""
    revision: str = ""
    leaving: bool = False


@dataclass(slots=True)
class _PoolState:
    memory: EngineMemory = field(default_factory=EngineMemory)
    tally: TokenTally = field(default_factory=TokenTally)
    work: WorkLog = field(default_factory=WorkLog)
    lengths: LengthWindow = field(default_factory=LengthWindow)
    trail: IntervalTrail = field(default_factory=IntervalTrail)
    measured: Round | None = None
    tiers: TierSeen | None = None
    recent: RecentWindow = field(default_factory=RecentWindow)
    reading: Reading | None = None
    busy: float | None = None


class Collector(threading.Thread):
    """Reads engines once per period.

    Args:
        targets: what to read now, by pool; called before each round.
        clock: stamps samples; the period runs on it.
        period_seconds: time between two rounds.
        router: where routers tell how far apart prompts use the same blocks.
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
        router: Router | None = None,
        on_round: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(name="collector", daemon=True)
        self._targets = targets
        self._clock = clock
        self._period = period_seconds
        self._telemetry = telemetry
        self._prometheus = prometheus if prometheus and prometheus.url else None
        self._router = router or Router()
        self._reuse: Mapping[PoolKey, ReuseCurve] = {}
        self._reuse_read = -math.inf
        self._reading: asyncio.Task[None] | None = None
        self._on_round = on_round
        self._pools: dict[PoolKey, _PoolState] = {}
        self._lock = threading.Lock()
        self._halt = threading.Event()
        self.rounds = 0
        self.last_round: float | None = None

    @property
    def drain_seconds(self) -> float:
        """Within what time waiting requests should be worked off."""
        return max(DRAIN_SECONDS, 2.0 * self._period)

    def reading(self, pool: PoolKey) -> Reading | None:
        """The newest reading of a pool; ``None`` before its first round."""
        with self._lock:
            state = self._pools.get(pool)
            return state.reading if state else None

    def measured(self, pool: PoolKey) -> Round | None:
        """What the newest round measured of a pool's engines, for its calibration."""
        with self._lock:
            state = self._pools.get(pool)
            return state.measured if state else None

    def busy_ratio(self, pool: PoolKey) -> float | None:
        """Share of the pool's engines that had a request running, in the last minutes; ``None`` before any was read."""
        with self._lock:
            state = self._pools.get(pool)
            return state.busy if state else None

    def requests(self, uid: str) -> tuple[float, float] | None:
        """When an engine was last read (seconds of the clock), and the requests in it then; ``None``: it was not."""
        with self._lock:
            for state in self._pools.values():
                sample = state.memory.samples.get(uid)
                if sample is not None:
                    return sample.at, sample.counters.running + sample.counters.waiting
        return None

    def take_tokens(self, pool: PoolKey) -> Mapping[str, float]:
        """Tokens by direction since this was last called."""
        with self._lock:
            state = self._pools.get(pool)
            return state.tally.take() if state else {}

    def take_work(self, pool: PoolKey) -> Sequence[EngineWork]:
        """What the pool's engines did since this was last called."""
        with self._lock:
            state = self._pools.get(pool)
            usable = max(UNREAD_SECONDS, UNREAD_PERIODS * self._period)
            return state.work.take(self._clock.now(), usable_seconds=usable) if state else ()

    def reuse(self, pool: PoolKey) -> ReuseCurve | None:
        """How far apart the pool's prompts use the same blocks; ``None`` while no router has told enough."""
        with self._lock:
            return self._reuse.get(pool)

    def tiers_seen(self, pool: PoolKey) -> TierSeen | None:
        """What the pool's engines have looked for and found in KV tiers; ``None`` before any was read twice."""
        with self._lock:
            state = self._pools.get(pool)
            return state.tiers if state else None

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
                except Exception as error:
                    log.exception("a round of collecting failed")
                    self._telemetry.count("reconcile_errors_total", kind="Collect", reason=type(error).__name__)
                self.rounds += 1
                self.last_round = time.monotonic()
                self._telemetry.observe("reconcile_duration_seconds", self.last_round - began, kind="collect")
                if self._on_round is not None:
                    self._on_round()
                wait = self._period / self._clock.scale - (time.monotonic() - began)
                await asyncio.to_thread(self._halt.wait, max(0.0, wait))

    async def _read_reuse(self, session: aiohttp.ClientSession) -> None:
        """The curves as routers tell them now; those before stay while they cannot be read."""
        try:
            found = await ask_routers(session, self._router, self._prometheus)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            log.warning("block reuse cannot be read from routers: %s", error or type(error).__name__)
            self._telemetry.count("empty_answers_total", source="router")
            return
        with self._lock:
            self._reuse = found

    async def _round(self, session: aiohttp.ClientSession) -> None:
        now = time.monotonic()
        told = bool(self._router.metrics_urls or self._prometheus)
        if told and now - self._reuse_read >= PERIOD_SECONDS and (self._reading is None or self._reading.done()):
            self._reuse_read = now
            self._reading = asyncio.create_task(self._read_reuse(session))  # engines are read meanwhile
        targets = self._targets()
        with self._lock:
            for gone in set(self._pools) - set(targets):
                del self._pools[gone]
        wanted = {pool: self._worth_reading(pool, engines) for pool, engines in targets.items()}
        if self._prometheus is not None:
            pods = [target.pod for engines in wanted.values() for target in engines if target.ready]
            answers = await ask(session, self._prometheus, pods) if pods else {}
            for pool, engines in wanted.items():
                try:
                    found = {t.uid: _of(t, answers[t.pod]) if t.ready else _unready(t) for t in engines}
                    self._take_in(pool, engines, found)
                except Exception as error:  # one pool's surprise must not keep the others from being read
                    self._tell_failure(pool, error)
        else:
            gate = asyncio.Semaphore(AT_ONCE)
            pools = list(wanted)
            ended = await asyncio.gather(
                *(self._scrape_pool(session, gate, pool, wanted[pool]) for pool in pools), return_exceptions=True
            )
            for pool, failed in zip(pools, ended, strict=True):
                if isinstance(failed, Exception):
                    self._tell_failure(pool, failed)
                elif failed is not None:  # cancelled: the thread ends
                    raise failed

    def _tell_failure(self, pool: PoolKey, error: Exception) -> None:
        """A round that failed for one pool: its reading says so, and demand known before is held."""
        log.error("collecting failed", extra={"pool": "/".join(pool)}, exc_info=error)
        self._telemetry.count("reconcile_errors_total", kind="Collect", reason=type(error).__name__)
        why = f"reading the engines failed: {type(error).__name__}: {error}"[:300]
        with self._lock:
            state = self._pools.setdefault(pool, _PoolState())
            since = state.reading.at if state.reading is not None else self._clock.now()
            state.reading = Stale(since, "Engines", why, Cause.UNREADABLE)

    def _worth_reading(self, pool: PoolKey, engines: tuple[Target, ...]) -> tuple[Target, ...]:
        """Engines that are ready, and those that are not but were read before: they count as faulty, not as gone."""
        with self._lock:
            state = self._pools.get(pool)
            known = set(state.memory.samples) if state else set()
            return tuple(target for target in engines if target.ready or target.uid in known)

    async def _scrape_pool(
        self, session: aiohttp.ClientSession, gate: asyncio.Semaphore, pool: PoolKey, engines: tuple[Target, ...]
    ) -> None:
        """Read one pool's engines, so many at a time that pools with dead ones do not hold up the others."""
        own = asyncio.Semaphore(AT_ONCE_PER_POOL)
        found = await asyncio.gather(*(self._scrape(session, gate, own, target) for target in engines))
        answers = {target.uid: answer for target, answer in zip(engines, found, strict=True)}
        self._take_in(pool, engines, answers)

    def _take_in(self, pool: PoolKey, targets: Iterable[Target], answers: Mapping[str, Sample | Trouble]) -> None:
        now = self._clock.now()
        with self._lock:
            state = self._pools.setdefault(pool, _PoolState())
            engines = state.memory.step(answers)
            state.memory.forget_all_but(answers)
            state.tally.add(engines.fresh)
            state.lengths.add(now, engines.fresh)
            state.tiers = with_rates(state.tiers, engines.fresh)
            into, out, _ = state.lengths.means()
            context = into + (out or 0.0) / 2.0 if into is not None else None
            names = {t.uid: (t.workload, t.leaving) for t in targets}
            state.work.add(now, engines.worked, names, context=context)
            state.measured = state.trail.step(now, answers, {t.uid: (t.workload, t.revision) for t in targets})
            reading = pool_reading(
                engines, now=now, last=state.reading, lengths=state.lengths, drain_seconds=self.drain_seconds
            )
            state.reading = state.recent.with_median(reading)
            state.busy = state.recent.mean_busy(now, engines.rates)
        source = "prometheus" if self._prometheus else "engines"
        self._telemetry.count("empty_answers_total", float(engines.faulty), source=source)

    async def _scrape(
        self, session: aiohttp.ClientSession, gate: asyncio.Semaphore, own: asyncio.Semaphore, target: Target
    ) -> Sample | Trouble:
        if not target.ready:
            return _unready(target)
        async with own, gate:
            try:
                asked = self._clock.now()
                async with session.get(target.url, allow_redirects=False) as response:
                    if response.status != 200:
                        return Trouble(Cause.UNREACHABLE, f"{target.pod} answered {response.status}")
                    page = await read_all(response.content, PAGE_LIMIT)
                    answered = self._clock.now()
                return sample_of(page, asked=asked, answered=answered, restarts=target.restarts)
            except Unusable as error:
                return Trouble(error.cause, f"{target.pod}: {error}")
            except TimeoutError:
                return Trouble(Cause.UNREACHABLE, f"{target.pod} did not answer within {SCRAPE_SECONDS:g} s")
            except (aiohttp.ClientError, OSError, ValueError) as error:
                return Trouble(Cause.UNREACHABLE, f"{target.pod} cannot be reached: {type(error).__name__}")
            except Exception as error:  # one engine's surprise is its own fault, and no other's
                log.exception("reading an engine failed", extra={"pod": target.pod})
                self._telemetry.count("reconcile_errors_total", kind="Collect", reason=type(error).__name__)
                return Trouble(Cause.UNREADABLE, f"{target.pod} cannot be read: {type(error).__name__}: {error}"[:300])


def with_rates(before: TierSeen | None, rates: Sequence[EngineRates]) -> TierSeen | None:
    """What was seen of KV tiers with what engines did since; ``None`` while none was seen."""
    if not rates:
        return before
    one = before or TierSeen()
    return TierSeen(
        one.prompt_tokens + sum(each.prompt_tokens * each.seconds for each in rates),
        one.queried_tokens + sum(each.tier_queried_tokens * each.seconds for each in rates),
        one.hit_tokens + sum(each.tier_hit_tokens * each.seconds for each in rates),
    )


def sample_of(page: bytes, *, asked: float, answered: float, restarts: int = 0) -> Sample:
    """The sample of a page that was asked for and had come at these times; it was written somewhen between them.

    Raises:
        Unusable: the page must not be learned from.
    """
    counters = read_page(page.decode("utf-8", "replace"))
    return Sample((asked + answered) / 2.0, counters, restarts, max(0.0, answered - asked) / 2.0)


def _of(target: Target, answer: Sample | Trouble) -> Sample | Trouble:
    return answer if isinstance(answer, Trouble) else replace(answer, restarts=target.restarts)


def _unready(target: Target) -> Trouble:
    return Trouble(Cause.UNREADABLE, f"{target.pod} is not ready")
