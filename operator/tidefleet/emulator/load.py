"""Load that is offered to a pool: constant or a curve over the clock, and how it spreads over pods."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidefleet.emulator.capacity import Shape

_EXAMPLE = '{"requestsPerSecond": 12, "inputTokens": 1200, "outputTokens": 250, "cachedShare": 0.2}'
MOST_TOKENS = 10_000_000


@dataclass(frozen=True, slots=True)
class Load:
    """Offered load over time: straight lines between points, the first and last value before and after them.

    Attributes:
        times: Unix seconds of the fleet's clock, rising.
        rates: requests per second at these times.
        input_tokens, output_tokens: means per request at these times.
        cached_share: share of prompt tokens found in the prefix cache, 0..1; ``tier_share`` that of those beside them
            which an engine with a KV tier finds there.
        area: requests offered from the first point up to each.
    """

    times: tuple[float, ...]
    rates: tuple[float, ...]
    input_tokens: tuple[float, ...]
    output_tokens: tuple[float, ...]
    cached_share: float
    area: tuple[float, ...]
    tier_share: float = 0.0

    def rate(self, now: float) -> float:
        """Requests per second at a time."""
        return _at(self.times, self.rates, now)

    def shape(self, now: float) -> Shape:
        """Tokens of a request at a time."""
        return Shape(
            _at(self.times, self.input_tokens, now),
            _at(self.times, self.output_tokens, now),
            self.cached_share,
            self.tier_share,
        )

    def requests(self, start: float, end: float) -> float:
        """Requests offered between two times."""
        return max(0.0, self._area(end) - self._area(start))

    def _area(self, now: float) -> float:
        times = self.times
        if now <= times[0]:
            return (now - times[0]) * self.rates[0]
        index = bisect_right(times, now) - 1
        if index == len(times) - 1:
            return self.area[-1] + (now - times[-1]) * self.rates[-1]
        return self.area[index] + 0.5 * (now - times[index]) * (self.rates[index] + self.rate(now))

    @staticmethod
    def constant(
        requests_per_second: float,
        input_tokens: float,
        output_tokens: float,
        cached_share: float = 0.0,
        tier_share: float = 0.0,
    ) -> Load:
        """The same load at all times."""
        return Load((0.0,), (requests_per_second,), (input_tokens,), (output_tokens,), cached_share, (0.0,), tier_share)


def parse_load(raw: object) -> Load:
    """The load that a JSON object describes: ``requestsPerSecond`` or ``curve``, with token lengths.

    A curve is a list of ``[seconds, requestsPerSecond]`` or ``[seconds, requestsPerSecond, input, output]``.

    Raises:
        ValueError: naming field, value and expectation.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"a load is {type(raw).__name__}; expected an object, e.g. {_EXAMPLE}")
    known = {"requestsPerSecond", "curve", "inputTokens", "outputTokens", "cachedShare", "tierShare"}
    extra = set(raw) - known
    if extra:
        raise ValueError(f"{min(map(str, extra))} is no field of a load; expected {', '.join(sorted(known))}")
    if ("curve" in raw) == ("requestsPerSecond" in raw):
        raise ValueError(f"expected either requestsPerSecond or curve, e.g. {_EXAMPLE}")
    cached = _number("cachedShare", raw.get("cachedShare", 0.0), 0.0, 1.0)
    tiers = _number("tierShare", raw.get("tierShare", 0.0), 0.0, 1.0)
    if cached + tiers > 1.0:
        raise ValueError(f"cachedShare and tierShare are {cached:g} and {tiers:g}; expected at most 1 together")
    if "curve" not in raw:
        rate = _number("requestsPerSecond", raw["requestsPerSecond"], 0.0, 1e9)
        return Load.constant(
            rate,
            _number("inputTokens", raw.get("inputTokens"), 1.0, MOST_TOKENS),
            _number("outputTokens", raw.get("outputTokens"), 1.0, MOST_TOKENS),
            cached,
            tiers,
        )
    curve = raw["curve"]
    if not isinstance(curve, Sequence) or isinstance(curve, str) or not curve:
        raise ValueError("curve is empty or no list; expected e.g. [[1715299200, 3.5], [1715302800, 8]]")
    lengths = {len(point) if isinstance(point, list) else 0 for point in curve}
    if lengths not in ({2}, {4}):
        raise ValueError("curve: expected all points as [seconds, rate] or all as [seconds, rate, input, output]")
    times, rates, inputs, outputs = [], [], [], []
    for index, point in enumerate(curve):
        where = f"curve[{index}]"
        times.append(_number(f"{where}[0]", point[0], -1e12, 1e12))
        rates.append(_number(f"{where}[1]", point[1], 0.0, 1e9))
        given = point[2:] or [raw.get("inputTokens"), raw.get("outputTokens")]
        names = (f"{where}[2]", f"{where}[3]") if point[2:] else ("inputTokens", "outputTokens")
        inputs.append(_number(names[0], given[0], 1.0, MOST_TOKENS))
        outputs.append(_number(names[1], given[1], 1.0, MOST_TOKENS))
        if index and times[-1] <= times[-2]:
            raise ValueError(f"{where}[0] is {times[-1]:g}; expected a time after that of the point before")
    area = [0.0]
    for index in range(1, len(times)):
        area.append(area[-1] + 0.5 * (times[index] - times[index - 1]) * (rates[index] + rates[index - 1]))
    return Load(tuple(times), tuple(rates), tuple(inputs), tuple(outputs), cached, tuple(area), tiers)


def level(requests: float, waiting: Sequence[float], capacities: Sequence[float]) -> list[float]:
    """How a least-loaded balancer spreads requests: it fills the shortest queues, measured in seconds of work.

    With all queues empty the shares are proportional to the capacities.

    Args:
        requests: to spread.
        waiting: requests that wait in each engine.
        capacities: requests per second of each engine; one with 0 gets nothing.

    Returns:
        Requests for each engine; they add up to ``requests`` when any capacity is above 0.
    """
    shares = [0.0] * len(waiting)
    order = sorted(
        (index for index, capacity in enumerate(capacities) if capacity > 0.0),
        key=lambda index: waiting[index] / capacities[index],
    )
    if not order or requests <= 0.0:
        return shares
    taken, held = 0.0, 0.0
    height = 0.0
    for position, index in enumerate(order):
        taken += capacities[index]
        held += waiting[index]
        height = (requests + held) / taken
        following = order[position + 1] if position + 1 < len(order) else None
        if following is None or height <= waiting[following] / capacities[following]:
            order = order[: position + 1]
            break
    for index in order:
        shares[index] = max(0.0, height * capacities[index] - waiting[index])
    return shares


def _at(times: Sequence[float], values: Sequence[float], now: float) -> float:
    index = bisect_right(times, now)
    if index == 0:
        return values[0]
    if index == len(times):
        return values[-1]
    share = (now - times[index - 1]) / (times[index] - times[index - 1])
    return values[index - 1] + share * (values[index] - values[index - 1])


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}, e.g. {_EXAMPLE}")
    if not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}")
    return float(value)
