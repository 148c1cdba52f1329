"""The values that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import NamedTuple, Self

from tidefleet.reporting.period import Period

PICO = 10**12
"""Units of dollars inside a report for one USD: whole numbers add up without rounding, in any order."""

OTHERS = "(others)"
"""The row of all keys below the largest."""

NONE = "(none)"
"""The row of what names no key."""

CAUSES = ("evicted", "misrouted", "flip", "restart", "cold")
"""Why prompt tokens were computed again."""

Key = str | None
"""What a row is about, e.g. a tenant's hash; ``None``: requests that name none."""


class By(StrEnum):
    """What a row of a report stands for."""

    TENANT = "tenant"
    TEAM = "team"
    FEATURE = "feature"
    CLASS = "class"
    POOL = "pool"
    ACCELERATOR = "accelerator"


class Unit(NamedTuple):
    """What is paid for apart: the chips of one type that a pool holds on one basis. Unknown parts are empty."""

    namespace: str
    pool: str
    accelerator: str
    capacity_type: str


@dataclass(slots=True)
class Figures:
    """What requests come to; sums of it are made in place. Dollars are 10^-12 USD, on the usage basis.

    Attributes:
        requests: that ended, however they did; error_requests, cut_requests, refused_requests: of them.
        input_tokens: uncached prompt tokens; cached_tokens: found in a cache; output_tokens: with reasoning_tokens.
        good_tokens: output tokens of requests that ended well and met their objectives.
        slo_met, slo_missed: requests whose objectives were met, and not; those without objectives are in neither.
        seconds: accelerator-seconds; unpriced_seconds: of them without a price.
        used: what the tokens needed; error, cut, failed: of it, spent on requests that ended in an error, were cut,
            and that ended well in a task that failed. They do not overlap.
        revenue: what was earned.
        recomputed: prompt tokens computed again, by cause, of requests in none of error, cut and failed.
    """

    requests: int = 0
    error_requests: int = 0
    cut_requests: int = 0
    refused_requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    output_tokens: int = 0
    good_tokens: int = 0
    slo_met: int = 0
    slo_missed: int = 0
    seconds: float = 0.0
    unpriced_seconds: float = 0.0
    used: int = 0
    error: int = 0
    cut: int = 0
    failed: int = 0
    revenue: int = 0
    recomputed: dict[str, int] = field(default_factory=dict)

    def add(self, other: Self) -> None:
        """Take these in as well."""
        for one in fields(self):
            if one.name != "recomputed":
                setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        for cause, tokens in other.recomputed.items():
            self.recomputed[cause] = self.recomputed.get(cause, 0) + tokens

    @property
    def tokens(self) -> int:
        """All of them, cached ones too."""
        return self.input_tokens + self.cached_tokens + self.output_tokens

    @property
    def prompt_tokens(self) -> int:
        """Uncached and cached."""
        return self.input_tokens + self.cached_tokens


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks that ended, and what all their requests used, in 10^-12 USD."""

    succeeded: int = 0
    failed: int = 0
    used: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """What requests of one key, on one unit and of one model, came to."""

    key: Key
    unit: Unit
    model: str
    figures: Figures
    others: bool = False
    """Whether it stands for all keys below the largest."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A group of requests beside others of its class, for the rules that look for waste.

    Attributes:
        workload_class: with its namespace, ``prod/chat``.
        kind: what the group is named by: feature, team or tenant.
        name: e.g. a feature's name.
    """

    workload_class: str
    kind: str
    name: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Speed:
    """Sums over the requests of a model on an accelerator that ended well: what a prompt token takes follows from them.

    x: uncached prompt tokens; y: output tokens; s: accelerator-seconds of a request. ``saved``: accelerator-seconds
    that their ``cached`` tokens would have taken.
    """

    requests: int
    x: float
    y: float
    s: float
    xx: float
    xy: float
    yy: float
    xs: float
    ys: float
    saved: float = 0.0
    cached: float = 0.0


@dataclass(frozen=True, slots=True)
class Offered:
    """What a class's requests came to on one accelerator and basis."""

    workload_class: str
    model: str
    accelerator: str
    capacity_type: str
    figures: Figures


@dataclass(slots=True)
class Found:
    """What a source knows of a period; dollars in 10^-12 USD.

    Attributes:
        source: in words, for the reader.
        cells: by key, unit and model.
        tasks: by key; with ``others``' under ``OTHERS``; keys as ``row_name`` has them.
        all_tasks: of the period.
        paid: the bill by unit, of the units whose bill is known.
        tiers: of that, the rent of KV tiers: no request's usage has it in it, and those of the unit share it.
        unused: shares of what is paid and not used by cause (idle, drain, ...), by namespace and pool; empty: all idle.
        lines: parts of the bill that no pool's requests use, by name: training, capacity that no pool holds.
        savings: USD against the fleet as adopted, or the best of one type; ``None``: not known from this source.
        recompute: 10^-12 USD of computing prompts again, by key, where the source knows it itself.
        knows_waste: whether figures say what errors, cut requests and failed tasks used.
        counted: lines that were left out or told of, by what is wrong with them.
        lost_records: that routers dropped, by their own account.
        notes: what the reader must know beside the figures.
    """

    by: By
    period: Period
    source: str
    cells: list[Cell] = field(default_factory=list)
    tasks: dict[str, Tasks] = field(default_factory=dict)
    all_tasks: Tasks | None = None
    paid: dict[Unit, int] = field(default_factory=dict)
    tiers: dict[Unit, int] = field(default_factory=dict)
    unused: dict[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    savings: float | None = None
    recompute: dict[Key, Mapping[str, int]] = field(default_factory=dict)
    knows_waste: bool = True
    counted: dict[str, int] = field(default_factory=dict)
    lost_records: int = 0
    notes: list[str] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    speeds: dict[tuple[str, str], Speed] = field(default_factory=dict)
    offered: list[Offered] = field(default_factory=list)

    def of_chips(self, unit: Unit) -> int:
        """The bill of a unit without its KV tiers; 0 where it is not known."""
        return self.paid.get(unit, 0) - self.tiers.get(unit, 0)


def row_name(key: Key, *, others: bool = False) -> str:
    """What a row is called."""
    if others:
        return OTHERS
    return NONE if key is None else key


def usd(pico: int) -> float:
    """10^-12 USD as USD."""
    return pico / PICO


def pico(dollars: float) -> int:
    """USD as whole 10^-12 USD, rounded."""
    return round(dollars * PICO)
