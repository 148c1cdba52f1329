"""Prefill and decode on replicas of their own: the cheapest pair of options for a pool's classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tidefleet.economics.architecture import Architecture
from tidefleet.economics.disaggregated import Disaggregated
from tidefleet.economics.evidence import Correction
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import Estimate
from tidefleet.planning.evidence import NO_EVIDENCE, Evidence
from tidefleet.planning.options import (
    ANY_TYPE,
    PLANNING_UTILISATION,
    Allowed,
    ClassDemand,
    EstimateMemo,
    Offer,
    default_widths,
    electricity_usd_per_hour,
    mixed_rate,
    nearer,
    owner_kilowatts,
)

_SHORTLIST = 3


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a pair: what a replica is, what it costs, and the requests per second it sustains of the mix."""

    accelerator: str
    chips: int
    weights: str
    usd_per_hour: float
    requests_per_second: float

    def replicas(self, requests_per_second: float) -> int:
        """Whole replicas for this demand at planning utilisation."""
        return max(1, math.ceil(requests_per_second / (self.requests_per_second * PLANNING_UTILISATION) - 1e-9))

    def __str__(self) -> str:
        return f"{self.accelerator} ({self.weights.lower()}, tp{self.chips})"


@dataclass(frozen=True, slots=True)
class Apart:
    """A prefill side and a decode side that serve a pool together."""

    prefill: Side
    decode: Side

    def usd_per_hour(self, requests_per_second: float) -> float:
        """Rent of both sides in whole replicas."""
        return sum(side.replicas(requests_per_second) * side.usd_per_hour for side in (self.prefill, self.decode))

    def describe(self, requests_per_second: float) -> str:
        """The pair as a phrase, e.g. ``prefill 2 h100-sxm (fp8, tp2) + decode 3 h200-sxm (fp8, tp2)``."""
        first, second = (side.replicas(requests_per_second) for side in (self.prefill, self.decode))
        return f"prefill {first} {self.prefill} + decode {second} {self.decode}"


class _Ranked(NamedTuple):
    """One side alone: USD for one request per second and hour, cost in USD per hour, and what was measured of it."""

    usd: float
    replica: Replica
    rent: float
    correction: Correction
    round_trip_seconds: float


def find_pairs(
    model: Architecture,
    offers: Sequence[Offer],
    classes: Sequence[ClassDemand],
    allowed: Mapping[str, Allowed],
    *,
    default_weights: str,
    default_kv: str,
    prefill_only: Sequence[str] = (),
    prefill_per_decode: tuple[float, float] = (0.0, math.inf),
    evidence: Evidence = NO_EVIDENCE,
    memo: EstimateMemo | None = None,
) -> tuple[Apart, ...]:
    """The cheapest pair that meets every class's objectives, if there is any.

    Each side is ranked by what a request costs there alone; the best few of both are then tried together, with transfer
    and shared objectives.

    Args:
        allowed: accelerator types by name that may take part; ``ANY_TYPE`` stands for all.
        prefill_only: types that may only prefill, named ones beside those that the catalogue marks.
        prefill_per_decode: least and most prefill replicas for one decode replica.
        memo: remembers estimates from one plan to the next.
    """
    memo = memo or EstimateMemo()
    first: list[_Ranked] = []
    second: list[_Ranked] = []
    for offer in offers:
        name = offer.accelerator.name
        wish = allowed.get(name, allowed.get(ANY_TYPE))
        if name in prefill_only and wish is None:
            wish = Allowed()
        if wish is None or wish.refused or offer.plan_only:
            continue
        paid = [kind for kind in wish.capacity_types or ("OnDemand",) if kind in offer.prices]
        if not paid:
            continue
        cheapest = min(paid, key=lambda kind: offer.prices[kind].usd_per_chip_hour)
        price = offer.prices[cheapest]
        only_prefill = name in prefill_only or not offer.serves_aggregated
        for width in wish.tensor_parallel or default_widths(offer.accelerator):
            for weights in wish.weights or (default_weights,):
                for kv in wish.kv or (default_kv,):
                    replica = evidence.on(Replica(model, offer.accelerator, width, weights, kv))
                    rent = price.usd_per_chip_hour * width
                    correction = evidence.correction(replica, offer.profiles)
                    for role, side in (("Prefill", first), ("Decode", second)):
                        if role == "Decode" and only_prefill:
                            continue
                        found = [memo.get(replica, one.shape, (), correction, role=role) for one in classes]
                        estimates = [one for one in found if isinstance(one, Estimate)]
                        if len(estimates) == len(found):
                            rate = mixed_rate(classes, estimates)
                            power = owner_kilowatts(offer, cheapest, classes, estimates)
                            usd = rent + electricity_usd_per_hour(offer, power, rent)
                            side.append(_Ranked(usd / rate, replica, usd, correction, offer.round_trip_seconds))
    best: tuple[float, Apart] | None = None
    for sender in sorted(first, key=lambda one: one.usd)[:_SHORTLIST]:
        for receiver in sorted(second, key=lambda one: one.usd)[:_SHORTLIST]:
            if sender.replica.kv != receiver.replica.kv:
                continue
            far = max(sender.round_trip_seconds, receiver.round_trip_seconds)
            both = [
                memo.pair(
                    sender.replica,
                    receiver.replica,
                    one.shape,
                    nearer(one.objectives, far),
                    prefill_correction=sender.correction,
                    decode_correction=receiver.correction,
                )
                for one in classes
            ]
            pairs = [one for one in both if isinstance(one, Disaggregated)]
            if len(pairs) < len(both):
                continue
            into = mixed_rate(classes, [one.prefill for one in pairs])
            out = mixed_rate(classes, [one.decode for one in pairs])
            if not prefill_per_decode[0] <= out / into <= prefill_per_decode[1]:
                continue
            usd = sender.rent / into + receiver.rent / out
            if best is None or usd < best[0]:
                best = usd, Apart(_side(sender, into), _side(receiver, out))
    return (best[1],) if best else ()


def _side(one: _Ranked, rate: float) -> Side:
    replica = one.replica
    return Side(replica.accelerator.name, replica.chips, replica.weights, one.rent, rate)
