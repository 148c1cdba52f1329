"""Sessions of a scenario's classes, drawn ten minutes at a time: a stretch is the same however it is asked for."""

from __future__ import annotations

import gc
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from tidefleet.routing.hashing import mix
from tidefleet.simulator.scenario import BIN_SECONDS, Class, Scenario, Surge, is_own_file
from tidefleet.simulator.sessions import Session, Turn
from tidefleet.simulator.workload.arrivals import (
    CLIENTS,
    Clients,
    Shape,
    normal,
    places,
    servegen,
    shape,
)
from tidefleet.simulator.workload.bodies import Answer, Bodies, Source
from tidefleet.simulator.workload.files import Floats, Ints, TraceError
from tidefleet.simulator.workload.lengths import lengths
from tidefleet.simulator.workload.own import own
from tidefleet.simulator.workload.public import azure, claude_code, mooncake, ragpulse
from tidefleet.simulator.workload.shared_prefix import shared_prefix

_PAST_BINS = 1 << 20
"""Bins before the scenario's second 0 that can be drawn."""
KEPT_SOURCES = 16
"""Public traces that stay in memory for the next seed or baseline, by what they are read for."""

_MOST_SESSIONS = 1 << 24
"""Of one class in a bin: what a session's number has room for."""


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One class: where its bodies, its shape and its gaps come from; ``per_second`` session starts at shape 1."""

    wclass: Class
    source: Source
    shape: Shape | None
    clients: Clients | None
    per_second: float


@dataclass(frozen=True, slots=True, eq=False)
class _Bin:
    """Sessions that begin in one bin: when (s of the scenario, sorted), their bodies, and what sets them apart."""

    begins: Floats
    bodies: Bodies
    offsets: Ints
    first: int


@dataclass(frozen=True)
class Workload:
    """What arrives in a scenario. A value: the same scenario, traces and seed give the same sessions.

    ``scenario`` gives classes, surges and times; ``streams`` what was read of the traces, by class.
    """

    scenario: Scenario
    seed: int
    streams: Mapping[str, Stream]

    def scale(self, wclass: str, per_second: float) -> Workload:
        """Another workload in which a class begins so many sessions a second where its shape is 1, before factors.

        Raises:
            ValueError: the rate is negative, or there is no such class.
        """
        if not 0 <= per_second < math.inf:
            raise ValueError(f"{wclass}: per_second is {per_second}; expected session starts/s from 0 on, e.g. 4.5")
        return replace(
            self, streams={**self.streams, wclass: replace(self.stream(wclass), per_second=float(per_second))}
        )

    def stream(self, wclass: str) -> Stream:
        """Of a class.

        Raises:
            ValueError: there is none.
        """
        if wclass not in self.streams:
            raise ValueError(
                f"no class {wclass!r} in {self.scenario.name}; expected {', '.join(self.streams) or 'one'}"
            )
        return self.streams[wclass]

    def rate(self, wclass: str) -> Floats:
        """Expected session starts/s in each 600 s of the scenario, shape (bins,)."""
        stream = self.stream(wclass)
        return np.array(
            [self._in_bin(stream, at)[0] / BIN_SECONDS for at in range(math.ceil(self.scenario.seconds / BIN_SECONDS))]
        )

    def sessions(self, wclass: str, begin: float, end: float, *, until: float = math.inf) -> list[Session]:
        """Those that begin in [begin, end) seconds of the scenario, sorted; before second 0 there are such too.

        Args:
            until: turns that cannot come by then, however fast answers are, are left out but for the first of them.
        """
        stream = self.stream(wclass)
        found = []
        with _no_collection():
            for number in range(math.floor(begin / BIN_SECONDS), math.ceil(end / BIN_SECONDS)):
                drawn = self._drawn(stream, number)
                first, last = np.searchsorted(drawn.begins, (begin, end))
                found += [self._session(stream, drawn, at, 0, until) for at in range(int(first), int(last))]
        return found

    def standing(
        self, wclass: str, at: float, history: float, *, before: int = 0, until: float = math.inf
    ) -> list[Session]:
        """Sessions that began before ``at - history`` and are about to go on after it, sorted by their first turn kept.

        Each is cut to its turns from ``at - history`` on (and so many ``before`` these), if answers take as long as
        they were recorded to, and as ``sessions`` does by ``until``; together with ``sessions(wclass, at - history,
        end)`` they are all that arrives from ``at - history`` to ``end``.
        """
        stream, since = self.stream(wclass), at - history
        found: list[Session] = []
        if not stream.source.longest:
            return found
        for number in range(math.floor((since - stream.source.longest) / BIN_SECONDS), math.ceil(since / BIN_SECONDS)):
            drawn = self._drawn(stream, number)
            for place in range(int(np.searchsorted(drawn.begins, since))):
                comes = drawn.begins[place] + drawn.bodies.nominal(place)
                cut = int(np.searchsorted(comes, since))
                if cut < len(comes):
                    cut = max(0, cut - before)
                    since_then = until - float(comes[cut]) + drawn.begins.item(place)
                    whole = self._session(stream, drawn, place, cut, since_then)
                    found.append(replace(whole, begins=float(comes[cut])))
        return sorted(found, key=lambda one: (one.begins, one.number))

    def _session(self, stream: Stream, drawn: _Bin, at: int, cut: int, until: float) -> Session:
        wclass, source, begins = stream.wclass, stream.source, drawn.begins.item(at)
        turns = drawn.bodies.turns(at, drawn.offsets.item(at), self._answer(wclass, begins))
        if cut:
            turns = (replace(turns[cut], pause=0.0), *turns[cut + 1 :])
        if until < math.inf and len(turns) > 1:
            turns = _by_then(turns, until - begins)
        size, closed = source.block_size, source.closed
        return Session(drawn.first + at, begins, wclass.name, size, turns, closed, wclass.deadline_seconds)

    @cached_property
    def _surges(self) -> Mapping[str, tuple[Surge, ...]]:
        return {name: tuple(one for one in self.scenario.surges if one.wclass == name) for name in self.streams}

    def _answer(self, wclass: Class, begins: float) -> Answer | None:
        factor, cap = wclass.output_factor, math.inf
        for one in self._surges[wclass.name]:
            if one.begin_seconds <= begins < one.begin_seconds + one.seconds:
                factor *= one.output_factor
                cap = min(cap, one.output_cap_tokens or math.inf)
        if factor == 1.0 and cap == math.inf:
            return None
        return lambda output: max(1, int(min(math.ceil(output * factor), cap)))

    def _in_bin(self, stream: Stream, number: int) -> tuple[float, Floats, Floats]:
        """Sessions expected in a bin; and edges within it (s) with how many are expected up to each, shape (edges,)."""
        begin = number * BIN_SECONDS
        when = self.scenario.begin_seconds + begin
        rate = stream.per_second * stream.wclass.rate_factor * (stream.shape.at(when) if stream.shape else 1.0)
        edges = {begin, begin + BIN_SECONDS}
        surges = self._surges[stream.wclass.name]
        for one in surges:
            edges |= {
                edge
                for edge in (one.begin_seconds, one.begin_seconds + one.seconds)
                if begin < edge < begin + BIN_SECONDS
            }
        ends = np.array(sorted(edges))
        factors = np.ones(len(ends) - 1)
        for one in surges:
            inside = (one.begin_seconds <= ends[:-1]) & (ends[:-1] < one.begin_seconds + one.seconds)
            factors[inside] *= one.rate_factor
        upto = np.concatenate(([0.0], np.cumsum(np.diff(ends) * factors * rate)))
        return float(upto[-1]), ends, upto

    def _drawn(self, stream: Stream, number: int) -> _Bin:
        expected, edges, upto = self._in_bin(stream, number)
        name = zlib.crc32(stream.wclass.name.encode())
        rng = np.random.default_rng([self.seed, name, number + _PAST_BINS])
        when = self.scenario.begin_seconds + number * BIN_SECONDS
        place, whose = places(rng, expected, stream.clients.mix(when) if stream.clients else None)
        if len(place) >= _MOST_SESSIONS:
            raise ValueError(
                f"{stream.wclass.name}: {len(place)} sessions in 600 s; expected less than {_MOST_SESSIONS}"
            )
        begins = np.interp(place * expected, upto, edges)
        begins = np.minimum(begins, np.nextafter(edges[-1], -np.inf))
        bodies = stream.source.draw(rng, begins + self.scenario.begin_seconds, whose)
        first = ((name & 0xFFFF) << 46) + ((number + _PAST_BINS) << 24)
        marks = np.arange(first, first + len(begins), dtype=np.int64).astype(np.uint64)
        return _Bin(
            begins, bodies, mix(marks ^ mix(np.array([self.seed], dtype=np.uint64))).astype(np.uint64) | 1, first
        )


def _by_then(turns: tuple[Turn, ...], seconds: float) -> tuple[Turn, ...]:
    """Turns that may come within so long after the first, and one more; their keys are copied, to let go the rest."""
    after = 0.0
    for place, turn in enumerate(turns):
        after += turn.pause
        if after > seconds and place + 1 < len(turns):
            return tuple(replace(one, keys=one.keys.copy()) for one in turns[: place + 1])
    return turns


@contextmanager
def _no_collection() -> Iterator[None]:
    """No search for cycles while many values without any are made; it doubles the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def load(scenario: Scenario, traces: Path, *, seed: int) -> Workload:
    """What a scenario's classes are made of, read from a directory of traces.

    Raises:
        TraceError: a file is missing or does not hold what it should.
        ValueError: a class's source is not known.
    """
    streams = {}
    for one in scenario.classes:
        own_file = is_own_file(one.source)
        source, clients = (_source if own_file else _kept)(one.name, one.source, one.shape or "", traces)
        relative = _shape(scenario, one, traces)
        streams[one.name] = Stream(one, source, relative, clients, source.own_rate)
    return Workload(scenario, seed, streams)


