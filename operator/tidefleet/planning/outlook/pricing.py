"""From a book to what each pool can have and may need: speeds from the one cost model, prices, and paths of demand."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tidefleet.api import AcceleratorType
from tidefleet.api.vocabulary import CapacityType
from tidefleet.economics.architecture import Architecture
from tidefleet.economics.contest import widths
from tidefleet.economics.external import MILLION, ExternalOffer, PerToken, TokenVector, blended_usd_per_million
from tidefleet.economics.groups import Other
from tidefleet.economics.investment import Residual
from tidefleet.economics.money import ChipCost, token_cost
from tidefleet.economics.owned import HOURS_PER_MONTH
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import CannotServe, Estimate, estimate
from tidefleet.economics.shape import Objective, TokenShape
from tidefleet.planning.capacity import ChipType, Demand, Holding, Market, Purchase, Term, TokenOffer
from tidefleet.planning.capacity.market import Floats
from tidefleet.planning.evidence import Evidence
from tidefleet.planning.from_api import accelerator_of, chosen_price, offer_of
from tidefleet.planning.outlook.book import AcceleratorTerms, Book, ClassTerms, ExternalPrice, PoolTerms

DAYS_PER_MONTH = 365.0 / 12.0
MOST_TOKENS = 1e18
_ENGINE = "vllm"
"""The engine of estimates: the one that `tidefleet cost` takes unless it is told."""

_STORED = {"bf16": "Bf16", "fp8": "Fp8", "fp4": "Fp4"}


@dataclass(frozen=True, slots=True)
class Speed:
    """What one chip serves of a class.

    Attributes:
        tokens_per_chip_hour: input and output, at full load.
        watts: of a chip at work; ``None``: unknown.
        source: ``book``, or the provenance of the cost model's estimate.
    """

    tokens_per_chip_hour: float
    watts: float | None
    source: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the book.

    Attributes:
        kinds, models: the catalogue.
        today: the date that the ages of measured profiles count to.
        memo: estimates made so far; the same question is not asked twice.
        other: the model of the time beside the roofline that estimates may rest on; ``None``: there is none.
    """

    kinds: Mapping[str, AcceleratorType]
    models: Mapping[str, Architecture]
    today: datetime.date
    memo: dict[tuple[object, ...], Speed | CannotServe] = field(default_factory=dict)
    other: Other | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """One pool as it can be planned.

    Attributes:
        shares: of its tokens by class; each class' share of a chip's time is in ``times``.
        tokens: of the first month, before scenarios.
        factors: demand over ``tokens`` by scenario and month.
        notes: types that cannot serve it, and why.
        hosts: names of types and of the next generation: what is not an external API.
    """

    name: str
    market: Market
    demand: Demand
    classes: tuple[ClassTerms, ...]
    shares: Mapping[str, float]
    times: Mapping[str, float]
    tokens: float
    factors: Floats
    notes: tuple[str, ...]
    hosts: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Scenarios:
    """Names and probabilities of the ways in which demand may go."""

    names: tuple[str, ...]
    probability: Floats


def scenarios_of(book: Book) -> Scenarios:
    """The scenarios of a book; a single one where it names none."""
    if book.sampled is not None:
        count = book.sampled.scenarios
        return Scenarios(tuple(f"sample-{i + 1}" for i in range(count)), np.full(count, 1.0 / count))
    if not book.scenarios:
        return Scenarios(("as-stated",), np.ones(1))
    chance = np.array([one.probability for one in book.scenarios])
    return Scenarios(tuple(one.name for one in book.scenarios), chance / chance.sum())


def factors_of(book: Book, pool: PoolTerms, months: int) -> Floats:
    """Demand over that of the first month as stated, by scenario and month.

    A stated scenario grows by min(most, (1 + g)^(m - 1)); a sampled one by a walk whose mean is that growth:
    exp(sigma W(t) - sigma^2 t / 2), the same walk for all pools, since they meet the same market.
    """
    time = np.arange(months)
    if book.sampled is not None:
        rng = np.random.default_rng(book.sampled.seed)
        steps = rng.standard_normal((book.sampled.scenarios, months)) / math.sqrt(12.0)
        steps[:, 0] = 0.0
        sigma = min(book.sampled.volatility_per_year, 10.0)
        walk = sigma * steps.cumsum(axis=1) - 0.5 * sigma**2 * time / 12.0
        return np.asarray(np.exp(time * math.log1p(pool.growth_per_month) + walk))
    if not book.scenarios:
        return np.asarray(np.exp(time * math.log1p(pool.growth_per_month)))[None, :]
    growth = [pool.growth_per_month if one.growth_per_month is None else one.growth_per_month for one in book.scenarios]
    path = np.exp(np.minimum(np.outer(np.log1p(growth), time), 300.0))
    most = np.array([one.most_factor for one in book.scenarios])
    return np.asarray(np.minimum(path, most[:, None]) * np.array([[one.demand_factor] for one in book.scenarios]))


