"""One flip, step by step: ``step(journal, seen, now)`` says where a unit stands next and why. Pure, and total.

What is written for a phase follows from the phase alone (`wanted`), so a process that dies between any two writes
leaves nothing that the next one does not put right. Before Training a flip is rolled back; from Training on the way
back is a recall.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tidefleet.flipping.journal import LONGEST_WORDS, Journal, instant
from tidefleet.flipping.observation import Canary, Lend, Observation, Recall
from tidefleet.flipping.phase import Phase


@dataclass(frozen=True, slots=True)
class Step:
    """Where a unit stands now.

    Attributes:
        journal: the state to be written (the one that came in when nothing changed).
        changed: whether it is another one.
        direction: ``training`` or ``serving`` where a flip ended; empty otherwise.
        result: ``done``, ``rolled-back``, ``called-off`` or ``quarantined`` where one ended.
        words: what happened, in one sentence; empty when nothing did.
    """

    journal: Journal
    changed: bool = False
    direction: str = ""
    result: str = ""
    words: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a phase asks of everything but the node itself.

    Attributes:
        replace: its serving pods are to be replaced elsewhere before they stop taking requests.
        unroute: its serving pods take no requests.
        empty: its serving pods leave: their workload is scaled down, or they are evicted.
        kill: requests that still run are ended.
        evict: what is left of training goes, whatever it answers.
    """

    replace: bool = False
    unroute: bool = False
    empty: bool = False
    kill: bool = False
    evict: bool = False


def wanted(journal: Journal, seen: Observation, now: float) -> Wanted:
    """What is to be done about a unit's pods in its present phase."""
    match journal.phase:
        case Phase.CORDONED:
            return Wanted(replace=True, unroute=seen.capacity_kept is True)
        case Phase.DRAINING:
            kill = seen.terms.kill and journal.deadline is not None and now >= journal.deadline
            idle = seen.requests == 0
            return Wanted(replace=not (idle or kill), unroute=True, empty=idle or kill, kill=kill)
        case Phase.RECALLING:
            return Wanted(evict=_late(journal, now))
        case Phase.RECLAIMING:
            return Wanted(evict=True)
        case Phase.VERIFYING:
            return Wanted(unroute=True, empty=seen.requests == 0, evict=journal.trained)
        case Phase.QUARANTINED:  # what came here while it warmed up has not proved its answers
            unroute = journal.cause == "canary" or seen.capacity_kept is True
            return Wanted(replace=True, unroute=unroute, evict=journal.trained)
        case _:
            return Wanted()


def step(journal: Journal, seen: Observation, now: float) -> Step:
    """Where a unit stands next: at most one change of phase at a time.

    Args:
        journal: where it stands; for a unit that never flipped, one in phase Serving since 0.
        seen: what was observed of it.
        now: Unix seconds.
    """
    return _STEPS[journal.phase](journal, seen, now)


def _serving(journal: Journal, seen: Observation, now: float) -> Step:
    wish = seen.wish
    if not isinstance(wish, Lend) or instant(wish.until) <= now or hindrances(journal, seen, now):
        return Step(journal)
    return _to(
        journal, Phase.PLANNED, now, deadline=now + seen.terms.planned, why=wish.why,
        until=instant(wish.until), surge=False, trained=False, asked=None, cause="",
        pool=wish.pool, queue=wish.queue, by=wish.by,
    )  # fmt: skip


def _planned(journal: Journal, seen: Observation, now: float) -> Step:
    wish = seen.wish
    against = called_off(seen)
    if against:
        return _home(journal, seen, now, f"not lent: {against}", result="called-off")
    if _late(journal, now):
        return _home(journal, seen, now, "not lent: it could not set out in time", result="called-off")
    if isinstance(wish, Lend) and wish.admitted:
        seconds = seen.terms.cordon if seen.capacity_kept else seen.terms.replace
        return _to(journal, Phase.CORDONED, now, deadline=now + seconds, why=wish.why, until=instant(wish.until))
    return Step(journal)


def _cordoned(journal: Journal, seen: Observation, now: float) -> Step:
    against = called_off(seen)
    if against:
        return _home(journal, seen, now, f"rolled back: {against}")
    if seen.routable == 0 and seen.capacity_kept:
        return _to(journal, Phase.DRAINING, now, deadline=now + seen.terms.drain)
    if _late(journal, now):
        why = "replicas elsewhere did not take over in time" if not seen.capacity_kept else "requests are still routed"
        return _home(journal, seen, now, f"rolled back: {why}")
    return Step(journal)


