"""From the replicas that run to the replicas a plan wants, without ever losing capacity that is needed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Running:
    """One option of a pool as it runs.

    Attributes:
        desired: replicas now asked for; ready: replicas that serve.
        coverage: requests per second that one ready replica carries at planning utilisation.
        usd_per_hour: rent of one replica.
    """

    desired: int
    ready: int
    coverage: float
    usd_per_hour: float


def next_replicas(
    target: Mapping[str, int], running: Mapping[str, Running], *, required: float, may_lower: bool = True
) -> dict[str, int]:
    """Replicas to ask for now, by option key: up at once, down only as far as what is ready still carries the demand.

    The capacity that is ready and stays never falls below the smaller of ``required`` and what is ready at present.
    The dearest surplus replicas go first.

    Args:
        target: replicas the plan wants; a key that is absent means none.
        running: what runs, by option key.
        required: requests per second that must stay covered.
        may_lower: false holds every option at its present replicas or above (unknown demand, a fresh leader).
    """
    wanted = {key: target.get(key, 0) for key in {*target, *running}}
    result = {key: count if key not in running else max(count, running[key].desired) for key, count in wanted.items()}
    if not may_lower:
        return result
    serving = {key: min(one.ready, result[key]) * one.coverage for key, one in running.items()}
    floor = min(required, sum(one.ready * one.coverage for one in running.values()))
    surplus = [key for key, one in running.items() if wanted[key] < one.desired]
    for key in sorted(surplus, key=lambda k: (-running[k].usd_per_hour / max(running[k].coverage, 1e-12), k)):
        one = running[key]
        others = sum(serving.values()) - serving[key]
        needed = 0 if one.coverage <= 0 else max(0, _ceil((floor - others) / one.coverage))
        result[key] = max(wanted[key], min(one.desired, needed))
        serving[key] = min(one.ready, result[key]) * one.coverage
    return result


def _ceil(value: float) -> int:
    whole = int(value)
    return whole if value <= whole + 1e-9 else whole + 1