def month_tokens(wclass: ClassTerms) -> float:
    """Tokens of a class in the first month."""
    if wclass.tokens_per_month is not None:
        return wclass.tokens_per_month
    return (wclass.users or 0.0) * (wclass.tokens_per_user_month or 0.0)


def vector_of(wclass: ClassTerms, tokens: float) -> TokenVector:
    """So many tokens of a class by kind."""
    requests = tokens / (wclass.input_tokens + wclass.output_tokens)
    read = requests * wclass.input_tokens
    cached = read * wclass.cached_share
    return TokenVector(read - cached, cached, requests * wclass.output_tokens, requests=requests)


def pools_of(book: Book, facts: Facts, months: int) -> tuple[Pool, ...]:
    """Every pool of a book as it can be planned."""
    return tuple(_pool(book, pool, facts, months) for pool in book.pools)


def _pool(book: Book, pool: PoolTerms, facts: Facts, months: int) -> Pool:
    classes = tuple(one for one in book.classes if one.pool == pool.name)
    amounts = [month_tokens(one) for one in classes]
    total = math.fsum(amounts)
    shares = [amount / total if total else 1.0 / len(amounts) for amount in amounts]
    types: list[ChipType] = []
    notes: list[str] = []
    times: dict[str, float] = {}
    for terms in book.accelerators:
        speeds = [_speed(terms, pool, one, facts) for one in classes]
        failed = next((one for one in speeds if isinstance(one, CannotServe)), None)
        if failed is not None:
            notes.append(f"{pool.name}: {terms.name} cannot serve: {failed.detail}")
            continue
        known = [one for one in speeds if isinstance(one, Speed)]
        hours = [share / one.tokens_per_chip_hour for share, one in zip(shares, known, strict=True)]
        if not times:
            times = {one.name: hour / math.fsum(hours) for one, hour in zip(classes, hours, strict=True)}
        watts = [one.watts for one in known]
        power = None if None in watts else sum(
            w * hour for w, hour in zip(watts, hours, strict=True) if w is not None) / math.fsum(hours)  # fmt: skip
        found = _type(book, terms, pool, facts, tokens_per_hour=1.0 / math.fsum(hours), watts=power)
        if isinstance(found, str):
            notes.append(f"{pool.name}: {found}")
        else:
            types.append(found)
    mix = TokenVector(0.0, 0.0, 0.0)
    for wclass, share in zip(classes, shares, strict=True):
        mix = mix + vector_of(wclass, share)
    offers = [_external(one, mix) for one in pool.external]
    hosts = frozenset(one.name for one in types)
    if (coming := pool.next_generation) is not None:
        offers.append(
            TokenOffer(coming.name, coming.usd_per_million_tokens, coming.price_decline_per_year, coming.month, "Rent")
        )
        hosts |= {coming.name}
    factors = factors_of(book, pool, months)
    market = Market(months, tuple(types), tuple(offers), min(book.known_from_month, months), book.discount_per_year)
    if not (total * factors <= MOST_TOKENS).all():
        raise ValueError(
            f"pool {pool.name}: demand grows beyond {MOST_TOKENS:g} tokens a month; expected less, e.g. a "
            "growthPerMonth of 0.04, or a scenario with a mostFactor"
        )
    demand = Demand(total * factors, scenarios_of(book).probability)
    names = [one.name for one in classes]
    by_class = dict(zip(names, shares, strict=True))
    return Pool(pool.name, market, demand, classes, by_class, times or by_class, total, factors, tuple(notes), hosts)


def _speed(terms: AcceleratorTerms, pool: PoolTerms, wclass: ClassTerms, facts: Facts) -> Speed | CannotServe:
    stated = next((one for one in terms.speeds if one.pool == pool.name), None)
    if stated is not None:
        return Speed(stated.tokens_per_chip_hour, None, "book")
    shape = TokenShape(wclass.input_tokens, max(1.0, wclass.output_tokens), cached_share=wclass.cached_share)
    promises = (("TTFT", pool.ttft_seconds), ("TPOT", pool.tpot_seconds))
    objectives = tuple(Objective(metric, seconds) for metric, seconds in promises if seconds is not None)
    key = (pool.model, terms.name, pool.weights, shape, objectives)
    if key not in facts.memo:
        facts.memo[key] = _estimated(facts, terms.name, pool, shape, objectives)
    return facts.memo[key]


