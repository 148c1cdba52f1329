"""Accelerators as the cost model sees them, and the precisions they compute in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BYTES_PER_VALUE: Mapping[str, float] = {"Bf16": 2.0, "Fp8": 1.0, "Fp4": 0.53125}
"""Bytes of storage per weight or KV value. Fp4 counts 4 bits and one 8-bit scale per 32 values (OCP MX formats)."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One accelerator type.

    Attributes:
        name: catalogue name, e.g. ``h100-sxm``.
        memory_bytes: device memory as the device reports it.
        memory_bytes_per_second: HBM bandwidth W.
        flops: dense peak FLOP/s by precision (``Bf16``, ``Fp8``, ``Fp4``); a missing key is unknown or unsupported.
        tdp_watts: thermal design power of one chip; ``None`` = unknown.
        idle_watts: measured idle power; ``None`` = unknown.
        facility_watts: all-in power of one chip with its share of host and network; ``None`` = unknown.
        scale_up_bytes_per_second: link bandwidth inside the scale-up domain, one way; 0 = none.
        scale_up_domain: chips in that domain.
        scale_out_bytes_per_second: network bandwidth per chip, one way; 0 = unknown.
        chips_per_node: chips on one node; 0 = unknown.
    """

    name: str
    memory_bytes: float
    memory_bytes_per_second: float
    flops: Mapping[str, float] = field(default_factory=dict, hash=False)
    tdp_watts: float | None = None
    idle_watts: float | None = None
    facility_watts: float | None = None
    scale_up_bytes_per_second: float = 0.0
    scale_up_domain: int = 1
    scale_out_bytes_per_second: float = 0.0
    chips_per_node: int = 0

    def compute_precision(self, weights: str) -> str | None:
        """The precision in which a layer with these stored weights is computed, ``None`` when its peak is unknown.

        Weights stored narrower than anything the chip computes are expanded to 16 bits first, so storage saves memory
        traffic and not arithmetic (gpt-oss on Hopper).
        """
        if weights in self.flops:
            return weights
        return "Bf16" if "Bf16" in self.flops else None

    def link_bytes_per_second(self, chips: int) -> float:
        """Bandwidth of the slowest link inside a group of this many chips; 0 when none is known."""
        if chips <= max(1, self.scale_up_domain) and self.scale_up_bytes_per_second:
            return self.scale_up_bytes_per_second
        return self.scale_out_bytes_per_second
