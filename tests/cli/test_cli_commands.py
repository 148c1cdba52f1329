"""The commands that plan, price and configure: what they print, and what they say of a wrong option."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tidefleet.api.inference_pool_status import PlanStatus
from tidefleet.api.reasons import REASONS
from tidefleet.cli.main import app
from tidefleet.controller.config import BadConfiguration, OperatorConfiguration, load_configuration

SAMPLES = Path(__file__).parents[2] / "deploy" / "samples"
POOL = """
apiVersion: tidefleet.io/v1alpha1
kind: InferencePool
metadata: {name: chat, namespace: prod}
spec:
  model: {name: llama-3.1-8b}
  serving: {template: {spec: {containers: [{name: engine, image: vllm}]}}}
"""
CLASS = """
apiVersion: tidefleet.io/v1alpha1
kind: WorkloadClass
metadata: {name: web, namespace: prod}
spec:
  poolRef: {name: chat}
  demand: {requestsPerSecond: "12"}
  tokens: {input: {mean: 1000}, output: {mean: 250}}
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})


@pytest.fixture
def manifests(tmp_path: Path) -> str:
    (tmp_path / "pool.yaml").write_text(f"{POOL}---{CLASS}")
    return str(tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        ["plan"],
        ["cost"],
        ["compare"],
        ["explain"],
        ["flips"],
        ["flip"],
        ["pause"],
        ["validate"],
        ["operator", "run"],
        ["crds", "generate"],
        ["emulator", "run"],
        [],
    ],
)
def test_every_command_explains_itself(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_the_version_is_printed() -> None:
    assert run("--version").stdout.startswith("tidefleet 0.")


# --- plan ------------------------------------------------------------------------------------------------------------


def test_the_samples_are_planned_with_the_shape_of_a_status() -> None:
    demands = ["chat=20", "tidefleet-samples/code=30", "reasoning=5", "assistant=3"]
    options = [word for one in demands for word in ("--demand", one)]
    result = run("plan", "-f", str(SAMPLES), *options, "-o", "json")
    plans: list[dict[str, Any]] = json.loads(result.stdout)
    assert [one["pool"].split("/")[1] for one in plans][:3] == ["chat", "code", "reasoning"]
    assert {one["pool"]: one["requestsPerSecond"] for one in plans}["tidefleet-samples/chat"] == 20.0
    for one in plans[:3]:
        told = {"pool", "accelerators", "reason", "requestsPerSecond", "plan", "conditions", "classes"}
        assert set(one) == told | {"nodes", "idle_usd_per_hour"}
        plan = PlanStatus.model_validate(one["plan"], by_alias=True, by_name=False, extra="forbid")
        assert plan.options
        assert plan.usd_per_hour is not None
        assert plan.lower_bound_usd_per_hour is not None
        assert plan.lower_bound_usd_per_hour <= plan.usd_per_hour
        assert all(loser.lost_because for loser in plan.runners_up)
        assert one["reason"].startswith(one["accelerators"])
        for kind, condition in one["conditions"].items():
            assert condition["reason"] in REASONS[kind]


def test_a_declared_rate_is_planned_for_without_being_given(manifests: str) -> None:
    (plan,) = json.loads(run("plan", "-f", manifests, "-o", "json").stdout)
    assert plan["requestsPerSecond"] == 12.0
    assert plan["conditions"]["DemandKnown"]["reason"] == "Declared"


def test_a_plan_is_told_in_words(manifests: str) -> None:
    result = run("plan", "-f", manifests)
    assert result.exit_code == 0
    assert result.stdout.startswith("prod/chat: ")
    assert "cheapest for 12 requests/s" in result.stdout
    assert "no plan can cost less than" in result.stdout
    assert "the choice changes at" in result.stdout


def test_more_demand_costs_more(tmp_path: Path) -> None:
    costs = []
    for rate in ("1", "1000"):
        (tmp_path / "pool.yaml").write_text(f"{POOL}---{CLASS}".replace('"12"', f'"{rate}"'))
        (plan,) = json.loads(run("plan", "-f", str(tmp_path), "-o", "json").stdout)
        costs.append(float(plan["plan"]["usdPerHour"]))
    assert costs[0] < costs[1]


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        ("chat", "--demand is 'chat'; expected POOL=REQUESTS_PER_SECOND, e.g. prod/chat=20"),
        ("chat=many", "--demand is 'chat=many'; expected POOL=REQUESTS_PER_SECOND"),
        ("chat=-1", "--demand chat is -1; expected 0, or a number from 1e-09 to 1e+12 requests per second, e.g. 20"),
        ("chat=nan", "--demand chat is nan; expected 0, or a number from"),
        ("chat=inf", "--demand chat is inf; expected 0, or a number from"),
        ("chat=1e300", "--demand chat is 1e300; expected 0, or a number from"),
        ("chat=5e-324", "--demand chat is 5e-324; expected 0, or a number from"),
        ("chta=20", "--demand names chta; expected a pool of these files, e.g. prod/chat=20"),
    ],
)
def test_a_bad_demand_is_told_with_an_example(manifests: str, demand: str, words: str) -> None:
    result = run("plan", "-f", manifests, "--demand", demand)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_plan_needs_a_pool(tmp_path: Path) -> None:
    (tmp_path / "class.yaml").write_text(CLASS)
    result = run("plan", "-f", str(tmp_path / "class.yaml"))
    assert result.exit_code == 1
    assert "expected" in result.stderr