def _estimated(
    facts: Facts, name: str, pool: PoolTerms, shape: TokenShape, objectives: Sequence[Objective]
) -> Speed | CannotServe:
    """The cheapest width of a type, as `tidefleet cost` finds it; a chip's price decides nothing between widths."""
    if name not in facts.kinds:
        return CannotServe("Unknown", "it is not in the catalogue and the book states no speed for this pool")
    kind, model = facts.kinds[name], facts.models[pool.model]
    accelerator = accelerator_of(kind)
    evidence, profiles = Evidence(today=facts.today, other=facts.other), offer_of(kind, placeable=False).profiles
    best: Estimate | None = None
    failed = CannotServe("Width", "no width was tried")
    for chips in widths(accelerator):
        weights = _STORED.get(pool.weights, model.native_weights)
        replica = Replica(model, accelerator, chips, weights, "Bf16", tensor_parallel=chips, engine=_ENGINE)
        found = estimate(replica, shape, objectives, correction=evidence.correction(replica, profiles))
        if isinstance(found, CannotServe):
            failed = found
        elif best is None or _blended(found) < _blended(best):
            best = found
    if best is None:
        return failed
    tokens = best.requests_per_second * 3600.0 * (shape.input_mean + shape.output_mean)
    return Speed(tokens / best.replica.chips, best.watts_per_chip, best.provenance)


def _blended(found: Estimate) -> float:
    return token_cost(found, ChipCost(1.0)).blended


def _type(
    book: Book,
    terms: AcceleratorTerms,
    pool: PoolTerms,
    facts: Facts,
    *,
    tokens_per_hour: float,
    watts: float | None,
) -> ChipType | str:
    """A type as the pool can have it, or why it cannot."""
    rent = terms.rent.usd_per_chip_hour if terms.rent is not None else None
    kind = facts.kinds.get(terms.name)
    if rent is None and terms.rentable and kind is not None:
        listed = chosen_price(kind, CapacityType.ON_DEMAND)
        rent = None if listed is None else float(listed.usd_per_chip_hour)
    owned = next((one for one in terms.owned if one.pool == pool.name), None)
    if rent is None and not terms.reserve and terms.buy is None and owned is None:
        return f"{terms.name} has no price; give one, e.g. rent: {{usdPerChipHour: 2.10}}"
    terms_of = tuple(
        Term(max(1, round(one.minimum_term_days / DAYS_PER_MONTH)), one.usd_per_chip_hour * HOURS_PER_MONTH)
        for one in terms.reserve
    )
    tdp = float(kind.spec.tdp_watts) if kind is not None and kind.spec.tdp_watts else 0.0
    power = watts if watts is not None else tdp
    bought = None
    if terms.buy is not None:
        own = terms.buy
        bought = Purchase(
            own.usd_per_chip,
            own.lead_months,
            own.running_usd_per_chip_month,
            Residual(own.loss_per_year, own.floor_share),
            own.selling_cost_share,
            own.price_decline_per_year,
        )
        power = own.watts if own.watts is not None else power
    elif owned is not None:
        bought = Purchase(owned.worth_usd_per_chip)
    if bought is not None:
        kilowatts = power / 1000.0 * book.electricity.pue
        electricity = kilowatts * book.electricity.usd_per_kilowatt_hour * HOURS_PER_MONTH
        bought = replace(bought, running_usd_per_chip_month=bought.running_usd_per_chip_month + electricity)
    return ChipType(
        name=terms.name,
        tokens_per_chip_month=tokens_per_hour * pool.utilisation * HOURS_PER_MONTH,
        rent_usd_per_chip_month=None if rent is None else rent * HOURS_PER_MONTH,
        terms=terms_of,
        purchase=bought,
        purchasable=terms.buy is not None,
        holding=None if owned is None else Holding(owned.chips, owned.worth_usd_per_chip),
        price_decline_per_year=terms.price_decline_per_year,
        from_month=terms.from_month,
        superseded_at=None if terms.successor is None else terms.successor.month,
        superseded_loss_share=0.0 if terms.successor is None else terms.successor.loss_share,
        chips_per_order=terms.chips_per_order,
    )


def _external(one: ExternalPrice, mix: TokenVector) -> TokenOffer:
    read, written = one.usd_per_million_input_tokens, one.usd_per_million_output_tokens
    if read is None or written is None:
        raise ValueError(
            f"the price of {one.provider} is missing; expected usdPerMillionInputTokens and usdPerMillionOutputTokens"
        )
    price = PerToken(read, written, one.usd_per_million_cached_input_tokens)
    usd = blended_usd_per_million(ExternalOffer(one.provider, "", price), mix) if mix.total > 0 else 0.0
    return TokenOffer(one.provider, usd, one.price_decline_per_year, one.from_month)


__all__ = ["MILLION", "Facts", "Pool", "Scenarios", "Speed", "factors_of", "month_tokens", "pools_of", "scenarios_of"]
