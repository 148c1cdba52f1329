"""Power of an accelerator at work, the joules of a token, and what cache hits and facility add or save.

The power of a chip follows from the share of its HBM bandwidth and of its arithmetic in use. More of either brings it
closer to the TDP, which it never passes:

    P = TDP * (1 - exp(-(a * m * U_mem + b * (c * U_exec)^0.6))), held within [idle, TDP]

U_exec counts FLOP executed, not those needed: a matrix unit works on tiles of 16 rows, so a batch of 8, or an expert
that got 3 tokens, costs a whole tile. Grouped kernels for block-scaled FP8 pad each expert's rows to the block (128):
such models run near the TDP at a batch of 8. m and c are the chip's bandwidth and 16-bit peak per watt of TDP relative
to an H100's, 1 at least: a B200 does 1.6 times as much per watt on nearly the same process, so the same share of its
peaks takes more of its TDP. Chips that do less per watt than an H100, on older processes, are taken to be like it.

a, b and the term of attention ranks are fitted on 460 measured vLLM runs of 17 architectures on H100 and B200
(ML.ENERGY leaderboard at 0cd52da: mean power of all GPUs). ``benchmarks/economics_energy.py --fit`` prints them;
without --fit it measures the law on architectures left out of the fit: 8.8 % mean error of joules per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill

MEMORY_COEFFICIENT = 0.794
"""a, of the share of HBM bandwidth in use."""

COMPUTE_COEFFICIENT = 4.717
"""b, of the share of peak FLOP/s that is executed, to the power of 0.6."""

LOCKSTEP = 1.909
"""Added to the exponent when a replica has several attention ranks: a rank without work polls for the others. Measured
on one model only (16 runs of Qwen3-Coder-480B, 0.81-0.96 of TDP at any batch)."""

_COMPUTE_EXPONENT = 0.6
_REFERENCE_BANDWIDTH = 3.35e12 / 700.0  # bytes/s per watt of an H100 SXM
_REFERENCE_FLOPS = 989e12 / 700.0  # 16-bit FLOP/s per watt of it
TRAINING_USE = (4096.0, 0.5, 0.45)
"""(tokens that go through the layers together, share of HBM bandwidth, share of peak FLOP/s) of a chip that trains:
assumptions; they keep a chip near its TDP."""

TILE = 16
"""Rows of a matrix unit's smallest tile (``mma.m16n8k16``)."""


def executed_flops(model: Architecture, weights: str, tokens: float, ranks: int = 1) -> float:
    """FLOP of the linear layers that a step over this many tokens executes, tiles filled up with nothing included.

    Dense layers round the tokens of each attention rank up to one tile. Each expert that any token chose computes its
    own rows plus half a tile, and one tile at least.

    Args:
        tokens: tokens that go through the layers together: the batch in decode, the chunk in prefill.
        ranks: attention ranks that they divide among.
    """
    dense = model.active_parameters
    experts = 0.0
    if model.is_moe:
        one = model.expert_parameters / model.experts  # over all layers
        dense -= one * model.experts_per_token
        tile = max(TILE, model.fp8_block) if weights == "Fp8" else TILE
        chosen = model.experts * (1.0 - (1.0 - model.experts_per_token / model.experts) ** tokens)
        rows = tokens * model.experts_per_token / max(chosen, 1e-9)
        experts = one * chosen * max(rows + tile / 2.0, float(tile))
    return 2.0 * (dense * max(tokens, float(TILE * ranks)) + experts)


def needed_flops(model: Architecture, tokens: float) -> float:
    """FLOP of the linear layers that this many tokens need, 2 * P_act each."""
    return 2.0 * model.active_parameters * tokens


def power_terms(accelerator: Accelerator, memory_use: float, executed_use: float) -> tuple[float, float]:
    """The two terms of the exponent before their coefficients: m * U_mem and (c * U_exec)^0.6.

    Args:
        accelerator: a chip whose TDP and 16-bit peak are known.
        memory_use: share of peak HBM bandwidth in use; executed_use: share of peak FLOP/s executed. Held within 0..1.
    """
    tdp = accelerator.tdp_watts or math.inf
    m = max(1.0, accelerator.memory_bytes_per_second / tdp / _REFERENCE_BANDWIDTH)
    c = max(1.0, accelerator.flops["Bf16"] / tdp / _REFERENCE_FLOPS)
    return m * min(1.0, max(0.0, memory_use)), (c * min(1.0, max(0.0, executed_use))) ** _COMPUTE_EXPONENT


