"""Power of an accelerator at work and the joules of a token."""

from __future__ import annotations

import math

from tidefleet.economics.accelerator import Accelerator


def chip_watts(accelerator: Accelerator, *, batch: float, memory_use: float, compute_use: float) -> float | None:
    """Mean power of one chip while it serves; ``None`` when its TDP is unknown.

    P = TDP * (.538 + .017 log2 B + .153 U_mem + 1.16 U_flop), clamped to [idle, TDP]: an affine fit on 515 measured
    vLLM runs on H100 and B200 (ML.ENERGY leaderboard), 14.5 % mean error on runs left out; taking TDP is 46 % off.

    Args:
        batch: sequences decoded together.
        memory_use: share of peak HBM bandwidth in use, 0..1.
        compute_use: share of peak FLOP/s in use, 0..1.
    """
    if accelerator.tdp_watts is None:
        return None
    tdp = accelerator.tdp_watts
    share = 0.538 + 0.017 * math.log2(max(1.0, batch)) + 0.153 * memory_use + 1.16 * compute_use
    return min(tdp, max(accelerator.idle_watts or 0.0, tdp * share))
