"""What accounting costs the router: decisions and whole requests with books and without, paired in one run.

    python benchmarks/router_accounting.py [--requests N] [--endpoints N] [--seed N] [--json]

Two pickers of the same pool take turns, in blocks of requests with the same bodies: one keeps books (a tenant's limit
looked up and counted, dollars, objectives, task, a record written to a file), the other does not. A ratio is the median
over the blocks' pairs of processor time of the event loop's thread.

decision_us_off, decision_us_on, decision_ratio   from a request's headers and body to its endpoint
request_us_off, request_us_on, request_ratio      the same and all that follows until its end, of which no client waits
writer_us                                         of the thread that writes the records, per record
records_bytes                                     of a record's line
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [_ROOT, f"{_ROOT}/operator", *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import json  # noqa: E402
import random  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections import deque  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.router_fleet import fleet_of  # noqa: E402

from tidefleet.api import WorkloadClass  # noqa: E402
from tidefleet.api.validation import parse  # noqa: E402
from tidefleet.cluster.labels import POOL_LABEL  # noqa: E402
from tidefleet.router.books import Books  # noqa: E402
from tidefleet.router.chooser import Choice, RequestHead  # noqa: E402
from tidefleet.router.discovery import Fleet  # noqa: E402
from tidefleet.router.metrics import RouterMeter  # noqa: E402
from tidefleet.router.picking import Picker  # noqa: E402
from tidefleet.router.process import spare_the_collector  # noqa: E402
from tidefleet.router.records import FileSettings, RecordsFile  # noqa: E402
from tidefleet.telemetry import Telemetry  # noqa: E402

MODEL = "llama-3.1-8b"
BLOCK, UNDER_WAY = 200, 10
_WARM = 3
_PATH = "/v1/chat/completions"
_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'


def a_fleet(endpoints: int) -> Fleet:
    """Pool prod/chat with one class that promises, earns, and limits its tenants."""
    pods = [
        {
            "metadata": {
                "namespace": "prod",
                "name": f"chat-{index}",
                "uid": f"chat-{index}",
                "labels": {POOL_LABEL: "chat", "tidefleet.io/option": "x", "tidefleet.io/routable": "true"},
                "annotations": {
                    "tidefleet.io/engine": json.dumps(
                        {
                            "model": MODEL,
                            "accelerator": "h100-sxm",
                            "tensorParallel": 1,
                            "weights": "Bf16",
                            "kv": "Bf16",
                        }
                    )
                },
            },
            "spec": {"containers": [{"name": "engine", "image": "engine", "args": ["--model", MODEL]}]},
            "status": {
                "phase": "Running",
                "podIP": f"10.0.{index // 250}.{index % 250 + 1}",
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        for index in range(endpoints)
    ]
    wclass = parse(
        {
            "apiVersion": "tidefleet.io/v1alpha1",
            "kind": "WorkloadClass",
            "metadata": {"namespace": "prod", "name": "chat", "uid": "c", "labels": {"tidefleet.io/team": "search"}},
            "spec": {
                "poolRef": {"name": "chat"},
                "objectives": [{"metric": "TTFT", "milliseconds": 500}, {"metric": "TPOT", "milliseconds": 50}],
                "tenantKey": {"header": "x-tenant"},
                "limits": {"tokensPerMinutePerTenant": 10**9, "usdPerDayPerTenant": "1000000"},
                "revenue": {"usage": {"usdPerMillionInputTokens": "1", "usdPerMillionOutputTokens": "3"}},
            },
        }
    )
    if not isinstance(wclass, WorkloadClass):
        raise TypeError(f"the class is {wclass}, expected a WorkloadClass")
    fleet = fleet_of(pods, MODEL)
    return Fleet(tuple(replace(one, classes=(wclass,)) for one in fleet.pools), fleet.accelerators)


def requests(count: int, seed: int) -> list[tuple[dict[str, str], bytes]]:
    """Headers and bodies of chat turns of 1,000 sessions of 200 tenants."""
    rng = random.Random(seed)  # noqa: S311 - for lengths and names
    found = []
    for number in range(count):
        session = rng.randrange(1000)
        text = f"session {session} " + "the tide comes in and goes out again " * rng.randint(20, 60)
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 200, "stream": True}
        headers = {
            ":method": "POST",
            ":path": _PATH,
            "content-type": "application/json",
            "x-session-id": f"s{session}",
            "x-tenant": f"tenant-{session % 200}",
            "x-task-id": f"task-{number // 4}",
        }
        if number % 4 == 3:
            headers["x-task-outcome"] = "success"
        found.append((headers, json.dumps(body).encode()))
    return found


class Side:
    """A picker, with books or without."""

    def __init__(self, fleet: Fleet, *, books: bool, file: RecordsFile) -> None:
        self.now = 1000.0
        self.picker = Picker(
            secret=b"s" * 16,
            now=lambda: self.now,
            meter=RouterMeter(Telemetry("router")),
            books=Books(secret=b"s" * 16, record=file.add) if books else None,
        )
        self.picker.update(fleet)

    def run(self, asked: Sequence[tuple[dict[str, str], bytes]]) -> tuple[float, float]:
        """Microseconds of processor time per request: of its decision, and of all."""
        clock, picker = time.thread_time_ns, self.picker
        usage = {"prompt_tokens": 500, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 256}}
        last = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"
        heads = [RequestHead("POST", _PATH, dict(headers), None) for headers, _ in asked]
        deciding = ending = 0
        under_way: deque[Choice] = deque()
        for head, (_, body) in zip(heads, asked, strict=True):
            begun = clock()
            found = picker.choose(head, body)
            decided = clock()
            deciding += decided - begun
            if not isinstance(found, Choice):
                raise TypeError(f"the answer is {found}, expected a choice")
            under_way.append(found)
            self.now += 0.02
            if len(under_way) < UNDER_WAY:
                continue
            choice = under_way.popleft()
            begun = clock()
            picker.served(choice.ticket, choice.addresses[0], 200, self.now)
            for _ in range(8):
                picker.body(choice.ticket, _EVENT, False, self.now)
            picker.body(choice.ticket, last, True, self.now + 0.1)
            picker.closed(choice.ticket, self.now + 0.1)
            ending += clock() - begun
        for choice in under_way:
            picker.closed(choice.ticket, self.now)
        ended = len(asked) - UNDER_WAY + 1
        return deciding / len(asked) / 1e3, deciding / len(asked) / 1e3 + ending / ended / 1e3


def measure(count: int, endpoints: int, seed: int) -> dict[str, Any]:
    """All figures."""
    fleet, asked = a_fleet(endpoints), requests(count, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "usage.jsonl"
        file = RecordsFile(FileSettings(path, most_queued=10**7), source="benchmark")
        off, on = (Side(fleet, books=books, file=file) for books in (False, True))
        spare_the_collector()
        before, own = time.process_time(), time.thread_time()
        file.start()
        pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
        for number, at in enumerate(range(0, count - BLOCK + 1, BLOCK)):
            block = asked[at : at + BLOCK]
            sides = (off, on) if number % 2 else (on, off)  # neither profits from what the other left in the caches
            found = {side: side.run(block) for side in sides}
            if number >= _WARM:
                pairs.append((found[off], found[on]))
        file.close()
        writer = (time.process_time() - before) - (time.thread_time() - own)
        records, size = file.written, path.stat().st_size

    def ratio(place: int) -> float:
        return statistics.median(with_books[place] / without[place] for without, with_books in pairs)

    def microseconds(side: int, place: int) -> float:
        return round(statistics.median(pair[side][place] for pair in pairs), 2)

    return {
        "decision_us_off": microseconds(0, 0),
        "decision_us_on": microseconds(1, 0),
        "decision_ratio": round(ratio(0), 4),
        "request_us_off": microseconds(0, 1),
        "request_us_on": microseconds(1, 1),
        "request_ratio": round(ratio(1), 4),
        "writer_us": round(writer / records * 1e6, 2),
        "record_bytes": round(size / records),
        "requests": len(pairs) * BLOCK,
        "endpoints": endpoints,
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--endpoints", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="as JSON on one line")
    given = parser.parse_args()
    found = measure(given.requests, given.endpoints, given.seed)
    if given.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
