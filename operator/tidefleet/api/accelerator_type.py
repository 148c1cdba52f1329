"""AcceleratorType: one row of the catalogue, with what it can do, what it costs and how its nodes are known."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from tidefleet.api.base import Model, Resource, Rule, name_rule
from tidefleet.api.conditions import Conditions, ConditionStatus, Generation
from tidefleet.api.inference_pool import EngineType
from tidefleet.api.leaves import Integer, Many, Text
from tidefleet.api.scalars import (
    Availability,
    Count,
    Date,
    ExactWatts,
    LabelMap,
    ModelName,
    Note,
    OptionalWord,
    PositiveCount,
    PositiveTokens,
    PositiveUSD,
    PreciseMilliseconds,
    QualifiedName,
    Quantity,
    Tokens,
    Watts,
    Word,
)
from tidefleet.api.vocabulary import CapacityType, Precision, Role

Source = Annotated[str, Text(maximum=1024, expected="where the value comes from", example="the vendor's datasheet")]


class PriceState(StrEnum):
    """Whether a price is used."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"


class Plausibility(StrEnum):
    """Whether a price is compared with what such accelerators are known to cost.

    Override takes it as it is.
    """

    CHECKED = "Checked"
    OVERRIDE = "Override"


class ComputeFlops(Model):
    """Dense peak compute by precision, without sparsity."""

    bf16: Quantity | None = Field(default=None, examples=[989000000000000])
    """FLOP per second in bf16, dense, e.g. 989000000000000."""
    fp8: Quantity | None = Field(default=None, examples=[1979000000000000])
    """FLOP per second in fp8, dense, e.g. 1979000000000000; absent: not supported."""
    fp4: Quantity | None = Field(default=None, examples=[9000000000000000])
    """FLOP per second in fp4, dense, e.g. 9000000000000000; absent: not supported."""


class BoughtAs(StrEnum):
    """What of a type is bought and scheduled as one: a node, or the whole scale-up domain, such as a rack."""

    NODE = "Node"
    DOMAIN = "Domain"


class ScaleUp(Model):
    """The link that joins accelerators of one domain, such as NVLink."""

    bytes_per_second: Quantity = Field(examples=[450000000000])
    """Bandwidth of one accelerator, one way, in bytes per second, e.g. 450000000000."""
    domain_chips: Annotated[
        int, Integer(minimum=1, maximum=1_000_000, expected="a positive integer of accelerators", example=8)
    ]
    """Accelerators in one domain, e.g. 8."""
    bought_as: BoughtAs = BoughtAs.NODE
    """What is bought and scheduled as one: a Node, or the whole Domain, e.g. a rack of 72. Plans count whole racks
    where the operator's configuration says `wholeRacks`."""


class Price(Model):
    """What an hour of one accelerator costs, in one place and way of paying."""

    capacity_type: CapacityType
    """How it is paid for: OnDemand, Spot, Reserved or Owned."""
    provider: OptionalWord = Field(default="", examples=["aws"])
    """Who rents it out, e.g. aws; empty: any."""
    region: OptionalWord = ""
    """Where, e.g. us-east-1; empty: anywhere."""
    usd_per_chip_hour: PositiveUSD
    """USD for one accelerator and hour, e.g. "2.10"."""
    as_of: Date | None = None
    """When the price was collected, e.g. "2026-11-21"."""
    source: Source | None = Field(default=None, examples=["list price of 2026-11-21"])
    """Where it comes from, e.g. list price of 2026-11-21."""
    minimum_term_days: Count | None = Field(default=None, examples=[365])
    """Shortest commitment in days, e.g. 365."""
    term_ends_on: Date | None = Field(default=None, examples=["2027-03-31"])
    """Last day of the commitment, e.g. "2027-03-31"; after it the price is not used."""
    chips: PositiveCount | None = Field(default=None, examples=[64])
    """Accelerators that are committed to, e.g. 64; absent: those of all nodes with its labels."""
    availability: Availability | None = None
    """Share of time that such a chip is there, e.g. "0.9" for spot; so much of it is counted on; absent: all."""
    node_selector: LabelMap = Field(default={})
    """Labels of the nodes that cost this, e.g. {karpenter.sh/capacity-type: spot}."""
    state: PriceState = PriceState.ENABLED
    """Disabled: the price is kept but not used."""
    plausibility: Plausibility | None = None
    """Override: the price is right although it looks like a mistake of unit; absent: Checked."""


