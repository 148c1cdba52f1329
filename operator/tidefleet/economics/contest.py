"""Which accelerators serve a workload at the lowest cost per token: the best configuration of each, priced or not.

A configuration is one replica (``Estimate``) or a pair of a prefill and a decode replica (``Disaggregated``). What they
deliver does not depend on prices, so configurations are estimated once and chosen per price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.disaggregated import Disaggregated, pair
from tidefleet.economics.evidence import Correction, roofline_of
from tidefleet.economics.money import ChipCost, pair_cost, token_cost
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import CannotServe, Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape
from tidefleet.economics.tasks import TokenRates

EXPERT_GROUPS = (4, 8, 16, 32, 64)
"""Chips over which the experts of an MoE model are tried to be spread, attention on one chip each."""

_PAIRS_TRIED = 3


@dataclass(frozen=True, slots=True)
class Contestant:
    """An accelerator type that may take part.

    Attributes:
        roles: ``Aggregated``, ``Prefill``, ``Decode``: what it is good for.
        correction: what is measured about a replica of it.
    """

    accelerator: Accelerator
    roles: frozenset[str] = frozenset(("Aggregated", "Prefill", "Decode"))
    correction: Callable[[Replica], Correction] = roofline_of


@dataclass(frozen=True, slots=True)
class Ask:
    """What must be served, and which configurations may do it.

    Attributes:
        weights: storage precisions to try; empty: the model's own, and the narrower ones that the chip computes in.
        kv: precisions of the KV cache to try.
        pairs: whether prefill and decode may have replicas of their own.
        engine: serving engine, e.g. ``vllm``; empty = unknown.
    """

    model: Architecture
    shape: TokenShape
    objectives: tuple[Objective, ...] = ()
    weights: tuple[str, ...] = ()
    kv: tuple[str, ...] = ("Bf16",)
    pairs: bool = True
    engine: str = ""


@dataclass(frozen=True, slots=True)
class Serving:
    """One configuration that meets the objectives: the replicas that a request passes through, first to last."""

    parts: tuple[Estimate, ...]
    both: Disaggregated | None = None

    @property
    def last(self) -> Estimate:
        """The replica that generates."""
        return self.parts[-1]

    def usd_per_million(self, chips: Sequence[ChipCost], utilisation: float) -> float:
        """USD per million tokens of the mix; ``chips``: what a chip of each part costs."""
        if self.both is not None:
            return pair_cost(self.both, chips[0], chips[1], utilisation=utilisation).blended
        return token_cost(self.last, chips[0], utilisation=utilisation).blended

    def rates(self, chips: Sequence[ChipCost], utilisation: float) -> TokenRates:
        """USD per token by direction."""
        if self.both is None:
            return token_cost(self.last, chips[0], utilisation=utilisation).rates
        into, out = (
            token_cost(one, chip, utilisation=utilisation).rates for one, chip in zip(self.parts, chips, strict=True)
        )
        return TokenRates(into.uncached_input, into.cached_input, out.output)

    @property
    def chip_seconds(self) -> tuple[float, ...]:
        """Seconds of a chip of each part that a request takes: how many chips of each part stand beside each other."""
        return tuple(one.replica.chips / one.requests_per_second for one in self.parts)

    def per_chip(self, values: Iterable[float]) -> float:
        """The mean over all chips of a figure that each part's chips have."""
        seconds = self.chip_seconds
        return sum(v * s for v, s in zip(values, seconds, strict=True)) / sum(seconds)

    @property
    def watts_per_chip(self) -> float | None:
        """Mean power of a chip at work; ``None`` when a part's is unknown."""
        found = [one.watts_per_chip for one in self.parts]
        known = [one for one in found if one is not None]
        return self.per_chip(known) if len(known) == len(found) else None

    @property
    def output_tokens_per_joule(self) -> float | None:
        """Generated tokens for each joule of all chips, prefill included: tokens/s per watt."""
        watts = self.watts_per_chip
        return None if not watts else max(1.0, self.last.shape.output_mean) / (watts * sum(self.chip_seconds))

    @property
    def sigma(self) -> float:
        """Relative one-sigma error: the larger of the parts'."""
        return max(one.sigma for one in self.parts)

    @property
    def ttft_seconds(self) -> float:
        """Time to the first token at the strictest percentile asked."""
        return self.last.ttft_seconds if self.both is None else self.both.ttft_seconds


def widths(accelerator: Accelerator) -> tuple[int, ...]:
    """Tensor-parallel widths to try: powers of two up to a node of the type, 8 where it is unknown.

    Where the scale-up domain is wider than a node, up to 8 chips of it.
    """
    widest = max(accelerator.chips_per_node or 8, min(8, accelerator.scale_up_domain))
    return tuple(2**i for i in range(widest.bit_length()) if 2**i <= widest)


def layouts(model: Architecture, accelerator: Accelerator) -> tuple[tuple[int, int, int], ...]:
    """(chips, tensor-parallel width, expert group) to try: widths, and for MoE models expert parallelism.

    Widths share the attention heads evenly, as engines demand. Expert groups of up to 64 chips only on types whose
    nodes or domains hold more than two.
    """
    tried = widths(accelerator)
    plain = tuple((n, n, 1) for n in tried if model.heads % n == 0)
    if not model.is_moe or len(tried) <= 2:
        return plain
    return (*plain, *((n, 1, n) for n in EXPERT_GROUPS if n <= model.experts))


def precisions(ask: Ask, accelerator: Accelerator) -> tuple[str, ...]:
    """Storage precisions of the weights to try on an accelerator."""
    if ask.weights:
        return ask.weights
    native = ask.model.native_weights
    order = ("Bf16", "Fp8", "Fp4")
    return tuple(
        one for one in order if one == native or (one in accelerator.flops and order.index(one) > order.index(native))
    )


