"""The pictures of `tidefleet money -o html`, as SVG: cash flow, cumulative worth, capacity over months, regret."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from tidefleet.cli.money_table import POLICY_WORDS, amount, dollars

COLOURS = {
    "earned": ("#2e8b57", "#6cc48c"),
    "paid": ("#c22a3a", "#ff8095"),
    "path": ("#16202a", "#e8edf2"),
    **{
        f"c{index}": pair
        for index, pair in enumerate(
            (
                ("#2f6fb5", "#5aa9ee"),
                ("#9a5bc4", "#c494ea"),
                ("#d9930d", "#f0b441"),
                ("#3f8f8f", "#6fc7c7"),
                ("#8a6d3b", "#cfae74"),
                ("#5c6bc0", "#9fa8da"),
                ("#ad1457", "#f48fb1"),
                ("#607d3b", "#a5c57a"),
            )
        )
    },
}
PICTURE_STYLE = """
.scroll svg { min-width: 44rem; }
svg text { font-size: 12px; }
.grid { stroke: var(--line); stroke-width: 1; }
.earned { fill: var(--earned); } .paid { fill: var(--paid); }
.path { fill: none; stroke: var(--path); stroke-width: 2; }
.zero { stroke: var(--soft); stroke-width: 1.5; }
@media print { .scroll svg { min-width: 0; } }
"""
_LEFT, _WIDTH, _HEIGHT = 90, 900, 240
_ROW = 24
_MOST_SERIES = 8


def _svg(height: float, words: str, parts: Sequence[str]) -> str:
    label = escape(words, quote=True)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<svg viewBox="0 0 {_LEFT + _WIDTH + 90} {height:.0f}" role="img" aria-label="{label}">'
        f"<title>{escape(words)}</title>" + "".join(parts) + "</svg></div>"
    )


class _Frame:
    """A picture over months 0 to the horizon, with a scale that holds these values.

    ``centred``: each month has a place of its own, as bars need; else months are points from edge to edge.
    """

    def __init__(self, months: int, values: Sequence[float], *, unit: str = "$", centred: bool = False) -> None:
        self.months, self.unit, self.centred = months, unit, centred
        self.step = _nice(max([0.0, *values]) - min([0.0, *values]))
        self.low = math.floor(min([0.0, *values]) / self.step) * self.step
        self.high = max(self.step, math.ceil(max([0.0, *values]) / self.step) * self.step)

    def x(self, month: float) -> float:
        if self.centred:
            return _LEFT + (month + 0.5) / (self.months + 1) * _WIDTH
        return _LEFT + month / max(1, self.months) * _WIDTH

    def y(self, value: float) -> float:
        return 10.0 + (self.high - value) / (self.high - self.low) * (_HEIGHT - 45.0)

    def grid(self) -> Iterator[str]:
        """Lines and words of both axes."""
        for index in range(round((self.high - self.low) / self.step) + 1):
            value = self.low + index * self.step
            at, kind = self.y(value), "zero" if abs(value) < self.step * 1e-9 else "grid"
            told = dollars(value).removesuffix(".00") if self.unit == "$" else amount(value)
            yield f'<line class="{kind}" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{at:.1f}" y2="{at:.1f}"/>'
            yield f'<text class="soft" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{escape(told)}</text>'
        every = next(one for one in (1, 3, 6, 12, 24) if self.months / one <= 12 or one == 24)
        for month in range(0, self.months + 1, every):
            words = "today" if month == 0 else str(month)
            yield (f'<text class="soft" x="{self.x(month):.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{words}</text>')


def _nice(spread: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that cuts the spread into four to ten."""
    if not spread > 0.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(spread / 4.0))
    return next(one * power for one in (5.0, 2.0, 1.0) if spread / (one * power) >= 3.9 or one == 1.0)


def cash(answer: Mapping[str, Any]) -> str:
    """The cash flow of each month as bars, and what it sums to today as a line."""
    rows, months = answer["months"], answer["horizon_months"]
    values = [float(one["cash_flow_usd"]) for one in rows]
    frame = _Frame(months, values, centred=True)
    width = 0.7 * _WIDTH / (months + 1)
    parts = list(frame.grid())
    for month, value in enumerate(values):
        top, bottom = sorted((frame.y(value), frame.y(0.0)))
        kind = "earned" if value >= 0 else "paid"
        parts.append(
            f'<rect class="{kind}" x="{frame.x(month) - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{max(0.5, bottom - top):.1f}"><title>month {month}: {dollars(value)}</title></rect>'
        )
    words = f"Cash flow by month, from {dollars(min(values))} to {dollars(max(values))}"
    return _svg(_HEIGHT, words, parts)


