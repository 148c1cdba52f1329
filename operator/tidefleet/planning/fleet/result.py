"""What the planner answers: a plan, a set of demands that cannot be met, or that the solver failed."""

from __future__ import annotations

from dataclasses import dataclass

from tidefleet.planning.fleet.problem import Floats, Ints


@dataclass(frozen=True, slots=True)
class Costs:
    """What a plan's cost is made of, USD per hour; ``total`` is what is minimised and what the bound is compared with.

    ``credits`` (reserved chips in use, chips that earn at night) is at most 0; ``budget_penalty`` is not money: it is
    what the dollars above a soft budget count beyond themselves.
    """

    replicas: float
    starts_and_stops: float
    nodes: float
    storage: float
    spill: float
    shortfall: float
    credits: float
    budget_penalty: float

    @property
    def total(self) -> float:
        """The sum."""
        return (
            self.replicas
            + self.starts_and_stops
            + self.nodes
            + self.storage
            + self.spill
            + self.shortfall
            + self.credits
            + self.budget_penalty
        )


@dataclass(frozen=True, slots=True)
class Binding:
    """A limit that the plan has come up against.

    Attributes:
        kind: ``quota`` (of type ``index``), ``power`` (of site), ``nodes``, ``reserved`` or ``night`` (of type),
        ``budget``
            (of the fleet), ``pool_budget``, ``pool_min`` or ``pool_max`` (of pool).
        index: which one.
        limit: its value.
        usd_per_hour: what one more of its unit (chip, kW, node, dollar) would save per hour, from the duals of the
        linear
            relaxation; 0 where rounding alone makes it bind.
    """

    kind: str
    index: int
    limit: float
    usd_per_hour: float


@dataclass(frozen=True, slots=True, eq=False)
class FleetPlan:
    """A plan that meets every constraint of the problem as it was given.

    Attributes:
        replicas: per option, whole numbers.
        flow: per arc, the share of the cell's flow; exact to 1e-6.
        spill, shortfall: per cell, the shares sent to an external API and not served.
        tier: per pool, the KV-tier choice taken, -1 where the pool has none.
        nodes: per type, whole nodes; 0 where nodes are not counted.
        costs: the breakdown.
        bound: USD per hour below which no plan's total can be.
        binding: limits that bind, the dearest first.
        quota_price: per type, what one more chip of its quota would save, USD per hour (linear relaxation).
        power_price: per site, what one more kW of its limit would save, USD per hour (linear relaxation).
        serve_price: per cell, what serving the whole cell costs at the margin, USD per hour (linear relaxation).
        complete: the gap asked for was reached; ``False`` when time or a cancellation ended the search.
    """

    replicas: Ints
    flow: Floats
    spill: Floats
    shortfall: Floats
    tier: Ints
    nodes: Ints
    costs: Costs
    bound: float
    binding: tuple[Binding, ...]
    quota_price: Floats
    power_price: Floats
    serve_price: Floats
    complete: bool

    @property
    def usd_per_hour(self) -> float:
        """What is minimised."""
        return self.costs.total

    @property
    def gap(self) -> float:
        """(cost - bound) / |cost|; 0 for a plan that costs nothing."""
        cost = self.costs.total
        return max(0.0, cost - self.bound) / abs(cost) if cost else 0.0


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that stops demands: ``kind`` as in ``Binding`` (or ``option_max``, ``spot``, ``spare``), and which."""

    kind: str
    index: int


@dataclass(frozen=True, slots=True)
class Infeasible:
    """No plan serves everything that must be served.

    Attributes:
        cells: a set of demands that cannot be met together, none of which could be left out: without any one of them
            the others can be met.
        limits: the limits that stop them; lifting any of them that is named alone makes room. Empty when nothing that
            can be lifted helps: then ``reason`` says what is missing.
        reason: one sentence.
        minimal: whether both sets were shrunk to the end before the time was over.
    """

    cells: tuple[int, ...]
    limits: tuple[Limit, ...]
    reason: str
    minimal: bool = True


@dataclass(frozen=True, slots=True)
class SolverFailed:
    """The solver failed, returned nonsense or found no plan in time: keep the last one. ``why`` is a sentence."""

    why: str


FleetResult = FleetPlan | Infeasible | SolverFailed
