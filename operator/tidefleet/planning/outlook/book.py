"""The book: pools, what accelerators cost, what classes of demand earn, and how demand may grow, in one small file."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from tidefleet.api import wording
from tidefleet.api.base import GOT_LIMIT, Broken, Model, Rule, render
from tidefleet.api.leaves import Many
from tidefleet.api.scalars import Name, OptionalWord, Word
from tidefleet.api.schema import rich
from tidefleet.planning.outlook.amounts import (
    USD,
    Counted,
    Days,
    Decline,
    Factor,
    Growth,
    Length,
    Load,
    Month,
    PaidUSD,
    Ratio,
    Scenarios,
    Seconds,
    Seed,
    Share,
    Speed,
    Volume,
    Watts,
)

MOST_PROBLEMS = 50


def _one_of(*fields: str, example: str) -> Rule:
    """Exactly one of these fields is given."""

    def holds(value: Any) -> bool:
        return sum(getattr(value, value.attribute(one)) is not None for one in fields) == 1

    told = f"exactly one of {', '.join(fields[:-1])} and {fields[-1]}"
    return Rule(cel="", holds=holds, expected=told, example=example)


class Electricity(Model):
    """Electricity of what is owned; that of rented chips is in their rent."""

    usd_per_kilowatt_hour: USD = Field(default=0.0, examples=[0.08])
    """USD for a kWh, e.g. 0.08; 0: it is in the running cost."""
    pue: Ratio = 1.0
    """Facility power over IT power, e.g. 1.25."""


class Rent(Model):
    """Renting without commitment."""

    usd_per_chip_hour: PaidUSD
    """USD for a chip and hour, e.g. 2.10."""


class Reserve(Model):
    """A commitment: paid whether used or not."""

    minimum_term_days: Days
    """Its length in days, e.g. 365."""
    usd_per_chip_hour: PaidUSD
    """USD for a chip and hour, e.g. 1.60."""


class Buy(Model):
    """Buying chips."""

    usd_per_chip: PaidUSD = Field(examples=[32000])
    """Today's price with its share of host, network and building, e.g. 32000."""
    lead_months: Month = 0
    """Months from order to service, e.g. 3; it is paid at the order."""
    running_usd_per_chip_month: USD = Field(default=0.0, examples=[180])
    """Space, staff and repair of a chip and month, e.g. 180; electricity beside it."""
    watts: Watts | None = None
    """Power of a chip with its share of host and network, e.g. 900; absent: the catalogue's."""
    loss_per_year: Share = Field(default=0.35, examples=[0.35])
    """Share of its worth that a used chip loses in a year, e.g. 0.35."""
    floor_share: Share = Field(default=0.05, examples=[0.05])
    """Share of its price below which it never falls, e.g. 0.05."""
    selling_cost_share: Share = Field(default=0.1, examples=[0.1])
    """Share of its worth that selling costs, e.g. 0.1."""
    price_decline_per_year: Decline = 0.15
    """Share by which new ones get cheaper in a year, e.g. 0.15."""


class Owned(Model):
    """Chips that are owned today."""

    chips: Counted = Field(examples=[64])
    """Chips of the pool, e.g. 64."""
    worth_usd_per_chip: USD = Field(examples=[12000])
    """What one could be sold for today, before the cost of selling, e.g. 12000."""
    pool: Name
    """The pool they serve, e.g. chat."""


class Successor(Model):
    """The next generation of a type, as far as it lowers the worth of this one."""

    month: Month
    """Months until it comes, e.g. 18."""
    loss_share: Share = 0.3
    """Share of its worth used that this type then loses, e.g. 0.3."""


class StatedSpeed(Model):
    """Tokens that one chip serves, where the cost model is not to be asked."""

    pool: Name
    """The pool, e.g. chat."""
    tokens_per_chip_hour: Speed
    """Tokens of the pool's mix, input and output, of one chip in an hour when full, e.g. 9000000."""


class AcceleratorTerms(Model):
    """One accelerator type and on what terms it can be had."""

    name: Name
    """Name in the catalogue, e.g. h200-sxm."""
    rent: Rent | None = None
    """Rent without commitment; absent: the catalogue's on-demand price."""
    rentable: bool = True
    """false: it cannot be rented without commitment."""
    reserve: Annotated[tuple[Reserve, ...], Many(maximum=16, keys=("minimumTermDays",))] = ()
    """Commitments on offer."""
    buy: Buy | None = None
    """Terms of buying; absent: it cannot be bought."""
    owned: Annotated[tuple[Owned, ...], Many(maximum=32, keys=("pool",))] = ()
    """What is owned of it, by pool."""
    price_decline_per_year: Decline = 0.15
    """Share by which rent and commitments get cheaper in a year, e.g. 0.15."""
    from_month: Month = 0
    """Month from which it can be had, e.g. 12 for a type that is announced."""
    successor: Successor | None = None
    """When the next generation comes; absent: not within sight."""
    chips_per_order: Counted = Field(default=8.0, examples=[8])
    """Chips are bought and committed to in multiples of these, e.g. 8; 0: in any number."""
    speeds: Annotated[tuple[StatedSpeed, ...], Many(maximum=32, keys=("pool",))] = ()
    """Measured or known speeds; absent: the cost model's."""