class HealthCondition(Model):
    """A node condition that means trouble for the accelerators."""

    type: QualifiedName = Field(examples=["GpuUnhealthy"])
    """Type of the node condition, e.g. GpuUnhealthy."""
    status: ConditionStatus
    """Status that means trouble, e.g. True."""
    toleration_seconds: Annotated[int, Integer(minimum=0, maximum=604_800, example=300)] = 300
    """How long it may last before the node counts as unhealthy, in seconds, e.g. 300."""


class Health(Model):
    """When a node of this type counts as unhealthy."""

    conditions: Annotated[tuple[HealthCondition, ...], Many(maximum=32, keys=("type", "status"))] = ()
    """Node conditions that mean trouble."""


class ProfilePoint(Model):
    """One measured point."""

    batch: PositiveCount = Field(examples=[32])
    """Concurrent requests, e.g. 32."""
    input_tokens: PositiveTokens
    """Input tokens of a request, e.g. 1800."""
    output_tokens: Tokens = Field(examples=[300])
    """Output tokens of a request, e.g. 300."""
    tpot_milliseconds: PreciseMilliseconds
    """Time per output token in milliseconds, an integer or a decimal string, e.g. "12.5"."""
    ttft_milliseconds: PreciseMilliseconds = Field(examples=["240"])
    """Time to first token in milliseconds, an integer or a decimal string, e.g. 240."""


class Profile(Model):
    """Measured speed of one model on this type."""

    model: ModelName
    """The model, e.g. llama-3.3-70b."""
    engine: EngineType
    """The engine, e.g. VLLM."""
    engine_version: Word
    """Its version, e.g. 0.32.0."""
    tensor_parallel: Annotated[int, Integer(minimum=1, maximum=1024, expected="a positive integer", example=2)]
    """Degree of tensor parallelism, e.g. 2."""
    weights: Precision
    """Precision of the weights, e.g. Fp8."""
    points: Annotated[tuple[ProfilePoint, ...], Many(maximum=256, minimum=1)]
    """The measured points."""
    measured_on: Date
    """When it was measured, e.g. "2026-11-21"."""
    source: Source
    """Where the measurement comes from, e.g. our own benchmark."""


class Sources(Model):
    """Where the facts come from."""

    memory: Source | None = None
    """Source of memory and its bandwidth, e.g. the vendor's datasheet."""
    compute: Source | None = None
    """Source of compute, e.g. the vendor's datasheet."""
    power: Source | None = None
    """Source of power, e.g. the vendor's datasheet."""
    interconnect: Source | None = None
    """Source of the links, e.g. the vendor's datasheet."""


