"""From what engines report to what a pool is asked for. Pure: samples come in, readings go out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from tidefleet.controller.metrics_page import EngineCounters
from tidefleet.planning.demand import MEAN_SECONDS, Cause, Empty, Known, Reading, Stale

DRAIN_SECONDS = 60.0
"""Waiting requests count as demand that is to be worked off within this time."""

NOTHING_YET = EngineCounters(**dict.fromkeys(EngineCounters.__dataclass_fields__, 0.0))

MOST_BY_NEW = 2.0
"""An engine that did more than this many times what all others did since the last round is older than it seems."""

SEEN_ENGINES = 10_000

ANSWERING_SHARE = 0.5
"""Below this share of engines that answer usably, the rest is not extrapolated from them."""


MOST_UNSURE = 0.2
"""Share of the time between two samples that it may be uncertain by for rates to be taken from them."""

SET_BACK_SECONDS = 60.0
"""A sample so much older than the last one was not delayed: the clock was set back, and counting begins anew."""

STARTED_APART_SECONDS = 1.0
"""Starts that are reported this much apart are two starts; less is rounding."""


MOST_TOKENS, MOST_REQUESTS, MOST_INSIDE = 1e9, 1e6, 1e7
"""Tokens and requests per second of one engine, and requests in it, beyond which its page lies: a hundred times what a
rack of 72 accelerators does."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one engine reported at ``at`` (seconds of the operator's clock); ``restarts`` of its pod's containers.

    The report was made within ``unsure`` seconds of ``at``.
    """

    at: float
    counters: EngineCounters
    restarts: int = 0
    unsure: float = 0.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an engine gave no sample: the cause, and the sentence about it, which names the pod."""

    cause: Cause
    why: str


def is_badly_timed(before: Sample, after: Sample) -> bool:
    """Whether the time between two samples of one run of an engine is not known well enough to divide by.

    A collector that is held up by s seconds does not know when in them an engine wrote its page, and reads the next
    one at once: counts of s seconds over a time of s / 2 would be twice the load, at all engines together.
    """
    seconds = after.at - before.at
    return 0 < MOST_UNSURE * seconds < before.unsure + after.unsure and not is_restart(before, after)


def is_restart(before: Sample, after: Sample) -> bool:
    """Whether an engine began to count anew between two samples.

    A counter below the last one shows it. One that has passed the last count already does not: then the start that the
    engine reports, or its pod's count of restarts, tells.
    """
    one, two = before.counters, after.counters
    if before.restarts != after.restarts:
        return True
    if one.started and two.started and abs(two.started - one.started) > STARTED_APART_SECONDS:
        return True
    return any(getattr(two, name) < getattr(one, name) for name in _RISING)


_RISING = ("prompt_tokens", "generation_tokens", "finished", "hit_tokens", "queried_tokens")


@dataclass(frozen=True, slots=True)
class EngineRates:
    """One engine between two samples; rates per second, gauges as last seen.

    ``first_tokens`` is how many requests got their first token in that time, ``first_token_seconds`` their waits' sum;
    ``busy`` is the share of the two samples that had a request running, ``preempted`` counts requests put out.
    """

    seconds: float
    arrivals: float
    finished: float
    prompt_tokens: float
    generation_tokens: float
    hit_tokens: float
    queried_tokens: float
    mean_prompt: float | None
    running: float
    waiting: float
    first_tokens: float = 0.0
    first_token_seconds: float = 0.0
    busy: float = 0.0
    preempted: float = 0.0
    tier_hit_tokens: float = 0.0
    tier_queried_tokens: float = 0.0

    @property
    def found_tokens(self) -> float:
        """Prompt tokens that were not computed, whether they were found on the device or fetched from a tier."""
        return min(self.hit_tokens + self.tier_hit_tokens, self.prompt_tokens)