def _draining(journal: Journal, seen: Observation, now: float) -> Step:
    against = called_off(seen) or _missed(seen)
    if against:
        return _home(journal, seen, now, f"rolled back: {against}")
    if seen.serving_pods == 0:
        return _to(journal, Phase.VERIFYING, now, deadline=now + seen.terms.verify)
    if _late(journal, now, more=seen.terms.kill_drain if seen.terms.kill else 0.0):
        if seen.expected == 0 and seen.requests == 0:  # all are terminating: what does not end is quarantined there
            return _to(journal, Phase.VERIFYING, now, deadline=now + seen.terms.verify)
        left, pods = ("an unknown number of" if one is None else str(one) for one in (seen.requests, seen.serving_pods))
        if seen.requests == 0 and seen.refused:
            return _home(journal, seen, now, f"rolled back: the eviction of its replicas was refused: {seen.refused}")
        return _home(journal, seen, now, f"rolled back: {left} requests in {pods} replicas were left")
    return Step(journal)


def _verifying(journal: Journal, seen: Observation, now: float) -> Step:
    against = called_off(seen) or _missed(seen)
    if journal.trained or journal.cause:  # released from quarantine: what trained here may still be here
        unpublished = seen.admission_stopped or not journal.trained
        if journal.cause == "canary" and seen.serving_pods:  # a replica that answered badly is tried no second time
            return _quarantined(journal, seen, now) if _late(journal, now) else Step(journal)
        if _only_serves(seen) and seen.present and not seen.unhealthy and unpublished:
            return _to(
                journal, Phase.WARMING, now, deadline=now + seen.terms.warm, why="released: nothing holds it", cause=""
            )
    elif against:
        return _home(journal, seen, now, f"rolled back: {against}")
    elif seen.holders == 0 and isinstance(seen.wish, Lend):
        until = instant(seen.wish.until)
        if until <= now:
            return _home(journal, seen, now, "rolled back: the loan would end before it began")
        step_ = _to(journal, Phase.TRAINING, now, deadline=until, until=until, trained=True)
        return Step(step_.journal, True, "training", "done", f"lent to training: {journal.why}")
    if _late(journal, now):
        return _quarantined(journal, seen, now)
    return Step(journal)


def _training(journal: Journal, seen: Observation, now: float) -> Step:
    wish = seen.wish
    if isinstance(wish, Recall):
        return _recalled(journal, seen, now, wish.why, surge=wish.surge)
    if not seen.present:
        return _recalled(journal, seen, now, "one of its nodes is gone")
    if seen.unhealthy:
        return _recalled(journal, seen, now, seen.unhealthy)
    if seen.serving_pods:  # a forged journal, or replicas that tolerate our taint
        return _recalled(journal, seen, now, f"{seen.serving_pods} serving replicas are on it")
    if isinstance(wish, Lend) and journal.until is not None and instant(wish.until) > journal.until:
        return Step(replace(journal, until=instant(wish.until), deadline=instant(wish.until)), changed=True)
    if journal.until is None or now >= journal.until:
        return _recalled(journal, seen, now, "the loan has ended")
    return Step(journal)


def _recalled(journal: Journal, seen: Observation, now: float, why: str, *, surge: bool = False) -> Step:
    grace = seen.terms.surge_grace if surge else seen.terms.grace
    return _to(journal, Phase.RECALLING, now, deadline=now + grace, why=f"recalled: {why}", surge=surge, asked=now)


def _recalling(journal: Journal, seen: Observation, now: float) -> Step:
    wish = seen.wish
    soon = now + seen.terms.surge_grace
    if isinstance(wish, Recall) and wish.surge and not journal.surge and (journal.deadline or now) > soon:
        hurried = replace(journal, deadline=soon, surge=True, why=f"recalled: {wish.why}"[:LONGEST_WORDS])
        return Step(hurried, changed=True, words=f"hurried: {wish.why}")
    gone = seen.jobs == 0 and seen.admission_stopped
    if gone or _late(journal, now, more=seen.terms.evict):
        return _to(journal, Phase.RECLAIMING, now, deadline=now + seen.terms.verify)
    return Step(journal)


def _reclaiming(journal: Journal, seen: Observation, now: float) -> Step:
    if _only_serves(seen) and seen.present and not seen.unhealthy and seen.admission_stopped:
        return _to(journal, Phase.WARMING, now, deadline=now + seen.terms.warm)
    if _late(journal, now):
        return _quarantined(journal, seen, now)
    return Step(journal)


def _warming(journal: Journal, seen: Observation, now: float) -> Step:
    served = seen.ready is not None and seen.expected is not None and seen.ready >= seen.expected
    if seen.canary is Canary.FAILED:
        return _quarantined(journal, seen, now, f"its trial request: {seen.canary_words}", cause="canary")
    if seen.unhealthy or not seen.present:
        return _quarantined(journal, seen, now) if _late(journal, now) else Step(journal)
    if served and seen.expected and seen.canary is Canary.PASSED:
        return _home(journal, seen, now, "serves again", result="done")
    unwanted = seen.expected == 0 and (not seen.awaited or _late(journal, now))
    if unwanted and now - journal.since >= seen.terms.settle:
        return _home(journal, seen, now, "stands ready to serve; no replica is wanted here now", result="done")
    if _late(journal, now):
        counts = ("an unknown number" if one is None else str(one) for one in (seen.ready, seen.expected))
        what = "no trial request came back" if served else "{} of {} replicas became ready".format(*counts)
        return _quarantined(journal, seen, now, what, cause="canary")
    return Step(journal)


