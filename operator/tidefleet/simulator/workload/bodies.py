"""What sessions consist of: templates, prepared once and drawn often without sharing content by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.hashing import Keys, mix
from tidefleet.simulator.sessions import Turn
from tidefleet.simulator.workload.files import Floats, Ints, concatenated

_LADDER: Keys = mix(np.arange(1, (1 << 12) + 1, dtype=np.uint64))
"""Keys of a prompt that shares nothing, before the offset that sets it apart."""

Answer = Callable[[int], int]
"""From the tokens of an answer in the trace to those in the scenario."""


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A session of a trace.

    Attributes:
        pauses, tokens, outputs, tool_calls, visible: of its turns, as in ``Turn``.
        keys: of all turns, one after another, shape (blocks of all turns,); ends: where each turn's end.
        private: 1 where a block is this session's own and 0 where others have it too, shape of ``keys``.
        recorded: seconds that each answer took in the trace; 0 where it does not say.
    """

    pauses: tuple[float, ...]
    tokens: tuple[int, ...]
    outputs: tuple[int, ...]
    tool_calls: tuple[bool, ...]
    keys: Keys
    ends: tuple[int, ...]
    private: NDArray[np.uint64]
    recorded: tuple[float, ...] = ()
    visible: tuple[int | None, ...] = ()

    def turns(self, offset: int, answer: Answer | None = None) -> tuple[Turn, ...]:
        """Its turns, own blocks set apart from other draws by ``offset``, 0 to 2**64 - 1; 0 = as they are."""
        keys = self.keys + self.private * np.uint64(offset) if offset else self.keys
        outputs = self.outputs if answer is None else tuple(map(answer, self.outputs))
        begin, found = 0, []
        shown = self.visible or (None,) * len(self.ends)
        for pause, tokens, output, end, call, seen in zip(
            self.pauses, self.tokens, outputs, self.ends, self.tool_calls, shown, strict=True
        ):
            found.append(Turn(pause, tokens, output, keys[begin:end], call, seen))
            begin = end
        return tuple(found)

    def nominal(self, *, closed: bool) -> Floats:
        """Seconds from its begin to each turn, shape (turns,), if answers take as long as they were recorded to."""
        took = np.cumsum(np.array(self.pauses))
        if closed and self.recorded:
            took[1:] += np.cumsum(np.array(self.recorded))[:-1]
        return took


def template(
    turns: Sequence[tuple[float, int, int, Keys, bool, float]], private: Sequence[NDArray[np.bool_]]
) -> Template:
    """Of turns given as (pause, tokens, output, keys, tool call, recorded seconds) and which blocks are their own."""
    pauses, tokens, outputs, keys, calls, recorded = zip(*turns, strict=True)
    return Template(
        pauses=tuple(pauses),
        tokens=tuple(tokens),
        outputs=tuple(outputs),
        tool_calls=tuple(calls),
        keys=concatenated(keys, np.uint64),
        ends=tuple(int(one) for one in np.cumsum([len(one) for one in keys])),
        private=concatenated(private, np.uint64),
        recorded=tuple(recorded) if any(recorded) else (),
    )


class Bodies(Protocol):
    """The bodies of the sessions that begin in one stretch, by their place in it."""

    def turns(self, at: int, offset: int, answer: Answer | None = None) -> tuple[Turn, ...]:
        """Turns of session ``at``."""

    def nominal(self, at: int) -> Floats:
        """Seconds from its begin to each of its turns, about."""


class Source(Protocol):
    """Where the bodies of a class come from.

    Attributes:
        block_size: tokens of a block; closed: as in ``Session``; own_rate: session starts/s of the trace itself.
        longest: seconds from the first to the last turn of the longest session, about.
        count: different sessions; 0 where each is drawn from a distribution.
    """

    @property
    def block_size(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def own_rate(self) -> float: ...
    @property
    def longest(self) -> float: ...
    @property
    def count(self) -> int: ...

    def draw(self, rng: np.random.Generator, when: Floats, clients: Ints) -> Bodies:
        """Bodies of sessions that begin ``when``, seconds of the trace, of those clients (-1 = nobody), shape (n,)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    templates: Sequence[Template]
    picked: Ints
    closed: bool

    def turns(self, at: int, offset: int, answer: Answer | None = None) -> tuple[Turn, ...]:
        return self.templates[self.picked.item(at)].turns(offset, answer)

    def nominal(self, at: int) -> Floats:
        return self.templates[int(self.picked[at])].nominal(closed=self.closed)


@dataclass(frozen=True, slots=True, eq=False)
class Templates:
    """Sessions of a trace, each as likely as another, or as another of its time of day.

    Attributes:
        begins: when each began in the trace, seconds, shape (templates,).
        slots: templates of each half-hour of the day, 48 arrays; empty = any at any time.
    """

    block_size: int
    closed: bool
    own_rate: float
    templates: Sequence[Template]
    begins: Floats
    slots: Sequence[Ints] = ()
    longest: float = field(init=False)
    count: int = field(init=False)

    def __post_init__(self) -> None:
        longest = max(float(one.nominal(closed=self.closed)[-1]) for one in self.templates)
        object.__setattr__(self, "longest", longest)
        object.__setattr__(self, "count", len(self.templates))

    def draw(self, rng: np.random.Generator, when: Floats, clients: Ints) -> Bodies:
        drawn = rng.random(len(when))
        if not self.slots:
            return _Drawn(self.templates, (drawn * len(self.templates)).astype(np.int64), self.closed)
        picked = np.empty(len(when), np.int64)
        slot = (when // 1800).astype(np.int64) % 48
        for one in np.unique(slot):
            here = slot == one
            choice = self.slots[int(one)]
            picked[here] = choice[(drawn[here] * len(choice)).astype(np.int64)]
        return _Drawn(self.templates, picked, self.closed)


@dataclass(frozen=True, slots=True, eq=False)
class Singles:
    """Bodies of sessions of one request that shares nothing with any other.

    Attributes:
        tokens, outputs, visible: shape (n,); visible may be empty.
    """

    tokens: Ints
    outputs: Ints
    visible: Ints
    block_size: int

    def turns(self, at: int, offset: int, answer: Answer | None = None) -> tuple[Turn, ...]:
        tokens, output = self.tokens.item(at), self.outputs.item(at)
        longer = output if answer is None else answer(output)
        shown = self.visible.item(at) * longer // output if len(self.visible) else None
        return (Turn(0.0, tokens, longer, alone(tokens // self.block_size, offset), False, shown),)

    def nominal(self, at: int) -> Floats:
        return np.zeros(1)


def alone(blocks: int, offset: int) -> Keys:
    """Keys of a prompt that shares nothing, shape (blocks,)."""
    ladder = _LADDER if blocks <= len(_LADDER) else mix(np.arange(1, blocks + 1, dtype=np.uint64))
    return ladder[:blocks] + np.uint64(offset)


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of prompt and answer, each as likely as another, shape (pairs,)."""

    tokens: Ints
    outputs: Ints
    begins: Floats
    own_rate: float
    block_size: int = 512
    closed: bool = False
    longest: float = 0.0
    count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", len(self.tokens))

    def draw(self, rng: np.random.Generator, when: Floats, clients: Ints) -> Bodies:
        picked = (rng.random(len(when)) * len(self.tokens)).astype(np.int64)
        return Singles(self.tokens[picked], self.outputs[picked], np.empty(0, np.int64), self.block_size)
