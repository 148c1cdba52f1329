"""Several workers' views of a pool as one."""

from __future__ import annotations

from typing import Any

from tidefleet.router.front import Gathered
from tidefleet.router.merging import best_informed, merged_picks, merged_pools
from tidefleet.router.pool_state import Ended, Totals
from tidefleet.telemetry import PREFIX, Telemetry
from tidefleet.telemetry.merged import samples_of


def an_end(address: str, **own: Any) -> dict[str, Any]:
    plain = {"pod": "p", "accelerator": "h100", "inFlight": 0, "running": 0.0, "waiting": 0.0, "blocks": 0}
    return {"address": address, **plain, "usdPerHour": 1.0, "state": "healthy", "odd": "", **own}


def totals(requests: int, cached: int | None, ttft: float | None) -> dict[str, Any]:
    found = Totals()
    for _ in range(requests):
        found.add(Ended("", 200, 100, 40, cached, 7, ttft))
    return found.view()


def a_view(*ends: dict[str, Any], pool: str = "prod/chat", **own: Any) -> dict[str, Any]:
    plain = {
        "loadMaxOverMean": 1.0,
        "queueRequests": 0,
        "deferredRequests": 0,
        "kvEvents": False,
        "tokenizer": False,
        "blocks": 0,
    }
    more = {"chunks": 0, "indexBytes": 10, "bytesPerToken": 4.0, "totals": totals(0, None, None)}
    return {"pool": pool, **plain, **more, "endpoints": list(ends), **own}


def test_requests_are_summed_loads_are_estimates_and_the_worst_state_is_told() -> None:
    one = a_view(an_end("a", inFlight=3, running=9, blocks=5), an_end("b", inFlight=1), queueRequests=2, blocks=5)
    other = a_view(an_end("b", inFlight=2, state="ejected", odd="odd"), an_end("a", inFlight=4, running=8), blocks=7)
    (found,) = merged_pools([[one], [other]])
    a, b = found["endpoints"]
    assert (a["inFlight"], a["running"], a["blocks"], a["state"]) == (7, 9, 5, "healthy")
    assert (b["inFlight"], b["state"], b["odd"]) == (3, "ejected", "odd")
    assert (found["queueRequests"], found["blocks"], found["indexBytes"]) == (2, 7, 20)


def test_the_balance_is_that_of_all_requests_not_of_each_workers_own() -> None:
    one = a_view(an_end("a", inFlight=4), an_end("b"), loadMaxOverMean=2.0)
    other = a_view(an_end("a"), an_end("b", inFlight=4), loadMaxOverMean=2.0)
    assert merged_pools([[one], [other]])[0]["loadMaxOverMean"] == 1.0
    assert merged_pools([[a_view(an_end("a"))]])[0]["loadMaxOverMean"] == 1.0


def test_ratios_and_times_are_of_all_requests() -> None:
    one, other = a_view(totals=totals(1, 50, 1.0)), a_view(totals=totals(3, None, 2.0))
    (found,) = merged_pools([[one], [other]])
    assert found["totals"]["requests"] == 4
    assert found["totals"]["hitRatio"] == 0.5, "of the prompts whose cached part was told"
    assert found["totals"]["predictedHitRatio"] == 0.4
    assert found["totals"]["ttftSeconds"] == 1.75


def test_the_last_picks_of_all_come_in_order_of_time() -> None:
    found = merged_picks([[{"at": 3.0}, {"at": 1.0}], [{"at": 2.0}]], 2)
    assert [one["at"] for one in found] == [3.0, 2.0]


def test_of_several_answers_that_of_the_worker_that_knows_the_prompt_is_given() -> None:
    def pick(tokens: int) -> dict[str, Any]:
        return {
            "address": f"{tokens}",
            "chosen": {"hitTokens": {"device": 0}},
            "others": [{"hitTokens": {"d": tokens}}],
        }

    refused = {"status": 503, "reason": "no pool"}
    assert best_informed([pick(5), refused, pick(9), pick(7)])["address"] == "9"
    assert best_informed([refused, pick(0)])["address"] == "0"
    assert best_informed([refused]) == refused


def state(requests: int, wrong: str = "", pool: str = "prod/chat") -> dict[str, Any]:
    counted = Telemetry("router")
    namespace, _, name = pool.partition("/")
    counted.count("router_decisions_total", requests, namespace=namespace, pool=name, outcome="picked")
    views = [] if wrong else [a_view(an_end("a", inFlight=1), pool=pool, totals=totals(requests, 1, 1.0))]
    return {"wrong": wrong, "samples": samples_of(counted), "pools": views}


def picked(gathered: Gathered, pool: str = "chat") -> float:
    found = gathered.metrics.merged().items()
    return sum(
        value for (name, labels), value in found if name.endswith("decisions_total") and ("pool", pool) in labels
    )


def test_totals_of_a_worker_that_ended_stay_while_somebody_knows_the_pool() -> None:
    gathered = Gathered(Telemetry("router"))
    gathered.take(0, state(5))
    gathered.take(1, state(7))
    gathered.ended(0)
    gathered.take(2, state(0, wrong="the fleet is not known yet"))
    assert (gathered.ready, gathered.wrong) == (1, "")
    assert (gathered.pools()[0]["totals"]["requests"], picked(gathered)) == (12, 12)
    gathered.ended(1)
    assert (gathered.ready, gathered.wrong) == (0, "the fleet is not known yet")
    assert picked(gathered) == 12, "nobody who is ready says that the pool is gone"
    gathered.take(2, state(1))
    assert (gathered.pools()[0]["totals"]["requests"], picked(gathered)) == (13, 13)
    gathered.take(2, state(1, pool="prod/other"))
    assert picked(gathered) == 0
    assert [one["pool"] for one in gathered.pools()] == ["prod/other"]


def test_the_page_tells_the_balance_of_all_workers_together() -> None:
    gathered = Gathered(Telemetry("router"))
    gathered.take(0, state(1))
    _, page = gathered.page("")
    line = f'{PREFIX}router_load_max_over_mean_ratio{{namespace="prod",pool="chat"}} 1.0'
    assert line in page.decode().splitlines()
