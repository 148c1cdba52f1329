"""Everything about one priced operating point: prices, speed, energy, tasks, users, and where a dollar goes."""

from __future__ import annotations

from dataclasses import dataclass

from tidefleet.economics.energy import facility_watts
from tidefleet.economics.lognormal import ZERO, law
from tidefleet.economics.memory import kv_bytes
from tidefleet.economics.money import HOUR, ChipCost, TokenCost, power_usd_per_hour, token_cost
from tidefleet.economics.serving import Estimate
from tidefleet.economics.sessions import concurrent_sessions, usd_per_user_month
from tidefleet.economics.shape import TokenShape
from tidefleet.economics.tasks import CallClass, Cost, RequestLengths, TokenRates, task_cost


@dataclass(frozen=True, slots=True)
class Usage:
    """How people use a model: what sessions, tasks and users cost depends on it.

    Attributes:
        turns_per_session: requests of one session; each reads what the earlier ones wrote.
        calls_per_task, calls_p95: requests of one task, on average and at the 95th percentile (0: all alike).
        think_seconds: mean pause between an answer and the session's next request.
        turns_per_day: requests of one user in a day.
        reasoning_cap: most tokens generated before the first visible one; 0 = no cap.
    """

    turns_per_session: float = 1.0
    calls_per_task: float = 1.0
    calls_p95: float = 0.0
    think_seconds: float = 0.0
    turns_per_day: float = 20.0
    reasoning_cap: float = 0.0


@dataclass(frozen=True, slots=True)
class Breakdown:
    """One operating point with all that follows from it.

    Attributes:
        cost: USD per million tokens by direction.
        joules_per_output_token: of all chips, per generated token (prompt token for a prefill replica); ``None`` when
            the accelerator's power is unknown. ``facility_watts_per_chip`` is with its share of host, network and PUE.
        request, task: USD, mean and percentiles over requests and tasks.
        concurrent_sessions: sessions one replica carries at once, idle ones that keep their KV included.
        first_visible_seconds: mean time until the first token that is not reasoning.
        usd_per_user_month: what a user of so many turns a day costs.
    """

    estimate: Estimate
    cost: TokenCost
    joules_per_output_token: float | None
    facility_watts_per_chip: float | None
    request: Cost
    task: Cost
    concurrent_sessions: float
    first_visible_seconds: float
    usd_per_user_month: float


def request_and_task(
    shape: TokenShape, rates: TokenRates, usage: Usage, *, fetched_share: float = 0.0
) -> tuple[Cost, Cost]:
    """What a request and a task cost at these prices per token, mean and percentiles.

    Args:
        fetched_share: share of the prompt whose KV is fetched from a tier, beside what the device's cache holds.

    Raises:
        ValueError: a length, a rate or a number of ``usage`` is not usable.
    """
    thinking = shape.reasoning_mean
    cap = {"cap": usage.reasoning_cap} if usage.reasoning_cap else {}
    lengths = RequestLengths(
        input=law(shape.input_mean, shape.input_p95),
        output=law(max(0.0, shape.output_mean - thinking), max(0.0, shape.output_p95 - shape.reasoning_p95)),
        reasoning=law(thinking, shape.reasoning_p95, **cap) if thinking else ZERO,
        cached_share=min(1.0, shape.cached_share + fetched_share),
    )
    calls = CallClass(
        lengths,
        rates,
        calls_per_task=usage.calls_per_task,
        calls_p95=usage.calls_p95,
        turns_per_session=usage.turns_per_session,
    )
    request = task_cost({"request": CallClass(lengths, rates)}, "request").usd
    if usage.calls_per_task == 1.0 and usage.calls_p95 <= 1.0 and usage.turns_per_session == 1.0:
        return request, request
    return request, task_cost({"request": calls}, "request").usd


