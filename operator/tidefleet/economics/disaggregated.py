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
    to later tokens leave the decode replica what remains once the first token has come. The first step is that of the
    decode replica's batch; where so long a step leaves prefill no time, the step is held to a quarter of what is there.
    """
    sending = transfer_seconds(sender, receiver, shape.input_mean)
    if sending is None:
        return CannotServe("Unprofiled", f"no network bandwidth is known for {sender.accelerator.name}")
    lone = estimate(receiver, shape, role="Decode", correction=decode_correction, batch=1.0)
    if isinstance(lone, CannotServe):
        return lone
    ask = _Ask(sender, receiver, shape, tuple(objectives), prefill_correction, decode_correction, sending, lone)
    found = _with_step(ask, lone.decode_seconds)
    if isinstance(found, CannotServe) or not ask.first or found.decode.decode_seconds <= lone.decode_seconds:
        return found
    again = _with_step(ask, found.decode.decode_seconds)
    if isinstance(again, Disaggregated) and again.decode.decode_seconds <= found.decode.decode_seconds * (1.0 + 1e-9):
        return again
    least = min(one.limit(shape.input_at(one.percentile)) for one in ask.first)
    return _with_step(ask, max(lone.decode_seconds, 0.25 * (least - sending)), held=True)


@dataclass(frozen=True, slots=True)
class _Ask:
    """What a pair is asked for; ``lone`` is the decode replica with one sequence."""

    sender: Replica
    receiver: Replica
    shape: TokenShape
    objectives: tuple[Objective, ...]
    prefill_correction: Correction | None
    decode_correction: Correction | None
    sending: float
    lone: Estimate

    @property
    def later(self) -> list[Objective]:
        """Objectives that go on to later tokens."""
        return [one for one in self.objectives if one.metric in _AFTER_FIRST]

    @property
    def first(self) -> list[Objective]:
        """Objectives on the first token; of those on later ones, the half of what a lone decode leaves of them."""
        asked = [one for one in self.objectives if one.metric == "TTFT"]
        if asked:
            return asked
        for one in self.later:
            after = _tokens_after(one, self.shape) * self.lone.tpot_seconds
            asked.append(Objective("TTFT", 0.5 * (_limit(one, self.shape) - after), one.percentile))
        return asked


def _limit(objective: Objective, shape: TokenShape) -> float:
    """Seconds that one call may take."""
    calls = max(1.0, shape.calls_per_task) if objective.metric == "Task" else 1.0
    return objective.limit(shape.input_at(objective.percentile)) / calls


def _with_step(ask: _Ask, step: float, *, held: bool = False) -> Disaggregated | CannotServe:
    """The pair when the first decode step takes so many seconds, and with ``held`` none takes longer."""
    before = ask.sending + step
    first = [replace(one, seconds=one.seconds - before) for one in ask.first]
    prompt = estimate(ask.sender, ask.shape, first, role="Prefill", correction=ask.prefill_correction)
    if isinstance(prompt, CannotServe):
        return prompt
    tokens_held = [one for one in ask.objectives if one.metric in ("TPOT", "Stall")]
    for one in ask.later:
        left = _limit(one, ask.shape) - prompt.ttft_seconds - before
        tokens_held.append(Objective("TPOT", left / max(1.0, _tokens_after(one, ask.shape)), one.percentile))
    if held:
        tokens_held.append(Objective("Stall", step))
    decode = estimate(ask.receiver, ask.shape, tokens_held, role="Decode", correction=ask.decode_correction)
    if isinstance(decode, CannotServe):
        return decode
    ttft = prompt.ttft_seconds + ask.sending + decode.decode_seconds
    return Disaggregated(prompt, decode, ask.sending, ttft)


def _tokens_after(objective: Objective, shape: TokenShape) -> float:
    if objective.metric == "FirstVisibleToken":
        return shape.reasoning_at(objective.percentile)
    return shape.output_at(objective.percentile)
