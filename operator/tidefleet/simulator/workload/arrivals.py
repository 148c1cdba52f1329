"""When sessions begin: rates over the week, and renewal within ten minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidefleet.simulator.scenario import BIN_SECONDS
from tidefleet.simulator.workload.files import (
    Floats,
    Ints,
    TraceError,
    column,
    names,
    needs,
    number,
    rows,
    table,
    whole,
    whole_column,
)

DAY = 86400.0
WEEK_BINS = 1008
"""Lines of a week in the shapes' file."""
WEIBULL = 2
LEAST_SHAPE = 1e-3

CLIENTS = {
    "chat_global": ("m-mid", ("interactive",)),
    "chat_cn": ("m-mid", ("interactive",)),
    "code": ("m-mid", ("interactive",)),
    "agentic_sessions": ("m-mid", ("interactive",)),
    "rag": ("m-mid", ("interactive",)),
    "reasoning": ("deepseek-r1", ()),
    "api": ("m-large", ("batch_api", "mixed")),
    "batch": ("m-mid", ("batch_api",)),
}
"""ServeGen's clients whose arrivals a shape's class has; no class = all of the model."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A relative rate in bins of 600 s from second 0 of the trace on, mean 1; it repeats."""

    values: Floats
    own_rate: float | None = None

    def at(self, when: float) -> float:
        """Of the bin that holds that second of the trace."""
        return float(self.values[int(when // BIN_SECONDS) % len(self.values)])


def shape(root: Path, name: str) -> Shape:
    """A column of the shapes' file.

    Raises:
        TraceError: there is none of that name, or it does not hold what it should.
    """
    path = needs(root, "fleet_shape_7d_10min.csv")
    found: list[float] = []
    for line, (when, came) in rows(path, ("t", name)):
        now = number(path, line, "t", when, least=0, example="600")
        if now != BIN_SECONDS * len(found):
            raise TraceError(
                f"{path}:{line}: t is {when}; expected a line for every 600 s, here {BIN_SECONDS * len(found):g}"
            )
        found.append(number(path, line, name, came, least=0, example="0.8682"))
    if len(found) % WEEK_BINS:
        raise TraceError(
            f"{path}:{len(found) + 1}: ends after {len(found)} lines of 600 s ({len(found) / 144:.2f} days); expected "
            f"a whole week of {WEEK_BINS}, the last with t = {BIN_SECONDS * (WEEK_BINS - 1):g}"
        )
    return normal(path, name, np.array(found))


def normal(path: Path | str, name: str, values: Floats) -> Shape:
    """A shape of mean 1.

    Raises:
        TraceError: there is nothing in it.
    """
    mean = float(values.mean()) if len(values) else 0.0
    if mean <= 0:
        raise TraceError(f"{path}: {name} has {len(values)} values of mean {mean:g}; expected a mean above 0, e.g. 1")
    return Shape(values / mean)


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """Clients that were there in ten minutes, shape (clients,) each: share of the requests, and how their gaps vary."""

    clients: Ints
    shares: Floats
    shapes: Floats
    weibull: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Clients:
    """What ServeGen measured of some clients of a model, sorted by time; masked bins are left out.

    Attributes:
        times: of each row, seconds of the trace; n: requests in the bin; shapes, weibull: of the fitted gaps.
        span: seconds after which it repeats, whole days.
    """

    times: Ints
    clients: Ints
    n: Floats
    shapes: Floats
    weibull: NDArray[np.bool_]
    first: float
    span: float

    @property
    def own_rate(self) -> float:
        """Requests/s over the bins that are known."""
        return float(self.n.sum() / BIN_SECONDS / len(np.unique(self.times)))

    def mix(self, when: float) -> Mix:
        """Of the bin at that second, or of the same time on the nearest earlier day that is known."""
        day = (when // BIN_SECONDS) * BIN_SECONDS
        for back in range(int(self.span // DAY) + 1):
            at = self.first + (day - self.first - back * DAY) % self.span
            begin, end = np.searchsorted(self.times, (at, at + BIN_SECONDS))
            if begin < end:
                break
        else:
            at = int(np.searchsorted(self.times, at)) % len(self.times)
            begin, end = np.searchsorted(self.times, (self.times[at], self.times[at] + 1))
        counts = self.n[begin:end]
        return Mix(self.clients[begin:end], counts / counts.sum(), self.shapes[begin:end], self.weibull[begin:end])


def servegen(root: Path, model: str, kinds: Sequence[str] = ()) -> Clients:
    """Clients of one of ServeGen's models, all or those of some classes.

    Raises:
        TraceError: there are none, or a file does not hold what it should.
    """
    path = needs(root, "servegen_rates.parquet")
    found = table(path, ("model", "client", "t", "n", "cv", "pat", "shape"))
    models = names(path, found, "model", example="m-mid")
    ours = models == model
    if not ours.any():
        there = ", ".join(sorted(set(models)))
        raise TraceError(f"{path}: no client of model {model!r}; expected one of {there or 'none'}, e.g. m-mid")
    clients = whole_column(path, found, "client", least=0, example="7")
    times = whole_column(path, found, "t", least=0, example="600")
    counts = column(path, found, "n", least=0, example="51")
    shapes = column(path, found, "shape", least=0, example="1.2", unknown=True)
    variation = column(path, found, "cv", least=0, example="1.0", unknown=True)
    pattern = column(path, found, "pat", least=0, example="1 (Gamma)", unknown=True)
    known = shapes > 0
    shapes = np.where(
        known, shapes, np.where((pattern == 1) & (variation > 0), np.maximum(variation, 1e-3) ** -2.0, 1.0)
    )
    first = float(times[ours].min() // DAY * DAY)
    span = float(-(-(times[ours].max() + BIN_SECONDS - first) // DAY) * DAY)
    if kinds:
        ours &= np.isin(clients, _of_kind(root, model, kinds))
    gone = _gaps(root, model)
    ours &= ~np.isin(times, gone) & (counts > 0)
    if not ours.any():
        raise TraceError(f"{path}: no request of {model} ({', '.join(kinds) or 'all'}) outside of the masked bins")
    order = np.flatnonzero(ours)
    order = order[np.lexsort((clients[order], times[order]))]
    return Clients(
        times[order],
        clients[order],
        counts[order],
        np.maximum(shapes[order], LEAST_SHAPE),
        pattern[order] == WEIBULL,
        first,
        span,
    )


def _of_kind(root: Path, model: str, kinds: Sequence[str]) -> Ints:
    path = needs(root, "servegen_clients.csv")
    found = [
        whole(path, line, "client", one, least=0, example="7")
        for line, (name, one, kind) in rows(path, ("model", "client", "class"))
        if name == model and kind in kinds
    ]
    if not found:
        raise TraceError(f"{path}: no client of {model} of class {' or '.join(kinds)}; expected at least one")
    return np.array(found, dtype=np.int64)


def _gaps(root: Path, model: str) -> Ints:
    path = needs(root, "servegen_gaps.csv")
    return np.array(
        [
            whole(path, line, "t", when, least=0, example="313200")
            for line, (name, when) in rows(path, ("model", "t"))
            if name == model
        ],
        dtype=np.int64,
    )


def places(rng: np.random.Generator, expected: float, mix: Mix | None) -> tuple[Floats, Ints]:
    """Places of arrivals in a stretch, from 0 to 1 and sorted, and whose they are (-1 = nobody's), shape (n,) each.

    Each client's number is Poisson about its share; its gaps are Gamma or Weibull of the fitted shape, rescaled to fill
    the stretch with that number (ServeGen's own way of making arrivals). Without clients: a Poisson process.
    """
    if mix is None:
        found = np.sort(rng.random(rng.poisson(expected)))
        return found, np.full(len(found), -1, np.int64)
    counts = rng.poisson(expected * mix.shares)
    here = counts > 0
    counts, clients, shapes, weibull = counts[here], mix.clients[here], mix.shapes[here], mix.weibull[here]
    if not len(counts):
        return np.empty(0), np.empty(0, np.int64)
    widths = counts + 1
    each, bent = np.repeat(shapes, widths), np.repeat(weibull, widths)
    gaps = rng.standard_gamma(np.where(bent, 1.0, each))
    with np.errstate(over="ignore"):  # what is too large is seen by its sum
        gaps[bent] **= 1.0 / each[bent]
    gaps += 1e-300
    ends = np.cumsum(widths)
    sums = np.add.reduceat(gaps, ends - widths)
    if not (np.isfinite(sums).all() and (sums > 1e-290).all()):
        return places(rng, expected, Mix(clients, counts / counts.sum(), np.ones(len(counts)), weibull))
    gaps /= np.repeat(sums, widths)
    run = np.cumsum(gaps)
    run -= np.repeat(np.concatenate(([0.0], run[ends[:-1] - 1])), widths)
    inner = np.ones(len(gaps), bool)
    inner[ends - 1] = False
    found, whose = run[inner], np.repeat(clients, counts)
    order = np.argsort(found, kind="stable")
    return np.clip(found[order], 0.0, np.nextafter(1.0, 0.0)), whose[order]