def worth(answer: Mapping[str, Any]) -> str:
    """What the cash flow sums to in today's money by each month."""
    values = [float(one["cumulative_npv_usd"]) for one in answer["months"]]
    frame = _Frame(answer["horizon_months"], values)
    line = " ".join(
        f"{'M' if month == 0 else 'L'}{frame.x(month):.1f},{frame.y(value):.1f}" for month, value in enumerate(values)
    )
    least = min(range(len(values)), key=values.__getitem__)
    words = (
        f"Cumulative net present value: lowest {dollars(values[least])} at month {least}, "
        f"{dollars(values[-1])} at the end"
    )
    return _svg(_HEIGHT, words, [*frame.grid(), f'<path class="path" d="{line}"/>'])


def capacity(answer: Mapping[str, Any], pool: str) -> str:
    """What stands by for a pool in each month, in tokens a month, stacked by type and way; empty without any."""
    series = [one for one in answer["capacity"] if one["pool"] == pool and any(one["tokens"])]
    if not series:
        return ""
    series.sort(key=lambda one: -sum(one["tokens"]))
    names = [f"{one['type']}, {_WAYS[one['way']]}" for one in series]
    stacks = [[float(x) for x in one["tokens"]] for one in series]
    if len(stacks) > _MOST_SERIES:
        rest = [sum(column) for column in zip(*stacks[_MOST_SERIES - 1 :], strict=True)]
        stacks, names = [*stacks[: _MOST_SERIES - 1], rest], [*names[: _MOST_SERIES - 1], "all others"]
    months = answer["horizon_months"]
    totals = [sum(column) for column in zip(*stacks, strict=True)]
    frame = _Frame(months, totals, unit="")
    parts = list(frame.grid())
    base = [0.0] * months
    for index, each in enumerate(stacks):
        top = [low + more for low, more in zip(base, each, strict=True)]
        above = "".join(f"L{frame.x(m):.1f},{frame.y(one):.1f}H{frame.x(m + 1):.1f}" for m, one in enumerate(top))
        below = "".join(
            f"L{frame.x(m + 1):.1f},{frame.y(base[m]):.1f}H{frame.x(m):.1f}" for m in reversed(range(months))
        )
        parts.append(
            f'<path style="fill:var(--c{index})" d="M{frame.x(0):.1f},{frame.y(base[0]):.1f}{above}{below}Z">'
            f"<title>{escape(names[index])}</title></path>"
        )
        base = top
    words = f"Capacity of {pool} in tokens a month: " + ", ".join(
        f"{name} up to {amount(max(each))}" for name, each in zip(names, stacks, strict=True)
    )
    key = "".join(f'<i style="background:var(--c{i})"></i>{escape(name)}' for i, name in enumerate(names))
    return f'<p class="soft key">{key}</p>' + _svg(_HEIGHT, words, parts)


_WAYS = {"Own": "owned", "Reserve": "committed", "Rent": "rented", "External": "by the token"}


def regret(answer: Mapping[str, Any]) -> str:
    """The regret of each policy, in the mean and where it is largest."""
    told = [one for one in answer["policies"] if one["regret_usd"] is not None]
    most = max([1e-9, *(float(one["most_regret_usd"]) for one in told)])
    parts = []
    for index, one in enumerate(told):
        at = 4 + index * _ROW
        mean, top = float(one["regret_usd"]) / most * 0.8, float(one["most_regret_usd"]) / most * 0.8
        name = escape(POLICY_WORDS[one["policy"]])
        parts += [
            f'<text x="{_LEFT - 8}" y="{at + 14}" text-anchor="end">{name}</text>',
            f'<rect class="paid" opacity="0.35" x="{_LEFT}" y="{at}" width="{max(1.0, top * _WIDTH):.1f}" '
            f'height="{_ROW - 6}"/>',
            f'<rect class="paid" x="{_LEFT}" y="{at}" width="{max(1.0, mean * _WIDTH):.1f}" height="{_ROW - 6}"/>',
            f'<text x="{_LEFT + top * _WIDTH + 6:.1f}" y="{at + 14}">{dollars(one["regret_usd"])}, at most '
            f"{dollars(one['most_regret_usd'])}</text>",
        ]
    told_all = [
        f"{POLICY_WORDS[one['policy']]} {dollars(one['regret_usd'])}, at most {dollars(one['most_regret_usd'])}"
        for one in told
    ]
    return _svg(len(told) * _ROW + 8, f"Regret against foresight: {', '.join(told_all)}", parts)
