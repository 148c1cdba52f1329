"""Disaggregated serving: one pool of replicas prefills, another decodes, and the KV cache travels between them.

Prefill replicas give 1/T_p requests a second each, decode replicas B/(O * T_d). The time to first token adds the
transfer, kappa * I / beta_kv, and the first decode step. How many decode replicas stand behind one prefill replica
follows from the two rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tidefleet.economics.evidence import Correction
from tidefleet.economics.memory import kv_bytes
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import CannotServe, Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape

_AFTER_FIRST = ("FirstVisibleToken", "Turn", "Task")


@dataclass(frozen=True, slots=True)
class Disaggregated:
    """A prefill replica and a decode replica that serve one class together.

    Attributes:
        transfer_seconds: sending one prompt's KV cache to the decode replica.
        ttft_seconds: prefill, its queue, the transfer and the first decode step.
        prefill_per_decode: prefill replicas for one decode replica, so that both are equally loaded.
    """

    prefill: Estimate
    decode: Estimate
    transfer_seconds: float
    ttft_seconds: float

    @property
    def prefill_per_decode(self) -> float:
        """Prefill replicas for one decode replica."""
        return self.decode.requests_per_second / self.prefill.requests_per_second


def transfer_seconds(sender: Replica, receiver: Replica, input_tokens: float) -> float | None:
    """Seconds to send the KV cache of a prompt, ``None`` when a link's bandwidth is unknown.

    Every chip of a rank sends its share over its own network link; the slower side sets the pace.
    """
    rates = [
        one.tp * (one.accelerator.scale_out_bytes_per_second or one.accelerator.scale_up_bytes_per_second)
        for one in (sender, receiver)
    ]
    if not all(rates):
        return None
    return kv_bytes(sender.model, sender.kv, 1, input_tokens) / min(rates)


def pair(
    sender: Replica,
    receiver: Replica,
    shape: TokenShape,
    objectives: Sequence[Objective] = (),
    *,
    prefill_correction: Correction | None = None,
    decode_correction: Correction | None = None,
) -> Disaggregated | CannotServe:
    """The operating points of a prefill and a decode replica that meet every objective together.

    Objectives on the first token are held by the prefill replica, less transfer and first step. Objectives that go on
    to later tokens leave the decode replica what remains once the first token has come.
    """
    sending = transfer_seconds(sender, receiver, shape.input_mean)
    if sending is None:
        return CannotServe("Unprofiled", f"no network bandwidth is known for {sender.accelerator.name}")
    lone = estimate(receiver, shape, role="Decode", correction=decode_correction, batch=1.0)
    if isinstance(lone, CannotServe):
        return lone
    before = sending + lone.decode_seconds
    first = [replace(one, seconds=one.seconds - before) for one in objectives if one.metric == "TTFT"]
    later = [one for one in objectives if one.metric in _AFTER_FIRST]
    if later and not first:  # half of what is left after a lone decode may go by until the first token
        for one in later:
            tokens = _tokens_after(one, shape)
            calls = shape.calls_per_task if one.metric == "Task" else 1.0
            limit = one.limit(shape.input_at(one.percentile)) / max(1.0, calls)
            first.append(Objective("TTFT", 0.5 * (limit - tokens * lone.tpot_seconds) - before, one.percentile))
    prompt = estimate(sender, shape, first, role="Prefill", correction=prefill_correction)
    if isinstance(prompt, CannotServe):
        return prompt
    ttft = prompt.ttft_seconds + before
    tokens_held = [one for one in objectives if one.metric in ("TPOT", "Stall")]
    for one in later:
        calls = max(1.0, shape.calls_per_task) if one.metric == "Task" else 1.0
        left = one.limit(shape.input_at(one.percentile)) / calls - ttft
        tokens_held.append(Objective("TPOT", left / max(1.0, _tokens_after(one, shape)), one.percentile))
    decode = estimate(receiver, shape, tokens_held, role="Decode", correction=decode_correction)
    if isinstance(decode, CannotServe):
        return decode
    return Disaggregated(prompt, decode, sending, prompt.ttft_seconds + sending + decode.decode_seconds)


def _tokens_after(objective: Objective, shape: TokenShape) -> float:
    if objective.metric == "FirstVisibleToken":
        return shape.reasoning_at(objective.percentile)
    return shape.output_at(objective.percentile)
