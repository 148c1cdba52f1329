"""InferencePool: one model, served by replicas on one or more accelerator types at the lowest cost per token."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tidefleet.api.base import Model, Resource, Rule, name_rule
from tidefleet.api.flipping import FlippingSpec
from tidefleet.api.inference_pool_status import InferencePoolStatus
from tidefleet.api.leaves import Integer, Many, Opaque, Text
from tidefleet.api.scalars import (
    USD,
    Count,
    FactorFromOne,
    HeaderName,
    ModelName,
    Name,
    Port,
    PositiveCount,
    PositiveNumber,
    PositiveUSD,
    Quantity,
    Share,
    Word,
)
from tidefleet.api.vocabulary import CapacityType, Precision

Degree = Annotated[int, Integer(minimum=1, maximum=1024, expected="a positive integer", example=2)]
Replicas = Annotated[int, Integer(minimum=0, maximum=100_000, exact=True, example=2)]


class Mode(StrEnum):
    """How far the operator goes.

    Recommend writes only status and Events; Scale changes replicas but never flips; Enforce does all.
    """

    RECOMMEND = "Recommend"
    SCALE = "Scale"
    ENFORCE = "Enforce"


class DeletionPolicy(StrEnum):
    """What becomes of the workloads when the pool is deleted."""

    KEEP = "Keep"
    RESTORE = "Restore"
    DELETE = "Delete"


class EngineType(StrEnum):
    """The inference engine, whose metrics and arguments are spoken."""

    VLLM = "VLLM"
    SGLANG = "SGLang"
    OTHER = "Other"


class WorkloadKind(StrEnum):
    """The kinds of workload that can be adopted."""

    DEPLOYMENT = "Deployment"
    STATEFUL_SET = "StatefulSet"
    LEADER_WORKER_SET = "LeaderWorkerSet"


class Disaggregated(StrEnum):
    """Whether prefill and decode run on replicas of their own."""

    AUTO = "Auto"
    NEVER = "Never"
    ALWAYS = "Always"


class KVMedium(StrEnum):
    """Where a tier of the KV cache lives: the node's memory, its disk, or a store shared by all replicas."""

    HOST = "Host"
    DISK = "Disk"
    SHARED = "Shared"


class KVSizing(StrEnum):
    """Whether a tier of the KV cache has its size, or the plan says how large it pays for itself."""

    FIXED = "Fixed"
    PLANNED = "Planned"


class GatewayPoolCreation(StrEnum):
    """What to do about the upstream InferencePool of the Gateway API Inference Extension."""

    CREATE = "Create"
    REFERENCE = "Reference"
    NONE = "None"


class Adapter(Model):
    """One LoRA adapter that every replica holds."""

    name: ModelName
    """Name under which requests ask for the adapter, e.g. chat-legal."""


class ModelSpec(Model):
    """What is served: a model of the catalogue, or one described by its architecture."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.name) || has(self.architecture)",
            holds=lambda m: m.name is not None or m.architecture is not None,
            expected="a name of the catalogue, or an architecture",
            example="name: llama-3.3-70b",
        ),
    )

    name: ModelName | None = None
    """Name in the catalogue, e.g. llama-3.3-70b; with `architecture`, any name of your own."""
    architecture: Annotated[dict[str, Any], Opaque(expected="the fields of a config.json")] | None = None
    """The fields of the model's Hugging Face config.json as they are, for a model that is not in the catalogue."""
    adapters: Annotated[tuple[Adapter, ...], Many(maximum=256, keys=("name",))] = ()
    """LoRA adapters that every replica holds."""


class WorkloadRef(Model):
    """An existing workload in the pool's namespace that is only scaled, never changed otherwise."""

    kind: WorkloadKind = WorkloadKind.DEPLOYMENT
    """Kind of the workload: Deployment, StatefulSet or LeaderWorkerSet."""
    name: Annotated[
        str,
        Text(
            maximum=253,
            pattern="^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
            expected="the name of a workload",
            example="chat-h100",
        ),
    ]
    """Name of the workload, e.g. chat-h100."""
    accelerator: Name
    """AcceleratorType its pods run on, e.g. h100-sxm."""
    chips_per_replica: Degree
    """Accelerators that one replica holds, e.g. 2."""


class Engine(Model):
    """The inference engine in the pods."""

    type: EngineType = EngineType.VLLM
    """Which engine: VLLM, SGLang or Other."""
    version: Word | None = None
    """Version of the engine, e.g. 0.32.0; measured profiles are chosen by it, and old releases count as slower."""
    port: Port = 8000
    """Port of the engine's HTTP server, e.g. 8000."""
    metrics_path: Annotated[
        str, Text(maximum=256, pattern="^/[A-Za-z0-9._~/-]*$", expected="a path that begins with /", example="/metrics")
    ] = "/metrics"
    """Path of the engine's metrics on that port, e.g. /metrics."""


