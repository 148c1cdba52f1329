"""Who trains on what is lent: the queues are told, and what they say is kept for the pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tidefleet.api import AcceleratorType
from tidefleet.api.flipping import QueueKind, TrainingQueue
from tidefleet.cluster.records import Pod
from tidefleet.cluster.writes import Create, Written
from tidefleet.controller.act import Actor
from tidefleet.controller.flips import outlook
from tidefleet.controller.flips.lenders import queue_of_words
from tidefleet.controller.flips.rounds import Moved
from tidefleet.controller.flips.units import Unit
from tidefleet.controller.training.lending import Lending, LoanedNode, LoanType, Stop, Trainer, TrainingSeen
from tidefleet.controller.view import PoolView
from tidefleet.flipping import recall
from tidefleet.flipping.journal import Journal
from tidefleet.flipping.lending import RecallOrder
from tidefleet.flipping.machine import Step, Wanted
from tidefleet.flipping.observation import Observation
from tidefleet.flipping.phase import Phase


@dataclass(slots=True)
class Borrowers:
    """Everybody who trains on nodes of this fleet.

    Attributes:
        lent: what each pool lends (``namespace/name``), as of the last look; ``training`` what its trainer saw.
    """

    actor: Actor
    trainers: Mapping[QueueKind, Trainer]
    lent: dict[str, Lending] = field(default_factory=dict)
    training: dict[str, TrainingSeen] = field(default_factory=dict)
    _next_windows: dict[str, float] = field(default_factory=dict)

    def look(
        self,
        units: Sequence[Unit],
        views: Iterable[PoolView],
        kinds: Mapping[str, AcceleratorType],
        pods: Sequence[Pod],
        now: float,
    ) -> None:
        """Have the trainers look at what is on loan before this pass."""
        views = tuple(views)
        still = [Moved(unit, Observation(), Step(unit.journal), Wanted()) for unit in units]
        self.lent, self.training = {}, {}
        for lending in self._lendings(still, views, kinds):
            name = "/".join(lending.pool)
            self.lent[name] = lending
            self.training[name] = self.trainers[lending.queue.kind].look(lending, pods, now)

    def write(
        self,
        moved: Sequence[Moved],
        views: Iterable[PoolView],
        kinds: Mapping[str, AcceleratorType],
        openings: Mapping[str, float | None],
        *,
        now: float,
        decision_id: str,
    ) -> list[tuple[Stop, tuple[str, str], Journal | None]]:
        """Have the trainers write what this pass comes to, before the nodes themselves are written.

        Args:
            openings: when each pool may lend more next (Unix seconds).

        Returns:
            The jobs that were stopped, each with the pool and the journal of a node that it was on.
        """
        self._next_windows = {name: at for name, at in openings.items() if at is not None}
        stopped = []
        for lending in self._lendings(moved, tuple(views), kinds):
            training = self.training.get("/".join(lending.pool))
            if training is None:
                continue
            trainer = self.trainers[lending.queue.kind]
            stops = dict(trainer.stops(lending, training, now))
            for write in trainer.writes(lending, training, now, decision_id=decision_id):
                outcome = self.actor.execute(write)
                stop = stops.pop(write.uid, None) if not isinstance(write, Create) else None
                if stop is not None and isinstance(outcome, Written):
                    unit = next((one.step.journal for one in moved if one.unit.names & stop.job.nodes), None)
                    stopped.append((stop, lending.pool, unit))
        return stopped

    def jobs_on(self, unit: Unit) -> int | None:
        """Training jobs on a unit, what holds it for no reason that we know counted as one; ``None``: not known."""
        training = self.training.get(unit.journal.pool)
        if training is not None and not training.readable:
            return None
        jobs = {job.uid for node in unit.nodes for job in training.on(node.name)} if training is not None else set()
        return max(len(jobs), 1 if unit.others else 0)

    def admission_stopped(self, unit: Unit) -> bool:
        """Whether nothing more can be let onto a unit: what is published fits on the nodes that stay open."""
        lending, seen = self.lent.get(unit.journal.pool), self.training.get(unit.journal.pool)
        if lending is None or seen is None:
            return unit.journal.phase not in (Phase.TRAINING, Phase.RECALLING)
        if not seen.readable:
            return False
        others = sum(
            node.chips
            for node in lending.nodes
            if node.open and node.accelerator == unit.accelerator and node.name not in unit.names
        )
        return seen.admission_stopped or seen.published_chips.get(unit.accelerator, 0) <= others

    def _lendings(
        self, moved: Sequence[Moved], views: Sequence[PoolView], kinds: Mapping[str, AcceleratorType]
    ) -> list[Lending]:
        """What each pool lends; who trains is as its spec says, else as the journals of its nodes do."""
        queues: dict[str, TrainingQueue] = {}
        graces: dict[str, int] = {}
        types: dict[str, frozenset[str]] = {}
        for view in views:
            name, training = "/".join(view.pool.key), view.pool.spec.flipping.training
            types[name] = outlook.types_of(view)
            if training is not None:
                graces[name] = training.checkpoint_grace_seconds
                if outlook.lends(view.pool):
                    queues[name] = training.queue
        for one in moved:
            journal = one.unit.journal
            if (journal.phase.is_lent or journal.phase is Phase.RECLAIMING) and journal.pool not in queues:
                queues[journal.pool] = queue_of_words(journal.queue)
        return lendings(moved, queues, kinds, graces=graces, types=types, next_windows=self._next_windows)


def lendings(
    moved: Sequence[Moved],
    queues: Mapping[str, TrainingQueue],
    kinds: Mapping[str, AcceleratorType],
    *,
    graces: Mapping[str, int],
    types: Mapping[str, frozenset[str]],
    next_windows: Mapping[str, float],
) -> list[Lending]:
    """What each pool lends, as trainers are told: a node counts as lent only if it is so before and after this pass.

    So quota goes down before a node leaves, and up only after it has come.

    Args:
        queues: who trains, by pool (``namespace/name``); also of pools that lend nothing now.
        graces: seconds for a checkpoint, by pool; ``types`` what a pool may lend.
    """
    nodes: dict[str, list[LoanedNode]] = {pool: [] for pool in queues}
    for one in moved:
        before, after = one.unit.journal, one.step.journal
        phases = (Phase.TRAINING, Phase.RECALLING, Phase.RECLAIMING)
        if after.phase not in phases or before.phase not in phases or after.pool not in queues:
            continue
        verified = before.phase is Phase.TRAINING and after.phase is Phase.TRAINING
        recall_by = None if verified else (after.deadline if after.phase is Phase.RECALLING else after.since)
        for node in one.unit.nodes:
            chips = node.allocatable.get(one.unit.resource, 0)
            nodes[after.pool].append(
                LoanedNode(
                    name=node.name,
                    accelerator=one.unit.accelerator,
                    resource=one.unit.resource,
                    chips=chips,
                    verified=verified,
                    until=after.until or after.since,
                    recall_by=recall_by,
                    labels=node.labels,
                )
            )
    found = []
    for pool, queue in sorted(queues.items()):
        namespace, _, name = pool.partition("/")
        found.append(
            Lending(
                pool=(namespace, name),
                queue=queue,
                nodes=tuple(sorted(nodes[pool], key=lambda one: one.name)),
                types=tuple(_loan_type(kinds[each]) for each in sorted(types.get(pool, ())) if each in kinds),
                checkpoint_grace_seconds=graces.get(pool, 120),
                next_window=next_windows.get(pool),
            )
        )
    return found


def _loan_type(kind: AcceleratorType) -> LoanType:
    return LoanType(kind.name, kind.spec.resource_name or "", dict(kind.spec.node_selector))


def recall_order(training: Mapping[str, TrainingSeen], now: float) -> RecallOrder[Unit]:
    """The order in which lent units come back: those without a job, elastic workers, then the jobs that lose least."""

    def order(units: Sequence[Unit], back: int) -> Sequence[tuple[str, str]]:
        seen = {unit.journal.pool: training[unit.journal.pool] for unit in units if unit.journal.pool in training}
        places = {node: unit for unit in units for node in unit.names}
        jobs = []
        for job in {job.uid: job for one in seen.values() for job in one.jobs if job.nodes}.values():
            known = [at for at in (job.started, job.checkpointed) if at is not None]
            each = job.chips // max(1, len(job.nodes))
            chips: dict[str, int] = {}
            for node in job.nodes:
                unit = places[node].name if node in places else f"elsewhere/{node}"
                chips[unit] = chips.get(unit, 0) + each
            pods = job.elastic[1] if job.elastic is not None else 0
            least = None if job.elastic is None or not pods else job.chips * job.elastic[0] // pods
            since = now - max(known) if known else float("inf")
            jobs.append(recall.Job(str(job), chips, since, least, ignored=job.asked is not None and now >= job.asked))
        found = recall.recall([recall.Unit(one.name, max(1, one.chips), one.size) for one in units], jobs, nodes=back)
        return [(unit, step.why) for step in found.steps for unit in step.units]

    return order
