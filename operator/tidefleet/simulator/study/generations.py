"""What a chip of one generation does for a class of requests against a chip of another: tokens, dollars, watts.

For each chip the cheapest of many configurations: prefill and decode together on one replica, or apart, tensor-parallel
or with experts spread, with and without drafting. Apart, chip-seconds of both sum; the KV's way between them is left
out, which favours no generation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.contest import Ask, Contestant, replicas
from tidefleet.economics.energy import facility_watts
from tidefleet.economics.replica import Replica, Speculation
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape

MTP = Speculation(tokens=4, accept_length=2.5)
"""DeepSeek-R1's own draft head with three drafted tokens. How many are kept differs by text: 2.3 to 2.7 is reported."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a chip does.

    Attributes:
        chip_seconds: of a request, prefill and decode.
        output_tokens_per_second: per chip, prefill chips counted.
        watts: of the building, per chip.
        how: the configuration in words.
    """

    chip_seconds: float
    output_tokens_per_second: float
    watts: float
    how: str

    @property
    def output_tokens_per_joule(self) -> float:
        """Of all power that the building draws for it."""
        return self.output_tokens_per_second / self.watts

    def usd_per_million_output_tokens(self, usd_per_chip_hour: float) -> float:
        """USD: everything a request costs, owed to its output."""
        return usd_per_chip_hour / 3600.0 / self.output_tokens_per_second * 1e6


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked of both generations.

    Attributes:
        weights: precisions of the weights to try; apart: whether prefill and decode may have chips of their own.
        spread: whether experts may be spread whole; drafting: speculation to try beside none.
        node_only: replicas of at most one node's chips.
    """

    model: Architecture
    shape: TokenShape
    tpot_seconds: float
    ttft_seconds: float = 10.0
    weights: tuple[str, ...] = ("Fp8",)
    kv: str = "Fp8"
    apart: bool = True
    spread: bool = True
    drafting: Speculation | None = None
    node_only: bool = False


def best_offer(case: Case, chip: Accelerator) -> Offer | None:
    """The cheapest configuration of a chip in chip-seconds; ``None`` where none meets the objectives."""
    ask = Ask(case.model, case.shape, (), weights=case.weights, kv=(case.kv,))
    tried = [one for one in replicas(ask, Contestant(chip)) if _allowed(case, one)]
    if case.drafting is not None:
        tried += [replace(one, speculation=case.drafting) for one in tried]
    ttft, tpot = Objective("TTFT", case.ttft_seconds), Objective("TPOT", case.tpot_seconds)
    found = [_offer((one,)) for one in _served(estimate(replica, case.shape, (ttft, tpot)) for replica in tried)]
    if case.apart:
        into = _cheapest(estimate(one, case.shape, (ttft,), role="Prefill") for one in tried if not one.speculation)
        out = _cheapest(estimate(one, case.shape, (tpot,), role="Decode") for one in tried)
        if into is not None and out is not None:
            found.append(_offer((into, out)))
    known = [one for one in found if one is not None]
    return min(known, key=lambda one: one.chip_seconds, default=None)


def _allowed(case: Case, replica: Replica) -> bool:
    if replica.expert_parallel > 1 and not case.spread:
        return False
    return not case.node_only or replica.chips <= 8


def _served(found: Iterable[object]) -> list[Estimate]:
    return [one for one in found if isinstance(one, Estimate) and one.requests_per_second > 0.0]


def _chip_seconds(one: Estimate) -> float:
    return one.replica.chips / one.requests_per_second


def _cheapest(found: Iterable[object]) -> Estimate | None:
    return min(_served(found), key=_chip_seconds, default=None)


def _offer(parts: tuple[Estimate, ...]) -> Offer | None:
    seconds = [_chip_seconds(one) for one in parts]
    watts = 0.0
    for one, each in zip(parts, seconds, strict=True):
        if one.watts_per_chip is None:
            return None
        watts += each * facility_watts(one.replica.accelerator, one.watts_per_chip)
    total = sum(seconds)
    return Offer(total, parts[-1].shape.output_mean / total, watts / total, ", ".join(map(_how, parts)))


def _how(one: Estimate) -> str:
    replica = one.replica
    spread = f"EP{replica.expert_parallel}" if replica.expert_parallel > 1 else f"TP{replica.tp}"
    drafting = " drafting" if replica.speculation is not None else ""
    role = "" if one.role == "Aggregated" else f"{one.role.lower()} "
    return f"{role}{spread} {replica.weights}{drafting}"
