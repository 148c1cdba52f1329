"""The day as drawings: what each chart shows, and the small picture for the README."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from demo import draw, words
from demo.record import Moment, Record, Told, usd_per_million
from demo.summary import DaySummary, PoolDay

# Eight hues that keep apart for the colour-blind, in both modes; an accelerator type has the same one in every chart.
LIGHT = ("#2a78d6", "#eb6834", "#1baf7a", "#eda100", "#e87ba4", "#4a3aa7", "#e34948", "#008300")
DARK = ("#3987e5", "#d95926", "#199e70", "#c98500", "#d55181", "#9085e9", "#e66767", "#00a300")
_MOVED = re.compile(r"(\d+) -> (\d+)")


@dataclass(frozen=True, slots=True)
class Mark:
    """A decision on the time axis; ``moved`` is the change in replicas, None when none is told."""

    told: Told
    moved: int | None

    @property
    def text(self) -> str:
        """Time, change and reason."""
        return f"{words.clock(self.told.at)}  {', '.join(self.told.change)}: {self.told.why}"


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn of one pool.

    Attributes:
        colours: Index of the hue of each accelerator type, the same in all charts.
        costs: Dollars per 1M tokens over the hour before each moment, None where unknown.
    """

    day: PoolDay
    start: float
    end: float
    moments: tuple[Moment, ...]
    costs: tuple[float | None, ...]
    marks: tuple[Mark, ...]
    colours: Mapping[str, int]

    @property
    def types(self) -> list[str]:
        """Accelerator types that had ready replicas, in the order of the colours."""
        seen = {name for one in self.moments for name, count in one.ready.items() if count}
        return sorted(seen, key=lambda name: self.colours[name])


def charts(record: Record, summary: DaySummary, *, start: float, end: float) -> list[Chart]:
    """A chart for each pool of the summary."""
    colours = _colours(record, summary)
    found = []
    for day in summary.pools:
        all_moments = record.moments.get(day.pool, [])
        moments = tuple(one for one in all_moments if start <= one.at <= end)
        found.append(
            Chart(
                day=day,
                start=start,
                end=end,
                moments=moments,
                costs=tuple(usd_per_million(all_moments, one.at) for one in moments),
                marks=tuple(
                    Mark(one, moved(one.change))
                    for one in record.told
                    if one.pool == day.pool and start <= one.at <= end
                ),
                colours=colours,
            )
        )
    return found


def moved(change: Iterable[str]) -> int | None:
    """Replicas gained by the changes of a decision, e.g. -1 for ``chat-52bb4838 14 -> 13``."""
    pairs = [match for text in change if (match := _MOVED.search(text))]
    return sum(int(pair[2]) - int(pair[1]) for pair in pairs) if pairs else None


def _colours(record: Record, summary: DaySummary) -> dict[str, int]:
    spent: dict[str, float] = {}
    for one in summary.pools:
        for name, dollars in one.accelerators.items():
            spent[name] = spent.get(name, 0.0) + dollars
    for moments in record.moments.values():
        for moment in moments:
            for name in moment.ready:
                spent.setdefault(name, 0.0)
    order = sorted(spent, key=lambda name: -spent[name])
    return {name: index % len(LIGHT) for index, name in enumerate(order)}


def legend(shown: Sequence[Chart]) -> list[tuple[str, int]]:
    """Accelerator types with their hues, over all charts."""
    types = {name for chart in shown for name in chart.types}
    return sorted(((name, shown[0].colours[name]) for name in types), key=lambda pair: pair[1])


def headline(summary: DaySummary) -> str:
    """The day in one sentence."""
    text = f"{summary.hours:.0f} hours, {words.many(summary.tokens)} tokens, {words.usd(summary.dollars)}"
    saved = summary.saved_share
    return f"{text}: {words.percent(saved)} less than fixed fleets" if saved and saved > 0 else text


