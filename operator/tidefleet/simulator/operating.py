"""The operating point of a replica: the speeds by which needed accelerator-seconds are counted.

Needed for serving = fresh prompt tokens / prefill rate + output tokens / decode rate, both at the operating point of
the strictest objective of the pool. Prefill and decode share the chips: with B sequences decoding, r seconds of prefill
for each output token and a step of T_d(B) seconds, a token takes

    TPOT(B) = T_d(B) + B*r,      output tokens/s = B / TPOT(B)

B* is the largest batch with TPOT(B*) within the strictest objective that fits into the KV room and the engine's own
limit. The decode rate is B*/T_d(B*), so that prefill is not counted twice: at B* the two shares sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidefleet.routing.rates import Rates

KV_SHARE = 0.9
"""Of a replica's KV room that running sequences may fill, on average, without preempting one another."""

_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Part:
    """One class in a pool's mix: how often a request comes (any common unit), and its means.

    Attributes:
        tokens: of the prompt; output: generated.
        prefill_seconds: T_p of what no cache holds of it.
    """

    rate: float
    tokens: float
    prefill_seconds: float
    output: float
    tpot_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a replica does at its operating point.

    Attributes:
        rates: speeds of the replica.
        batch: B*; step_seconds: T_d(B*); tpot_seconds: TPOT(B*).
        limited_by: ``objective``, ``KV room`` or ``batch limit``.
        prefill_share: of its time there.
    """

    rates: Rates
    batch: float
    step_seconds: float
    tpot_seconds: float
    prefill_share: float
    limited_by: str

    @property
    def seconds_per_output_token(self) -> float:
        """T_d(B*)/B*, replica-seconds."""
        return self.step_seconds / self.batch


def operating_point(
    rates: Rates, mix: Sequence[Part], *, kv_tokens: float, max_batch: float, tpot_seconds: float | None = None
) -> OperatingPoint:
    """The operating point for a mix.

    Args:
        kv_tokens: KV room of a replica.
        max_batch: most sequences that the engine runs together.
        tpot_seconds: the strictest objective; that of the mix, unless given.

    Raises:
        ValueError: nothing is asked for, or a batch of one misses the objective already.
    """
    decoded = sum(one.rate * one.output for one in mix)
    if not decoded > 0.0:
        raise ValueError("operating_point: the mix asks for no output tokens; expected a class with a positive rate")
    promises = [one.tpot_seconds for one in mix if one.tpot_seconds is not None]
    limit = tpot_seconds if tpot_seconds is not None else min(promises, default=float("inf"))
    context = sum(one.rate * one.output * (one.tokens + one.output / 2.0) for one in mix) / decoded
    ratio = sum(one.rate * one.prefill_seconds for one in mix) / decoded

    def tpot(batch: float) -> float:
        return rates.tpot_seconds(batch, batch * context) + batch * ratio

    room = KV_SHARE * kv_tokens / max(1.0, context)
    most, by = (room, "KV room") if room < max_batch else (float(max_batch), "batch limit")
    if tpot(min(1.0, most)) > limit:
        raise ValueError(
            f"operating_point: one sequence alone takes {tpot(min(1.0, most)) * 1e3:.1f} ms a token; "
            f"{limit * 1e3:.1f} ms are promised"
        )
    if tpot(most) > limit:
        low, high = min(1.0, most), most
        for _ in range(_HALVINGS):
            middle = (low + high) / 2.0
            low, high = (middle, high) if tpot(middle) <= limit else (low, middle)
        most, by = low, "objective"
    step = rates.tpot_seconds(most, most * context)
    return OperatingPoint(rates, most, step, tpot(most), most * ratio / tpot(most), by)
