"""What a request of each class is on average, and at which rates the classes make up a scenario's demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tidefleet.routing.rates import Rates
from tidefleet.simulator.fleet.demand import Demand
from tidefleet.simulator.operating import OperatingPoint, Part, operating_point
from tidefleet.simulator.scenario import BIN_SECONDS, Class, Pool, Scenario
from tidefleet.simulator.sessions import Session

DRAWN_REQUESTS = 12_000
"""Requests of each class whose mean stands for all of them."""

MOST_DELAY_BINS = 288
"""Turns that come later after their session's begin (two days) are counted as coming then."""

ROUNDS = 6
"""Rates and operating point depend on each other; after so many rounds they change by less than a thousandth."""


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A request of a class, on average.

    Attributes:
        turns: requests of a session.
        tokens: of the prompt; output: generated.
        prefill_seconds: for what no cache holds; ideal_seconds: the same if caches forgot nothing.
        delays: shape (bins,): share of requests that come so many bins of 600 s after their session's begin.
        lengths: shape (requests,): tokens of some answers, equally likely.
    """

    turns: float
    tokens: float
    output: float
    prefill_seconds: float
    ideal_seconds: float
    delays: NDArray[np.float64]
    lengths: NDArray[np.float64]

    def grown(self, factor: float, cap: float) -> float:
        """Mean answer over the usual one when each is ``factor`` times as long, and none longer than ``cap`` tokens."""
        return float(np.minimum(self.lengths * factor, cap).mean() / self.lengths.mean())


def kind_of(sessions: Sequence[Session], rates: Rates, *, step_seconds: float) -> Kind:
    """The means of some sessions, whose answers take ``step_seconds`` a token.

    Raises:
        ValueError: there is none.
    """
    known: set[int] = set()
    tokens, outputs, ideal = [], [], []
    delays = np.zeros(MOST_DELAY_BINS)
    for session in sessions:
        after = 0.0
        for turn in session.turns:
            after += turn.pause
            delays[min(MOST_DELAY_BINS - 1, int(after / BIN_SECONDS))] += 1.0
            keys = turn.keys.tolist()
            count = next((place for place, key in enumerate(keys) if key not in known), len(keys))
            known.update(keys[count:])
            held = min(count * session.block_size, turn.tokens - 1)
            tokens.append(turn.tokens)
            outputs.append(max(1, turn.output))
            ideal.append(rates.prefill_seconds(turn.tokens - held, held))
            if session.closed:
                after += ideal[-1] + step_seconds * turn.output
    if not tokens:
        raise ValueError("kind_of: no session; expected at least one")
    prefill = float(np.mean(ideal))
    turns = len(tokens) / len(sessions)
    lengths = np.array(outputs, dtype=np.float64)
    return Kind(turns, float(np.mean(tokens)), float(lengths.mean()), prefill, prefill, delays / delays.sum(), lengths)


def spread(starts: NDArray[np.float64], delays: NDArray[np.float64]) -> NDArray[np.float64]:
    """When the turns of sessions come that begin at rates ``starts`` (bins,); before the first bin comes the last."""
    kernel = np.zeros(len(starts))
    for place, share in enumerate(delays):
        kernel[place % len(starts)] += share
    found = np.fft.irfft(np.fft.rfft(starts) * np.fft.rfft(kernel), n=len(starts))
    return np.maximum(0.0, found)


@dataclass(frozen=True, slots=True)
class Mix:
    """The classes of one pool.

    Attributes:
        kinds: by class.
        starts: mean session starts/s, by class.
        shapes: sessions/s whose turns come in each bin of 600 s, at one session/s, by class.
        answers: how many times as long answers are in each bin, by class.
        point: operating point of the pool's replicas.
        deferrable: classes that may wait; spillable: those that an external API may take.
    """

    kinds: Mapping[str, Kind]
    starts: Mapping[str, float]
    shapes: Mapping[str, NDArray[np.float64]]
    answers: Mapping[str, NDArray[np.float64]]
    point: OperatingPoint
    deferrable: frozenset[str]
    spillable: frozenset[str] = frozenset()

    def requests(self, name: str) -> NDArray[np.float64]:
        """Requests/s of a class in each bin."""
        return self.starts[name] * self.shapes[name] * self.kinds[name].turns

    def needed(self, name: str) -> float:
        """Replica-seconds of a request."""
        return _seconds(self.kinds[name], self.point)

    def corrected(self, factors: Mapping[str, float]) -> Mapping[str, Kind]:
        """Kinds with so many times the ideal prefill."""
        return {
            name: replace(one, prefill_seconds=one.ideal_seconds * factors.get(name, 1.0))
            for name, one in self.kinds.items()
        }


def mix_of(
    scenario: Scenario,
    classes: Sequence[Class],
    kinds: Mapping[str, Kind],
    usual: Mapping[str, NDArray[np.float64]],
    *,
    shapes: Mapping[str, NDArray[np.float64]],
    answers: Mapping[str, NDArray[np.float64]],
    rates: Rates,
    kv_tokens: float,
    pool: Pool,
    replicas: float,
) -> Mix:
    """Rates at which online classes have their shares of the accelerator time, and the busiest hour its own.

    Args:
        usual: sessions/s whose turns come in each bin of 600 s, at one session/s, by class, with nothing out of the
            ordinary: what rates are made for; shapes: with all that the scenario has happen.
        answers: how many times as long answers are in each bin, by class.
        replicas: that there are, each counted by what it carries of the first kind.

    Raises:
        ValueError: the classes have no shares, or an objective cannot be met by a request alone.
    """
    online = [one for one in classes if one.deadline_seconds is None and one.share > 0.0]
    if not online:
        raise ValueError(
            f"scenario {scenario.name}: no class of pool {pool.name} has a share; expected one, e.g. share: 0.25"
        )
    whole = sum(one.share for one in online)
    deferrable = [one for one in classes if one.deadline_seconds is not None and one.volume_share > 0.0]
    starts = {one.name: one.share for one in online}
    point = None
    for _ in range(ROUNDS):
        point = _point(online, kinds, starts, rates=rates, kv_tokens=kv_tokens, pool=pool)
        each = {name: kind.turns * _seconds(kind, point) for name, kind in kinds.items()}
        unit = {one.name: one.share / whole / each[one.name] for one in online}
        curve = np.sum([usual[one.name] * unit[one.name] * each[one.name] for one in online], axis=0)
        width = min(6, len(curve))
        peak = float(np.convolve(curve, np.full(width, 1.0 / width), mode="valid").max())
        scale = scenario.peak_share * replicas / peak
        starts = {name: value * scale for name, value in unit.items()}
        for one in deferrable:
            mean = float(usual[one.name].mean())
            starts[one.name] = one.volume_share * replicas / each[one.name] / mean
    assert point is not None  # noqa: S101 -- there is at least one round
    spillable = frozenset(one.name for one in online if one.spill is not None)
    return Mix(kinds, starts, shapes, answers, point, frozenset(one.name for one in deferrable), spillable)


def carried(
    mix: Mix, classes: Sequence[Class], kinds: Mapping[str, Kind], *, rates: Rates, kv_tokens: float, pool: Pool
) -> float:
    """Demand of a mix that a replica of another pool carries at its operating point, over what the mix's own does.

    Args:
        kinds: the classes' requests as that pool's replicas compute them.

    Raises:
        ValueError: an objective cannot be met there by a request alone.
    """
    online = [one for one in classes if one.deadline_seconds is None and one.share > 0.0]
    point = _point(online, kinds, mix.starts, rates=rates, kv_tokens=kv_tokens, pool=pool)
    turns = {one.name: mix.starts[one.name] * mix.kinds[one.name].turns for one in online}
    here = sum(turns[name] * mix.needed(name) for name in turns)
    return here / sum(turns[name] * _seconds(kinds[name], point) for name in turns)


def _point(
    online: Sequence[Class],
    kinds: Mapping[str, Kind],
    starts: Mapping[str, float],
    *,
    rates: Rates,
    kv_tokens: float,
    pool: Pool,
) -> OperatingPoint:
    """The operating point of a pool's replicas for a mix."""
    parts = [
        Part(
            starts[one.name] * kinds[one.name].turns,
            kinds[one.name].tokens,
            kinds[one.name].prefill_seconds,
            kinds[one.name].output,
            one.objective.tpot_seconds if one.objective else None,
        )
        for one in online
    ]
    return operating_point(
        rates, parts, kv_tokens=kv_tokens, max_batch=pool.max_batch, tpot_seconds=pool.operating_tpot_seconds
    )


def demand_of(mix: Mix, *, deadline_seconds: float) -> Demand:
    """A pool's demand, in replicas at their operating point."""
    online = deferrable = spillable = None
    for name, kind in mix.kinds.items():
        if name not in mix.starts:
            continue
        requests = mix.requests(name)
        decoded = requests * kind.output * mix.answers[name]
        rows = np.stack([requests * kind.prefill_seconds, decoded * mix.point.seconds_per_output_token], 1)
        if name in mix.deferrable:
            deferrable = rows.sum(axis=1) + (0.0 if deferrable is None else deferrable)
        else:
            online = rows + (0.0 if online is None else online)
        if name in mix.spillable:
            spillable = rows.sum(axis=1) + (0.0 if spillable is None else spillable)
    assert online is not None  # noqa: S101 -- mix_of refuses a pool without online demand
    return Demand(online, deferrable, deadline_seconds=deadline_seconds, spillable=spillable)


def _seconds(kind: Kind, point: OperatingPoint) -> float:
    return kind.prefill_seconds + kind.output * point.seconds_per_output_token
