"""Work that may wait: it goes into slack only, by its deadline, and engines that take a priority serve it last."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from router_ground import MODEL, a_class_object, a_fleet, a_served_pod

from tidefleet.router.chooser import Choice, Hold, Refusal, RequestHead
from tidefleet.router.discovery import Fleet
from tidefleet.router.picking import Picker
from tidefleet.router.pool_state import Limits
from tidefleet.routing.defer import LOWEST_PRIORITY

VOLUME = {"volumeTokensPerDay": 1_000_000_000}
TOKENS = {"input": {"mean": 200}, "output": {"mean": 50}}
PATH = "/v1/chat/completions"


def a_picker(*, by_priority: bool = False, **limits: Any) -> Picker:
    """One engine, with a class for people and two for work that may wait for an hour or a day."""
    pod = a_served_pod(("10.0.0.1", 8000), "engine-0")
    if by_priority:
        pod["spec"]["containers"][0]["args"] += ["--scheduling-policy", "priority"]
    classes = [a_class_object("chat", priority=100)]
    for name, seconds in (("hourly", 3600), ("daily", 86_400)):
        match = {"headers": [{"name": "x-class", "value": name}]}
        demand = {**VOLUME, "deadlineSeconds": seconds}
        classes.append(a_class_object(name, priority=200, match=match, demand=demand, tokens=TOKENS))
    loop = asyncio.get_running_loop()
    picker = Picker(secret=b"s" * 16, now=loop.time, limits=Limits(**limits))
    picker.update(a_fleet([pod], classes=classes))
    return picker


def ask(picker: Picker, wclass: str = "", *, path: str = PATH, **more: Any) -> Any:
    """A request's answer, or what it waits for."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello " * 200}], "max_tokens": 50, **more}
    headers = {"x-class": wclass} if wclass else {}
    return picker.choose(RequestHead("POST", path, headers, None), json.dumps(body).encode())


def waiting(answer: Any) -> asyncio.Task[Choice | Refusal]:
    """A request that is not answered at once, as the wire awaits it."""
    assert isinstance(answer, Awaitable), answer

    async def awaited() -> Choice | Refusal:
        found: Choice | Refusal = await answer
        return found

    return asyncio.ensure_future(awaited())


