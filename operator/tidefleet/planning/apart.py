"""Prefill and decode on replicas of their own: the cheapest pair of options for a pool's classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidefleet.economics.architecture import Architecture
from tidefleet.economics.disaggregated import Disaggregated, pair
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.planning.evidence import NO_EVIDENCE, Evidence
from tidefleet.planning.options import ANY_TYPE, PLANNING_UTILISATION, Allowed, ClassDemand, Offer, default_widths

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
) -> tuple[Apart, ...]:
    """The cheapest pair that meets every class's objectives, if there is any.

    Each side is ranked by what a request costs there alone; the best few of both are then tried together, with transfer
    and shared objectives.

    Args:
        allowed: accelerator types by name that may take part; ``ANY_TYPE`` stands for all.
        prefill_only: types that may only prefill, named ones beside those that the catalogue marks.
        prefill_per_decode: least and most prefill replicas for one decode replica.
    """
    first: list[tuple[float, Replica, float]] = []
    second: list[tuple[float, Replica, float]] = []
    for offer in offers:
        name = offer.accelerator.name
        wish = allowed.get(name, allowed.get(ANY_TYPE))
        if name in prefill_only and wish is None:
            wish = Allowed()
        if wish is None or wish.refused or offer.plan_only:
            continue
        paid = [offer.prices[kind] for kind in wish.capacity_types or ("OnDemand",) if kind in offer.prices]
        if not paid:
            continue
        price = min(paid, key=lambda one: one.usd_per_chip_hour)
        only_prefill = name in prefill_only or not offer.serves_aggregated
        for width in wish.tensor_parallel or default_widths(offer.accelerator):
            for weights in wish.weights or (default_weights,):
                for kv in wish.kv or (default_kv,):
                    replica = Replica(model, offer.accelerator, width, weights, kv)
                    rent = price.usd_per_chip_hour * width
                    correction = evidence.correction(replica, offer.profiles)
                    for role, side in (("Prefill", first), ("Decode", second)):
                        if role == "Decode" and only_prefill:
                            continue
                        found = [estimate(replica, one.shape, (), role=role, correction=correction) for one in classes]
                        if all(isinstance(one, Estimate) for one in found):
                            rate = _mixed(classes, [one for one in found if isinstance(one, Estimate)])
                            side.append((rent / rate, replica, rent))
    best: tuple[float, Apart] | None = None
    for _, sender, rent in sorted(first, key=lambda one: one[0])[:_SHORTLIST]:
        for _, receiver, other in sorted(second, key=lambda one: one[0])[:_SHORTLIST]:
            both = [pair(sender, receiver, one.shape, one.objectives) for one in classes]
            pairs = [one for one in both if isinstance(one, Disaggregated)]
            if len(pairs) < len(both) or sender.kv != receiver.kv:
                continue
            into = _mixed(classes, [one.prefill for one in pairs])
            out = _mixed(classes, [one.decode for one in pairs])
            if not prefill_per_decode[0] <= out / into <= prefill_per_decode[1]:
                continue
            usd = rent / into + other / out
            if best is None or usd < best[0]:
                best = usd, Apart(_side(sender, rent, into), _side(receiver, other, out))
    return (best[1],) if best else ()


def _mixed(classes: Sequence[ClassDemand], estimates: Sequence[Estimate]) -> float:
    return 1.0 / sum(one.share / each.planned_requests_per_second for one, each in zip(classes, estimates, strict=True))


def _side(replica: Replica, rent: float, rate: float) -> Side:
    return Side(replica.accelerator.name, replica.chips, replica.weights, rent, rate)
