"""A trace through a policy, from files to an outcome."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tidefleet.simulator.replay import run_replay
from tidefleet.simulator.result import Outcome
from tidefleet.simulator.scenario import Class, Objective, Pool, Scenario
from tidefleet.simulator.workload import TraceError, load

pa = pytest.importorskip("pyarrow", reason="reading zstd needs pyarrow")

POOL = Pool(model="llama-3.3-70b", accelerator="h200-sxm", replicas=4, chips_per_replica=4, kv_tokens=200_000)
PROFILES = """\
profile,kind,groups,prompts_per_group,system_prompt_tokens,question_tokens,output_tokens,multi_turn,arrival,\
stages_rate_x_seconds,source
small,shared_prefix,12,4,4096,512,200,false,poisson,"2x10;20x10",made
broken,shared_prefix,12,4,4096,512,many,false,poisson,"2x10",made
"""


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Forty conversations of four turns, which all begin with block 1."""
    rows = []
    for family in range(40):
        ids = [1, *range(1000 * (family + 1), 1000 * (family + 1) + 4)]
        for turn in range(4):
            ids = [*ids, *range(1000 * (family + 1) + 100 * (turn + 1), 1000 * (family + 1) + 100 * (turn + 1) + 3)]
            rows.append(
                {
                    "timestamp": 1000 * (family + 20 * turn),
                    "input_length": 512 * len(ids),
                    "output_length": 80,
                    "hash_ids": ids,
                    "family": family,
                }
            )
    rows.sort(key=lambda one: (int(one["timestamp"]), int(one["family"])))  # type: ignore[call-overload]
    with pa.output_stream(str(tmp_path / "mooncake_conversation_trace.jsonl.zst"), compression="zstd") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    (tmp_path / "llmd_shared_prefix_workloads.csv").write_text(PROFILES, encoding="utf-8")
    return tmp_path


def a_scenario(source: str = "mooncake-conversation", **changes: object) -> Scenario:
    wclass = Class(name="chat", source=source, objective=Objective(ttft_seconds=1.0, tpot_seconds=0.05))
    return Scenario(name="made", kind="replay", pools=(POOL,), classes=(wclass,), **changes)  # type: ignore[arg-type]


def outcome(scenario: Scenario, traces: Path, policy: str | None = None, seed: int = 0) -> Outcome:
    return run_replay(scenario, load(scenario, traces, seed=seed), seed=seed, policy=policy)


def test_every_request_of_a_trace_is_served_and_the_same_replay_gives_the_same_bytes(traces: Path) -> None:
    first, second = outcome(a_scenario(), traces), outcome(a_scenario(), traces)
    assert first.requests == 160
    assert first.figures["refused"] == 0
    assert 0.0 < (first.prefix_hit_ratio or 0.0) < 1.0
    assert first.slo_attainment["overall"] == first.slo_attainment["chat"] > 0.9
    assert json.dumps(first.as_json()) == json.dumps(second.as_json())


def test_the_pick_finds_more_than_round_robin_and_is_faster(traces: Path) -> None:
    ours, theirs = outcome(a_scenario(speed=4), traces), outcome(a_scenario(speed=4), traces, "round_robin")
    assert (ours.prefix_hit_ratio or 0.0) > (theirs.prefix_hit_ratio or 0.0) + 0.1
    assert ours.figures["ttft_mean_ms"] < theirs.figures["ttft_mean_ms"]


def test_speed_divides_the_time_that_a_trace_takes(traces: Path) -> None:
    slow, fast = outcome(a_scenario(), traces), outcome(a_scenario(speed=4), traces)
    assert fast.figures["seconds"] < slow.figures["seconds"] / 3.0


def test_money_is_price_times_replicas_times_time(traces: Path) -> None:
    found = outcome(a_scenario(), traces)
    assert found.usd_total
    assert found.tokens
    assert found.usd_per_million_tokens == pytest.approx(found.usd_total / found.tokens * 1e6)


def test_stages_of_a_shared_prefix_profile_wait_for_one_another(traces: Path) -> None:
    found = outcome(a_scenario("llmd:small"), traces, "llmd_precise")
    assert found.requests == 220
    assert found.figures["seconds"] > 20.0
    random = outcome(a_scenario("llmd:small"), traces, "random")
    assert (found.prefix_hit_ratio or 0.0) > (random.prefix_hit_ratio or 0.0)


@pytest.mark.parametrize(("source", "words"), [("llmd:none", "no profile 'none'"), ("llmd:broken", r"csv:3: .*many")])
def test_a_profile_that_is_not_there_or_malformed_is_named(traces: Path, source: str, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        load(a_scenario(source), traces, seed=0)


def test_more_live_sessions_than_the_kv_room_holds_make_the_first_token_late(traces: Path) -> None:
    pool = POOL.model_copy(update={"replicas": 1, "kv_tokens": 30_000.0})
    scenario = a_scenario(live_sessions=1, settings={"sweepTo": 16}).model_copy(update={"pools": (pool,)})
    found = outcome(scenario, traces)
    sweep = [value for name, value in found.figures.items() if name.startswith("ttft_p90_seconds_at_")]
    assert len(sweep) == 5
    assert max(sweep) > 3.0 * sweep[0]
    assert found.figures["ttft_breaks_at_ratio"] > 0.5


def test_progress_is_told_as_a_share(traces: Path) -> None:
    heard: list[float] = []
    scenario = a_scenario("llmd:small")
    run_replay(scenario, load(scenario, traces, seed=0), seed=0, progress=lambda share, words: heard.append(share))
    assert heard == [pytest.approx(200 / 220)]