def _in_quarantine(journal: Journal, seen: Observation, now: float) -> Step:
    recovered = journal.cause in ("health", "held") and seen.holders == 0 and seen.present and not seen.unhealthy
    if seen.released or (recovered and now - journal.since >= seen.terms.verify):
        why = "released by hand" if seen.released else "released: it is healthy and nothing holds it any more"
        cause = journal.cause or "held"  # it goes home from there, never to training
        return _to(journal, Phase.VERIFYING, now, deadline=now + seen.terms.verify, why=why, cause=cause)
    return Step(journal)


_STEPS: dict[Phase, Callable[[Journal, Observation, float], Step]] = {
    Phase.SERVING: _serving,
    Phase.PLANNED: _planned,
    Phase.CORDONED: _cordoned,
    Phase.DRAINING: _draining,
    Phase.VERIFYING: _verifying,
    Phase.TRAINING: _training,
    Phase.RECALLING: _recalling,
    Phase.RECLAIMING: _reclaiming,
    Phase.WARMING: _warming,
    Phase.QUARANTINED: _in_quarantine,
}


def hindrances(journal: Journal, seen: Observation, now: float) -> tuple[str, ...]:
    """Why a unit that serves cannot be lent now, each with what would have to change; empty when it can."""
    found = list(seen.vetoes)
    if not seen.present:
        found.append("one of its nodes is gone")
    if seen.unhealthy:
        found.append(seen.unhealthy)
    served = now - journal.since
    if journal.since and served < seen.terms.dwell:
        found.append(f"it has served for {served / 60:.0f} min; expected {seen.terms.dwell / 60:.0f} between two loans")
    return tuple(found)


def called_off(seen: Observation) -> str:
    """Why a flip that has set out must not go on; empty when it may."""
    if isinstance(seen.wish, Recall):
        return seen.wish.why
    if not isinstance(seen.wish, Lend):
        return "the loan is not worth it any more"
    if not seen.present:
        return "one of its nodes is gone"
    return seen.unhealthy or (seen.vetoes[0] if seen.vetoes else "")


def _missed(seen: Observation) -> str:
    """Whether the pool turns out to need what it was about to lend; not known is no reason to turn back."""
    return "the pool does not carry its demand without it any more" if seen.capacity_kept is False else ""


def _only_serves(seen: Observation) -> bool:
    """Whether nothing but serving replicas, if anything at all, is known to hold the accelerators."""
    return seen.holders is not None and seen.holders <= (seen.serving_pods or 0)


def _late(journal: Journal, now: float, *, more: float = 0.0) -> bool:
    """Whether a phase's time is over; without a deadline, which every moving phase is given, it is."""
    return journal.deadline is None or now >= journal.deadline + more


def _to(journal: Journal, phase: Phase, now: float, *, deadline: float | None, why: str = "", **more: object) -> Step:
    after = journal.to(phase, now, deadline=deadline, why=why, **more)
    return Step(after, True, words=f"{journal.phase} -> {phase}: {after.why}")


def _home(journal: Journal, seen: Observation, now: float, why: str, *, result: str = "rolled-back") -> Step:
    """Back to Serving, as before the flip. That a surge called it back stays told, until it is lent again."""
    direction = "serving" if journal.trained or journal.phase is Phase.WARMING else "training"
    after = journal.to(
        Phase.SERVING,
        now,
        why=why,
        until=None,
        surge=journal.surge or (isinstance(seen.wish, Recall) and seen.wish.surge),
        trained=False,
        asked=None,
        by="",
        cause="",
    )
    return Step(after, True, direction, result, f"{journal.phase} -> Serving: {why}")


def _quarantined(journal: Journal, seen: Observation, now: float, why: str = "", *, cause: str = "") -> Step:
    if not why:
        if seen.unhealthy or not seen.present:
            cause, why = "health", seen.unhealthy or "one of its nodes is gone"
        else:
            left = "it is not known what holds its accelerators"
            if seen.holders == 0:
                left = "nothing holds its accelerators, but training may still be admitted to them"
            elif seen.holders is not None:
                left = f"{seen.holders} pods or claims still hold its accelerators"
            cause, why = "held", left
    direction = "serving" if journal.trained or journal.phase is Phase.WARMING else "training"
    after = journal.to(Phase.QUARANTINED, now, why=f"{journal.phase} failed: {why}", cause=cause)
    return Step(after, True, direction, "quarantined", f"{journal.phase} -> Quarantined: {why}")
