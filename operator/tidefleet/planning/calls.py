"""Demand that classes make of each other: tasks of an agent call an embedding model, and so on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from graphlib import CycleError, TopologicalSorter

from tidefleet.api import Reason, WorkloadClass
from tidefleet.planning.from_api import declared_rate, number, with_demand
from tidefleet.planning.observed import called_rates

MOST_REQUESTS_PER_SECOND = 1e12
"""No chain of calls asks for more: numbers stay finite whatever is stated."""

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Called:
    """What other classes ask of one: requests per second, and the names of those that call it directly."""

    requests_per_second: float
    callers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Calls:
    """What calls come to.

    Attributes:
        called: by namespace and name of the class that is called; only where something is asked for.
        faults: reason and message by class: a circle, or a class that does not exist. Such calls count for nothing.
    """

    called: Mapping[Key, Called] = field(default_factory=dict)
    faults: Mapping[Key, tuple[Reason, str]] = field(default_factory=dict)


def calls_between(classes: Sequence[WorkloadClass]) -> Calls:
    """What declared demand of classes implies for the classes that they call, and those for the ones they call.

    A declared rate is what arrives from outside, in requests: ``callsPerTask`` of them are one task, which makes the
    calls. Calls of a measured class are measured where they arrive, and imply nothing here.
    """
    spaces: dict[str, dict[str, WorkloadClass]] = defaultdict(dict)
    for one in classes:
        spaces[one.namespace][one.name] = one
    called: dict[Key, Called] = {}
    faults: dict[Key, tuple[Reason, str]] = {}
    for namespace, members in spaces.items():
        if not any(one.spec.calls for one in members.values()):
            continue
        calls = {name: {c.class_name: number(c.per_task) for c in one.spec.calls} for name, one in members.items()}
        for name, targets in calls.items():
            for index, other in enumerate(targets):
                if other not in members:
                    path, expected = f"spec.calls[{index}].class", "a usable WorkloadClass of the same namespace"
                    message = (
                        f'{members[name]}: {path} is "{other}"; expected {expected}, e.g. {_another(name, members)}'
                    )
                    faults[namespace, name] = (Reason.CLASS_NOT_FOUND, message)
        for name, circle in _circles(calls).items():
            message = (
                f"{members[name]}: spec.calls comes back to the class: {' -> '.join(circle)}; expected calls that do "
                "not, e.g. one call less. Calls of these classes count for nothing"
            )
            faults[namespace, name] = (Reason.CALL_CYCLE, message)
        sound = {
            name: {other: per_task for other, per_task in targets.items() if other in members}
            for name, targets in calls.items()
            if faults.get((namespace, name), (None,))[0] is not Reason.CALL_CYCLE
        }
        own = {name: declared_rate(one) or 0.0 for name, one in members.items()}
        per_task = {name: max(1e-9, number(one.spec.calls_per_task, 1.0)) for name, one in members.items()}
        rates = called_rates(
            {name: rate / per_task[name] for name, rate in own.items()}, sound, calls_per_task=per_task
        )
        for name, rate in rates.items():
            more = min(rate, MOST_REQUESTS_PER_SECOND) - own[name]
            if more > 1e-9 * max(1.0, own[name]):
                callers = sorted(other for other, targets in sound.items() if targets.get(name) and rates[other] > 0.0)
                called[namespace, name] = Called(more, tuple(callers))
    return Calls(called, faults)


def with_called(wclass: WorkloadClass, called: Called | None) -> WorkloadClass:
    """A class whose declared demand includes what others ask of it; a measured one as it is."""
    own = declared_rate(wclass)
    if called is None or own is None:
        return wclass
    rate = Decimal(repr(own + called.requests_per_second))
    return with_demand(wclass, requests_per_second=rate)


def _another(name: str, members: Mapping[str, WorkloadClass]) -> str:
    return next((one for one in sorted(members) if one != name), "embed")


def _circles(calls: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[str, ...]]:
    """The classes that reach themselves by calls, each with the shortest way back."""
    try:
        TopologicalSorter(calls).prepare()
    except CycleError:
        pass
    else:
        return {}
    found = {}
    for start, targets in calls.items():
        came: dict[str, str] = dict.fromkeys(targets, start)
        pending = list(came)
        while pending and start not in came:
            pending = _further(pending, calls, came)
        if start in came:
            way = [start]
            while len(way) < 2 or way[-1] != start:
                way.append(came[way[-1]])
            found[start] = tuple(reversed(way))
    return found


def _further(pending: Sequence[str], calls: Mapping[str, Mapping[str, float]], came: dict[str, str]) -> list[str]:
    """One call further from each of these classes; ``came`` says from where each was reached first."""
    reached = []
    for name in pending:
        for other in calls.get(name, {}):
            if other not in came:
                came[other] = name
                reached.append(other)
    return reached
