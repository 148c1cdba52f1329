"""A pool's planning problem and its plan, as values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tidefleet.economics.external import ExternalOffer
from tidefleet.economics.shape import KvTier
from tidefleet.planning.apart import Apart
from tidefleet.planning.options import Candidate, ClassDemand, Market, Option
from tidefleet.planning.words import brief


@dataclass(frozen=True, slots=True)
class TierChoice:
    """One choice of sizes of a pool's KV tiers, and what can serve the pool under it.

    Attributes:
        bytes_per_replica: by tier, in the order of ``TierChoices.tiers``.
        market: the candidates with the hits of these sizes, their cost with the rent of them.
        hit_shares: by option, the share of prompt tokens that is fetched from each tier.
        ratios: by option, KV that fits on the chips and in the tiers over what fits on the chips.
    """

    bytes_per_replica: tuple[float, ...]
    market: Market
    hit_shares: Mapping[Option, tuple[float, ...]] = field(default_factory=dict)
    ratios: Mapping[Option, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TierChoices:
    """The sizes that a pool's KV tiers may have: the plan takes one choice.

    Attributes:
        tiers: fastest first; ``most_bytes`` the largest size of each, for a replica.
        now: the sizes in force, which stay unless others save enough; ``None``: there are none.
        source: what the hit shares rest on, in words.
    """

    tiers: tuple[KvTier, ...]
    most_bytes: tuple[float, ...]
    choices: tuple[TierChoice, ...]
    source: str = ""
    now: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class SizedTier:
    """How large a KV tier pays for itself.

    Attributes:
        bytes_per_replica: 0 where it does not at all; ``most_bytes`` what it may have.
        hit_share: share of prompt tokens whose KV is fetched from it.
        storage_usd_per_hour: its rent over all replicas.
        saves_usd_per_hour: what the plan would cost more without this tier, its rent counted.
    """

    medium: str
    bytes_per_replica: float
    most_bytes: float
    hit_share: float
    storage_usd_per_hour: float
    saves_usd_per_hour: float


@dataclass(frozen=True, slots=True)
class TierPlan:
    """The sizes of a pool's KV tiers.

    Attributes:
        tiers: fastest first.
        counted: whether the plan's replicas count on them; else it is advice.
        choice: index of the choice; -1 for advice.
        oversubscription: KV of sessions on the chips and in the tiers over what the chips alone have room for.
        saves_usd_per_hour: what the plan would cost more with none of those whose size is a choice.
        source: what the hit shares rest on, in words.
    """

    tiers: tuple[SizedTier, ...]
    counted: bool
    choice: int
    oversubscription: float
    source: str
    saves_usd_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolProblem:
    """Everything the plan of a pool depends on.

    Attributes:
        pool: ``namespace/name``.
        classes: demand by class; shares sum to 1.
        requests_per_second: demand to plan for, all classes.
        market: what can serve it.
        minimum, maximum, spare: replica bounds; ``pinned`` replaces all three.
        type_caps: most chips per accelerator type, and ``cap_reasons`` why.
        steered: most chips per group as far as the whole nodes of all pools go, and ``steered_because`` why: no limit,
            but a choice.
        target_usd_per_million_tokens, monthly_budget_usd: soft limits, ``None`` when unset.
        running: replicas now asked for, by option.
        may_switch: whether the dwell since the last change of accelerators has passed.
        start_seconds: time from asking for a replica to its first answer: while accelerators change, both are paid.
        priority: of its most important class; where shared limits leave not enough for all, the higher is served first.
        external: offers of external APIs for the pool's tokens; what they would cost is told.
        apart: prefill and decode on replicas of their own; what that would cost is told.
        tiers: sizes of its KV tiers to choose from; ``market`` is that without any.
    """

    pool: str
    classes: tuple[ClassDemand, ...]
    requests_per_second: float
    market: Market
    minimum: int = 1
    maximum: int = 64
    spare: int = 0
    pinned: int | None = None
    type_caps: Mapping[str, int] = field(default_factory=dict)
    cap_reasons: Mapping[str, str] = field(default_factory=dict)
    steered: Mapping[str, int] = field(default_factory=dict)
    steered_because: str = ""
    target_usd_per_million_tokens: float | None = None
    monthly_budget_usd: float | None = None
    running: Mapping[Option, int] = field(default_factory=dict)
    may_switch: bool = True
    start_seconds: float = 480.0
    priority: int = 100
    external: tuple[ExternalOffer, ...] = ()
    apart: tuple[Apart, ...] = ()
    tiers: TierChoices | None = None

    @property
    def caps(self) -> dict[str, int]:
        """Most chips by accelerator type and by group: limits, and what is chosen for the sake of all pools."""
        both = dict(self.type_caps)
        for group, cap in self.steered.items():
            both[group] = min(cap, both.get(group, cap))
        return both

    @property
    def spot_share(self) -> float:
        """Most of the demand that may be on spot capacity: replicas serve the mix, so the strictest class counts."""
        return min((one.spot_share for one in self.classes), default=1.0)


@dataclass(frozen=True, slots=True)
class Chosen:
    """An option of the plan and its replicas."""

    candidate: Candidate
    replicas: int

    @property
    def option(self) -> Option:
        """The option itself."""
        return self.candidate.option


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """A choice that lost. ``usd_per_million_tokens`` is ``None`` when it cannot serve or has no price."""

    option: str
    usd_per_million_tokens: float | None
    lost_because: str


@dataclass(frozen=True, slots=True)
class BreakEven:
    """The value of ``what`` at which the choice would flip."""

    what: str
    at: float


@dataclass(frozen=True, slots=True)
class ShadowPrice:
    """What one more unit of a limit that binds would save, in USD per hour."""

    what: str
    usd_per_hour: float


@dataclass(frozen=True, slots=True)
class Spilled:
    """Demand that an external API would take: cheaper than the last replicas do, or at all.

    Attributes:
        api: the provider and its model.
        share: of the pool's demand, 0..1; ``usd_per_hour`` what the API charges for it.
        saves_usd_per_hour: rent of the replicas that it makes unneeded, less that; 0 for what nothing else can serve.
    """

    api: str
    share: float
    usd_per_hour: float
    saves_usd_per_hour: float

    def __str__(self) -> str:
        part = f"{self.share:.0%} of the requests sent to {self.api} would cost ${brief(self.usd_per_hour)}/h"
        if self.saves_usd_per_hour > 0:
            return (
                f"{part} and save ${brief(self.saves_usd_per_hour)}/h; a gateway has to send them, this plan does not"
            )
        return f"{part}: no chips can be had for them; a gateway has to send them, this plan does not"


@dataclass(frozen=True, slots=True)
class IdleNodes:
    """The nodes of one type and way to pay that a pool stands on, with others or alone.

    Attributes:
        nodes: whole nodes that all pools hold chips of; ``idle`` chips of them that none holds.
        usd_per_hour: rent of the idle chips; ``own_usd_per_hour`` the pool's part of it, by the chips it holds.
    """

    accelerator: str
    capacity_type: str
    nodes: int
    chips_per_node: int
    idle: int
    usd_per_hour: float
    own_usd_per_hour: float

    def __str__(self) -> str:
        of = (
            f"of {self.nodes * self.chips_per_node} chips of {self.nodes} nodes"
            if self.nodes > 1
            else (f"of {self.chips_per_node} chips of a node")
        )
        rent = f": ${brief(self.usd_per_hour)}/h" if self.usd_per_hour else ""
        return f"{self.idle} {of} of {self.accelerator} idle{rent}"


@dataclass(frozen=True, slots=True)
class Missed:
    """A target that a plan misses: ``what`` is ``CostTarget``, ``Budget``, ``Capacity``, ``Replicas`` or ``Spare``."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What serves a pool, at what cost, and why.

    Attributes:
        chosen: options with at least one replica, dearest first.
        requests_per_second: demand planned for; ``capacity`` what the plan sustains at planning utilisation.
        usd_per_hour: rent; ``lower_bound_usd_per_hour`` proven: no plan for this demand can cost less.
        usd_per_million_tokens: rent over planned tokens, idle included; ``None`` without demand.
        savings_usd_per_hour: against the best plan of one accelerator type.
        shortfall: share of demand that the limits leave without capacity, 0..1.
        missed: targets that the plan misses.
        shadow_prices: what the limits that bind cost, dearest first.
        spill: what an external API that a class names would take cheaper, or at all.
        nodes: the nodes that it stands on with the other pools' plans, where their size is known.
        others: replicas of the best plan of each other type alone, cheapest first, while the prices at which they would
            win are not known yet: those of a plan that is led by the whole nodes of all pools.
        reason: one sentence; the status, the Event, the log and the CLI show it.
        proven: no cheaper plan exists under the limits; False when the search was cut short.
        tiers: how large its KV tiers pay for themselves, where it has any.
        kept: why the present accelerators were kept although others are cheaper: ``Saving`` (too small) or ``Dwell``.
    """

    pool: str
    chosen: tuple[Chosen, ...]
    requests_per_second: float
    tokens_per_second: float
    capacity: float
    usd_per_hour: float
    lower_bound_usd_per_hour: float
    usd_per_million_tokens: float | None
    savings_usd_per_hour: float
    shortfall: float
    missed: tuple[Missed, ...]
    runners_up: tuple[RunnerUp, ...]
    break_even: tuple[BreakEven, ...]
    reason: str
    proven: bool = True
    kept: str = ""
    shadow_prices: tuple[ShadowPrice, ...] = ()
    nodes: tuple[IdleNodes, ...] = ()
    spill: Spilled | None = None
    tiers: TierPlan | None = None
    others: tuple[tuple[Chosen, ...], ...] = ()

    @property
    def replicas(self) -> int:
        """Replicas in all."""
        return sum(one.replicas for one in self.chosen)


@dataclass(frozen=True, slots=True)
class NothingFits:
    """No accelerator type can serve the pool; ``runners_up`` says why for each."""

    pool: str
    reason: str
    runners_up: tuple[RunnerUp, ...]


def describe(chosen: Iterable[tuple[Option, int]]) -> str:
    """Options and replicas as a phrase, most replicas first: ``6 h200-sxm (fp8, tp2), 2 l40s (fp8, tp1)``."""
    held = sorted(((count, str(option)) for option, count in chosen if count), key=lambda one: (-one[0], one[1]))
    return ", ".join(f"{count} {option}" for count, option in held) or "no replicas"


def tokens_per_request(problem: PoolProblem) -> float:
    """Mean tokens of a request of the pool's mix."""
    return sum(one.share * (one.shape.input_mean + one.shape.output_mean) for one in problem.classes)


def per_million(usd_per_hour: float, tokens_per_second: float) -> float | None:
    """USD per million tokens; ``None`` without tokens."""
    return usd_per_hour / (tokens_per_second * 3600.0) * 1e6 if tokens_per_second > 0 else None
