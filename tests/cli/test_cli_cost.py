"""`tidefleet cost`: the keys of its answer, the identities they keep, and what it says of a wrong option."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tidefleet.catalogue.external_prices import PricesNotInstalled
from tidefleet.cli.main import app
from tidefleet.economics.external import ExternalOffer, PerToken

LLAMA = ("--model", "llama-3.1-8b", "--accelerator", "h100-sxm")
MOE = ("--model", "gpt-oss-120b", "--accelerator", "h100-sxm")
CONTRACT = {
    "usd_per_million_input_tokens", "usd_per_million_cached_input_tokens", "usd_per_million_output_tokens",
    "usd_per_million_tokens", "output_tokens_per_second_per_chip", "batch", "ttft_seconds", "tpot_seconds",
    "joules_per_output_token", "watts_per_chip", "fits", "kv_room_bytes", "max_context_tokens", "mfu", "mbu",
    "bound_by", "provenance", "sigma", "cost_share", "concurrent_sessions", "usd_per_user_month",
}  # fmt: skip
CONFIG = {
    "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip


def run(*arguments: str, columns: int = 200) -> Result:
    shown = {"COLUMNS": str(columns), "TERM": "dumb", "NO_COLOR": "1"}
    return CliRunner().invoke(app, ["cost", *arguments], env=shown)


def strict(text: str) -> Any:
    """JSON as other languages read it: NaN and Infinity are refused."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def cost(*arguments: str, status: int = 0) -> dict[str, Any]:
    result = run(*arguments, "-o", "json")
    assert result.exit_code == status, result.output
    answer: dict[str, Any] = strict(result.stdout)
    return answer


def test_the_answer_has_every_figure_of_its_contract() -> None:
    answer = cost(*LLAMA, "--cached", "0.4", "--tpot", "0.05")
    assert set(answer) >= CONTRACT
    assert answer["fits"] is True
    assert answer["tpot_seconds"] <= 0.05
    assert 0 < answer["mfu"] <= 1
    assert 0 < answer["mbu"] <= 1
    assert answer["kv_room_bytes"] < 80e9
    assert answer["joules_per_output_token"] == pytest.approx(
        answer["watts_per_chip"] / answer["output_tokens_per_second_per_chip"]
    )


def test_room_for_kv_is_told_in_tokens_of_the_whole_replica() -> None:
    one, ranks, latent = (
        cost(*of)
        for of in (
            LLAMA,
            (*LLAMA, "--chips", "4", "--tp", "1"),
            ("--model", "deepseek-v3", "--accelerator", "h200", "--ep", "8"),
        )
    )
    assert one["kv_bytes_per_token"] == 2 * 32 * 8 * 128 * 2
    assert one["kv_room_tokens"] == pytest.approx(one["kv_room_bytes"] / one["kv_bytes_per_token"], abs=1)
    assert ranks["kv_room_tokens"] == pytest.approx(4 * ranks["kv_room_bytes"] / one["kv_bytes_per_token"], abs=1)
    assert latent["kv_bytes_per_token"] == 70_272


def test_room_for_kv_is_told_per_chip() -> None:
    one, two = (cost(*LLAMA, "--tp", width)["kv_room_bytes"] for width in ("1", "2"))
    assert one < two < 1.5 * one  # half of the weights leave each chip, and nothing doubles


@pytest.mark.parametrize("cached", ["0", "0.4", "400", "1"])
def test_the_directions_add_up_to_the_bill(cached: str) -> None:
    answer = cost(*LLAMA, "--input", "1000", "--output", "250", "--cached", cached)
    share = {"0": 0.0, "1": 1.0}.get(cached, 0.4)
    parts = (
        1000 * (1 - share) * answer["usd_per_million_input_tokens"]
        + 1000 * share * answer["usd_per_million_cached_input_tokens"]
        + 250 * answer["usd_per_million_output_tokens"]
    )
    assert parts == pytest.approx(1250 * answer["usd_per_million_tokens"])
    per_request = answer["usd_per_replica_hour"] / 3600 / answer["requests_per_second"]
    assert parts / 1e6 == pytest.approx(per_request)
    assert answer["usd_per_request"]["mean"] == pytest.approx(per_request)


