"""Live calibration in the operator: which intervals of which engines are learned from, and what plans are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tidefleet.cluster.records import Pod
from tidefleet.controller.readings import Sample, Trouble, is_badly_timed, is_restart
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.evidence import Correction
from tidefleet.economics.live import Interval, ratios_of
from tidefleet.economics.replica import Replica
from tidefleet.economics.shape import TokenShape
from tidefleet.planning.demand import Known, Reading
from tidefleet.planning.evidence import Evidence, ReplicaKey, key_of
from tidefleet.planning.live import LiveCalibration, follow
from tidefleet.planning.options import Market, Offer, Option

WARM_SECONDS = 60.0
"""Time after an engine's first usable sample, and after any fault or restart, that is not learned from: kernels are
compiled, graphs captured and caches filled then."""

RETURN_SECONDS = 600.0
"""A revision of the pods that was replaced may come back once the newer one has been silent for this long."""

_MOST_KINDS = 64
_MOST_REVISIONS = 8

_REVISION_LABELS = (
    "pod-template-hash",
    "controller-revision-hash",
    "leaderworkerset.sigs.k8s.io/template-revision-hash",
)


@dataclass(frozen=True, slots=True)
class Measured:
    """An interval of one engine: ``workload`` names its option in the pool, ``revision`` its pod template."""

    workload: str
    revision: str
    interval: Interval


@dataclass(frozen=True, slots=True)
class Round:
    """All that one round of the collector measured of a pool, at ``at`` (seconds of the operator's clock)."""

    at: float
    measured: tuple[Measured, ...]


def revision_of(pod: Pod) -> str:
    """What tells this pod's template from others of the same workload; empty when nothing does."""
    return next((pod.labels[name] for name in _REVISION_LABELS if name in pod.labels), "")


def workload_key(option: Option, pool: str) -> str:
    """What intervals of an option's engines are filed under: the adopted workload, else the key of the option."""
    return option.workload or option.key(pool)


@dataclass(slots=True)
class IntervalTrail:
    """The last usable sample of each engine, by pod uid, and since when it has answered without a fault."""

    _last: dict[str, Sample] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)

    def step(self, at: float, answers: Mapping[str, Sample | Trouble], names: Mapping[str, tuple[str, str]]) -> Round:
        """Take in one round of answers.

        Args:
            names: workload and revision of each engine, by uid; engines without a workload are left out.
        """
        found = []
        for uid, answer in answers.items():
            before = self._last.get(uid)
            if isinstance(answer, Trouble):
                self._last.pop(uid, None)
                self._since.pop(uid, None)
                continue
            if before is not None and answer.at == before.at:  # a Prometheus that has not scraped since
                continue
            if before is not None and is_badly_timed(before, answer):
                if answer.unsure < before.unsure:
                    self._last[uid] = answer
                continue
            self._last[uid] = answer
            interval = interval_between(before, answer) if before is not None else None
            if interval is None:
                self._since[uid] = answer.at
            elif before is not None and before.at - self._since.get(uid, before.at) >= WARM_SECONDS:
                workload, revision = names.get(uid, ("", ""))
                if workload:
                    found.append(Measured(workload, revision, interval))
        for uid in [uid for uid in self._last if uid not in answers]:
            del self._last[uid]
            self._since.pop(uid, None)
        return Round(at, tuple(found))


_RISING = (
    "prompt_tokens",
    "generation_tokens",
    "finished",
    "token_seconds",
    "timed_tokens",
    "first_token_seconds",
    "first_tokens",
    "queue_seconds",
    "queued",
)


def interval_between(before: Sample, after: Sample) -> Interval | None:
    """What an engine did between two samples; ``None`` when time did not pass, it restarted, or any counter fell."""
    one, two = before.counters, after.counters
    grown = {name: getattr(two, name) - getattr(one, name) for name in _RISING}
    seconds = after.at - before.at
    if seconds <= 0 or min(grown.values()) < 0 or is_restart(before, after):
        return None
    told = two.timed_tokens > 0 and one.timed_tokens > 0
    first: float | None = None
    if grown["first_tokens"] > 0:
        if grown["queued"] > 0:
            queue = grown["queue_seconds"] / grown["queued"] * grown["first_tokens"]
            first = max(0.0, grown["first_token_seconds"] - queue)
        elif max(one.waiting, two.waiting) == 0:
            first = grown["first_token_seconds"]
    return Interval(
        seconds=seconds,
        running=(one.running, two.running),
        waiting=(one.waiting, two.waiting),
        prompt_tokens=grown["prompt_tokens"],
        generation_tokens=grown["generation_tokens"],
        kv_usage=max(one.kv_usage, two.kv_usage),
        token_seconds=grown["token_seconds"] if told else None,
        timed_tokens=grown["timed_tokens"],
        first_token_seconds=first,
        first_tokens=grown["first_tokens"],
    )


