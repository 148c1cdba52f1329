"""What a pool's replicas are: model and accelerator of the catalogue, and the speeds, room and price that follow."""

from __future__ import annotations

from dataclasses import dataclass

from tidefleet.catalogue import accelerator_types, models
from tidefleet.economics.memory import kv_bytes_per_token, replica_memory
from tidefleet.economics.replica import Replica as Copy
from tidefleet.routing.rates import Rates, rates_of
from tidefleet.simulator.catalogued import price_of, replica_of
from tidefleet.simulator.engine.blocks import TIER_NUMBERS
from tidefleet.simulator.engine.timing import Roofline, Timing
from tidefleet.simulator.scenario import Pool

SCALE_OUT_SHARE = 0.8
"""Of a link's bandwidth that KV on its way from a prefill replica to a decode replica reaches; a choice."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Of each replica of a pool.

    Attributes:
        copy: as ``economics`` prices it.
        rates: as the router expects it to be.
        kv_tokens: that its device holds.
        usd_per_second: of all its chips; 0 = no price is known.
        prefill_factor, step_factor: an engine's measured times over modelled ones; ``rates`` has them too.
    """

    copy: Copy
    rates: Rates
    kv_tokens: float
    usd_per_second: float
    prefill_factor: float = 1.0
    step_factor: float = 1.0

    def timing(self) -> Timing:
        """Speeds of its engines: the cost model's own."""
        return Roofline(self.copy, self.rates, prefill_factor=self.prefill_factor, step_factor=self.step_factor)


def facts_of(pool: Pool) -> Facts:
    """What the catalogue and ``economics`` say of a pool.

    Raises:
        ValueError: the catalogue has no such model or accelerator, or the weights leave no room.
    """
    if pool.model not in models():
        raise ValueError(
            f"pool {pool.name}: model is {pool.model!r}; expected one of the catalogue, e.g. llama-3.3-70b"
        )
    if pool.accelerator not in accelerator_types():
        known = ", ".join(sorted(accelerator_types()))
        raise ValueError(f"pool {pool.name}: accelerator is {pool.accelerator!r}; expected one of {known}")
    copy = replica_of(pool)
    kv_tokens = pool.kv_tokens
    if kv_tokens is None:
        fit = replica_memory(copy)
        kv_tokens = fit.kv_room * copy.chips / kv_bytes_per_token(copy.model, copy.kv, copy.tp)
        if kv_tokens <= 0.0:
            raise ValueError(
                f"pool {pool.name}: the weights of {pool.model} leave no KV room on {pool.chips_per_replica} chips of "
                f"{pool.accelerator}; expected more chips per replica, e.g. {2 * pool.chips_per_replica}"
            )
    bandwidth, latency = [0.0, 0.0, 0.0], [0.001, 0.005, 0.005]
    for tier in pool.tiers:
        bandwidth[TIER_NUMBERS[tier.medium] - 1] = tier.bytes_per_second
        latency[TIER_NUMBERS[tier.medium] - 1] = tier.latency_seconds
    rates = rates_of(
        copy,
        tier_bytes_per_second=(bandwidth[0], bandwidth[1], bandwidth[2]),
        tier_latency_seconds=(latency[0], latency[1], latency[2]),
        transfer_bytes_per_second=SCALE_OUT_SHARE * copy.accelerator.scale_out_bytes_per_second * copy.chips,
    )
    return Facts(copy, rates, kv_tokens, (price_of(pool) or 0.0) * copy.chips / 3600.0)
