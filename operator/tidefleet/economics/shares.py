"""Where each dollar of an hour goes: compute, memory bandwidth, network, storage, power, or nothing at all."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tidefleet.economics.lognormal import checked


@dataclass(frozen=True, slots=True)
class CostShare:
    """Shares of a bill; they sum to 1.

    Attributes:
        compute: time in which arithmetic set the pace, fixed overheads of steps included.
        hbm: time in which reading memory set the pace.
        network: time spent on communication between chips, and what the network costs beside rent.
        storage: KV tiers and disks.
        power: electricity that is not in the rent.
        idle: paid for and not needed.
    """

    compute: float
    hbm: float
    network: float
    storage: float
    power: float
    idle: float

    def as_dict(self) -> dict[str, float]:
        """The shares by name."""
        return asdict(self)


def cost_share(
    *,
    rent_usd: float,
    utilisation: float,
    compute_seconds: float,
    memory_seconds: float,
    communication_seconds: float = 0.0,
    overhead_seconds: float = 0.0,
    power_usd: float = 0.0,
    storage_usd: float = 0.0,
    network_usd: float = 0.0,
) -> CostShare:
    """The bill of an hour (or any other span) by component.

    The rent of the time that is not needed is idle; the rest goes by the seconds in which each part set the pace. Give
    for each phase its seconds to the resource that bound it (a decode step bound by memory: all of it to memory), or
    the roofline's own parts; only their ratio counts.

    Args:
        rent_usd: rent, or capital and upkeep of owned chips, for the span.
        utilisation: needed time over paid time, in (0, 1].
        compute_seconds, memory_seconds, communication_seconds, overhead_seconds: where the needed time went.
        power_usd, storage_usd, network_usd: what is paid beside the rent, in the same span.

    Raises:
        ValueError: an amount is negative or not finite, the bill is 0, or nothing says where needed time went.
    """
    rent = checked("rent_usd", rent_usd, example="5.50")
    used = checked("utilisation", utilisation, least=1e-12, most=1.0, example="0.85")
    compute = checked("compute_seconds", compute_seconds, example="0.4")
    memory = checked("memory_seconds", memory_seconds, example="0.6")
    communication = checked("communication_seconds", communication_seconds, example="0.1")
    overhead = checked("overhead_seconds", overhead_seconds, example="0.05")
    power = checked("power_usd", power_usd, example="0.12")
    storage = checked("storage_usd", storage_usd, example="0.01")
    network = checked("network_usd", network_usd, example="0.02")
    bill = rent + power + storage + network
    if bill <= 0.0:
        raise ValueError("the bill is 0; expected a rent above 0, e.g. rent_usd=5.50")
    busy = compute + memory + communication + overhead
    if busy <= 0.0 and rent > 0.0:
        raise ValueError("all seconds are 0; expected where the needed time went, e.g. memory_seconds=1")
    per_second = rent * used / busy if busy > 0.0 else 0.0
    parts = CostShare(
        compute=(compute + overhead) * per_second / bill,
        hbm=memory * per_second / bill,
        network=(communication * per_second + network) / bill,
        storage=storage / bill,
        power=power / bill,
        idle=rent * (1.0 - used) / bill,
    )
    return parts
