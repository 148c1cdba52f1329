"""What the schema cannot tell: time zones, cron expressions, catalogue names, the pod template's form and size.

These rules are judged here only; the API server accepts such objects, and the operator answers with Validated=False.
"""

from __future__ import annotations

import json
import re
import zoneinfo
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

from tidefleet.api.accelerator_type import AcceleratorType, Plausibility, PriceState
from tidefleet.api.base import Broken, Resource, render
from tidefleet.api.inference_pool import InferencePool
from tidefleet.api.reasons import Reason
from tidefleet.api.site import Site

TEMPLATE_LIMIT_BYTES = 128 * 1024
ACCEPT_IMPLAUSIBLE_PRICE = "tidefleet.io/accept-implausible-price"
"""Annotation on an AcceleratorType: with the value "true" its prices are taken as they are."""

HIGHEST_USD_PER_CHIP_HOUR = Decimal(100)
LOWEST_USD_PER_CHIP_HOUR = Decimal("0.02")
HIGHEST_USD_PER_GIB_HOUR = Decimal("0.5")
"""The dearest listed prices are below 0.1 USD for an hour of one GiB, from a T4 to a GB300; a price per day is not."""
HIGHEST_TIMES_KNOWN = Decimal(5)
LOWEST_PART_OF_KNOWN = Decimal(20)
NODE_TIMES_KNOWN = Decimal(2)
"""Listed prices of one type lie within a factor of ten, all markets together: an H100 from 1.30 to 6.88 USD."""