class ExternalPrice(Model):
    """An external API that could serve the pool's tokens."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="",
            holds=lambda e: (e.usd_per_million_input_tokens is None) == (e.usd_per_million_output_tokens is None),
            expected="prices of both input and output, or of neither for the provider's list price",
            example="{provider: together, usdPerMillionInputTokens: 0.88, usdPerMillionOutputTokens: 0.88}",
        ),
    )

    provider: Word = Field(examples=["together"])
    """Who, e.g. together."""
    usd_per_million_input_tokens: USD | None = Field(default=None, examples=[0.88])
    """USD for a million input tokens, e.g. 0.88; absent: the provider's list price, with the extra `prices`."""
    usd_per_million_output_tokens: USD | None = Field(default=None, examples=[0.88])
    """USD for a million output tokens, e.g. 0.88; absent: the provider's list price, with the extra `prices`."""
    usd_per_million_cached_input_tokens: USD | None = Field(default=None, examples=[0.22])
    """USD for a million input tokens found in its cache, e.g. 0.22; absent: as input."""
    price_decline_per_year: Decline = 0.3
    """Share by which it gets cheaper in a year, e.g. 0.3."""
    from_month: Month = 0
    """Month from which it can be had."""


class NextGeneration(Model):
    """Chips of which only the price of their tokens is expected yet."""

    name: OptionalWord = "next-generation"
    """What it is called, e.g. rubin."""
    month: Month
    """Months until it can be rented, e.g. 18."""
    usd_per_million_tokens: PaidUSD = Field(examples=[0.08])
    """USD for a million tokens of the pool's mix, e.g. 0.08."""
    price_decline_per_year: Decline = 0.15
    """Share by which it gets cheaper in a year, e.g. 0.15."""


class PoolTerms(Model):
    """One model that is served."""

    name: Name
    """Its name, e.g. chat."""
    model: OptionalWord = Field(default="", examples=["llama-3.3-70b"])
    """Model of the catalogue, for the cost model, e.g. llama-3.3-70b; not needed where every speed is stated."""
    weights: Literal["", "bf16", "fp8", "fp4"] = ""
    """Precision of stored weights; absent: the model's own."""
    utilisation: Load = 0.6
    """Mean load over capacity that is planned for, e.g. 0.6."""
    growth_per_month: Growth = 0.0
    """Share by which its demand grows in a month, e.g. 0.04; a scenario may say otherwise."""
    ttft_seconds: Seconds | None = None
    """Objective for the first token at p95 in seconds, e.g. 0.8."""
    tpot_seconds: Seconds | None = None
    """Objective between tokens in seconds, e.g. 0.05."""
    external: Annotated[tuple[ExternalPrice, ...], Many(maximum=16, keys=("provider", "fromMonth"))] = ()
    """External APIs that could serve it."""
    next_generation: NextGeneration | None = None
    """Chips to come of which only the price of tokens is expected; absent: none."""


class UsageRevenue(Model):
    """Customers pay by the token."""

    usd_per_million_input_tokens: USD = Field(examples=[0.9])
    """USD for a million input tokens, e.g. 0.90."""
    usd_per_million_output_tokens: USD = Field(examples=[3.6])
    """USD for a million output tokens, e.g. 3.60."""
    usd_per_million_cached_input_tokens: USD | None = Field(default=None, examples=[0.09])
    """USD for a million input tokens found in the cache, e.g. 0.09; absent: as input."""
    batch_discount: Share | None = Field(default=None, examples=[0.5])
    """Share of the price that is not paid, for a class that may wait, e.g. 0.5."""


class SeatRevenue(Model):
    """Customers pay by the seat; every user of the class has one."""

    usd_per_month: PaidUSD = Field(examples=[20])
    """USD for a seat and month, e.g. 20."""


class FreeRevenue(Model):
    """Nobody pays."""


class InternalRevenue(Model):
    """A rate is charged to another team."""

    usd_per_million_tokens: USD = Field(examples=[0.8])
    """USD for a million tokens, e.g. 0.80."""


