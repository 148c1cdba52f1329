"""What the router's parts cost, beside peers in the same run.

    python benchmarks/router.py [--json] [--part NAME ...] [--endpoints N] [--blocks N] [--seed N]

Part ``index``: 64 endpoints of 100,000 blocks each, as conversations of 2,000 blocks whose first 100 are the prompt
that all of them share. An endpoint reports its blocks in events of 100; the events of all endpoints, and of eight
conversations on each, come interleaved. The peer is the Rust RadixTree of NVIDIA Dynamo; it gets its own event format
ready made, and its queries as the list that it wants. It is an optional install (``pip install
ai-dynamo-runtime==1.6.1``, or a folder with it on PYTHONPATH); without it the keys with ``dynamo`` and the ratio are
left out.

match_us_p50           a prompt of 2,000 blocks that one endpoint holds, matched; ``dynamo_match_us_p50``,
match_ratio            ours over the peer's, the two taking turns; ``match_us_p99`` and ``dynamo_match_us_p99``.
match_us_by_case       p50 of ours and the peer's: ``held`` as above; ``everywhere``: held by all endpoints, each to a
                       depth of its own; ``half``: after 1,000 blocks nobody has it; ``unknown``: nobody has any;
                       ``extended``: a held one with 20 blocks more; ``fragmented``: held, after two thirds of all
                       blocks were removed and others stored in their rows.
store_us_per_block     of the interleaved events, mean until all are taken in: the peer, which may do its work behind
                       the call, is asked for a match at the end; ``dynamo_store_us_per_block``. The same with
                       ``_p50``: median of the calls, by block.
bytes_per_block        growth of this process's resident memory, per endpoint and block; ``dynamo_bytes_per_block``.
hash_us_per_1k_tokens  keys of 32,768 token ids in an array, blocks of 16; ``hash_text_us_per_kb`` of 128 kB in chunks
                       of 64 bytes; ``hash_turn_us``: a session's 32k-token prompt with 500 more tokens;
                       ``dynamo_hash_us_per_1k_tokens``.
"""

# A neighbour has the name of a module of the standard library: this folder must leave the path before anything else.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import gc  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import time  # noqa: E402
from array import array  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from tidefleet.routing.hashing import Keys, text_keys, token_keys  # noqa: E402
from tidefleet.routing.index import PrefixIndex  # noqa: E402
from tidefleet.routing.sessions import SessionState  # noqa: E402

_CHAIN, _EVENT, _SHARED, _AT_ONCE = 2000, 100, 100, 8

Figures = dict[str, Any]


def resident_bytes() -> int:
    """Memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def dynamo() -> Any | None:
    """The peer's module, or None where it is not installed."""
    try:
        return importlib.import_module("dynamo._core")
    except ImportError:
        return None


@dataclass(frozen=True, slots=True)
class Event:
    """Blocks that an endpoint reports: keys[done : done + 100] of one conversation."""

    endpoint: int
    keys: Keys
    done: int


