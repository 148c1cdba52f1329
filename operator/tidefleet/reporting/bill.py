"""Settles usage to the bill: rows that sum to it, with what nobody used as lines of its own. Pure.

Two bases stand beside each other. *Usage* is what the tokens needed: accelerator-seconds times their price.
*Allocation* sums to the bill: of each pool, accelerator type and capacity type, usage takes the factor
min(1, paid / used), and what it leaves is idle. Where no bill is known, usage is the bill. The rent of KV tiers is in
no usage: what used the unit shares it in proportion, and where nothing did it is a line of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tidefleet.reporting.fit import seconds_per_prompt_token
from tidefleet.reporting.values import OTHERS, By, Figures, Found, Key, Tasks, Unit, row_name, usd

IDLE, TIERS = "idle", "kv tiers"


@dataclass(slots=True)
class Row:
    """What one key came to. Dollars are 10^-12 USD.

    Attributes:
        name: of the row; key: what it stands for.
        allocated: its part of the bill.
        idle: what nobody used of the pools or types that the row stands for; ``None`` where rows have none.
        recomputed: of what it used, prompts computed again, by cause.
        tasks: that ended; ``None`` where no outcome is known.
    """

    name: str
    key: Key
    figures: Figures = field(default_factory=Figures)
    allocated: int = 0
    idle: int | None = None
    recomputed: dict[str, int] = field(default_factory=dict)
    tasks: Tasks | None = None

    @property
    def wasted(self) -> int:
        """What was used for nothing: errors, cut requests, failed tasks, prompts computed again."""
        return self.figures.error + self.figures.cut + self.figures.failed + sum(self.recomputed.values())


@dataclass(frozen=True, slots=True)
class Bill:
    """A period's bill, divided. ``sum(row.allocated) + sum(lines) == total``, to the last 10^-12 USD.

    Attributes:
        rows: largest part of the bill first, what is below the largest last.
        lines: what no row used, by name: idle, drain, ..., training.
        idle_by_unit: the same by pool, accelerator type and capacity type, without training.
        used_by_unit: usage.
        whole: all rows together; its ``allocated`` is theirs.
        overused: usage above the bill, by which rows were scaled down.
        unbilled: usage of units whose bill is not known; it counts as their bill.
    """

    total: int
    rows: Sequence[Row]
    lines: Mapping[str, int]
    idle_by_unit: Mapping[Unit, int]
    used_by_unit: Mapping[Unit, int]
    whole: Row
    overused: int
    unbilled: int


def settle(found: Found) -> Bill:
    """Divide the bill of a period."""
    rows: dict[str, Row] = {}
    used: dict[Unit, int] = defaultdict(int)
    by_unit: dict[Unit, list[tuple[Row, int]]] = defaultdict(list)
    for cell in found.cells:
        name = row_name(cell.key, others=cell.others)
        row = rows.setdefault(name, Row(name, cell.key))
        row.figures.add(cell.figures)
        _recompute(row, cell.figures, found, cell.model, cell.unit)
        used[cell.unit] += cell.figures.used
        by_unit[cell.unit].append((row, cell.figures.used))
    idle: dict[Unit, int] = {}
    lines: dict[str, int] = defaultdict(int)
    overused = unbilled = 0
    for unit in {**used, **found.paid}:
        mine = used.get(unit, 0)
        if unit not in found.paid:
            unbilled += mine
        rent = found.tiers.get(unit, 0)
        paid = found.paid.get(unit, mine + rent) - rent
        parts = [part for _, part in by_unit[unit]]
        for (row, _), part in zip(by_unit[unit], _settled(paid, parts), strict=True):
            row.allocated += part
        if rent and mine:
            for (row, _), part in zip(by_unit[unit], split(rent, parts), strict=True):
                row.allocated += part
        elif rent:
            lines[TIERS] += rent
        overused += max(0, mine - paid)
        idle[unit] = max(0, paid - mine)
        for cause, part in _causes(found, unit, idle[unit]).items():
            lines[cause] += part
        _idle_of_row(rows, found.by, unit, idle[unit])
    lines.setdefault(IDLE, 0)
    for name, amount in found.lines.items():
        lines[name] += amount
    for row in rows.values():
        row.tasks = found.tasks.get(row.name)
        if row.key in found.recompute:
            row.recomputed = dict(found.recompute[row.key])
    whole = Row("total", None, tasks=found.all_tasks)
    for row in rows.values():
        whole.figures.add(row.figures)
        whole.allocated += row.allocated
        for cause, part in row.recomputed.items():
            whole.recomputed[cause] = whole.recomputed.get(cause, 0) + part
    return Bill(
        total=whole.allocated + sum(lines.values()),
        rows=sorted(
            rows.values(), key=lambda row: (row.name == OTHERS, -row.allocated, -row.figures.seconds, row.name)
        ),
        lines=lines,
        idle_by_unit=idle,
        used_by_unit=used,
        whole=whole,
        overused=overused,
        unbilled=unbilled,
    )


def _settled(paid: int, used: Sequence[int]) -> Sequence[int]:
    """What usage comes to under a bill: as it is, or scaled down to the bill where it is above; no part is lost."""
    return used if sum(used) <= paid else split(paid, used)


def _idle_of_row(rows: dict[str, Row], by: By, unit: Unit, idle: int) -> None:
    """Tell what nobody used beside the row of a pool or type; one that was paid for and asked nothing gets a row."""
    if by is By.POOL:
        key = f"{unit.namespace}/{unit.pool}"
    elif by is By.ACCELERATOR and unit.accelerator:
        key = unit.accelerator
    else:
        return
    row = rows.get(key) or rows.get(OTHERS) or rows.setdefault(key, Row(key, key))
    row.idle = (row.idle or 0) + idle


def split(total: int, weights: Sequence[float]) -> list[int]:
    """A whole number divided in proportion, so that the parts sum to it.

    Each part is less than one away from its share (largest remainders). Without a weight above 0 the first has it all.

    Args:
        total: at least 0.
        weights: at least 0; whole numbers are taken exactly.
    """
    if not weights:
        if total:
            raise ValueError(f"split: {total} cannot be divided among nobody; expected a weight, e.g. 1")
        return []
    exact = [one.as_integer_ratio() for one in weights]
    common = max(below for _, below in exact)  # powers of two
    whole = [above * (common // below) for above, below in exact]
    of_all = sum(whole)
    if not of_all:
        return [total, *[0] * (len(whole) - 1)]
    parts = [total * one // of_all for one in whole]
    rest = sorted(range(len(whole)), key=lambda at: (-(total * whole[at] % of_all), at))
    for at in rest[: total - sum(parts)]:
        parts[at] += 1
    return parts


def _causes(found: Found, unit: Unit, idle: int) -> dict[str, int]:
    """What nobody used of a unit, by cause."""
    weights = {name: weight for name, weight in found.unused.get(unit[:2], {}).items() if weight > 0.0}
    if not weights:
        return {IDLE: idle}
    return dict(zip(weights, split(idle, [*weights.values()]), strict=True))


def _recompute(row: Row, figures: Figures, found: Found, model: str, unit: Unit) -> None:
    """Add what a cell's recomputed prompt tokens cost."""
    speed = found.speeds.get((model, unit.accelerator))
    priced = figures.seconds - figures.unpriced_seconds
    if speed is None or not figures.recomputed or priced <= 0.0:
        return
    per_token = seconds_per_prompt_token(speed) * figures.used / priced
    costs = {cause: per_token * tokens for cause, tokens in figures.recomputed.items()}
    most = max(0, figures.used - figures.error - figures.cut - figures.failed)
    factor = min(1.0, most / total) if (total := sum(costs.values())) > 0.0 else 0.0
    for cause, cost in costs.items():
        row.recomputed[cause] = row.recomputed.get(cause, 0) + int(cost * factor)


def usd_per_million(pico: int, tokens: int) -> float | None:
    """USD per million tokens; ``None`` without tokens."""
    return usd(pico) / tokens * 1e6 if tokens else None
