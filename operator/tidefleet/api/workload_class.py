"""WorkloadClass: one class of demand on one pool, with its lengths, objectives and worth."""

from __future__ import annotations

import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from tidefleet.api.base import Model, Resource, Rule, name_rule
from tidefleet.api.conditions import Conditions, Generation
from tidefleet.api.demand import Demand, DemandSource
from tidefleet.api.leaves import Integer, Many, Text
from tidefleet.api.scalars import (
    USD,
    Count,
    ExactTokens,
    HeaderName,
    Milliseconds,
    ModelName,
    Name,
    Number,
    OptionalWord,
    PositiveCount,
    PositiveNumber,
    PositiveTokens,
    PositiveUSD,
    Score,
    Sentence,
    Share,
    Tokens,
    Word,
)


class ObjectiveMetric(StrEnum):
    """A latency that users feel.

    TTFT: to the first token. TPOT: between tokens. FirstVisibleToken: to the first token after reasoning. Turn: a whole
    answer. Task: all calls of a task. Stall: the longest pause within an answer.
    """

    TTFT = "TTFT"
    TPOT = "TPOT"
    FIRST_VISIBLE_TOKEN = "FirstVisibleToken"  # noqa: S105  a latency
    TURN = "Turn"
    TASK = "Task"
    STALL = "Stall"


class Billing(StrEnum):
    """How an external API bills."""

    PER_TOKEN = "PerToken"  # noqa: S105  a way of billing
    PROVISIONED = "Provisioned"
    PER_SEAT = "PerSeat"


class PoolRef(Model):
    """Refers to an InferencePool in the same namespace."""

    name: Name
    """Name of the InferencePool, e.g. chat."""


class HeaderMatch(Model):
    """A header and its value."""

    name: HeaderName = Field(examples=["x-class"])
    """Name of the header, e.g. x-class."""
    value: Annotated[str, Text(maximum=256, expected="a header's value", example="batch")]
    """Its value, compared exactly, e.g. batch."""


class Match(Model):
    """How the router tells requests of the class; everything that is given must hold."""

    models: Annotated[tuple[ModelName, ...], Many(maximum=32, unique=True)] = ()
    """Names in the request's `model`, e.g. [llama-3.3-70b]; empty: any."""
    adapters: Annotated[tuple[ModelName, ...], Many(maximum=64, unique=True)] = ()
    """Adapters asked for, e.g. [chat-legal]; empty: any."""
    headers: Annotated[tuple[HeaderMatch, ...], Many(maximum=16, keys=("name",))] = ()
    """Headers that must be there with these values."""


class InputLength(Model):
    """Input tokens of a request."""

    mean: PositiveTokens
    """Mean in tokens, e.g. 1800."""
    p95: PositiveTokens | None = Field(default=None, examples=[6000])
    """95th percentile in tokens, e.g. 6000."""


class OutputLength(Model):
    """Output tokens of a request, reasoning included unless it is given apart."""

    mean: Tokens = Field(examples=[300])
    """Mean in tokens, e.g. 300; 0 for embeddings."""
    p95: Tokens | None = Field(default=None, examples=[900])
    """95th percentile in tokens, e.g. 900."""


