"""The published routing policies of Dynamo and llm-d, as their documentation describes them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar

from tidefleet.simulator.engine.facts import Facts
from tidefleet.simulator.engine.holders import Held
from tidefleet.simulator.engine.job import Job
from tidefleet.simulator.engine.replica import Replica
from tidefleet.simulator.policy import Choice, Placed, Policy, held_blocks
from tidefleet.simulator.scenario import Class


class Dynamo(Policy):
    """Dynamo's KV router: the least ``scale * (prefill load + prompt - credit * overlap) + decode load``, in tokens.

    Prefill load is the uncached prompt tokens sent to a worker whose first token did not come yet; decode load the
    blocks of its active requests, shared ones once, with the request's own (Dynamo's documentation, "Routing Concepts",
    linear score; scale and credit are 1 by default).
    """

    name = "dynamo"
    reads_index = True
    scale: ClassVar[float] = 1.0
    credit: ClassVar[float] = 1.0

    def __init__(self, facts: Facts, classes: Mapping[str, Class], *, seed: int = 0, refuses: bool = False) -> None:
        super().__init__(facts, classes, seed=seed, refuses=refuses)
        self._prefill: Counter[int] = Counter()
        self._active: dict[int, Counter[int]] = {}
        self._decode: Counter[int] = Counter()
        self._owed: dict[int, tuple[int, int]] = {}
        self._sent: dict[int, tuple[int, list[int]]] = {}

    def removed(self, number: int, now: float) -> None:
        self._active.pop(number, None)
        self._prefill.pop(number, None)
        self._decode.pop(number, None)

    def place(self, job: Job, among: Sequence[Replica], hits: Held | None, now: float) -> Choice:
        size, keys, best = job.block_size, job.keys, (float("inf"), 0, 0)
        turn, count = next(self._turn), len(among)
        for place, (replica, blocks) in enumerate(zip(among, held_blocks(among, hits), strict=True)):
            number = replica.number
            overlap = min(blocks * size, job.tokens)
            active = self._active.setdefault(number, Counter())
            fresh = sum(1 for key in keys if key not in active) * size + job.tokens - len(keys) * size
            prefill = max(0.0, self._prefill[number] + job.tokens - self.credit * overlap)
            cost = self.scale * prefill + self._decode[number] + fresh
            best = min(best, (cost, (place - turn) % count, place))
        replica = among[best[2]]
        overlap = min(held_blocks([replica], hits)[0] * size, job.tokens)
        self._begin(job, replica.number, job.tokens - overlap)
        return Placed(replica.number)

    def _begin(self, job: Job, number: int, uncached: int) -> None:
        active = self._active[number]
        for key in job.keys:
            if not active[key]:
                self._decode[number] += job.block_size
            active[key] += 1
        self._decode[number] += job.tokens - len(job.keys) * job.block_size
        self._prefill[number] += uncached
        self._owed[job.number] = (number, uncached)
        self._sent[job.number] = (number, list(job.keys))

    def first(self, job: Job, now: float) -> None:
        number, uncached = self._owed.pop(job.number, (-1, 0))
        if number in self._active:
            self._prefill[number] -= uncached

    def ended(self, job: Job, now: float) -> None:
        self.first(job, now)
        number, keys = self._sent.pop(job.number, (-1, []))
        active = self._active.get(number)
        if active is None:
            return
        for key in keys:
            active[key] -= 1
            if not active[key]:
                del active[key]
                self._decode[number] -= job.block_size
        self._decode[number] -= job.tokens - len(keys) * job.block_size


class DynamoTuned(Dynamo):
    """The same with prefill load weighted more, as its tuning guide has it where the time to the first token counts."""

    name = "dynamo_tuned"
    scale = 4.0


class Llmd(Policy):
    """llm-d with precise prefix scores, until an endpoint is saturated.

    Score = 2 * share of the prompt's blocks held + (1 - KV usage) + queue score, the shortest queue 1 and the longest
    0; the highest wins. Endpoints with more than 5 requests in their queue or more than 80 % of KV in use are left out
    as long as there are others (the thresholds of the inference extension's saturation detector).
    """

    name = "llmd"
    reads_index = True
    prefix_weight: ClassVar[float] = 2.0
    most_queued: ClassVar[float] = 5.0
    most_kv: ClassVar[float] = 0.8

    def place(self, job: Job, among: Sequence[Replica], hits: Held | None, now: float) -> Choice:
        fit = [one for one in among if one.queued <= self.most_queued and one.kv_usage <= self.most_kv] or among
        shares = self._shares(job, fit, hits)
        queues = [one.queued for one in fit]
        low, high = min(queues), max(queues)
        spread = float(high - low)
        turn, count, best = next(self._turn), len(fit), (float("inf"), 0, 0)
        for place, replica in enumerate(fit):
            queue = (high - replica.queued) / spread if spread else 1.0
            score = self.prefix_weight * shares[place] + (1.0 - replica.kv_usage) + queue
            best = min(best, (-score, (place - turn) % count, place))
        replica = fit[best[2]]
        self._sent(job, replica)
        return Placed(replica.number)

    def _shares(self, job: Job, among: Sequence[Replica], hits: Held | None) -> list[float]:
        blocks = max(1, len(job.keys))
        return [held / blocks for held in held_blocks(among, hits)]

    def _sent(self, job: Job, replica: Replica) -> None:
        """Learn from the placement; precise scores need not."""


class LlmdPrecise(Llmd):
    """llm-d's precise prefix scorer with queue and KV scorers, without thresholds."""

    name = "llmd_precise"
    most_queued = float("inf")
    most_kv = float("inf")


class LlmdApproximate(LlmdPrecise):
    """llm-d's approximate prefix scorer: what it sent where, without knowing what engines still hold.

    Prefix, queue and KV usage weigh alike, as where a configuration gives no weights; with 1.5 for the prefix it places
    shared prompts as the precise scorer does. It looks at the first 4,096 tokens (256 chunks of about 16) and
    takes an endpoint to keep 500,000 (31,250 chunks), whatever its KV room is: the inference extension's defaults.
    """

    name = "llmd_approximate"
    reads_index = False
    prefix_weight = 1.0
    looked_at_tokens: ClassVar[int] = 4096
    kept_tokens: ClassVar[int] = 500_000

    def __init__(self, facts: Facts, classes: Mapping[str, Class], *, seed: int = 0, refuses: bool = False) -> None:
        super().__init__(facts, classes, seed=seed, refuses=refuses)
        self._kept: dict[int, OrderedDict[int, None]] = {}

    def removed(self, number: int, now: float) -> None:
        self._kept.pop(number, None)

    def _shares(self, job: Job, among: Sequence[Replica], hits: Held | None) -> list[float]:
        keys = self._keys(job)
        found = []
        for replica in among:
            kept = self._kept.setdefault(replica.number, OrderedDict())
            held = next((place for place, key in enumerate(keys) if key not in kept), len(keys))
            found.append(held / max(1, len(keys)))
        return found

    def _sent(self, job: Job, replica: Replica) -> None:
        kept = self._kept.setdefault(replica.number, OrderedDict())
        for key in self._keys(job):
            kept[key] = None
            kept.move_to_end(key)
        while len(kept) * job.block_size > self.kept_tokens:
            kept.popitem(last=False)

    def _keys(self, job: Job) -> list[int]:
        return job.keys[: max(1, self.looked_at_tokens // job.block_size)]


PEERS: tuple[type[Policy], ...] = (Dynamo, DynamoTuned, Llmd, LlmdPrecise, LlmdApproximate)
