"""What software changes do to the cost on the same accelerator, one on top of the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tidefleet.economics.evidence import Correction
from tidefleet.economics.memory import GPU_MEMORY_UTILISATION
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
        usd_per_million_tokens: with this and the levers in use above it; ``None`` when it cannot serve.
        step: cost relative to the line above; total: relative to the first line that serves. 1 when nothing changes.
        used: whether it stays for the lines below: a lever that makes tokens dearer does not, and changes nothing.
        note: what stands behind it: a figure given, an assumption, or why it is not used.
        provenance: where the speed of ``usd_per_million_tokens`` comes from.
    """

    name: str
    usd_per_million_tokens: float | None
    step: float
    total: float
    used: bool = True
    note: str = ""
    provenance: str = ""


def levers(
    replica: Replica,
    shape: TokenShape,
    objectives: Sequence[Objective],
    chip: ChipCost,
    *,
    role: str = "Aggregated",
    utilisation: float = 1.0,
    memory_utilisation: float = GPU_MEMORY_UTILISATION,
    upgraded: Correction | None = None,
    correction: Callable[[Replica], Correction | None] = lambda _replica: None,
) -> tuple[Lever, ...]:
    """The stack from 16-bit weights up: weights, KV cache, speculation, engine version, prefix reuse.

    Levers that can change answers (precisions) need a quality score before a pool may use them.

    Args:
        replica: chips and model; its speculation and the shape's cached share are used where given, else assumed.
        upgraded: times measured on another engine version, when a profile of one exists.
        correction: what is measured about each replica of the stack: each step rests on the surest model of itself.
    """
    spoken = replica.speculation or ASSUMED_SPECULATION
    guess = "" if replica.speculation else f"assumed: {spoken.accept_length:g} tokens accepted a step"
    reuse = shape.cached_share or ASSUMED_REUSE
    reused = f"{reuse:.0%} of prompt tokens" + ("" if shape.cached_share else ", assumed")

    def stored(precision: str) -> Step:
        computed = replica.accelerator.compute_precision(precision)
        note = "" if computed == precision else f"computed in {str(computed).lower()}: saves memory alone"
        return (
            f"weights {precision.lower()}",
            lambda at: replace(at, replica=replace(at.replica, weights=precision)),
            note,
        )

    steps: list[Step] = [
        ("bf16 weights and KV", lambda at: at, ""),
        stored("Fp8"),
        stored("Fp4"),
        ("KV cache fp8", lambda at: replace(at, replica=replace(at.replica, kv="Fp8")), ""),
        ("speculative decoding", lambda at: replace(at, replica=replace(at.replica, speculation=spoken)), guess),
        (
            "engine version",
            lambda at: replace(at, correction=upgraded or at.correction),
            upgraded.source if upgraded else "no measured profile of another version",
        ),
        ("prefix reuse", lambda at: replace(at, shape=replace(at.shape, cached_share=reuse)), reused),
    ]
    now = _At(replace(replica, weights="Bf16", kv="Bf16", speculation=None), replace(shape, cached_share=0.0), None)
    result: list[Lever] = []
    first = last = None
    source = ""
    for name, change, note in steps:
        tried = change(now)
        found = estimate(
            tried.replica,
            tried.shape,
            objectives,
            role=role,
            correction=tried.correction or correction(tried.replica),
            memory_utilisation=memory_utilisation,
        )
        if isinstance(found, CannotServe):
            if last is None:
                now = tried
            result.append(Lever(name, None, 1.0, 1.0, last is None, found.detail))
            continue
        usd = _blended(found, chip, utilisation)
        if last is not None and first is not None and usd > last:
            why = f"not used: {usd / last - 1:+.0%}" + (f"; {note}" if note else "")
            result.append(Lever(name, last, 1.0, last / first, False, why, source))
            continue
        first, last, now, source = first or usd, last or usd, tried, found.provenance
        result.append(Lever(name, usd, usd / last, usd / first, True, note, source))
        last = usd
    return tuple(result)


@dataclass(frozen=True, slots=True)
class _At:
    """Where the stack stands."""

    replica: Replica
    shape: TokenShape
    correction: Correction | None


Step: TypeAlias = "tuple[str, Callable[[_At], _At], str]"
"""A lever's name, what it changes, and a note."""


def _blended(found: Estimate, chip: ChipCost, utilisation: float) -> float:
    return token_cost(found, chip, utilisation=utilisation).blended
