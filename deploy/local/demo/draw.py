"""Three bands over one time axis: demand, ready replicas by accelerator type, dollars per million tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from demo import words

if TYPE_CHECKING:
    from demo.picture import Chart, Mark

HOUR = 3600.0
_TITLES = ("requests per second", "ready replicas", "$ per 1M tokens, last hour")


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes in SVG units; ``hours`` between two labels of the axis."""

    width: float
    left: float
    right: float
    bands: tuple[float, float, float]
    gap: float
    hours: int
    titles: bool = False

    @property
    def tops(self) -> tuple[float, float, float]:
        """Upper edge of each band."""
        first = 18.0 if self.titles else 4.0
        second = first + self.bands[0] + self.gap
        return first, second, second + self.bands[1] + self.gap

    @property
    def bottom(self) -> float:
        """Lower edge of the last band."""
        return self.tops[2] + self.bands[2]

    @property
    def height(self) -> float:
        """All of it, axis included."""
        return self.bottom + 20.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """The drawing and where its time axis runs."""

    svg: str
    left: float
    right: float


@dataclass(frozen=True, slots=True)
class _Axes:
    geometry: Geometry
    start: float
    end: float

    def x(self, at: float) -> float:
        one = self.geometry
        return one.left + (at - self.start) / (self.end - self.start) * (one.width - one.left - one.right)

    def y(self, band: int, value: float, top: float) -> float:
        edge, height = self.geometry.tops[band], self.geometry.bands[band]
        return edge + height * (1.0 - min(1.0, value / top if top > 0 else 0.0))


def pool(chart: Chart, geometry: Geometry, *, marks: bool) -> Drawn:
    """The bands of one pool."""
    axes = _Axes(geometry, chart.start, chart.end)
    moments = chart.moments
    if len(moments) < 2:
        return Drawn(f'<text x="{geometry.left}" y="30">nothing was measured</text>', geometry.left, geometry.width)
    demand_top = ceiling(max(max(one.offered, one.demand) for one in moments))
    replica_top = ceiling(max(max(one.replicas, sum(one.desired.values())) for one in moments), whole=True)
    cost_top = _cost_top(chart)
    parts = [
        _frame(axes, 0, demand_top, words.rate),
        _frame(axes, 1, replica_top, lambda value: f"{value:.0f}"),
        _frame(axes, 2, cost_top, words.usd),
        _hours(axes),
        *_demand(chart, axes, demand_top),
        *_replicas(chart, axes, replica_top),
        *_costs(chart, axes, cost_top),
    ]
    if geometry.titles:
        parts += [f'<text class="strong" x="{geometry.left}" y="{top - 6:.0f}">{title}</text>'
                  for title, top in zip(_TITLES, geometry.tops, strict=True)]  # fmt: skip
    if marks:
        lane = geometry.tops[1] - geometry.gap + 11
        parts += [_mark(one, axes.x(one.told.at), lane) for one in chart.marks]
    parts.append(f'<line class="cursor" x1="0" x2="0" y1="{geometry.tops[0]:.0f}" y2="{geometry.bottom:.0f}"/>')
    return Drawn("".join(parts), geometry.left, geometry.width - geometry.right)


def ceiling(value: float, *, whole: bool = False) -> float:
    """A round number at or above a value, of which a half is round too."""
    if value <= 0:
        return 2.0 if whole else 1.0
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    wanted = value * (1 - 1e-9)
    found = next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if step * power >= wanted)
    return max(2.0, float(round(found / 2 + 0.49) * 2)) if whole else found


def _cost_top(chart: Chart) -> float:
    """Room for the target and for all but the few highest values."""
    known = sorted(value for value in chart.costs if value is not None)
    most = known[min(len(known) - 1, int(len(known) * 0.99))] if known else 0.0
    return ceiling(max(most, (chart.day.target_usd_per_million or 0.0)) * 1.08)


