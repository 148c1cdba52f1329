"""Runs a scenario: every seed of ours and of each baseline, here, in processes or on a Dask cluster, and resumes.

A run of one policy with one seed is a *task*. What a task comes to depends on scenario, traces, seed and policy alone,
so it does not matter where it ran, or whether it was read back from a checkpoint: the report has the same bytes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, cast

from tidefleet import __version__
from tidefleet.simulator import fits
from tidefleet.simulator.checkpoint import Checkpoint, Parts, alone, identity_of
from tidefleet.simulator.result import Outcome, median_of
from tidefleet.simulator.scenario import Scenario, is_own_file

OURS = "ours"
"""The name of the run without a baseline's policy."""

Progress = Callable[[float, str], None]
"""Is told the share that is done, 0 to 1, and what is being done."""


class CannotRun(ValueError):
    """A scenario that cannot be simulated here; the message says why and the way out."""


class CannotFit(CannotRun):
    """A scenario whose demand is more than its fleet can serve; found before anything is simulated."""


class Runner(Protocol):
    """Simulates one task.

    Args:
        traces: the directory of traces, where one was named.
        policy: a baseline's name; ``None`` for ours.
        full: everything in detail, instead of samples.
        progress: to be told how far it is.
        parts: keeps what is done of a task, so that a task that was interrupted goes on from there.

    Raises:
        ValueError: traces, scenario or policy are not usable; the message is for the user.
    """

    def __call__(
        self,
        scenario: Scenario,
        traces: Path | None,
        *,
        seed: int,
        policy: str | None,
        full: bool,
        progress: Progress,
        parts: Parts,
    ) -> Outcome: ...


RUNNERS: Mapping[str, str] = {
    "fleet": "tidefleet.simulator.week:run_fleet",
    "replay": "tidefleet.simulator.replay:run_traces",
    "study": "tidefleet.simulator.study:run",
}
"""Who simulates scenarios of a kind, ``module:function``; imported when one is run."""


BASELINES: Mapping[str, str] = {
    "study": "tidefleet.simulator.study:BASELINES",
    "fleet": "tidefleet.simulator.week:BASELINES",
    "replay": "tidefleet.simulator.policies:POLICIES",
}
"""The names of the baselines of a kind, ``module:collection``."""


@dataclass(frozen=True, slots=True)
class Task:
    """One policy with one seed; ``policy`` is ``None`` for ours."""

    policy: str | None
    seed: int

    @property
    def key(self) -> str:
        """Its name in a checkpoint."""
        return f"{self.policy or OURS}/{self.seed}"

    @property
    def words(self) -> str:
        """Its name for people."""
        return f"{self.policy or OURS}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be simulated.

    Attributes:
        policies: baselines, by name, in the order of the report.
    """

    scenario: Scenario
    traces: Path | None
    seeds: tuple[int, ...]
    policies: tuple[str, ...] = ()
    full: bool = False

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Ours first, then the baselines."""
        return tuple(Task(policy, seed) for policy in (None, *self.policies) for seed in self.seeds)


@dataclass(frozen=True, slots=True)
class Report:
    """What a scenario came to.

    Attributes:
        ours: the outcome of each seed; baselines: of each baseline likewise, by name.
    """

    scenario: Scenario
    ours: Mapping[int, Outcome]
    baselines: Mapping[str, Mapping[int, Outcome]] = field(default_factory=dict)
    full: bool = False

    @property
    def median(self) -> Outcome:
        """Of ours over the seeds."""
        return median_of(list(self.ours.values()))

    def as_json(self) -> dict[str, Any]:
        """The median of ours at the top level, what it was made of below."""
        return {
            "scenario": self.scenario.name,
            "version": __version__,
            "full": self.full,
            **_summary(self.ours),
            "baselines": {name: _summary(outcomes) for name, outcomes in self.baselines.items()},
            "settings": self.scenario.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        }


