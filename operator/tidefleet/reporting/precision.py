"""What 8-bit weights would save a model on a type of accelerator, by the cost model and the catalogue."""

from __future__ import annotations

from tidefleet.catalogue import accelerator_types, model_of, models
from tidefleet.economics.contest import widths
from tidefleet.economics.levers import levers
from tidefleet.economics.money import ChipCost
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import CannotServe, estimate
from tidefleet.economics.shape import TokenShape
from tidefleet.planning.from_api import accelerator_of
from tidefleet.reporting.values import Figures

_LEVER = "weights fp8"


def fp8_step(model: str, accelerator: str, figures: Figures) -> float | None:
    """Cost per token with 8-bit weights over that with 16-bit ones, at the lengths that the requests had.

    ``None``: model or type is not in the catalogue, the model is published in fewer bits, the chip does not compute in
    8, or it cannot serve. Of a replica as narrow as the weights allow, without objectives.
    """
    architecture = models().get(model) or model_of(model)
    shipped = accelerator_types().get(accelerator)
    kind = None if shipped is None else accelerator_of(shipped)
    if architecture is None or kind is None or architecture.native_weights != "Bf16" or "Fp8" not in kind.flops:
        return None
    answered = max(1, figures.requests - figures.refused_requests)
    shape = TokenShape(
        input_mean=max(1.0, figures.prompt_tokens / answered),
        output_mean=max(1.0, figures.output_tokens / answered),
        cached_share=min(0.99, figures.cached_tokens / max(1, figures.prompt_tokens)),
    )
    for chips in widths(kind):
        replica = Replica(architecture, kind, chips, "Bf16", "Bf16")
        if not isinstance(estimate(replica, shape), CannotServe):
            stack = levers(replica, shape, (), ChipCost(1.0))
            return next((one.step for one in stack if one.name == _LEVER and one.usd_per_million_tokens), None)
    return None