def rates_between(before: Sample, after: Sample) -> EngineRates | None:
    """Rates of an engine between two samples; ``None`` when the engine was restarted or no time has passed.

    Arrivals are requests finished plus the growth of those inside: a full engine finishes less than arrives.
    """
    seconds = after.at - before.at
    one, two = before.counters, after.counters
    if seconds <= 0 or is_restart(before, after):
        return None
    inside = (two.running + two.waiting) - (one.running + one.waiting)
    prompts = two.measured_prompts - one.measured_prompts
    prompt_tokens = two.measured_prompt_tokens - one.measured_prompt_tokens
    first, waited = two.first_tokens - one.first_tokens, two.first_token_seconds - one.first_token_seconds
    told = first > 0 and waited >= 0
    return EngineRates(
        seconds=seconds,
        arrivals=max(0.0, two.finished - one.finished + inside) / seconds,
        finished=(two.finished - one.finished) / seconds,
        prompt_tokens=(two.prompt_tokens - one.prompt_tokens) / seconds,
        generation_tokens=(two.generation_tokens - one.generation_tokens) / seconds,
        hit_tokens=(two.hit_tokens - one.hit_tokens) / seconds,
        queried_tokens=(two.queried_tokens - one.queried_tokens) / seconds,
        mean_prompt=prompt_tokens / prompts if prompts > 0 and prompt_tokens >= 0 else None,
        running=two.running,
        waiting=two.waiting,
        first_tokens=first if told else 0.0,
        first_token_seconds=waited if told else 0.0,
        busy=((one.running > 0) + (two.running > 0)) / 2.0,
        preempted=max(0.0, two.preemptions - one.preemptions),
        tier_hit_tokens=_of_tier(one, two, "tier_hit_tokens") / seconds,
        tier_queried_tokens=_of_tier(one, two, "tier_queried_tokens") / seconds,
    )


def absurdity(rates: EngineRates) -> str:
    """What an engine cannot have done, in words; empty where it can."""
    tokens = max(rates.prompt_tokens, rates.generation_tokens, rates.hit_tokens, rates.queried_tokens)
    for value, most, what in (
        (tokens, MOST_TOKENS, "tokens/s"),
        (max(rates.arrivals, rates.finished), MOST_REQUESTS, "requests/s"),
        (rates.running + rates.waiting, MOST_INSIDE, "requests inside"),
    ):
        if not value <= most:
            return f"an engine tells of {value:.3g} {what}, more than any can have"
    return ""


def _of_tier(one: EngineCounters, two: EngineCounters, name: str) -> float:
    """Growth of a counter that a page may lack, which then reads as 0.

    What comes back after that is all that was ever counted, and more than the prompts since: it is no growth.
    """
    before, after = getattr(one, name), getattr(two, name)
    came_back = not before and after > two.prompt_tokens - one.prompt_tokens
    return 0.0 if came_back else max(0.0, after - before)


LENGTH_SECONDS = 600.0
"""Mean lengths are taken over this time: those of one round are a handful of requests."""


@dataclass(slots=True)
class LengthWindow:
    """What a pool's engines processed lately, to take mean lengths from."""

    _rounds: deque[tuple[float, ...]] = field(default_factory=deque)

    def add(self, at: float, rates: Iterable[EngineRates]) -> None:
        """Count one round."""
        sums = [0.0] * 7
        for one in rates:
            sums[0] += one.finished * one.seconds
            sums[1] += one.generation_tokens * one.seconds
            prompt = one.prompt_tokens if one.mean_prompt is None else one.mean_prompt * one.finished
            sums[2] += prompt * one.seconds
            sums[3] += one.hit_tokens * one.seconds
            sums[4] += one.queried_tokens * one.seconds
            sums[5] += one.tier_hit_tokens * one.seconds
            sums[6] += one.prompt_tokens * one.seconds
        self._rounds.append((at, *sums))
        while self._rounds and self._rounds[0][0] < at - LENGTH_SECONDS:
            self._rounds.popleft()

    @property
    def finished(self) -> float:
        """Requests that the means are of."""
        return sum(one[1] for one in self._rounds)

    def means(self) -> tuple[float | None, float | None, float | None]:
        """Mean prompt tokens, mean generated tokens, share of prompt tokens found in caches."""
        finished, generated, prompt, hits, queried = (sum(one[i] for one in self._rounds) for i in range(1, 6))
        return (
            prompt / finished if finished > 0 and prompt > 0 else None,
            generated / finished if finished > 0 and generated > 0 else None,
            min(1.0, hits / queried) if queried > 0 else None,
        )

    def tier_share(self) -> float | None:
        """Share of prompt tokens fetched from KV tiers; ``None`` without prompts."""
        hits, prompt = (sum(one[i] for one in self._rounds) for i in (6, 7))
        return min(1.0, hits / prompt) if prompt > 0 else None


