"""What arrives: sessions of turns, as engines and router see them."""

from __future__ import annotations

from dataclasses import dataclass

from tidefleet.routing.hashing import Keys


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """One request of a session.

    Attributes:
        pause: seconds after the last turn's answer (its arrival, where the session is open); 0 for the first.
        tokens: of the prompt; output: tokens generated, hidden ones included; visible: those of them that are shown.
        keys: chained keys of the prompt's whole blocks, shape (blocks,); the same key is the same content everywhere.
        tool_call: whether the answer ends in a call of a tool, so that the next turn comes soon.
    """

    pause: float
    tokens: int
    output: int
    keys: Keys
    tool_call: bool = False
    visible: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """Turns that belong together.

    Attributes:
        number: identifies it in a scenario, from its class and its start alone (the same in every window); below 0 =
            its client states no session.
        begins: arrival of its first turn, seconds of the scenario's clock.
        wclass: name of its class in the scenario.
        block_size: tokens of one block of its turns' keys.
        closed: a turn comes its pause after the last one's answer; else after the last one's arrival.
        deadline_seconds: each turn is to be done so long after it came; ``None`` = somebody waits for it.
    """

    number: int
    begins: float
    wclass: str
    block_size: int
    turns: tuple[Turn, ...]
    closed: bool = False
    deadline_seconds: float | None = None
