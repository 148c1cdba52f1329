"""Loans within the power of a site: which set out, and which come back, so that its limit holds.

Serving comes first: what it draws, and will until a loan could be back, is not for loans. What is left goes to loans,
those first that are worth most for each kW; where loans draw more than is left, those come back that are worth least
for each kW, and among equals those whose jobs lose least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tidefleet.flipping.lending import Blocked, Lendable, RecallOrder, first_back
from tidefleet.flipping.observation import Lend, Recall, Stay, Wish
from tidefleet.flipping.phase import Phase

U = TypeVar("U", bound=Lendable)

NEARLY = 1e-9

_UNDER_WAY = (Phase.CORDONED, Phase.DRAINING, Phase.VERIFYING, Phase.TRAINING)


@dataclass(frozen=True, slots=True)
class Power:
    """The power of a site, in kW with its PUE.

    Attributes:
        name: of the site.
        limit_kw: most that may be drawn there.
        serving_kw: what serving draws, and will until a loan could be back.
    """

    name: str
    limit_kw: float
    serving_kw: float

    @property
    def left_kw(self) -> float:
        """What is left for loans; below 0 where serving takes more than there is."""
        return self.limit_kw - self.serving_kw


@dataclass(frozen=True, slots=True)
class Draw:
    """What a unit draws on loan.

    Attributes:
        kw: with the PUE of the site.
        usd_per_hour: what training on it is worth; ``None`` where nobody says, which counts as nothing.
    """

    kw: float
    usd_per_hour: float | None = None

    @property
    def usd_per_kilowatt_hour(self) -> float:
        """What is earned for the energy; infinite for a unit that draws nothing."""
        return (self.usd_per_hour or 0.0) / self.kw if self.kw > 0 else math.inf

    @property
    def words(self) -> str:
        """Its worth as people read it."""
        if self.usd_per_hour is None:
            return "nobody says what training on it is worth"
        return f"training on it is worth {self.usd_per_kilowatt_hour:.3g} USD/kWh"


@dataclass(frozen=True, slots=True)
class WithinPower:
    """Wishes that differ from those that came in, by unit, and the loans that are not made, with the reason of each."""

    wishes: Mapping[str, Wish] = field(default_factory=dict)
    blocked: tuple[Blocked, ...] = ()


def draws_on_loan(unit: Lendable) -> bool:
    """Whether training may draw power on a unit now: nothing serves there any more, and nothing serves there yet."""
    phase = unit.journal.phase
    return phase.is_lent or phase in (Phase.VERIFYING, Phase.RECLAIMING) or (
        phase is Phase.QUARANTINED and unit.journal.trained
    )  # fmt: skip


def within_power(
    power: Power,
    units: Sequence[U],
    draws: Mapping[str, Draw],
    wishes: Mapping[str, Wish],
    recall_order: RecallOrder[U],
) -> WithinPower:
    """What changes in the wishes for units so that a site's limit holds.

    A loan that is under way counts as it will draw. One that is called back draws until training has gone, so that
    nothing sets out for it before. A recall for power asks for no budget, and those by hand are no exception.

    Args:
        units: with their state before this pass.
        draws: of the units that stand at the site, by name; others are not looked at.
        wishes: by unit, as rounds came to them.
        recall_order: as in a round.
    """
    here = [one for one in units if one.name in draws]
    away = [
        one for one in here if one.journal.phase in _UNDER_WAY and not isinstance(wishes.get(one.name, Stay()), Recall)
    ]
    found: dict[str, Wish] = {}
    _call_back(power, away, draws, recall_order, found)
    kept = [one for one in away if one.name not in found]
    leaving = [one for one in here if one not in kept and draws_on_loan(one)]
    left = power.left_kw - sum(draws[one.name].kw for one in (*kept, *leaving))
    blocked = []
    for unit in sorted(here, key=lambda one: _turn(one, draws[one.name])):
        wish, kw = wishes.get(unit.name, Stay()), draws[unit.name].kw
        sets_out = unit.journal.phase in (Phase.SERVING, Phase.PLANNED) and isinstance(wish, Lend) and wish.admitted
        if not sets_out or not isinstance(wish, Lend):
            continue
        if kw <= max(0.0, left) + NEARLY * power.limit_kw:
            left -= kw
            continue
        found[unit.name] = replace(wish, admitted=False) if unit.journal.phase is Phase.PLANNED else Stay()
        why = f"on loan it draws {kw:.3g} kW, and {max(0.0, left):.3g} of the {power.limit_kw:.4g} kW at {power.name}"
        change = f"serving or training at {power.name} takes less, or its spec.powerLimitWatts is raised"
        blocked.append(Blocked(unit.name, f"{why} are left", change))
    return WithinPower(found, tuple(blocked))


def _call_back(
    power: Power,
    away: Sequence[U],
    draws: Mapping[str, Draw],
    recall_order: RecallOrder[U],
    found: dict[str, Wish],
) -> None:
    """Wish units back until what stays away draws no more than is left."""
    over = sum(draws[one.name].kw for one in away) - max(0.0, power.left_kw)
    head = (
        f"loans at {power.name} draw {over + max(0.0, power.left_kw):.4g} kW, and serving leaves them "
        f"{max(0.0, power.left_kw):.3g} of {power.limit_kw:.4g}"
    )
    alike: dict[tuple[float, str, str], list[U]] = {}
    for unit in away:
        if draws[unit.name].kw > 0:
            worth = draws[unit.name].usd_per_kilowatt_hour
            alike.setdefault((worth, unit.journal.pool, unit.journal.accelerator), []).append(unit)
    for _, group in sorted(alike.items()):
        staying = group
        while over > NEARLY * power.limit_kw and staying:
            each = max(draws[one.name].kw / max(1, one.size) for one in staying)
            most = sum(one.size for one in staying)
            count = max(1, math.ceil(over / each - NEARLY)) if over < most * each else most
            back = first_back(staying, count, recall_order, keep_by_hand=False)
            chosen = {name: place for name, place in back if name in {one.name for one in staying}}
            if not chosen:
                break
            for name, place in chosen.items():
                why = f"{head}; {draws[name].words}"
                found[name] = Recall(f"{why} ({place})" if place else why)
                over -= draws[name].kw
            staying = [one for one in staying if one.name not in chosen]


def _turn(unit: Lendable, draw: Draw) -> tuple[float, bool, str]:
    return -draw.usd_per_kilowatt_hour, unit.journal.phase is not Phase.PLANNED, unit.name
