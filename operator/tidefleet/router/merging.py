"""Several workers' views of the same pools as one, in plain values as `explaining` makes them; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

View = dict[str, Any]
_SUMMED = (
    "requests",
    "failed",
    "refused",
    "promptTokens",
    "predictedHitTokens",
    "cachedTokens",
    "toldTokens",
    "outputTokens",
)
_WORST = ("healthy", "draining", "ejected")


def merged_pools(views: Iterable[Sequence[View]], gone: Mapping[str, View] | None = None) -> list[View]:
    """Pools as all workers together see them.

    What each worker has of its own is summed (requests in flight and waiting, counts, memory); of what each of them
    estimates of the same thing the highest is told (an engine's load, blocks known), and of states the worst.

    Args:
        gone: totals of workers that ended, by pool.
    """
    by_pool: dict[str, list[View]] = {}
    for view in views:
        for one in view:
            by_pool.setdefault(one["pool"], []).append(one)
    return [_pool(found, (gone or {}).get(key)) for key, found in sorted(by_pool.items())]


def merged_totals(found: Sequence[View]) -> View:
    """Counts of several workers as one's; TTFT is weighed by requests."""
    total: View = {name: sum(one[name] for one in found) for name in _SUMMED}
    told, prompt = total["toldTokens"], total["promptTokens"]
    timed = [one for one in found if one["ttftSeconds"] is not None and one["requests"]]
    weight = sum(one["requests"] for one in timed)
    return {
        **total,
        "hitRatio": total["cachedTokens"] / told if told else None,
        "predictedHitRatio": total["predictedHitTokens"] / prompt if prompt else None,
        "ttftSeconds": sum(one["ttftSeconds"] * one["requests"] for one in timed) / weight if weight else None,
    }


def merged_picks(found: Iterable[Sequence[View]], limit: int) -> list[View]:
    """The last picks of all workers, the newest first."""
    return sorted((one for picks in found for one in picks), key=lambda one: -float(one["at"]))[:limit]


def best_informed(answers: Sequence[View]) -> View:
    """Of what several workers would do with a request, the answer of the one that knows most of its prompt."""
    return max(answers, key=lambda one: ("address" in one, _known_tokens(one)))


def _known_tokens(one: View) -> int:
    terms = [one["chosen"], *one["others"]] if "address" in one else []
    return max((sum(each["hitTokens"].values()) for each in terms), default=0)


def _pool(found: list[View], gone: View | None) -> View:
    by_address: dict[str, list[View]] = {}
    for view in found:
        for one in view["endpoints"]:
            by_address.setdefault(one["address"], []).append(one)
    ends = [_endpoint(each) for _, each in sorted(by_address.items())]
    return {
        **found[0],
        "loadMaxOverMean": round(_balance(ends), 3),
        "queueRequests": sum(one["queueRequests"] for one in found),
        "deferredRequests": sum(one["deferredRequests"] for one in found),
        "kvEvents": any(one["kvEvents"] for one in found),
        "tokenizer": any(one["tokenizer"] for one in found),
        "blocks": max(one["blocks"] for one in found),
        "chunks": max(one["chunks"] for one in found),
        "indexBytes": sum(one["indexBytes"] for one in found),
        "endpoints": ends,
        "totals": merged_totals([one["totals"] for one in found] + ([gone] if gone else [])),
    }


def _endpoint(found: list[View]) -> View:
    return {
        **found[0],
        "inFlight": sum(one["inFlight"] for one in found),
        **{name: max(one[name] for one in found) for name in ("running", "waiting", "blocks")},
        "state": max((one["state"] for one in found), key=_WORST.index),
        "odd": next((one["odd"] for one in found if one["odd"]), ""),
    }


def _balance(ends: Sequence[View]) -> float:
    loads = [one["inFlight"] for one in ends if one["state"] == "healthy"]
    return max(loads) * len(loads) / sum(loads) if sum(loads) else 1.0
