"""Which model of the time is nearest to public measurements of a model, an accelerator and an engine, and how near.

For a group of runs of one model family, accelerator type, engine and precision of weights there are three models of the
time: the roofline, the roofline times the group's scalar, and aiconfigurator-core where that package is installed. Each
has a measured error there (``group_table``); the one with the lowest speaks for replicas of the group, where it is
lower by more than chance: by its standard error, sigma / sqrt(2 runs). Otherwise the simpler one does.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from tidefleet.economics.architecture import Architecture
from tidefleet.economics.evidence import PROFILE_SIGMA, Correction, roofline_of, with_age
from tidefleet.economics.profile import OTHER_WIDTH_SIGMA
from tidefleet.economics.replica import Replica

AGE_STEP_DAYS = 30
"""Ages are taken in steps, so that the passing of a day makes no new estimate."""


@dataclass(frozen=True, slots=True)
class Group:
    """What public runs of one group say about each model of the time.

    Sigmas are relative one-sigma errors of the time between tokens: 1.2533 times the mean absolute log ratio of
    measured and modelled time (a normal error's standard deviation over its mean absolute value).

    Attributes:
        model: catalogue name of the model that ran; family: what its family has in common (``family_of``).
        chips: of the replicas that ran, rising.
        runs: how many.
        factor: measured over roofline time, one scalar for all runs.
        roofline: sigma of the roofline as it is.
        scalar: sigma of roofline times scalar, on runs that the scalar was not taken from.
        other: sigma of aiconfigurator-core on the runs that it can predict; ``None`` where these are too few.
        beside: the lower sigma of the first two on those same runs.
        measured_on: the day of the newest run.
        versions: of the engine, as far as the runs state them.
    """

    model: str
    family: tuple[int, ...]
    accelerator: str
    engine: str
    weights: str
    chips: tuple[int, ...]
    runs: int
    factor: float
    roofline: float
    scalar: float
    measured_on: datetime.date
    versions: tuple[str, ...] = ()
    other: float | None = None
    beside: float = 0.0

    @property
    def prefers_other(self) -> bool:
        """Whether aiconfigurator-core is nearer to the runs it predicts than both of the others."""
        return self.other is not None and _is_lower(self.other, self.beside, self.runs)

    @property
    def prefers_scalar(self) -> bool:
        """Whether the roofline times the scalar is nearer to the runs than the roofline as it is."""
        return _is_lower(self.scalar, self.roofline, self.runs)


def _is_lower(sigma: float, other: float, runs: int) -> bool:
    """Whether one of two errors over so many runs is lower by more than its own standard error."""
    return sigma * (1.0 + 1.0 / math.sqrt(2.0 * runs)) < other


Other = Callable[[Group, Replica], Correction | None]
"""Another model of the time, as factors on the roofline; ``None``: it has nothing to say. Its sigma is not used."""


def family_of(model: Architecture) -> tuple[int, ...]:
    """What models have in common whose kernels are the same: layers, widths, heads, KV heads, experts and routing.

    Llama 3.1 and 3.3 70B are one family, as are DeepSeek V3 and R1 and every fine-tuned copy.
    """
    return (model.layers, model.hidden_size, model.heads, model.kv_heads, model.experts, model.experts_per_token)


def group_of(replica: Replica, groups: Iterable[Group]) -> Group | None:
    """The group whose runs speak for a replica, or ``None``.

    They ran in plain tensor or expert parallelism on up to so many chips, at the precision of arithmetic that storage
    and chip give, a token a step; nothing follows for others.
    """
    plain = replica.data_parallel == 1 and replica.speculation is None and not replica.compute
    if not plain or replica.efficiency is not None or not replica.engine:
        return None
    family, engine = family_of(replica.model), replica.engine.lower()
    for one in groups:
        if (
            one.accelerator == replica.accelerator.name
            and one.engine == engine
            and one.weights == replica.weights
            and one.family == family
            and replica.chips <= one.chips[-1]
        ):
            return one
    return None


def group_evidence(
    replica: Replica,
    groups: Iterable[Group],
    *,
    engine_version: str = "",
    today: datetime.date | None = None,
    other: Other | None = None,
) -> Correction | None:
    """The correction by the model of the time that is nearest to the replica's group, or ``None`` without a group.

    Sigma is what was measured, at least that of a fresh profile, more for a width that did not run, another version of
    the engine and age. As these are guesses, they raise it to the roofline's own at most.

    Args:
        engine_version: what runs; empty = unknown, taken as measured.
        today: ages are counted to it; ``None`` takes the runs as fresh.
        other: asked only where it was measured to be the nearest.
    """
    group = group_of(replica, groups)
    if group is None:
        return None
    source = _source(group)
    if other is not None and group.prefers_other and (said := other(group, replica)) is not None:
        sigma = _sigma(group, group.other or 0.0, replica, engine_version, today)
        return replace(said, sigma=sigma, source=f"{said.source}, by {source}")
    if group.prefers_scalar:
        sigma = _sigma(group, group.scalar, replica, engine_version, today)
        return Correction("Group", sigma, decode=((1.0, group.factor),), prefill=group.factor, source=source)
    sigma = _sigma(group, group.roofline, replica, engine_version, today)
    return Correction("Roofline", sigma, source=source)


def _sigma(group: Group, measured: float, replica: Replica, engine_version: str, today: datetime.date | None) -> float:
    same_version = not engine_version or not group.versions or engine_version in group.versions
    days = 0 if today is None else max(0, (today - group.measured_on).days) // AGE_STEP_DAYS * AGE_STEP_DAYS
    least = max(PROFILE_SIGMA, measured)
    if replica.chips not in group.chips:
        least = math.hypot(least, OTHER_WIDTH_SIGMA)
    return max(measured, min(roofline_of(replica).sigma, with_age(least, float(days), same_version)))


def _source(group: Group) -> str:
    versions = f" {', '.join(group.versions)}" if group.versions else ""
    return (
        f"{group.runs} runs of {group.model} on {group.accelerator} with {group.engine}{versions} until "
        f"{group.measured_on} (aiconfigurator-core 0.12.0, silicon_sample.csv)"
    )