def _watts(accelerator: Accelerator, memory_use: float, executed_use: float, more: float = 0.0) -> float | None:
    tdp = accelerator.tdp_watts
    if not tdp or "Bf16" not in accelerator.flops:
        return None
    memory, compute = power_terms(accelerator, memory_use, executed_use)
    share = -math.expm1(-MEMORY_COEFFICIENT * memory - COMPUTE_COEFFICIENT * compute - more)
    return min(tdp, max(accelerator.idle_watts or 0.0, tdp * share))


def chip_watts(accelerator: Accelerator, *, batch: float, memory_use: float, compute_use: float) -> float | None:
    """Mean power of one chip while it serves an unnamed dense model; ``None`` when TDP or 16-bit peak is unknown.

    ``replica_watts`` knows the model and is the better one where there is a replica.

    Args:
        batch: tokens that go through the layers together; below a tile of 16 the rest of the tile is executed too.
        memory_use: share of peak HBM bandwidth in use, 0..1.
        compute_use: share of peak FLOP/s in use, 0..1.
    """
    return _watts(accelerator, memory_use, compute_use * max(batch, float(TILE)) / max(1.0, batch))


def training_watts(accelerator: Accelerator) -> float | None:
    """Mean power of one chip that trains: its TDP where its 16-bit peak is unknown, ``None`` when the TDP is too."""
    batch, memory, compute = TRAINING_USE
    found = chip_watts(accelerator, batch=batch, memory_use=memory, compute_use=compute)
    return accelerator.tdp_watts if found is None else found


def replica_watts(
    replica: Replica,
    *,
    tokens: float,
    steps_per_second: float,
    bytes_per_second: float,
    flops_per_second: float,
) -> float | None:
    """Mean power of one chip of a replica at work; ``None`` when its TDP or a peak is unknown.

    Args:
        tokens: tokens that go through the layers in one step: the batch in decode, all tokens of a prefill.
        steps_per_second: such steps a second.
        bytes_per_second: HBM bytes the whole replica moves a second, prefill included.
        flops_per_second: FLOP the whole replica needs a second, prefill included; padding is added here.
    """
    found = replica_use(
        replica,
        tokens=tokens,
        steps_per_second=steps_per_second,
        bytes_per_second=bytes_per_second,
        flops_per_second=flops_per_second,
    )
    return None if found is None else _watts(replica.accelerator, *found, LOCKSTEP if replica.data_parallel > 1 else 0)


def replica_use(
    replica: Replica,
    *,
    tokens: float,
    steps_per_second: float,
    bytes_per_second: float,
    flops_per_second: float,
) -> tuple[float, float] | None:
    """Shares of peak HBM bandwidth and of peak FLOP/s, the latter as executed; ``None`` when a peak is unknown.

    The arguments are those of ``replica_watts``.
    """
    accelerator = replica.accelerator
    precision = replica.compute or accelerator.compute_precision(replica.weights)
    if precision is None or precision not in accelerator.flops:
        return None
    needed = needed_flops(replica.model, tokens)
    executed = executed_flops(replica.model, replica.weights, tokens, replica.data_parallel)
    in_vain = max(0.0, executed - needed) * steps_per_second
    peak = replica.chips * accelerator.flops[precision]
    return bytes_per_second / replica.memory_bytes_per_second, (flops_per_second + in_vain) / peak


def prefill_joules(replica: Replica, uncached: float, cached: float = 0.0) -> float | None:
    """Joules of all chips to prefill prompt tokens behind cached ones; ``None`` when TDP or a peak is unknown."""
    if uncached <= 0:
        return 0.0
    ranks = replica.data_parallel  # each prefills a request of its own in this time
    one = prefill(replica, uncached, cached)
    seconds = float(one.seconds[0])
    if not math.isfinite(seconds) or seconds <= 0:
        return None
    watts = replica_watts(
        replica,
        tokens=ranks * uncached,
        steps_per_second=1.0 / seconds,
        bytes_per_second=ranks * float(one.bytes_moved[0]) / seconds,
        flops_per_second=ranks * float(one.flops[0]) / seconds,
    )
    return None if watts is None else watts * replica.chips * seconds / ranks


