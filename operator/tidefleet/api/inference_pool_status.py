"""What the operator reports of an InferencePool: conditions, plan, demand and use."""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Annotated

from tidefleet.api.base import Model
from tidefleet.api.conditions import Conditions, Generation
from tidefleet.api.flipping_status import FlippingStatus
from tidefleet.api.leaves import Integer, Many, Text
from tidefleet.api.scalars import USD, Count, Number, SignedNumber, SignedUSD
from tidefleet.api.vocabulary import CapacityType, Role

Line = Annotated[str, Text(maximum=1024, minimum=0)]
Label = Annotated[str, Text(maximum=253, minimum=0)]


class PlannedOption(Model):
    """Replicas of one form: accelerator, parallelism, precision and role."""

    accelerator: Label
    """AcceleratorType, e.g. h200-sxm."""
    capacity_type: CapacityType
    """How it is paid for, e.g. OnDemand."""
    tensor_parallel: Count
    """Degree of tensor parallelism, e.g. 2."""
    weights: Label = ""
    """Precision of the weights, e.g. Fp8."""
    kv: Label = ""
    """Precision of the KV cache, e.g. Fp8."""
    role: Role = Role.AGGREGATED
    """What its replicas do: Aggregated, Prefill or Decode."""
    replicas: Count
    """Replicas planned, e.g. 3."""
    ready: Count = 0
    """Replicas available, e.g. 2."""
    chips: Count | None = None
    """Accelerators that the planned replicas hold, e.g. 6."""
    workload: Label | None = None
    """Workload that runs them, e.g. Deployment/chat-1a2b3c4d."""
    usd_per_hour: USD | None = None
    """USD per hour of the planned replicas, e.g. "12.66"."""
    provenance: Label | None = None
    """What its estimate rests on: Live (its own engines), Profile, Group, AIConfigurator or Roofline."""
    sigma: Number | None = None
    """Relative one-sigma error of its estimate, e.g. "0.04"."""


class RunnerUp(Model):
    """An option that was considered and lost."""

    option: Line
    """The option in words, e.g. h100-sxm fp8 tp2."""
    usd_per_million_tokens: USD | None = None
    """What a million tokens would cost on it, e.g. "0.71"; absent where it cannot serve."""
    lost_because: Line
    """Why it lost, e.g. costs 18 % more."""


class BreakEven(Model):
    """A value at which the choice would change."""

    what: Line
    """What would have to change, e.g. price of l40s OnDemand."""
    at: Line
    """The value at which it does, e.g. 0.93 USD per chip-hour."""


class ShadowPrice(Model):
    """What a limit costs while it binds."""

    what: Line
    """The limit, e.g. maxChips of h200-sxm."""
    usd_per_hour: SignedUSD
    """USD per hour that one unit more would save, e.g. "1.20"."""


class StandingNodes(Model):
    """Nodes of one accelerator type that the pool stands on, with other pools or alone."""

    accelerator: Label
    """AcceleratorType, e.g. h200-sxm."""
    capacity_type: CapacityType
    """How they are paid for, e.g. OnDemand."""
    nodes: Count
    """Whole nodes that all pools' plans stand on, e.g. 2."""
    idle_chips: Count
    """Chips of these nodes that no plan holds, e.g. 3."""
    idle_usd_per_hour: USD
    """Rent of the idle chips in USD per hour, e.g. "9.50"; 0 where it is owed in any case."""
    what: Line
    """The same in words, e.g. 3 of 8 chips of a node of h200-sxm idle: $9.5/h."""


class SpillAdvice(Model):
    """Requests that an external API would take cheaper than the last replicas, or at all; nothing sends them there."""

    api: Line
    """The provider and its model, e.g. example-ai llama-3.3-70b."""
    share: Number
    """Share of the pool's requests, e.g. "0.12"."""
    usd_per_hour: USD
    """What the API would charge for them in USD per hour, e.g. "3.10"."""
    saves_usd_per_hour: USD
    """What that would save in USD per hour, e.g. "1.40"; 0 where no chips can be had for them."""
    what: Line
    """The same in words."""


class TierUse(StrEnum):
    """Whether the planned replicas count on the sizes of KV tiers."""

    COUNTED = "Counted"
    ADVICE = "Advice"


class TierSetBy(StrEnum):
    """Who sets a pool's engines up with a tier."""

    OPERATOR = "Operator"
    TEMPLATE = "Template"
    OWNER = "Owner"


class PlannedTier(Model):
    """How large one tier of the KV cache pays for itself."""

    medium: Label
    """Where it lives: Host, Disk or Shared."""
    bytes_per_replica: Annotated[int, Integer(minimum=0, maximum=10**18, example=137438953472)]
    """Bytes for one replica, e.g. 137438953472; 0 where no size pays for itself."""
    hit_share: Number
    """Share of input tokens whose KV is fetched from it, e.g. "0.18"."""
    storage_usd_per_hour: USD
    """Its rent over all replicas in USD per hour, e.g. "0.40"."""
    saves_usd_per_hour: USD
    """USD per hour that the plan would cost more without it, its rent counted, e.g. "12.10"."""
    what: Line
    """The same in words."""
    set_by: TierSetBy | None = None
    """Operator: engines are started with arguments for it. Template: the pool's template sets its size, which the plan
    takes. Owner: somebody has to set the engines up with it."""
    set_up: Line = ""
    """That in words, e.g. engines are started with --kv-offloading-size=64 --kv-offloading-backend=native."""


