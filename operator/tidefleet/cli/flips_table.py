"""`tidefleet flips` in a terminal: ribbons of letters under the load curve, then what is blocked and who waits."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from tidefleet.api.flipping_status import FlipPhase
from tidefleet.cli.flips_day import STATES, Day, Ribbon, state_of, unix
from tidefleet.cli.output import print_table

COLUMNS = 96
"""Columns of a ribbon where the terminal has room: two slots of 15 minutes each."""

FEWEST_COLUMNS = 24
MOST_RIBBONS = 24
"""Above this many units, ribbons show how many nodes are in each state instead."""

HEIGHT = 5
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_LOOKS: dict[str, tuple[str, str, str]] = {
    "serving": ("░", "green", "serves"),
    "outbound": ("▼", "yellow", "on its way to training"),
    "training": ("█", "blue", "trains"),
    "homebound": ("▲", "magenta", "on its way back"),
    "quarantined": ("✕", "red", "quarantined"),
}
_PLANNED = ("▒", "blue", "planned to train")


def print_day(day: Day, console: Console) -> None:
    """Everything that is known of one pool's flips."""
    for line in summary(day):
        console.print(line, highlight=False, markup=False)
    if day.rows or any(one is not None for one in day.needed):
        for text in picture(day, console.width):
            console.print(text, highlight=False, no_wrap=True, crop=True)
        for text in _legend(day):
            console.print(text, highlight=False)
    _tables(day)


def summary(day: Day) -> list[str]:
    """What stands above the picture."""
    status = day.status
    told = [f"{status.mode}"]
    for count, words in (
        (status.needed_nodes, "needed"),
        (status.serving_nodes, "serving"),
        (status.loaned_nodes, "on loan"),
        (status.moving_nodes, "on the way"),
        (status.quarantined_nodes, "quarantined"),
    ):
        if count is not None:
            told.append(f"{count} {words}")
    lines = [f"{day.pool}: {', '.join(told)} (nodes)"]
    if day.next_flip:
        lines.append(f"  next: {day.next_flip}")
    if day.condition:
        lines.append(f"  {day.condition}")
    if day.paused:
        lines.append(f"  paused: {day.paused}")
    if status.allowed_now is not None:
        held = f"; held by {status.held_by}" if status.held_by else ""
        lines.append(f"  may set out now: {status.allowed_now}{held}")
    if status.quantile is not None:
        lines.append(f"  kept for the quantile {status.quantile} of demand")
    if status.worth is not None:
        sums = [
            f"{words} ${amount}"
            for words, amount in (("saves", status.worth.saves_usd), ("costs", status.worth.costs_usd))
            if amount is not None
        ]
        lines.append(
            "  " + "; ".join([", ".join(sums), status.worth.words] if status.worth.words else [", ".join(sums)])
        )
    return [*lines, *(f"  {note}" for note in day.notes)]


def picture(day: Day, width: int) -> list[Text]:
    """The load curve, the ribbons below it, and the clock."""
    many = len(day.rows) > MOST_RIBBONS
    names = ["needed", *(STATES if many else (_short(one.unit.name) for one in day.rows))]
    margin = max(len(name) for name in names) + 2
    columns = max(FEWEST_COLUMNS, min(COLUMNS, width - margin - 1))
    if columns % 2:
        columns -= 1
    lines = [*_curve(day, columns, margin)]
    if many:
        lines += [_share(day, state, columns, margin) for state in STATES]
    else:
        lines += [_ribbon(day, one, columns, margin) for one in day.rows]
    return [*lines, *_clock(day, columns, margin)]


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}"


def _moments(day: Day, columns: int) -> list[tuple[float, float]]:
    step = (day.end - day.begin) / columns
    return [(day.begin + index * step, day.begin + (index + 1) * step) for index in range(columns)]


