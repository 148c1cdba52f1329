"""A scenario: a small file that says what fleet serves what demand, and what may go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

BIN_SECONDS = 600.0
"""Of the shapes of demand, of what is drawn of a trace at once, and of the fluid that is planned for."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class Tier(_Part):
    """A store of KV blocks outside device memory, of one replica."""

    medium: Literal["host", "disk", "shared"]
    tokens: Positive = Field(description="KV tokens that one replica keeps there")
    bytes_per_second: Positive
    latency_seconds: Seconds = 0.001


class Pool(_Part):
    """Replicas of one model on one accelerator type."""

    name: str = "main"
    model: str = Field(description="catalogue name, e.g. llama-3.3-70b")
    accelerator: str = Field(description="catalogue name, e.g. h200-sxm")
    replicas: Count
    chips_per_replica: Count = 2
    replicas_per_node: Count = Field(default=1, description="a node flips as a whole")
    weights: str = "Fp8"
    kv: str = "Fp8"
    role: Literal["aggregated", "prefill", "decode"] = "aggregated"
    max_batch: Count = 256
    chunk_tokens: Count = 2048
    kv_tokens: Positive | None = Field(
        default=None, description="KV room of a replica; what the memory leaves, unless set"
    )
    tiers: tuple[Tier, ...] = ()
    operating_tpot_seconds: Positive | None = Field(
        default=None,
        description="mean time per token at the operating point; the strictest objective of its classes, unless set",
    )
    spot_share: Share = 0.0
    usd_per_chip_hour: Positive | None = Field(default=None, description="the catalogue's price, unless set")
    serves: str | None = Field(
        default=None, description="a pool whose demand these replicas serve too: the same model on another type"
    )


class Objective(_Part):
    """When a request is in time: TTFT within ``ttftSeconds`` plus so much per 1,000 prompt tokens; mean TPOT."""

    ttft_seconds: Positive
    ttft_seconds_per_thousand: Seconds = 0.1
    tpot_seconds: Positive


class Spill(_Part):
    """An external API that takes what the fleet cannot, and what it charges."""

    usd_per_million_input_tokens: Positive
    usd_per_million_output_tokens: Positive


class Class(_Part):
    """One class of demand."""

    name: str
    pool: str = "main"
    source: str = Field(description="mooncake-conversation, ragpulse, claude-code, azure2023-code, azure2023-conv, "
                        "servegen:<model>, or the path of a file of requests")  # fmt: skip
    share: Share = Field(default=0.0, description="of the accelerator time that people wait for")
    shape: str | None = Field(
        default=None, description="column of fleet_shape_7d_10min.csv; a constant rate, unless set"
    )
    objective: Objective | None = Field(default=None, description="none for deferrable work")
    priority: int = 0
    deadline_seconds: Positive | None = Field(default=None, description="deferrable: to be done so long after it came")
    volume_share: Share = Field(default=0.0, description="deferrable: of the accelerator time of the whole fleet")
    rate_factor: Positive = 1.0
    output_factor: Positive = 1.0
    spill: Spill | None = Field(
        default=None, description="takes requests of this class while the fleet is asked for more than it carries"
    )


class Flips(_Part):
    """How nodes change sides, and what is kept ready."""

    enabled: bool = True
    recall_seconds: Seconds = Field(
        default=720.0, description="what is allowed for a node's way home; loans end so many slots early, and one more"
    )
    dwell_seconds: Seconds = 3600.0
    spare_replicas: Annotated[int, Field(ge=0)] = 1
    fill: Share = Field(default=0.95, description="share of a replica's operating point that is planned for")
    quantile: Share = 0.9
    drain_seconds: Seconds = 120.0
    start_seconds: Seconds = 60.0
    checkpoint_seconds: Seconds = 21.0
    load_seconds: Seconds = 80.0
    warm_seconds: Seconds = 79.0


class Training(_Part):
    """What trains on nodes that are lent."""

    backlog: Literal["philly", "endless", "none"] = Field(
        default="philly",
        description="jobs of the traces of Philly, jobs of a node each without an end, or nobody",
    )
    checkpoint_every_seconds: Positive = 1800.0
    restart_seconds: Seconds = 120.0
    usd_per_gpu_hour: Positive | None = Field(
        default=None, description="what it is worth; the accelerator's price, unless set"
    )


class Faults(_Part):
    """What goes wrong, by chance from the seed."""

    node_hours_between_failures: Positive | None = None
    node_repair_seconds: Seconds = 1800.0
    engine_hours_between_failures: Positive | None = None
    engine_restart_seconds: Seconds = 120.0
    spot_reclaims_per_hour: Seconds = 0.0
    spot_storm_at_seconds: Seconds | None = None
    spot_storm_share: Share = 0.0
    spot_return_seconds: Seconds = 3600.0


class Surge(_Part):
    """A stretch in which a class asks for more, or its answers are longer."""

    wclass: str = Field(alias="class")
    begin_seconds: Seconds
    seconds: Positive
    rate_factor: Positive = 1.0
    output_factor: Positive = 1.0
    output_cap_tokens: Positive | None = Field(default=None, description="longest answer that is allowed, e.g. 32768")


class Windows(_Part):
    """Stretches that are simulated request by request, beside the fluid count of everything."""

    seconds: Positive = 180.0
    warm_seconds: Seconds = 90.0
    count: Count = 42
    history_seconds: Seconds = Field(default=300.0, description="served so long before: lies in some replica's cache")
    kept_seconds: Seconds = Field(default=14400.0, description="served so long before: lies in the shared store")


class Scenario(_Part):
    """What fleet serves what demand."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    summary: str = ""
    kind: Literal["fleet", "replay", "study"]
    study: str | None = Field(default=None, description="which study, where kind is study")
    seconds: Positive = Field(default=604800.0, description="how long")
    begin_seconds: Seconds = Field(default=0.0, description="where in the traces it begins")
    pools: tuple[Pool, ...] = ()
    classes: tuple[Class, ...] = ()
    shapes: Mapping[str, Annotated[tuple[Seconds, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="by class, relative rates every 600 s that take the place of its shape; they repeat",
    )
    peak_share: Share = Field(
        default=0.925, description="share of the fleet that the busiest hour of online demand needs"
    )
    flips: Flips = Flips()
    training: Training = Training()
    faults: Faults = Faults()
    surges: tuple[Surge, ...] = ()
    site_kilowatts: Positive | None = Field(default=None, description="power that the site may draw, cooling included")
    site_pue: Annotated[float, Field(ge=1.0, le=10.0)] = Field(
        default=1.0, description="power of the site over that of its accelerators"
    )
    windows: Windows = Windows()
    router: str = Field(default="pick", description="policy; pick is ours")
    live_sessions: Count | None = Field(default=None, description="replay of closed sessions: how many at a time")
    speed: Positive = Field(default=1.0, description="replay: times the trace's own rate")
    settings: Mapping[str, float] = Field(default_factory=dict, description="of a study or a replay, by name")


def is_own_file(source: str) -> bool:
    """Whether a class reads a file of the user's, and not one of the directory of traces."""
    return "/" in source or source.endswith(_OWN)


_OWN = (".csv", ".jsonl", ".parquet", ".zst")