def breakdown(found: Estimate, chip: ChipCost, *, utilisation: float = 1.0, usage: Usage | None = None) -> Breakdown:
    """All that follows from an operating point at a price.

    Raises:
        ValueError: a number of ``chip``, ``utilisation`` or ``usage`` is not usable; the message says which.
    """
    usage = usage or Usage()
    replica, shape = found.replica, found.shape
    cost = token_cost(found, chip, utilisation=utilisation)
    tokens = found.output_tokens_per_second or found.requests_per_second * shape.input_mean
    joules = None if found.watts_per_chip is None else found.watts_per_chip * replica.chips / tokens
    thinking = shape.reasoning_mean
    request, task = request_and_task(shape, cost.rates, usage, fetched_share=found.fetched_share)
    turn = found.ttft_seconds + shape.output_mean * found.tpot_seconds
    context = shape.input_mean + shape.output_mean / 2.0
    return Breakdown(
        estimate=found,
        cost=cost,
        joules_per_output_token=joules,
        facility_watts_per_chip=None
        if found.watts_per_chip is None
        else facility_watts(replica.accelerator, found.watts_per_chip, pue=chip.pue),
        request=request,
        task=task,
        concurrent_sessions=concurrent_sessions(
            kv_room_bytes=found.memory.kv_room * replica.chips,
            kv_bytes_per_session=kv_bytes(replica.model, replica.kv, replica.tp, context),
            requests_per_second=found.requests_per_second * utilisation,
            turn_seconds=max(1e-9, turn),
            think_seconds=usage.think_seconds,
        ).sessions,
        first_visible_seconds=found.ttft_seconds + thinking * found.tpot_seconds,
        usd_per_user_month=usd_per_user_month(request.mean, usage.turns_per_day),
    )


def as_json(one: Breakdown) -> dict[str, object]:
    """The figures by name, units in the names; ``None`` is unknown, or nothing that this role does."""
    found, cost = one.estimate, one.cost
    return {
        "usd_per_million_input_tokens": cost.input,
        "usd_per_million_cached_input_tokens": cost.cached_input,
        "usd_per_million_output_tokens": cost.output,
        "usd_per_million_tokens": cost.blended,
        "usd_per_replica_hour": cost.usd_per_hour,
        "usd_per_request": _percentiles(one.request),
        "usd_per_task": _percentiles(one.task),
        "usd_per_user_month": one.usd_per_user_month,
        "requests_per_second": found.requests_per_second,
        "planned_requests_per_second": found.planned_requests_per_second,
        "output_tokens_per_second_per_chip": found.output_tokens_per_second / found.replica.chips,
        "input_tokens_per_second_per_chip": (
            0.0 if found.role == "Decode" else found.requests_per_second * found.shape.input_mean / found.replica.chips
        ),
        "batch": found.batch,
        "concurrent_sessions": one.concurrent_sessions,
        "ttft_seconds": None if found.role == "Decode" else found.ttft_seconds,
        "first_visible_token_seconds": one.first_visible_seconds if found.role == "Aggregated" else None,
        "tpot_seconds": None if found.role == "Prefill" else found.tpot_seconds,
        "joules_per_output_token": one.joules_per_output_token,
        "watts_per_chip": found.watts_per_chip,
        "facility_watts_per_chip": one.facility_watts_per_chip,
        "mfu": found.mfu,
        "mbu": found.mbu,
        "bound_by": found.bound_by,
        "limited_by": found.limited_by,
        "cost_share": cost.share.as_dict(),
        "provenance": found.provenance,
        "sigma": found.sigma,
    }


FIGURES = (
    "usd_per_million_input_tokens",
    "usd_per_million_cached_input_tokens",
    "usd_per_million_output_tokens",
    "usd_per_million_tokens",
    "usd_per_replica_hour",
    "usd_per_request",
    "usd_per_task",
    "usd_per_user_month",
    "requests_per_second",
    "planned_requests_per_second",
    "output_tokens_per_second_per_chip",
    "input_tokens_per_second_per_chip",
    "batch",
    "concurrent_sessions",
    "ttft_seconds",
    "first_visible_token_seconds",
    "tpot_seconds",
    "joules_per_output_token",
    "watts_per_chip",
    "facility_watts_per_chip",
    "mfu",
    "mbu",
    "bound_by",
    "limited_by",
    "cost_share",
    "provenance",
    "sigma",
)
"""Names of ``as_json``, for answers in which nothing can be priced."""


def _percentiles(cost: Cost) -> dict[str, float]:
    return {"mean": cost.mean, "p50": cost.p50, "p95": cost.p95, "p99": cost.p99}


def break_even_usd_per_chip_hour(
    found: Estimate, usd_per_million_tokens: float, *, utilisation: float = 1.0, chip: ChipCost | None = None
) -> float:
    """USD per chip-hour at which this replica's tokens cost so much: the rent below which it would win.

    Args:
        chip: what is paid beside the rent (electricity, storage); its own rent is not used. 0 where that alone is more.
    """
    shape = found.shape
    handled = (shape.input_mean if found.role != "Decode" else 0.0) + (
        shape.output_mean if found.role != "Prefill" else 0.0
    )
    tokens_per_hour = found.requests_per_second * HOUR * utilisation * handled
    beside = 0.0
    if chip is not None:
        beside = power_usd_per_hour(found, chip, utilisation) + chip.storage_usd_per_hour
    return max(0.0, usd_per_million_tokens / 1e6 * tokens_per_hour - beside) / found.replica.chips
