"""Listening: one HTTP/2 port for ext_proc and health, by TLS or not, alone or shared with other processes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

from tidefleet.router import ext_proc
from tidefleet.router.chooser import Chooser
from tidefleet.router.frames import Limits
from tidefleet.router.grpc_calls import Budget, accepting
from tidefleet.router.health import Health
from tidefleet.router.http2 import Connection

_LARGEST_MESSAGE_OVERHEAD = 262_144


class Server:
    """A running server."""

    def __init__(self, server: asyncio.Server, connections: set[Connection], health: Health, budget: Budget) -> None:
        self._server = server
        self._connections = connections
        self.health = health
        self.budget = budget
        """Bytes held of request bodies and incomplete messages, for metrics."""

    @property
    def port(self) -> int:
        """The port; the one the system gave where 0 was asked for."""
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def streams(self) -> int:
        """Streams that are open now."""
        return sum(len(one.streams) for one in self._connections)

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    async def drain(self, *, notice_seconds: float = 0.0, limit_seconds: float = 30.0) -> None:
        """Say not ready, wait for gateways to notice, accept no more, finish what runs, then `close`.

        Args:
            notice_seconds: Long enough for the health checks of gateways to fail; 0 does not wait.
            limit_seconds: Streams that still run after it are cut.
        """
        self.health.ready = False
        if notice_seconds:
            await asyncio.sleep(notice_seconds)
        self._server.close()
        for one in list(self._connections):
            one.drain()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle(), limit_seconds)
        await self.close()

    async def close(self) -> None:
        """End everything at once."""
        self.health.ready = False
        self._server.close()
        for one in list(self._connections):
            one.fail(0, "the server ends")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle(), 1.0)

    async def _idle(self) -> None:
        """Until no connection is open."""
        while self._connections:  # noqa: ASYNC110 - happens once in a process's life
            await asyncio.sleep(0.01)


async def serve(
    chooser: Chooser,
    host: str = "127.0.0.1",
    port: int = 9002,
    *,
    health: Health | None = None,
    tls: ssl.SSLContext | None = None,
    reuse_port: bool = False,
    limits: Limits | None = None,
    options: ext_proc.Options | None = None,
    held_bytes: int = 536_870_912,
) -> Server:
    """Listen and serve until the `Server` is drained or closed; returns when the port is open.

    Args:
        chooser: Asked for every request, on the running loop.
        host: The address to listen on, IPv4 or IPv6; ``0.0.0.0`` or ``::`` for all.
        port: 0 takes a free one.
        health: Answers health checks; one that is ready if not given.
        tls: See `tls_context`; plain text if not given.
        reuse_port: Whether several processes listen on one port (SO_REUSEPORT) and the system spreads connections.
        limits: What a peer may ask for.
        options: How streams are served.
        held_bytes: Of request bodies and incomplete messages over all connections; more is refused with 503.

    Raises:
        OSError: The address cannot be bound.
    """
    health = health if health is not None else Health(ready=True)
    options = options or ext_proc.Options()
    limits = limits or Limits()
    budget = Budget(held_bytes)
    connections: set[Connection] = set()
    methods = ext_proc.methods(chooser, options, budget) | health.methods()
    accept = accepting(methods, budget, options.body_bytes + _LARGEST_MESSAGE_OVERHEAD)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(accept, limits, connections),
        host,
        port,
        ssl=tls,
        reuse_port=reuse_port or None,
        backlog=1024,
        family=socket.AF_INET6 if ":" in host else socket.AF_UNSPEC,
    )
    return Server(server, connections, health, budget)


def tls_context(certificate: Path, key: Path, *, client_ca: Path | None = None) -> ssl.SSLContext:
    """A context for `serve`: TLS 1.2 or later, HTTP/2 by ALPN; with `client_ca` clients must show a certificate of it.

    Raises:
        OSError: A file cannot be read.
        ssl.SSLError: A file holds no certificate or key, or they do not belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
