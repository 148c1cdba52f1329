"""Our bill beside OpenCost's: which models the two agree on, within what, and why they may not.

OpenCost (from 1.121) says what each model costs in USD per hour, by namespace, as ``llm_total_cost``. On its basis
``allocation`` that is what the model's pods hold, with their share of idle nodes and of shared pods such as gateways,
and sums to OpenCost's bill; ours is chips times price. It knows a model by the label ``llm-d.ai/model`` of its pods,
and gives pods without it no cost at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MODEL_LABEL = "llm-d.ai/model"
"""Label of pods by which OpenCost knows a model, as it is set up by default."""

TOLERANCE = 0.10
"""Share of our figure that OpenCost's may be off by: its idle share and its gateways are not in ours."""

_SOME_USD = 0.01

Key = tuple[str, str]
"""Namespace and model."""

Verdict = Literal["agrees", "differs", "not-joined", "only-ours", "only-theirs"]


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One model of a namespace in both bills, in USD per hour; ``None`` where a side does not know it.

    Attributes:
        verdict: ``agrees`` (within the tolerance), ``differs``, ``not-joined`` (OpenCost sees its tokens and no cost),
            ``only-ours``, ``only-theirs``.
        words: that in a sentence, with what to look at.
    """

    namespace: str
    model: str
    ours: float | None
    theirs: float | None
    verdict: Verdict
    words: str

    @property
    def ratio(self) -> float | None:
        """Theirs over ours; ``None`` unless both are known and ours is above 0."""
        if self.ours is None or self.theirs is None or self.ours <= 0.0:
            return None
        return self.theirs / self.ours


def reconcile(
    ours: Mapping[Key, float], theirs: Mapping[Key, float], *, tolerance: float = TOLERANCE
) -> tuple[Reconciled, ...]:
    """The two bills line by line, in order of namespace and model.

    A model's long name (``org/model``) and its short one are one model where only one of them is on each side, since
    OpenCost takes either from the engine's own name.

    Args:
        ours, theirs: USD per hour over the same time, by namespace and model.
        tolerance: share of our figure, 0..1.

    Raises:
        ValueError: a figure is negative or not finite, or the tolerance is no share.
    """
    if not 0.0 <= tolerance < 1.0:
        raise ValueError(f"reconcile: tolerance is {tolerance:g}; expected a share from 0 to below 1, e.g. 0.1")
    for side, figures in (("ours", ours), ("theirs", theirs)):
        for key, usd in figures.items():
            if not 0.0 <= usd < math.inf:
                raise ValueError(f"reconcile: {side}[{'/'.join(key)}] is {usd:g} USD per hour; expected e.g. 12.5")
    names = _same_names(ours, theirs)
    left = {names.get(key, key): usd for key, usd in theirs.items()}
    return tuple(_line(key, ours.get(key), left.get(key), tolerance) for key in sorted(ours.keys() | left.keys()))


def _same_names(ours: Mapping[Key, float], theirs: Mapping[Key, float]) -> Mapping[Key, Key]:
    """Keys of theirs that are ours under a longer or shorter name of the model."""
    found: dict[Key, Key] = {}
    for key in theirs.keys() - ours.keys():
        alike = [one for one in ours.keys() - theirs.keys() if _short(one) == _short(key)]
        rivals = [one for one in theirs.keys() - ours.keys() if _short(one) == _short(key)]
        if len(alike) == len(rivals) == 1:
            found[key] = alike[0]
    return found


def _short(key: Key) -> Key:
    return key[0], key[1].rsplit("/", 1)[-1].lower()


def _line(key: Key, ours: float | None, theirs: float | None, tolerance: float) -> Reconciled:
    namespace, model = key
    name = f"{model} in {namespace}"
    verdict: Verdict
    if ours is None:
        verdict, words = "only-theirs", f"OpenCost gives {name} {theirs or 0.0:.2f} USD/h; no pool of ours has it"
    elif theirs is None:
        verdict = "only-ours"
        words = f"{name} costs {ours:.2f} USD/h; OpenCost does not know it: set the label {MODEL_LABEL} on its pods"
    elif theirs < _SOME_USD <= ours:
        verdict = "not-joined"
        words = (
            f"{name} costs {ours:.2f} USD/h; OpenCost sees its tokens and no cost: the label {MODEL_LABEL} of its pods "
            f"has to be the model's name in the engine's metrics"
        )
    elif abs(theirs - ours) <= max(tolerance * ours, _SOME_USD):
        verdict, words = "agrees", f"{name} costs {ours:.2f} USD/h, {theirs:.2f} by OpenCost"
    else:
        verdict = "differs"
        words = (
            f"{name} costs {ours:.2f} USD/h, {theirs:.2f} by OpenCost, more than {tolerance:.0%} apart: "
            "compare its price of the nodes with ours"
        )
    return Reconciled(namespace, model, ours, theirs, verdict, words)
