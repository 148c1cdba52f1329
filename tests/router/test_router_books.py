"""What requests come to at their end: records, dollars, objectives, tasks, tokens computed again; tenants' limits."""

import json

import msgspec
import pytest
from books_ground import PROMPT, Desk
from router_ground import a_class_object

from tidefleet.api.base import Metadata
from tidefleet.economics.energy import avoided_joules
from tidefleet.router import books
from tidefleet.router.chooser import Refusal
from tidefleet.router.facts import _replica
from tidefleet.router.limiting import Limiter
from tidefleet.routing.caps import bytes_for
from tidefleet.routing.hashing import hashed

OBJECTIVES = [
    {"metric": "TTFT", "milliseconds": 300, "perThousandInputTokensMilliseconds": 100},
    {"metric": "TPOT", "milliseconds": 30},
]
USAGE = {"usdPerMillionInputTokens": "2", "usdPerMillionOutputTokens": "10", "usdPerMillionCachedInputTokens": "0.2"}


def a_desk(count=1, *, limiter=None, **spec):
    return Desk(count, classes=[a_class_object(**spec)], limiter=limiter)


def tenant_desk(**limits):
    return a_desk(tenantKey={"header": "x-tenant"}, limits=limits)


def test_a_request_alone_costs_its_prefill_and_its_steps_at_the_rent_of_its_chips():
    desk = a_desk(revenue={"usage": USAGE})
    record = desk.serve(tokens=400, cached=0, output=50)
    endpoint = desk.state.table.endpoint("10.0.0.1:8000")
    rates, (prefill_factor, step_factor) = endpoint.rates, desk.state.table.factors(endpoint.address)
    seconds = rates.prefill_seconds(400) * prefill_factor + 49 * rates.tpot_seconds(1, 425.0) * step_factor
    assert record.accelerator_seconds == pytest.approx(seconds)
    assert 49 * rates.tpot_seconds(1, 425.0) * step_factor == pytest.approx(49 * 0.02, rel=0.02), "as it was seen"
    assert endpoint.usd_per_second > 0.0
    assert record.usd == pytest.approx(seconds * endpoint.usd_per_second)
    assert record.revenue_usd == pytest.approx((400 * 2 + 50 * 10) / 1e6)
    assert (record.input_tokens, record.cached_tokens, record.output_tokens) == (400, 0, 50)
    assert (record.result, record.slo, record.tenant, record.accelerator) == ("ok", None, None, "h100-sxm")
    assert (record.ttft_seconds, record.tpot_seconds) == (pytest.approx(0.2), pytest.approx(0.02))
    assert record.seconds == pytest.approx(0.2 + 49 * 0.02)
    assert record.end == pytest.approx(desk.now + Desk.WALL)
    assert desk.metric("request_cost_usd_sum", workload_class="chat") == pytest.approx(record.usd)
    assert desk.metric("request_cost_usd_count", workload_class="chat") == 1


@pytest.mark.parametrize("stream", [True, False])
def test_requests_that_run_together_share_their_steps(stream):
    """Eight of one length at the same time: each takes less than one that is alone, together what passed."""
    alone = a_desk().serve(output=200, stream=stream).accelerator_seconds
    desk = a_desk()
    for _ in range(4):
        choices = [desk.ask(stream=stream) for _ in range(8)]
        begun = desk.now
        desk.now += 0.05
        for choice in choices:
            desk.picker.served(choice.ticket, choice.addresses[0], 200, desk.now)
            if stream:
                desk.picker.body(
                    choice.ticket, b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', False, desk.now
                )
        desk.now += 199 * 0.02
        usage = {"prompt_tokens": 400, "completion_tokens": 200, "prompt_tokens_details": {"cached_tokens": 0}}
        said = json.dumps({"usage": usage}).encode()
        for choice in choices:
            desk.picker.body(choice.ticket, b"data: " + said + b"\n\n" if stream else said, True, desk.now)
            desk.picker.closed(choice.ticket, desk.now)
    together = [one.accelerator_seconds for one in desk.records[-8:]]
    assert max(together) < 1.2 * min(together)
    assert max(together) < 0.3 * alone
    assert sum(together) == pytest.approx(desk.now - begun, rel=0.15)