def test_an_invalid_manifest_is_told_with_its_place(manifests: str) -> None:
    path = Path(manifests, "pool.yaml")
    path.write_text(path.read_text().replace("mean: 1000", "mean: 0"))
    result = run("plan", "-f", manifests)
    assert result.exit_code == 1
    assert f"{path}:" in result.stderr
    assert "spec.tokens.input.mean is 0; expected" in result.stderr


def test_an_unknown_model_is_told_with_names_like_it(manifests: str) -> None:
    path = Path(manifests, "pool.yaml")
    path.write_text(path.read_text().replace("llama-3.1-8b", "llama-3.1-9b"))
    result = run("plan", "-f", manifests)
    assert result.exit_code == 1
    said = result.stdout + result.stderr
    assert 'spec.model.name is "llama-3.1-9b"' in said
    assert "llama-3" in said.split("expected", 1)[1]


def test_a_plan_tells_what_classes_earn_and_which_seats_lose(tmp_path: Path) -> None:
    seat = "{usdPerMonth: 1, seats: 100, tokensPerSeatMonth: {mean: 3000000, p95: 11000000}}".replace(": 1,", ': "1",')
    (tmp_path / "pool.yaml").write_text(f"{POOL}---{CLASS.rstrip()}\n  revenue: {{seat: {seat}}}\n")
    told = run("plan", "-f", str(tmp_path)).stdout
    assert "its classes earn $0.14/h: margin -$" in told
    assert "web breaks even at" in told
    assert "of its seats cost more than they pay" in told
    answer = json.loads(run("plan", "-f", str(tmp_path), "-o", "json").stdout)[0]
    margin = answer["classes"][0]["margin"]
    assert margin["revenueUsdPerHour"] == pytest.approx(100 / 730)
    assert margin["costUsdPerHour"] == pytest.approx(float(answer["plan"]["usdPerHour"]), rel=0.05)
    assert 0.0 < margin["seat"]["shareAtLoss"] < 1.0
    PlanStatus.model_validate(answer["plan"])


# --- the operator's configuration ------------------------------------------------------------------------------------


def configured(tmp_path: Path, text: str) -> OperatorConfiguration:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_configuration(path)