@dataclass(slots=True)
class _Kind:
    """One kind of replica: what it is modelled as, what it has shown, and the pods that have shown it."""

    replica: Replica
    shown: LiveCalibration
    revisions: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, list[str]] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)

    def current(self, workload: str, measured: list[Measured], at: float) -> list[Interval]:
        """The intervals of a workload's pods of the newest template; one not seen before makes all start afresh."""
        used = self.revisions.get(workload)
        for revision in sorted({one.revision for one in measured if one.revision != used}):
            past = self.replaced.get(workload, [])
            if used is not None and revision in past and at - self.heard.get(workload, at) < RETURN_SECONDS:
                continue
            if used is not None:
                self.replaced[workload] = [one for one in (*past, used) if one != revision][-_MOST_REVISIONS:]
                self.shown = LiveCalibration(self.shown.half_life_seconds)
            self.revisions[workload] = used = revision
        found = [one.interval for one in measured if one.revision == used]
        if found:
            self.heard[workload] = at
        return found


@dataclass(slots=True)
class Learning:
    """What is remembered of a pool's calibration between two passes; lost with the process."""

    kinds: dict[ReplicaKey, _Kind] = field(default_factory=dict)
    last_round: float | None = None
    subject: tuple[str, ...] | None = None
    """What a calibration is about: value of the reset annotation, engine and its version, and the model."""

    def learn(
        self,
        taken: Round,
        *,
        subject: tuple[str, ...],
        replicas: Mapping[str, Replica],
        shape: TokenShape | None,
        half_life_seconds: float,
        calibrations: dict[ReplicaKey, Correction],
    ) -> None:
        """Take in one round, once, and bring ``calibrations`` to what is known after it.

        Args:
            subject: when it changes all is forgotten.
            replicas: how each workload's replicas are modelled.
            shape: mean lengths measured; ``None`` = not known, and then nothing is learned.
        """
        if self.subject is not None and self.subject != subject:
            self.kinds.clear()
            calibrations.clear()
        self.subject = subject
        if self.last_round is not None and taken.at <= self.last_round:
            self.last_round = taken.at  # seen already, or the clock was set back
            return
        self.last_round = taken.at
        by_key: dict[ReplicaKey, list[Interval]] = {}
        for workload, replica in replicas.items():
            mine = [one for one in taken.measured if one.workload == workload]
            key = key_of(replica)
            if (kind := self._kind(key, replica, half_life_seconds, calibrations)) is None:
                continue
            shown = kind.shown
            by_key.setdefault(key, []).extend(kind.current(workload, mine, taken.at))
            if kind.shown is not shown:
                calibrations.pop(key, None)
        for key, kind in self.kinds.items():
            ratios = ratios_of(kind.replica, shape, by_key.get(key, [])) if shape is not None else []
            if not kind.shown.add(taken.at, ratios):
                continue
            told = follow(calibrations.get(key), kind.shown.correction(taken.at, kind.replica, shape or _ANY))
            if told is None:
                calibrations.pop(key, None)
            else:
                calibrations[key] = told

    def _kind(
        self, key: ReplicaKey, replica: Replica, half_life: float, calibrations: dict[ReplicaKey, Correction]
    ) -> _Kind | None:
        known = self.kinds.get(key)
        if known is not None and known.replica == replica:
            return known
        if known is None and len(self.kinds) >= _MOST_KINDS:
            return None
        calibrations.pop(key, None)  # another catalogue makes another model, and factors are relative to the model
        self.kinds[key] = _Kind(replica, LiveCalibration(half_life))
        return self.kinds[key]


_ANY = TokenShape(input_mean=1000.0, output_mean=200.0)
"""Lengths at which times must not fall with the batch while none are measured."""


def modelled(
    options: Mapping[str, Option], model: Architecture, offers: tuple[Offer, ...], evidence: Evidence
) -> dict[str, Replica]:
    """How replicas of each workload are modelled for planning; those on accelerators without facts are left out."""
    chips = {offer.accelerator.name: offer.accelerator for offer in offers}
    return {
        name: evidence.on(Replica(model, chips[option.accelerator], option.tensor_parallel, option.weights, option.kv))
        for name, option in options.items()
        if option.accelerator in chips and "Bf16" in chips[option.accelerator].flops
    }


def measured_shape(reading: Reading | None, like: TokenShape | None) -> TokenShape | None:
    """Mean lengths as measured, spread as in the class ``like``; ``None`` while they are not known."""
    if not isinstance(reading, Known) or reading.input_tokens is None or reading.output_tokens is None:
        return None
    shape = TokenShape(reading.input_tokens, reading.output_tokens, cached_share=min(0.98, reading.found_share or 0.0))
    if like is not None and like.input_mean > 0:
        shape = replace(shape, input_p95=like.input_p95 * shape.input_mean / like.input_mean)
    return shape


def factors_in_use(
    calibrations: Mapping[ReplicaKey, Correction], market: Market, planned: Mapping[Option, int]
) -> dict[tuple[str, str], float]:
    """Live factors at the operating point by (accelerator, phase), 1 where nothing is learned.

    Of several planned options of one accelerator type that with most replicas is told.
    """
    found: dict[tuple[str, str], float] = {}
    most: dict[str, int] = {}
    for one in market.candidates:
        name, count = one.option.accelerator, planned.get(one.option)
        if count is None or count < most.get(name, 0) or not one.estimates:
            continue
        most[name] = count
        told = calibrations.get(key_of(one.estimates[0].replica))
        batch = np.array([max(1.0, one.estimates[0].batch)])
        found[name, "decode"] = float(told.decode_factor(batch)[0]) if told else 1.0
        found[name, "prefill"] = told.prefill_factor if told else 1.0
    return found
