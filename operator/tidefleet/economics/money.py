"""From replica seconds to dollars: prices per million tokens that add up to the bill."""

from __future__ import annotations

from dataclasses import dataclass

from tidefleet.economics.disaggregated import Disaggregated
from tidefleet.economics.roofline import prefill
from tidefleet.economics.serving import Estimate
from tidefleet.economics.shares import CostShare, cost_share
from tidefleet.economics.tasks import TokenRates

MILLION = 1e6
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class ChipCost:
    """What an hour of a chip costs.

    Attributes:
        usd_per_chip_hour: rent, or capital and upkeep of an owned chip.
        usd_per_kilowatt_hour: electricity that is paid beside it; 0 = it is in the rent.
        pue: facility power over IT power, at least 1.
        storage_usd_per_hour: KV tiers of one replica.
    """

    usd_per_chip_hour: float
    usd_per_kilowatt_hour: float = 0.0
    pue: float = 1.0
    storage_usd_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenCost:
    """USD per million tokens by direction, for a replica that is loaded to ``utilisation``.

    The three directions are allocations of one bill by the time each took: multiplied by their token rates they sum to
    ``usd_per_hour``. ``blended`` divides the bill by all tokens (uncached and cached input, and output). Where no input
    is cached, ``cached_input`` is what a cached token would add. A direction that a role does not handle costs
    ``None``: a prefill replica has no output, a decode replica no input.
    """

    usd_per_hour: float
    utilisation: float
    input: float | None
    cached_input: float | None
    output: float | None
    blended: float
    share: CostShare

    @property
    def rates(self) -> TokenRates:
        """USD per token by direction; a direction without a price is 0 here, since none of its tokens exist."""
        return TokenRates(
            (self.input or 0.0) / MILLION, (self.cached_input or 0.0) / MILLION, (self.output or 0.0) / MILLION
        )


def token_cost(estimate: Estimate, chip: ChipCost, *, utilisation: float = 1.0) -> TokenCost:
    """What tokens cost on a replica, idle time included.

    Args:
        estimate: the replica's operating point.
        chip: what one of its chips costs.
        utilisation: mean load / provisioned capacity, in (0, 1].

    Raises:
        ValueError: utilisation is not in (0, 1].
    """
    if not 0.0 < utilisation <= 1.0:
        raise ValueError(f"utilisation is {utilisation}; expected a share above 0 and at most 1, e.g. 0.85")
    shape, replica = estimate.shape, estimate.replica
    rent = chip.usd_per_chip_hour * replica.chips
    power = power_usd_per_hour(estimate, chip, utilisation)
    usd_per_hour = rent + power + chip.storage_usd_per_hour
    requests_per_hour = estimate.requests_per_second * HOUR * utilisation
    prefill_usd = usd_per_hour * estimate.prefill_share
    cached_usd = prefill_usd * estimate.cached_share_of_prefill
    uncached, cached = uncached_tokens(estimate), shape.input_mean - uncached_tokens(estimate)
    output = max(1.0, shape.output_mean)

    def per_million(usd: float, tokens_per_request: float) -> float:
        tokens = tokens_per_request * requests_per_hour
        return usd / tokens * MILLION if tokens > 0 else 0.0

    # With nothing uncached the prefill (reading weights, attending the cache) is owed to the cached tokens alone.
    uncached_usd = prefill_usd - cached_usd if uncached > 0 else 0.0
    prefills, decodes = estimate.role != "Decode", estimate.role != "Prefill"
    handled = (shape.input_mean if prefills else 0.0) + (output if decodes else 0.0)
    return TokenCost(
        usd_per_hour=usd_per_hour,
        utilisation=utilisation,
        input=per_million(uncached_usd, uncached) if prefills else None,
        cached_input=_cached_input(estimate, usd_per_hour, utilisation, per_million(prefill_usd - uncached_usd, cached))
        if prefills
        else None,
        output=per_million(usd_per_hour - prefill_usd, output) if decodes else None,
        blended=per_million(usd_per_hour, handled),
        share=cost_share(
            rent_usd=rent,
            utilisation=utilisation,
            compute_seconds=estimate.compute_share,
            memory_seconds=estimate.memory_share,
            communication_seconds=estimate.network_share,
            power_usd=power,
            storage_usd=chip.storage_usd_per_hour,
        ),
    )


def _cached_input(estimate: Estimate, usd_per_hour: float, utilisation: float, average: float) -> float:
    """USD per million cached tokens: their share of the bill, or where there are none, what one more would add.

    Such a token is read and attended by the prompt's uncached tokens: (T_p(S, c) - T_p(S, 0))/c of one rank's time.
    """
    if uncached_tokens(estimate) < estimate.shape.input_mean or estimate.prefill_seconds <= 0:
        return average
    replica, tokens = estimate.replica, estimate.shape.input_mean
    alone, behind = (float(prefill(replica, tokens, c).seconds[0]) for c in (0.0, tokens))
    seconds = max(0.0, behind - alone) * estimate.prefill_seconds / alone / tokens
    return usd_per_hour / HOUR / replica.data_parallel / utilisation * seconds * MILLION


def uncached_tokens(estimate: Estimate) -> float:
    """Mean prompt tokens that are prefilled: neither in the device's cache nor fetched from a tier."""
    return max(0.0, estimate.shape.input_mean * (1.0 - estimate.shape.cached_share - estimate.fetched_share))


def power_usd_per_hour(estimate: Estimate, chip: ChipCost, utilisation: float) -> float:
    """Electricity of a replica that is paid beside the rent: watts at work and idle, times PUE and tariff.

    0 when it is in the rent, or when the accelerator's power is unknown.
    """
    if not chip.usd_per_kilowatt_hour or estimate.watts_per_chip is None:
        return 0.0
    idle = estimate.replica.accelerator.idle_watts or 0.0
    watts = utilisation * estimate.watts_per_chip + (1.0 - utilisation) * idle
    return watts / 1000.0 * estimate.replica.chips * chip.pue * chip.usd_per_kilowatt_hour


@dataclass(frozen=True, slots=True)
class PairCost:
    """What tokens cost where prefill and decode have replicas of their own; both bills sum to ``usd_per_request``."""

    prefill: TokenCost
    decode: TokenCost
    usd_per_request: float
    blended: float


def pair_cost(both: Disaggregated, prefill: ChipCost, decode: ChipCost, *, utilisation: float = 1.0) -> PairCost:
    """What tokens cost on a disaggregated pair: input is owed to the prefill replica, output to the decode replica.

    Raises:
        ValueError: utilisation is not in (0, 1].
    """
    into = token_cost(both.prefill, prefill, utilisation=utilisation)
    out = token_cost(both.decode, decode, utilisation=utilisation)
    shape = both.prefill.shape
    per_request = sum(
        money.usd_per_hour / (one.requests_per_second * HOUR * utilisation)
        for money, one in ((into, both.prefill), (out, both.decode))
    )
    tokens = shape.input_mean + max(1.0, shape.output_mean)
    return PairCost(into, out, per_request, per_request / tokens * MILLION)
