"""Journals and observations of one unit, and every change of phase that the machine may make."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tidefleet.flipping.journal import Journal
from tidefleet.flipping.machine import Step, step
from tidefleet.flipping.observation import Canary, Lend, Observation, Recall, Stay, Terms
from tidefleet.flipping.phase import Phase

NOW = 1_764_028_800.0
HOUR = 3600.0
TERMS = Terms()

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Time never makes a test fail, on a busy machine either."""

P = Phase
EDGES: dict[Phase, frozenset[Phase]] = {
    P.SERVING: frozenset({P.PLANNED}),
    P.PLANNED: frozenset({P.CORDONED, P.SERVING}),
    P.CORDONED: frozenset({P.DRAINING, P.SERVING}),
    P.DRAINING: frozenset({P.VERIFYING, P.SERVING}),
    P.VERIFYING: frozenset({P.TRAINING, P.SERVING, P.QUARANTINED, P.WARMING}),  # Warming: on release only
    P.TRAINING: frozenset({P.RECALLING}),
    P.RECALLING: frozenset({P.RECLAIMING}),
    P.RECLAIMING: frozenset({P.WARMING, P.QUARANTINED}),
    P.WARMING: frozenset({P.SERVING, P.QUARANTINED}),
    P.QUARANTINED: frozenset({P.VERIFYING}),
}

OUTBOUND = (P.PLANNED, P.CORDONED, P.DRAINING, P.VERIFYING)
"""On the way to training, where a flip is rolled back."""

_SECONDS = {
    P.PLANNED: TERMS.planned,
    P.CORDONED: TERMS.cordon,
    P.DRAINING: TERMS.drain,
    P.VERIFYING: TERMS.verify,
    P.TRAINING: 8 * HOUR,
    P.RECALLING: TERMS.grace,
    P.RECLAIMING: TERMS.verify,
    P.WARMING: TERMS.warm,
}


def a_journal(phase: Phase, **more: Any) -> Journal:
    """A unit that has been in a phase since NOW, as a flip leaves it there; one that serves has done so for long."""
    since = NOW - 24 * HOUR if phase is P.SERVING else NOW
    trained = phase in (P.TRAINING, P.RECALLING, P.RECLAIMING, P.WARMING)
    journal = Journal(
        epoch=3,
        phase=phase,
        since=since,
        unit="node-1",
        members=("node-1",),
        pool="prod/chat",
        accelerator="h100",
        deadline=NOW + _SECONDS[phase] if phase in _SECONDS else None,
        until=NOW + 8 * HOUR if phase not in (P.SERVING, P.QUARANTINED) else None,
        why="night",
        trained=trained,
        cause="held" if phase is P.QUARANTINED else "",
        history=((since, phase),),
    )
    return replace(journal, **more)


def lend(until: float = NOW + 8 * HOUR, **more: Any) -> Lend:
    """The wish that the unit goes to training."""
    return Lend(until=until, why="night", **more)


def what_was_seen(**more: Any) -> Observation:
    """A healthy unit that is to be lent, of which nothing else is known."""
    return Observation(**{"wish": lend(), "capacity_kept": True, **more})


def after(journal: Journal, seconds: float = 1.0, **more: Any) -> Step:
    """One step, ``seconds`` after NOW."""
    return step(journal, what_was_seen(**more), NOW + seconds)


_COUNTS = st.sampled_from([None, 0, 1, 7])
WISHES = st.one_of(
    st.just(Stay()),
    st.builds(
        Lend,
        until=st.sampled_from([0.0, NOW - 1, NOW + 60, NOW + 8 * HOUR, float("inf"), float("nan")]),
        why=st.sampled_from(["", "night", "\ud800", "x" * 2000]),
        admitted=st.booleans(),
    ),
    st.builds(Recall, why=st.sampled_from(["morning", ""]), surge=st.booleans()),
)
OBSERVATIONS = st.builds(
    Observation,
    wish=WISHES,
    terms=st.sampled_from([TERMS, Terms(kill=True), Terms(dwell=0, verify=0, warm=0, settle=0, drain=0, grace=0)]),
    present=st.booleans(),
    unhealthy=st.sampled_from(["", "XID 79"]),
    vetoes=st.sampled_from([(), ("cordoned by a human",)]),
    capacity_kept=st.sampled_from([None, True, False]),
    routable=_COUNTS,
    serving_pods=_COUNTS,
    requests=_COUNTS,
    refused=st.sampled_from(["", "a budget needs it"]),
    holders=_COUNTS,
    jobs=_COUNTS,
    admission_stopped=st.booleans(),
    expected=_COUNTS,
    ready=_COUNTS,
    awaited=st.booleans(),
    canary=st.sampled_from(Canary),
    canary_words=st.just("another answer"),
    released=st.booleans(),
)
TIMES = st.sampled_from([None, 0.0, NOW - HOUR, NOW - 1, NOW, NOW + 60, NOW + 9 * HOUR, 99_999_999_999.0])
JOURNALS = st.builds(
    Journal,
    epoch=st.integers(0, 10),
    phase=st.sampled_from(Phase),
    since=st.sampled_from([0.0, NOW - 24 * HOUR, NOW - 130, NOW, NOW + 5]),
    unit=st.just("node-1"),
    members=st.just(("node-1",)),
    deadline=TIMES,
    until=TIMES,
    surge=st.booleans(),
    trained=st.booleans(),
    asked=TIMES,
    cause=st.sampled_from(["", "health", "held", "canary", "else"]),
)
