"""What if this price, demand, hit rate or API price were another: questions, parsed and applied to objects.

A question is ``KIND:TARGET=VALUE`` or ``KIND:TARGET*FACTOR``, e.g. ``price:h200-sxm=2.9``, ``demand:chat*1.3``,
``hit:chat=0.3``, ``api-price:*0.2``. Without a target it holds for all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from tidefleet.api import AcceleratorType, WorkloadClass
from tidefleet.api.accelerator_type import Price, PriceState
from tidefleet.planning.from_api import with_demand as with_fields

KINDS: Mapping[str, str] = {
    "price": "an accelerator type, e.g. price:h200-sxm=2.9",
    "demand": "a pool or class, e.g. demand:chat*1.3",
    "hit": "a pool or class, e.g. hit:chat=0.3",
    "api-price": "a provider, or nothing for all, e.g. api-price:*0.2",
}
"""What can be asked of a plan: the kinds of question, and what each is about."""

MONEY_KINDS: Mapping[str, str] = {
    **KINDS,
    "sell-price": "a class, or nothing for all, e.g. sell-price:chat*0.2",
    "electricity": "the tariff of owned chips, e.g. electricity:*2",
}
"""What can be asked of money over months."""

_SHAPE = re.compile(r"(?P<kind>[a-z-]+):(?P<target>[^=*]*)(?P<op>[=*])(?P<value>[^=*]+)")
_MOST = 1e9
_MOST_VOLUME = 10**15
"""Tokens a day; beyond it no question is one about a fleet."""


class BadQuestion(ValueError):
    """A what-if that cannot be read, or is about something that does not exist; the message gives an example."""


@dataclass(frozen=True, slots=True)
class WhatIf:
    """One change: ``kind`` is one of ``MONEY_KINDS``, ``target`` a name or empty for all, ``op`` is ``=`` or ``*``."""

    kind: str
    target: str
    op: str
    value: float

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}{self.op}{self.value:g}"

    def applied(self, before: float) -> float:
        """The value after the change."""
        return self.value if self.op == "=" else before * self.value


def parse_what_if(text: str, kinds: Mapping[str, str] = KINDS) -> WhatIf:
    """A question from its words.

    Args:
        kinds: those that may be asked, with what each is about and an example.

    Raises:
        BadQuestion: it is none; the message says what is expected.
    """
    match = _SHAPE.fullmatch(text.strip())
    if match is None or match["kind"] not in kinds:
        raise BadQuestion(f"{text!r}; expected one of: {'; '.join(kinds.values())}")
    try:
        value = float(match["value"])
    except ValueError:
        value = math.nan
    kind, op = match["kind"], match["op"]
    most = 1.0 if kind == "hit" and op == "=" else _MOST
    least_excluded = kind == "price"
    if not 0 <= value <= most or (least_excluded and value == 0):
        numbers = (
            f"a number {'above' if least_excluded else 'from'} 0 {'and at most' if least_excluded else 'to'} {most:g}"
        )
        raise BadQuestion(f"{text!r} has the value {match['value']!r}; expected {numbers} for {kinds[kind]}")
    return WhatIf(kind, match["target"].strip(), op, value)


def with_prices(kinds: Mapping[str, AcceleratorType], questions: Iterable[WhatIf]) -> dict[str, AcceleratorType]:
    """Accelerator types with changed on-demand prices.

    ``=`` sets the price of a type, also of one without any; ``*`` multiplies every enabled price of it.

    Raises:
        BadQuestion: a type does not exist, or has no price to multiply.
    """
    result = dict(kinds)
    for question in questions:
        if question.kind != "price":
            continue
        names = [question.target] if question.target else list(result)
        for name in names:
            if name not in result:
                near = [one for one in result if one.split("-")[0] == name.split("-")[0]] or sorted(result)
                raise BadQuestion(f"{question} is about {name!r}; expected an AcceleratorType, e.g. {near[0]}")
            result[name] = _priced(result[name], question)
    return result


def _priced(kind: AcceleratorType, question: WhatIf) -> AcceleratorType:
    prices = kind.spec.prices
    if question.op == "*":
        if question.target and not any(one.state is PriceState.ENABLED for one in prices):
            raise BadQuestion(f"{question}: {kind.name} has no price to multiply; set one, e.g. price:{kind.name}=2.9")
        changed = tuple(
            one.model_copy(update={"usd_per_chip_hour": _decimal(question.applied(float(one.usd_per_chip_hour)))})
            for one in prices
        )
    else:
        own = Price.model_validate(
            {"capacityType": "OnDemand", "usdPerChipHour": f"{_decimal(question.value):f}", "source": "what if"}
        )
        kept = tuple(
            one for one in prices if (str(one.capacity_type), one.provider, one.region) != ("OnDemand", "", "")
        )
        changed = (own, *kept)
    return kind.model_copy(update={"spec": kind.spec.model_copy(update={"prices": changed})})


def with_demand(
    classes: Sequence[WorkloadClass], rates: Mapping[str, float], questions: Iterable[WhatIf]
) -> tuple[tuple[WorkloadClass, ...], dict[str, float]]:
    """Classes and measured rates with changed demand and hit rates.

    A factor moves all that a pool is asked for: declared rates, measured ones, and volumes that may wait. ``=`` sets
    the requests per second of a pool in all: of measured classes, what is measured; of declared ones, each in its
    proportion. A question about one class sets its declared rate, or multiplies its volume.

    Args:
        rates: measured requests per second by pool (``namespace/name`` or ``name``).

    Raises:
        BadQuestion: no such pool or class exists, or what is asked of the class is not its own.
    """
    changed, measured = list(classes), dict(rates)
    for question in questions:
        if question.kind not in ("demand", "hit"):
            continue
        hits = [i for i, one in enumerate(changed) if _is_about(question, one)]
        own = not hits
        if own:
            hits = [i for i, one in enumerate(changed) if question.target in (one.name, f"{one.namespace}/{one.name}")]
        if not hits:
            pools = sorted({one.spec.pool_ref.name for one in changed}) or ["chat"]
            raise BadQuestion(f"{question} is about {question.target!r}; expected a pool with classes, e.g. {pools[0]}")
        if question.kind == "hit":
            for i in hits:
                changed[i] = _hit(changed[i], question)
        elif own:
            for i in hits:
                changed[i] = _asked(changed[i], question)
        elif question.op == "*":
            for i in hits:
                changed[i] = _times(changed[i], question.value)
            for name in measured:
                if not question.target or question.target in (name, name.split("/")[-1]):
                    measured[name] *= question.value
        else:
            for pool in {(changed[i].namespace, changed[i].spec.pool_ref.name) for i in hits}:
                mine = [i for i in hits if (changed[i].namespace, changed[i].spec.pool_ref.name) == pool]
                for i, one in zip(mine, _in_all([changed[i] for i in mine], question.value), strict=True):
                    changed[i] = one
                if any(changed[i].spec.demand.source is not None for i in mine):
                    measured = {name: rate for name, rate in measured.items() if name not in (pool[1], "/".join(pool))}
                    measured["/".join(pool)] = question.value
    return tuple(changed), measured


def _is_about(question: WhatIf, one: WorkloadClass) -> bool:
    pool = one.spec.pool_ref.name
    return question.target in ("", pool, f"{one.namespace}/{pool}")


def _in_all(classes: Sequence[WorkloadClass], rate: float) -> list[WorkloadClass]:
    """The classes of a pool with so many requests per second in all; measured ones have what declared ones leave."""
    declared = [float(one.spec.demand.requests_per_second or 0) for one in classes]
    states = [one.spec.demand.requests_per_second is not None for one in classes]
    total = sum(declared)
    if any(one.spec.demand.source is not None for one in classes):
        factor = min(1.0, rate / total) if total else 1.0
        return [_times(one, factor) if states_it else one for one, states_it in zip(classes, states, strict=True)]
    if not total:
        return [_at(one, rate / sum(states)) if it else one for one, it in zip(classes, states, strict=True)]
    return [_times(one, rate / total) if it else one for one, it in zip(classes, states, strict=True)]


def _asked(one: WorkloadClass, question: WhatIf) -> WorkloadClass:
    """One class, asked about by its own name."""
    demand = one.spec.demand
    if demand.source is not None:
        raise BadQuestion(
            f"{question} is about a class whose demand is measured with its pool; "
            f"expected the pool, e.g. demand:{one.spec.pool_ref.name}*1.3"
        )
    if question.op == "*":
        return _times(one, question.value)
    if demand.requests_per_second is None:
        raise BadQuestion(
            f"{question} is about a class with a volume of tokens a day; expected a factor, e.g. demand:{one.name}*1.3"
        )
    return _at(one, question.value)


def _at(one: WorkloadClass, rate: float) -> WorkloadClass:
    return with_fields(one, requests_per_second=_decimal(rate))


def _times(one: WorkloadClass, factor: float) -> WorkloadClass:
    """The class with its declared rate or volume times this; one that is measured declares neither."""
    demand = one.spec.demand
    if demand.requests_per_second is not None:
        return _at(one, float(demand.requests_per_second) * factor)
    if demand.volume_tokens_per_day is not None:
        volume = round(min(_MOST_VOLUME, float(demand.volume_tokens_per_day) * factor))
        return with_fields(one, volume_tokens_per_day=volume)
    return one


def _hit(one: WorkloadClass, question: WhatIf) -> WorkloadClass:
    tokens = one.spec.tokens
    if tokens is None:
        return one
    share = min(1.0, question.applied(float(tokens.cached_share or 0)))
    changed = tokens.model_copy(update={"cached_share": _decimal(share)})
    return one.model_copy(update={"spec": one.spec.model_copy(update={"tokens": changed})})


def with_api_prices(classes: Sequence[WorkloadClass], questions: Iterable[WhatIf]) -> tuple[WorkloadClass, ...]:
    """Classes whose external APIs cost something else; ``=`` sets input and output price per million tokens alike.

    Raises:
        BadQuestion: no class names such a provider in ``spec.spill``.
    """
    changed = list(classes)
    providers = sorted({each.provider for one in classes for each in one.spec.spill})
    for question in questions:
        if question.kind != "api-price":
            continue
        if question.target and question.target not in providers:
            known = f"one of {', '.join(providers)}" if providers else "one in spec.spill of a class, which none has"
            raise BadQuestion(f"{question} is about {question.target!r}; expected a provider: {known}")
        for i, one in enumerate(changed):
            spill = tuple(
                each.model_copy(
                    update={
                        name: _decimal(question.applied(float(getattr(each, name))))
                        for name in ("usd_per_million_input_tokens", "usd_per_million_output_tokens", "usd_per_month")
                        if getattr(each, name) is not None
                    }
                )
                if question.target in ("", each.provider)
                else each
                for each in one.spec.spill
            )
            changed[i] = one.model_copy(update={"spec": one.spec.model_copy(update={"spill": spill})})
    return tuple(changed)


def _decimal(value: float) -> Decimal:
    return Decimal(f"{value:.6f}").normalize() if value >= 1e-6 or value == 0 else Decimal(repr(value))


def why_nothing_changes(question: WhatIf, classes: Sequence[WorkloadClass], rates: Mapping[str, float]) -> str:
    """Why a question leaves these classes and rates as they are, in words; empty where it changes something.

    Questions about prices of accelerators are not judged.
    """
    if question.kind == "price":
        return ""
    try:
        after = with_demand(with_api_prices(classes, [question]), rates, [question])
    except BadQuestion:
        return ""
    if after != (tuple(classes), dict(rates)):
        return ""
    pools = sorted({f"{one.namespace}/{one.spec.pool_ref.name}" for one in classes if _is_about(question, one)})
    why = {
        "demand": f"the demand is measured, and none is given; say it, e.g. --demand {(pools or ['prod/chat'])[0]}=20",
        "hit": "the classes state no tokens, or are so already",
        "api-price": "no class names an external API in spec.spill",
    }[question.kind]
    same = any(one.spec.demand.source is None for one in classes if _is_about(question, one))
    if question.kind == "demand" and (same or rates):
        why = "that is what is asked already"
    return f"{question} changes nothing: {why}"