def test_an_answer_that_comes_whole_is_judged_by_its_whole_time():
    for ttft, slo in ((1.7, "met"), (2.0, "missed")):
        desk = a_desk(objectives=OBJECTIVES)
        record = desk.serve(ttft=ttft, tpot=0.0, stream=False)
        assert (record.slo, record.ttft_seconds, record.tpot_seconds) == (slo, None, None)
        assert record.seconds == pytest.approx(ttft)
    assert a_desk(objectives=OBJECTIVES[:1]).serve(ttft=2.0, stream=False).slo is None


def test_a_hit_saves_seconds_and_joules_and_earns_less():
    desk = a_desk(revenue={"usage": USAGE})
    record = desk.serve(tokens=4000, cached=3000, output=2)
    assert (record.input_tokens, record.cached_tokens) == (1000, 3000)
    assert record.saved_seconds > 0.0
    assert record.revenue_usd == pytest.approx((1000 * 2 + 3000 * 0.2 + 2 * 10) / 1e6)
    rank = desk.state.ranks["10.0.0.1:8000"]
    replica = _replica(rank, desk.state.served.spec, desk.fleet(desk.pods).accelerators["h100-sxm"])
    factor, _ = desk.state.table.factors("10.0.0.1:8000")
    expected = avoided_joules(replica, hit=3000, uncached=1000) * factor
    assert desk.metric("pool_energy_avoided_joules_total", tier="device") == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(
    ("ttft", "tpot", "tokens", "slo"),
    [(0.3, 0.02, 400, "met"), (0.4, 0.02, 400, "missed"), (0.3, 0.04, 400, "missed")],
)
def test_output_tokens_tell_whether_their_request_met_its_objectives(ttft, tpot, tokens, slo):
    desk = a_desk(objectives=OBJECTIVES)
    assert desk.serve(ttft=ttft, tpot=tpot, tokens=tokens).slo == slo
    assert desk.metric("router_output_tokens_total", workload_class="chat", slo=slo) == 50


def test_a_longer_prompt_has_more_time():
    desk = a_desk(objectives=OBJECTIVES)
    assert desk.serve(PROMPT * 12, ttft=0.6, tokens=4500).slo == "met"
    assert desk.serve("short", ttft=0.6, tokens=2).slo == "missed"


def test_what_failed_took_nothing_and_what_was_cut_took_what_it_had():
    desk = a_desk(objectives=OBJECTIVES)
    failed = desk.serve(status=503, output=0)
    assert (failed.result, failed.input_tokens, failed.accelerator_seconds, failed.slo) == ("error", 0, 0.0, "missed")
    desk = a_desk(objectives=OBJECTIVES)
    cut = desk.serve(cut=True)
    assert (cut.result, cut.slo) == ("cut", None)
    assert cut.accelerator_seconds > 0.0
    waiting = desk.serve(status=None, ttft=1e-6)
    assert (waiting.result, waiting.output_tokens) == ("cut", 0)
    assert waiting.accelerator_seconds <= 1.1e-6
    assert waiting.usd is not None


def test_a_tenants_name_is_nowhere_but_its_hash_is_the_same_each_time():
    desk = a_desk(tenantKey={"header": "x-tenant"})
    records = [desk.serve(headers={"x-tenant": name, "x-task-id": "t1"}) for name in ("acme", "acme", "globex")]
    assert records[0].tenant == records[1].tenant == f"{hashed('acme', b's' * 16):016x}"
    assert records[2].tenant != records[0].tenant
    assert records[0].task == records[1].task != records[2].task, "two tenants' tasks of one name are apart"
    assert b"acme" not in msgspec.json.encode(records)


def test_labels_of_the_class_tell_team_and_feature():
    plain = a_class_object()
    labels = Metadata(name="chat", namespace="prod", labels={"tidefleet.io/team": "search"})
    record = Desk(classes=[plain.model_copy(update={"metadata": labels})]).serve()
    assert (record.team, record.feature, record.workload_class) == ("search", None, "chat")


def test_a_model_that_a_client_made_up_is_not_repeated():
    desk = a_desk()
    desk.picker._pool_header = "x-pool"
    record = desk.serve(model="evil\n" * 50, headers={"x-pool": "prod/chat"})
    assert record.model == "llama-3.1-8b"


