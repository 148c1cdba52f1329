"""What has been measured about replicas, and which of it corrects an estimate."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tidefleet.economics.evidence import Correction, ProfilePoint, best_evidence, roofline_of
from tidefleet.economics.group_table import GROUPS
from tidefleet.economics.groups import AGE_STEP_DAYS, Other, group_evidence
from tidefleet.economics.profile import group_correction, profile_correction
from tidefleet.economics.replica import Replica


@dataclass(frozen=True, slots=True)
class Profile:
    """A benchmark of one model on one accelerator type, engine version, width and precision."""

    model: str
    engine: str
    engine_version: str
    tensor_parallel: int
    weights: str
    points: tuple[ProfilePoint, ...]
    measured_on: datetime.date
    source: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaKey:
    """What a live calibration is kept by."""

    model: str
    accelerator: str
    chips: int
    weights: str
    kv: str


def key_of(replica: Replica) -> ReplicaKey:
    """The key of this replica's live calibration."""
    return ReplicaKey(replica.model.name, replica.accelerator.name, replica.chips, replica.weights, replica.kv)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about a pool's replicas beyond the roofline.

    Attributes:
        live: calibrations learned from the pool's own engines.
        engine, engine_version: what the pool runs; empty or ``Other`` = unknown.
        today: the date that ages of profiles and public runs are counted to; ``None`` takes them as fresh.
        other: another model of the time beside the roofline, asked where public runs show it to be the nearest.
    """

    live: Mapping[ReplicaKey, Correction] = field(default_factory=dict)
    engine: str = ""
    engine_version: str = ""
    today: datetime.date | None = None
    other: Other | None = None

    def on(self, replica: Replica) -> Replica:
        """The replica as this engine and release run it."""
        return replace(replica, engine=self.engine.lower(), engine_version=self.engine_version)

    def correction(self, replica: Replica, profiles: Sequence[Profile] = ()) -> Correction:
        """The evidence that wins for this replica; ``profiles`` are those of its accelerator type.

        Profiles of another width correct it by their group's scalar; without any, public runs of the like (``GROUPS``)
        say which model of the time is the nearest.
        """
        found = [self.live[key]] if (key := key_of(replica)) in self.live else []
        group = [one for one in profiles if self._is_of_group(one, replica)]
        for one in group:
            if one.tensor_parallel != replica.tp:
                continue
            corrected = profile_correction(
                replica,
                one.points,
                age_days=self._age(one.measured_on),
                same_version=self._is_of_version(one),
                source=one.source,
            )
            if corrected is not None:
                found.append(corrected)
        if group and not found:
            scalar = group_correction(
                [
                    (replace(replica, chips=one.tensor_parallel, tensor_parallel=one.tensor_parallel), point)
                    for one in group
                    for point in one.points
                ],
                age_days=max(self._age(one.measured_on) for one in group),
                same_version=all(self._is_of_version(one) for one in group),
                source="; ".join(dict.fromkeys(one.source for one in group if one.source)),
            )
            if scalar is not None:
                found.append(scalar)
        public = group_evidence(replica, GROUPS, engine_version=self.engine_version, today=self.today, other=self.other)
        return best_evidence(found, otherwise=public or roofline_of(replica))

    def _is_of_group(self, profile: Profile, replica: Replica) -> bool:
        return (
            profile.model == replica.model.name
            and profile.weights == replica.weights
            and (self.engine in ("", "Other") or profile.engine == self.engine)
        )

    def _is_of_version(self, profile: Profile) -> bool:
        return not self.engine_version or profile.engine_version == self.engine_version

    def _age(self, measured_on: datetime.date) -> float:
        if self.today is None:
            return 0.0
        return float(max(0, (self.today - measured_on).days) // AGE_STEP_DAYS * AGE_STEP_DAYS)


NO_EVIDENCE = Evidence()
"""The roofline alone."""
