"""From replica seconds to dollars: prices per million tokens that add up to the bill."""

from __future__ import annotations

from dataclasses import dataclass

from tidefleet.economics.serving import Estimate

MILLION = 1e6
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class TokenCost:
    """USD per million tokens by direction, for a replica that is loaded to ``utilisation``.

    The three directions are allocations of one bill by the time each took: multiplied by their token rates they sum to
    ``usd_per_hour``. ``blended`` divides the bill by all tokens (uncached and cached input, and output).
    """

    usd_per_hour: float
    utilisation: float
    input: float
    cached_input: float
    output: float
    blended: float


def token_cost(estimate: Estimate, *, usd_per_chip_hour: float, utilisation: float = 1.0) -> TokenCost:
    """What tokens cost on a replica, idle time included.

    Args:
        estimate: the replica's operating point.
        usd_per_chip_hour: rent of one chip.
        utilisation: mean load / provisioned capacity, in (0, 1].

    Raises:
        ValueError: utilisation is not in (0, 1].
    """
    if not 0.0 < utilisation <= 1.0:
        raise ValueError(f"utilisation is {utilisation}; expected a share above 0 and at most 1, e.g. 0.85")
    shape = estimate.shape
    usd_per_hour = usd_per_chip_hour * estimate.replica.chips
    requests_per_hour = estimate.requests_per_second * HOUR * utilisation
    prefill_usd = usd_per_hour * estimate.prefill_share
    cached_usd = prefill_usd * estimate.cached_share_of_prefill

    def per_million(usd: float, tokens_per_request: float) -> float:
        tokens = tokens_per_request * requests_per_hour
        return usd / tokens * MILLION if tokens > 0 else 0.0

    # With nothing uncached the prefill (reading weights, attending the cache) is owed to the cached tokens alone.
    uncached_usd = prefill_usd - cached_usd if shape.uncached > 0 else 0.0
    return TokenCost(
        usd_per_hour=usd_per_hour,
        utilisation=utilisation,
        input=per_million(uncached_usd, shape.uncached),
        cached_input=per_million(prefill_usd - uncached_usd, shape.cached),
        output=per_million(usd_per_hour - prefill_usd, max(1.0, shape.output_mean)),
        blended=per_million(usd_per_hour, shape.input_mean + max(1.0, shape.output_mean)),
    )