_CATALOGUE_NAME = re.compile("[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_CRON_FIELDS: tuple[tuple[int, int, dict[str, int]], ...] = (
    (0, 59, {}),
    (0, 23, {}),
    (1, 31, {}),
    (1, 12, {name: number for number, name in enumerate(_MONTHS, start=1)}),
    (0, 7, {name: number for number, name in enumerate(_DAYS)}),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something the schema could not tell, and the reason it has on the condition Validated."""

    broken: Broken
    reason: Reason = Reason.INVALID_FIELD


@cache
def is_time_zone(name: str) -> bool:
    """Whether the IANA database knows the zone; True for any name where no database is installed."""
    for candidate in (name, "UTC"):
        try:
            zoneinfo.ZoneInfo(candidate)
        except (KeyError, OSError, ValueError):
            continue
        return candidate == name
    return True


def is_cron(expression: str) -> bool:
    """Whether the expression has five fields of numbers, names, lists, ranges and steps within their bounds."""
    fields = expression.split()
    return len(fields) == len(_CRON_FIELDS) and all(
        all(_is_cron_part(part, *bounds) for part in field.split(","))
        for field, bounds in zip(fields, _CRON_FIELDS, strict=True)
    )


def _is_cron_part(part: str, low: int, high: int, names: Mapping[str, int]) -> bool:
    span, slash, step = part.partition("/")
    if slash and not (re.fullmatch("[0-9]{1,2}", step) and int(step) > 0):
        return False
    if span == "*":
        return True
    first, dash, last = span.partition("-")
    ends: list[int] = []
    for text in (first, last) if dash else (first,):
        if re.fullmatch("[0-9]{1,2}", text):
            ends.append(int(text))
        elif text.upper() in names:
            ends.append(names[text.upper()])
        else:
            return False
    return low <= ends[0] <= ends[-1] <= high


def _zone(path: tuple[str | int, ...], name: str | None) -> Iterator[Finding]:
    if name is not None and not is_time_zone(name):
        yield Finding(Broken(path, render(name), "a time zone of the IANA database", '"Europe/Berlin"'))


def _template(template: Mapping[str, Any]) -> Iterator[Finding]:
    path = ("spec", "serving", "template")
    try:
        size = len(json.dumps(template, default=str, separators=(",", ":")))
    except (RecursionError, ValueError, TypeError):
        size = TEMPLATE_LIMIT_BYTES + 1
    if size > TEMPLATE_LIMIT_BYTES:
        expected = f"a pod template of at most {TEMPLATE_LIMIT_BYTES} bytes"
        broken = Broken(path, f"an object of {size} bytes", expected, "large files in a ConfigMap")
        yield Finding(broken, Reason.TEMPLATE_TOO_LARGE)
    spec = template.get("spec")
    containers = spec.get("containers") if isinstance(spec, Mapping) else None
    where = (*path, "spec", "containers")
    if not isinstance(containers, list) or not containers:
        got = "missing" if containers is None else render(containers)
        yield Finding(Broken(where, got, "a list of at least one container", "[{name: engine, image: ...}]"))
        return
    names = [each.get("name") if isinstance(each, Mapping) else None for each in containers]
    if len(names) > 1 and "engine" not in names:
        expected = "one container with the name engine among several"
        yield Finding(
            Broken(where, render(containers), expected, "[{name: engine, image: ...}]"), Reason.NO_ENGINE_CONTAINER
        )


def _pool(pool: InferencePool) -> Iterator[Finding]:
    model = pool.spec.model
    if model.architecture is None and model.name is not None and not _CATALOGUE_NAME.fullmatch(model.name):
        expected = "a name of the catalogue, in lower case with hyphens"
        yield Finding(
            Broken(("spec", "model", "name"), render(model.name), expected, '"llama-3.3-70b"'), Reason.UNKNOWN_MODEL
        )
    if pool.spec.serving.template is not None:
        yield from _template(pool.spec.serving.template)
    flipping = pool.spec.flipping
    for index, window in enumerate(flipping.windows):
        yield from _zone(("spec", "flipping", "windows", index, "timeZone"), window.time_zone)
    for index, budget in enumerate(flipping.budgets):
        path = ("spec", "flipping", "budgets", index)
        yield from _zone((*path, "timeZone"), budget.time_zone)
        if budget.schedule is not None and not is_cron(budget.schedule):
            expected = "a cron expression of five fields: minute, hour, day of month, month, day of week"
            yield Finding(Broken((*path, "schedule"), render(budget.schedule), expected, '"0 22 * * *"'))


def _site(site: Site) -> Iterator[Finding]:
    for index, window in enumerate(site.spec.tariff):
        yield from _zone(("spec", "tariff", index, "timeZone"), window.time_zone)


def look(resource: Resource) -> Iterator[Finding]:
    """What is wrong with an object that the schema accepts, apart from implausible prices."""
    match resource:
        case InferencePool():
            yield from _pool(resource)
        case Site():
            yield from _site(resource)
        case _:
            return


def implausible_prices(accelerator: AcceleratorType, known: Sequence[Decimal] = ()) -> Iterator[Finding]:
    """Enabled prices that look like a mistake of unit: per month, per day, per node, per second or minute, or in cents.

    An hour of one accelerator has never been listed above 20 USD, nor above 0.1 USD for each GiB of its memory, nor
    below 0.4 USD. The limits keep a distance from that. Where prices of the type are known, a price above five times
    the highest or below a twentieth of the lowest is a mistake too, and so is one above twice the highest that is a
    known price once divided by the chips of a node.

    `plausibility: Override` takes one price as it is; the annotation `tidefleet.io/accept-implausible-price: "true"`
    all of an AcceleratorType.

    Args:
        known: USD per chip-hour that the shipped catalogue lists for this type; none for a type of one's own.
    """
    if accelerator.metadata.annotations.get(ACCEPT_IMPLAUSIBLE_PRICE) == "true":
        return
    gib = Decimal(accelerator.spec.memory_bytes) / 2**30
    highest = min(HIGHEST_USD_PER_CHIP_HOUR, max(Decimal(5), HIGHEST_USD_PER_GIB_HOUR * gib))
    lowest = LOWEST_USD_PER_CHIP_HOUR
    if known:
        highest = min(highest, HIGHEST_TIMES_KNOWN * max(known))
        lowest = max(lowest, min(known) / LOWEST_PART_OF_KNOWN)
    for index, price in enumerate(accelerator.spec.prices):
        usd = price.usd_per_chip_hour
        if price.state is PriceState.DISABLED or price.plausibility is Plausibility.OVERRIDE:
            continue
        most = highest
        if usd > HIGHEST_USD_PER_CHIP_HOUR:
            what = "looks like a price per month"
        elif usd > highest:
            what = "looks like a price per day, or of a whole node"
        elif usd < lowest:
            what = "looks like a price per minute or second, or in another unit than USD"
        elif known and _is_of_a_node(usd, known, accelerator.spec.chips_per_node):
            what = f"looks like the price of a whole node of {accelerator.spec.chips_per_node}"
            most = NODE_TIMES_KNOWN * max(known)
        else:
            continue
        expected = (
            f"USD for one accelerator and hour, from {_plain(lowest)} to {_plain(most)} "
            f"(it {what}; if it is right, set plausibility: Override)"
        )
        path = ("spec", "prices", index, "usdPerChipHour")
        yield Finding(Broken(path, render(format(usd, "f")), expected, '"2.10"'), Reason.PRICE_IMPLAUSIBLE)


def _is_of_a_node(usd: Decimal, known: Sequence[Decimal], chips_per_node: int | None) -> bool:
    if chips_per_node is None or chips_per_node < 2 or usd <= NODE_TIMES_KNOWN * max(known):
        return False
    return min(known) / NODE_TIMES_KNOWN <= usd / chips_per_node <= NODE_TIMES_KNOWN * max(known)


def _plain(usd: Decimal) -> str:
    return f"{usd:.0f}" if usd >= 10 else f"{usd:.2g}"