def test_a_cached_token_has_a_price_below_a_processed_one_though_none_is_cached() -> None:
    answer = cost(*LLAMA, "--input", "4000")
    assert 0 < answer["usd_per_million_cached_input_tokens"] < answer["usd_per_million_input_tokens"]


@pytest.mark.parametrize(
    "more", [(), ("--utilisation", "0.4"), ("--usd-per-kwh", "0.2", "--pue", "1.3"), ("--role", "decode")]
)
def test_the_shares_of_a_dollar_add_up(more: tuple[str, ...]) -> None:
    share = cost(*LLAMA, *more)["cost_share"]
    assert set(share) == {"compute", "hbm", "network", "storage", "power", "idle"}
    assert sum(share.values()) == pytest.approx(1)
    assert min(share.values()) >= 0
    if "0.4" in more:
        assert share["idle"] == pytest.approx(0.6)
    assert (share["power"] > 0) == ("--pue" in more)


def test_a_price_and_a_load_of_ones_own_are_used() -> None:
    base, dear, idle = (
        cost(*LLAMA, "--price-per-hour", price, "--utilisation", load)
        for price, load in (("2", "1"), ("4", "1"), ("2", "0.5"))
    )
    assert dear["usd_per_million_tokens"] == pytest.approx(2 * base["usd_per_million_tokens"])
    assert idle["usd_per_million_tokens"] == pytest.approx(2 * base["usd_per_million_tokens"])
    assert base["price_source"] == "--price-per-hour"


def test_pue_reaches_the_watts_of_the_facility_alone() -> None:
    plain, loaded = cost(*LLAMA), cost(*LLAMA, "--pue", "1.5")
    assert loaded["watts_per_chip"] == plain["watts_per_chip"]
    assert loaded["facility_watts_per_chip"] > plain["watts_per_chip"]


def test_prefill_and_decode_are_priced_in_their_own_direction() -> None:
    prefill = cost(*LLAMA, "--role", "prefill", "--ttft-p95", "1s")
    decode = cost(*LLAMA, "--role", "decode", "--tpot", "30ms")
    assert prefill["usd_per_million_output_tokens"] is None
    assert prefill["usd_per_million_input_tokens"] > 0
    assert decode["usd_per_million_input_tokens"] is None
    assert decode["usd_per_million_output_tokens"] > 0
    assert prefill["output_tokens_per_second_per_chip"] == decode["input_tokens_per_second_per_chip"] == 0
    assert prefill["tpot_seconds"] is None
    assert decode["ttft_seconds"] is None
    assert prefill["ttft_seconds"] <= 1
    assert decode["tpot_seconds"] <= 0.03


def test_a_prefill_replica_takes_the_prompts_of_a_batch_one_after_the_other() -> None:
    one, four = (cost(*LLAMA, "--role", "prefill", "--batch", batch) for batch in ("1", "4"))
    assert four["ttft_seconds"] == pytest.approx(4 * one["ttft_seconds"])
    assert one["requests_per_second"] == pytest.approx(1 / one["ttft_seconds"], rel=1e-6)
    assert four["requests_per_second"] == pytest.approx(one["requests_per_second"])


def test_a_given_batch_is_priced_and_objectives_are_said_not_to_hold() -> None:
    answer = cost(*LLAMA, "--batch", "8", "--tpot", "1ms")
    assert answer["batch"] == 8
    assert answer["limited_by"] == "asked"
    assert "not enforced" in answer["notes"][0]


def test_a_given_batch_may_be_what_fits_half_way_through_the_answers() -> None:
    of = ("--model", "llama-3.1-8b", "--accelerator", "h100-sxm", "--tp", "1", "--input", "1000", "--output", "4000")
    most = cost(*of)["batch"]
    found = cost(*of, "--batch", f"{1.5 * most:.0f}")
    assert found["output_tokens_per_second_per_chip"] > cost(*of)["output_tokens_per_second_per_chip"]
    assert any(f"at full length {most:.0f} do" in note for note in found["notes"])
    assert "do not fit" in cost(*of, "--batch", f"{1.8 * most:.0f}", status=1)["because"]