def conversations(endpoints: int, blocks: int, rng: np.random.Generator) -> list[list[Keys]]:
    """Of each endpoint: chains of 2,000 keys, with the same first 100 everywhere."""
    shared = rng.integers(1, 2**63, _SHARED, dtype=np.uint64)
    return [
        [
            np.concatenate((shared, rng.integers(1, 2**63, _CHAIN - _SHARED, dtype=np.uint64)))
            for _ in range(max(1, blocks // _CHAIN))
        ]
        for _ in range(endpoints)
    ]


def events(chains: list[list[Keys]]) -> Iterator[Event]:
    """Interleaved: eight conversations of each endpoint grow at once."""
    for first in range(0, len(chains[0]), _AT_ONCE):
        for done in range(0, _CHAIN, _EVENT):
            for which in range(first, min(first + _AT_ONCE, len(chains[0]))):
                for endpoint, own in enumerate(chains):
                    yield Event(endpoint, own[which], done)


def peer_event(event: Event, number: int) -> bytes:
    """In the peer's format; a block's hash there is any name of it, so it has its key's."""
    keys = event.keys[event.done : event.done + _EVENT].tolist()
    parent = int(event.keys[event.done - 1]) if event.done else None
    blocks = [{"block_hash": key, "tokens_hash": key} for key in keys]
    return json.dumps({"event_id": number, "data": {"stored": {"parent_hash": parent, "blocks": blocks}}}).encode()


def alternate(
    ours: Callable[[Keys], object], peer: Callable[[list[int]], object] | None, asked: Sequence[Keys]
) -> tuple[list[float], list[float]]:
    """Microseconds of each query, both sides taking turns."""
    own: list[float] = []
    other: list[float] = []
    for keys in asked:
        begun = time.perf_counter()
        ours(keys)
        own.append((time.perf_counter() - begun) * 1e6)
        if peer is not None:
            listed = keys.tolist()
            begun = time.perf_counter()
            peer(listed)
            other.append((time.perf_counter() - begun) * 1e6)
    return own, other


def queries(
    chains: list[list[Keys]], everywhere: Sequence[Keys], count: int, rng: np.random.Generator
) -> dict[str, list[Keys]]:
    """Prompts by case."""

    def held() -> Keys:
        own = chains[int(rng.integers(len(chains)))]
        return own[int(rng.integers(len(own)))]

    def fresh(blocks: int) -> Keys:
        return rng.integers(1, 2**63, blocks, dtype=np.uint64)

    return {
        "held": [held() for _ in range(count)],
        "everywhere": [everywhere[int(rng.integers(len(everywhere)))] for _ in range(count)],
        "half": [np.concatenate((held()[: _CHAIN // 2], fresh(_CHAIN // 2))) for _ in range(count)],
        "unknown": [fresh(_CHAIN) for _ in range(count)],
        "extended": [np.concatenate((held(), fresh(20))) for _ in range(count)],
    }


def index_part(endpoints: int, blocks: int, seed: int) -> Figures:
    """The prefix index."""
    rng = np.random.default_rng(seed)
    chains = conversations(endpoints, blocks, rng)
    per_endpoint = len(chains[0]) * (_CHAIN - _SHARED) + _SHARED
    pairs = endpoints * per_endpoint
    index = PrefixIndex(capacity_blocks=endpoints * blocks + 20 * _CHAIN, endpoints=endpoints)
    slots = [index.add_endpoint() for _ in range(endpoints)]
    before, spent = resident_bytes(), array("d")
    for event in events(chains):
        keys = event.keys[event.done : event.done + _EVENT]
        begun = time.perf_counter()
        index.store(slots[event.endpoint], keys, parent=int(event.keys[event.done - 1]) if event.done else 0)
        spent.append(time.perf_counter() - begun)
    sent = len(spent) * _EVENT
    found: Figures = {
        "pairs": pairs,
        "store_us_per_block": sum(spent) * 1e6 / sent,
        "store_us_per_block_p50": float(np.median(spent)) * 1e6 / _EVENT,
        "bytes_per_block": (resident_bytes() - before) / pairs,
    }
    everywhere = [rng.integers(1, 2**63, _CHAIN, dtype=np.uint64) for _ in range(10)]
    depths = rng.integers(1, _CHAIN + 1, (len(everywhere), endpoints))
    for chain, row in zip(everywhere, depths, strict=True):
        for endpoint, depth in enumerate(row):
            index.store(slots[endpoint], chain[:depth])
    peer = dynamo()
    tree = None
    if peer is not None:
        tree, before, spent = peer.RadixTree(), resident_bytes(), array("d")
        for number, event in enumerate(events(chains)):
            ready = peer_event(event, number)
            begun = time.perf_counter()
            tree.apply_event(event.endpoint, ready)
            spent.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        tree.find_matches(chains[-1][-1].tolist())
        flushed = time.perf_counter() - begun
        found["dynamo_store_us_per_block"] = (sum(spent) + flushed) * 1e6 / sent
        found["dynamo_store_us_per_block_p50"] = float(np.median(spent)) * 1e6 / _EVENT
        found["dynamo_bytes_per_block"] = (resident_bytes() - before) / pairs
        number = 10**9
        for chain, row in zip(everywhere, depths, strict=True):
            for endpoint, depth in enumerate(row):
                for done in range(0, int(depth), _EVENT):
                    number += 1
                    tree.apply_event(endpoint, peer_event(Event(endpoint, chain[:depth], done), number))
    by_case: dict[str, dict[str, float]] = {}

    def ask(name: str, asked: list[Keys]) -> None:
        own, other = alternate(index.match, tree.find_matches if tree else None, asked)
        by_case[name] = {"ours": float(np.median(own)), "ours_p99": float(np.percentile(own, 99))}
        if other:
            by_case[name] |= {"dynamo": float(np.median(other)), "dynamo_p99": float(np.percentile(other, 99))}

    for name, asked in queries(chains, everywhere, 400, rng).items():
        ask(name, asked)
    if tree is not None:
        agree(index, tree, [slots, chains, everywhere])
    tree = None
    fragmented = refill(index, slots, chains, rng)
    ask("fragmented", fragmented)
    held = by_case["held"]
    found |= {"match_us_p50": held["ours"], "match_us_p99": held["ours_p99"], "match_us_by_case": by_case}
    if "dynamo" in held:
        found |= {
            "dynamo_match_us_p50": held["dynamo"],
            "dynamo_match_us_p99": held["dynamo_p99"],
            "match_ratio": held["ours"] / held["dynamo"],
        }
    return found


def agree(index: PrefixIndex, tree: Any, known: list[Any]) -> None:
    """Both sides find the same, on some prompts of each kind.

    Raises:
        AssertionError: they do not, so that the times compare nothing.
    """
    slots, chains, everywhere = known
    for keys in [own[0] for own in chains[:8]] + list(everywhere):
        ours = index.match(keys).blocks[0][slots].tolist()
        scores = {worker[0]: score for worker, score in tree.find_matches(keys.tolist()).scores.items()}
        theirs = [scores.get(endpoint, 0) for endpoint in range(len(slots))]
        if ours != theirs:
            raise AssertionError(f"hits differ: ours {ours}, the peer's {theirs}")


def refill(index: PrefixIndex, slots: list[int], chains: list[list[Keys]], rng: np.random.Generator) -> list[Keys]:
    """Two of three conversations leave block by block in random order, and as many come back; those that came."""
    came = []
    for endpoint, own in enumerate(chains):
        gone = [which for which in range(len(own)) if which % 3]
        left = np.concatenate([own[which][_SHARED:] for which in gone]) if gone else np.empty(0, np.uint64)
        rng.shuffle(left)
        for done in range(0, len(left), _EVENT):
            index.remove(slots[endpoint], left[done : done + _EVENT])
        for which in gone:
            for done in range(_SHARED, _CHAIN, _EVENT):
                parent = int(own[which][done - 1])
                index.store(slots[endpoint], own[which][done : done + _EVENT], parent=parent)
            came.append(own[which])
    order = rng.permutation(len(came))[:400]
    return [came[which] for which in order]


def hashing_part(seed: int) -> Figures:
    """Keys of tokens and of text."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 150_000, 33_268, dtype=np.uint32)
    text = rng.bytes(131_072)
    asked = tokens[:32_768]
    before = SessionState.of_tokens(asked, 16)

    def p50(call: Callable[[], object], repeats: int = 300) -> float:
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            call()
            times.append((time.perf_counter() - begun) * 1e6)
        return float(np.median(times))

    found: Figures = {
        "hash_us_per_1k_tokens": p50(lambda: token_keys(asked, 16)) / len(asked) * 1000,
        "hash_text_us_per_kb": p50(lambda: text_keys(text, 64)) / len(text) * 1000,
        "hash_turn_us": p50(lambda: SessionState.of_tokens(tokens, 16, before=before)),
    }
    peer = dynamo()
    if peer is not None:
        listed = asked.tolist()
        spent = p50(lambda: peer.compute_block_hash_for_seq(listed, 16), 50)
        found["dynamo_hash_us_per_1k_tokens"] = spent / len(listed) * 1000
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", action="append", help="of index, hashing; all of them where none is named")
    parser.add_argument("--endpoints", type=int, default=64, help="of the index")
    parser.add_argument("--blocks", type=int, default=100_000, help="of each endpoint")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args(arguments)
    parts: dict[str, Callable[[], Figures]] = {
        "hashing": lambda: hashing_part(asked.seed),
        "index": lambda: index_part(asked.endpoints, asked.blocks, asked.seed),
    }
    wanted = asked.part or list(parts)
    unknown = [name for name in wanted if name not in parts]
    if unknown:
        parser.error(f"--part {unknown[0]}: expected one of {', '.join(parts)}")
    found: Figures = {}
    for name in wanted:
        found |= parts[name]()
    if asked.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:32} {value if isinstance(value, dict) else format(value, '.4g')}")


if __name__ == "__main__":
    main()