@dataclass(frozen=True, slots=True)
class Chore:
    """HBM bytes that something moves, and FLOP that it needs, on all chips of a replica."""

    bytes_moved: float
    flops: float


def step_of(replica: Replica, batch: float, context: float) -> Chore:
    """One decode step of so many sequences that attend to so many tokens each, on average."""
    one = decode_step(replica, max(1.0, batch), max(1.0, context))
    return Chore(float(one.bytes_moved[0]), float(one.flops[0]))


def prompt_of(replica: Replica, uncached: float, cached: float) -> Chore:
    """Prefill of one prompt; nothing where all of it is cached."""
    if uncached <= 0.0:
        return Chore(0.0, 0.0)
    one = prefill(replica, uncached, cached)
    return Chore(float(one.bytes_moved[0]), float(one.flops[0]))


def worked_watts(
    replica: Replica,
    *,
    busy: float,
    batch: float,
    steps: tuple[float, Chore],
    prompts: tuple[float, Chore],
) -> float | None:
    """Mean power of one chip of a replica, from what it did; ``None`` when TDP or a peak is unknown.

    While it is idle it draws ``idle_watts``, and nothing where that is not known.

    Args:
        busy: share of the time in which it had a request running, 0..1.
        batch: sequences decoded together meanwhile.
        steps: decode steps per second of the whole time, and what one is; prompts: prefilled ones likewise.
    """
    idle, busy = replica.accelerator.idle_watts or 0.0, min(1.0, max(0.0, busy))
    per_busy_second = 1.0 / busy if busy > 0.0 else 0.0
    (steps_per_second, step), (prompts_per_second, prompt) = steps, prompts
    at_work = replica_watts(
        replica,
        tokens=max(1.0, batch),
        steps_per_second=steps_per_second * per_busy_second,
        bytes_per_second=(steps_per_second * step.bytes_moved + prompts_per_second * prompt.bytes_moved)
        * per_busy_second,
        flops_per_second=(steps_per_second * step.flops + prompts_per_second * prompt.flops) * per_busy_second,
    )
    return None if at_work is None else at_work * busy + idle * (1.0 - busy)


def avoided_joules(
    replica: Replica, *, hit: float, uncached: float, fetch_seconds: float = 0.0, fetch_watts: float = 0.0
) -> float | None:
    """Joules that a cache hit saves: prefill of the hit tokens, less what fetching their KV takes.

    Negative when the fetch costs more than the prefill would have. ``None`` when TDP or a peak is unknown.

    Args:
        hit: prompt tokens found in a cache; uncached: prompt tokens behind them, prefilled either way.
        fetch_seconds: time the fetch takes (0 for a hit in HBM).
        fetch_watts: power that the storage, host and network draw on top for its sake.
    """
    without, with_hit = prefill_joules(replica, hit + uncached), prefill_joules(replica, uncached, hit)
    if without is None or with_hit is None:
        return None
    return without - with_hit - fetch_seconds * fetch_watts


def joules_per_token(watts_per_chip: float, chips: int, tokens_per_second: float) -> float:
    """Joules that a token takes; infinite when none is made."""
    return watts_per_chip * chips / tokens_per_second if tokens_per_second > 0 else math.inf


def tokens_per_joule(watts_per_chip: float, chips: int, tokens_per_second: float) -> float:
    """Tokens for each joule; 0 when no power is drawn and none is made."""
    watts = watts_per_chip * chips
    return tokens_per_second / watts if watts > 0 else 0.0


def facility_watts(accelerator: Accelerator, watts_per_chip: float, *, pue: float = 1.0) -> float:
    """Power that the building draws for one chip at work.

    Where the all-in power of a chip at its TDP is known (with its share of host, network and cooling), what the chip
    draws less than its TDP is saved with its cooling: all-in - (TDP - P) * PUE. Otherwise P * PUE.

    Raises:
        ValueError: pue is below 1 or not finite.
    """
    if not 1.0 <= pue < math.inf:
        raise ValueError(f"pue is {pue}; expected at least 1, e.g. 1.2")
    if accelerator.facility_watts is None or accelerator.tdp_watts is None:
        return watts_per_chip * pue
    return max(watts_per_chip * pue, accelerator.facility_watts - (accelerator.tdp_watts - watts_per_chip) * pue)