def style() -> str:
    """The colours of the drawings, for both modes and for paper."""
    light = "".join(f"--a{index}:{colour};" for index, colour in enumerate(LIGHT))
    dark = "".join(f"--a{index}:{colour};" for index, colour in enumerate(DARK))
    hues = "".join(f".a{index}{{fill:var(--a{index})}}" for index in range(len(LIGHT)))
    day = f"--ink:#15181c;--soft:#5c6370;--line:#dfe2e7;--page:#fff;--area:#8b95a5;--bad:#c93535;--good:#0f7b4f;{light}"
    night = "--ink:#f0f2f5;--soft:#a3abb8;--line:#333a45;--page:#14171c;--area:#7b8699;--bad:#f07b72;--good:#4cc38a;"
    night += dark
    return (
        f":root{{{day}}}@media (prefers-color-scheme:dark){{:root{{{night}}}}}@media print{{:root{{{day}}}}}"
        f"{hues}.ink{{stroke:var(--ink);fill:none;stroke-width:1.4;stroke-linejoin:round}}"
        ".area{fill:var(--area);fill-opacity:.28}.over{fill:var(--bad);fill-opacity:.3}"
        ".grid{stroke:var(--line);stroke-width:1}.target{stroke:var(--bad);stroke-width:1.2;stroke-dasharray:5 4}"
        ".want{stroke:var(--ink);fill:none;stroke-width:1;stroke-dasharray:2 2;stroke-opacity:.75}"
        ".mark{fill:var(--ink);fill-opacity:.72}.cursor{stroke:var(--ink);stroke-width:1;visibility:hidden}"
        "svg text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif;fill:var(--soft)}"
        "svg .strong{fill:var(--ink);font-weight:600}svg .title{fill:var(--ink);font-size:15px;font-weight:650}"
        "svg .bad{fill:var(--bad)}svg .good{fill:var(--good);font-weight:600}"
    )


def small(shown: Sequence[Chart], summary: DaySummary) -> str:
    """The picture for the README: three small charts side by side."""
    geometry = draw.Geometry(width=304, left=38, right=4, bands=(78, 96, 62), gap=26, hours=6)
    width, gap, top = 960.0, 24.0, 74.0
    parts = []
    for index, chart in enumerate(shown):
        day = chart.day
        aim = f"target {words.usd(day.target_usd_per_million)}" if day.target_usd_per_million else ""
        parts.append(
            f'<g transform="translate({index * (geometry.width + gap):.0f} {top:.0f})">'
            f'<text class="title" x="0" y="0">{escape(day.pool)}'
            f'<tspan class="plain" dx="8">{escape(day.model)}</tspan></text>'
            f'<text class="{"good" if day.meets_target else "bad"}" x="0" y="19">'
            f"{words.usd(day.usd_per_million or 0.0)} per 1M tokens</text>"
            f'<text x="{geometry.width - 4:.0f}" y="19" text-anchor="end">{aim}</text>'
            f'<g transform="translate(0 28)">{draw.pool(chart, geometry, marks=False).svg}</g></g>'
        )
    keys, x = [], 0.0
    for name, hue in legend(shown):
        keys.append(f'<rect class="a{hue}" x="{x:.0f}" y="33" width="11" height="11" rx="2"/>')
        keys.append(f'<text x="{x + 16:.0f}" y="43">{escape(name)}</text>')
        x += 30 + 7.2 * len(name)
    height = top + 28 + geometry.height + 18
    box = f'x="-12" y="-8" width="{width + 24:.0f}" height="{height:.0f}"'
    title, what = escape(headline(summary)), "requests/s · ready replicas by accelerator · $ per 1M tokens"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -8 {width + 24:.0f} {height:.0f}" role="img" '
        f'aria-label="{title}"><style>{style()}.back{{fill:var(--page)}}'
        "svg .plain{font-size:12px;font-weight:400;fill:var(--soft)}</style>"
        f'<rect class="back" {box} rx="8"/><text class="title" x="0" y="16">A day of three pools. {title}</text>'
        f'{"".join(keys)}<text x="{width:.0f}" y="43" text-anchor="end">{what}</text>{"".join(parts)}</svg>\n'
    )
