"""llm-d's published shared-prefix profiles: groups of prompts with a common system prompt, in stages of rising rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tidefleet.routing.hashing import token_keys
from tidefleet.simulator.sessions import Session, Turn
from tidefleet.simulator.workload.bodies import Templates, template
from tidefleet.simulator.workload.files import TraceError, needs, number, rows, token_count, whole

FILE = "llmd_shared_prefix_workloads.csv"
BLOCK = 64
"""Tokens of a block, as the published runs set vLLM's ``--block-size``."""
_STAGES = "stages_rate_x_seconds"
_TOKENS = ("system_prompt_tokens", "question_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Profile:
    """One profile.

    Attributes:
        groups: of prompts with a system prompt of their own; prompts: of each group.
        stages: (requests/s, seconds), one after the other.
        poisson: whether arrivals of a stage are; else they are evenly spaced.
    """

    name: str
    groups: int
    prompts: int
    system_tokens: int
    question_tokens: int
    output_tokens: int
    stages: tuple[tuple[float, float], ...]
    poisson: bool


def profile(traces: Path, name: str) -> Profile:
    """A profile of the published ones.

    Raises:
        TraceError: the file is missing, or has no such profile, or one that is malformed.
    """
    path = needs(traces, FILE)
    known = []
    for line, row in rows(path, ("profile", "groups", "prompts_per_group", *_TOKENS, "arrival", _STAGES)):
        known.append(row[0])
        if row[0] != name:
            continue
        groups = whole(path, line, "groups", row[1], least=1, example="150")
        prompts = whole(path, line, "prompts_per_group", row[2], least=1, example="5")
        system, question, output = (
            token_count(path, line, field, came, least=1, example="1200")
            for field, came in zip(_TOKENS, row[3:6], strict=True)
        )
        return Profile(
            name, groups, prompts, system, question, output, tuple(_steps(path, line, row[7])), row[6] == "poisson"
        )
    raise TraceError(f"{path}: no profile {name!r}; expected one of {', '.join(known) or 'none'}")


def _steps(path: Path, line: int, came: str) -> Iterator[tuple[float, float]]:
    """Stages of a text such as ``15x50;3x20``."""
    for one in came.split(";"):
        found = [number(path, line, _STAGES, part, least=0.0, example="15x50;3x20") for part in one.split("x")]
        if len(found) != 2 or not all(found):
            raise TraceError(
                f"{path}:{line}: {_STAGES} has {one[:40]!r}; expected a rate and seconds above 0, e.g. 15x50;3x20"
            )
        yield found[0], found[1]


def stages(one: Profile, wclass: str, *, seed: int) -> list[list[Session]]:
    """Each stage's requests as sessions of one turn, which begin within the stage; prompts are taken in turn."""
    found: list[list[Session]] = []
    keys = [_keys(one, place) for place in range(one.groups * one.prompts)]
    rng = np.random.default_rng([seed, 0x11D])
    number, begin = 0, 0.0
    order: list[int] = []
    for rate, seconds in one.stages:
        count = round(rate * seconds)
        at = np.sort(rng.uniform(0.0, seconds, count)) if one.poisson else np.arange(count) / rate
        stage = []
        for moment in at:
            if not order:
                order = rng.permutation(len(keys)).tolist()
            turn = Turn(0.0, one.system_tokens + one.question_tokens, one.output_tokens, keys[order.pop()])
            stage.append(Session(-1 - number, begin + float(moment), wclass, BLOCK, (turn,)))
            number += 1
        found.append(stage)
        begin += seconds
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Staged(Templates):
    """A profile as a source of sessions of one turn, with its stages."""

    profile: Profile = field(kw_only=True)


def shared_prefix(traces: Path, name: str) -> Staged:
    """A profile as a source: its prompts, each as likely as another, at the mean rate of its stages."""
    one = profile(traces, name)
    found = []
    for place in range(one.groups * one.prompts):
        keys = _keys(one, place)
        turn = (0.0, one.system_tokens + one.question_tokens, one.output_tokens, keys, False, 0.0)
        found.append(template([turn], [np.zeros(len(keys), bool)]))
    requests = sum(rate * seconds for rate, seconds in one.stages)
    rate = requests / sum(seconds for _, seconds in one.stages)
    return Staged(BLOCK, False, rate, found, np.zeros(len(found)), (), profile=one)


def _keys(one: Profile, place: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Of prompt ``place``: the system prompt of its group, then a question of its own."""
    group = place // one.prompts
    system = np.arange(one.system_tokens, dtype=np.uint32) + np.uint32(group << 14)
    question = np.arange(one.question_tokens, dtype=np.uint32) + np.uint32((1 << 31) + (place << 13))
    return token_keys(np.concatenate([system, question]), BLOCK)
