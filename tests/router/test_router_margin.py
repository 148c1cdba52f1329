"""What requests earn, and that those which earn most in a second of an engine go first where engines are full."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from router_ground import MODEL, a_class_object, a_fleet, a_pool_object, a_served_pod

from tidefleet.planning.earning import prices_of_class
from tidefleet.router.asking import revenue_usd
from tidefleet.router.chooser import Choice, RequestHead
from tidefleet.router.picking import Picker
from tidefleet.routing.endpoint import Work
from tidefleet.routing.request import Ask

USAGE = {"usdPerMillionInputTokens": "2", "usdPerMillionOutputTokens": "10"}
DEARER = {**USAGE, "usdPerMillionCachedInputTokens": "0.2", "usdPerMillionCacheWriteTokens": "2.5"}


@pytest.mark.parametrize(
    ("revenue", "facts", "cached", "usd"),
    [
        ({"usage": USAGE}, {}, 0.0, 1000 * 2 + 100 * 10),
        ({"usage": USAGE}, {}, 600.0, 1000 * 2 + 100 * 10),
        ({"usage": DEARER}, {}, 600.0, 600 * 0.2 + 400 * 2 + 100 * 10),
        ({"usage": DEARER}, {"cache_ttl_seconds": 300.0}, 600.0, 600 * 0.2 + 400 * 2.5 + 100 * 10),
        ({"usage": {**USAGE, "batchDiscount": "0.5"}}, {"deadline": 9.0}, 0.0, (1000 * 2 + 100 * 10) / 2),
        ({"usage": {**USAGE, "batchDiscount": "0.5"}}, {}, 0.0, 1000 * 2 + 100 * 10),
        ({"internal": {"usdPerMillionTokens": "3"}}, {}, 0.0, 1100 * 3),
        ({"seat": {"usdPerMonth": "20", "seats": 5, "tokensPerSeatMonth": {"mean": 2_000_000}}}, {}, 0.0, 1100 * 10),
        ({"seat": {"usdPerMonth": "20", "seats": 5}}, {}, 0.0, None),
        ({"free": {}}, {}, 0.0, 0.0),
    ],
)
def test_a_request_earns_what_its_class_says(
    revenue: dict[str, Any], facts: dict[str, Any], cached: float, usd: float | None
) -> None:
    """``usd`` in millionths."""
    ask = Ask("prod/chat", MODEL, 1000, output_tokens=100.0, **facts)
    found = revenue_usd(prices_of_class(a_class_object(revenue=revenue)), ask, cached_tokens=cached)
    assert found == (None if usd is None else pytest.approx(usd / 1e6))


def test_a_class_that_says_nothing_of_revenue_earns_nobody_knows_what() -> None:
    assert revenue_usd(None, Ask("p", "m", 1)) is None
    assert prices_of_class(a_class_object()) is None


def test_of_requests_that_wait_for_full_engines_the_best_margin_in_a_second_of_one_goes_first() -> None:
    """A long answer brings more money than a prompt that is read, and takes an engine for longer than it is worth."""

    async def whole() -> None:
        classes = [
            a_class_object(
                name,
                priority=100,
                match={"headers": [{"name": "x-class", "value": name}]},
                objectives=[{"metric": "TTFT", "milliseconds": 2000}],
                tokens={"input": {"mean": 200}, "output": {"mean": output}},
                revenue={"usage": {"usdPerMillionInputTokens": "2", "usdPerMillionOutputTokens": paid}},
            )
            for name, output, paid in (("writes", 2000, "20"), ("reads", 1, "20"))
        ]
        loop = asyncio.get_running_loop()
        picker = Picker(secret=b"s" * 16, now=loop.time)
        pods = [a_served_pod(("10.0.0.1", 8000), "engine-0")]
        picker.update(a_fleet(pods, pool=a_pool_object(), classes=classes))
        state = picker.pools["prod/chat"]
        busy = state.table.begin(Ask("prod/chat", MODEL, 10), "10.0.0.1:8000", loop.time(), work=Work(1.5))

        def ask(wclass: str) -> asyncio.Task[Any]:
            body = {"model": MODEL, "messages": [{"role": "user", "content": "hello " * 800}], "max_tokens": 2000}
            found = picker.choose(
                RequestHead("POST", "/v1/chat/completions", {"x-class": wclass}, None), json.dumps(body).encode()
            )
            assert not isinstance(found, Choice), "the engine is full"

            async def awaited() -> Any:
                return await found  # type: ignore[misc]

            return asyncio.ensure_future(awaited())

        tasks = {name: ask(name) for name in ("writes", "reads")}
        await asyncio.sleep(0.05)
        assert len(state.queue) == 2
        order = []
        while (entry := state.queue.take()) is not None:
            order.append(entry)
        assert [one.ask.wclass for one in order] == ["reads", "writes"]
        reads, writes = (one.ask for one in order)
        assert writes.margin_usd is not None
        assert reads.margin_usd is not None
        assert writes.margin_usd > reads.margin_usd
        assert writes.margin_usd < (revenue_usd(prices_of_class(classes[0]), writes) or 0.0)
        for one in order:
            state.queue.put_back(one)
        state.table.end(busy, loop.time())
        await asyncio.gather(*tasks.values())
        await picker.close()

    asyncio.run(whole())
