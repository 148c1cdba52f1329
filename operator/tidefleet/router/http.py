"""The router's HTTP: /metrics, /healthz, /readyz; and, for this machine only, what it knows and why it picked."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tidefleet.router.explaining import explained, pool_view
from tidefleet.router.picking import Picker
from tidefleet.telemetry import Telemetry
from tidefleet.telemetry.merged import samples_of

LARGEST_QUESTION = 32 * 2**20

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Pages(ABC):
    """Pages on the running event loop until closed; ``routes`` are asked for when it starts."""

    def __init__(self) -> None:
        self._runner: web.AppRunner | None = None
        self.port = 0

    @abstractmethod
    def routes(self) -> dict[str, Handler]:
        """What answers at which path: all by GET, ``/explain`` by POST."""

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: the address cannot be bound.
        """
        app = web.Application(client_max_size=LARGEST_QUESTION)
        for path, handler in self.routes().items():
            (app.router.add_post if path == "/explain" else app.router.add_get)(path, handler)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.port = int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """End."""
        if self._runner is not None:
            await self._runner.cleanup()


class RouterHttp(Pages):
    """Serves on the running event loop until closed.

    ``/debug/*`` and ``/explain`` answer callers on the loopback address alone (``kubectl port-forward`` comes from
    there): they tell addresses and loads, though nothing of any request.

    Args:
        before: called before the metrics are rendered.
        ready: what is wrong; empty when nothing is.
    """

    def __init__(
        self, picker: Picker, telemetry: Telemetry, *, before: Callable[[], None], ready: Callable[[], str]
    ) -> None:
        self._picker, self._telemetry, self._before, self._ready = picker, telemetry, before, ready
        super().__init__()

    def routes(self) -> dict[str, Handler]:
        """As `Pages.routes`."""
        return {
            "/metrics": self._metrics,
            "/healthz": self._alive,
            "/readyz": self._is_ready,
            "/debug/pools": self._pools,
            "/debug/picks": self._picks,
            "/debug/state": self._state,
            "/explain": self._explain,
        }

    async def _metrics(self, request: web.Request) -> web.Response:
        self._before()
        kind, page = self._telemetry.render(request.headers.get("Accept", ""))
        return web.Response(body=page, headers={"Content-Type": kind})

    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _is_ready(self, _: web.Request) -> web.Response:
        wrong = self._ready()
        return web.Response(text=(wrong or "ok") + "\n", status=503 if wrong else 200)

    async def _pools(self, request: web.Request) -> web.Response:
        only_from_here(request)
        return web.json_response([pool_view(state) for state in self._picker.pools.values()])

    async def _picks(self, request: web.Request) -> web.Response:
        only_from_here(request)
        wanted = request.query.get("pool", "")
        found = [one for one in reversed(self._picker.recent) if wanted in ("", one[1].ask.pool)]
        since = time.time() - asyncio.get_running_loop().time()
        shown = [
            {"at": since + at, **explained(one, self._picker.pools.get(one.ask.pool))}
            for at, one in found[: count_of(request.query.get("limit"))]
        ]
        return web.json_response(shown)

    async def _state(self, request: web.Request) -> web.Response:
        """All that a supervisor of several processes gathers, in one answer."""
        only_from_here(request)
        self._before()
        pools = [pool_view(state) for state in self._picker.pools.values()]
        return web.json_response({"wrong": self._ready(), "samples": samples_of(self._telemetry), "pools": pools})

    async def _explain(self, request: web.Request) -> web.Response:
        """What would be picked for the posted body; nothing is sent and no account is opened."""
        only_from_here(request)
        body = await request.read()
        path = request.query.get("path", "/v1/chat/completions")
        headers = {name.lower(): value for name, value in request.headers.items()}
        found = self._picker.would_pick(path, headers, body)
        answer: dict[str, Any] = (
            found if isinstance(found, dict) else explained(found, self._picker.pools.get(found.ask.pool))
        )
        return web.json_response(answer)


def count_of(text: str | None) -> int:
    """How many are asked for: 20 where nobody says, 256 at most."""
    return min(256, int(text)) if text and text.isdecimal() and len(text) < 6 else 20


def only_from_here(request: web.Request) -> None:
    """Refuse whoever is not on the loopback address.

    Raises:
        web.HTTPForbidden: they are not.
    """
    peer = request.remote or ""
    try:
        here = ipaddress.ip_address(peer.partition("%")[0]).is_loopback
    except ValueError:
        here = False
    if not here:
        raise web.HTTPForbidden(
            text="only callers on the loopback address are answered, e.g. by kubectl port-forward\n"
        )
