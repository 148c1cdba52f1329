"""Sockets: one listener per pod address, opened when the pod is ready and closed when it goes."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import sys
from typing import Any

import zmq.asyncio
from aiohttp import web

from tidefleet.emulator.fleet import Fleet, Slot
from tidefleet.emulator.handlers import MOST_BODY_BYTES, EngineHandler
from tidefleet.emulator.publishing import Publisher

log = logging.getLogger(__name__)

Address = tuple[str, int]

HOW_TO_ADD = {
    "darwin": "add each address to the loopback interface first, e.g. 'sudo ifconfig lo0 alias 127.1.0.2 up'",
    "linux": "add it to this machine first, e.g. 'sudo ip address add 127.1.0.2/32 dev lo'",
}


def how_to_add_addresses() -> str:
    """What a user does so that pod addresses can be bound here."""
    return HOW_TO_ADD["darwin" if sys.platform == "darwin" else "linux"]


def unbindable(host: str) -> str | None:
    """Why no socket can listen on this address, in words; ``None`` when one can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            return f"cannot listen on {host}: {error.strerror or error}; {how_to_add_addresses()}"
    return None


def raise_file_limit(wanted: int = 65536) -> int:
    """Raise the soft limit on open files towards ``wanted``; returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= limit:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


class _Site:
    """One listening address and the connections it took."""

    def __init__(
        self, slot: Slot, web_server: web.Server, listener: asyncio.Server, publisher: Publisher | None
    ) -> None:
        self.slot, self.starts = slot, slot.starts
        self._web, self._listener, self._publisher = web_server, listener, publisher

    async def close(self) -> None:
        self._listener.close()
        if self._publisher is not None:
            await self._publisher.close()
        await self._web.shutdown(timeout=0.01)  # 0 would wait for ever


class Sites:
    """Keeps the sockets in step with `Fleet.listening`.

    Attributes:
        problems: why an address does not listen, by address.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.problems: dict[Address, str] = {}
        self._fleet = fleet
        self._sites: dict[Address, _Site] = {}
        self._lock = asyncio.Lock()
        self._context: zmq.asyncio.Context | None = None  # made for the first engine that publishes

    @property
    def addresses(self) -> list[Address]:
        """Addresses that listen now."""
        return sorted(self._sites)

    async def sync(self) -> None:
        """Open and close sockets until they are those of the fleet."""
        async with self._lock:
            wanted = self._fleet.listening()
            stale = [
                address
                for address, site in self._sites.items()
                if (slot := wanted.get(address)) is not site.slot or slot.starts != site.starts
            ]
            await asyncio.gather(*(self._sites.pop(address).close() for address in stale))
            for address in self.problems.keys() - wanted.keys():
                del self.problems[address]
            for address, slot in wanted.items():
                if address not in self._sites:
                    await self._open(address, slot)

    async def close(self) -> None:
        """Close every socket."""
        async with self._lock:
            await asyncio.gather(*(site.close() for site in self._sites.values()))
            self._sites.clear()
            if self._context is not None:
                self._context.destroy(linger=0)

    async def _open(self, address: Address, slot: Slot) -> None:
        host, port = address
        server = web.Server(
            EngineHandler(self._fleet, slot), request_factory=_request, handler_cancellation=True, access_log=None
        )
        publisher = self._publisher(slot)
        try:
            if publisher is not None and slot.facts.kv_events is not None:
                await publisher.start(host, slot.facts.kv_events)
            listener = await asyncio.get_running_loop().create_server(server, host, port, backlog=2048)  # as uvicorn's
        except OSError as error:
            if publisher is not None:
                await publisher.close()
            words = f"cannot listen on {host}:{port}: {error.strerror or error}"
            if error.errno in (errno.EADDRNOTAVAIL, None) or "assign" in str(error):
                words += f"; {how_to_add_addresses()}"
            if self.problems.get(address) != words:
                log.warning("pod %s/%s: %s", slot.pod.namespace, slot.pod.name, words)
            self.problems[address] = words
            return
        self.problems.pop(address, None)
        self._sites[address] = _Site(slot, server, listener, publisher)

    def _publisher(self, slot: Slot) -> Publisher | None:
        """What tells of an engine's KV blocks; None where its pod asks for none."""
        if slot.facts.kv_events is None or slot.engine is None:
            return None
        if self._context is None:
            self._context = zmq.asyncio.Context()
        host, port = slot.address
        return Publisher(self._context, slot.engine.cache, f"kv@{host}:{port}@{slot.facts.served_name}")


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MOST_BODY_BYTES)
