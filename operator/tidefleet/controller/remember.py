"""Keeps each pool's history of demand over restarts and changes of leader, in an annotation of the InferencePool.

Why there. Weeks of history take weeks to come back, so they must outlive a process. The operator may patch its pools
already, and may read no ConfigMaps at all; the history goes where the pool goes, and is deleted with it; five weeks are
about 10 kB, and an object's annotations may be 256 kB. A Prometheus has the past only where there is one that keeps
five weeks of it, and a volume would tie the operator to one node.

How often. Every ``SAVE_SECONDS`` of the operator's clock after it began to lead, each pool at a moment of its own, and
when the operator is told to stop. A process that is killed forgets at most that much: a gap in the newest slots, which
forecasts read over. A pool that was not measured, or is in mode Recommend, is not written to.

What is read back is not trusted: text that is no history is left out.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tidefleet.api import InferencePool
from tidefleet.api.inference_pool import Mode
from tidefleet.cluster.kinds import INFERENCE_POOL
from tidefleet.cluster.writes import MergePatch
from tidefleet.controller import marks
from tidefleet.controller.act import Actor
from tidefleet.controller.store import Seen
from tidefleet.planning.slots import SlotHistory, UnusableHistory

log = logging.getLogger(__name__)

SAVE_SECONDS = 6 * 3600.0
AT_ONCE = 16
STOP_SECONDS = 5.0
"""Real time that an operator which is told to stop takes for it at most."""

PoolKey = tuple[str, str]
REASON = "the history of demand is kept for the next leader"


def kept_history(pool: InferencePool, now: float) -> SlotHistory:
    """The history that an earlier leader left on a pool; an empty one where there is none that can be read."""
    text = pool.metadata.annotations.get(marks.HISTORY_ANNOTATION)
    if text is None:
        return SlotHistory()
    try:
        return SlotHistory.unpack(text, now=now)
    except UnusableHistory as error:
        log.warning("a history of demand was left out", extra={"pool": str(pool), "why": str(error)})
        return SlotHistory()


@dataclass(slots=True)
class Remembrance:
    """Writes histories now and then, as the leader."""

    actor: Actor
    _due: dict[PoolKey, float] = field(default_factory=dict)

    def step(self, pools: Iterable[tuple[PoolKey, SlotHistory]], now: float) -> None:
        """Write the histories whose time has come."""
        for key, history in pools:
            if key not in self._due:
                turn = zlib.crc32("/".join(key).encode()) % 1000 / 1000.0
                self._due[key] = now + SAVE_SECONDS * (1.0 + turn)
            elif now >= self._due[key]:
                self._due[key] = now + SAVE_SECONDS
                self.save(key, history)

    def save_all(self, pools: Iterable[tuple[PoolKey, SlotHistory]]) -> None:
        """Write all histories, within a few seconds, before the process ends."""
        end = time.monotonic() + STOP_SECONDS

        def one(pair: tuple[PoolKey, SlotHistory]) -> None:
            if time.monotonic() < end:
                self.save(*pair)

        with ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="remember") as workers:
            list(workers.map(one, pools))

    def save(self, key: PoolKey, history: SlotHistory) -> None:
        """Write one history, unless there is nothing to say or the pool may not be touched.

        Raises:
            Deposed: another process leads.
        """
        seen = self.actor.store.get(INFERENCE_POOL, *key)
        if history.is_empty or seen is None or not _may_write(seen):
            return
        text = history.pack()
        if seen.metadata.annotations.get(marks.HISTORY_ANNOTATION) == text:
            return
        self.actor.execute(
            MergePatch(
                kind=INFERENCE_POOL,
                namespace=seen.metadata.namespace,
                name=seen.metadata.name,
                body={"metadata": {"annotations": {marks.HISTORY_ANNOTATION: text}}},
                uid=seen.metadata.uid,
                resource_version=seen.metadata.resource_version,
                reason=REASON,
                decision_id="",
            )
        )

    def forget(self, key: PoolKey) -> None:
        """A pool is gone."""
        self._due.pop(key, None)


def _may_write(seen: Seen) -> bool:
    pool = seen.parsed
    return (
        isinstance(pool, InferencePool)
        and pool.spec.mode is not Mode.RECOMMEND
        and not seen.metadata.deletion_timestamp
    )