@dataclass(slots=True)
class RecentWindow:
    """What a pool's readings were in the last minutes: one of them alone is a handful of requests.

    The median of the rates rather than their mean: it is right once most rounds are, also where one saw half a load.
    """

    _rates: deque[tuple[float, float]] = field(default_factory=deque)
    _busy: deque[tuple[float, float]] = field(default_factory=deque)

    def with_median(self, reading: Reading) -> Reading:
        """The reading with the median rate of ``MEAN_SECONDS``; counts it first when it is known."""
        if not isinstance(reading, Known):
            return reading
        self._rates.append((reading.at, reading.requests_per_second))
        while self._rates[0][0] <= reading.at - MEAN_SECONDS:
            self._rates.popleft()
        return replace(reading, median=median(rate for _, rate in self._rates))

    def mean_busy(self, at: float, rates: Sequence[EngineRates]) -> float | None:
        """Share of engines that had a request running, over ``MEAN_SECONDS``; ``None`` when no engine was read."""
        if not rates:
            return None
        self._busy.append((at, sum(one.running > 0 for one in rates) / len(rates)))
        while self._busy[0][0] <= at - MEAN_SECONDS:
            self._busy.popleft()
        return sum(one for _, one in self._busy) / len(self._busy)


@dataclass(frozen=True, slots=True)
class PoolEngines:
    """How a pool's engines answered in one round.

    Attributes:
        rates: of engines with two usable samples; ``fresh`` those of them that were not counted before.
        young: engines without two usable samples (just started, or restarted).
        faulty: engines that did not answer, or with something unusable; ``fault`` is the trouble of one of them.
        returned: requests that were inside engines which are gone: sent again to the others, they are not new.
        worked: those that are fresh, by uid.
    """

    rates: tuple[EngineRates, ...]
    young: int
    faulty: int
    fault: Trouble | None = None
    fresh: tuple[EngineRates, ...] = ()
    returned: float = 0.0
    worked: Mapping[str, EngineRates] = field(default_factory=dict)


def pool_reading(
    engines: PoolEngines,
    *,
    now: float,
    last: Reading | None,
    lengths: LengthWindow | None = None,
    drain_seconds: float = DRAIN_SECONDS,
) -> Reading:
    """A pool's demand from its engines.

    Where some engines are faulty the others stand in for them; where most are, the reading is stale since the last good
    one. A pool without engines gives an empty answer, which is not zero demand.
    """
    count = len(engines.rates)
    since = last.at if isinstance(last, Known | Stale) else now
    if not count:
        if engines.fault is not None:
            why = f"none of {engines.faulty + engines.young} engines can be read: {engines.fault.why}"
            return Stale(since, "Engines", why, engines.fault.cause)
        return Empty(now, "Engines", "engines have just started" if engines.young else "no ready pod to measure")
    if engines.fault is not None and count < ANSWERING_SHARE * (count + engines.faulty):
        why = f"{engines.faulty} of {count + engines.faulty} engines cannot be read: {engines.fault.why}"
        return Stale(since, "Engines", why, engines.fault.cause)
    scale = (count + engines.faulty) / count
    seconds = min(one.seconds for one in engines.rates)
    arrivals = max(0.0, sum(one.arrivals for one in engines.rates) - engines.returned / seconds)
    into, out, hits = lengths.means() if lengths is not None else (None, None, None)
    first = sum(one.first_tokens for one in engines.fresh)
    waited = sum(one.first_token_seconds for one in engines.fresh)
    return Known(
        at=now,
        requests_per_second=(arrivals + sum(one.waiting for one in engines.rates) / drain_seconds) * scale,
        source="Engines",
        input_tokens=into,
        output_tokens=out,
        hit_share=hits,
        tier_hit_share=lengths.tier_share() if lengths is not None else None,
        seconds=seconds,
        length_count=lengths.finished if lengths is not None else math.inf,
        arrivals_per_second=arrivals * scale,
        first_token_seconds=waited / first if first > 0 else None,
        first_tokens=first,
    )


