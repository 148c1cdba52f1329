"""A request on its way through the fleet."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tidefleet.simulator.sessions import Session, Turn

FIRST, DONE, PREEMPTED, REFUSED, LOST = "first", "done", "preempted", "refused", "lost"
"""What happens to a job: its first token, its last one, a place lost to a more urgent one, no place at all, its
replica gone (it is sent elsewhere)."""


@dataclass(slots=True, eq=False)
class Job:
    """One turn of a session; whoever works on it changes it. Times are seconds of the scenario's clock.

    Attributes:
        number: in order of arrival.
        at: place of its turn in the session.
        came: when the client sent it.
        priority: higher goes first; deferrable work is below everything.
        replica: where it is or was last; ``None`` before the first choice and for one refused.
        prefill_replica: where another replica prefills or prefilled for it; ``None`` = the same one.
        keys: of its prompt's whole blocks; answer_keys: of the blocks that its answer fills up, where the session's
            next turn begins with both.
        cached: prompt tokens found on the device when its prefill first began; fetched: by tier (host, disk, shared).
        generated: tokens of its answer so far, as of its last event.
        recomputed: tokens computed again because it was preempted or its replica was lost.
        first, done: when its first and last token came; infinite = not yet.
        refused: why it found no place; empty = it did.
        finished_prefill: its prompt's KV lies ready at ``replica``, sent there by another one.
    """

    session: Session
    at: int
    came: float
    number: int
    priority: int = 0
    replica: int | None = None
    prefill_replica: int | None = None
    keys: list[int] = field(default_factory=list)
    answer_keys: list[int] = field(default_factory=list)
    cached: float = 0.0
    fetched: tuple[float, float, float] = (0.0, 0.0, 0.0)
    generated: float = 0.0
    recomputed: float = 0.0
    preemptions: int = 0
    first: float = math.inf
    done: float = math.inf
    refused: str = ""
    finished_prefill: bool = False
    computed: float = 0.0
    """Tokens whose KV was computed for it and then lost."""
    cause: str = ""
    """Why it was lost."""
    counted: float = 0.0
    """Context with which its replica counts it while it decodes."""
    seen: bool = False
    """Whether its prefill began before."""
    turn: Turn = field(init=False)
    """What is asked."""
    block_size: int = field(init=False)
    """Tokens of one block of its keys."""
    tokens: int = field(init=False)
    """Of its prompt."""
    output: int = field(init=False)
    """Tokens to generate, at least one."""

    def __post_init__(self) -> None:
        self.turn = self.session.turns[self.at]
        self.block_size = self.session.block_size
        self.tokens = self.turn.tokens
        self.output = max(1, self.turn.output)

    @property
    def is_deferrable(self) -> bool:
        """Whether nobody waits for it."""
        return self.session.deadline_seconds is not None

    @property
    def ttft_seconds(self) -> float:
        """From its arrival to its first token."""
        return self.first - self.came

    @property
    def tpot_seconds(self) -> float:
        """Mean time per token after the first; 0 for an answer of one."""
        return (self.done - self.first) / (self.output - 1) if self.output > 1 else 0.0
