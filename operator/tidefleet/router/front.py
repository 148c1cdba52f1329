"""The HTTP of a router of several workers: the pages of `http.RouterHttp`, over all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import aiohttp
from aiohttp import web

from tidefleet.router.http import Handler, Pages, count_of, only_from_here
from tidefleet.router.merging import best_informed, merged_picks, merged_pools, merged_totals
from tidefleet.telemetry import PREFIX, Telemetry
from tidefleet.telemetry.merged import Merged

ANSWER_SECONDS = 2.0
"""A worker that takes longer is left out of a page; of its counts the last known ones stand."""
EXPLAIN_SECONDS = 25.0
_KEPT_BACK = frozenset({"host", "content-length", "transfer-encoding", "connection"})


class Asked(Protocol):
    """A worker as it is asked."""

    @property
    def key(self) -> object:
        """Of this process; another one in its place has another."""
        ...

    @property
    def url(self) -> str:
        """Of its HTTP; empty until it told."""
        ...


class Gathered:
    """What workers told last: samples, pools, and whether they are ready. Counts of those that ended stay."""

    def __init__(self, own: Telemetry) -> None:
        self.metrics = Merged(own)
        self._pools: dict[object, list[dict[str, Any]]] = {}
        self._wrong: dict[object, str] = {}
        self._gone: dict[str, dict[str, Any]] = {}

    def take(self, key: object, state: dict[str, Any]) -> None:
        """A worker's ``/debug/state``."""
        self.metrics.take(key, state["samples"])
        self._pools[key], self._wrong[key] = state["pools"], state["wrong"]
        if not state["wrong"]:
            self._forget_pools()

    def ended(self, key: object) -> None:
        """A worker is over."""
        self.metrics.ended(key)
        for pool in self._pools.pop(key, []):
            before = self._gone.get(pool["pool"])
            self._gone[pool["pool"]] = merged_totals([pool["totals"], *([before] if before else [])])
        self._wrong.pop(key, None)

    def pools(self) -> list[dict[str, Any]]:
        """All pools, merged."""
        return merged_pools(self._pools.values(), self._gone)

    def page(self, accept: str) -> tuple[str, bytes]:
        """Content type and text of the metrics; the balance is that of all workers' requests together."""
        balances: dict[tuple[tuple[str, str], ...], float] = {}
        for one in self.pools():
            namespace, _, name = one["pool"].partition("/")
            balances[("namespace", namespace), ("pool", name)] = one["loadMaxOverMean"]
        self.metrics.say(PREFIX + "router_load_max_over_mean_ratio", balances)
        return self.metrics.render(accept)

    @property
    def ready(self) -> int:
        """Workers that take requests."""
        return sum(not one for one in self._wrong.values())

    @property
    def wrong(self) -> str:
        """Why nobody takes requests; empty when somebody does."""
        if self.ready:
            return ""
        return next(iter(self._wrong.values()), "no worker runs")

    def _forget_pools(self) -> None:
        """Of pools that no worker knows any more, nothing is kept of those that ended."""
        known = {pool["pool"] for view in self._pools.values() for pool in view}
        for key in self._gone.keys() - known:
            del self._gone[key]
        self.metrics.keep({(one.partition("/")[0], one.partition("/")[2]) for one in known})


class Front(Pages):
    """Serves on the running event loop until closed.

    Args:
        workers: those that run.
        wrong: what keeps the whole from being ready; empty when nothing does.
    """

    def __init__(
        self, workers: Callable[[], Sequence[Asked]], gathered: Gathered, *, wrong: Callable[[], str] = lambda: ""
    ) -> None:
        self._workers, self._gathered, self._wrong = workers, gathered, wrong
        self._locks: dict[object, asyncio.Lock] = {}
        self._session: aiohttp.ClientSession | None = None
        super().__init__()

    def routes(self) -> dict[str, Handler]:
        """As `Pages.routes`."""
        return {
            "/metrics": self._metrics,
            "/healthz": self._alive,
            "/readyz": self._is_ready,
            "/debug/pools": self._pools,
            "/debug/picks": self._picks,
            "/explain": self._explain,
        }

    async def start(self, host: str, port: int) -> None:
        """As `Pages.start`."""
        self._session = aiohttp.ClientSession(read_bufsize=2**20)
        await super().start(host, port)

    async def close(self) -> None:
        """As `Pages.close`."""
        await super().close()
        if self._session is not None:
            await self._session.close()

    async def gather(self) -> set[object]:
        """Ask every worker for its state; the keys of those that answered."""
        workers = self._workers()
        self._locks = {one.key: self._locks.get(one.key) or asyncio.Lock() for one in workers}
        answered = await asyncio.gather(*(self._gather(one, self._locks[one.key]) for one in workers))
        return {one.key for one, ok in zip(workers, answered, strict=True) if ok}

    async def _gather(self, worker: Asked, lock: asyncio.Lock) -> bool:
        async with lock:  # answers are taken in the order of the questions
            state = await self._ask(worker, "GET", "/debug/state", ANSWER_SECONDS)
            if state is None or all(one.key != worker.key for one in self._workers()):
                return False
            self._gathered.take(worker.key, state)
            return True

    async def _ask(self, worker: Asked, method: str, path: str, seconds: float, **more: Any) -> Any:
        """A worker's JSON; None where it does not answer."""
        if not worker.url or self._session is None:
            return None
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.request(method, worker.url + path, timeout=timeout, **more) as answer:
                return await answer.json() if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    async def _all(self, asked: Iterable[Awaitable[Any]]) -> list[Any]:
        return [one for one in await asyncio.gather(*asked) if one is not None]

    async def _metrics(self, request: web.Request) -> web.Response:
        await self.gather()
        kind, page = self._gathered.page(request.headers.get("Accept", ""))
        return web.Response(body=page, headers={"Content-Type": kind})

    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _is_ready(self, _: web.Request) -> web.Response:
        if self._gathered.wrong:
            await self.gather()
        wrong = self._wrong() or self._gathered.wrong
        return web.Response(text=(wrong or "ok") + "\n", status=503 if wrong else 200)

    async def _pools(self, request: web.Request) -> web.Response:
        only_from_here(request)
        await self.gather()
        return web.json_response(self._gathered.pools())

    async def _picks(self, request: web.Request) -> web.Response:
        only_from_here(request)
        asked = dict(request.query)
        path = "/debug/picks"
        found = await self._all(
            self._ask(one, "GET", path, ANSWER_SECONDS, params=asked) for one in self._workers() if one.url
        )
        return web.json_response(merged_picks(found, count_of(request.query.get("limit"))))

    async def _explain(self, request: web.Request) -> web.Response:
        """As the worker sees it that knows most of the prompt."""
        only_from_here(request)
        body = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _KEPT_BACK}
        more: dict[str, Any] = {"params": dict(request.query), "data": body, "headers": headers}
        found = await self._all(
            self._ask(one, "POST", "/explain", EXPLAIN_SECONDS, **more) for one in self._workers() if one.url
        )
        if not found:
            raise web.HTTPServiceUnavailable(text=json.dumps({"status": 503, "reason": "no worker answers"}))
        return web.json_response(best_informed(found))