def test_a_tasks_outcome_counts_once():
    desk = a_desk()
    for outcome in (None, "success", "Success", "nonsense"):
        headers = {"x-task-id": "task-1", **({"x-task-outcome": outcome} if outcome else {})}
        desk.serve(headers=headers)
    desk.serve(headers={"x-task-id": "task-2", "x-task-outcome": "failure"})
    assert desk.metric("pool_tasks_total", outcome="success") == 1
    assert desk.metric("pool_tasks_total", outcome="failure") == 1
    assert [one.outcome for one in desk.records] == [None, "success", "success", None, "failure"]


def test_outcomes_are_remembered_for_a_bounded_number_of_tasks(monkeypatch):
    monkeypatch.setattr(books, "MOST_TASKS", 10)
    desk = a_desk()
    for number in range(30):
        desk.serve(headers={"x-task-id": f"task-{number}", "x-task-outcome": "success"})
    assert len(desk.picker._books._told) == 10
    assert desk.metric("pool_tasks_total", outcome="success") == 30


# --- computed again ---------------------------------------------------------------------------------------------------


def test_a_hit_that_was_predicted_and_not_there_was_evicted():
    desk = a_desk()
    assert desk.serve(cached=0).recomputed_cause is None
    record = desk.serve(cached=0)
    assert record.recomputed_cause == "evicted"
    assert 200 < record.recomputed_tokens < 400
    assert desk.metric("pool_recomputed_tokens_total", cause="evicted") == record.recomputed_tokens
    assert desk.serve(cached=400).recomputed_tokens == 0


def test_a_prompt_that_another_endpoint_held_was_misrouted_or_went_to_one_that_had_just_started():
    desk = a_desk(2)
    first = desk.ask()
    desk.finish(first, cached=0)
    other = "10.0.0.2:8000" if first.addresses[0] == "10.0.0.1:8000" else "10.0.0.1:8000"
    assert desk.serve(cached=0, address=other).recomputed_cause == "cold"
    desk.serve("something else entirely, " * 40, cached=0, address=other)
    words = "words that only the first one has " * 40
    desk.serve(words, cached=0, address=first.addresses[0])
    assert desk.serve(words, cached=0, address=other).recomputed_cause == "misrouted"


def test_a_session_whose_home_restarted_or_left_is_computed_again():
    desk = a_desk()
    headers = {"x-session-id": "s1"}
    desk.serve(headers=headers, cached=0)
    desk.pods[0]["metadata"]["uid"] = "another"
    desk.picker.update(desk.fleet(desk.pods))
    record = desk.serve(headers=headers, cached=0)
    assert (record.recomputed_cause, record.recomputed_tokens) == ("restart", 399)
    desk = a_desk(2)
    desk.serve(headers=headers, cached=0)
    home = desk.state.table.sessions.home(desk.picker.recent[-1][1].ask.session)
    leaving = next(one for one in desk.pods if f"{one['status']['podIP']}:8000" == home.address)
    leaving["metadata"]["labels"]["tidefleet.io/routable"] = "false"
    desk.picker.update(desk.fleet(desk.pods))
    record = desk.serve(headers=headers, cached=0)
    assert (record.recomputed_cause, record.recomputed_tokens) == ("flip", 399)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_tenant_above_its_limit_gets_429_with_the_reason_and_others_go_on():
    desk = tenant_desk(tokensPerMinutePerTenant=1000)
    acme = {"x-tenant": "acme"}
    assert desk.serve(headers=acme, tokens=400, output=50).result == "ok"
    assert desk.serve(headers=acme, tokens=400, output=50).result == "ok"
    refused = desk.ask(headers=acme)
    assert isinstance(refused, Refusal)
    assert refused.status == 429
    assert "1,000 tokens a minute" in refused.reason
    assert int(dict(refused.headers)["retry-after"]) > 0
    record = desk.records[-1]
    assert (record.result, record.tenant, record.usd, record.input_tokens) == (
        "refused", desk.records[0].tenant, 0.0, 0,
    )  # fmt: skip
    assert desk.metric("router_decisions_total", outcome="capped") == 1
    assert desk.serve(headers={"x-tenant": "globex"}).result == "ok"
    desk.now += int(dict(refused.headers)["retry-after"])
    assert desk.serve(headers=acme).result == "ok"