class ReasoningLength(Model):
    """Reasoning tokens of a request, which come before the visible answer."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="mean",
            cel="!has(self.cap) || self.mean <= self.cap",
            holds=lambda r: r.cap is None or r.mean <= r.cap,
            expected="a mean not above cap",
            example="2000",
        ),
    )

    mean: ExactTokens = Field(examples=[2000])
    """Mean in tokens, e.g. 2000."""
    p95: Tokens | None = Field(default=None, examples=[8000])
    """95th percentile in tokens, e.g. 8000."""
    cap: ExactTokens | None = Field(default=None, examples=[16000])
    """Most that the engine allows, in tokens, e.g. 16000."""


class TokenLengths(Model):
    """Lengths of requests in tokens."""

    input: InputLength
    """Input tokens of a request, cached ones included."""
    output: OutputLength
    """Output tokens of a request."""
    cached_share: Share | None = None
    """Share of input tokens found in the KV cache, e.g. "0.4"; absent: observed."""
    reasoning: ReasoningLength | None = None
    """Reasoning tokens, where they are to be told from the visible output."""


class Call(Model):
    """A call that a task of this class makes to another class."""

    class_name: Name = Field(alias="class", examples=["embed"])
    """The WorkloadClass that is called, in the same namespace, e.g. embed."""
    per_task: PositiveNumber = Field(examples=["2"])
    """Calls for one task, e.g. "2"."""


class Objective(Model):
    """A latency objective: at least so many percent of requests within so many milliseconds."""

    metric: ObjectiveMetric
    """What is measured: TTFT, TPOT, FirstVisibleToken, Turn, Task or Stall."""
    percentile: Annotated[int, Integer(minimum=1, maximum=99, expected="a percentile from 1 to 99", example=95)] = 95
    """Percent of requests that must meet it, e.g. 95."""
    milliseconds: Milliseconds
    """The longest it may take, in milliseconds, e.g. 300."""
    per_thousand_input_tokens_milliseconds: (
        Annotated[int, Integer(minimum=0, maximum=86_400_000, expected="milliseconds of 0 or more", example=100)] | None
    ) = None
    """Milliseconds more for each thousand input tokens, e.g. 100."""


class TenantKey(Model):
    """What tells tenants apart."""

    header: HeaderName = Field(examples=["x-tenant"])
    """Header that names the tenant, e.g. x-tenant; its value is hashed, never logged."""


class Limits(Model):
    """Limits of one tenant; above them requests get 429 with the reason."""

    tokens_per_minute_per_tenant: PositiveCount | None = Field(default=None, examples=[100000])
    """Tokens in a minute, e.g. 100000."""
    usd_per_day_per_tenant: PositiveUSD | None = Field(default=None, examples=["25"])
    """USD in a day, at cost, e.g. "25"."""


class UsageRevenue(Model):
    """Customers pay by the token."""

    usd_per_million_input_tokens: USD = Field(examples=["0.90"])
    """USD for a million input tokens, e.g. "0.90"."""
    usd_per_million_output_tokens: USD = Field(examples=["3.60"])
    """USD for a million output tokens, e.g. "3.60"."""
    usd_per_million_cached_input_tokens: USD | None = Field(default=None, examples=["0.09"])
    """USD for a million input tokens found in the cache, e.g. "0.09"; absent: as input."""
    usd_per_million_cache_write_tokens: USD | None = Field(default=None, examples=["1.10"])
    """USD for a million tokens written to the cache, e.g. "1.10"; absent: as input."""
    batch_discount: Share | None = Field(default=None, examples=["0.5"])
    """Share of the price that batch customers do not pay, e.g. "0.5"."""


class SeatTokens(Model):
    """Tokens that one seat uses in a month."""

    mean: Annotated[int, Integer(minimum=0, maximum=10**12, exact=True, example=2_000_000)]
    """Mean in tokens, e.g. 2000000."""
    p95: Annotated[int, Integer(minimum=0, maximum=10**12, exact=True, example=7_000_000)] | None = None
    """95th percentile over seats in tokens, e.g. 7000000."""


class SeatRevenue(Model):
    """Customers pay by the seat."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="capTokensPerMonth",
            cel="!has(self.capTokensPerMonth) || !has(self.tokensPerSeatMonth) || "
            "(self.tokensPerSeatMonth.mean <= self.capTokensPerMonth && "
            "(!has(self.tokensPerSeatMonth.p95) || self.tokensPerSeatMonth.p95 <= self.capTokensPerMonth))",
            holds=lambda s: (
                s.cap_tokens_per_month is None
                or s.tokens_per_seat_month is None
                or max(s.tokens_per_seat_month.mean, s.tokens_per_seat_month.p95 or 0) <= s.cap_tokens_per_month
            ),
            expected="a cap not below the mean and the p95 of what a seat uses under it",
            example="50000000",
        ),
    )

    usd_per_month: PositiveUSD = Field(examples=["20"])
    """USD for a seat and month, e.g. "20"."""
    seats: PositiveCount = Field(examples=[5000])
    """Seats sold, e.g. 5000."""
    tokens_per_seat_month: SeatTokens | None = None
    """What a seat uses; absent: observed."""
    cap_tokens_per_month: (
        Annotated[
            int,
            Integer(minimum=1, maximum=10**12, exact=True, expected="a positive integer of tokens", example=50_000_000),
        ]
        | None
    ) = None
    """Tokens that a seat may use in a month, e.g. 50000000."""


class FreeRevenue(Model):
    """Nobody pays."""


class InternalRevenue(Model):
    """A rate is charged to another team."""

    usd_per_million_tokens: USD = Field(examples=["0.80"])
    """USD for a million tokens, e.g. "0.80"."""