def test_without_a_layout_the_cheapest_width_is_taken() -> None:
    open_width = cost(*LLAMA, "--preset", "chat")
    tried = {width: cost(*LLAMA, "--preset", "chat", "--tp", width) for width in ("1", "2", "4", "8")}
    least = min(tried.values(), key=lambda answer: answer["usd_per_million_tokens"])
    assert open_width == least


@pytest.mark.parametrize(
    ("options", "layout"),
    [
        (("--chips", "8"), (8, 8, 1)),
        (("--chips", "8", "--tp", "4"), (8, 4, 1)),
        (("--tp", "2"), (2, 2, 1)),
        (("--chips", "8", "--ep", "8"), (8, 1, 8)),
        (("--chips", "16", "--tp", "2", "--ep", "8"), (16, 2, 8)),
        (("--ep", "4"), (4, 1, 4)),
    ],
)
def test_layouts_mean_what_their_options_say(options: tuple[str, ...], layout: tuple[int, int, int]) -> None:
    answer = cost(*MOE, *options)
    assert (answer["chips"], answer["tensor_parallel"], answer["expert_parallel"]) == layout


def test_ranks_of_their_own_carry_as_much_as_as_many_replicas() -> None:
    narrow, wide = cost(*LLAMA, "--tp", "2"), cost(*LLAMA, "--chips", "8", "--tp", "2")
    assert wide["requests_per_second"] == pytest.approx(4 * narrow["requests_per_second"], rel=0.02)


def test_speculation_makes_tokens_cheaper_where_memory_binds() -> None:
    plain = cost(*LLAMA, "--role", "decode", "--batch", "4")
    quick = cost(*LLAMA, "--role", "decode", "--batch", "4", "--accept-length", "2.5")
    assert quick["usd_per_million_output_tokens"] < plain["usd_per_million_output_tokens"]


@pytest.mark.parametrize("more", [(), ("--utilisation", "0.5"), ("--usd-per-kwh", "0.3", "--pue", "1.4"),
                                  ("--usd-per-kwh", "0.3", "--utilisation", "0.5")])  # fmt: skip
def test_hosting_breaks_even_with_what_power_costs_beside_the_rent(
    monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    offer = ExternalOffer("acme", "llama-3.1-8b", PerToken(0.2, 0.2), as_of="2026-11-01", source="a list")
    monkeypatch.setattr("tidefleet.cli.hosting.offers_of", lambda _model: (offer,))
    fixed = (*LLAMA, "--tp", "1")
    rent = cost(*fixed, *more, "--price-per-hour", "2")["break_even_usd_per_chip_hour"]
    assert cost(*fixed, *more, "--price-per-hour", str(rent))["usd_per_million_tokens"] == pytest.approx(0.2)
    paid = [one for one in more if one not in {"0.5", "--utilisation"}]
    load = cost(*fixed, *more, "--price-per-hour", "1.5")["break_even_utilisation"]
    assert 0 < load < 1
    at = cost(*fixed, *paid, "--price-per-hour", "1.5", "--utilisation", str(load))
    assert at["usd_per_million_tokens"] == pytest.approx(0.2)


def test_hosting_breaks_even_where_its_month_costs_what_the_offer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    offer = ExternalOffer("acme", "llama-3.1-8b", PerToken(2.0, 2.0), as_of="2026-11-01", source="a list")
    monkeypatch.setattr("tidefleet.cli.hosting.offers_of", lambda _model: (offer,))
    answer = cost(*LLAMA, "--price-per-hour", "2", "--utilisation", "0.5")
    assert answer["external_api"] == {
        "name": "acme/llama-3.1-8b", "usd_per_million_tokens": pytest.approx(2.0), "as_of": "2026-11-01",
        "source": "a list",
    }  # fmt: skip
    month = answer["usd_per_replica_hour"] * 730
    assert answer["break_even_tokens_per_month"] == pytest.approx(month / 2.0 * 1e6)
    assert answer["break_even_utilisation"] == pytest.approx(0.5 * answer["usd_per_million_tokens"] / 2.0)
    at = cost(*LLAMA, "--price-per-hour", str(answer["break_even_usd_per_chip_hour"]), "--utilisation", "0.5", "--tp",
              str(answer["tensor_parallel"]))  # fmt: skip
    assert at["usd_per_million_tokens"] == pytest.approx(2.0)
    few, many = (cost(*LLAMA, "--price-per-hour", "2", "--tokens-per-month", volume) for volume in ("1e6", "1e11"))
    assert few["host_or_buy"].startswith("buy: for 1M tokens a month")
    assert many["host_or_buy"].startswith("host: for 100B tokens a month")
    dear = cost(*LLAMA, "--price-per-hour", "900000")
    assert dear["break_even_tokens_per_month"] is None  # never; JSON has no infinity


@pytest.mark.parametrize(
    ("as_of", "says"),
    [("2020-01-31", "days old, more than 90"), ("2099-01-31", "is dated 2099-01-31"), ("", "")],
)
def test_a_price_of_the_book_that_is_stale_or_of_the_future_is_noted(tmp_path: Path, as_of: str, says: str) -> None:
    book = tmp_path / "book.csv"
    book.write_text(f"accelerator,capacityType,price,currency,unit,asOf\nh100-sxm,OnDemand,2,USD,chip-hour,{as_of}\n")
    notes = cost(*LLAMA, "--prices", str(book))["notes"]
    assert [says in note for note in notes] == ([True] if says else [])
    assert not cost(*LLAMA)["notes"]  # those that ship say their day beside them


def test_without_the_package_of_prices_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_model: str) -> None:
        raise PricesNotInstalled("prices of external APIs need the package genai-prices")

    monkeypatch.setattr("tidefleet.cli.hosting.offers_of", absent)
    answer = cost(*LLAMA)
    assert answer["host_or_buy"] == "prices of external APIs need the package genai-prices"
    assert answer["external_api"] is None


