"""The options a pool has: every accelerator, width, precision and capacity type that can serve its classes, priced."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tidefleet.economics.accelerator import Accelerator
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.disaggregated import Disaggregated, pair
from tidefleet.economics.evidence import Correction
from tidefleet.economics.groups import Other
from tidefleet.economics.money import ChipCost, power_usd_per_hour
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import CannotServe, Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape
from tidefleet.planning.evidence import NO_EVIDENCE, Evidence, Profile

PLANNING_UTILISATION = 0.85
"""Share of a replica's sustained rate the plan uses, so that arrivals that bunch do not break objectives."""


OWNED, SPOT = "Owned", "Spot"

COMMITTED_SHARE = 0.99

MOST_PAID_BACK = 0.99
"""Share of the rent that electricity at negative prices pays for at most."""

_BETWEEN_TOKENS = ("TPOT", "Stall")

_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Price:
    """Rent of one chip of an accelerator type.

    ``source`` names where it comes from; ``catalogue`` tells a shipped list price from one that a user set;
    ``selector`` are the labels of the nodes that cost this; ``committed``: it is owed for a term, used or not;
    ``availability`` is the share of time that such a chip is there: a replica's capacity counts for so much.
    """

    usd_per_chip_hour: float
    source: str = ""
    as_of: str = ""
    catalogue: bool = False
    selector: frozenset[tuple[str, str]] = frozenset()
    committed: bool = False
    availability: float = 1.0


@dataclass(frozen=True, slots=True)
class Electricity:
    """What electricity costs whoever owns the chips of a type, where all of its nodes stand.

    Attributes:
        site: the place.
        usd_per_kilowatt_hour: mean of the time that a plan is committed to; ``now`` that of this moment, ``None`` where
            the tariff does not say.
        pue: facility power over the accelerators'.
    """

    site: str
    usd_per_kilowatt_hour: float
    now: float | None
    pue: float = 1.0


@dataclass(frozen=True, slots=True)
class Option:
    """One way to serve a model: what a Deployment of its own is made for.

    ``workload`` names an existing workload that this option scales (adopted pools), empty otherwise.
    """

    accelerator: str
    capacity_type: str
    tensor_parallel: int
    weights: str
    kv: str
    workload: str = ""

    @property
    def chips(self) -> int:
        """Chips of one replica."""
        return self.tensor_parallel

    def key(self, pool: str) -> str:
        """Eight hexadecimal digits that name this option of a pool; stable across versions of the operator."""
        parts = (
            pool, self.accelerator, self.capacity_type, str(self.tensor_parallel), "1", "1",
            self.weights, self.kv, "Aggregated", "",
        )  # fmt: skip
        return hashlib.sha256("/".join(parts).encode()).hexdigest()[:8]

    def __str__(self) -> str:
        traits = [self.weights.lower(), f"tp{self.tensor_parallel}"]
        if self.capacity_type != "OnDemand":
            traits.append(self.capacity_type.lower())
        return f"{self.accelerator} ({', '.join(traits)})"