def test_dollars_of_a_day_are_counted_at_cost():
    desk = tenant_desk(usdPerDayPerTenant="0.5")
    acme, served = {"x-tenant": "acme"}, 0
    while not isinstance(found := desk.ask(headers=acme), Refusal):
        desk.finish(found, tokens=400, output=2000)
        served += 1
        assert served < 1000
    assert "0.5 USD a day" in found.reason
    spent = sum(one.usd for one in desk.records if one.result == "ok")
    assert 0.45 < spent < 0.55
    assert 80_000 < int(dict(found.headers)["retry-after"]) < 2 * 86_400
    desk.now += 12 * 3600
    assert isinstance(desk.ask(headers=acme), Refusal)
    desk.now += 2 * 86_400
    assert not isinstance(desk.ask(headers=acme), Refusal)


def test_requests_under_way_count_before_they_are_over():
    desk = tenant_desk(tokensPerMinutePerTenant=1500)
    acme = {"x-tenant": "acme"}
    choices = []
    while not isinstance(found := desk.ask(headers=acme), Refusal):
        choices.append(found)
        assert len(choices) < 10
    assert 2 <= len(choices) <= 3
    for one in choices:
        desk.finish(one, tokens=20, output=1, ttft=0.01)
    assert not isinstance(desk.ask(headers=acme), Refusal), "they used less than was expected of them"


@pytest.mark.parametrize("headers", [{}, {"x-tenant": "x" * 1_000_000}])
def test_who_names_no_tenant_or_one_of_a_megabyte_counts_with_all_of_these(headers):
    desk = tenant_desk(tokensPerMinutePerTenant=600)
    assert desk.serve(headers=headers).tenant is None
    refused = desk.ask(headers={"x-tenant": "y" * 2_000_000})
    assert isinstance(refused, Refusal)
    assert len(refused.reason) < 200
    assert desk.serve(headers={"x-tenant": "acme"}).result == "ok"


def test_a_replicas_share_of_a_limit_is_what_counts():
    limiter = Limiter(share=0.5)
    desk = a_desk(tenantKey={"header": "x-tenant"}, limits={"tokensPerMinutePerTenant": 1000}, limiter=limiter)
    assert desk.serve(headers={"x-tenant": "acme"}).result == "ok"
    refused = desk.ask(headers={"x-tenant": "acme"})
    assert isinstance(refused, Refusal)
    assert "500 tokens" in refused.reason


def test_processes_that_share_a_table_count_together(tmp_path):
    shared = tmp_path / "limits"
    shared.write_bytes(bytes(bytes_for()))
    desks = [
        a_desk(
            tenantKey={"header": "x-tenant"}, limits={"tokensPerMinutePerTenant": 600}, limiter=Limiter(shared=shared)
        )
        for _ in range(2)
    ]
    assert desks[0].serve(headers={"x-tenant": "acme"}).result == "ok"
    assert isinstance(desks[1].ask(headers={"x-tenant": "acme"}), Refusal)


def test_without_books_nobody_is_limited_and_nothing_is_recorded():
    desk = tenant_desk(tokensPerMinutePerTenant=1)
    desk.picker._books = None
    for _ in range(3):
        found = desk.ask(headers={"x-tenant": "acme"})
        assert not isinstance(found, Refusal)
        desk.finish(found)
    assert desk.records == []
    assert desk.metric("router_output_tokens_total", workload_class="chat", slo="none") == 150


def test_blocks_of_prompts_that_were_served_are_counted_by_how_far_apart_they_are_used():
    desk = a_desk()
    prompts = [f"{number} {PROMPT * 8}" for number in range(20)]
    for prompt in prompts:
        desk.serve(prompt)
        desk.serve(prompt, status=503, output=0)
    desk.picker._meter.gauges([desk.state])
    seen = desk.metric("router_reuse_seen_tokens_total")
    assert seen > 0.0
    assert desk.metric("router_reuse_tokens_total", within="new") > 0.0
    assert desk.metric("router_reuse_tokens_total", within="16384") == 0.0
    for prompt in prompts:
        desk.serve(prompt)
    desk.picker._meter.gauges([desk.state])
    assert desk.metric("router_reuse_seen_tokens_total") == pytest.approx(2 * seen, rel=0.05)
    again = sum(desk.metric("router_reuse_tokens_total", within=str(2**power)) for power in range(14, 33, 2))
    assert again == pytest.approx(desk.metric("router_reuse_tokens_total", within="new"), rel=0.2)
