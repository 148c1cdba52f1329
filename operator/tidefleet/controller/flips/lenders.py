"""Which pools lend nodes now, and why the others do not."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo

from tidefleet.api import InferencePool, Reason
from tidefleet.api.flipping import FlippingPolicy, PauseScope, QueueKind, TrainingQueue
from tidefleet.api.flipping_status import FlippingMode
from tidefleet.api.inference_pool import Mode
from tidefleet.controller import marks
from tidefleet.controller.training.lending import Fault, FaultReason
from tidefleet.flipping.lending import Lender

_REASONS: Mapping[FaultReason, Reason] = {
    FaultReason.KUEUE_ABSENT: Reason.KUEUE_ABSENT,
    FaultReason.QUEUE_NOT_IN_COHORT: Reason.QUEUE_NOT_IN_COHORT,
    FaultReason.QUOTA_BELOW_USAGE: Reason.QUOTA_IN_USE,
}

WARNS_ONLY = frozenset({FaultReason.QUOTA_BELOW_USAGE, FaultReason.WORKLOAD_STUCK, FaultReason.MANAGED_BY_ANOTHER})
"""Faults that do not keep nodes from being lent: what is lent is as it should be, and they pass."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause of all flips, or of one pool's."""

    scope: PauseScope = PauseScope.NONE
    by: str = ""
    reason: str = ""

    @property
    def words(self) -> str:
        """Who paused, and why."""
        return f"paused by {self.by or 'somebody'}" + (f": {self.reason}" if self.reason else "")


def pause_of(data: object) -> Pause:
    """The pause that a ConfigMap's data asks for. A scope that is not understood pauses new loans: it was meant to."""
    if not isinstance(data, Mapping) or not data.get("scope"):
        return Pause()
    by, reason = str(data.get("by", ""))[:128], str(data.get("reason", ""))[:256]
    try:
        return Pause(PauseScope(str(data["scope"]).strip()), by, reason)
    except ValueError:
        expected = "expected None, NewLoans or RecallAll"
        return Pause(PauseScope.NEW_LOANS, by, f"the scope is {str(data['scope'])[:40]!r}; {expected}")


@dataclass(frozen=True, slots=True)
class Openness:
    """Whether the owner's terms allow loans now.

    Attributes:
        ends: when they stop to (Unix seconds), less the time a recall takes; ``None`` where they do not.
        closed: why they do not allow any; ``next_opening`` when they will.
        reason: the reason of the condition Flipping while closed.
        zone, zone_name: in which times are told.
    """

    ends: float | None = None
    closed: str = ""
    next_opening: float | None = None
    reason: Reason = Reason.OUTSIDE_WINDOW
    zone: tzinfo = UTC
    zone_name: str = "UTC"


@dataclass(frozen=True, slots=True)
class Standing:
    """A pool as a lender, and what its condition Flipping says while nothing moves; ``mode`` as its status tells it."""

    lender: Lender
    reason: Reason
    open: Openness
    mode: FlippingMode


def queue_words(queue: TrainingQueue | None) -> str:
    """A training queue as a journal keeps it, e.g. ``Kueue/night``."""
    if queue is None:
        return ""
    return f"{QueueKind.KUEUE}/{queue.cluster_queue}" if queue.kind is QueueKind.KUEUE else str(QueueKind.SUSPEND)


def queue_of_words(words: str) -> TrainingQueue:
    """The queue of a journal whose pool is gone; without a selector nothing is started, and what runs is stopped."""
    kind, _, name = words.partition("/")
    if kind == str(QueueKind.KUEUE) and name:
        return TrainingQueue(kind=QueueKind.KUEUE, cluster_queue=name)
    return TrainingQueue.model_construct(kind=QueueKind.SUSPEND, cluster_queue=None, selector=None)


def standing(
    pool: InferencePool, *, opening: Openness, fleet_pause: Pause, faults: Sequence[Fault], cluster_wide: bool
) -> Standing | None:
    """How a pool stands as a lender; ``None`` for one that never lends.

    A pool that was released for an uninstall a short while ago, in real time, lends nothing and recalls what it lent.
    """
    spec = pool.spec.flipping
    if spec.policy is FlippingPolicy.NEVER:
        return None
    name = f"{pool.namespace}/{pool.name}"
    queue = queue_words(spec.training.queue if spec.training else None)
    own = Pause(spec.pause.scope, spec.pause.by or "", spec.pause.reason or "")
    reason, closed, recall = opening.reason, opening.closed, ""
    for pause in (own, fleet_pause):
        if pause.scope is PauseScope.RECALL_ALL:
            reason, closed, recall = Reason.PAUSED, pause.words, pause.words
        elif pause.scope is PauseScope.NEW_LOANS and not recall:
            reason, closed = Reason.PAUSED, pause.words
    serious = [one for one in faults if one.reason not in WARNS_ONLY]
    if pool.metadata.deletion_timestamp:
        reason, closed, recall = Reason.NEVER, "the pool is being deleted", "its pool is being deleted"
    elif marks.was_released(pool.metadata.annotations, time.time()):
        reason, closed, recall = Reason.NEVER, "tidefleet is being uninstalled", "tidefleet is being uninstalled"
    elif pool.spec.mode is not Mode.ENFORCE:
        closed = f"spec.mode is {pool.spec.mode}, which never flips; expected Enforce"
        reason, recall = Reason.RECOMMEND_ONLY, f"the mode of its pool is {pool.spec.mode}"
    elif not cluster_wide:
        reason = Reason.NOT_CLUSTER_WIDE
        closed = "the operator may not see the pods of all namespaces, so that it cannot tell what else is on a node"
    elif spec.training is None:
        reason, closed = Reason.QUEUE_MISSING, f"{pool}: spec.flipping.training is missing; expected a queue of jobs"
    elif serious and not recall:
        reason, closed = _REASONS.get(serious[0].reason, Reason.QUEUE_MISSING), serious[0].message
    only_told = reason in (Reason.RECOMMEND_ONLY, Reason.HISTORY_TOO_SHORT, Reason.METRICS_STALE)
    mode = FlippingMode.RECOMMEND if only_told else FlippingMode(str(spec.policy))
    lender = Lender(name, queue, closed=closed, recall=recall, ends=opening.ends, selector=_selector(pool))
    return Standing(lender, reason, opening, mode)


def _selector(pool: InferencePool) -> Mapping[str, str]:
    """The node selector of a pool's template; of what it adopts only the pods that are there can tell."""
    spec = (pool.spec.serving.template or {}).get("spec")
    selector = spec.get("nodeSelector") if isinstance(spec, Mapping) else None
    return {str(k): str(v) for k, v in selector.items()} if isinstance(selector, Mapping) else {}
