"""A picker process for tests that stop, hang or kill it: `python wire_picker.py PORT ENDPOINT[,ENDPOINT...]`.

It answers every request with the last endpoint, and the first as fallback. The request header ``x-test-wait`` makes it
wait that many seconds, ``x-test-endpoint`` makes it choose that one, ``x-test-refuse`` refuse with that status.
"""

import asyncio
import sys

import uvloop

from tidefleet.router import Choice, Refusal, RequestHead, serve


class Picker:
    """Chooses as the headers say."""

    def __init__(self, endpoints: list[str]) -> None:
        self._endpoints = endpoints

    async def choose(self, head: RequestHead, body: bytes | None) -> Choice | Refusal:
        await asyncio.sleep(float(head.headers.get("x-test-wait", "0")))
        if "x-test-refuse" in head.headers:
            return Refusal(int(head.headers["x-test-refuse"]), "asked for", (("retry-after", "7"),))
        chosen = head.headers.get("x-test-endpoint", self._endpoints[-1])
        size = "none" if body is None else str(len(body))
        return Choice((chosen, self._endpoints[0]), set_headers=(("x-test-body-bytes", size),))

    def served(self, ticket: object, address: str | None, status: int | None, now: float) -> None:
        print(f"served {address} {status}", flush=True)

    def body(self, ticket: object, chunk: bytes, end: bool, now: float) -> None:
        print(f"body {len(chunk)} {end}", flush=True)

    def closed(self, ticket: object, now: float) -> None:
        print("closed", flush=True)


async def main() -> None:
    await serve(Picker(sys.argv[2].split(",")), port=int(sys.argv[1]))
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
