"""Paid accelerator-seconds as needed or lost by cause.

Needed, for serving, is what the tokens take at the operating point of the strictest class of the pool:

    needed = uncached prompt tokens * T_p / S  +  output tokens * T_d(B) / B

with T_p the prefill of S uncached prompt tokens and T_d(B) one decode step of the batch B there. These are the numbers
that a plan divides by: a replica that carries just what the plan counts on is needed all the time. The decode part is
T_d(B) / B and not the time between two tokens, so prefill is not counted twice. Needed never exceeds what was paid for
the replica in that time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tidefleet.economics.evidence import planning_share
from tidefleet.economics.serving import Estimate

IDLE, HALF_BATCH, RECOMPUTE, KV_FETCH = "idle", "half_batch", "recompute", "kv_fetch"
DRAIN, WARM, RECALL, DATA_STALL, UNKNOWN = "drain", "warm", "recall", "data_stall", "unknown"

CAUSES: Mapping[str, str] = {
    IDLE: "no request was running, or training did not use a node that it had",
    HALF_BATCH: "requests ran, in smaller batches or more slowly than at the operating point",
    RECOMPUTE: "prefill of requests that an engine had put out to make room",
    KV_FETCH: "waiting for KV that was fetched from another tier",
    DRAIN: "on the way out: pods that take no further requests, and nodes that are verified empty before training",
    WARM: "on the way in: pods that are not ready yet, and nodes that come back from training",
    RECALL: "training work since the last checkpoint, lost when it had to go",
    DATA_STALL: "training that waited for data",
    UNKNOWN: "no engine told what it did, or how fast it could have done it is not known",
}
"""Why a paid accelerator-second was not needed."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Replica-seconds that a token takes at the operating point: an uncached prompt token, and an output token."""

    prefill_seconds_per_token: float
    decode_seconds_per_token: float

    def needed(self, uncached: float, output: float) -> float:
        """Replica-seconds that so many tokens need."""
        return uncached * self.prefill_seconds_per_token + output * self.decode_seconds_per_token


def speeds_of(mix: Sequence[tuple[float, Estimate]]) -> Speeds:
    """The speeds of a replica for the classes of a pool: their shares of requests, and each class's operating point.

    Prefill takes what the mix's prompts take. Decode goes at the batch of the strictest class, the one whose operating
    point has the smallest batch: all classes decode together, and none may miss its objective. Both are longer by what
    plans keep back for an estimate that is not sure.

    Raises:
        ValueError: there is no class, or no share is above 0.
    """
    if not sum(share for share, _ in mix) > 0.0:
        raise ValueError("speeds_of: the mix asks for nothing; expected a class with a share above 0")
    seconds = sum(share * _longer(one, one.prefill_seconds / one.replica.data_parallel) for share, one in mix)
    tokens = sum(share * one.shape.uncached for share, one in mix)
    strictest = min((one for share, one in mix if share > 0.0), key=lambda one: one.batch)
    return Speeds(
        seconds / max(1.0, tokens),
        _longer(strictest, strictest.decode_seconds / strictest.batch),
    )


def _longer(one: Estimate, seconds: float) -> float:
    return seconds / planning_share(one.sigma)


@dataclass(frozen=True, slots=True)
class Worked:
    """What one replica did in some time.

    Attributes:
        seconds: of that time.
        uncached: prompt tokens that were not found in a cache; output: generated tokens.
        busy: share of the time in which a request was running, 0..1.
        recomputed: tokens whose KV was computed again, beside ``uncached``.
        fetch_seconds: in which nothing ran since KV was on its way.
        batch: requests that ran together, as last seen; what they draw depends on it, not what they need.
    """

    seconds: float
    uncached: float
    output: float
    busy: float
    recomputed: float = 0.0
    fetch_seconds: float = 0.0
    batch: float = 0.0


