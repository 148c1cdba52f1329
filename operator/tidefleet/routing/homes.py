"""Where each session lives, the gaps between its turns, and where it goes when its home leaves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from tidefleet.routing.reuse import Reuse

DEFAULT_TTL_SECONDS = 3600.0
DEFAULT_MOST = 100_000


@dataclass(slots=True)
class Home:
    """A session's.

    Attributes:
        address: the endpoint that served its last turn.
        tokens: its context after that turn.
        at: when that turn ended.
        planned: the endpoint that it was moved to, because its home leaves; empty = it stays.
        epoch: tells that endpoint from a later one at the same address.
        returned: whether a further turn has begun, so that this turn's gap is learned once.
    """

    address: str
    tokens: float
    at: float
    wclass: str = ""
    tool_call: bool = False
    planned: str = ""
    epoch: int = 0
    returned: bool = False


class Homes:
    """Bounded by number and by time to live; the one that rested longest goes first. Ids are hashed ones only."""

    __slots__ = ("_homes", "most", "reuse", "ttl_seconds")

    def __init__(self, reuse: Reuse, *, most: int = DEFAULT_MOST, ttl_seconds: float = DEFAULT_TTL_SECONDS) -> None:
        self.reuse = reuse
        self.most = most
        self.ttl_seconds = ttl_seconds
        self._homes: OrderedDict[int, Home] = OrderedDict()

    def __len__(self) -> int:
        return len(self._homes)

    def home(self, session: int | None) -> Home | None:
        """Where it lives, if that is known."""
        return None if session is None else self._homes.get(session)

    def began(self, session: int, now: float) -> None:
        """A further turn came: its gap is learned once, when its last turn has ended."""
        home = self._homes.get(session)
        if home is not None and home.at <= now and not home.returned:
            home.returned = True
            self.reuse.returned(home.wclass, now - home.at, tool_call=home.tool_call)

    def served(
        self, session: int, address: str, *, tokens: float, now: float, wclass: str, tool_call: bool, epoch: int = 0
    ) -> None:
        """A turn ended at an endpoint, which is its home from now on."""
        self._homes[session] = Home(address, tokens, now, wclass, tool_call, epoch=epoch)
        self._homes.move_to_end(session)
        while len(self._homes) > self.most:
            self._end(self._homes.popitem(last=False)[1])
        self.expire(now, at_most=4)

    def expire(self, now: float, *, at_most: int = 1000) -> int:
        """Forget sessions that rested longer than their time to live; how many went."""
        gone = 0
        while gone < at_most and self._homes:
            session, home = next(iter(self._homes.items()))
            if now - home.at <= self.ttl_seconds:
                break
            del self._homes[session]
            self._end(home)
            gone += 1
        return gone

    def at(self, address: str) -> Iterator[tuple[int, Home]]:
        """Sessions whose home is an endpoint and that were not moved yet, most recent first."""
        for session in reversed(list(self._homes)):
            home = self._homes[session]
            if home.address == address and not home.planned:
                yield session, home

    def moved_from(self, address: str) -> Iterator[Home]:
        """Sessions that were moved away from an endpoint and had no turn since."""
        return (home for home in self._homes.values() if home.address == address and home.planned)

    def _end(self, home: Home) -> None:
        if not home.returned:
            self.reuse.ended(home.wclass, tool_call=home.tool_call)
