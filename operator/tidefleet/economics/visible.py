"""When the first visible token comes: after the wait, the prompt, and everything the model thinks first."""

from __future__ import annotations

import numpy as np

from tidefleet.economics.lognormal import LengthLaw, checked
from tidefleet.economics.spread import Floats, Spread, of_law, of_quantiles


def first_token_spread(*, prefill_seconds: float, decode_seconds: float, prefill_share: float) -> Spread:
    """Seconds to the first token over requests: own prefill, the running step, and the wait behind other prefills.

    The wait is that of an M/M/1 queue of prefills: P(wait > t) = rho exp(-(1 - rho) t / T_p), rho the share of time
    spent on prefill.

    Raises:
        ValueError: a time is negative or not finite, or the share is not in 0..1.
    """
    own = checked("prefill_seconds", prefill_seconds, most=1e9, example="0.2")
    step = checked("decode_seconds", decode_seconds, most=1e9, example="0.02")
    rho = min(0.999, max(1e-9, checked("prefill_share", prefill_share, most=1.0, example="0.3")))

    def seconds(shares: Floats) -> Floats:
        return own + step + np.maximum(0.0, np.log(rho / (1.0 - shares))) * own / (1.0 - rho)

    return of_quantiles(seconds)


def first_visible_seconds(
    percentile: float,
    *,
    prefill_seconds: float,
    decode_seconds: float,
    prefill_share: float,
    tpot_seconds: float,
    thinking: LengthLaw,
) -> float:
    """Seconds until the first visible token at a percentile: time to first token + thinking tokens * TPOT.

    The two are independent, so their sum is a convolution and not the sum of two 95th percentiles. A cap on thinking
    is a cap on this.

    Args:
        percentile: 0 < percentile < 100.
        tpot_seconds: seconds between tokens.
        thinking: tokens generated before the first visible one.

    Raises:
        ValueError: a number is not usable.
    """
    at = checked("percentile", percentile, least=1e-6, most=100.0 - 1e-6, example="95")
    tpot = checked("tpot_seconds", tpot_seconds, most=1e6, example="0.02")
    first = first_token_spread(
        prefill_seconds=prefill_seconds, decode_seconds=decode_seconds, prefill_share=prefill_share
    )
    return (first + of_law(thinking).scaled(tpot)).quantile(at / 100.0)
