"""What each engine of a pool did lately, kept between the collector's rounds and the loop's passes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tidefleet.controller.readings import EngineRates
from tidefleet.economics.ledger import Worked


@dataclass(frozen=True, slots=True)
class EngineWork:
    """What one engine did since it was last asked for, else what it did before.

    Attributes:
        workload: names its option in the pool, as in ``calibrating.workload_key``.
        leaving: its pod takes no further requests.
        spells: one for each time between two samples.
    """

    workload: str
    leaving: bool
    spells: tuple[Worked, ...]


@dataclass(slots=True)
class _Engine:
    workload: str
    leaving: bool
    at: float
    last: Worked
    untaken: list[Worked]


@dataclass(slots=True)
class WorkLog:
    """The engines of one pool. An engine that cannot be read for a while is not spoken for."""

    _engines: dict[str, _Engine] = field(default_factory=dict)

    def add(
        self,
        at: float,
        rates: Mapping[str, EngineRates],
        names: Mapping[str, tuple[str, bool]],
        *,
        context: float | None = None,
    ) -> None:
        """Take in one round.

        Args:
            rates: of the engines that gave a further sample, by uid.
            names: workload of every engine that there is, and whether it is leaving.
            context: mean tokens of a request that is put out half-way; ``None`` = not known.
        """
        for uid in [uid for uid in self._engines if uid not in names]:
            del self._engines[uid]
        for uid, one in rates.items():
            workload, leaving = names.get(uid, ("", False))
            spell = worked_of(one, context or 0.0)
            known = self._engines.get(uid)
            untaken = known.untaken if known is not None else []
            self._engines[uid] = _Engine(workload, leaving, at, spell, [*untaken[-_MOST:], spell])

    def take(self, now: float, *, usable_seconds: float) -> Sequence[EngineWork]:
        """What was added since this was last called; of engines without anything new what they last did.

        Args:
            usable_seconds: how old that may be.
        """
        found = []
        for one in self._engines.values():
            if now - one.at <= usable_seconds:
                found.append(EngineWork(one.workload, one.leaving, tuple(one.untaken) or (one.last,)))
            one.untaken = []
        return found


_MOST = 100
"""Rounds of one engine that are kept until somebody asks: a process that does not lead is never asked."""


def worked_of(rates: EngineRates, context: float) -> Worked:
    """An engine's rates between two samples as work."""
    cached = rates.found_tokens
    return Worked(
        seconds=rates.seconds,
        uncached=(rates.prompt_tokens - cached) * rates.seconds,
        output=rates.generation_tokens * rates.seconds,
        busy=rates.busy,
        recomputed=rates.preempted * context,
        batch=rates.running,
    )
