"""A request from its pick to its end: what the gateway tells of its response goes into the pool's accounts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidefleet.router.bodies import Body
from tidefleet.router.limiting import Reserved
from tidefleet.router.pool_state import PoolState
from tidefleet.router.usage import UsageReader
from tidefleet.routing.endpoint import Ticket
from tidefleet.routing.pick import Pick

FAULTS = frozenset({500, 502, 503, 504})
"""Statuses that an engine, or the gateway for it, gives where the request is not at fault."""


@dataclass(slots=True, eq=False)
class Flight:
    """The ticket that the wire hands back.

    Attributes:
        began: when it was picked; came: when it was asked.
        account: its part of its endpoint's accounts, unless the pool does not have that endpoint.
        first_at, last_at: of its output; ended: the last byte has passed.
        reserved: of its tenant's limit.
    """

    pool: PoolState
    chosen: Pick
    body: Body | None
    began: float
    reader: UsageReader
    address: str = ""
    account: Ticket | None = None
    status: int | None = None
    first_at: float | None = None
    last_at: float | None = None
    ended: bool = False
    came: float = 0.0
    headers: Mapping[str, str] | None = None
    reserved: Reserved | None = None


def served(flight: Flight, address: str | None, status: int | None, now: float) -> None:
    """Response headers came: the endpoint that answered is the truth."""
    flight.status = status
    state, ask = flight.pool, flight.chosen.ask
    if address and address != flight.address:
        if flight.account is not None:
            state.table.end(flight.account, now)
            state.table.failed(flight.address, now)
        flight.address, flight.account = address, None
        if address in state.table:
            work, streams = flight.chosen.work_at(address), flight.body is None or flight.body.stream
            flight.account = state.table.begin(ask, address, now, work=work, streams=streams)
    if status is not None and status in FAULTS:
        state.table.failed(flight.address, now)
    elif status is not None and status < 400 and not ask.token_exact and len(ask.keys):
        held = flight.chosen.hit_tokens[0] if flight.address == flight.chosen.address else 0
        state.placed(flight.address, ask.keys, known=held // ask.block_size)


def passed(flight: Flight, chunk: bytes, end: bool, now: float) -> None:
    """A piece of the response passed."""
    reader = flight.reader
    reader.feed(chunk)
    flight.last_at, flight.ended = now, end
    if reader.started and flight.first_at is None and (flight.status is None or flight.status < 400):
        flight.first_at = now
        if flight.account is not None:
            flight.pool.table.first_token(flight.account, now)
