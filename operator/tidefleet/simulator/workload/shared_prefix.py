"""llm-d's published shared-prefix profiles: groups of prompts with a common system prompt, in stages of rising rate."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tidefleet.routing.hashing import token_keys
from tidefleet.simulator.sessions import Session, Turn
from tidefleet.simulator.workload.bodies import Templates, template
from tidefleet.simulator.workload.files import TraceError

FILE = "llmd_shared_prefix_workloads.csv"
BLOCK = 64
"""Tokens of a block, as the published runs set vLLM's ``--block-size``."""


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
    path = traces / FILE
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
    except OSError as missing:
        raise TraceError(f"{path}: {missing}; expected the profiles of shared-prefix workloads") from missing
    for line, row in enumerate(rows, start=2):
        if row.get("profile") != name:
            continue
        try:
            steps = tuple(
                (float(rate), float(seconds))
                for rate, _, seconds in (one.partition("x") for one in row["stages_rate_x_seconds"].split(";"))
            )
            groups, prompts = int(row["groups"]), int(row["prompts_per_group"])
            system, question = int(row["system_prompt_tokens"]), int(row["question_tokens"])
            output = int(row["output_tokens"])
        except (KeyError, ValueError, TypeError) as broken:
            raise TraceError(
                f"{path}:{line}: profile {name} is malformed ({broken}); expected whole numbers and stages such as "
                '"15x50;3x20"'
            ) from broken
        return Profile(name, groups, prompts, system, question, output, steps, row.get("arrival") == "poisson")
    known = ", ".join(str(row.get("profile")) for row in rows)
    raise TraceError(f"{path}: no profile {name!r}; expected one of {known}")


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
