"""Lengths of prompts and answers by ServeGen's clients: marginals, drawn apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidefleet.simulator.workload.arrivals import Clients
from tidefleet.simulator.workload.bodies import Bodies, Singles
from tidefleet.simulator.workload.files import (
    LONGEST_TOKENS,
    Floats,
    Ints,
    TraceError,
    names,
    needs,
    table,
    whole_column,
)

WINDOW_SECONDS = 21600.0
BUCKETS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Means of 100 equally likely buckets of each client and six hours.

    Attributes:
        rows: of ``tokens`` and the others, by client, then window; shape (clients, windows); -1 = not known.
        tokens, outputs, thought: shape (rows, 100); thought = share of an answer that is hidden, 0 if it is not known.
    """

    clients: Ints
    rows: NDArray[np.int64]
    tokens: Floats
    outputs: Floats
    thought: Floats
    own_rate: float
    whose: Clients
    block_size: int = 512
    closed: bool = False
    longest: float = 0.0
    count: int = 0

    def draw(self, rng: np.random.Generator, when: Floats, clients: Ints) -> Bodies:
        """Bodies by the client who asks; where its lengths are not known, by another's that is there, by volume."""
        if not len(when):
            return Singles(*(np.empty(0, np.int64),) * 3, self.block_size)
        mix = self.whose.mix(float(when[0]))
        known = np.isin(mix.clients, self.clients)
        others, shares = (
            (mix.clients[known], mix.shares[known]) if known.any() else (self.clients, np.ones(len(self.clients)))
        )
        drawn = np.searchsorted(np.cumsum(shares), rng.random(len(when)) * shares.sum(), side="right")
        asks = np.where(np.isin(clients, self.clients), clients, others[np.minimum(drawn, len(others) - 1)])
        windows = (when // WINDOW_SECONDS).astype(np.int64) % self.rows.shape[1]
        row = self.rows[np.searchsorted(self.clients, asks), windows]
        buckets = rng.integers(0, BUCKETS, (3, len(when)))
        tokens = np.maximum(1, np.rint(self.tokens[row, buckets[0]])).astype(np.int64)
        outputs = np.maximum(1, np.rint(self.outputs[row, buckets[1]])).astype(np.int64)
        if not self.thought.any():
            return Singles(tokens, outputs, np.empty(0, np.int64), self.block_size)
        hidden = np.minimum(1.0, self.thought[row, buckets[2]])
        return Singles(tokens, outputs, np.rint(outputs * (1.0 - hidden)).astype(np.int64), self.block_size)


def lengths(root: Path, model: str, whose: Clients) -> Lengths:
    """Of one of ServeGen's models.

    Raises:
        TraceError: there are none, or the file does not hold what it should.
    """
    path = needs(root, "servegen_lengths.parquet")
    found = table(path, ("model", "client", "window_start", "field", "q100"))
    models = names(path, found, "model", example="m-mid")
    fields = names(path, found, "field", example="input_tokens")
    clients = whole_column(path, found, "client", least=0, example="7")
    begins = whole_column(path, found, "window_start", least=0, example="21600")
    parts: dict[str, dict[tuple[int, int], Floats]] = {"input_tokens": {}, "output_tokens": {}, "reason_ratio": {}}
    for at in np.flatnonzero(models == model):
        if fields[at] not in parts:
            continue
        where = int(clients[at]), int(begins[at] // WINDOW_SECONDS)
        parts[fields[at]][where] = _buckets(path, int(at), found["q100"][int(at)].as_py())
    both = sorted(parts["input_tokens"].keys() & parts["output_tokens"].keys())
    if not both:
        raise TraceError(
            f"{path}: no input_tokens and output_tokens of {model!r}; expected both for a client and window, "
            f"as of {', '.join(sorted(set(models)))}"
        )
    known = np.array(sorted({client for client, _ in both}), dtype=np.int64)
    first = min(window for _, window in both)
    windows = max(window for _, window in both) - first + 1
    by_place = np.full((len(known), windows), -1, np.int64)
    for place, (client, window) in enumerate(both):
        by_place[int(np.searchsorted(known, client)), window % windows] = place
    for row in by_place:
        there = np.flatnonzero(row >= 0)
        for gap in np.flatnonzero(row < 0):
            row[gap] = row[there[int(np.argmin(np.abs(there - gap)))]]
    none = np.zeros(BUCKETS)
    return Lengths(
        clients=known,
        rows=by_place,
        tokens=np.stack([parts["input_tokens"][one] for one in both]),
        outputs=np.stack([parts["output_tokens"][one] for one in both]),
        thought=np.stack([parts["reason_ratio"].get(one, none) for one in both]),
        own_rate=whose.own_rate,
        whose=whose,
    )


def _buckets(path: Path, row: int, came: object) -> Floats:
    try:
        found = np.array(came, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape != (BUCKETS,) or not ((found >= 0) & (found <= LONGEST_TOKENS)).all():
        raise TraceError(
            f"{path}: row {row}: q100 is {str(came)[:60]}; expected {BUCKETS} numbers from 0 to {LONGEST_TOKENS:,}, "
            "e.g. 45, 46, 47.5, ..."
        )
    return found
