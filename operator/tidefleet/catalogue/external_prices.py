"""What external APIs charge for the models of the catalogue, from the optional package genai-prices.

The package is imported when somebody asks, not before. Its names for one open model differ by provider; here a model is
found by the name that is left when vendor prefixes, separators and words such as ``instruct`` are taken off.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from tidefleet.economics.external import ExternalOffer, PerToken


class PricesNotInstalled(RuntimeError):
    """genai-prices is not installed; the message says how to install it."""


_FREE_WORDS = (
    r"(instruct-turbo|instruct|it|chat|hf|fast|fp8|fp4|nvfp4|bf16|awq|versatile|instant|basic|v\d+([.:]\d+)?|\d+:\d+)"
)
"""Words that name a packaging of a model, not another model."""

_REVISION = r"(0324|0528|2501|2506|2507|0711|0905|terminus|preview)"
"""Words that name a later revision of the same architecture; what it costs to serve is the same."""

_ALIASES: dict[str, tuple[str, ...]] = {
    "deepseek-v3": ("deepseek-chat-v3",),
    "deepseek-v3.1": ("deepseek-chat-v3.1", "deepseek-v3p1"),
    "llama-4-maverick": ("llama-4-maverick-17b-128e", "llama-4-maverick-17b"),
    "llama-4-scout": ("llama-4-scout-17b-16e", "llama-4-scout-17b"),
    "qwen3-coder-480b-a35b": ("qwen3-coder",),
    "mistral-small-3.2-24b": ("mistral-small-3.2",),
}
"""Other names of the catalogue's models; each name stands for itself too."""

_PREFIXES = (
    "databricks-meta-",
    "databricks-",
    "meta.",
    "google.",
    "openai.",
    "qwen.",
    "deepseek.",
    "mistral.",
    "meta-",
)
_OTHER_KIND = re.compile(r":(free|batch|extended|thinking|nitro|floor)$|^~|distill|vision|safeguard|thinking")


def same_model(name: str, reference: str) -> bool:
    """Whether a provider's name for a model means this model of the catalogue.

    Args:
        name: catalogue name, e.g. ``llama-3.3-70b``.
        reference: e.g. ``meta-llama/Llama-3.3-70B-Instruct-Turbo`` or ``meta.llama3-3-70b-instruct-v1:0``.
    """
    text = reference.lower()
    if _OTHER_KIND.search(text):
        return False
    text = text.rsplit("/", 1)[-1]
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    return any(_pattern(each).fullmatch(text) for each in (name, *_ALIASES.get(name, ())))


def _pattern(name: str) -> re.Pattern[str]:
    parts = re.findall(r"[a-z]+|\d+", name.lower())
    words = r"[-._ p]?".join(re.escape(part) for part in parts)  # Fireworks writes k2p6 for k2.6
    return re.compile(rf"{words}([-_]({_FREE_WORDS}|{_REVISION}))*")


def external_offers(model: str, on: date, *, providers: tuple[str, ...] = ()) -> tuple[ExternalOffer, ...]:
    """What providers charge by the token for a model of the catalogue on a day, cheapest output first.

    Free, discounted-batch and other variants of an offer are left out, and so is one without a price for input and
    output: an unknown price is not 0.

    Args:
        model: catalogue name, e.g. ``gpt-oss-120b``.
        on: the day; prices that begin later do not count. Noon UTC, where a price depends on the hour.
        providers: genai-prices' ids to look at, e.g. ``("together", "groq")``; all of them by default.

    Raises:
        PricesNotInstalled: genai-prices is not installed.
    """
    package, snapshot = _snapshot()
    noon = datetime(on.year, on.month, on.day, 12, tzinfo=UTC)
    source = f"genai-prices {getattr(package, '__version__', '')}".strip()
    found = [
        offer
        for provider in snapshot.providers
        if not providers or provider.id in providers
        for info in provider.models
        if same_model(model, info.id)
        for offer in _offers(provider.id, info, noon, source)
    ]
    return tuple(sorted(found, key=lambda one: (_output(one), one.name)))


def _snapshot() -> tuple[Any, Any]:
    try:
        package = importlib.import_module("genai_prices")
        data = importlib.import_module("genai_prices.data_snapshot")
    except ImportError as error:
        raise PricesNotInstalled(
            "prices of external APIs need the package genai-prices; install it with: pip install 'tidefleet[prices]'"
        ) from error
    return package, data.get_snapshot()


def _output(offer: ExternalOffer) -> float:
    return offer.billing.output if isinstance(offer.billing, PerToken) else 0.0


def _offers(provider: str, info: Any, noon: datetime, source: str) -> Iterator[ExternalOffer]:
    if getattr(info, "deprecated", None):
        return
    try:
        price = info.get_prices(noon)
    except (IndexError, LookupError, ValueError):
        return
    start = _first_tier(price)
    base = _vector(price, None)
    if base is None or base.output <= 0.0 or base.input <= 0.0:
        return
    long = _vector(price, start) if start is not None else None
    if long is not None and start is not None:
        base = PerToken(
            base.input, base.output, base.cached_input, base.cache_write, base.usd_per_thousand_requests,
            long_from_tokens=float(start), long=long,
        )  # fmt: skip
    yield ExternalOffer(provider, info.id, base, as_of=_since(info, noon), source=source)


def _first_tier(price: Any) -> int | None:
    starts = [tier.start for value in vars(price).values() for tier in getattr(value, "tiers", ())]
    return min(starts, default=None)


def _vector(price: Any, above: int | None) -> PerToken | None:
    def per_million(name: str) -> float | None:
        value = vars(price).get(name)
        if hasattr(value, "tiers"):
            reached = [tier.price for tier in value.tiers if above is not None and tier.start <= above]
            value = reached[-1] if reached else value.base
        return float(value) if isinstance(value, Decimal) and value.is_finite() and value >= 0 else None

    per_input, per_output = per_million("input_mtok"), per_million("output_mtok")
    if per_input is None or per_output is None:
        return None
    return PerToken(
        input=per_input,
        output=per_output,
        cached_input=per_million("cache_read_mtok"),
        cache_write=per_million("cache_write_mtok"),
        usd_per_thousand_requests=per_million("requests_kcount") or 0.0,
    )


def _since(info: Any, noon: datetime) -> str:
    """The day from which the price holds, where the package says."""
    if not isinstance(info.prices, list):
        return ""
    days = [start for each in info.prices if (start := getattr(each.constraint, "start_date", None)) is not None]
    return max((day.isoformat() for day in days if day <= noon.date()), default="")
