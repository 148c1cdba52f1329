"""A small cluster with an operator that may die at any moment: nodes, serving pods, training, a queue and a router.

Independent of the operator's own code but for what is under test: `step`, `wanted`, and the journal's text. The world
trusts the flips: its schedulers look at taints and labels only, so two owners of an accelerator can come about here.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from machine_builders import EDGES

from tidefleet.flipping.journal import Journal, agreed, read, write
from tidefleet.flipping.machine import Step, Wanted, step, wanted
from tidefleet.flipping.observation import Canary, Lend, Observation, Recall, Stay, Terms, Wish
from tidefleet.flipping.phase import Phase

UNITS: dict[str, tuple[str, ...]] = {"a": ("a",), "b": ("b",), "c": ("c",), "g": ("g1", "g2")}
NODES = tuple(node for members in UNITS.values() for node in members)
UNIT_OF = {node: unit for unit, members in UNITS.items() for node in members}
WISHES = ("lend", "stay", "recall", "surge")
NEVER = math.inf
START = 1_764_028_800.0

LENDABLE = frozenset({Phase.TRAINING, Phase.RECALLING})
BEING_CLEARED = frozenset({Phase.RECLAIMING, Phase.QUARANTINED, Phase.VERIFYING})
"""Where training may be left over, if training was let in, and then only on its way out."""

UNPROVEN = frozenset({Phase.VERIFYING, Phase.WARMING, Phase.QUARANTINED})
"""Where replicas have not shown, since training was here, that they answer well."""

COUNTED = ("capacity_kept", "routable", "serving_pods", "requests", "holders", "jobs", "expected", "ready")

Agree = Callable[[Iterable[Journal]], Journal]


@lru_cache(maxsize=4096)
def _read(text: str) -> Journal:
    found = read(text)
    assert isinstance(found, Journal), found
    return found


@dataclass(slots=True)
class Machine:
    """A node: what is written on it, and whether it works. ``worn``: the phase by which it is labelled and tainted."""

    text: str | None = None
    worn: Phase = Phase.SERVING
    exists: bool = True
    healthy: bool = True
    answers_badly: bool = False


@dataclass(slots=True, eq=False)
class Replica:
    """A serving pod; ``node`` is empty while it waits for one."""

    node: str = ""
    ready_at: float = NEVER
    routable: bool = True
    busy_until: float = 0.0
    gone_at: float | None = None


@dataclass(slots=True, eq=False)
class Job:
    """A training job with one pod on each of its nodes."""

    nodes: tuple[str, ...]
    acknowledges: bool
    ends_at: float
    asked_at: float | None = None
    evicting: bool = False
    gone_at: float | None = None


@dataclass(slots=True)
class World:
    """The cluster and its operator; ``agree`` tells where a unit stands whose nodes tell different stories."""

    rng: random.Random
    terms: Terms = field(default_factory=Terms)
    agree: Agree = agreed
    t: float = START
    skew: float = 0.0
    required: int = 2
    scale: int = 2
    nodes: dict[str, Machine] = field(default_factory=lambda: {name: Machine() for name in NODES})
    replicas: list[Replica] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    published: set[str] = field(default_factory=set)
    wishes: dict[str, str] = field(default_factory=lambda: dict.fromkeys(UNITS, "stay"))
    until: dict[str, float] = field(default_factory=lambda: dict.fromkeys(UNITS, 0.0))
    vetoed: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    evictions_refused: bool = False
    terminations_stuck: bool = False
    longest_termination: float = 1800.0
    transitions: int = 0
    crashes: int = 0
    edges: Counter[tuple[Phase, Phase]] = field(default_factory=Counter)

    # What is

    @property
    def clock(self) -> float:
        """What the operator's clock shows."""
        return self.t + self.skew

    def journal(self, unit: str) -> Journal:
        """Where a unit stands by what is written on its nodes."""
        texts = {self.nodes[name].text for name in UNITS[unit] if self.nodes[name].exists} - {None}
        if not texts:
            return Journal(0, Phase.SERVING, 0.0, unit, members=UNITS[unit])
        stories = [_read(text) for text in texts if text]
        return stories[0] if len(stories) == 1 else self.agree(stories)

    def carried(self, *, without: str = "") -> int:
        """Replicas that take requests and are known to answer them well."""
        return sum(
            one.routable
            and one.ready_at <= self.t
            and one.gone_at is None
            and self.nodes[one.node].healthy
            and UNIT_OF[one.node] != without
            and self.journal(UNIT_OF[one.node]).phase not in UNPROVEN
            for one in self.replicas
        )

    def observe(self, unit: str, journal: Journal, *, admitted: bool, hidden: float) -> Observation:
        """What the operator sees of a unit; each count is not known with probability ``hidden``."""
        members = UNITS[unit]
        machines = [self.nodes[name] for name in members]
        here = [one for one in self.replicas if one.node in members]
        staying = [one for one in here if one.gone_at is None]
        ready = [one for one in staying if one.ready_at <= self.t and self.nodes[one.node].healthy]
        jobs = [one for one in self.jobs if set(one.nodes) & set(members)]
        canary = Canary.PASSED if ready else Canary.UNKNOWN
        if any(self.nodes[one.node].answers_badly for one in ready):
            canary = Canary.FAILED
        away = journal.phase not in (Phase.SERVING, Phase.PLANNED)
        seen = Observation(
            wish=self._wish(unit, admitted),
            terms=self.terms,
            present=all(one.exists and not (away and one.text is None) for one in machines),
            unhealthy="" if all(one.healthy for one in machines if one.exists) else "NotReady",
            vetoes=("vetoed",) if unit in self.vetoed else (),
            capacity_kept=self.carried(without=unit) >= self.required,
            routable=sum(one.routable for one in staying),
            serving_pods=len(here),
            requests=sum(one.busy_until > self.t for one in here),
            holders=len(here) + sum(name in members for one in jobs for name in one.nodes),
            jobs=sum(one.gone_at is None for one in jobs),
            admission_stopped=not self.published & set(members),
            expected=len(staying),
            ready=len(ready),
            awaited=any(not one.node for one in self.replicas),
            canary=canary,
            released=unit in self.released,
        )
        if hidden:
            unknown = {name: None for name in COUNTED if self.rng.random() < hidden}
            seen = replace(seen, **unknown) if unknown else seen  # type: ignore[arg-type]
        return seen

    def _wish(self, unit: str, admitted: bool) -> Wish:
        match self.wishes[unit]:
            case "lend":
                return Lend(self.until[unit], "night", admitted=admitted)
            case "recall":
                return Recall("morning")
            case "surge":
                return Recall("requests wait", surge=True)
            case _:
                return Stay()

    # What the operator does

    def operate(self, *, lives: float = 1.0, hidden: float = 0.0, writes: int | None = None) -> int:
        """One pass of the operator, which dies after that part, or number, of its writes. Gives how many it made."""
        now, before = self.clock, self.carried()
        effects: list[Callable[[], None]] = []
        replaced = 0
        lent: set[str] = set()
        journals = {unit: self.journal(unit) for unit in UNITS}
        outbound = (Phase.CORDONED, Phase.DRAINING, Phase.VERIFYING)
        one_is_out = any(one.phase in outbound for one in journals.values())
        ends: dict[str, Journal] = {}
        for unit, journal in journals.items():
            if not any(self.nodes[name].exists for name in UNITS[unit]):
                continue
            seen = self.observe(unit, journal, admitted=not one_is_out, hidden=hidden)
            result = step(journal, seen, now)
            self._count(journal, result, seen)
            end = ends[unit] = result.journal
            one_is_out = one_is_out or end.phase in outbound
            effects += self._writes(unit, journal, result)
            want = wanted(end, seen, now)
            effects += self._pods(unit, want, end)
            replaced += sum(want.replace and one.node in UNITS[unit] and one.gone_at is None for one in self.replicas)
            if end.phase is Phase.TRAINING:
                lent |= set(UNITS[unit])
        if self.scale != self.required + replaced:
            effects.append(lambda: setattr(self, "scale", self.required + replaced))
        if self.published != lent:
            effects.append(lambda: setattr(self, "published", lent))
        done = len(effects) if lives >= 1 else int(lives * len(effects))
        done = done if writes is None else min(done, writes)
        alive = done == len(effects)
        self.crashes += not alive
        for effect in effects[:done]:
            effect()
            self.check()
        assert self.carried() >= min(self.required, before), "a pass left the pool with less than it must carry"
        if alive:
            self._check_finished(ends)
        return done

    def _count(self, journal: Journal, result: Step, seen: Observation) -> None:
        self.transitions += 1
        start, end = journal.phase, result.journal.phase
        if start is end:
            return
        assert end in EDGES[start], f"{start} -> {end}"
        self.edges[start, end] += 1
        if end is Phase.TRAINING:
            assert seen.holders == 0, "lent while something held it"

    def _writes(self, unit: str, journal: Journal, result: Step) -> list[Callable[[], None]]:
        if not result.changed and len({self.nodes[name].text for name in UNITS[unit] if self.nodes[name].exists}) == 1:
            return []
        text = write(result.journal)
        found: list[Callable[[], None]] = []
        for name in UNITS[unit]:
            node = self.nodes[name]
            if node.exists and node.text != text:
                found.append(lambda node=node: self._dress(node, text))  # type: ignore[misc]
        if result.changed and journal.phase is Phase.QUARANTINED:
            found.append(lambda: self.released.discard(unit))
        return found

    def _dress(self, node: Machine, text: str) -> None:
        node.text, node.worn = text, _read(text).phase

    def _pods(self, unit: str, want: Wanted, journal: Journal) -> list[Callable[[], None]]:
        found: list[Callable[[], None]] = []
        for one in self.replicas:
            if one.node not in UNITS[unit] or one.gone_at is not None:
                continue
            routable = not want.unroute and (one.routable or not want.replace)
            if one.routable != routable:
                found.append(lambda one=one, routable=routable: setattr(one, "routable", routable))  # type: ignore[misc]
            if want.empty:
                found.append(lambda one=one: self._evict(one, kill=want.kill))  # type: ignore[misc]
        for job in self.jobs:
            if not set(job.nodes) & set(UNITS[unit]):
                continue
            if journal.phase in (Phase.RECALLING, Phase.RECLAIMING) and job.asked_at is None:
                found.append(lambda job=job: setattr(job, "asked_at", self.t))  # type: ignore[misc]
            if want.evict and job.gone_at is None:
                found.append(lambda job=job: self._end(job))  # type: ignore[misc]
        return found

    def _evict(self, one: Replica, *, kill: bool) -> None:
        if not self.evictions_refused:
            assert kill or one.busy_until <= self.t, "a request was cut"
            one.gone_at = self._terminates()

    def _end(self, job: Job) -> None:
        job.evicting = True
        if not self.evictions_refused:
            job.gone_at = self._terminates()

    def _terminates(self) -> float:
        return NEVER if self.terminations_stuck else self.t + self.rng.choice((1.0, 25.0, self.longest_termination))

    # What the world does

    def tick(self, seconds: float) -> None:
        """Time passes: pods come, get ready, take requests and go; jobs start, checkpoint and end."""
        self.t += seconds
        self.replicas = [
            one
            for one in self.replicas
            if (one.gone_at is None or one.gone_at > self.t) and (not one.node or self.nodes[one.node].exists)
        ]
        for job in self.jobs:
            if job.gone_at is None and (job.ends_at <= self.t or self._acknowledged(job)):
                job.gone_at = self._terminates()
        self.jobs = [
            one
            for one in self.jobs
            if (one.gone_at is None or one.gone_at > self.t) and all(self.nodes[name].exists for name in one.nodes)
        ]
        self._replicate()
        for one in self.replicas:
            if one.node and one.routable and one.ready_at <= self.t and one.gone_at is None and self.rng.random() < 0.5:
                seconds = self.rng.choices((1.0, 20.0, 200.0, 5000.0), (20, 20, 4, 1))[0]
                one.busy_until = max(one.busy_until, self.t + seconds)
        self.check()

    def _acknowledged(self, job: Job) -> bool:
        return job.acknowledges and job.asked_at is not None and self.t >= job.asked_at + 20

    def _replicate(self) -> None:
        staying = [one for one in self.replicas if one.gone_at is None]
        for _ in range(self.scale - len(staying)):
            self.replicas.append(Replica())
        surplus = sorted(staying, key=lambda one: (bool(one.node), one.ready_at <= self.t, one.routable))
        for one in surplus[: max(0, len(staying) - self.scale)]:
            one.gone_at = self._terminates() if one.node else self.t
        taken = {one.node for one in self.replicas}
        free = [
            name
            for name, node in self.nodes.items()
            if node.exists and node.healthy and not node.worn.is_tainted and name not in taken
        ]
        self.rng.shuffle(free)
        for one in self.replicas:
            if free and not one.node and one.gone_at is None:
                one.node = free.pop()
                one.ready_at = self.t + self.rng.choice((5.0, 25.0, 80.0))

    def submit(self, *, gang: bool, queued: bool, acknowledges: bool, seconds: float) -> None:
        """A training job comes, by the queue or past it, and starts if there is room."""
        taken = {name for one in self.jobs for name in one.nodes}
        for members in (UNITS["g"],) if gang else tuple((name,) for name in NODES):
            fits = all(self.nodes[name].exists and self.nodes[name].worn is Phase.TRAINING for name in members)
            if fits and not taken & set(members) and (not queued or set(members) <= self.published):
                self.jobs.append(Job(members, acknowledges, self.t + seconds))
                break
        self.check()

    def delete(self, name: str) -> None:
        """A node is deleted, and everything on it."""
        self.nodes[name] = Machine(exists=False)
        self.replicas = [one for one in self.replicas if one.node != name]
        self.jobs = [one for one in self.jobs if name not in one.nodes]

    def join(self, name: str) -> None:
        """A node of that name joins, as new."""
        if not self.nodes[name].exists:
            self.nodes[name] = Machine()

    def wish(self, unit: str, what: str, seconds: float = 3600.0) -> None:
        """The wish for a unit changes."""
        self.wishes[unit] = what
        self.until[unit] = self.clock + seconds

    # What must hold

    def check(self) -> None:
        """At every moment: no node has two owners, and training is only where it was let in."""
        if not self.jobs:
            return
        serving = {one.node for one in self.replicas}
        for job in self.jobs:
            for name in job.nodes:
                assert name not in serving, f"{name} has two owners"
                journal = self.journal(UNIT_OF[name])
                cleared = journal.phase in BEING_CLEARED and journal.trained
                assert journal.phase in LENDABLE or cleared, f"training on {name} in phase {journal.phase}"

    def _check_finished(self, ends: dict[str, Journal]) -> None:
        """After a pass that came to its end: nodes wear what the journal says, and what is overdue is being evicted."""
        for unit, end in ends.items():
            for name in UNITS[unit]:
                node = self.nodes[name]
                if node.exists:
                    written = _read(node.text).phase if node.text else Phase.SERVING
                    assert written is node.worn is end.phase, f"{name} wears {node.worn} in {end.phase}"
        for job in self.jobs:
            for name in job.nodes:
                gone = job.evicting or job.gone_at is not None
                assert gone or ends[UNIT_OF[name]].phase in LENDABLE, "training is overdue and nobody evicts it"

    def end_faults(self, *, all_of_them: bool) -> None:
        """Faults end; what is stuck and refused, nodes that are gone, and bad answers, only with ``all_of_them``."""
        for node in self.nodes.values():
            node.healthy = True
            node.answers_badly = node.answers_badly and not all_of_them
        self.vetoed.clear()
        self.released.clear()
        if all_of_them:
            self.evictions_refused = self.terminations_stuck = False
            self.longest_termination = 30.0
            for name in NODES:
                self.join(name)
            going: list[Replica | Job] = [*self.replicas, *self.jobs]
            for one in going:
                if one.gone_at is not None:
                    one.gone_at = min(one.gone_at, self.t + 30)

    def come_home(self) -> float:
        """Everything is recalled, and nothing fails any more; gives the seconds until every unit has arrived for good.

        Raises:
            AssertionError: one does not within the time that the phases may take together.
        """
        for unit in UNITS:
            self.wish(unit, "recall")
        terms = self.terms
        back = terms.grace + terms.evict + terms.verify + terms.warm
        longest = back + 2 * terms.verify + terms.warm + 600  # by way of quarantine, and a clock that was set back
        began, arrived = self.t, None
        while arrived is None or self.t < arrived + 300:
            self.tick(10.0)
            self.operate()
            homes = [self.journal(unit) for unit in UNITS]
            home = all(one.phase in (Phase.SERVING, Phase.QUARANTINED) for one in homes)
            arrived = (arrived or self.t) if home else None
            assert self.t - began < longest + 300, f"still under way: {[(one.unit, one.phase) for one in homes]}"
        return arrived - began