def test_a_type_without_a_price_is_estimated_and_says_so() -> None:
    answer = cost("--model", "llama-3.1-8b", "--accelerator", "h20")
    assert answer["usd_per_million_tokens"] is None
    assert answer["cost_share"] is None
    assert answer["usd_per_user_month"] is None
    assert answer["output_tokens_per_second_per_chip"] > 0
    assert "h20 has no OnDemand price; give one, e.g. --price-per-hour 2.50" in answer["notes"]
    priced = cost("--model", "llama-3.1-8b", "--accelerator", "h20", "--price-per-hour", "1")
    assert priced["usd_per_million_tokens"] > 0


def test_an_implausible_price_is_used_and_questioned() -> None:
    answer = cost(*LLAMA, "--price-per-hour", "1500")
    assert answer["usd_per_chip_hour"] == 1500
    assert "looks like a price per month" in answer["notes"][0]
    assert cost(*LLAMA, "--price-per-hour", "2.1")["notes"] == []


def test_what_cannot_be_served_says_why_and_keeps_its_keys() -> None:
    answer = cost("--model", "llama-3.1-405b", "--accelerator", "l4", "--price-per-hour", "1", status=1)
    assert answer["cannot_serve"] == "Memory"
    assert "usable per chip" in answer["because"]
    assert answer["fits"] is False
    assert answer["kv_room_bytes"] == 0
    assert set(answer) >= CONTRACT
    assert answer["usd_per_million_tokens"] is None


def test_an_objective_out_of_reach_is_named() -> None:
    answer = cost(*LLAMA, "--tpot", "0.1ms", status=1)
    assert answer["cannot_serve"] == "TPOT"
    assert "TPOT is" in answer["because"]
    assert answer["fits"] is True


def test_an_accelerator_that_only_prefills_does_nothing_else() -> None:
    for role in ("aggregated", "decode"):
        answer = cost("--model", "llama-3.1-8b", "--accelerator", "rubin-cpx", "--role", role, status=1)
        assert answer["cannot_serve"] == "Role"
        assert answer["because"] == "rubin-cpx serves prefill only; ask for --role prefill"