@dataclass(frozen=True, slots=True)
class Split:
    """Paid accelerator-seconds: those needed, and the others by their cause. Together they are what was paid.

    ``prefill`` are those of the needed ones that prompts took.
    """

    needed: float = 0.0
    lost: Mapping[str, float] = field(default_factory=dict)
    prefill: float = 0.0

    @property
    def paid(self) -> float:
        """All of them."""
        return math.fsum((self.needed, *self.lost.values()))

    def times(self, factor: float) -> Split:
        """Each part multiplied by this factor."""
        lost = {cause: seconds * factor for cause, seconds in self.lost.items()}
        return Split(self.needed * factor, lost, self.prefill * factor)


def added(parts: Iterable[Split]) -> Split:
    """The sum of several."""
    needed, prefill, lost = 0.0, 0.0, dict[str, float]()
    for one in parts:
        needed, prefill = needed + one.needed, prefill + one.prefill
        for cause, seconds in one.lost.items():
            lost[cause] = lost.get(cause, 0.0) + seconds
    return Split(needed, lost, prefill)


def served(worked: Worked, speeds: Speeds | None, *, leaving: bool = False) -> Split:
    """Where the seconds of a replica that serves went.

    Each part takes what the parts before it leave: needed, recompute, KV fetch, then half-empty batches as far as the
    replica was busy. The rest is idle.

    Args:
        speeds: ``None`` = its operating point is not known, nor then what was needed while it was busy.
        leaving: it takes no further requests; whatever is not needed is then lost to the drain.
    """
    total = max(0.0, worked.seconds)
    busy = min(1.0, max(0.0, worked.busy)) * total
    if speeds is None:
        return Split(0.0, {DRAIN: total} if leaving else {UNKNOWN: busy, IDLE: total - busy})
    asked = max(0.0, speeds.needed(worked.uncached, worked.output))
    needed = min(total, asked)
    prefill = needed * min(1.0, max(0.0, speeds.needed(worked.uncached, 0.0)) / asked) if asked > 0.0 else 0.0
    left = total - needed
    if leaving:
        return Split(needed, {DRAIN: left}, prefill)
    lost: dict[str, float] = {}
    lost[RECOMPUTE] = min(left, max(0.0, worked.recomputed) * speeds.prefill_seconds_per_token)
    left -= lost[RECOMPUTE]
    if worked.fetch_seconds > 0.0:
        lost[KV_FETCH] = min(left, worked.fetch_seconds)
        left -= lost[KV_FETCH]
    lost[HALF_BATCH] = min(left, max(0.0, busy - (total - left)))
    lost[IDLE] = left - lost[HALF_BATCH]
    return Split(needed, lost, prefill)


_SOME = 1e-9
"""Seconds below which nothing was seen."""


def spread(paid: float, seen: Split) -> Split:
    """So many paid seconds, in the proportions that were seen; nothing seen is not known where they went."""
    whole = seen.paid
    if not whole > _SOME:
        return Split(0.0, {UNKNOWN: paid})
    return seen.times(paid / whole)


@dataclass(frozen=True, slots=True)
class Trained:
    """Where the seconds on loan went; ``owed`` is lost work that the next seconds have to stand for."""

    split: Split
    owed: float


def trained(held: float, *, lost_work: float, owed: float = 0.0, stalled: float | None = None) -> Trained:
    """Where accelerator-seconds went that training held.

    Work is known to be lost only when it is: the seconds in which it was done count as needed by then. So what is lost
    is taken from the seconds that training holds now, and what they cannot cover from those after.

    Args:
        held: accelerator-seconds that jobs held.
        lost_work: accelerator-seconds of work that recalls lost, as told now; owed: as left over from before.
        stalled: accelerator-seconds that the trainer says it waited for data; ``None`` = it does not say.
    """
    held = max(0.0, held)
    owed = max(0.0, owed) + max(0.0, lost_work)
    recall = min(held, owed)
    lost = {RECALL: recall}
    left = held - recall
    if stalled is not None:
        lost[DATA_STALL] = min(left, max(0.0, stalled))
        left -= lost[DATA_STALL]
    return Trained(Split(left, lost), owed - recall)