class AcceleratorTypeSpec(Model):
    """What is known of an accelerator. Unknown is absent, never 0."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="idleWatts",
            cel="!has(self.idleWatts) || !has(self.tdpWatts) || self.idleWatts <= self.tdpWatts",
            holds=lambda s: s.idle_watts is None or s.tdp_watts is None or s.idle_watts <= s.tdp_watts,
            expected="watts not above tdpWatts",
            example="75",
        ),
    )

    vendor: Word = Field(examples=["NVIDIA"])
    """Who makes it, e.g. NVIDIA."""
    memory_bytes: Quantity
    """Memory of one accelerator in bytes, e.g. 85899345920."""
    memory_bytes_per_second: Quantity = Field(examples=[3350000000000])
    """Memory bandwidth in bytes per second, e.g. 3350000000000."""
    compute_flops: ComputeFlops
    """Dense peak compute by precision."""
    tdp_watts: ExactWatts | None = None
    """Thermal design power of one accelerator in watts, e.g. 700."""
    idle_watts: ExactWatts | None = Field(default=None, examples=[75])
    """Power of an idle accelerator in watts, e.g. 75."""
    facility_watts_per_chip: Watts | None = Field(default=None, examples=[1730])
    """Power of the whole facility for each accelerator in watts, e.g. 1730."""
    scale_up: ScaleUp | None = None
    """The link that joins accelerators of one domain."""
    scale_out_bytes_per_second: Quantity | None = Field(default=None, examples=[50000000000])
    """Network bandwidth of one accelerator beyond its domain, one way, in bytes per second, e.g. 50000000000."""
    resource_name: QualifiedName | None = None
    """Extended resource that pods ask for, e.g. nvidia.com/gpu; absent: planned with, never placed."""
    device_class: (
        Annotated[str, Text(maximum=253, pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", example="gpu.nvidia.com")] | None
    ) = None
    """DeviceClass for dynamic resource allocation, e.g. gpu.nvidia.com."""
    node_selector: LabelMap = Field(default={})
    """Labels of its nodes, e.g. {nvidia.com/gpu.product: NVIDIA-L4}; absent: planned with, never placed."""
    chips_per_node: (
        Annotated[int, Integer(minimum=1, maximum=1024, expected="a positive integer of accelerators", example=8)]
        | None
    ) = None
    """Accelerators in one node, e.g. 8."""
    prices: Annotated[tuple[Price, ...], Many(maximum=64, keys=("capacityType", "provider", "region"))] = ()
    """What an hour costs; without an enabled price the type is no candidate."""
    health: Health = Health()
    """When a node of this type counts as unhealthy."""
    roles: Annotated[tuple[Role, ...], Many(maximum=3, minimum=1, unique=True)] = (
        Role.AGGREGATED,
        Role.PREFILL,
        Role.DECODE,
    )
    """What it is good for: Aggregated, Prefill and Decode."""
    profiles: Annotated[
        tuple[Profile, ...],
        Many(maximum=64, keys=("model", "engine", "engineVersion", "tensorParallel", "weights")),
    ] = ()
    """Measured speed; where there is none, it is computed from the facts above."""
    sources: Sources = Sources()
    """Where the facts come from."""
    notes: Note | None = None
    """Anything else worth knowing, e.g. measured on a cloud instance."""


class AcceleratorTypeStatus(Model):
    """What the operator sees of the type in the cluster."""

    conditions: Conditions = ()
    """Ready and Validated."""
    observed_generation: Generation | None = None
    """The `metadata.generation` that this status answers."""
    nodes: Count | None = None
    """Nodes of this type, e.g. 12."""
    chips: Count | None = None
    """Accelerators on them, e.g. 96."""
    chips_in_use: Count | None = None
    """Accelerators that pods hold, e.g. 64."""
    price_used: Annotated[str, Text(maximum=256, minimum=0)] | None = None
    """The price that plans use, in words, e.g. 2.10 USD per chip-hour OnDemand (catalogue, 2026-11-21)."""


class AcceleratorType(Resource):
    """One type of accelerator: memory, bandwidth, compute, power, prices, and how its nodes are known."""

    KIND: ClassVar[str] = "AcceleratorType"
    PLURAL: ClassVar[str] = "acceleratortypes"
    SHORT_NAME: ClassVar[str] = "taccel"
    NAMESPACED: ClassVar[bool] = False
    RULES: ClassVar[tuple[Rule, ...]] = (name_rule(63, "it is a label's value"),)

    spec: AcceleratorTypeSpec
    """What is known of the accelerator."""
    status: AcceleratorTypeStatus = AcceleratorTypeStatus()
    """What the operator sees of it."""