def _shape(scenario: Scenario, wclass: Class, traces: Path) -> Shape | None:
    stated = scenario.shapes.get(wclass.name)
    if stated is not None:
        return normal(f"scenario {scenario.name}", f"shapes.{wclass.name}", np.array(stated))
    return shape(traces, wclass.shape) if wclass.shape else None


def _source(wclass: str, source: str, shaped: str, traces: Path) -> tuple[Source, Clients | None]:
    kind, _, name = source.partition(":")
    model, kinds = CLIENTS.get(shaped, ("", ()))
    if kind == "servegen" and name:
        whose = servegen(traces, name, kinds if name == model else ())
        return lengths(traces, name, whose), whose
    clients = servegen(traces, model, kinds) if model else None
    if kind == "llmd" and name:
        return shared_prefix(traces, name), clients
    match source:
        case "mooncake-conversation":
            return mooncake(traces, "mooncake_conversation"), clients
        case "mooncake-synthetic":
            return mooncake(traces, "mooncake_synthetic"), clients
        case "claude-code":
            return claude_code(traces), clients
        case "ragpulse":
            return ragpulse(traces), clients
        case "azure2023-code":
            return azure(traces, "code"), clients
        case "azure2023-conv":
            return azure(traces, "conv"), clients
    if is_own_file(source):
        return own(Path(source)), clients
    raise TraceError(
        f"class {wclass}: source is {source!r}; expected mooncake-conversation, mooncake-synthetic, "
        "ragpulse, claude-code, azure2023-code, azure2023-conv, servegen:<model>, or the path of a file of requests"
    )


_kept = lru_cache(maxsize=KEPT_SOURCES)(_source)