class Revenue(Model):
    """What the class earns: by usage, by seat, nothing, or an internal rate."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="[has(self.usage), has(self.seat), has(self.free), has(self.internal)]"
            ".filter(given, given).size() == 1",
            holds=lambda r: sum(each is not None for each in (r.usage, r.seat, r.free, r.internal)) == 1,
            expected="exactly one of usage, seat, free and internal",
            example="free: {}",
        ),
    )

    usage: UsageRevenue | None = None
    """Customers pay by the token."""
    seat: SeatRevenue | None = None
    """Customers pay by the seat."""
    free: FreeRevenue | None = None
    """Nobody pays: {}."""
    internal: InternalRevenue | None = None
    """A rate is charged to another team."""


class Spill(Model):
    """An external API that may take what the pool does not."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="usdPerMillionInputTokens",
            cel="self.billing != 'PerToken' || "
            "(has(self.usdPerMillionInputTokens) && has(self.usdPerMillionOutputTokens))",
            holds=lambda s: (
                s.billing is not Billing.PER_TOKEN
                or (s.usd_per_million_input_tokens is not None and s.usd_per_million_output_tokens is not None)
            ),
            expected="prices of input and output tokens with the billing PerToken",
            example='"0.90"',
        ),
        Rule(
            field="usdPerMonth",
            cel="self.billing == 'PerToken' || has(self.usdPerMonth)",
            holds=lambda s: s.billing is Billing.PER_TOKEN or s.usd_per_month is not None,
            expected="a price per month with the billing Provisioned or PerSeat",
            example='"5000"',
        ),
    )

    provider: Word = Field(examples=["example-ai"])
    """Who runs the API, e.g. example-ai."""
    model: ModelName
    """The model there, e.g. llama-3.3-70b."""
    billing: Billing = Billing.PER_TOKEN
    """How it bills: PerToken, Provisioned or PerSeat."""
    usd_per_million_input_tokens: USD | None = Field(default=None, examples=["0.90"])
    """USD for a million input tokens, e.g. "0.90"."""
    usd_per_million_output_tokens: USD | None = Field(default=None, examples=["3.60"])
    """USD for a million output tokens, e.g. "3.60"."""
    usd_per_month: PositiveUSD | None = Field(default=None, examples=["5000"])
    """USD in a month, for the unit that `billing` names, e.g. "5000"."""
    requests_per_minute: PositiveCount | None = Field(default=None, examples=[600])
    """Rate limit in requests per minute, e.g. 600."""
    added_latency_milliseconds: Annotated[int, Integer(minimum=0, maximum=86_400_000, example=80)] | None = None
    """Latency that it adds, in milliseconds, e.g. 80."""
    region: OptionalWord = ""
    """Where the data goes, e.g. eu-central-1."""


class QualityScore(Model):
    """How good answers stay under a lever that can change them."""

    lever: Annotated[
        str,
        Text(
            maximum=160,
            pattern="^(weights|kv|compute|model):[A-Za-z0-9._/-]+$",
            expected="weights:, kv:, compute: or model: and a value",
            example="weights:Fp8",
        ),
    ]
    """The lever: weights:, kv: or compute: with a precision, or model: with a smaller model, e.g. weights:Fp8."""
    score: Score
    """Score relative to the unquantised model, e.g. "0.98"."""
    source: Sentence = Field(examples=["our evaluation of 2026-11-01"])
    """Where the score comes from, e.g. our evaluation of 2026-11-01."""


class Quality(Model):
    """How good answers must stay."""

    floor: Share | None = Field(default=None, examples=["0.97"])
    """Least score, e.g. "0.97"; of pool and class the higher wins."""
    scores: Annotated[tuple[QualityScore, ...], Many(maximum=32, keys=("lever",))] = ()
    """Scores of levers; a lever without a score is no candidate."""