def _frame(axes: _Axes, band: int, top: float, label: Callable[[float], str]) -> str:
    one = axes.geometry
    lines = []
    for share in (0.0, 0.5, 1.0):
        y = axes.y(band, share * top, top)
        lines.append(f'<line class="grid" x1="{one.left}" x2="{one.width - one.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if share:
            lines.append(f'<text x="{one.left - 5}" y="{y + 4:.1f}" text-anchor="end">{label(share * top)}</text>')
    return "".join(lines)


def _hours(axes: _Axes) -> str:
    shown = []
    first = int(axes.start // HOUR)
    for hour in range(first, int(axes.end // HOUR) + 1):
        if (hour - first) % axes.geometry.hours == 0:
            x = axes.x(hour * HOUR)
            anchor = "end" if x > axes.geometry.width - 20 else "middle"
            last = hour * HOUR >= axes.end
            name = f"{24 if last and hour % 24 == 0 else hour % 24:02d}"
            shown.append(f'<text x="{x:.1f}" y="{axes.geometry.bottom + 15:.0f}" text-anchor="{anchor}">{name}</text>')
    return "".join(shown)


def _demand(chart: Chart, axes: _Axes, top: float) -> Iterable[str]:
    points = [(axes.x(one.at), axes.y(0, one.offered, top)) for one in chart.moments]
    yield f'<path class="area" d="{_line(points)}V{axes.y(0, 0, top):.1f}H{points[0][0]:.1f}Z"/>'
    yield f'<path class="ink" d="{_line(points)}"/>'


def _replicas(chart: Chart, axes: _Axes, top: float) -> Iterable[str]:
    """Types stacked in the order of their hues, with the planned number as a dotted line above."""
    times = [one.at for one in chart.moments]
    below = [0.0] * len(times)
    for name in chart.types:
        above = [low + one.ready.get(name, 0) for low, one in zip(below, chart.moments, strict=True)]
        if above != below:
            outline = _steps(axes, times, above, top) + _back(axes, times, below, top)
            yield f'<path class="a{chart.colours[name]}" d="{outline}Z"><title>{escape(name)}</title></path>'
        below = above
    wanted = [float(sum(one.desired.values())) for one in chart.moments]
    yield f'<path class="want" d="{_steps(axes, times, wanted, top)}"><title>planned replicas</title></path>'


def _costs(chart: Chart, axes: _Axes, top: float) -> Iterable[str]:
    target = chart.day.target_usd_per_million
    known = [(one.at, value) for one, value in zip(chart.moments, chart.costs, strict=True) if value is not None]
    points = [(axes.x(at), axes.y(2, value, top)) for at, value in known]
    if target is not None:
        y = axes.y(2, target, top)
        one = axes.geometry
        for begin, last in _stretches(known, target):
            x = axes.x(begin)
            wide = max(1.0, axes.x(last) - x)
            place = f'x="{x:.1f}" y="{one.tops[2]:.1f}" width="{wide:.1f}" height="{one.bands[2]:.1f}"'
            yield f'<rect class="over" {place}/>'
        right = one.width - one.right
        yield f'<line class="target" x1="{one.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        if one.titles:
            aim = f"target {words.usd(target)}"
            yield f'<text class="bad" x="{right}" y="{y - 4:.1f}" text-anchor="end">{aim}</text>'
    if points:
        yield f'<path class="ink" d="{_line(points)}"/>'


def _stretches(known: Sequence[tuple[float, float]], limit: float) -> Iterable[tuple[float, float]]:
    """Times in which a value is above a limit."""
    begin: float | None = None
    for at, value in known:
        if value > limit and begin is None:
            begin = at
        elif value <= limit and begin is not None:
            yield begin, at
            begin = None
    if begin is not None:
        yield begin, known[-1][0]


def _mark(mark: Mark, x: float, y: float) -> str:
    """A triangle that points up or down, or a diamond where replicas moved between types."""
    moved = mark.moved or 0
    if moved > 0:
        shape = f"M{x - 4:.1f} {y + 4:.1f}h8l-4 -8z"
    elif moved < 0:
        shape = f"M{x - 4:.1f} {y - 4:.1f}h8l-4 8z"
    else:
        shape = f"M{x:.1f} {y - 4:.1f}l4 4l-4 4l-4 -4z"
    return f'<path class="mark" d="{shape}"><title>{escape(mark.text)}</title></path>'


def _line(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _steps(axes: _Axes, times: Sequence[float], values: Sequence[float], top: float) -> str:
    turns = "".join(
        f"H{axes.x(times[index]):.1f}V{axes.y(1, values[index], top):.1f}"
        for index in range(1, len(times))
        if values[index] != values[index - 1]
    )
    return f"M{axes.x(times[0]):.1f} {axes.y(1, values[0], top):.1f}{turns}H{axes.x(times[-1]):.1f}"


def _back(axes: _Axes, times: Sequence[float], values: Sequence[float], top: float) -> str:
    turns = "".join(
        f"H{axes.x(times[index]):.1f}V{axes.y(1, values[index - 1], top):.1f}"
        for index in range(len(times) - 1, 0, -1)
        if values[index] != values[index - 1]
    )
    return f"V{axes.y(1, values[-1], top):.1f}{turns}H{axes.x(times[0]):.1f}"
