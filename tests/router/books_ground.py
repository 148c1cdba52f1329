"""A picker with books, whose clock a test holds: requests are served by hand and their records kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from router_ground import MODEL, a_fleet, a_pool_object, a_served_pod

from tidefleet.api import WorkloadClass
from tidefleet.router.books import Books
from tidefleet.router.chooser import Choice, Refusal, RequestHead
from tidefleet.router.discovery import Fleet
from tidefleet.router.limiting import Limiter
from tidefleet.router.metrics import RouterMeter
from tidefleet.router.picking import Picker
from tidefleet.router.usage_values import Record, RequestRecord
from tidefleet.telemetry import Telemetry

PROMPT = "the tide comes in and goes out again " * 40


class Desk:
    """Pool prod/chat with engines at 10.0.0.1 and so on.

    Attributes:
        now: the picker's clock; the wall clock is ``WALL`` later.
        records: what was recorded.
    """

    WALL = 1_700_000_000.0

    def __init__(
        self, count: int = 1, *, classes: Sequence[WorkloadClass] = (), limiter: Limiter | None = None
    ) -> None:
        self.now = 1000.0
        self.records: list[Record] = []
        self.telemetry = Telemetry("router")
        books = Books(secret=b"s" * 16, limiter=limiter, record=self.records.append, wall=lambda: self.now + self.WALL)
        self.picker = Picker(secret=b"s" * 16, now=lambda: self.now, meter=RouterMeter(self.telemetry), books=books)
        self.pods = [a_served_pod((f"10.0.0.{index + 1}", 8000), f"engine-{index}") for index in range(count)]
        self.classes = tuple(classes)
        self.picker.update(self.fleet(self.pods))
        self.state = self.picker.pools["prod/chat"]

    def fleet(self, pods: Sequence[dict[str, Any]]) -> Fleet:
        """As discovery would find it."""
        return a_fleet(pods, pool=a_pool_object(), classes=self.classes)

    def ask(self, prompt: str = PROMPT, *, headers: dict[str, str] | None = None, **more: Any) -> Choice | Refusal:
        """Where a request would go; it must not have to wait."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 100,
            "stream": True,
            **more,
        }
        head = RequestHead("POST", "/v1/chat/completions", dict(headers or {}), None)
        found = self.picker.choose(head, json.dumps(body).encode())
        assert isinstance(found, Choice | Refusal), found
        return found

    def serve(
        self,
        prompt: str = PROMPT,
        *,
        status: int | None = 200,
        tokens: int = 400,
        cached: int | None = 0,
        output: int = 50,
        ttft: float = 0.2,
        tpot: float = 0.02,
        cut: bool = False,
        address: str = "",
        **more: Any,
    ) -> RequestRecord:
        """Have a request served and its record told."""
        found = self.ask(prompt, **more)
        assert isinstance(found, Choice), found
        self.finish(
            found, status=status, tokens=tokens, cached=cached, output=output, ttft=ttft, tpot=tpot, cut=cut,
            address=address,
        )  # fmt: skip
        record = self.records[-1]
        assert isinstance(record, RequestRecord)
        return record

    def finish(
        self, choice: Choice, *, status: int | None = 200, tokens: int = 400, cached: int | None = 0, output: int = 50,
        ttft: float = 0.2, tpot: float = 0.02, cut: bool = False, address: str = "",
    ) -> None:  # fmt: skip
        """Have an engine answer a request."""
        self.now += ttft
        usage: dict[str, Any] = {"prompt_tokens": tokens, "completion_tokens": output}
        if cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        if status is not None:
            self.picker.served(choice.ticket, address or choice.addresses[0], status, self.now)
            self.picker.body(choice.ticket, b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n', False, self.now)
            self.now += tpot * max(0, output - 1)
            if not cut:
                self.picker.body(
                    choice.ticket, b'data: {"usage":' + json.dumps(usage).encode() + b"}\n\n", True, self.now
                )
        self.picker.closed(choice.ticket, self.now)

    def metric(self, name: str, **labels: str) -> float:
        """A series' value."""
        return self.telemetry.value(f"tidefleet_{name}", namespace="prod", pool="chat", **labels) or 0.0