def test_a_configuration_is_read_and_the_rest_is_default(tmp_path: Path) -> None:
    text = "apiVersion: config.tidefleet.io/v1alpha1\nkind: OperatorConfiguration\nperiodSeconds: 5\n"
    found = configured(tmp_path, text + "leaderElection: {leaseSeconds: 30}\n")
    assert found.period_seconds == 5
    assert found.leader_election.lease_seconds == 30
    assert found.leader_election.name == OperatorConfiguration().leader_election.name
    assert load_configuration(None) == OperatorConfiguration()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("perSeconds: 5", "perSeconds is '?5"),
        ("periodSeconds: 0", "periodSeconds is '?0"),
        ("periodSeconds: fast", "periodSeconds is 'fast'"),
        ("metrics: {port: 70000}", r"metrics\.port is '?70000"),
        ("leaderElection: {leaseSeconds: 1}", r"leaderElection\.leaseSeconds is '?1"),
        ("apiVersion: v2", "apiVersion is 'v2'"),
        ("periodSeconds: .nan", "periodSeconds is '?nan"),
        ("a: [", "cannot be read"),
        ("- a", "is not a mapping; expected apiVersion, kind and settings"),
        ("", "is not a mapping"),
    ],
)
def test_a_bad_configuration_names_the_field(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadConfiguration, match=words):
        configured(tmp_path, text)