def replicas(ask: Ask, one: Contestant) -> list[Replica]:
    """Every replica to try of an accelerator type."""
    return [
        Replica(
            ask.model,
            one.accelerator,
            chips,
            weights,
            kv,
            tensor_parallel=width,
            expert_parallel=group,
            engine=ask.engine,
        )
        for weights, kv in product(precisions(ask, one.accelerator), ask.kv)
        for chips, width, group in layouts(ask.model, one.accelerator)
    ]


def servings(ask: Ask, one: Contestant) -> list[Serving] | CannotServe:
    """Every configuration of one accelerator type that meets the objectives, or why none does."""
    tried = replicas(ask, one)
    found: list[Serving] = []
    failures: list[tuple[Replica, CannotServe]] = []
    if "Aggregated" in one.roles:
        for replica in tried:
            got = estimate(replica, ask.shape, ask.objectives, correction=one.correction(replica))
            if isinstance(got, Estimate):
                found.append(Serving((got,)))
            else:
                failures.append((replica, got))
    if ask.pairs and {"Prefill", "Decode"} <= one.roles and (found or not failures or _is_slow(failures)):
        found += paired(ask, one, one)
    if found:
        return found
    if not failures:
        only = " and ".join(sorted(role.lower() for role in one.roles))
        return CannotServe("Role", f"serves {only} only; it needs a partner that decodes")
    plain = [why for replica, why in failures if replica.expert_parallel == 1]
    known = [why for why in plain if why.cause != "Unprofiled"] or plain
    return known[-1]  # the widest try at the narrowest precision: what stands in the way even then


def _is_slow(failures: Iterable[tuple[Replica, CannotServe]]) -> bool:
    """Whether an objective stood in the way of any replica: separate roles may help then."""
    return any(why.cause not in ("Memory", "Unprofiled", "Context", "Unphysical") for _, why in failures)


def paired(ask: Ask, sender: Contestant, receiver: Contestant) -> list[Serving]:
    """Pairs of a prefill replica of one type and a decode replica of another that meet the objectives together.

    For each precision the cheapest few replicas of each side by chip-seconds per request are put together.
    """
    found: list[Serving] = []
    for weights, kv in product(_common(ask, sender, receiver), ask.kv):
        narrowed = replace(ask, weights=(weights,), kv=(kv,))
        first = _by_chip_seconds(narrowed, sender, "Prefill")
        then = _by_chip_seconds(narrowed, receiver, "Decode")
        for into, out in product(first[:_PAIRS_TRIED], then[:_PAIRS_TRIED]):
            got = pair(
                into.replica,
                out.replica,
                ask.shape,
                ask.objectives,
                prefill_correction=sender.correction(into.replica),
                decode_correction=receiver.correction(out.replica),
            )
            if isinstance(got, Disaggregated):
                found.append(Serving((got.prefill, got.decode), got))
                break
    return found


def _common(ask: Ask, sender: Contestant, receiver: Contestant) -> list[str]:
    able = precisions(ask, receiver.accelerator)
    return [one for one in precisions(ask, sender.accelerator) if one in able]


def _by_chip_seconds(ask: Ask, one: Contestant, role: str) -> list[Estimate]:
    tried = (
        estimate(replica, ask.shape, ask.objectives, role=role, correction=one.correction(replica))
        for replica in replicas(ask, one)
    )
    found = [each for each in tried if isinstance(each, Estimate)]
    return sorted(found, key=lambda each: each.replica.chips / each.requests_per_second)


def usd_per_chip_hour_to_cost(
    serving: Serving,
    chips: Sequence[ChipCost | None],
    usd_per_million_tokens: float,
    utilisation: float,
    *,
    power: ChipCost | None = None,
) -> float:
    """USD per chip-hour of the parts without a price (``None``) at which a configuration's tokens cost so much.

    The cost is affine in that price. 0 where other parts and power alone cost more.

    Args:
        power: what electricity costs those parts, its rent aside; by default what it costs the others, else nothing.
    """

    def at(usd: float, like: ChipCost) -> float:
        filled = [replace(like, usd_per_chip_hour=usd) if one is None else one for one in chips]
        return serving.usd_per_million(filled, utilisation)

    like = power or next((one for one in chips if one is not None), ChipCost(1.0))
    one, two = at(1.0, like), at(2.0, like)
    slope = two - one
    return max(0.0, (usd_per_million_tokens - (one - slope)) / slope)


def token_cost_ratio(
    tokens_per_watt: tuple[float, float], kilowatts: tuple[float, float], usd_per_hour: tuple[float, float]
) -> float:
    """How many times the first chip's tokens cost what the second's do, from three figures of each (first, second).

    USD per token = price / (tokens per second) = price / (tokens/s per watt * watts), so the ratio of costs is the
    inverse ratio of tokens per watt, times the inverse ratio of power, times the ratio of prices. A vendor's "50 times
    the tokens per watt" and "35 times lower cost" are one claim: 50 * (2.10/1.73) / (2.21/1.30) = 35.7.

    Raises:
        ValueError: a figure is not above 0.
    """
    for name, values in (
        ("tokens_per_watt", tokens_per_watt),
        ("kilowatts", kilowatts),
        ("usd_per_hour", usd_per_hour),
    ):
        if not min(values) > 0.0:
            raise ValueError(f"{name} is {values}; expected figures above 0, e.g. (50.0, 1.0)")
    (t1, t2), (w1, w2), (p1, p2) = tokens_per_watt, kilowatts, usd_per_hour
    return (p1 / p2) / ((t1 / t2) * (w1 / w2))
