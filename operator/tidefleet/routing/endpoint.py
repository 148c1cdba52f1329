"""One endpoint and one request in flight at it, as values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tidefleet.routing.rates import Rates
from tidefleet.routing.request import Ask

AGGREGATED, PREFILL, DECODE = "aggregated", "prefill", "decode"
ROLES = (AGGREGATED, PREFILL, DECODE)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Facts about one endpoint: a replica, or one data-parallel rank of it.

    Attributes:
        address: ``ip:port``; IPv6 in brackets.
        slot: its number in the prefix index; -1 = the index does not know it.
        accelerator: catalogue name of its type.
        role: ``aggregated``, ``prefill`` or ``decode``.
        block_size: tokens of one KV block of the engine.
        kv_capacity_tokens: tokens of KV that its device holds.
        tier_tokens: tokens of KV that host, disk and its part of the shared store hold; infinite = not told.
        loras: adapters that it has loaded.
        lora_load_seconds: time in which it loads another one on demand; ``None`` = it cannot.
        usd_per_second: price of the endpoint; 0 = not known.
        chips: accelerators that it holds.
        capacity_type: as what they are paid, e.g. ``OnDemand``.
        prefill_watts: of all its chips while it prefills; ``None`` = not known.
        store: name of the shared KV store that it reads and writes; empty = none.
        draining: it finishes what it has and takes nothing more.
    """

    address: str
    rates: Rates
    slot: int = -1
    accelerator: str = ""
    role: str = AGGREGATED
    block_size: int = 16
    kv_capacity_tokens: float = 500_000.0
    tier_tokens: tuple[float, float, float] = (math.inf, math.inf, math.inf)
    loras: frozenset[str] = frozenset()
    lora_load_seconds: float | None = None
    usd_per_second: float = 0.0
    chips: int = 1
    capacity_type: str = "OnDemand"
    prefill_watts: float | None = None
    store: str = ""
    draining: bool = False

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"Endpoint {self.address}: role is {self.role!r}; expected one of {', '.join(ROLES)}")
        if not self.kv_capacity_tokens > 0.0:
            raise ValueError(
                f"Endpoint {self.address}: kv_capacity_tokens is {self.kv_capacity_tokens}; "
                "expected a positive number, e.g. 500000"
            )

    def is_in(self, subset: frozenset[str]) -> bool:
        """Whether a subset names it, with its port or (an entry without one) by its host."""
        if self.address in subset:
            return True
        host = self.address.rpartition(":")[0]
        return host in subset or host.strip("[]") in subset

    @property
    def room_of_tiers(self) -> tuple[float, float, float]:
        """Tokens of KV that each tier below the device holds; 0 where there is none."""
        host, disk, shared = (
            room if speed > 0.0 else 0.0
            for room, speed in zip(self.tier_tokens, self.rates.tier_bytes_per_second, strict=True)
        )
        return host, disk, shared


@dataclass(slots=True)  # one for every request, where freezing takes thrice the time: not to be changed
class Work:
    """What a request is expected to be for one endpoint.

    Attributes:
        seconds: fetches and prefill, without waiting.
        cached_tokens: prompt tokens that are not prefilled.
    """

    seconds: float
    cached_tokens: float = 0.0


@dataclass(slots=True, eq=False)
class Ticket:
    """One request in flight at one endpoint; only ``Endpoints`` changes it.

    Attributes:
        epoch: tells an endpoint from a later one at the same address.
        work: as expected at its begin; ``due`` is when its first token was expected, ``tpot_seconds`` its pace.
        held_tokens: KV that it is counted with while in flight.
        endpoint: its facts when the request began there.
        streams: its tokens are seen as they come; of one whose answer comes whole only its end is.
        entered, mark: since when it is in ``metering.Shares``, and where the clocks there stood.
        share: of the decode steps that it was in, in the mean; known at its end.
        compared: keys by which others are told that its prompt is on its way (see ``coming``).
    """

    ask: Ask
    address: str
    epoch: int
    began: float
    work: Work
    due: float
    tpot_seconds: float
    held_tokens: float
    endpoint: Endpoint
    streams: bool = True
    entered: float | None = None
    mark: tuple[float, float, float] = (0.0, 0.0, 0.0)
    share: float = 1.0
    compared: Sequence[int] = ()
    first_at: float | None = None
    ended: bool = False