def test_a_model_of_ones_own_is_read_from_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG | {"_name_or_path": "ours/chat-8b"}))
    answer = cost("--architecture", str(path), "--accelerator", "h100-sxm", "--tp", "1")
    assert answer["model"] == "chat-8b"
    shipped = cost(*LLAMA, "--tp", "1")  # the same shape
    assert answer["usd_per_million_tokens"] == pytest.approx(shipped["usd_per_million_tokens"], rel=0.01)
    assert answer["host_or_buy"] == "no external price of chat-8b is known"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "is not a mapping; expected the fields of a config.json"),
        ("{}", "num_hidden_layers is missing"),
        (json.dumps(CONFIG | {"hidden_size": math.nan}), "hidden_size"),
        (json.dumps(CONFIG | {"num_hidden_layers": 0}), "num_hidden_layers"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_told(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    result = run("--architecture", str(path), "--accelerator", "h100-sxm")
    assert result.exit_code == 2
    assert f"--architecture {path}: " in result.stderr
    assert words in result.stderr


def test_only_widths_that_share_the_attention_heads_evenly_are_tried() -> None:
    """Qwen2.5-7B has 28 heads, so engines refuse it on 8 chips, the width that would meet this objective."""
    result = run(
        "--model", "qwen2.5-7b", "--accelerator", "h100-sxm", "--input", "20000", "--tpot", "3ms", "-o", "json"
    )
    assert strict(result.stdout)["tensor_parallel"] <= 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--accelerator", "h100"), "--accelerator is 'h100'; expected one of h100-pcie, h100-sxm"),
        (("--tp", "7"), "--tp is 7; llama-3.1-8b has 32 attention heads, which 7 chips cannot share evenly; expected a "
                        "divisor, e.g. --tp 4"),
        (("--tp", "65536"), "--tp is 65536; llama-3.1-8b has 32 attention heads"),
        (("--model", "mixtral-8x7b", "--ep", "16"), "--ep is 16; mixtral-8x7b has 8 experts; expected at most so many"),
        (("--model", "llama-9"), "--model is 'llama-9'; expected one of"),
        (("--model", ""), "--model is missing; expected a model of the catalogue, e.g. llama-3.3-70b"),
        (("--accelerator", "h1000"), "--accelerator is 'h1000'; expected one of"),
        (("--role", "train"), "--role is 'train'; expected aggregated, prefill or decode"),
        (("--weights", "fp7"), "--weights is 'fp7'; expected bf16, fp8 or fp4"),
        (("--kv", "int2"), "--kv is 'int2'; expected bf16, fp8 or fp4"),
        (("--compute", "fp4"), "--compute is fp4; h100-sxm is known to compute in bf16, fp8"),
        (("--preset", "novel"), "--preset is 'novel'; expected one of chat, code, rag"),
        (("--capacity-type", "Lease"), "--capacity-type is 'Lease'; expected OnDemand"),
        (("--utilisation", "0"), "--utilisation is 0; expected a number from 1e-06 to 1, e.g. 0.85"),
        (("--utilisation", "1.5"), "--utilisation is 1.5; expected"),
        (("--tp", "0"), "--tp is 0; expected a number from 1"),
        (("--chips", "-8"), "--chips is -8; expected a number from 1"),
        (("--chips", "10000000000"), "--chips is 1e+10; expected"),
        (("--chips", "8", "--tp", "3"), "--chips 8 --tp 3: 3 chips that share a sequence do not divide 8"),
        (("--chips", "4", "--tp", "8"), "--chips 4 --tp 8: 8 chips that share a sequence do not divide 4"),
        (("--ep", "8"), "--ep is 8; llama-3.1-8b is a dense model without experts; expected 1, or --tp 8"),
        (("--input", "0"), "--input is 0; expected a number from 1"),
        (("--input", "1e300"), "--input is 1e+300; expected"),
        (("--output", "-1"), "--output is -1; expected"),
        (("--cached", "-0.1"), "--cached is -0.1; expected a number from 0"),
        (("--cached", "1001"), "--cached is 1001; expected a share up to 1 or at most --input 1000 tokens"),
        (("--batch", "0"), "--batch is 0; expected"),
        (("--ttft-p95", "0"), "--ttft-p95 is '0'; expected a time above 0, e.g. 0.05 or 50ms"),
        (("--tpot", "fast"), "--tpot is 'fast'; expected a time above 0"),
        (("--tpot", "nan"), "--tpot is 'nan'; expected a time above 0"),
        (("--tpot", "-5ms"), "--tpot is '-5ms'; expected a time above 0"),
        (("--accept-length", "0.5"), "--accept-length is 0.5; expected"),
        (("--accept-length", "9", "--draft-tokens", "3"), "--accept-length is 9; expected 1 to 4"),
        (("--price-per-hour", "0"), "--price-per-hour is 0; expected a number from 1e-06 to 1e+06, e.g. 2.50 (leave"),
        (("--price-per-hour", "-2"), "--price-per-hour is -2; expected"),
        (("--pue", "0.9"), "--pue is 0.9; expected a number from 1 to 10, e.g. 1.2"),
        (("--usd-per-kwh", "-1"), "--usd-per-kwh is -1; expected"),
        (("--memory-utilisation", "1.2"), "--memory-utilisation is 1.2; expected"),
        (("--sweep", "tpot=5ms"), "--sweep is 'tpot=5ms'; expected tpot=FROM..TO, e.g. tpot=5ms..100ms"),
        (("--sweep", "tpot=50ms..5ms"), "expected a range that rises"),
        (("--sweep", "tpot=5ms..9ms", "--batch", "4"), "--batch and --sweep exclude each other"),
        (("--sweep", "tpot=5ms..9ms", "--role", "prefill"), "--sweep is over the time between tokens"),
        (("--sweep", "tpot=5ms..9ms", "--accelerator", "h20"), "h20 has no price of this capacity type; give one"),
        (("--levers", "--sweep", "tpot=5ms..9ms"), "--levers and --sweep exclude each other"),
        (("--levers", "--batch", "4"), "--levers and --batch exclude each other"),
        (("--levers", "--accelerator", "h20"), "h20 has no OnDemand price; give one"),
        (("--levers", "--accelerator", "rubin-cpx"), "--role is aggregated: rubin-cpx serves prefill only"),
        (("--prices", "/nonexistent/book.yaml"), "/nonexistent/book.yaml"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_told_with_what_is_expected(options: tuple[str, ...], words: str) -> None:
    result = run(*LLAMA, *options)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "option",
    [
        "--input", "--output", "--cached", "--batch", "--accept-length", "--price-per-hour", "--pue", "--usd-per-kwh",
        "--utilisation", "--memory-utilisation", "--tokens-per-month",
    ],
)  # fmt: skip
def test_no_number_is_nan_or_infinite(option: str, number: str) -> None:
    result = run(*LLAMA, f"{option}={number}")
    assert result.exit_code == 2
    assert f"{option} is {number}; expected a number from" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--input", "1"), ("--output", "1"), ("--cached", "1"), ("--batch", "0.001"), ("--utilisation", "1e-6"),
        ("--price-per-hour", "1e-6"), ("--price-per-hour", "1e6"), ("--tokens-per-month", "1e18"),
        ("--tokens-per-month", "1"), ("--output", "1000", "--input", "100000"), ("--memory-utilisation", "1"),
    ],
)  # fmt: skip
def test_numbers_at_the_edge_give_valid_json(options: tuple[str, ...]) -> None:
    result = run(*LLAMA, *options, "-o", "json")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    if result.exit_code == 2:
        assert result.stderr.startswith("tidefleet: ")
        return
    answer = strict(result.stdout)
    assert set(answer) >= CONTRACT