class WorkloadClassSpec(Model):
    """What the user says of a class of demand."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="tokens",
            cel="has(self.demand.source) || has(self.tokens)",
            holds=lambda s: s.demand.source is not None or s.tokens is not None,
            expected="the lengths of requests beside a declared demand",
            example="{input: {mean: 1800}, output: {mean: 300}}",
        ),
        Rule(
            field="tenantKey",
            cel="!has(self.limits) || has(self.tenantKey)",
            holds=lambda s: s.limits is None or s.tenant_key is not None,
            expected="what tells tenants apart beside limits per tenant",
            example="{header: x-tenant}",
        ),
    )

    pool_ref: PoolRef
    """The InferencePool that serves the class."""
    match: Match = Match()
    """How the router tells requests of the class."""
    traffic_share: Share | None = None
    """Without a router: share of the pool's measured demand that is this class, e.g. "0.4"."""
    max_spot_share: Share | None = None
    """Most of the class's requests that may be on spot capacity, e.g. "0.4"; absent: all of them."""
    demand: Demand = Demand(source=DemandSource.METRICS)
    """How much is asked: exactly one of a declared rate, metrics, or a volume with a deadline."""
    tokens: TokenLengths | None = None
    """Lengths of requests in tokens; absent: observed."""
    calls_per_task: PositiveNumber = Field(default=Decimal(1), examples=["1"])
    """Requests for one task, e.g. "6" for an agent."""
    turns_per_session: PositiveNumber = Field(default=Decimal(1), examples=["4"])
    """Turns of a session, each of which finds the ones before in the KV cache, e.g. "4"."""
    turn_pause_seconds: Count | None = Field(default=None, examples=[60])
    """Mean pause between an answer and the session's next turn in seconds, e.g. 60; absent: 60. What a KV tier finds
    rests on it until a router has seen how far apart blocks are used."""
    calls: Annotated[tuple[Call, ...], Many(maximum=32, keys=("class",))] = ()
    """Calls that a task makes to other classes; of declared demand they count for the called class, beside its own."""
    objectives: Annotated[tuple[Objective, ...], Many(maximum=16, keys=("metric", "percentile"))] = ()
    """Latency objectives; without any, only throughput counts."""
    priority: Annotated[int, Integer(minimum=-1_000_000, maximum=1_000_000, example=100)] = 100
    """Who goes first when capacity is scarce: the higher, e.g. 100."""
    tenant_key: TenantKey | None = None
    """What tells tenants apart."""
    limits: Limits | None = None
    """Limits of one tenant."""
    revenue: Revenue | None = None
    """What the class earns; exactly one kind."""
    penalty_usd_per_miss: USD | None = Field(default=None, examples=["0.001"])
    """USD that a request costs which misses an objective, e.g. "0.001"."""
    spill: Annotated[tuple[Spill, ...], Many(maximum=16, keys=("provider", "model", "billing", "region"))] = ()
    """External APIs that may take what the pool does not."""
    quality: Quality = Quality()
    """How good answers must stay."""


class ObservedClass(Model):
    """What was seen of the class."""

    as_of: datetime.datetime | None = None
    """When, e.g. 2026-11-21T08:30:00Z."""
    requests_per_second: Number | None = None
    """Requests per second, e.g. "3.5"."""
    input_tokens_per_second: Number | None = None
    """Input tokens per second, e.g. "5400"."""
    output_tokens_per_second: Number | None = None
    """Output tokens per second, e.g. "900"."""
    input_tokens_mean: Number | None = None
    """Mean input tokens of a request, e.g. "1812.4"."""
    output_tokens_mean: Number | None = None
    """Mean output tokens of a request, e.g. "296.1"."""
    cached_share: Number | None = None
    """Share of input tokens found in the cache, e.g. "0.41"."""


class WorkloadClassStatus(Model):
    """What the operator observed of the class."""

    conditions: Conditions = ()
    """Ready, Validated and DemandKnown."""
    observed_generation: Generation | None = None
    """The `metadata.generation` that this status answers."""
    observed: ObservedClass | None = None
    """What was seen of the class."""
    provenance: Annotated[str, Text(maximum=64, minimum=0)] | None = None
    """Where the numbers come from: Declared, Observed or Assumed."""


class WorkloadClass(Resource):
    """One class of demand on one InferencePool."""

    KIND: ClassVar[str] = "WorkloadClass"
    PLURAL: ClassVar[str] = "workloadclasses"
    SHORT_NAME: ClassVar[str] = "wclass"
    RULES: ClassVar[tuple[Rule, ...]] = (
        name_rule(63, "it is a label's value"),
        Rule(
            field="spec.calls",
            cel="!has(self.spec.calls) || self.spec.calls.all(call, call.class != self.metadata.name)",
            holds=lambda c: all(call.class_name != c.metadata.name for call in c.spec.calls),
            expected="calls to other classes than the class itself",
            example='[{class: embed, perTask: "2"}]',
        ),
    )

    spec: WorkloadClassSpec
    """What the user says of the class."""
    status: WorkloadClassStatus = WorkloadClassStatus()
    """What the operator observed."""
