"""What software changes do to the cost on the same accelerator, one on top of the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tidefleet.economics.evidence import UNCORRECTED, Correction
from tidefleet.economics.money import ChipCost, token_cost
from tidefleet.economics.replica import Replica, Speculation
from tidefleet.economics.serving import CannotServe, Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape

ASSUMED_SPECULATION = Speculation(tokens=4, accept_length=2.0)
"""Where no acceptance was measured: three drafted tokens, one kept on average. An assumption, told as such."""

ASSUMED_REUSE = 0.5
"""Share of prompt tokens found in the cache where none was measured. An assumption, told as such."""


@dataclass(frozen=True, slots=True)
class Lever:
    """One step of the stack.

    Attributes:
        name: what changes, e.g. ``weights fp8``.
        usd_per_million_tokens: with this and all levers above it; ``None`` when it cannot serve.
        step: cost relative to the line above; total: relative to the first line. 1 when nothing changes.
        note: what stands behind it: a figure given, an assumption, or why it cannot be used.
    """

    name: str
    usd_per_million_tokens: float | None
    step: float
    total: float
    note: str = ""


def levers(
    replica: Replica,
    shape: TokenShape,
    objectives: Sequence[Objective],
    chip: ChipCost,
    *,
    utilisation: float = 1.0,
    upgraded: Correction | None = None,
) -> tuple[Lever, ...]:
    """The stack from 16-bit weights up: weights, KV cache, speculation, engine version, prefix reuse.

    Levers that can change answers (precisions) need a quality score before a pool may use them.

    Args:
        replica: chips and model; its speculation and the shape's cached share are used where given, else assumed.
        upgraded: times measured on another engine version, when a profile of one exists.
    """
    spoken = replica.speculation or ASSUMED_SPECULATION
    guess = "" if replica.speculation else f"assumed: {spoken.accept_length:g} tokens accepted a step"
    reuse = shape.cached_share or ASSUMED_REUSE
    cold = replace(shape, cached_share=0.0)
    now, at, correction = replace(replica, weights="Bf16", kv="Bf16", speculation=None), cold, UNCORRECTED
    steps: list[tuple[str, Replica, TokenShape, Correction, str]] = [("bf16 weights and KV", now, at, correction, "")]
    for precision in ("Fp8", "Fp4"):
        computed = replica.accelerator.compute_precision(precision)
        note = "" if computed == precision else f"computed in {str(computed).lower()}: saves memory alone"
        now = replace(now, weights=precision)
        steps.append((f"weights {precision.lower()}", now, at, correction, note))
    now = replace(now, kv="Fp8")
    steps.append(("KV cache fp8", now, at, correction, ""))
    now = replace(now, speculation=spoken)
    steps.append(("speculative decoding", now, at, correction, guess))
    if upgraded is not None:
        correction = upgraded
    steps.append(
        (
            "engine version",
            now,
            at,
            correction,
            upgraded.source if upgraded else "no measured profile of another version",
        )
    )
    at = replace(cold, cached_share=reuse)
    steps.append(
        (
            "prefix reuse",
            now,
            at,
            correction,
            f"{reuse:.0%} of prompt tokens" + ("" if shape.cached_share else ", assumed"),
        )
    )

    result: list[Lever] = []
    first = last = None
    for name, one, asked, corrected, note in steps:
        found = estimate(one, asked, objectives, correction=corrected)
        if isinstance(found, CannotServe):
            result.append(Lever(name, None, 1.0, 1.0, found.detail))
            continue
        usd = _blended(found, chip, utilisation)
        first, last = first or usd, last or usd
        result.append(Lever(name, usd, usd / last, usd / first, note))
        last = usd
    return tuple(result)


def _blended(found: Estimate, chip: ChipCost, utilisation: float) -> float:
    return token_cost(found, chip, utilisation=utilisation).blended
