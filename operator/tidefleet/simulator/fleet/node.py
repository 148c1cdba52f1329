"""One node under the simulated clock: its journal, what is true of it, and what the state machine sees of that."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from tidefleet.flipping.journal import Journal
from tidefleet.flipping.lending import Labelled
from tidefleet.flipping.machine import Step, step
from tidefleet.flipping.observation import Canary, Lend, Observation, Recall, Stay, Terms, Wish
from tidefleet.flipping.phase import Phase
from tidefleet.simulator.fleet.spec import PoolSpec
from tidefleet.simulator.scenario import Flips

MOST_STEPS = 12
"""Changes of phase at one moment: a flip has nine, so more is a circle."""


class State(StrEnum):
    """What a node's time goes into."""

    SERVING = "serving"
    IDLE = "idle"
    """Ready to serve, and no replica is wanted on it."""
    OUTBOUND = "outbound"
    TRAINING = "training"
    HOMEBOUND = "homebound"
    DOWN = "down"
    GONE = "gone"
    """Taken back by who rents it out, so not paid for."""


@dataclass(slots=True, eq=False)
class Node:
    """A node that flips alone; all times are Unix seconds.

    Attributes:
        wanted: whether replicas are wanted on it; present, unhealthy: as the state machine is told.
        broken: replicas on it that restart at present.
        ready_at: its replicas answer from then on; drained_at: its requests are done; trains_from: its training pods
            run; quiet_at: the checkpoint that was asked for is written.
        asked_jobs: called when training is asked to leave: it says when nothing runs on the node any more.
    """

    name: str
    pool: str
    spec: PoolSpec
    flips: Flips
    terms: Terms
    journal: Journal
    spot: bool = False
    wanted: bool = True
    present: bool = True
    unhealthy: str = ""
    broken: int = 0
    ready_at: float = -math.inf
    drained_at: float = math.inf
    trains_from: float = math.inf
    quiet_at: float = -math.inf
    wish: Wish = field(default_factory=Stay)
    _brief: Observation | None = None

    # --- as a unit of a round --------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """It is one node."""
        return 1

    @property
    def missing(self) -> tuple[str, ...]:
        """Its name while it is gone."""
        return () if self.present else (self.name,)

    @property
    def serving(self) -> tuple[str, ...]:
        """No pod is told from another here."""
        return ()

    @property
    def pools(self) -> frozenset[tuple[str, str]]:
        """Its pool is the one of its round."""
        return frozenset()

    @property
    def nodes(self) -> tuple[Labelled, ...]:
        """Labels play no part here."""
        return ()

    # --- what is true of it ------------------------------------------------------------------------------------------

    def state(self, now: float) -> State:
        """What its time goes into."""
        phase = self.journal.phase
        if not self.present:
            return State.GONE
        if self.unhealthy or phase is Phase.QUARANTINED or self.broken >= self.spec.replicas_per_node:
            return State.DOWN
        if phase in (Phase.SERVING, Phase.PLANNED):
            if not self.wanted:
                return State.IDLE
            return State.SERVING if now >= self.ready_at else State.HOMEBOUND
        if phase is Phase.TRAINING:
            return State.TRAINING if now >= self.trains_from else State.OUTBOUND
        return State.OUTBOUND if phase.is_outbound else State.HOMEBOUND

    def replicas(self, now: float) -> int:
        """Replicas on it that take requests."""
        return self.spec.replicas_per_node - self.broken if self.state(now) is State.SERVING else 0

    @property
    def chips_per_replica(self) -> float:
        """Accelerators of a replica."""
        return self.spec.chips / self.spec.replicas_per_node

    @property
    def brief(self) -> Observation:
        """What a round looks at before it wishes for anything: health and terms."""
        if self._brief is None or self._brief.unhealthy != self.unhealthy:
            self._brief = Observation(terms=self.terms, unhealthy=self.unhealthy, present=self.present)
        return self._brief

    def is_due(self, now: float) -> bool:
        """Whether its wish, or the time, may change its phase now."""
        match self.journal.phase:
            case Phase.SERVING:
                return isinstance(self.wish, Lend)
            case Phase.TRAINING:
                longer = isinstance(self.wish, Lend) and self.wish.until > (self.journal.until or 0.0)
                return longer or isinstance(self.wish, Recall) or bool(self.unhealthy) or not self.present
            case _:
                return True

    def observe(self, now: float, *, capacity_kept: bool) -> Observation:
        """What the state machine is told of it."""
        phase, pods = self.journal.phase, self.spec.replicas_per_node
        serves = phase in (Phase.SERVING, Phase.PLANNED, Phase.CORDONED) or (
            phase is Phase.DRAINING and now < self.drained_at
        )
        warm = phase is Phase.WARMING and now >= self.ready_at
        there = serves or phase is Phase.WARMING
        quiet = now >= self.quiet_at
        return Observation(
            wish=self.wish,
            terms=self.terms,
            present=self.present,
            unhealthy=self.unhealthy,
            capacity_kept=capacity_kept,
            routable=pods if phase in (Phase.SERVING, Phase.PLANNED) else 0,
            serving_pods=pods if there else 0,
            requests=pods if serves else 0,
            holders=pods if there else 0 if quiet else 1,
            jobs=0 if quiet else 1,
            admission_stopped=True,
            expected=pods if there else 0,
            ready=pods if serves or warm else 0,
            canary=Canary.PASSED if warm else Canary.UNKNOWN,
        )

    def moves(
        self,
        now: float,
        *,
        capacity_kept: Callable[[Node], bool],
        leave: Callable[[Node, bool], float],
        changed: Callable[[Node], None],
    ) -> list[Step]:
        """All changes of phase that are due at this moment.

        Args:
            leave: called once when training is asked to leave, with whether it is urgent; when it will be gone.
            changed: called after each change.
        """
        made: list[Step] = []
        while len(made) < MOST_STEPS:
            one = step(self.journal, self.observe(now, capacity_kept=capacity_kept(self)), now)
            if not one.changed:
                return made
            before, self.journal = self.journal.phase, one.journal
            if one.journal.phase is not before or one.journal.surge:
                self._entered(before, now, leave)
            changed(self)
            made.append(one)
        raise RuntimeError(f"{self.name} changes its phase in circles: {', '.join(one.words for one in made[-3:])}")

    def _entered(self, before: Phase, now: float, leave: Callable[[Node, bool], float]) -> None:
        match self.journal.phase:
            case Phase.DRAINING:
                self.drained_at = now + self.flips.drain_seconds
            case Phase.TRAINING:
                self.trains_from = now + self.flips.start_seconds
                self.quiet_at = math.inf
            case Phase.RECALLING if before is not Phase.RECALLING:
                self.quiet_at = leave(self, self.journal.surge)
            case Phase.RECLAIMING | Phase.QUARANTINED:
                self.quiet_at = min(self.quiet_at, now)
            case Phase.WARMING:
                self.broken = 0
                self.ready_at = now + self.flips.load_seconds + self.flips.warm_seconds

    def next_event(self, now: float) -> float:
        """When its phase may change next by itself; infinite when it will not."""
        phase, journal = self.journal.phase, self.journal
        times = [self.ready_at, self.drained_at, self.trains_from, self.quiet_at]
        if journal.deadline is not None:
            times.append(journal.deadline)
            if phase is Phase.RECALLING:
                times.append(journal.deadline + self.terms.evict)
        if phase is Phase.QUARANTINED:
            times.append(journal.since + self.terms.verify)
        return min((one for one in times if one > now), default=math.inf)

    def fresh(self, now: float) -> None:
        """It has come back with nothing on it: its replicas start."""
        self.ready_at = now + self.flips.load_seconds + self.flips.warm_seconds


def a_node(name: str, pool: PoolSpec, flips: Flips, terms: Terms, *, spot: bool) -> Node:
    """A node that has served since ever."""
    journal = Journal(
        epoch=1,
        phase=Phase.SERVING,
        since=0.0,
        unit=name,
        pool=f"simulated/{pool.serves}",
        accelerator=pool.accelerator,
    )
    return Node(name, pool.serves, pool, flips, terms, journal, spot=spot)


def lent(node: Node, now: float) -> None:
    """Put a node on loan for ever, as a fleet does that is split once and for all."""
    node.journal = replace(node.journal, phase=Phase.TRAINING, since=now, until=None, deadline=None, trained=True)
    node.trains_from = now
    node.quiet_at = math.inf