# --- sweep and levers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--tp", "2"), ("--role", "decode")])
def test_the_price_falls_as_the_speed_is_relaxed(more: tuple[str, ...]) -> None:
    answer = cost(*LLAMA, *more, "--sweep", "tpot=2ms..100ms")
    rows = answer["sweep"]
    assert [row["tpot_seconds"] for row in rows] == sorted(row["tpot_seconds"] for row in rows)
    assert rows[0]["tpot_seconds"] == pytest.approx(0.002)
    assert rows[-1]["tpot_seconds"] == pytest.approx(0.1)
    prices = [row["usd_per_million_tokens"] for row in rows]
    reached = [one for one in prices if one is not None]
    assert len(reached) > 3
    assert prices[-len(reached) :] == reached  # out of reach at the fast end alone
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(reached))
    assert all(row["tpot_seconds"] * row["tokens_per_second_per_user"] == pytest.approx(1) for row in rows)


def test_less_memory_for_the_engine_makes_a_sweep_and_levers_dearer() -> None:
    wide = ("--tp", "1", "--role", "decode", "--input", "8000", "--memory-utilisation")
    for ask, rows in ((("--sweep", "tpot=90ms..100ms"), "sweep"), (("--levers",), "levers")):
        much, little = (cost(*LLAMA, *ask, *wide, share)[rows][0]["usd_per_million_tokens"] for share in ("0.9", "0.3"))
        assert little > much


