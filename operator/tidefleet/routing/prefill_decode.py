"""Prefill by one endpoint and decode by another: whether that is faster than prefilling where the session lives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.endpoints import Endpoints
from tidefleet.routing.request import Ask
from tidefleet.routing.terms import DECODE_WEIGHT, Terms, late_seconds

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Split:
    """A prompt prefilled elsewhere.

    Attributes:
        address: the endpoint that prefills.
        transfer_seconds: its KV on the way to the endpoint that decodes.
        ttft_seconds: wait and prefill there, and the transfer.
    """

    address: str
    transfer_seconds: float
    ttft_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """The best prefill endpoint, and with it the totals of every endpoint that may decode (infinite: not connected)."""

    address: str
    wait: float
    ttft: float
    transfer: Floats
    total: Floats

    def at(self, row: int) -> Split:
        """With one endpoint that decodes."""
        transfer = float(self.transfer[row])
        return Split(self.address, transfer, self.ttft + transfer)


def split(ask: Ask, table: Endpoints, terms: Terms, prefilling: NDArray[np.bool_]) -> Splits:
    """The prefill endpoint with the least time, and what a remote prefill would cost with each endpoint that decodes.

    Only the tokens that the decoding endpoint lacks are sent. A prompt of which little is uncached is prefilled where
    it decodes, because the wait there, its prefill and the harm to running requests are then less than the transfer's
    latency and the prefill endpoint's own forward pass.
    """
    ttft = np.where(prefilling, terms.ttft, np.inf)
    best = int(np.argmin(ttft))
    lacking = float(ask.tokens) - terms.cached
    bandwidth = np.minimum(table.transfer, table.transfer[best])
    with np.errstate(divide="ignore"):
        transfer = table.latency[2] + np.where(bandwidth > 0.0, lacking * table.kappa / bandwidth, np.inf)
    running = DECODE_WEIGHT * terms.load
    harm = terms.harm - running * terms.prefill - terms.crowd + float(terms.crowd[best])
    delay = float(terms.wait[best]) + transfer + terms.decode + harm - terms.evict
    delay = delay + late_seconds(ask, float(ttft[best]) + transfer, terms.tpot)
    work = terms.fetch + terms.evict
    total = delay + work + float(ttft[best] - terms.wait[best])
    if table.mean_usd > 0.0:
        there = float((ttft[best] - terms.wait[best]) * table.usd[best])
        total = (delay * table.mean_usd + work * table.usd + there) / table.mean_usd
    return Splits(terms.addresses[best], float(terms.wait[best]), float(ttft[best]), transfer, total)