class Serving(Model):
    """What serves the pool: a pod template of which the operator makes workloads, or workloads that exist."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.template) != has(self.workloads)",
            holds=lambda s: (s.template is None) != (s.workloads is None),
            expected="exactly one of template and workloads",
            example="template: {spec: {containers: [...]}}",
        ),
        Rule(
            cel="has(self.template) == has(oldSelf.template)",
            expected="no change between template and workloads on a pool that exists; create another pool",
            example="a pool of another name",
        ),
    )

    template: Annotated[dict[str, Any], Opaque(expected="a pod template")] | None = None
    """Pod template (metadata and spec), at most 128 KiB. The operator adds node selector, tolerations, resources and
    engine arguments to the container named `engine`, else to the only one, and makes one Deployment (a LeaderWorkerSet
    when several nodes hold one replica) for each chosen option."""
    workloads: Annotated[tuple[WorkloadRef, ...], Many(maximum=64, minimum=1, keys=("kind", "name"))] | None = None
    """Existing workloads that are only scaled; each names the accelerator it runs on."""
    engine: Engine = Engine()
    """The inference engine in the pods."""


class Candidate(Model):
    """One accelerator type that may serve the pool, and in which forms."""

    type: Name
    """AcceleratorType, e.g. h200-sxm."""
    tensor_parallel: Annotated[tuple[Degree, ...], Many(maximum=16, unique=True)] = ()
    """Degrees of tensor parallelism to consider, e.g. [1, 2]; empty: every one at which the model fits."""
    weights: Annotated[tuple[Precision, ...], Many(maximum=8, unique=True)] = ()
    """Precisions of the weights to consider, e.g. [Bf16, Fp8]; empty: as in the template."""
    kv: Annotated[tuple[Precision, ...], Many(maximum=8, unique=True)] = ()
    """Precisions of the KV cache to consider, e.g. [Fp8]; empty: as in the template."""
    capacity_types: Annotated[tuple[CapacityType, ...], Many(maximum=4, minimum=1, unique=True)] = (
        CapacityType.ON_DEMAND,
    )
    """Ways of paying to consider, e.g. [OnDemand, Spot]."""
    max_chips: PositiveCount | None = None
    """Most accelerators of this type that the pool may hold, e.g. 64."""


class RoleRatio(Model):
    """Bounds on the ratio of prefill to decode replicas."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="min",
            cel="double(self.min) <= double(self.max)",
            holds=lambda r: float(r.min) <= float(r.max),
            expected="a ratio not above max",
            example='"0.5"',
        ),
    )

    min: PositiveNumber = Field(examples=["0.5"])
    """Fewest prefill replicas for one decode replica, e.g. "0.5"."""
    max: PositiveNumber = Field(examples=["4"])
    """Most prefill replicas for one decode replica, e.g. "4"."""


class Roles(Model):
    """How prefill and decode are split between replicas."""

    disaggregated: Disaggregated = Disaggregated.AUTO
    """Whether prefill and decode run on replicas of their own: Auto decides by cost."""
    prefill_only: Annotated[tuple[Name, ...], Many(maximum=32, unique=True)] = ()
    """Accelerator types that are used for prefill only, e.g. [rubin-cpx]."""
    prefill_to_decode: RoleRatio | None = None
    """Bounds on the ratio of prefill to decode replicas."""


class ReplicaBounds(Model):
    """Bounds on the number of replicas over all accelerator types."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="min",
            cel="self.min <= self.max",
            holds=lambda r: r.min <= r.max,
            expected="a number not above max",
            example="1",
        ),
        Rule(
            field="spare",
            cel="self.spare <= self.max",
            holds=lambda r: r.spare <= r.max,
            expected="a number not above max",
            example="1",
        ),
    )

    min: Replicas = Field(default=1, examples=[1])
    """Fewest replicas, e.g. 1; 0 lets the pool scale to zero."""
    max: Replicas = Field(default=64, examples=[64])
    """Most replicas, e.g. 64."""
    spare: Replicas = Field(default=0, examples=[1])
    """Replicas beyond the need, kept out of loans too, e.g. 1."""


class CostTarget(Model):
    """What the pool may cost. Missing a target never stops serving; it is reported."""

    usd_per_million_tokens: PositiveUSD | None = Field(default=None, examples=["0.60"])
    """USD for a million tokens, blended over uncached input, cached input and output, e.g. "0.60"."""
    monthly_budget_usd: PositiveUSD | None = Field(default=None, examples=["40000"])
    """USD for a calendar month, e.g. "40000"."""
    max_spend_increase_usd_per_hour: PositiveUSD | None = Field(default=None, examples=["50"])
    """Most USD per hour that the decisions of one hour may add, e.g. "50"."""


class KVTier(Model):
    """One place beyond the accelerator's memory where KV blocks are kept."""

    medium: KVMedium
    """Where the tier lives: Host, Disk or Shared."""
    max_bytes_per_replica: Quantity = Field(examples=[549755813888])
    """Room for one replica in bytes, e.g. 549755813888; the most that it may be where `sizing` is Planned."""
    sizing: KVSizing = KVSizing.FIXED
    """Fixed: the tier has that room, and the plan only tells how much of it pays for itself. Planned: the plan says how
    large it is (`status.plan.kvTiers`), and its replicas count on what it finds. vLLM and SGLang are started with a
    Host tier of that size, unless the template sets one up itself; set the engines up with the others."""
    bytes_per_second: Quantity = Field(examples=[25000000000])
    """Bandwidth between the tier and the accelerator in bytes per second, e.g. 25000000000."""
    latency_microseconds: Count = Field(default=0, examples=[50])
    """Time to the first byte in microseconds, e.g. 50."""
    usd_per_gib_month: USD | None = Field(default=None, examples=["0.02"])
    """USD for a GiB and month, e.g. "0.02"; absent: not counted."""


