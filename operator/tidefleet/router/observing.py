"""What engines say of themselves, once a second: requests running and waiting, KV in use, KV room and block size.

Other routers send requests to the same engines, and a router that starts has no accounts yet; both are mended here.
An engine that was ejected is asked whether it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import aiohttp

from tidefleet.router.pool_state import PoolState

log = logging.getLogger(__name__)

PERIOD_SECONDS = 1.0
TIMEOUT_SECONDS = 2.0
LARGEST_PAGE = 4 * 2**20
AT_ONCE = 32

_GAUGES = {
    b"vllm:num_requests_running": "running",
    b"vllm:num_requests_waiting": "waiting",
    b"vllm:kv_cache_usage_perc": "kv_usage",
    b"vllm:gpu_cache_usage_perc": "kv_usage",
    b"sglang:num_running_reqs": "running",
    b"sglang:num_queue_reqs": "waiting",
    b"sglang:token_usage": "kv_usage",
    b"sglang:max_total_num_tokens": "kv_tokens",
}
_LINE = re.compile(rb"^([a-z:_]+)(?:\{([^}]*)\})? (\S+)", re.MULTILINE)
_BLOCKS = re.compile(rb'num_gpu_blocks="(\d{1,12})"')
_BLOCK_SIZE = re.compile(rb'block_size="(\d{1,6})"')


@dataclass(slots=True)
class Said:
    """What a metrics page says; None where it does not."""

    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    kv_tokens: float | None = None
    block_tokens: int | None = None


def said(page: bytes) -> Said:
    """Read a page of vLLM or SGLang; series of several ranks in one process are summed (usage: the highest)."""
    found = Said()
    for match in _LINE.finditer(page):
        name, labels, text = match.groups()
        if name == b"vllm:cache_config_info":
            blocks, size = _BLOCKS.search(labels or b""), _BLOCK_SIZE.search(labels or b"")
            if size is not None and 0 < int(size[1]) <= 4096:
                found.block_tokens = int(size[1])
                if blocks is not None and int(blocks[1]) > 0:
                    found.kv_tokens = float(int(blocks[1]) * int(size[1]))
            continue
        field = _GAUGES.get(name)
        if field is None:
            continue
        try:
            value = float(text)
        except ValueError:
            continue
        if not 0.0 <= value < 1e15:  # NaN, too
            continue
        before = getattr(found, field)
        if field == "kv_usage":
            value = max(before or 0.0, min(1.0, value))
        elif before is not None:
            value += before
        setattr(found, field, value)
    return found


class Observer:
    """Asks every endpoint of every pool once a period.

    Args:
        pools: the pools now.
        now: the loop's clock.
    """

    def __init__(
        self,
        pools: Callable[[], Iterable[PoolState]],
        now: Callable[[], float],
        *,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self._pools, self._now, self._period = pools, now, period_seconds
        self._task: asyncio.Task[None] | None = None
        self._due: set[str] = set()
        self.failures = 0

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="observer")

    async def close(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        connector = aiohttp.TCPConnector(limit=AT_ONCE, limit_per_host=2, force_close=False)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=True) as session:
            while True:
                began = self._now()
                self._due = {address for state in self._pools() for address in state.table.due_probes(began)}
                asked = [(state, address) for state in self._pools() for address in list(state.ranks)]
                await asyncio.gather(*(self._ask(session, state, address) for state, address in asked))
                await asyncio.sleep(max(0.05, self._period - (self._now() - began)))

    async def _ask(self, session: aiohttp.ClientSession, state: PoolState, address: str) -> None:
        spec = state.served.spec
        path = spec.spec.serving.engine.metrics_path if spec is not None else "/metrics"
        try:
            async with session.get(f"http://{address}{path}") as reply:
                page = await reply.content.read(LARGEST_PAGE)
                ok = reply.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            ok, page = False, b""
        now = self._now()
        if address not in state.table:
            return
        if address in self._due:
            self._due.discard(address)
            state.table.probed(address, ok, now)
        if not ok:
            self.failures += 1
            return
        found = said(page)
        if found.kv_tokens and found.kv_tokens != state.kv_tokens.get(address):
            state.kv_tokens[address] = found.kv_tokens
            state.refresh(address)
        if found.block_tokens:
            state.check_block(address, found.block_tokens)
        if found.running is not None or found.waiting is not None:
            state.table.observe(
                address,
                running=found.running or 0.0,
                waiting=found.waiting or 0.0,
                kv_usage=found.kv_usage or 0.0,
                now=now,
            )
