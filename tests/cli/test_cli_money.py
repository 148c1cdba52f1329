"""`tidefleet money`: the shipped book in every form, the same $/token as `tidefleet cost`, what-ifs, bad input."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tidefleet.cli.main import app
from tidefleet.cli.money_listed import NoListPrice, with_list_prices
from tidefleet.economics.external import ExternalOffer, PerToken
from tidefleet.planning.outlook.book import ExternalPrice, parse_book

SAMPLE = Path(__file__).parents[2] / "deploy" / "samples" / "money" / "book.yaml"
WAR = ("--what-if", "api-price:*0.2", "--what-if", "sell-price:*0.2", "--what-if", "electricity:*2",
       "--what-if", "hit:support=0.3")  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(app, ["money", *map(str, arguments)])


@pytest.fixture(scope="module")
def told():
    result = run("-f", SAMPLE, "--horizon", "36m", *WAR, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_months_give_the_present_value(told):
    assert [one["month"] for one in told["months"]] == list(range(37))
    cash = [one["cash_flow_usd"] * 1.1 ** (-one["month"] / 12) for one in told["months"]]
    assert sum(cash) == pytest.approx(told["npv_usd"])
    assert told["months"][-1]["cumulative_npv_usd"] == pytest.approx(told["npv_usd"])
    assert {"tokens", "cost_usd", "revenue_usd", "cash_flow_usd"} <= told["months"][1].keys()


def test_rate_of_return_makes_the_mean_cash_flow_worth_nothing(told):
    flows = [one["cash_flow_usd"] for one in told["months"]]
    worth = sum(flow * (1 + told["irr"]) ** (-month / 12) for month, flow in enumerate(flows))
    assert worth == pytest.approx(0, abs=1e-6 * max(map(abs, flows)))
    total = 0.0
    for month, flow in enumerate(flows):
        total += flow
        if total < 0:
            back = month + 1
    assert told["payback_months"] == pytest.approx(back, abs=1)


def test_regret_is_what_a_policy_costs_over_foresight(told):
    for name in ("buy_now", "wait"):
        each = [one["regret_usd"][name] for one in told["scenarios"]]
        chances = [one["probability"] for one in told["scenarios"]]
        assert told["regret_usd"][name]["expected"] == pytest.approx(
            sum(p * usd for p, usd in zip(chances, each, strict=True))
        )
        assert told["regret_usd"][name]["most"] == max(each)
        assert min(each) >= 0
    for one in told["scenarios"]:
        least = {name: one["cost_usd_today"][name] - one["regret_usd"][name] for name in ("plan", "buy_now", "wait")}
        assert least["plan"] == pytest.approx(least["buy_now"])
        assert least["plan"] == pytest.approx(least["wait"])


def test_decisions_name_action_type_month_and_chips(told):
    first = told["decisions"]["before_it_is_known"][0]
    assert (first["action"], first["type"], first["month"]) == ("Buy", "b200-sxm", 0)
    assert first["chips"] % 8 == pytest.approx(0)
    assert {one["action"] for one in told["decisions"]["in_that_scenario"]} >= {"Buy", "Rent", "Retire"}


def test_spend_answers_to_price_as_jevons_says(told):
    by_e = {one["elasticity"]: one for one in told["elasticity"]}
    assert by_e[0.5]["spend_ratio"] < 1 < by_e[2]["spend_ratio"]
    assert by_e[0.5]["price_ratio"] < 1


def test_price_war_names_the_pools_that_are_then_cheaper_bought(told):
    war = told["what_if"]
    assert war["become_cheaper_bought"] == ["chat", "code"]
    assert war["turn_loss_making"] == ["chat", "code"]
    assert war["npv_usd"] < war["npv_usd_before"] == told["npv_usd"]


def test_a_token_costs_what_the_cost_command_says(tmp_path):
    book = {
        "name": "one",
        "accelerators": [{"name": "h200-sxm", "rent": {"usdPerChipHour": 3.1}, "priceDeclinePerYear": 0}],
        "pools": [{"name": "chat", "model": "llama-3.3-70b", "weights": "fp8", "utilisation": 0.55,
                   "ttftSeconds": 0.8, "tpotSeconds": 0.05}],
        "classes": [{"name": "a", "pool": "chat", "tokensPerMonth": 1e11, "inputTokens": 1800, "outputTokens": 300,
                     "cachedShare": 0.4}],
    }  # fmt: skip
    path = tmp_path / "book.yaml"
    path.write_text(yaml.safe_dump(book))
    (pool,) = json.loads(run("-f", path, "-o", "json").stdout)["pools"]
    asked = "cost --model llama-3.3-70b --accelerator h200-sxm --weights fp8 --input 1800 --output 300 --cached 0.4"
    more = "--ttft-p95 0.8 --tpot 0.05 --price-per-hour 3.1 --utilisation 0.55 -o json"
    cost = json.loads(CliRunner().invoke(app, [*asked.split(), *more.split()]).stdout)
    assert pool["usd_per_million_tokens"] == pytest.approx(cost["usd_per_million_tokens"], rel=1e-9)


def a_book_with(provider):
    external = {"external": (ExternalPrice(provider=provider),)}
    book = parse_book(yaml.safe_load(SAMPLE.read_text()), accelerators=KNOWN, models=KNOWN, months=36)
    return book.model_copy(update={"pools": (book.pools[0].model_copy(update=external),)})


KNOWN = ("h100-sxm", "h200-sxm", "b200-sxm", "llama-3.3-70b", "gpt-oss-120b")
LISTED = (
    ExternalOffer("together", "dear", PerToken(0.9, 0.9)),
    ExternalOffer("together", "cheap", PerToken(0.5, 0.7, 0.1)),
    ExternalOffer("groq", "other", PerToken(0.1, 0.1)),
)


def test_a_provider_without_a_price_is_charged_its_list_price():
    (one,) = with_list_prices(a_book_with("together"), lambda model: LISTED).pools[0].external
    assert (one.usd_per_million_input_tokens, one.usd_per_million_output_tokens) == (0.5, 0.7)
    assert one.usd_per_million_cached_input_tokens == 0.1


def test_a_provider_without_any_price_is_an_error():
    with pytest.raises(NoListPrice, match=r"pools\[0\].external\[0\].provider is 'acme'.*known: groq, together"):
        with_list_prices(a_book_with("acme"), lambda model: LISTED)


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.loaded = [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        self.loaded += [values[name] for name in ("src", "data") if name in values]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_stands_by_itself_and_shows_every_part(tmp_path):
    path = tmp_path / "money.html"
    result = run("-f", SAMPLE, *WAR, "-o", "html", "--output-file", path)
    assert result.exit_code == 0, result.output
    text = path.read_text()
    page = Balanced()
    page.feed(text)
    assert page.open == []
    assert page.loaded == []
    assert {"cash", "worth", "capacity", "decisions", "regret", "scenarios", "what-if", "months"} <= set(page.ids)
    assert set(page.links) <= {f"#{one}" for one in page.ids}
    assert "http" not in text
    assert text.count("<svg") == 5
    assert "nan" not in text


def test_table_tells_worth_decisions_and_regret():
    result = run("-f", SAMPLE, "--horizon", "3y")
    assert result.exit_code == 0, result.output
    for words in ("net present value", "payback", "buy b200-sxm", "waiting", "cheaper hosted", "total spend"):
        assert words in result.stdout


def test_a_book_comes_from_standard_input_too():
    words = ["money", "-f", "-", "--horizon", "6m", "-o", "json"]
    result = CliRunner().invoke(app, words, input=SAMPLE.read_text())
    assert json.loads(result.stdout)["horizon_months"] == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--horizon", "10000"), "--horizon is '10000'; expected 1 to 120 months, e.g. 36m or 3y"),
        (("--horizon", "soon"), "--horizon is 'soon'"),
        (("--elasticity", "nan"), "--elasticity is 'nan'; expected numbers from 0 to 100"),
        (("--what-if", "sell-price:nobody*0.2"), "--what-if sell-price:nobody*0.2 is about 'nobody'; expected a class"),
        (("--what-if", "warp*2"), "--what-if 'warp*2'; expected one of"),
        (("--horizon", "4m"), "accelerators[2].buy.leadMonths is 5; expected less than the horizon of 4 months"),
    ],
)
def test_bad_options_are_refused(arguments, words):
    result = run("-f", SAMPLE, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "no YAML"),
        ("name: a\n---\nname: b\n", "holds 2 documents; expected one book"),
        ("", "holds 0 documents"),
        ("- 1\n", "it is a list of 1 item; expected fields of a book"),
        ("name: a\nfixedUsdPerMonth: .nan\n", "fixedUsdPerMonth is nan; expected an amount of USD"),
        ("name: a\n", "accelerators is missing; expected"),
    ],
)
def test_what_is_no_book_is_refused_with_its_file(tmp_path, text, words):
    path = tmp_path / "book.yaml"
    path.write_text(text)
    result = run("-f", path)
    assert result.exit_code == 2
    assert str(path) in result.stderr
    assert words in result.stderr


def test_a_missing_file_is_refused(tmp_path):
    result = run("-f", tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert "No such file" in result.stderr


def test_a_pool_that_nothing_can_serve_in_time_is_an_error(tmp_path):
    book = yaml.safe_load(SAMPLE.read_text())
    for kind in book["accelerators"]:
        kind |= {"rentable": False, "reserve": [], "owned": []}
        del kind["rent"]
    book["pools"][0]["external"] = []
    path = tmp_path / "book.yaml"
    path.write_text(yaml.safe_dump(book))
    result = run("-f", path)
    assert result.exit_code == 1
    assert "pool chat: nothing can serve" in result.stderr
    assert "in month 1; expected a rent, a commitment" in result.stderr
