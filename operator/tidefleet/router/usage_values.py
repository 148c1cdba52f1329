"""Usage records as values: one line of JSON each, flat keys, version 1.

Nothing of a client's is in them but counts and times: tenants and tasks are 16 digits of a keyed hash.
"""

from __future__ import annotations

import msgspec

VERSION = 1


class RequestRecord(msgspec.Struct, tag_field="type", tag="request", gc=False, kw_only=True):
    """One request that is over.

    Attributes:
        end: Unix seconds.
        tenant, task: hashed; None where none was named.
        result: ``ok``, ``error`` (the engine's or the gateway's), ``cut`` (before its end) or ``refused`` (here).
        input_tokens: uncached prompt tokens; cached_tokens: those found in a cache; output_tokens: all generated.
        recomputed_tokens: of the uncached ones, that had been computed before; recomputed_cause: why again.
        saved_seconds, accelerator_seconds: chip-seconds that cached tokens would have taken, and that it took.
        usd: at the rent of the chips; None where that is not known.
        slo: ``met`` or ``missed``; None where its class promises no TTFT and TPOT, or it was refused.
    """

    v: int = VERSION
    end: float
    namespace: str
    pool: str
    workload_class: str
    model: str
    accelerator: str
    capacity_type: str
    team: str | None = None
    feature: str | None = None
    tenant: str | None = None
    task: str | None = None
    outcome: str | None = None
    result: str
    input_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int | None = None
    output_tokens: int = 0
    recomputed_tokens: int = 0
    recomputed_cause: str | None = None
    saved_seconds: float = 0.0
    ttft_seconds: float | None = None
    tpot_seconds: float | None = None
    seconds: float = 0.0
    accelerator_seconds: float = 0.0
    usd: float | None = 0.0
    revenue_usd: float | None = None
    slo: str | None = None


class PaidRecord(msgspec.Struct, tag_field="type", tag="paid", gc=False, kw_only=True):
    """What a pool's chips of one kind were paid in one minute, whoever they served.

    Every router tells the same; a reader takes the largest of a (start, namespace, pool, accelerator, capacity_type).
    """

    v: int = VERSION
    start: float
    end: float
    namespace: str
    pool: str
    accelerator: str
    capacity_type: str
    accelerator_seconds: float
    usd: float | None
    source: str


class LostRecord(msgspec.Struct, tag_field="type", tag="lost", gc=False, kw_only=True):
    """Records that nobody will find in the file: dropped for want of room, or in memory when a process was killed."""

    v: int = VERSION
    start: float
    end: float
    records: int
    source: str


Record = RequestRecord | PaidRecord | LostRecord
