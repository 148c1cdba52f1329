"""External APIs: token vectors at their prices, provisioned units, seats; and what genai-prices lists."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from tidefleet import catalogue
from tidefleet.catalogue.external_prices import PricesNotInstalled, external_offers, same_model
from tidefleet.economics.external import (
    ExternalOffer,
    PerSeat,
    PerToken,
    Provisioned,
    TokenVector,
    blended_usd_per_million,
    cheapest,
    margin,
    month_usd,
    provisioned_units,
    token_usd,
)

DAY = date(2026, 11, 21)
PRICE = PerToken(input=0.55, cached_input=0.14, output=2.19)
BAD = [math.nan, math.inf, -1.0, 1e300, None, "1"]


def test_deepseeks_published_day_earns_what_it_published() -> None:
    # DeepSeek open-infra-index, day 6: 342B hits, 266B misses, 168B out; 226.75 nodes of 8 at $2 per GPU-hour.
    revenue = token_usd(TokenVector(266e9, 342e9, 168e9), PRICE)
    assert revenue == pytest.approx(562_027, rel=5e-4)
    assert margin(revenue, 226.75 * 8 * 2 * 24) == pytest.approx(5.45, abs=0.01)


def test_each_kind_of_token_is_billed_at_its_price_and_an_unknown_one_as_input() -> None:
    plain = PerToken(input=1.0, output=4.0)
    tokens = TokenVector(1e6, 2e6, 3e6, cache_write=0.5e6, requests=1000.0)
    assert token_usd(tokens, plain) == pytest.approx(1.0 + 2.0 + 12.0)
    full = PerToken(input=1.0, output=4.0, cached_input=0.1, cache_write=1.25, usd_per_thousand_requests=5.0)
    assert token_usd(tokens, full) == pytest.approx(0.5 + 0.5 * 1.25 + 0.2 + 12.0 + 5.0)
    assert token_usd(tokens, replace(full, batch_discount=0.5), batch=True) == pytest.approx((0.5 + 0.625 + 17.2) / 2)


def test_long_prompts_pay_the_long_price_for_all_their_tokens() -> None:
    price = PerToken(1.0, 2.0, long_from_tokens=200_000.0, long=PerToken(2.0, 3.0))
    tokens = TokenVector(1e6, 0.0, 1e6)
    assert token_usd(tokens, price, prompt_tokens=200_000.0) == pytest.approx(3.0)
    assert token_usd(tokens, price, prompt_tokens=200_001.0) == pytest.approx(5.0)


def test_provisioned_throughput_is_whole_units_of_the_peak() -> None:
    offer = Provisioned(usd_per_unit_hour=20.0, input_tokens_per_second=5000.0, output_tokens_per_second=500.0)
    month = TokenVector(5000.0 * 2_628_000.0, 0.0, 0.5 * 500.0 * 2_628_000.0)  # 1.5 units, all month
    assert provisioned_units(month, offer) == 2
    assert provisioned_units(month, offer, peak_to_mean=2.0) == 3
    assert month_usd(ExternalOffer("a", "m", offer), month) == pytest.approx(2 * 20.0 * 730.0)
    assert provisioned_units(TokenVector(0.0, 0.0, 0.0), replace(offer, least_units=3)) == 3


def test_seats_cost_by_head_and_must_cover_the_tokens() -> None:
    offer = ExternalOffer("a", "m", PerSeat(20.0, tokens_per_month=1e6))
    assert month_usd(offer, TokenVector(3e6, 0.0, 1e6), seats=4) == pytest.approx(80.0)
    with pytest.raises(ValueError, match=r"3 seats allow 3e\+06 tokens.*e\.g\. 4 seats"):
        month_usd(offer, TokenVector(3e6, 0.0, 1e6), seats=3)


def test_the_cheapest_offer_depends_on_the_mix() -> None:
    reads = ExternalOffer("reads", "m", PerToken(0.1, 4.0))
    writes = ExternalOffer("writes", "m", PerToken(1.0, 1.0))
    seats = ExternalOffer("seats", "m", PerSeat(20.0))
    assert cheapest([reads, writes, seats], TokenVector(10.0, 0.0, 1.0)) == reads
    assert cheapest([reads, writes, seats], TokenVector(1.0, 0.0, 1.0)) == writes
    assert cheapest([seats], TokenVector(1.0, 0.0, 1.0)) is None
    assert blended_usd_per_million(reads, TokenVector(3.0, 0.0, 1.0)) == pytest.approx((0.3 + 4.0) / 4)
    with pytest.raises(ValueError, match="does not charge by the token"):
        blended_usd_per_million(seats, TokenVector(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="tokens are 0"):
        blended_usd_per_million(reads, TokenVector(0.0, 0.0, 0.0))


@pytest.mark.parametrize("value", BAD)
def test_hostile_numbers_are_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match="output is"):
        token_usd(TokenVector(1.0, 1.0, value), PRICE)
    with pytest.raises(ValueError, match="output price is"):
        token_usd(TokenVector(1.0, 1.0, 1.0), replace(PRICE, output=value))
    with pytest.raises(ValueError, match="batch discount is"):
        token_usd(TokenVector(1.0, 1.0, 1.0), replace(PRICE, batch_discount=value), batch=True)
    with pytest.raises(ValueError, match="output_tokens_per_second is"):
        provisioned_units(TokenVector(1.0, 1.0, 1.0), Provisioned(1.0, 1.0, value))
    with pytest.raises(ValueError, match="usd_per_seat_month is"):
        month_usd(ExternalOffer("a", "m", PerSeat(value)), TokenVector(1.0, 0.0, 0.0), seats=1)
    with pytest.raises(ValueError, match="cost is"):
        margin(1.0, value)


def test_more_cache_writes_than_input_and_units_without_end_are_refused() -> None:
    with pytest.raises(ValueError, match="cache_write is 2"):
        token_usd(TokenVector(1.0, 0.0, 0.0, cache_write=2.0), PRICE)
    with pytest.raises(ValueError, match="below 1e9 units"):
        provisioned_units(TokenVector(1e23, 0.0, 0.0), Provisioned(1.0, 1e-9, 1.0))


# --- names of models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "references"),
    [
        (
            "llama-3.3-70b",
            [
                "meta-llama/Llama-3.3-70B-Instruct-Turbo", "meta.llama3-3-70b-instruct-v1:0", "llama-3.3-70b-versatile",
                "Meta-Llama-3_3-70B-Instruct", "@cf/meta/llama-3.3-70b-instruct-fp8-fast",
                "databricks-meta-llama-3-3-70b-instruct",
            ],
        ),
        ("gpt-oss-120b", ["openai/gpt-oss-120b", "openai.gpt-oss-120b-1:0", "gpt-oss-120b"]),
        ("deepseek-v3.1", ["deepseek-ai/DeepSeek-V3.1", "deepseek-v3.1-terminus", "deepseek/deepseek-chat-v3.1"]),
        ("deepseek-v3", ["deepseek/deepseek_v3", "deepseek-v3-0324", "deepseek/deepseek-chat-v3-0324"]),
        ("qwen3-235b-a22b", ["qwen/qwen3-235b-a22b-2507", "Qwen/Qwen3-235B-A22B-Instruct-2507"]),
        ("llama-4-scout", ["meta-llama/Llama-4-Scout-17B-16E-Instruct", "meta.llama4-scout-17b-instruct-v1:0"]),
    ],
)  # fmt: skip
def test_providers_names_for_a_model_are_recognised(name: str, references: list[str]) -> None:
    assert [one for one in references if not same_model(name, one)] == []
    others = [other for other in catalogue.models() if other != name]
    assert [(other, one) for other in others for one in references if same_model(other, one)] == []


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("deepseek-v3", "deepseek-v3.2"),
        ("deepseek-v3", "deepseek/deepseek-chat-v3.1"),
        ("glm-5", "zai-org/GLM-5.2"),
        ("glm-4.5", "zai/GLM-4.5-Air"),
        ("kimi-k2", "moonshotai/kimi-k2.6"),
        ("deepseek-r1", "deepseek-r1-distill-llama-70b"),
        ("llama-3.3-70b", "meta-llama/llama-3.3-70b-instruct:free"),
        ("gpt-oss-20b", "openai/gpt-oss-safeguard-20b"),
        ("gpt-oss-120b", "openai/gpt-oss-120b:batch"),
        ("qwen3-8b", "Qwen/Qwen3-Embedding-8B"),
        ("llama-3.1-8b", "x" * 100_000),
        ("llama-3.1-8b", ""),
    ],
)
def test_another_model_or_another_kind_of_offer_is_not_taken_for_it(name: str, reference: str) -> None:
    assert not same_model(name, reference)


# --- genai-prices ----------------------------------------------------------------------------------------------------


def test_without_the_package_a_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(name: str, package: str | None = None) -> Any:
        if name.startswith("genai_prices"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(PricesNotInstalled, match=r"pip install 'tidefleet\[prices\]'"):
        external_offers("llama-3.3-70b", DAY)


@pytest.fixture(scope="module")
def genai() -> None:
    pytest.importorskip("genai_prices", reason="genai-prices is not installed")


@pytest.mark.usefixtures("genai")
@pytest.mark.parametrize("name", ["llama-3.3-70b", "deepseek-v3.1", "gpt-oss-120b", "qwen3-32b"])
def test_open_models_have_offers_of_several_providers_none_of_them_free(name: str) -> None:
    offers = external_offers(name, DAY)
    assert len({one.provider for one in offers}) >= 3
    for one in offers:
        assert isinstance(one.billing, PerToken)
        assert one.billing.input > 0.0
        assert one.billing.output > 0.0
        assert one.source.startswith("genai-prices ")
    assert [one.billing.output for one in offers] == sorted(one.billing.output for one in offers)


@pytest.mark.usefixtures("genai")
def test_an_offer_costs_what_the_package_itself_calculates() -> None:
    from genai_prices import Usage
    from genai_prices.data_snapshot import get_snapshot

    usage = Usage(input_tokens=10_000, cache_read_tokens=4_000, output_tokens=2_000)
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    models = {(p.id, m.id): (p, m) for p in get_snapshot().providers for m in p.models}
    compared = 0
    for name in ("llama-3.3-70b", "deepseek-v3.1", "gpt-oss-120b", "kimi-k2"):
        for offer in external_offers(name, DAY):
            provider, model = models[offer.provider, offer.model]
            theirs = model.calc_price(usage, provider, genai_request_timestamp=noon).total_price
            assert isinstance(offer.billing, PerToken)
            ours = token_usd(
                TokenVector(6_000.0, 4_000.0, 2_000.0, requests=1.0), offer.billing, prompt_tokens=10_000.0
            )
            assert ours == pytest.approx(float(theirs)), offer.name
            compared += 1
    assert compared > 20


@pytest.mark.usefixtures("genai")
def test_providers_can_be_chosen_and_an_unknown_model_has_no_offers() -> None:
    assert {one.provider for one in external_offers("gpt-oss-120b", DAY, providers=("groq",))} == {"groq"}
    assert external_offers("gpt-oss-120b", DAY, providers=("nobody",)) == ()
    assert external_offers("a-model-of-ours", DAY) == ()
