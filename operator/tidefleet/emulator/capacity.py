"""What an engine can do with one token shape: a table over batch size, and the exact drain of a fluid through it.

The rate X(n) at which n requests in the batch finish is ``n / (O * TPOT(n))`` (Little's law), and TPOT is that of the
cost model: ``T_d(n) + (n / O) * T_p``. X is taken as linear between the points of the table, so the number of requests
in an engine, ``dn/dt = arrivals - X(n)``, has a closed solution on every piece. A step of a minute therefore gives the
same state as sixty steps of a second, whatever clock the fleet runs on.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tidefleet.economics.memory import kv_bytes, kv_bytes_per_token, replica_memory
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill
from tidefleet.economics.serving import MAX_BATCH

BLOCK_TOKENS = 16
"""Tokens of one KV block (vLLM's default on an accelerator)."""

_GRID = 1.12
"""Ratio of neighbouring batch sizes in the table; the rate between them is then within 0.3 % of the formula."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Mean tokens of a request: prompt (cached part included), output, and the cached share of the prompt in 0..1.

    ``tier_share`` is what comes beside that from the KV tiers of an engine that has one; fetching takes no time.
    """

    input_tokens: float = 1000.0
    output_tokens: float = 200.0
    cached_share: float = 0.0
    tier_share: float = 0.0

    @property
    def found_share(self) -> float:
        """Share of the prompt that is not computed."""
        return min(1.0, self.cached_share + self.tier_share)


class DoesNotFit(ValueError):
    """The weights leave no room for a KV cache: a real engine would not start."""


class Capacity:
    """Rate and latency over batch size for one replica and one shape.

    Attributes:
        limit: most requests in the batch: KV room for whole requests, or the cap on sequences.
        peak: requests per second at ``limit``.
        prefill_seconds: T_p of a mean request.
        kv_share: share of the KV room that one request holds, as admission reserves it.
    """

    def __init__(self, replica: Replica, shape: Shape, max_sequences: int) -> None:
        output = shape.output_tokens
        fit = replica_memory(replica)
        if fit.kv_room <= 0:
            raise DoesNotFit(
                f"{replica.model.name} in {replica.weights} on {replica.chips} x {replica.accelerator.name}: weights "
                f"and engine need {(fit.usable - fit.kv_room) / 1e9:.1f} GB a chip of {fit.usable / 1e9:.1f} GB usable"
            )
        room = fit.kv_room * replica.chips
        self.kv_share = kv_bytes(replica.model, replica.kv, replica.tp, shape.input_tokens + output) / room
        self.limit = max(1.0, min(1.0 / self.kv_share, float(max_sequences or MAX_BATCH)))
        steps = max(1, math.ceil(math.log(self.limit) / math.log(_GRID)))
        batch = np.unique(np.append(np.geomspace(1.0, self.limit, steps + 1), self.limit))
        step = decode_step(replica, batch, shape.input_tokens + output / 2.0)
        uncached = shape.input_tokens * (1.0 - shape.found_share)
        one = prefill(replica, uncached, shape.input_tokens - uncached)
        self.prefill_seconds = float(one.seconds[0])
        tpot = step.seconds + batch / output * self.prefill_seconds / replica.data_parallel
        rate = np.maximum.accumulate(batch / (output * tpot))
        self.peak = float(rate[-1])
        self._batch: list[float] = batch.tolist()
        self._tpot: list[float] = tpot.tolist()
        self._decode: list[float] = step.seconds.tolist()
        self._rates: list[float] = rate.tolist()
        self._curves: dict[int, tuple[list[float], list[float]]] = {}

    def tpot(self, batch: float) -> float:
        """Mean seconds between two output tokens of one request."""
        return _interpolate(self._batch, self._tpot, batch)

    def decode_seconds(self, batch: float) -> float:
        """Seconds of one decode step, T_d."""
        return _interpolate(self._batch, self._decode, batch)

    def prefill_share(self, batch: float) -> float:
        """Share of time spent on prefill, which is the load on the queue of prefills."""
        rate = _interpolate(self._batch, self._rates, batch) if batch >= 1.0 else batch * self._rates[0]
        return min(0.999, max(1e-9, rate * self.prefill_seconds))

    def rate(self, requests: float, streams: int = 0) -> float:
        """Requests per second finished by a fluid of so many, beside so many real streams in the same batch."""
        counts, rates = self._curve(streams)
        return _interpolate(counts, rates, requests)

    def room(self, streams: int) -> float:
        """Fluid requests that find a place in the batch beside so many streams."""
        return self._curve(streams)[0][-1]

    def drain(self, requests: float, arrivals: float, seconds: float, streams: int = 0) -> float:
        """Requests present after ``seconds`` with ``arrivals`` per second, from ``requests`` at the start."""
        counts, rates = self._curve(streams)
        n, left = requests, seconds
        for _ in range(2 * len(counts) + 4):
            if left <= 0.0:
                break
            net = arrivals - _interpolate(counts, rates, n)
            if abs(net) <= 1e-12 * (1.0 + arrivals):
                break
            if n > counts[-1] or (n == counts[-1] and net > 0.0):
                if net > 0.0:
                    return n + net * left
                reach = (counts[-1] - n) / net
                if reach >= left:
                    return n + net * left
                n, left = counts[-1], left - reach
                continue
            index = bisect_right(counts, n) if net > 0.0 else bisect_left(counts, n)
            index = min(max(index, 1), len(counts) - 1)
            edge = counts[index] if net > 0.0 else counts[index - 1]
            slope = (rates[index] - rates[index - 1]) / (counts[index] - counts[index - 1])
            if slope <= 1e-15:
                reach = (edge - n) / net
            else:
                share = (edge - n) * slope / net
                reach = math.inf if share >= 1.0 else -math.log1p(-share) / slope
            if reach >= left:
                grown = net * left if slope <= 1e-15 else net / slope * -math.expm1(-slope * left)
                return max(0.0, n + grown)
            n, left = edge, left - reach
        return max(0.0, n)

    def _curve(self, streams: int) -> tuple[list[float], list[float]]:
        """Points (fluid requests, their rate): ``X(n + d) * n / (n + d)`` beside d streams; the first is (0, 0)."""
        if streams not in self._curves:
            if len(self._curves) > 64:
                self._curves.clear()
            counts, rates = [0.0], [0.0]
            for batch, rate in zip(self._batch, self._rates, strict=True):
                if batch - streams > 1e-9:
                    counts.append(batch - streams)
                    rates.append(rate * (batch - streams) / batch)
            if len(counts) == 1:  # streams fill the batch: the fluid keeps a sliver so that it is never stuck for ever
                counts.append(1.0)
                rates.append(self._rates[-1] / (streams + 1.0))
            self._curves[streams] = (counts, rates)
        return self._curves[streams]


def _interpolate(xs: list[float], ys: list[float], x: float) -> float:
    index = bisect_right(xs, x)
    if index == 0:
        return ys[0]
    if index == len(xs):
        return ys[-1]
    low = xs[index - 1]
    return ys[index - 1] + (ys[index] - ys[index - 1]) * (x - low) / (xs[index] - low)


class Tables:
    """The tables of one kind of engine, by shape; all engines of a kind share them."""

    def __init__(self, replica: Replica, max_sequences: int = 0) -> None:
        self._held = _Held(replica, (_identity(replica), max_sequences), max_sequences)

    def at(self, shape: Shape) -> Capacity:
        """The table for a shape that `rounded` returned.

        Raises:
            DoesNotFit: the weights leave no KV room.
        """
        return _capacity(self._held, shape)


def rounded(shape: Shape) -> Shape:
    """The shape within half a per cent, so that a drifting mix does not ask for a new table at every step."""
    return Shape(_near(shape.input_tokens), _near(shape.output_tokens), round(shape.found_share, 2))


def _near(value: float) -> float:
    return math.exp(round(100.0 * math.log(max(1.0, value))) / 100.0)


def kv_tokens(replica: Replica) -> int:
    """Tokens that the KV cache of a replica holds; at least one block."""
    fit = replica_memory(replica)
    each = kv_bytes_per_token(replica.model, replica.kv, replica.tp)
    return max(BLOCK_TOKENS, int(fit.kv_room * replica.chips / each))


def _identity(replica: Replica) -> tuple[object, ...]:
    """What tells two replicas apart; a `Replica` holds a mapping and so has no hash of its own."""
    chip = replica.accelerator
    figures = (chip.name, chip.memory_bytes, chip.memory_bytes_per_second, tuple(sorted(chip.flops.items())))
    links = (chip.scale_up_bytes_per_second, chip.scale_up_domain, chip.scale_out_bytes_per_second)
    return (replica.model, figures, links, replica.chips, replica.weights, replica.kv, replica.efficiency)


class _Held:
    """A replica that can stand in a cache's key."""

    def __init__(self, replica: Replica, identity: tuple[object, ...], max_sequences: int) -> None:
        self.replica, self.max_sequences = replica, max_sequences
        self._identity, self._hash = identity, hash(identity)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and self._identity == other._identity


@lru_cache(maxsize=4096)
def _capacity(held: _Held, shape: Shape) -> Capacity:
    return Capacity(held.replica, shape, held.max_sequences)
