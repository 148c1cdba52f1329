"""The facts of a pool's endpoints in arrays with one element for each, as a pick reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.endpoint import Endpoint

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Columns:
    """Arrays by row; those of tiers have the shape (host, disk, shared; endpoints).

    Attributes:
        facts: p1 to usd, a tuple for each endpoint, for whoever reads numbers one by one.
        slot_range: the lowest and the highest slot.
        has_tier: whether any endpoint has it.
    """

    slots: NDArray[np.intp]
    p1: Floats
    p2: Floats
    floor: Floats
    s0: Floats
    s1: Floats
    s2: Floats
    capacity: Floats
    usd: Floats
    kappa: Floats
    transfer: Floats
    bandwidth: Floats
    latency: Floats
    tier_tokens: Floats
    draining: Mask
    facts: list[tuple[float, ...]]
    slot_range: tuple[int, int]
    has_tier: tuple[bool, ...]
    mean_usd: float

    def _load(self, ends: Sequence[Endpoint]) -> None:
        """Have the arrays say what these endpoints are."""
        rates = [one.rates for one in ends]
        self.slots = np.array([one.slot for one in ends], dtype=np.intp)
        self.p1 = np.array([one.prefill_seconds_per_token for one in rates])
        self.p2 = np.array([one.prefill_seconds_per_pair for one in rates])
        self.floor = np.array([one.prefill_floor_seconds for one in rates])
        self.s0 = np.array([one.step_seconds for one in rates])
        self.s1 = np.array([one.step_seconds_per_sequence for one in rates])
        self.s2 = np.array([one.step_seconds_per_kv_token for one in rates])
        numbers = [one.slot for one in ends]
        self.slot_range = (min(numbers, default=-1), max(numbers, default=-1))
        self.kappa = np.array([one.kv_bytes_per_token for one in rates])
        self.transfer = np.array([one.transfer_bytes_per_second for one in rates])
        self.capacity = np.array([one.kv_capacity_tokens for one in ends])
        self.usd = np.array([one.usd_per_second for one in ends])
        self.mean_usd = float(self.usd.mean()) if ends else 0.0
        columns = (self.p1, self.p2, self.floor, self.s0, self.s1, self.s2, self.capacity, self.usd)
        self.facts = list(zip(*(one.tolist() for one in columns), strict=True))
        shape = (3, len(ends))
        self.bandwidth = np.array([one.tier_bytes_per_second for one in rates]).reshape(len(ends), 3).T.reshape(shape)
        self.has_tier = tuple(bool((one > 0.0).any()) for one in self.bandwidth)
        self.latency = np.array([one.tier_latency_seconds for one in rates]).reshape(len(ends), 3).T.reshape(shape)
        self.tier_tokens = np.array([one.room_of_tiers for one in ends]).reshape(len(ends), 3).T.reshape(shape)
        self.draining = np.array([one.draining for one in ends], dtype=bool)