def test_every_fault_of_a_configuration_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"periodSeconds is '?0.*; dwellSeconds is '?-1"):
        configured(tmp_path, "periodSeconds: 0\ndwellSeconds: -1\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--log-format", "xml"), "logFormat"),
        (("--log-level", "loud"), "logLevel"),
        (("--metrics-port", "70000"), "'--metrics-port'"),
        (("--clock", "scale=0"), "scale"),
    ],
)
def test_a_wrong_option_of_the_operator_is_told_before_it_runs(options: tuple[str, str], words: str) -> None:
    result = run("operator", "run", "--kubeconfig", "/nonexistent", *options)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_configuration_that_cannot_be_read_ends_the_operator(tmp_path: Path) -> None:
    result = run("operator", "run", "--config", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2
    assert "none.yaml: cannot be read" in result.stderr


def test_a_quota_is_shared_by_all_pools(tmp_path: Path) -> None:
    asked = ("plan", "-f", str(SAMPLES), "--demand", "chat=30", "--demand", "code=20", "-o", "json")
    free, shared = (json.loads(run(*asked, *more).stdout) for more in ((), ("--quota", "b200-sxm=3")))

    def held(plans: list[dict], name: str) -> int:
        return sum(one["chips"] for plan in plans for one in plan["plan"]["options"] if one["accelerator"] == name)

    assert held(free, "b200-sxm") > 3 >= held(shared, "b200-sxm") > 0
    assert any("one more b200-sxm would save" in one["what"] for one in shared[0]["plan"]["shadowPrices"])
    for wrong in ("b200=5", "b200-sxm=-1", "b200-sxm=x", "b200-sxm"):
        result = run(*asked, "--quota", wrong)
        assert result.exit_code == 2
        assert f"--quota is {wrong!r}; expected TYPE=CHIPS" in result.stderr


def test_a_plan_tells_what_a_task_of_each_class_costs(manifests: str, tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text(
        CLASS.replace("web", "agent").replace(
            "  tokens:", '  callsPerTask: "5"\n  calls: [{class: web, perTask: "2"}]\n  tokens:'
        )
    )
    (answer,) = json.loads(run("plan", "-f", manifests, "-o", "json").stdout)
    usd = {one["name"]: one["usdPerTask"]["mean"] for one in answer["classes"]}
    assert usd["agent"] == pytest.approx(7 * usd["web"], rel=1e-6)
    # An agent's task asks 12/s * 2 further requests of web: 12 agent, 12 + 24 / 5 web requests a second pay the bill.
    bill = answer["requestsPerSecond"] * 3600 * usd["web"]
    assert bill == pytest.approx(float(answer["plan"]["usdPerHour"]), rel=0.02)
    assert "a task of agent costs $" in run("plan", "-f", manifests).stdout


SITE = """
apiVersion: tidefleet.io/v1alpha1
kind: Site
metadata: {name: berlin}
spec: {nodeSelector: {zone: a}}
"""


def test_sites_in_the_files_limit_power_and_move_users_away(manifests: str, tmp_path: Path) -> None:
    def planned(*, options: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
        (tmp_path / "site.yaml").write_text(SITE.replace("zone: a}", f"zone: a}}, {options}"))
        (answer,) = json.loads(run("plan", "-f", manifests, "--demand", "chat=400", "-o", "json", *more).stdout)
        return dict(answer)

    (tmp_path / "pool.yaml").write_text(f"{POOL}---{CLASS}".replace('"12"', '"400"'))
    free = planned(options='pue: "1.5"')
    tight = planned(options='powerLimitWatts: 3000, pue: "1.5"')
    assert tight["plan"] != free["plan"]
    assert "3 kW at berlin" in json.dumps(tight)
    (tmp_path / "pool.yaml").write_text(
        f"{POOL}---{CLASS}".replace(
            "  tokens:", "  objectives: [{metric: TTFT, percentile: 95, milliseconds: 900}]\n  tokens:"
        )
    )
    near, far = (planned(options=f"roundTripToUsersMilliseconds: {ms}") for ms in (0, 890))
    assert near["plan"]["options"] != far.get("plan", {}).get("options")
    elsewhere = planned(options="roundTripToUsersMilliseconds: 890", more=("--at", "l4=berlin"))
    assert elsewhere["plan"]["options"] == near["plan"]["options"]


def test_several_sites_need_to_be_told_apart(manifests: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE + "---" + SITE.replace("berlin", "oslo"))
    result = run("plan", "-f", manifests)
    assert result.exit_code == 2
    assert "the files have 2 Sites; say which types stand where, e.g. --at h200-sxm=berlin" in result.stderr
    wrong = run("plan", "-f", manifests, "--at", "h200-sxm=paris")
    assert wrong.exit_code == 2
    assert "--at is 'h200-sxm=paris'; expected TYPE=SITE" in wrong.stderr
    assert run("plan", "-f", manifests, "--at", "h200-sxm=oslo").exit_code == 0


@pytest.mark.parametrize(
    ("demand", "quota", "says"),
    [
        ("chat=1e12", "h200-sxm=16", "a demand, price or limit is out of all bounds"),
        (
            "chat=20",
            "h200-sxm=1",
            "the least replicas of tidefleet-samples/chat cannot be had within 1 chips of h200-sxm",
        ),
    ],
)
def test_a_fleet_that_cannot_be_solved_is_dealt_out_by_priority_and_says_why(
    tmp_path: Path, demand: str, quota: str, says: str
) -> None:
    text = (SAMPLES / "10-chat.yaml").read_text()
    kept = [line for line in text.splitlines() if "- {type: " not in line or "h200-sxm" in line]
    (tmp_path / "chat.yaml").write_text("\n".join(kept))
    found = run("plan", "-f", str(tmp_path / "chat.yaml"), "--demand", demand, "--quota", quota)
    assert found.exit_code == 0, found.exception
    assert f"dealt out by priority, since {says}" in found.stderr
    assert "of the demand has no capacity: pools share" in " ".join(found.stdout.split())


def test_what_one_more_chip_would_save_is_told_once(tmp_path: Path) -> None:
    text = (SAMPLES / "10-chat.yaml").read_text().replace("min: 2", "min: 1").replace("spare: 1", "spare: 0")
    (tmp_path / "chat.yaml").write_text(text)
    for quota in range(1, 6):
        asked = ("plan", "-f", str(tmp_path / "chat.yaml"), "--demand", "chat=40", "--quota", f"b200-sxm={quota}")
        (found,) = json.loads(run(*asked, "-o", "json").stdout)
        told = [one["what"] for one in found["plan"].get("shadowPrices", ()) if "more b200-sxm" in one["what"]]
        assert len(told) <= 1, told


WAITING = """
apiVersion: tidefleet.io/v1alpha1
kind: WorkloadClass
metadata: {{name: night, namespace: tidefleet-samples}}
spec:
  poolRef: {{name: chat}}
  demand: {{volumeTokensPerDay: {volume}, deadlineSeconds: 86400}}
  tokens: {{input: {{mean: 1630, p95: 5300}}, output: {{mean: 108, p95: 450}}}}
"""


def test_work_that_may_wait_is_planned_where_it_does_not_fit_into_what_is_idle(tmp_path: Path) -> None:
    def planned(volume: int) -> dict[str, Any]:
        (tmp_path / "night.yaml").write_text(WAITING.format(volume=volume))
        chat = str(SAMPLES / "10-chat.yaml")
        asked = ("plan", "-f", chat, "-f", str(tmp_path / "night.yaml"), "--demand", "chat=10", "-o", "json")
        (found,) = json.loads(run(*asked).stdout)
        assert isinstance(found, dict)
        return found

    little, much = planned(1_000_000), planned(3_000_000_000)
    assert little["requestsPerSecond"] == 10
    assert "night fits into what is idle before its deadline" in little["conditions"]["DemandKnown"]["message"]
    assert much["requestsPerSecond"] > 20
    assert "night does not fit into what is idle" in much["conditions"]["DemandKnown"]["message"]


SPILLS = """
apiVersion: tidefleet.io/v1alpha1
kind: WorkloadClass
metadata: {name: web, namespace: tidefleet-samples}
spec:
  poolRef: {name: chat}
  demand: {requestsPerSecond: "20"}
  tokens: {input: {mean: 1630, p95: 5300}, output: {mean: 108, p95: 450}}
  spill: [{provider: far, model: llama, usdPerMillionInputTokens: "9", usdPerMillionOutputTokens: "9"}]
"""


def test_what_if_tells_what_an_api_would_take_and_what_limits_leave_out(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(SPILLS)
    asked = ("plan", "-f", str(SAMPLES / "10-chat.yaml"), "-f", str(tmp_path / "web.yaml"))
    assert "sent to far/llama" not in run(*asked).stdout
    cheap = run(*asked, "--what-if", "api-price:*0.001").stdout.partition("what if")[2]
    assert "of the requests sent to far/llama would cost" in cheap
    flood = run(*asked, "--what-if", "demand:web*1000000").stdout.partition("what if")[2]
    assert "the most that the limits allow" in flood
    assert "of the demand has no capacity: at most 40 replicas are allowed" in flood


def test_a_question_that_changes_nothing_is_answered_with_the_reason() -> None:
    asked = ("plan", "-f", str(SAMPLES / "10-chat.yaml"), "--what-if", "demand:chat*2", "--what-if", "api-price:*0.2")
    told = run(*asked).stdout
    assert "demand:chat*2 changes nothing: the demand is measured, and none is given; say it, e.g. --demand" in told
    assert "api-price:*0.2 changes nothing: no class names an external API in spec.spill" in told
    (answer,) = json.loads(run(*asked, "-o", "json").stdout)
    assert [one.partition(" ")[0] for one in answer["whatIf"]["notes"]] == ["demand:chat*2", "api-price:*0.2"]


def test_what_if_plans_once_more_and_tells_what_changes() -> None:
    asked = ("plan", "-f", str(SAMPLES), "--demand", "chat=30")
    answers = json.loads(run(*asked, "--what-if", "demand:chat*2", "-o", "json").stdout)
    chat = next(one for one in answers if one["pool"].endswith("/chat"))
    assert chat["whatIf"]["requestsPerSecond"] == pytest.approx(2 * chat["requestsPerSecond"])
    assert chat["whatIf"]["usdPerHourDifference"] > 0
    code = next(one for one in answers if one["pool"].endswith("/code"))
    assert code["whatIf"]["usdPerHourDifference"] == 0
    told = run(*asked, "--what-if", "demand:chat*2").stdout
    assert "what if demand:chat*2" in told
    assert "the choice then changes at" in told
    wrong = run(*asked, "--what-if", "price:h1=2")
    assert wrong.exit_code == 2
    assert "'h1'; expected an AcceleratorType" in wrong.stderr