class TierStatus(Model):
    """The tiers of the KV cache in the plan."""

    use: TierUse
    """Counted: the planned replicas count on these sizes, since a tier's `sizing` is Planned. Advice: they do not."""
    tiers: Annotated[tuple[PlannedTier, ...], Many(maximum=3)] = ()
    """By medium, the fastest first."""
    oversubscription: Number
    """KV of sessions that chips and tiers keep over what the chips alone have room for, e.g. "2.6"."""
    saves_usd_per_hour: USD
    """USD per hour that the plan would cost more without any of them, e.g. "14.20"."""
    source: Line = ""
    """What the hit shares rest on: a router's observation, or what the classes state."""


class PlanStatus(Model):
    """The decision that is in force, and what it rejected."""

    options: Annotated[tuple[PlannedOption, ...], Many(maximum=64)] = ()
    """Replicas by accelerator, parallelism, precision and role."""
    usd_per_hour: USD | None = None
    """USD per hour of the plan, e.g. "38.10"."""
    lower_bound_usd_per_hour: USD | None = None
    """No plan can cost less than this, in USD per hour, e.g. "37.90"."""
    usd_per_million_tokens: USD | None = None
    """USD for a million tokens at the demand planned for, blended, e.g. "0.52"."""
    savings_usd_per_hour: SignedUSD | None = None
    """USD per hour less than the cheapest single accelerator type, e.g. "6.40"."""
    revenue_usd_per_hour: USD | None = None
    """USD per hour that the pool's classes earn at the demand planned for, e.g. "61.00"; absent where none says."""
    margin_usd_per_hour: SignedUSD | None = None
    """What that leaves of the plan's cost, in USD per hour, e.g. "22.90"; negative for a loss."""
    reason: Line = ""
    """Why this plan, in words."""
    runners_up: Annotated[tuple[RunnerUp, ...], Many(maximum=16)] = ()
    """What lost, best first."""
    break_even: Annotated[tuple[BreakEven, ...], Many(maximum=16)] = ()
    """Values at which the choice would change."""
    shadow_prices: Annotated[tuple[ShadowPrice, ...], Many(maximum=16)] = ()
    """What the limits cost that bind."""
    nodes: Annotated[tuple[StandingNodes, ...], Many(maximum=16)] = ()
    """The whole nodes it stands on, where their size is known, and what of them is idle."""
    spill: SpillAdvice | None = None
    """What an external API that a class names would take cheaper, or at all; advice."""
    kv_tiers: TierStatus | None = None
    """How large the pool's KV tiers pay for themselves, and what that saves."""


class DemandStatus(Model):
    """The demand that the plan answers."""

    source: Label = ""
    """Where it comes from, e.g. Engines, Prometheus or Declared."""
    as_of: datetime.datetime | None = None
    """When it was observed, e.g. 2026-11-21T08:30:00Z."""
    input_tokens_per_second: Number | None = None
    """Input tokens per second, cached ones included, e.g. "5400"."""
    output_tokens_per_second: Number | None = None
    """Output tokens per second, e.g. "900"."""


class InferencePoolStatus(Model):
    """What the operator observed and decided."""

    conditions: Conditions = ()
    """Ready, Reconciling, Validated, PricingFresh, DemandKnown, CapacityAvailable, TargetsMet, Flipping and Adopted."""
    observed_generation: Generation | None = None
    """The `metadata.generation` that this status answers."""
    decision_id: Label | None = None
    """The decision in force, as in log, Events and metrics."""
    replicas: Count | None = None
    """Replicas over all accelerator types, e.g. 8."""
    selector: Annotated[str, Text(maximum=512, minimum=0)] | None = None
    """Selects the pool's pods, for the scale subresource, e.g. tidefleet.io/pool=chat."""
    accelerators: Line | None = None
    """The plan in one line, e.g. 6 h200-sxm (fp8, tp2), 2 l40s."""
    plan: PlanStatus | None = None
    """The decision in force, and what it rejected."""
    demand: DemandStatus | None = None
    """The demand that the plan answers."""
    utilization: SignedNumber | None = None
    """Needed accelerator-seconds over paid ones, e.g. "0.62"."""
    busy_ratio: SignedNumber | None = None
    """Share of paid seconds in which the accelerators ran anything, e.g. "0.91"."""
    kv_hit_ratio: SignedNumber | None = None
    """Share of input tokens found in the KV cache, e.g. "0.48"."""
    next_flip: Label | None = None
    """The next flip in words, e.g. 22:00 Europe/Berlin: 2 nodes to training."""
    flipping: FlippingStatus | None = None
    """Loans of nodes to training: what is needed, what is lent, and what comes next."""