class RevenueTerms(Model):
    """What a class earns: by usage, by seat, nothing, or an internal rate."""

    RULES: ClassVar[tuple[Rule, ...]] = (_one_of("usage", "seat", "free", "internal", example="free: {}"),)

    usage: UsageRevenue | None = None
    """Customers pay by the token."""
    seat: SeatRevenue | None = None
    """Customers pay by the seat."""
    free: FreeRevenue | None = None
    """Nobody pays: {}."""
    internal: InternalRevenue | None = None
    """A rate is charged to another team."""


class ClassTerms(Model):
    """One class of demand of a pool."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        _one_of("tokensPerUserMonth", "tokensPerMonth", example="tokensPerMonth: 2000000000"),
        Rule(
            cel="",
            holds=lambda c: c.tokens_per_user_month is None or c.users is not None,
            field="users",
            expected="users, where tokens are told by the user",
            example="20000",
        ),
        Rule(
            cel="",
            holds=lambda c: c.revenue is None or c.revenue.seat is None or c.users is not None,
            field="users",
            expected="users, where each pays for a seat",
            example="20000",
        ),
        Rule(
            cel="",
            holds=lambda c: c.input_tokens + c.output_tokens > 0,
            field="inputTokens",
            expected="a request of at least one token",
            example="1800",
        ),
    )

    name: Name
    """Its name, e.g. assistants."""
    pool: Name
    """The pool that serves it, e.g. chat."""
    users: Counted | None = None
    """Users in the first month, e.g. 20000."""
    tokens_per_user_month: Volume | None = None
    """Tokens of a user in a month, input and output, e.g. 1500000."""
    tokens_per_month: Volume | None = Field(default=None, examples=[30000000000])
    """Tokens of the class in the first month, input and output, e.g. 30000000000."""
    input_tokens: Length = 1000.0
    """Prompt tokens of a mean request, e.g. 1800."""
    output_tokens: Length = 250.0
    """Generated tokens of a mean request, e.g. 300."""
    cached_share: Share = 0.0
    """Share of prompt tokens found in a cache, e.g. 0.4."""
    revenue: RevenueTerms | None = None
    """What the class earns; absent: nothing is known, and it counts as none."""


class ScenarioTerms(Model):
    """One way in which demand may go."""

    name: Name
    """Its name, e.g. boom."""
    probability: Share
    """How likely it is, e.g. 0.25; those of all scenarios sum to 1."""
    demand_factor: Factor = 1.0
    """Demand over what the classes state, e.g. 1.3."""
    growth_per_month: Growth | None = None
    """Share by which demand grows in a month, for all pools; absent: as the pools state it."""
    most_factor: Factor = Field(default=1e6, examples=[4])
    """Demand stops growing at so many times what it begins with, e.g. 4."""


class Sampled(Model):
    """Scenarios drawn from a geometric random walk around the pools' growth, all equally likely."""

    scenarios: Scenarios
    """How many, e.g. 50."""
    volatility_per_year: Factor = Field(examples=[0.4])
    """Standard deviation of the logarithm of demand after a year, e.g. 0.4."""
    seed: Seed = 1
    """The same seed gives the same scenarios."""


class Book(Model):
    """Everything that money over months is computed from."""

    name: Name
    """Its name, e.g. chat-business."""
    discount_per_year: Factor = Field(default=0.1, examples=[0.1])
    """What money costs a year, e.g. 0.10."""
    known_from_month: Month = 6
    """Month from which it is known which scenario came, e.g. 6; orders before are the same in all."""
    fixed_usd_per_month: USD = Field(default=0.0, examples=[40000])
    """What is paid whatever is served, e.g. 40000."""
    electricity: Electricity = Electricity()
    """Electricity of owned chips."""
    accelerators: Annotated[tuple[AcceleratorTerms, ...], Many(minimum=1, maximum=64, keys=("name",))]
    """Types that may serve."""
    pools: Annotated[tuple[PoolTerms, ...], Many(minimum=1, maximum=32, keys=("name",))]
    """Models that are served."""
    classes: Annotated[tuple[ClassTerms, ...], Many(minimum=1, maximum=200, keys=("name",))]
    """Demand, and what it earns."""
    scenarios: Annotated[tuple[ScenarioTerms, ...], Many(maximum=500, keys=("name",))] = ()
    """Ways in which demand may go; absent: as stated, or sampled."""
    sampled: Sampled | None = None
    """Scenarios drawn at random, instead of stated ones."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a book: where, what came, what was expected, an example."""

    path: str
    got: str
    expected: str
    example: str

    def __str__(self) -> str:
        return f"{self.path} is {self.got}; expected {self.expected}, e.g. {self.example}"