class KVCache(Model):
    """Where the KV cache may live beyond the accelerator."""

    tiers: Annotated[tuple[KVTier, ...], Many(maximum=3, keys=("medium",))] = ()
    """The tiers, one of each medium."""
    max_oversubscription: FactorFromOne | None = Field(default=None, examples=["3"])
    """Most KV of live sessions in all tiers, as a multiple of the room on the accelerators, e.g. "3"."""


class GatewayPool(Model):
    """The upstream InferencePool through which a gateway routes."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="name",
            cel="self.creation != 'Reference' || has(self.name)",
            holds=lambda g: g.creation is not GatewayPoolCreation.REFERENCE or g.name is not None,
            expected="the name of the object to refer to",
            example='"chat"',
        ),
    )

    creation: GatewayPoolCreation = GatewayPoolCreation.NONE
    """Create and own the object, only refer to it, or have None."""
    name: Name | None = None
    """Name of the object, e.g. chat; absent: the pool's own name."""


class Gateway(Model):
    """How requests reach the pool."""

    inference_pool: GatewayPool = GatewayPool()
    """The upstream InferencePool through which a gateway routes."""
    session_header: HeaderName = "x-session-id"
    """Header that names a session, e.g. x-session-id."""
    task_header: HeaderName = "x-task-id"
    """Header that names the task that a request is part of, e.g. x-task-id; its value is hashed, never logged."""
    task_outcome_header: HeaderName = "x-task-outcome"
    """Header by which a task's last request, or one after it, tells `success` or `failure`, e.g. x-task-outcome."""


class InferencePoolSpec(Model):
    """What the user asks of a pool."""

    mode: Mode = Mode.ENFORCE
    """How far the operator goes: Recommend writes only status and Events; Scale changes replicas but never flips
    accelerators to training; Enforce does all."""
    model: ModelSpec
    """What is served."""
    serving: Serving
    """What serves it."""
    accelerators: Annotated[tuple[Candidate, ...], Many(maximum=64, keys=("type",))] = ()
    """Accelerator types that may serve the pool; empty: every type that fits and has a price."""
    roles: Roles = Roles()
    """How prefill and decode are split between replicas."""
    replicas: ReplicaBounds = ReplicaBounds()
    """Bounds on the number of replicas."""
    pinned_replicas: Replicas | None = Field(default=None, examples=[4])
    """Pins the pool to so many replicas, e.g. 4; the path of the scale subresource. Unpin with null. While it is absent
    `kubectl scale` works, and reading the scale of the pool (as a HorizontalPodAutoscaler does) is an error."""
    quality_floor: Share | None = Field(default=None, examples=["0.97"])
    """Least quality relative to the unquantised model, e.g. "0.97". Without it, levers that change answers are no
    candidates; of pool and class the higher wins."""
    cost_target: CostTarget = CostTarget()
    """What the pool may cost."""
    kv_cache: KVCache = KVCache()
    """Where the KV cache may live beyond the accelerator."""
    flipping: FlippingSpec = FlippingSpec()
    """When accelerators of the pool may be loaned to training."""
    gateway: Gateway = Gateway()
    """How requests reach the pool."""
    deletion_policy: DeletionPolicy = DeletionPolicy.KEEP
    """What becomes of the workloads when the pool is deleted: Keep leaves them, Restore sets adopted ones back to
    the replicas they had, Delete removes those made from a template (adopted ones are never deleted)."""


class InferencePool(Resource):
    """One model, served by replicas on one or more accelerator types at the lowest cost per token."""

    KIND: ClassVar[str] = "InferencePool"
    PLURAL: ClassVar[str] = "inferencepools"
    SHORT_NAME: ClassVar[str] = "tpool"
    RULES: ClassVar[tuple[Rule, ...]] = (name_rule(40, "names of workloads and labels are made from it"),)

    spec: InferencePoolSpec
    """What the user asks of the pool."""
    status: InferencePoolStatus = InferencePoolStatus()
    """What the operator observed and decided."""