def _summary(outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
    found = median_of(list(outcomes.values())).as_json()
    if len(outcomes) > 1:
        found["range"] = _ranges([one.as_json() for one in outcomes.values()])
    return {**found, "seeds": [{"seed": seed, **one.as_json()} for seed, one in outcomes.items()]}


def _ranges(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Least and most of each number over the seeds."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in values for name in one):
        known = [one[name] for one in values if name in one]
        if all(isinstance(one, int | float) for one in known):
            found[name] = [min(known), max(known)]
        elif name not in ("ribbon", "words") and all(isinstance(one, Mapping) for one in known):
            found[name] = _ranges(known)
    return found


def outcome_from(value: Mapping[str, Any]) -> Outcome:
    """An outcome from its JSON.

    Raises:
        ValueError: a name is not an outcome's, or words are not texts.
    """
    names = {one.name for one in fields(Outcome)}
    strange = [name for name in value if name not in names]
    words = value.get("words", [])
    if strange or not isinstance(words, list) or not all(isinstance(one, str) for one in words):
        raise ValueError(f"an outcome holds {', '.join(map(str, strange)) or 'no words'}; expected its own values")
    return Outcome(**{**value, "words": tuple(words)})


def runner_of(kind: str) -> Runner:
    """Who simulates scenarios of this kind.

    Raises:
        CannotRun: nobody does, or a library that it needs is not installed.
    """
    if kind not in RUNNERS:
        raise CannotRun(f"scenarios of kind {kind} cannot be simulated; those of {', '.join(RUNNERS)} can")
    module, _, name = RUNNERS[kind].partition(":")
    with missing_libraries():
        return cast("Runner", getattr(importlib.import_module(module), name))


@contextlib.contextmanager
def missing_libraries() -> Iterator[None]:
    """Turns a library that is not installed into an error that says how to install it.

    Raises:
        CannotRun: one of an optional extra is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _EXTRAS:
            raise
        raise CannotRun(
            f"{library} is not installed; expected it for this simulation: pip install 'tidefleet[{_EXTRAS[library]}]'"
        ) from error


_EXTRAS = {"pyarrow": "simulate", "dask": "dask", "distributed": "dask"}


def run_task(request: Request, task: Task, progress: Progress, parts: Parts) -> dict[str, Any]:
    """One task; what it came to, as the JSON of its outcome.

    Raises:
        CannotRun: the scenario, the traces or the policy are not usable.
    """
    runner = runner_of(request.scenario.kind)
    try:
        with missing_libraries():
            outcome = runner(
                request.scenario,
                request.traces,
                seed=task.seed,
                policy=task.policy,
                full=request.full,
                progress=progress,
                parts=parts,
            )
    except CannotRun:
        raise
    except ValueError as error:
        if type(error) is ValueError or type(error).__module__.startswith("tidefleet."):
            raise CannotRun(str(error)) from error
        raise
    return cast("dict[str, Any]", json.loads(json.dumps(outcome.as_json())))


Spread = Callable[[Request, Sequence[Task], Callable[[Task, dict[str, Any]], None], Progress, Path | None], None]
"""Runs tasks somewhere: request, tasks, whom to tell what one came to, progress, directory for parts."""


def simulate(
    request: Request, *, spread: Spread, progress: Progress = lambda share, words: None, resume: Path | None = None
) -> Report:
    """Run everything that is asked and not yet in the checkpoint.

    Args:
        spread: ``here``, or one of ``simulator.spread``.
        resume: checkpoint to go on from and to write to; made where there is none, removed by nobody.

    Raises:
        CannotRun: see ``run_task``; or the checkpoint is of something else, damaged, or being
            written by another process.
    """
    _check(request)
    done: dict[str, dict[str, Any]] = {}
    with contextlib.nullcontext() if resume is None else alone(resume):
        _run(request, done, spread, progress, resume)
    progress(1.0, "done")

    def of(policy: str | None) -> dict[int, Outcome]:
        return {seed: outcome_from(done[Task(policy, seed).key]) for seed in request.seeds}

    return Report(request.scenario, of(None), {name: of(name) for name in request.policies}, request.full)


def _run(
    request: Request, done: dict[str, dict[str, Any]], spread: Spread, progress: Progress, resume: Path | None
) -> None:
    """Fill ``done`` with what each task came to, by key."""
    checkpoint = None
    if resume is not None:
        checkpoint = Checkpoint.open(resume, identity_of(request))
        for key, value in checkpoint.outcomes.items():
            try:
                outcome_from(value)
            except (ValueError, TypeError) as error:
                raise CannotRun(f"--resume {resume}: {key}: {error}; remove the file to begin anew") from None
            done[key] = value
    left = [one for one in request.tasks if one.key not in done]
    before = len(request.tasks) - len(left)

    def keep(task: Task, value: dict[str, Any]) -> None:
        done[task.key] = value
        if checkpoint is not None:
            checkpoint.keep(task.key, value)

    def onward(share: float, words: str) -> None:
        progress((before + share * len(left)) / len(request.tasks), words)

    if left:
        spread(request, left, keep, onward, checkpoint.parts_directory if checkpoint is not None else None)


def _check(request: Request) -> None:
    """What is known to be wrong before anything runs."""
    scenario = request.scenario
    runner_of(scenario.kind)
    known = baselines_of(scenario.kind) if request.policies else None
    for policy in request.policies if known is not None else ():
        if policy not in (known or ()):
            raise CannotRun(
                f"--compare {policy[:80]}: is no baseline of a scenario of kind {scenario.kind}; expected "
                f"{'one of ' if known else ''}{', '.join(known or ()) or 'none: a study has no baselines'}"
            )
    named = [
        one for one in scenario.classes if one.shape not in (None, *scenario.shapes) or not is_own_file(one.source)
    ]
    if scenario.kind != "study" and named and request.traces is None:
        one = named[0]
        what = f"source {one.source}" if not is_own_file(one.source) else f"shape {one.shape}"
        raise CannotRun(
            f"scenario {scenario.name}: --traces is missing; class {one.name} has {what}, which is read from the "
            "directory of traces; expected e.g. --traces ./traces (docs/how-to/simulate.md says which files)"
        )

    if scenario.kind == "fleet" and scenario.training.backlog == "philly" and request.traces is None:
        raise CannotRun(
            f"scenario {scenario.name}: --traces is missing; training.backlog philly is read from the directory of "
            "traces; expected e.g. --traces ./traces, or training: {backlog: endless}"
        )
    found = fits.problems(scenario, request.traces) if scenario.kind != "study" else []
    if found:
        raise CannotFit("\n".join(f"scenario {scenario.name}: {one}" for one in found))


def baselines_of(kind: str) -> tuple[str, ...] | None:
    """The baselines that scenarios of a kind have; ``None`` where its runner alone knows them."""
    module, _, name = BASELINES[kind].partition(":")
    with missing_libraries():
        found = getattr(importlib.import_module(module), name, None)
    return None if found is None else tuple(found)


def here(
    request: Request,
    tasks: Sequence[Task],
    keep: Callable[[Task, dict[str, Any]], None],
    progress: Progress,
    parts_directory: Path | None,
) -> None:
    """Run tasks in this process, one after the other."""
    for index, task in enumerate(tasks):

        def onward(share: float, words: str, *, index: int = index, task: Task = task) -> None:
            progress((index + min(1.0, max(0.0, share))) / len(tasks), f"{task.words}: {words}")

        onward(0.0, "begins")
        parts = Parts.open(parts_directory, task.key)
        keep(task, run_task(request, task, onward, parts))
        parts.remove()
