"""What goes wrong in a fleet, drawn before anything happens: the same seed breaks the same nodes at the same times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from zlib import crc32

import numpy as np

from tidefleet.simulator.fleet.spec import FleetSpec

HOUR = 3600.0


class Kind(StrEnum):
    """What happens to a node."""

    FAILURE = "failure"
    """Its devices or its host fail; it is there again after its repair, with nothing on it."""
    CRASH = "crash"
    """One engine on it ends and starts again."""
    RECLAIM = "reclaim"
    """Who rents it out takes it back for a while."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a node (by its number in the fleet), seconds of the scenario's clock."""

    at: float
    until: float
    node: int
    kind: Kind


def drawn(spec: FleetSpec, spot: Sequence[bool], replicas: Sequence[int], *, seed: int) -> tuple[Fault, ...]:
    """All faults of a scenario in order of time.

    Failures and crashes come as Poisson processes, each node with its own stream of numbers, so that a fleet with one
    node more breaks the others at the same times. ``spot_reclaims_per_hour`` is of each spot node; a storm takes its
    share of the spot nodes that there are, at once.

    Args:
        spot: of each node, whether it is spot; replicas: how many are on it.
    """
    faults, found = spec.faults, list[Fault]()
    for node, count in enumerate(replicas):
        if faults.node_hours_between_failures is not None:
            rate = 1.0 / faults.node_hours_between_failures
            for at in _times(rate, spec.seconds, [seed, crc32(b"failure"), node]):
                found.append(Fault(at, at + faults.node_repair_seconds, node, Kind.FAILURE))
        if faults.engine_hours_between_failures is not None:
            rate = count / faults.engine_hours_between_failures
            for at in _times(rate, spec.seconds, [seed, crc32(b"crash"), node]):
                found.append(Fault(at, at + faults.engine_restart_seconds, node, Kind.CRASH))
        if spot[node] and faults.spot_reclaims_per_hour > 0:
            for at in _times(faults.spot_reclaims_per_hour, spec.seconds, [seed, crc32(b"reclaim"), node]):
                found.append(Fault(at, at + faults.spot_return_seconds, node, Kind.RECLAIM))
    if faults.spot_storm_at_seconds is not None:
        there = np.flatnonzero(np.asarray(spot, dtype=np.bool_))
        rng = np.random.default_rng([seed, crc32(b"storm")])
        hit = sorted(rng.permutation(there)[: round(faults.spot_storm_share * len(there))].tolist())
        at = faults.spot_storm_at_seconds
        found += [Fault(at, at + faults.spot_return_seconds, node, Kind.RECLAIM) for node in hit]
    return tuple(sorted(found, key=lambda one: (one.at, one.node, one.kind)))


def _times(per_hour: float, seconds: float, key: list[int]) -> Iterator[float]:
    rng = np.random.default_rng(key)
    at = 0.0
    while True:
        at += float(rng.exponential(HOUR / per_hour))
        if at >= seconds:
            return
        yield at