@dataclass(frozen=True, slots=True)
class ClassDemand:
    """One class of demand on a pool: its share of requests, their lengths and their objectives.

    ``spot_share`` is the most of it that may be on spot capacity.
    """

    name: str
    share: float
    shape: TokenShape
    objectives: tuple[Objective, ...] = ()
    spot_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a pool's owner allows of one accelerator type; empty tuples mean the default choice.

    ``refused`` says why nothing is allowed at all (a quality floor, an engine that cannot be asked for a precision).
    """

    tensor_parallel: tuple[int, ...] = ()
    weights: tuple[str, ...] = ()
    kv: tuple[str, ...] = ()
    capacity_types: tuple[str, ...] = ()
    max_chips: int | None = None
    refused: str = ""


ANY_TYPE = ""
"""Key of what is allowed of every type, where the owner names none."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An option that meets every class's objectives.

    Attributes:
        requests_per_second: what one replica sustains of the pool's mix of classes: the lower quantile plans use.
        usd_per_hour: rent of one replica, and its electricity where the owner of the chips pays for it.
        estimates: the operating point for each class, in the order of the classes.
        electricity_usd_per_hour: that part of it; ``owner_kilowatts`` the power paid for, facility included.
        multiple: its replicas are bought by so many at once: those that fill a rack; 1 for any number.
        storage_usd_per_hour: the part of its cost that is rent of KV tiers.
    """

    option: Option
    price: Price
    requests_per_second: float
    usd_per_hour: float
    estimates: tuple[Estimate, ...]
    electricity_usd_per_hour: float = 0.0
    owner_kilowatts: float = 0.0
    multiple: int = 1
    storage_usd_per_hour: float = 0.0

    @property
    def rent_usd_per_hour(self) -> float:
        """The part of its cost that is the price of its chips."""
        return self.usd_per_hour - self.electricity_usd_per_hour - self.storage_usd_per_hour

    @property
    def committed_usd_per_hour(self) -> float:
        """The part of its cost that is owed whether it runs or not: nearly all of a committed rent.

        What is left keeps a plan from using more than it needs.
        """
        return COMMITTED_SHARE * self.rent_usd_per_hour if self.price.committed else 0.0

    @property
    def usd_per_request(self) -> float:
        """Dollars per request when fully loaded."""
        return self.usd_per_hour / 3600.0 / self.requests_per_second


@dataclass(frozen=True, slots=True)
class Rejected:
    """An accelerator type that cannot serve the pool, and why its best try failed.

    ``cause``: ``Unprofiled``, ``PlanOnly``, ``Memory``, ``Context``, ``Width``, ``Precision``, ``Role``, an objective.
    """

    accelerator: str
    cause: str
    detail: str


@dataclass(frozen=True, slots=True)
class Offer:
    """One accelerator type on the market: what it is, what it costs by capacity type, and whether it may serve.

    ``round_trip_seconds`` is how far users are from where it stands: taken off what they are promised. ``rack_chips``:
    it is rented by whole racks of so many chips; 0 for any number.
    """

    accelerator: Accelerator
    prices: Mapping[str, Price]
    plan_only: str = ""
    serves_aggregated: bool = True
    profiles: tuple[Profile, ...] = ()
    electricity: Electricity | None = None
    round_trip_seconds: float = 0.0
    rack_chips: int = 0


@dataclass(slots=True)
class EstimateMemo:
    """Remembers estimates: the same replica, lengths and objectives always give the same operating point.

    Bounded: a tenth, what was asked for longest ago, goes when ``limit`` entries are reached, or twice what the last
    pass over a fleet asked for. A fixed limit below that would forget each estimate just before it is asked for again.

    Attributes:
        other: the model of the time beside the roofline that estimates may rest on; ``None``: there is none.
    """

    limit: int = 20_000
    other: Other | None = None
    _asked: int = 0
    _last_pass: int = 0
    _known: dict[tuple[object, ...], Estimate | CannotServe] = field(default_factory=dict)
    _pairs: dict[tuple[object, ...], Disaggregated | CannotServe] = field(default_factory=dict)

    def begin_pass(self) -> None:
        """Another pass over the fleet begins."""
        self._last_pass, self._asked = self._asked, 0

    def get(
        self,
        replica: Replica,
        shape: TokenShape,
        objectives: tuple[Objective, ...],
        correction: Correction | None = None,
        *,
        role: str = "Aggregated",
    ) -> Estimate | CannotServe:
        """The estimate for this replica, class and role, computed once."""
        key = (replica, shape, objectives, correction, role)
        known = self._known.pop(key, None)
        if known is None:
            known = estimate(replica, shape, objectives, role=role, correction=correction)
        self._remember(self._known, key, known)
        return known

    def pair(
        self,
        sender: Replica,
        receiver: Replica,
        shape: TokenShape,
        objectives: tuple[Objective, ...],
        *,
        prefill_correction: Correction | None,
        decode_correction: Correction | None,
    ) -> Disaggregated | CannotServe:
        """The operating points of a prefill and a decode replica together, computed once."""
        key = (sender, receiver, shape, objectives, prefill_correction, decode_correction)
        known = self._pairs.pop(key, None)
        if known is None:
            known = pair(
                sender,
                receiver,
                shape,
                objectives,
                prefill_correction=prefill_correction,
                decode_correction=decode_correction,
            )
        self._remember(self._pairs, key, known)
        return known

    def _remember(self, known: dict[tuple[object, ...], _V], key: tuple[object, ...], value: _V) -> None:
        """Put an entry last, since it was asked for just now."""
        self._asked += 1
        if len(known) >= max(self.limit, 2 * self._last_pass):
            for old in list(known)[: max(1, len(known) // 10)]:
                del known[old]
        known[key] = value


def default_widths(accelerator: Accelerator) -> tuple[int, ...]:
    """Tensor-parallel widths worth trying: powers of two up to one node and the scale-up domain."""
    widest = max(1, min(accelerator.chips_per_node or 1, max(1, accelerator.scale_up_domain)))
    return tuple(2**i for i in range(widest.bit_length()) if 2**i <= widest)


@dataclass(frozen=True, slots=True)
class Market:
    """What can serve a pool.

    Attributes:
        candidates: priced options that meet every class's objectives.
        unpriced: options that would meet them but have no price, at a rent of 1 USD per chip-hour for comparison.
        rejected: accelerator types that cannot serve, one reason each.
    """

    candidates: tuple[Candidate, ...]
    unpriced: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]


def find_candidates(
    model: Architecture,
    offers: Iterable[Offer],
    classes: Sequence[ClassDemand],
    allowed: Mapping[str, Allowed],
    *,
    default_weights: str,
    default_kv: str,
    memo: EstimateMemo,
    evidence: Evidence = NO_EVIDENCE,
) -> Market:
    """Every option that can serve all classes of a pool, and one reason for each accelerator type that cannot.

    Args:
        allowed: the accelerator types the owner names; none (but ``ANY_TYPE``) means every type.
        default_weights, default_kv: precisions where the owner names none (those of the pod template).
        evidence: what has been measured about the pool's replicas.
    """
    found: list[Candidate] = []
    unpriced: list[Candidate] = []
    rejected: list[Rejected] = []
    for offer in offers:
        name = offer.accelerator.name
        if name not in allowed and allowed.keys() - {ANY_TYPE}:
            continue
        wish = allowed.get(name, allowed.get(ANY_TYPE, Allowed()))
        if wish.refused:
            rejected.append(Rejected(name, "Precision", wish.refused))
            continue
        if not offer.serves_aggregated:
            rejected.append(Rejected(name, "Role", "serves prefill only; this pool does not split prefill and decode"))
            continue
        if offer.plan_only:
            rejected.append(Rejected(name, "PlanOnly", offer.plan_only))
            continue
        feasible: list[tuple[Option, tuple[Estimate, ...]]] = []
        failures: list[CannotServe] = []
        for width in wish.tensor_parallel or default_widths(offer.accelerator):
            if 0 < offer.accelerator.chips_per_node < width:
                per_node = offer.accelerator.chips_per_node
                failures.append(CannotServe("Width", f"{width} chips a replica do not fit a node of {per_node}"))
                continue
            if offer.rack_chips % width:  # also keeps a replica, and the experts it spreads, in one scale-up domain
                racks = f"{width} chips a replica do not fill racks of {offer.rack_chips} evenly"
                failures.append(CannotServe("Width", racks))
                continue
            for weights in wish.weights or (default_weights,):
                for kv in wish.kv or (default_kv,):
                    replica = evidence.on(Replica(model, offer.accelerator, width, weights, kv))
                    correction = evidence.correction(replica, offer.profiles)
                    results = [
                        memo.get(replica, one.shape, nearer(one.objectives, offer.round_trip_seconds), correction)
                        for one in classes
                    ]
                    estimates = tuple(value for value in results if isinstance(value, Estimate))
                    if len(estimates) == len(results):
                        feasible.append((Option(name, "OnDemand", width, weights, kv), estimates))
                    else:
                        failures.append(next(value for value in results if isinstance(value, CannotServe)))
        if not feasible:
            last = failures[-1]  # the widest try: what stands in the way even then
            rejected.append(Rejected(name, last.cause, last.detail))
            continue
        wanted = wish.capacity_types or ("OnDemand",)
        apart = _distinct(wanted, offer.prices)
        for kind in dict.fromkeys(one for one in wanted if one in offer.prices and one not in apart):
            like = next(one for one in apart if offer.prices[one].selector == offer.prices[kind].selector)
            why = f"this price has no nodeSelector of its own, so its nodes cannot be told from those of {like}"
            rejected.append(Rejected(f"{name} {kind}", "Selector", why))
        for option, estimates in feasible:
            rate = mixed_rate(classes, estimates)
            for kind in apart:
                price = offer.prices[kind]
                rent = price.usd_per_chip_hour * option.chips
                power = owner_kilowatts(offer, kind, classes, estimates)
                paid = electricity_usd_per_hour(offer, power, rent)
                found.append(
                    Candidate(
                        replace(option, capacity_type=kind),
                        price,
                        rate * price.availability,
                        rent + paid,
                        estimates,
                        electricity_usd_per_hour=paid,
                        owner_kilowatts=power,
                        multiple=_at_once(offer, option, price),
                    )
                )
            if not any(kind in offer.prices for kind in wanted):
                at_once = _at_once(offer, option, Price(1.0))
                unpriced.append(Candidate(option, Price(1.0), rate, float(option.chips), estimates, multiple=at_once))
    return Market(tuple(found), tuple(unpriced), tuple(rejected))


def _at_once(offer: Offer, option: Option, price: Price) -> int:
    """Replicas that fill a rack, where racks are bought; what is owed in any case is used by the replica."""
    return 1 if price.committed else max(1, offer.rack_chips // option.chips)


def nearer(objectives: tuple[Objective, ...], round_trip_seconds: float) -> tuple[Objective, ...]:
    """What is left of objectives for replicas that are so far from users; times between tokens do not change."""
    if not round_trip_seconds:
        return objectives
    return tuple(
        one if one.metric in _BETWEEN_TOKENS else replace(one, seconds=max(0.0, one.seconds - round_trip_seconds))
        for one in objectives
    )


def mixed_rate(classes: Sequence[ClassDemand], estimates: Sequence[Estimate]) -> float:
    """Requests per second that one replica sustains of the mix, at the lower quantile that plans use."""
    return 1.0 / sum(one.share / each.planned_requests_per_second for one, each in zip(classes, estimates, strict=True))


def owner_kilowatts(
    offer: Offer, capacity_type: str, classes: Sequence[ClassDemand], estimates: Sequence[Estimate]
) -> float:
    """Power of one replica that the owner of its chips pays for beside their price, facility included; else 0.

    Rent has electricity in it, and so has the shipped catalogue's cost of ownership. A replica is at its operating
    points for the share of time that plans load it, and idles for the rest.
    """
    price, electricity = offer.prices[capacity_type], offer.electricity
    if electricity is None or capacity_type != OWNED or price.catalogue:
        return 0.0
    meter = ChipCost(0.0, usd_per_kilowatt_hour=1.0, pue=electricity.pue)
    seconds = [one.share / each.planned_requests_per_second for one, each in zip(classes, estimates, strict=True)]
    drawn = [power_usd_per_hour(one, meter, PLANNING_UTILISATION) for one in estimates]
    return sum(s * kw for s, kw in zip(seconds, drawn, strict=True)) / sum(seconds)


def electricity_usd_per_hour(offer: Offer, kilowatts: float, rent: float) -> float:
    """What this power costs, USD per hour. Where prices are negative it pays for at most nearly all of the rent.

    A replica that earned money for nothing would be bought without bound.
    """
    if offer.electricity is None or not kilowatts:
        return 0.0
    return max(-MOST_PAID_BACK * rent, kilowatts * offer.electricity.usd_per_kilowatt_hour)


def _distinct(wanted: Sequence[str], prices: Mapping[str, Price]) -> list[str]:
    """Capacity types that can be told apart by their nodes; of those that cannot, the dearest.

    A spot price without a node selector of its own would be counted on nodes that are paid on demand.
    """
    dearest: dict[frozenset[tuple[str, str]], str] = {}
    for kind in wanted:
        if kind in prices:
            selector = prices[kind].selector
            other = dearest.get(selector)
            if other is None or prices[kind].usd_per_chip_hour > prices[other].usd_per_chip_hour:
                dearest[selector] = kind
    return [kind for kind in wanted if kind in dearest.values()]