async def soon() -> None:
    """Let the loop turn."""
    await asyncio.sleep(0.06)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine."""
    asyncio.run(test())


def test_it_waits_while_people_are_served_and_goes_by_its_deadline_as_soon_as_there_is_slack() -> None:
    async def whole() -> None:
        picker = a_picker()
        person = ask(picker)
        assert isinstance(person, Choice)
        daily, hourly = waiting(ask(picker, "daily")), waiting(ask(picker, "hourly"))
        await soon()
        assert not daily.done()
        assert not hourly.done()
        state = picker.pools["prod/chat"]
        assert len(state.deferred) == 2
        picker.closed(person.ticket, asyncio.get_running_loop().time())
        await soon()
        assert hourly.done(), "what is due first goes first"
        assert not daily.done(), "it fills the slack"
        first = hourly.result()
        assert isinstance(first, Choice)
        picker.closed(first.ticket, asyncio.get_running_loop().time())
        await soon()
        assert isinstance(daily.result(), Choice)
        assert not len(state.deferred)
        await picker.close()

    run(whole)


def test_people_are_let_in_before_work_that_waits() -> None:
    async def whole() -> None:
        picker = a_picker()
        person = ask(picker)
        task = waiting(ask(picker, "daily"))
        another = ask(picker)
        assert isinstance(another, Choice), "nobody waits behind work that may"
        picker.closed(person.ticket, asyncio.get_running_loop().time())
        await soon()
        assert not task.done()
        picker.closed(another.ticket, asyncio.get_running_loop().time())
        await soon()
        assert isinstance(task.result(), Choice)
        await picker.close()

    run(whole)


def test_a_full_queue_and_a_long_wait_are_refused_with_words_and_when_to_come_again() -> None:
    async def whole() -> None:
        picker = a_picker(deferred_requests=1, defer_seconds=0.2)
        person = ask(picker)
        first = waiting(ask(picker, "daily"))
        await soon()
        second = await waiting(ask(picker, "daily"))
        assert isinstance(second, Refusal)
        assert second.status == 429
        assert "the queue of deferrable work is full" in second.reason
        assert ("retry-after", "30") in second.headers
        late = await first
        assert isinstance(late, Refusal)
        assert late.status == 429
        assert "no endpoint had slack for deferrable work within" in late.reason
        assert not len(picker.pools["prod/chat"].deferred)
        picker.closed(person.ticket, asyncio.get_running_loop().time())
        await picker.close()

    run(whole)


def test_a_client_that_goes_away_leaves_nothing_behind_even_when_an_endpoint_was_just_found() -> None:
    async def whole() -> None:
        picker = a_picker()
        state = picker.pools["prod/chat"]
        person = ask(picker)
        early, late = waiting(ask(picker, "hourly")), waiting(ask(picker, "daily"))
        await soon()
        early.cancel()
        await asyncio.gather(early, return_exceptions=True)
        assert len(state.deferred) == 1
        picker.closed(person.ticket, asyncio.get_running_loop().time())  # finds an endpoint for the other one
        late.cancel()  # before its task has heard of it
        await asyncio.gather(late, return_exceptions=True)
        assert not len(state.deferred)
        assert state.table.pending.tolist() == [0.0]
        assert state.table.running.tolist() == [0.0]
        await picker.close()

    run(whole)


def test_work_that_waited_for_a_pool_to_wake_up_lets_people_go_first() -> None:
    async def whole() -> None:
        picker = a_picker()
        full, empty = picker.pools["prod/chat"].served, a_fleet([]).pools[0]
        accelerators = a_fleet([]).accelerators
        picker.update(Fleet((replace(full, ranks=empty.ranks),), accelerators))
        daily, hourly = waiting(ask(picker, "daily")), waiting(ask(picker, "hourly"))
        person = waiting(ask(picker))
        await soon()
        picker.update(Fleet((full,), accelerators))
        await soon()
        assert isinstance(person.result(), Choice), "though the others' classes have the higher priority"
        assert not (daily.done() and hourly.done())
        for task in (hourly, daily):
            for one in (person, hourly):
                if one.done():
                    picker.closed(one.result().ticket, asyncio.get_running_loop().time())
            await soon()
            assert isinstance(task.result(), Choice)
        await picker.close()

    run(whole)


def test_a_gateway_that_has_a_way_for_requests_that_wait_is_told_at_once_and_on_that_way_they_wait() -> None:
    async def whole() -> None:
        picker = a_picker()
        full, accelerators = picker.pools["prod/chat"].served, a_fleet([]).accelerators
        body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}).encode()

        def ask_through(wclass: str, *, may_hold: bool) -> Any:
            headers = {"x-class": wclass} if wclass else {}
            return picker.choose(RequestHead("POST", PATH, headers, None, may_hold), body)

        served = ask_through("", may_hold=True)
        assert isinstance(served, Choice)
        tasks = []
        for wclass in ("hourly", ""):
            if not wclass:
                picker.update(Fleet((replace(full, ranks=()),), accelerators))  # asleep
            assert isinstance(ask_through(wclass, may_hold=True), Hold)
            state = picker.pools["prod/chat"]
            assert not len(state.queue)
            tasks.append(waiting(ask_through(wclass, may_hold=False)))
            await soon()
            assert not tasks[-1].done()
        assert (len(state.queue), len(state.deferred)) == (1, 1)
        assert isinstance(ask_through("daily", may_hold=True), Hold), "behind work that waits"
        picker.update(Fleet((full,), accelerators))
        await soon()
        assert isinstance(tasks[1].result(), Choice)
        await picker.close()
        await asyncio.gather(*tasks)

    run(whole)


def test_engines_that_schedule_by_priority_are_told_it_behind_the_clients_own_bytes() -> None:
    async def whole() -> None:
        plain, picker = a_picker(), a_picker(by_priority=True)
        assert ask(plain).body is None, "other engines get the client's bytes as they are"
        sent = json.dumps(
            {"model": MODEL, "messages": [{"role": "user", "content": "hello " * 200}], "max_tokens": 50, "priority": 7}
        ).encode()
        told = ask(picker, priority=7)
        assert told.body is not None
        assert told.body.startswith(sent[:-1])
        assert json.loads(told.body)["priority"] == -100, "the lowest number goes first"
        picker.closed(told.ticket, asyncio.get_running_loop().time())
        assert json.loads(ask(picker, "daily").body)["priority"] == LOWEST_PRIORITY
        assert ask(picker, path="/v1/messages").body is None, "that API has no such field"
        await picker.close()

    run(whole)
