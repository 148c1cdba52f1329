"""What the wire asks of the part that chooses, in values that know nothing of gRPC or protobuf."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

Ticket = object
"""Whatever the chooser wants to be reminded of; the wire only hands it back."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request's headers as the gateway sent them."""

    method: str
    path: str
    headers: dict[str, str]
    """By lower-case name, pseudo-headers included; values of a repeated name are joined by ``, ``."""
    subset: tuple[str, ...] | None
    """Where it may go (``ip:port``, ``[ip]:port``, or ``ip`` for any port); None: anywhere."""
    may_hold: bool = False
    """The gateway has a way for requests that wait, and this one is not on it yet."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Where the request goes."""

    addresses: tuple[str, ...]
    """``ip:port`` or ``[ip]:port``, the first choice first, then what the gateway falls back to."""
    ticket: Ticket = None
    set_headers: tuple[tuple[str, str], ...] = ()
    remove_headers: tuple[str, ...] = ()
    body: bytes | None = None
    """What goes to the engine instead of the client's bytes; None leaves them as they are."""


WAIT_HEADER, WILL_WAIT = "x-tidefleet-wait", "will"
"""With what a request that waits comes again, on a way of the gateway's that has the time."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The request will wait for longer than the gateway waits for a picker of which it hears nothing.

    Only where the request's head says ``may_hold``: other gateways would send it on without a choice.
    """


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the request goes nowhere: 400 unparsable, 413 too large, 429 shed, 503 no endpoint."""

    status: int
    reason: str
    """A sentence for the client; nothing of the request is repeated in it."""
    headers: tuple[tuple[str, str], ...] = ()
    """For example ``("retry-after", "2")``."""


Answer = Choice | Refusal | Hold


class Chooser(Protocol):
    """Chooses an endpoint for each request and is told what became of it.

    Everything is called on the server's event loop. `now` is that loop's clock in seconds (monotonic).
    """

    def choose(self, head: RequestHead, body: bytes | None) -> Answer | Awaitable[Answer]:
        """Where the request goes.

        Args:
            head: Its headers.
            body: Its whole body; None where it has none or the gateway sends headers only.

        Returns:
            The answer, or an awaitable of it (an ``async def`` will do) where it takes waiting, which costs a task.
            It is cancelled when the client goes away.
        """

    def served(self, ticket: Ticket, address: str | None, status: int | None, now: float) -> None:
        """Response headers came: the endpoint that the gateway used, if it told, and the HTTP status."""

    def body(self, ticket: Ticket, chunk: bytes, end: bool, now: float) -> None:
        """A piece of the response passed; it was relayed before this call."""

    def closed(self, ticket: Ticket, now: float) -> None:
        """The request is over, whatever happened; called once for every `Choice`."""
