"""All that one engine has counted since it started; thrown away as one when it restarts."""

from __future__ import annotations

from math import frexp

from tidefleet.emulator.histograms import (
    REQUEST_BOUNDS,
    SPREAD,
    TOKEN_LATENCY_BOUNDS,
    TTFT_BOUNDS,
    Histogram,
    Latencies,
    exponential,
    length_bounds,
    uniform,
)

FINISHED_REASONS = ("stop", "length", "abort")


class Counters:
    """Counters and histograms of one engine.

    A fluid adds mass with `admit` and `finish`. The mass is kept aside while latencies stay within 2 % of those of the
    last distribution and goes into the buckets in one piece, since a fleet of hundreds advances many times a second.
    Prompts and outputs of a fluid are spread exponentially around their means.
    """

    def __init__(self, started_at: float, context_tokens: int) -> None:
        lengths = length_bounds(context_tokens or 131_072)
        self.started_at = started_at
        self.prompt_tokens = self.generation_tokens = 0.0
        self.prefix_queries = self.prefix_hits = 0.0
        self.tier_queries = self.tier_hits = 0.0
        self.finished = dict.fromkeys(FINISHED_REASONS, 0.0)
        self.ttft, self.inter_token = Histogram(TTFT_BOUNDS), Histogram(TOKEN_LATENCY_BOUNDS)
        self.request_tpot = Histogram(TOKEN_LATENCY_BOUNDS)
        self.e2e, self.queue = Histogram(REQUEST_BOUNDS), Histogram(REQUEST_BOUNDS)
        self.request_prompt, self.request_generation = Histogram(lengths), Histogram(lengths)
        self._law: tuple[Latencies, float, float] | None = None
        self._law_key: tuple[int, ...] = ()
        self._admitted = self._ttft_sum = self._queue_sum = 0.0
        self._finished = self._intervals = self._tpot_sum = self._interval_sum = self._e2e_sum = 0.0
        self._prompt_sum = self._generation_sum = 0.0

    def record(
        self,
        law: Latencies,
        *,
        admitted: float,
        finished: float,
        input_tokens: float,
        output_tokens: float,
        cached_share: float,
        tier_share: float | None = None,
    ) -> None:
        """Count a fluid's requests that entered the batch and that finished, under these latencies.

        ``tier_share`` is the share of the prompt that came from a KV tier; ``None``: there is none to look in.
        """
        key = (
            round(35.0 * _log(law.base)), round(35.0 * _log(law.tpot)), round(50.0 * law.prefill_load),
            round(35.0 * _log(law.base + law.wait_low)), round(35.0 * _log(law.base + law.wait_high)),
            round(35.0 * _log(input_tokens)), round(35.0 * _log(output_tokens)),
        )  # fmt: skip
        if key != self._law_key:
            self.flush()
            self._law, self._law_key = (law, input_tokens, output_tokens), key
        self.prompt_tokens += admitted * input_tokens
        self.prefix_queries += admitted * input_tokens
        self.prefix_hits += admitted * input_tokens * cached_share
        if tier_share is not None:
            self.tier_queries += admitted * input_tokens * (1.0 - cached_share)
            self.tier_hits += admitted * input_tokens * tier_share
        self.generation_tokens += finished * output_tokens
        self.finished["stop"] += finished
        intervals = finished * max(0.0, output_tokens - 1.0)
        self._admitted += admitted
        self._ttft_sum += admitted * law.ttft
        self._queue_sum += admitted * law.wait
        self._finished += finished
        self._intervals += intervals
        self._interval_sum += intervals * law.tpot
        self._tpot_sum += finished * law.tpot
        self._e2e_sum += finished * law.ttft + intervals * law.tpot
        self._prompt_sum += finished * input_tokens
        self._generation_sum += finished * output_tokens

    def flush(self) -> None:
        """Put the mass kept aside into the buckets; a page is right only after it."""
        if self._law is None or (self._admitted == 0.0 and self._finished == 0.0):
            return
        law, input_tokens, output_tokens = self._law
        between = uniform(self.inter_token.bounds, (1.0 - SPREAD) * law.tpot, (1.0 + SPREAD) * law.tpot)
        decode = max(0.0, output_tokens - 1.0) * law.tpot
        self.ttft.add(self._admitted, law.ttft_distribution(self.ttft.bounds), self._ttft_sum)
        self.queue.add(self._admitted, uniform(self.queue.bounds, law.wait_low, law.wait_high), self._queue_sum)
        self.inter_token.add(self._intervals, between, self._interval_sum)
        self.request_tpot.add(self._finished, between, self._tpot_sum)
        self.e2e.add(self._finished, exponential(self.e2e.bounds, decode, law.ttft), self._e2e_sum)
        for histogram, mean, total in (
            (self.request_prompt, input_tokens, self._prompt_sum),
            (self.request_generation, output_tokens, self._generation_sum),
        ):
            histogram.add(self._finished, exponential(histogram.bounds, mean), total)
        self._admitted = self._ttft_sum = self._queue_sum = 0.0
        self._finished = self._intervals = self._tpot_sum = self._interval_sum = self._e2e_sum = 0.0
        self._prompt_sum = self._generation_sum = 0.0


def _log(value: float) -> float:
    """A cheap logarithm for grouping: exponent and mantissa, exact at powers of two and monotone between them."""
    mantissa, exponent = frexp(max(value, 1e-9))
    return float(exponent) + 2.0 * mantissa