@dataclass(slots=True)
class TokenTally:
    """Tokens a pool processed since they were last taken, by direction."""

    input: float = 0.0
    cached: float = 0.0
    output: float = 0.0

    def add(self, rates: Iterable[EngineRates]) -> None:
        """Count what engines did between two samples."""
        for one in rates:
            cached = one.found_tokens
            self.input += (one.prompt_tokens - cached) * one.seconds
            self.cached += cached * one.seconds
            self.output += one.generation_tokens * one.seconds

    def take(self) -> Mapping[str, float]:
        """What was counted, and start again at zero."""
        taken = {"input": self.input, "cached": self.cached, "output": self.output}
        self.input = self.cached = self.output = 0.0
        return taken


@dataclass(slots=True)
class EngineMemory:
    """The last usable sample of each engine and the rates it gave, by pod uid.

    An engine that appears after the first round counted from zero since the round before: it took load off the others,
    and without it a pool that has just grown would look as if demand had fallen.
    """

    samples: dict[str, Sample] = field(default_factory=dict)
    rates: dict[str, EngineRates] = field(default_factory=dict)
    _seen: dict[str, None] = field(default_factory=dict)
    _last_round: float | None = None

    def step(self, answers: Mapping[str, Sample | Trouble]) -> PoolEngines:
        """Take in one round of answers (a sample, or what was wrong with it) and say how the pool's engines did.

        A sample seen before (a Prometheus that has not scraped since), or of which it is not known well enough when it
        was taken, repeats the rates before and is not counted. What was inside engines that are gone is told once: call
        ``forget_all_but`` after each round.
        """
        gone = [one.counters for uid, one in self.samples.items() if uid not in answers]
        known: list[EngineRates] = []
        fresh: dict[str, EngineRates] = {}
        first: list[tuple[str, Sample]] = []
        faulty = unsure = 0
        fault: Trouble | None = None
        for uid, answer in answers.items():
            if isinstance(answer, Trouble):
                faulty += 1
                fault = fault or answer
                continue
            before = self.samples.get(uid)
            if before is not None and 0 <= before.at - answer.at < SET_BACK_SECONDS and uid in self.rates:
                known.append(self.rates[uid])
                continue
            if before is not None and is_badly_timed(before, answer):
                if uid in self.rates:  # measured on from the sample before, until it is known over what time
                    known.append(self.rates[uid])
                    continue
                if answer.unsure < before.unsure:
                    self.samples[uid] = answer
                unsure += 1
                continue
            between = rates_between(before, answer) if before else None
            self.samples[uid] = answer
            if between is not None and (why := absurdity(between)):
                self.rates.pop(uid, None)
                del self.samples[uid]  # nor is anything measured on from it
                faulty += 1
                fault = fault or Trouble(Cause.NOT_A_NUMBER, why)
                continue
            if between is None:
                self.rates.pop(uid, None)
                first.append((uid, answer))
            else:
                self.rates[uid] = between
                known.append(between)
                fresh[uid] = between
        most = MOST_BY_NEW * sum(one.arrivals * one.seconds for one in known)
        for uid, sample in first:
            began = None if uid in self._seen or self._last_round is None else Sample(self._last_round, NOTHING_YET)
            between = rates_between(began, sample) if began and not is_badly_timed(began, sample) else None
            if between is not None and between.arrivals * between.seconds <= most and not absurdity(between):
                self.rates[uid] = between
                known.append(between)
                fresh[uid] = between
        young = unsure + sum(uid not in self.rates for uid, _ in first)
        self._seen = dict.fromkeys([*self._seen, *answers][-SEEN_ENGINES:])
        self._last_round = max((one.at for one in self.samples.values()), default=self._last_round)
        returned = sum(one.running + one.waiting for one in gone)
        return PoolEngines(tuple(known), young, faulty, fault, tuple(fresh.values()), returned, fresh)

    def forget_all_but(self, uids: Iterable[str]) -> None:
        """Drop engines whose pods are gone."""
        keep = set(uids)
        for uid in [uid for uid in self.samples if uid not in keep]:
            del self.samples[uid]
            self.rates.pop(uid, None)