def _curve(day: Day, columns: int, margin: int) -> list[Text]:
    """Bars of the most nodes needed in each column; a column without a figure stays empty."""
    known = [one for one in day.needed if one is not None]
    if not known:
        return []
    most = max(1, *known, day.nodes)
    heights: list[int] = []
    for begin, end in _moments(day, columns):
        low = int((begin - day.begin) // day.slot_seconds)
        high = max(low + 1, round((end - day.begin) / day.slot_seconds))
        slots = [one for one in day.needed[low:high] if one is not None]
        heights.append(round(max(slots) / most * HEIGHT * 8) if slots else 0)
    lines = []
    for row in reversed(range(HEIGHT)):
        label = f"{most} " if row == HEIGHT - 1 else ("needed " if row == 0 else "")
        cells = "".join(_EIGHTHS[max(0, min(8, height - row * 8))] for height in heights)
        lines.append(
            Text(label.rjust(margin)).append(cells[: columns // 2], "bright_black").append(cells[columns // 2 :])
        )
    return lines


def _ribbon(day: Day, ribbon: Ribbon, columns: int, margin: int) -> Text:
    line = Text(f"{_short(ribbon.unit.name)} ".rjust(margin))
    for begin, end in _moments(day, columns):
        glyph, style = _cell(ribbon, begin, end)
        line.append(glyph, style)
    return line


def _cell(ribbon: Ribbon, begin: float, end: float) -> tuple[str, str]:
    """Letter and style of a column."""
    shown = _shown(ribbon, begin, end)
    if shown is None:
        return " ", ""
    state, planned = shown
    if planned and state == "training":
        return _PLANNED[0], _PLANNED[1]
    glyph, style, _ = _LOOKS[state]
    return glyph, f"dim {style}" if planned else style


def _shown(ribbon: Ribbon, begin: float, end: float) -> tuple[str, bool] | None:
    """The state that fills most of a column, and whether it is planned; a flip shows however short it is."""
    length: dict[tuple[str, bool], float] = {}
    for span in ribbon.spans:
        inside = min(end, span.end) - max(begin, span.begin)
        if inside > 0:
            key = (state_of(span.phase), span.planned)
            length[key] = length.get(key, 0.0) + inside
    short = [key for key in length if key[0] in ("outbound", "homebound", "quarantined")]
    return short[0] if short else max(length, key=lambda key: length[key], default=None)


def _share(day: Day, state: str, columns: int, margin: int) -> Text:
    """How many nodes are in a state, as the height of a block; a flip counts in every column that it touches."""
    line = Text(f"{state} ".rjust(margin))
    for begin, end in _moments(day, columns):
        if state in ("serving", "training"):
            count = day.shares((begin + end) / 2)[state]
        else:
            count = sum(one.size for one in day.ribbons if (_shown(one, begin, end) or ("", False))[0] == state)
        height = max(1, round(count / max(1, day.nodes) * 8)) if count else 0
        line.append(_EIGHTHS[height], _LOOKS[state][1])
    return line


def _clock(day: Day, columns: int, margin: int) -> list[Text]:
    """Ticks at whole hours of the zone, and where now is."""
    step = (day.end - day.begin) / columns
    every = 3 if columns >= 72 else 6
    ticks, words = [" "] * columns, [" "] * (columns + 6)
    seen = ""
    for index, (begin, _) in enumerate(_moments(day, columns)):
        at = day.local(begin + step - 1.0)
        hour = at.replace(minute=0, second=0, microsecond=0)
        label = hour.strftime("%H:%M")
        if hour.hour % every == 0 and hour.timestamp() > begin - 1.0 and f"{hour:%d%H}" != seen:
            seen = f"{hour:%d%H}"
            ticks[index] = "┴"
            if all(one == " " for one in words[max(0, index - 1) : index + 6]):
                words[index : index + 5] = label
    now = min(columns - 1, int((day.now - day.begin) / step))
    ticks[now] = "◆"
    line = Text(" " * margin + "".join("─" if one == " " else one for one in ticks))
    below = Text(f"{day.clock(day.now)} now ".rjust(margin) if margin >= 11 else " " * margin)
    return [line, below.append("".join(words).rstrip())]


def _legend(day: Day) -> list[Text]:
    """What the letters and the clock mean."""
    where = Text(f"  times in {day.zone_name}; now is {day.local(day.now):%a %H:%M}, at the ◆ of the clock")
    if len(day.rows) > MOST_RIBBONS:
        return [where, Text("  rows of states: a full block is all nodes")]
    there = {(state_of(span.phase), span.planned) for ribbon in day.rows for span in ribbon.spans}
    line = Text("  ")
    for state in STATES:
        if any(one == state for one, planned in there if not (planned and state == "training")):
            glyph, style, words = _LOOKS[state]
            line.append(glyph, style).append(f" {words}   ")
    if ("training", True) in there:
        line.append(_PLANNED[0], _PLANNED[1]).append(f" {_PLANNED[2]}; which nodes it will be is not fixed")
    return [line, where] if day.rows else [where]


def _tables(day: Day) -> None:
    moved = [one for one in day.ribbons if one.unit.phase is not FlipPhase.SERVING]
    _table("", ("UNIT", "PHASE", "SINCE", "UNTIL", "WHY"), [_unit_row(day, one) for one in moved])
    rows = [(one.unit or "-", one.why, one.would_have_to_change or "-") for one in day.status.blocked]
    _table("loans that are not made", ("UNIT", "WHY", "WOULD HAVE TO CHANGE"), rows)
    _table("training that waits", ("JOB", "#CHIPS", "EXPECTED START", "WAITS FOR"), waiting_rows(day))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        print_table(title, columns, [[escape(cell) for cell in row] for row in rows])


def waiting_rows(day: Day) -> list[tuple[str, str, str, str]]:
    """Jobs that wait: name, chips, expected start, and what they wait for."""
    return [
        (
            one.job,
            "-" if one.chips is None else str(one.chips),
            "not within a day" if one.expected_start is None else day.clock(unix(one.expected_start)),
            one.why or "-",
        )
        for one in day.status.waiting
    ]


def _unit_row(day: Day, ribbon: Ribbon) -> tuple[str, ...]:
    unit = ribbon.unit
    name = unit.name if len(unit.nodes) < 2 else f"{unit.name} ({len(unit.nodes)} nodes)"
    since, until = ("-" if one is None else day.clock(unix(one)) for one in (unit.since, unit.until))
    return name, str(unit.phase), since, until, unit.why or "-"
