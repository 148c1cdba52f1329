"""Limits of tenants at the router: the table that its processes share, and what a request counts for until its end."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tidefleet.router.billing import Billing
from tidefleet.router.chooser import Refusal
from tidefleet.routing.caps import Caps, Limit, bytes_for
from tidefleet.routing.request import Ask

_LEARNED = 0.05
_TRIES = 200


@dataclass(slots=True)
class Reserved:
    """What a request was counted with when it began."""

    tokens: float
    usd: float
    at: float


class Limiter:
    """Lets requests in below their tenants' limits; one event loop owns it.

    A request counts with what it is expected to use from its pick on, and with what it used once it is over. One that
    waits in the router does not count meanwhile.

    Args:
        share: of each limit that is this router's own.
        shared: a file of ``caps.bytes_for()`` zeros where several processes on this machine count together.
    """

    def __init__(self, *, share: float = 1.0, shared: Path | None = None) -> None:
        self._share, self._file = share, -1
        self._usd_per_token: dict[int, float] = {}
        if shared is None:
            self._caps = Caps()
            return
        self._file = os.open(shared, os.O_RDWR | os.O_CLOEXEC)
        buffer = memoryview(mmap.mmap(self._file, bytes_for()))
        self._caps = Caps(buffer, lock=self._locked)

    def takes(self, billing: Billing, ask: Ask, now: float) -> Reserved | Refusal:
        """Count a request with what it is expected to use, or 429 with the reason where its tenant's limit is reached.

        Args:
            billing: of a class that has a limit.
        """
        tokens = ask.tokens + ask.output_tokens
        usd = tokens * self._usd_per_token.get(billing.scope, 0.0)
        over = self._caps.take(billing.scope, ask.tenant, self._own(billing), now, tokens=tokens, usd=usd)
        if over is None:
            return Reserved(tokens, usd, now)
        return Refusal(429, over.reason, (("retry-after", str(over.retry_after_seconds)),))

    def counts(self, billing: Billing, ask: Ask, now: float) -> Reserved:
        """Count a request that waited and goes now, whatever its tenant's limit."""
        tokens = ask.tokens + ask.output_tokens
        found = Reserved(tokens, tokens * self._usd_per_token.get(billing.scope, 0.0), now)
        self._caps.spend(billing.scope, ask.tenant, now, tokens=found.tokens, usd=found.usd)
        return found

    def ends(
        self, billing: Billing, tenant: int | None, reserved: Reserved, now: float, *, tokens: float, usd: float | None
    ) -> None:
        """It is over, and used this."""
        spent = reserved.usd if usd is None else usd
        if usd is not None and tokens > 0.0:
            before = self._usd_per_token.get(billing.scope)
            each = usd / tokens
            self._usd_per_token[billing.scope] = each if before is None else before + _LEARNED * (each - before)
        self._caps.spend(
            billing.scope, tenant, now, tokens=tokens - reserved.tokens, usd=spent - reserved.usd, since=reserved.at
        )

    def _own(self, billing: Billing) -> Limit:
        limit = billing.limit or Limit()
        return limit if self._share == 1.0 else limit.times(self._share)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The table for oneself; after a while without, since whoever holds it may have been stopped."""
        held = False
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            held = True
            break
        try:
            yield
        finally:
            if held:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