def test_a_sweep_holds_the_other_objectives() -> None:
    free = cost(*LLAMA, "--sweep", "tpot=20ms..100ms")["sweep"]
    held = cost(*LLAMA, "--ttft-p95", "100ms", "--sweep", "tpot=20ms..100ms")["sweep"]
    assert held[-1]["usd_per_million_tokens"] > free[-1]["usd_per_million_tokens"]


def test_levers_stack_on_one_another() -> None:
    stack = cost(*LLAMA, "--cached", "0.5", "--accept-length", "2.2", "--tpot", "30ms", "--levers")["levers"]
    assert [one["name"] for one in stack] == [
        "bf16 weights and KV", "weights fp8", "weights fp4", "KV cache fp8", "speculative decoding", "engine version",
        "prefix reuse",
    ]  # fmt: skip
    first = last = stack[0]["usd_per_million_tokens"]
    for one in stack:
        assert one["step"] == pytest.approx(one["usd_per_million_tokens"] / last)
        assert one["total"] == pytest.approx(one["usd_per_million_tokens"] / first)
        last = one["usd_per_million_tokens"]
    assert stack[1]["step"] < 1
    assert all(one["step"] <= 1 for one in stack)
    assert stack[-1]["total"] < 0.7
    assert "assumed" not in stack[4]["note"] + stack[6]["note"]


def test_a_lever_that_makes_tokens_dearer_is_told_and_left_out() -> None:
    stack = cost(*LLAMA, "--accept-length", "1", "--draft-tokens", "8", "--levers")["levers"]  # none is accepted
    speculation, after = stack[4], stack[5]
    assert not speculation["used"]
    assert speculation["step"] == 1
    assert speculation["note"].startswith("not used: +")
    assert after["usd_per_million_tokens"] == stack[3]["usd_per_million_tokens"]


@pytest.mark.parametrize(("accelerator", "tp"), [("h200-sxm", "2"), ("b200-sxm", "1"), ("h100-sxm", "2")])
def test_a_lever_costs_what_the_same_configuration_costs(accelerator: str, tp: str) -> None:
    one = ("--model", "llama-3.3-70b", "--accelerator", accelerator, "--tp", tp, "--price-per-hour", "3")
    stack = {row["name"]: row for row in cost(*one, "--levers")["levers"]}
    alone = cost(*one, "--weights", "fp8")
    assert stack["weights fp8"]["usd_per_million_tokens"] == pytest.approx(alone["usd_per_million_tokens"])
    assert stack["weights fp8"]["provenance"] == alone["provenance"]


def test_levers_say_what_is_assumed() -> None:
    stack = cost(*LLAMA, "--levers")["levers"]
    assert "assumed" in stack[4]["note"]
    assert "assumed" in stack[6]["note"]
    assert "no measured profile" in stack[5]["note"]


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "more", [("--preset", "reasoning"), ("--sweep", "tpot=3ms..100ms"), ("--levers",), ("--role", "prefill")]
)
def test_tables_keep_their_rows_within_the_terminal(columns: int, more: tuple[str, ...]) -> None:
    result = run(*LLAMA, *more, columns=columns)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) > 5
    tables = [line for line in lines if "  " in line]
    assert all(len(line) <= columns for line in tables)


def test_the_table_tells_price_speed_memory_and_where_a_dollar_goes() -> None:
    said = run(*LLAMA, "--cached", "0.4", columns=80).stdout
    for words in ("llama-3.1-8b on ", "$/1M tokens", "$/user-month", "TTFT", "TPOT", "KV room", "sigma"):
        assert words in said
    assert "of each dollar: " in said
    assert "0.4 of them cached" in said


def test_the_table_of_what_cannot_serve_is_a_sentence() -> None:
    result = run("--model", "llama-3.1-405b", "--accelerator", "l4")
    assert result.exit_code == 1
    assert "cannot serve (Memory): weights and engine need" in result.stdout
