"""Faults on demand: what a client of an engine can be made to see, and how it shows on the metrics page."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class FaultKind(StrEnum):
    """What goes wrong.

    ``hang``: connections are accepted and nothing is ever answered. ``crash``: connections are refused and all the
    engine knew is lost; lifting it starts the engine afresh. ``counter-reset``: at once, and not kept: all counters
    start at zero. ``slow``: everything takes ``factor`` times as long. ``error-500``: every answer is 500. The others
    change only the metrics page: ``empty-metrics`` (200 with no body), ``nan-metrics``, ``infinite-metrics``,
    ``negative-metrics`` (each value replaced), ``garbage`` (random bytes) and ``truncated`` (cut within a line).
    """

    HANG = "hang"
    CRASH = "crash"
    COUNTER_RESET = "counter-reset"
    SLOW = "slow"
    ERROR_500 = "error-500"
    EMPTY_METRICS = "empty-metrics"
    NAN_METRICS = "nan-metrics"
    INFINITE_METRICS = "infinite-metrics"
    NEGATIVE_METRICS = "negative-metrics"
    GARBAGE = "garbage"
    TRUNCATED = "truncated"


UNROUTABLE = frozenset({FaultKind.HANG, FaultKind.CRASH, FaultKind.ERROR_500})
"""Faults that a load balancer notices: no load is sent to a pod that has one."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; ``factor`` is that of ``slow``."""

    kind: FaultKind
    factor: float = 1.0


def parse_fault(raw: object) -> Fault:
    """The fault that a JSON object describes, e.g. ``{"kind": "slow", "factor": 3}``.

    Raises:
        ValueError: naming field, value and expectation.
    """
    kinds = ", ".join(FaultKind)
    if not isinstance(raw, Mapping):
        raise ValueError(f'a fault is {type(raw).__name__}; expected an object, e.g. {{"kind": "hang"}}')
    extra = set(raw) - {"kind", "factor"}
    if extra:
        raise ValueError(f"{min(map(str, extra))} is no field of a fault; expected kind, and factor with slow")
    try:
        kind = FaultKind(raw.get("kind", ""))
    except ValueError:
        raise ValueError(f"kind is {raw.get('kind')!r}; expected one of {kinds}") from None
    if kind is not FaultKind.SLOW:
        return Fault(kind)
    factor: Any = raw.get("factor")
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not number or not math.isfinite(factor) or not 0.01 <= factor <= 1e6:
        raise ValueError(f"factor is {factor!r}; expected a number from 0.01 to 1000000, e.g. 3 (three times slower)")
    return Fault(kind, float(factor))


class FaultBook:
    """The faults in force, by namespace and pod or pool. One per name; a pod has its own and its pool's."""

    def __init__(self) -> None:
        self._faults: dict[tuple[str, str], Fault] = {}

    def put(self, namespace: str, name: str, fault: Fault) -> None:
        """Set the fault of a pod or pool."""
        self._faults[namespace, name] = fault

    def drop(self, namespace: str, name: str) -> bool:
        """Lift it; False when there was none."""
        return self._faults.pop((namespace, name), None) is not None

    def of(self, namespace: str, names: Iterable[str]) -> tuple[Fault, ...]:
        """Faults set under any of these names."""
        if not self._faults:
            return ()
        return tuple(self._faults[namespace, name] for name in names if (namespace, name) in self._faults)

    def listed(self) -> list[dict[str, object]]:
        """All faults as JSON values."""
        return [
            {"namespace": namespace, "name": name, "kind": fault.kind.value, "factor": fault.factor}
            for (namespace, name), fault in sorted(self._faults.items())
        ]


_VALUE = re.compile(rb"^(?!#)(\S.*) \S+$", re.MULTILINE)


def spoil(page: bytes, faults: Iterable[Fault]) -> bytes:
    """The metrics page as these faults leave it. Garbage is the same bytes every time."""
    for fault in faults:
        match fault.kind:
            case FaultKind.EMPTY_METRICS:
                page = b""
            case FaultKind.NAN_METRICS:
                page = _VALUE.sub(rb"\1 NaN", page)
            case FaultKind.INFINITE_METRICS:
                page = _VALUE.sub(rb"\1 +Inf", page)
            case FaultKind.NEGATIVE_METRICS:
                page = _VALUE.sub(rb"\1 -1.0", page)
            case FaultKind.GARBAGE:
                page = random.Random(7).randbytes(2048)  # noqa: S311  no secret: the same nonsense every time
            case FaultKind.TRUNCATED:
                page = _cut(page)
            case _:
                pass
    return page


def _cut(page: bytes) -> bytes:
    """The page up to the middle of a sample's name, past half of it."""
    line = page.find(b"\nvllm:", len(page) // 2)
    return page[: line + 12] if line >= 0 else page[: len(page) // 2]