class BadBook(ValueError):
    """A book that cannot be used, and everything that is wrong with it."""

    def __init__(self, name: str, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        told = problems[:MOST_PROBLEMS]
        more = f"\nand {len(problems) - len(told)} more" if len(problems) > len(told) else ""
        super().__init__("\n".join(f"{name}: {one}" for one in told) + more)


def parse_book(raw: object, *, accelerators: Collection[str], models: Collection[str], months: int) -> Book:
    """The book in a loaded document.

    Args:
        accelerators: names of the catalogue.
        models: names of the catalogue.
        months: the horizon, which lead times must end before.

    Raises:
        BadBook: something in it cannot be used.
    """
    if not isinstance(raw, Mapping):
        raise BadBook("Book", (Problem("it", render(raw), "fields of a book", "name: chat-business"),))
    name = raw.get("name")
    named = f"Book {name[:63]}" if isinstance(name, str) and name.isprintable() else "Book"
    try:
        book = Book.model_validate(raw, by_alias=True, by_name=False, extra="forbid")
    except ValidationError as error:
        root = rich(Book, "book")
        # A list with a wrong item counts as too short by it; only what is short as it was written is told.
        errors = [one for one in error.errors(include_url=False) if one["type"] != "too_short" or not len(one["input"])]
        found = [each for one in errors for each in wording.explain(one, root)]
        raise BadBook(named, tuple(_problem(one) for one in found)) from None
    except RecursionError:
        raise BadBook(named, (Problem("it", "nested too deep", "at most 100 levels", "name: chat-business"),)) from None
    if problems := tuple(_contradictions(book, accelerators, models, months)):
        raise BadBook(named, problems)
    return book


def _problem(one: Broken) -> Problem:
    return Problem(wording.write(one.path) or "it", one.got[:GOT_LIMIT], one.expected, one.example)


def _contradictions(
    book: Book, accelerators: Collection[str], models: Collection[str], months: int
) -> Iterator[Problem]:
    """What single fields cannot show."""
    pools = [one.name for one in book.pools]
    for i, kind in enumerate(book.accelerators):
        path = f"accelerators[{i}]"
        if kind.name not in accelerators and not kind.speeds:
            near = difflib.get_close_matches(kind.name, accelerators, n=1, cutoff=0.3) or sorted(accelerators)[:1]
            yield Problem(f"{path}.name", render(kind.name), "a type of the catalogue, or one with speeds", *near)
        if kind.buy is not None and kind.buy.lead_months >= months:
            told = f"less than the horizon of {months} months"
            yield Problem(f"{path}.buy.leadMonths", str(kind.buy.lead_months), told, "3")
        if kind.rent is not None and not kind.rentable:
            yield Problem(f"{path}.rent", "given", "no rent where rentable is false", "rentable: true")
        named = [(f"owned[{j}]", one.pool) for j, one in enumerate(kind.owned)]
        named += [(f"speeds[{j}]", one.pool) for j, one in enumerate(kind.speeds)]
        for field, pool in named:
            if pool not in pools:
                yield Problem(f"{path}.{field}.pool", render(pool), "a pool of the book", pools[0])
    for i, terms in enumerate(book.pools):
        if terms.model and terms.model not in models:
            near = difflib.get_close_matches(terms.model, models, n=1, cutoff=0.3) or sorted(models)[:1]
            yield Problem(f"pools[{i}].model", render(terms.model), "a model of the catalogue", *near)
        unknown = [kind.name for kind in book.accelerators if terms.name not in {one.pool for one in kind.speeds}]
        if not terms.model and unknown:
            told = f"a model, since no speed of {unknown[0]} is stated for it"
            yield Problem(f"pools[{i}].model", "missing", told, "llama-3.3-70b")
        if terms.name not in {one.pool for one in book.classes}:
            yield Problem(f"pools[{i}].name", render(terms.name), "a pool that a class names", book.classes[0].pool)
    for i, wclass in enumerate(book.classes):
        if wclass.pool not in pools:
            yield Problem(f"classes[{i}].pool", render(wclass.pool), "a pool of the book", pools[0])
    if book.scenarios and book.sampled is not None:
        yield Problem("sampled", "given", "either scenarios or sampled", "scenarios: [...]")
    if book.scenarios and abs(sum(one.probability for one in book.scenarios) - 1.0) > 1e-6:
        total = sum(one.probability for one in book.scenarios)
        yield Problem("scenarios", f"of probabilities that sum to {total:g}", "a sum of 1", "0.25, 0.5 and 0.25")
    if book.discount_per_year > 10.0:
        yield Problem("discountPerYear", f"{book.discount_per_year:g}", "a share a year of at most 10", "0.1")
