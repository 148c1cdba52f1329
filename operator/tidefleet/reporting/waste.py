"""Where dollars went for little, and what would mend it: rules over the figures of a period.

Each rule names its threshold and computes its dollars from the data; those of different rules may overlap, since one
change can mend several, so they are not summed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from tidefleet.reporting.bill import Bill
from tidefleet.reporting.fit import seconds_per_prompt_token
from tidefleet.reporting.precision import fp8_step
from tidefleet.reporting.values import NONE, OTHERS, By, Figures, Found, Offered, Peer, usd

LEAST_USD_SHARE = 0.001
"""Share of the bill below which nothing is told."""

MIN_REQUESTS = 100
"""Requests from which groups are compared."""

MIN_PEERS = 3
"""Groups of a class that a median is taken of."""

CACHED_SHARE_GAP = 0.2
"""A group whose share of cached prompt tokens is so far below its peers' median has prompts that begin differently."""

KNOWN_BEFORE_SHARE = 0.5
"""From this part of the gap that was computed before and is computed again, not its prompts are to blame but caches."""

RECOMPUTED_SHARE = 0.02
"""Share of prompt tokens computed again, from one cause, from which it is told."""

CHEAPER_SHARE = 0.1
"""A type must be so much cheaper per token than another in the same class to be told."""

ALIKE_LENGTHS = 0.25
"""Mean prompt and answer of two types' requests may differ by so much for their prices to be compared."""

SLO_TOLERANCE = 0.01
"""A cheaper type may keep objectives so much less often."""

IDLE_SHARE = 0.5
"""Share of a pool's bill that nobody used, from which it is too large."""

HEADROOM_SHARE = 0.25
"""Share of its bill that a pool may leave unused: dollars beyond it count as too many."""

PRECISION_STEP = 0.1
"""What 8-bit weights must save by the cost model to be told."""

LOST_SHARE = 0.01
"""Share of a class's dollars in errors, cut requests or failed tasks from which it is told."""

_MENDS = {
    "evicted": "a KV tier in host memory or a shared store, or more room for KV on the chips",
    "misrouted": "send requests of one session with a session id, and pick endpoints by prefix",
    "flip": "longer loans, or move a session's KV before its node goes",
    "restart": "a KV tier that outlives the engine, or fewer restarts",
    "cold": "warm new replicas with the prefixes that are asked for most",
    "unknown": "have the router name the cause: usage records of version 1 have recomputed_cause",
}


@dataclass(frozen=True, slots=True)
class Waster:
    """Something that cost more than it had to.

    Attributes:
        rule: which one found it; where: e.g. a class or a pool.
        usd: what it cost over the period beyond what it had to.
        why: the figures; mend: what would change it; threshold: from when it is told.
    """

    rule: str
    where: str
    usd: float
    why: str
    mend: str
    threshold: str


def wasters(found: Found, bill: Bill, *, most: int = 10) -> list[Waster]:
    """The largest, most dollars first."""
    least = LEAST_USD_SHARE * usd(bill.total)
    told = [
        *_idle(bill),
        *_prefixes(found),
        *_recomputed(found, bill),
        *_types(found),
        *_precision(found),
        *_lost(found),
        *_unprofitable(found, bill),
    ]
    kept = [one for one in told if one.usd > 0.0 and one.usd >= least]
    return sorted(kept, key=lambda one: (-one.usd, one.rule, one.where))[:most]


def _idle(bill: Bill) -> Iterator[Waster]:
    pools: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for unit, idle in bill.idle_by_unit.items():
        pool = pools[f"{unit.namespace}/{unit.pool}"]
        pool[0] += idle
        pool[1] += bill.used_by_unit.get(unit, 0)
    for name, (idle, used) in pools.items():
        if not idle or idle / (idle + used) < IDLE_SHARE:
            continue
        enough = used / (1.0 - HEADROOM_SHARE)
        yield Waster(
            "idle",
            name,
            usd(idle + used) - usd(round(enough)),
            f"{idle / (idle + used):.0%} of ${_money(idle + used)} was used by nobody",
            "fewer replicas at least, scale to zero, or lend its nodes to training while it is quiet",
            f"from {IDLE_SHARE:.0%} idle; what {HEADROOM_SHARE:.0%} of headroom would cost is not counted",
        )


def _prefixes(found: Found) -> Iterator[Waster]:
    """Groups that find less of their prompts in a cache than others of their class."""
    groups: dict[tuple[str, str], list[Peer]] = defaultdict(list)
    for peer in found.peers:
        if peer.figures.requests >= MIN_REQUESTS and peer.figures.prompt_tokens:
            groups[peer.workload_class, peer.kind].append(peer)
    prices = _usd_per_prompt_token(found)
    done: set[str] = set()
    for (name, kind), peers in groups.items():  # feature, team, tenant: the first that tells anything of a class
        price = prices.get(name, 0.0)
        if name in done or len(peers) < MIN_PEERS or not price:
            continue
        for peer in peers:
            usual = median(_cached_share(one.figures) for one in peers if one is not peer)
            figures = peer.figures
            gap = usual - _cached_share(figures)
            if gap < CACHED_SHARE_GAP:
                continue
            done.add(name)
            tokens = gap * figures.prompt_tokens
            again = min(1.0, sum(figures.recomputed.values()) / tokens)
            caches = again >= KNOWN_BEFORE_SHARE
            cause = max(figures.recomputed, key=lambda one: figures.recomputed[one]) if figures.recomputed else ""
            yield Waster(
                "cache-lost" if caches else "prefix-varies-early",
                f"{name}, {kind} {peer.name}",
                tokens * price,
                f"{_cached_share(figures):.0%} of prompt tokens cached, {usual:.0%} usual in its class; "
                f"{again:.0%} of the difference was known before" + (f", most {cause}" if caches else ""),
                _MENDS.get(cause, _MENDS["unknown"])
                if caches
                else "begin prompts with what all share, and put times, ids and users' words last",
                f"from {CACHED_SHARE_GAP:.0%} below the median of at least {MIN_PEERS} groups",
            )


def _recomputed(found: Found, bill: Bill) -> Iterator[Waster]:
    """Prompts computed again, by cause: what a KV tier, or routing by prefix, would be worth."""
    prompts = bill.whole.figures.prompt_tokens
    tokens = bill.whole.figures.recomputed
    for cause, cost in bill.whole.recomputed.items():
        part = tokens.get(cause, 0) / prompts if prompts else 0.0
        if part >= RECOMPUTED_SHARE or (not tokens and cost):
            many = f"{part:.1%} of prompt tokens were computed again" if tokens else "prompts were computed again"
            yield Waster(
                f"recomputed-{cause}", "all", usd(cost), many, _MENDS.get(cause, _MENDS["unknown"]),
                f"from {RECOMPUTED_SHARE:.0%} of prompt tokens",
            )  # fmt: skip


def _types(found: Found) -> Iterator[Waster]:
    """Accelerators on which a class's tokens cost more than on another one that serves it as well."""
    for (name, model), offers in _by_class(found.offered).items():
        if len(offers) < 2:
            continue
        for dear in offers:
            better = [one for one in offers if _is_as_good(one, dear)]
            if not better:
                continue
            cheap = min(better, key=lambda one: _price(one.figures))
            less = 1.0 - _price(cheap.figures) / _price(dear.figures)
            if less < CHEAPER_SHARE:
                continue
            yield Waster(
                "cheaper-type",
                f"{name} on {_type(dear)}",
                usd(dear.figures.used) * less,
                f"${_price(dear.figures) * 1e6:.3g}/1M computed tokens of {model}, on {_type(cheap)} "
                f"${_price(cheap.figures) * 1e6:.3g} with as good a share of objectives met",
                f"more replicas on {_type(cheap)}, fewer on {_type(dear)}",
                f"from {CHEAPER_SHARE:.0%} cheaper at like lengths (within {ALIKE_LENGTHS:.0%})",
            )


def _precision(found: Found) -> Iterator[Waster]:
    """Models published in 16 bits on chips that compute in 8, as far as the cost model says that it pays."""
    for (model, accelerator), figures in _by_type(found.offered).items():
        step = fp8_step(model, accelerator, figures)
        if step is None or 1.0 - step < PRECISION_STEP:
            continue
        yield Waster(
            "precision",
            f"{model} on {accelerator}",
            usd(figures.used) * (1.0 - step),
            f"8-bit weights cost {step - 1.0:+.0%} by the cost model at these lengths; unless the engines have them",
            "serve the FP8 checkpoint where its answers are as good; tidefleet cost --levers tells more",
            f"from {PRECISION_STEP:.0%} cheaper",
        )


def _lost(found: Found) -> Iterator[Waster]:
    """Errors, cut requests and failed tasks, by class."""
    classes: dict[str, Figures] = defaultdict(Figures)
    for one in found.offered:
        classes[one.workload_class].add(one.figures)
    for name, figures in classes.items():
        for rule, cost, what, mend in (
            ("errors", figures.error, "requests that ended in an error", "find out what the engines answer with 5xx"),
            ("cut", figures.cut, "requests that were cut", "ask why clients leave: slow first tokens, long answers"),
            ("failed-tasks", figures.failed, "tasks that failed", "another model or fewer steps for what fails"),
        ):
            if figures.used and cost / figures.used >= LOST_SHARE:
                yield Waster(
                    rule, name, usd(cost), f"{cost / figures.used:.1%} of its dollars went into {what}", mend,
                    f"from {LOST_SHARE:.0%} of a class's dollars",
                )  # fmt: skip


def _unprofitable(found: Found, bill: Bill) -> Iterator[Waster]:
    """Rows that cost more than they earn."""
    if found.by is By.ACCELERATOR:
        return
    for row in bill.rows:
        if 0 < row.figures.revenue < row.allocated and row.name not in (NONE, OTHERS):
            yield Waster(
                "costs-more-than-it-earns",
                f"{found.by} {row.name}",
                usd(row.allocated - row.figures.revenue),
                f"${_money(row.allocated)} for ${_money(row.figures.revenue)} of revenue, idle time not counted",
                "a cap, another price, or a cheaper model for it",
                "from the first cent, where anything is earned",
            )


# --- comparing -------------------------------------------------------------------------------------------------------


def _cached_share(figures: Figures) -> float:
    return figures.cached_tokens / figures.prompt_tokens if figures.prompt_tokens else 0.0


def _usd_per_prompt_token(found: Found) -> dict[str, float]:
    """USD of an uncached prompt token by class, over the models and types that it ran on."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for one in found.offered:
        figures = one.figures
        speed = found.speeds.get((one.model, one.accelerator))
        priced = figures.seconds - figures.unpriced_seconds
        if speed is None or priced <= 0.0:
            continue
        mine = sums[one.workload_class]
        mine[0] += figures.input_tokens * seconds_per_prompt_token(speed) * usd(figures.used) / priced
        mine[1] += figures.input_tokens
    return {name: cost / tokens for name, (cost, tokens) in sums.items() if tokens > 0.0}


def _by_class(offered: Iterable[Offered]) -> dict[tuple[str, str], list[Offered]]:
    found: dict[tuple[str, str], list[Offered]] = defaultdict(list)
    for one in offered:
        priced = one.figures.seconds > 0.0 and not one.figures.unpriced_seconds and one.figures.used
        if priced and one.figures.requests >= MIN_REQUESTS and _computed(one.figures):
            found[one.workload_class, one.model].append(one)
    return found


def _by_type(offered: Sequence[Offered]) -> dict[tuple[str, str], Figures]:
    found: dict[tuple[str, str], Figures] = defaultdict(Figures)
    for one in offered:
        found[one.model, one.accelerator].add(one.figures)
    return found


def _computed(figures: Figures) -> int:
    return figures.input_tokens + figures.output_tokens


def _price(figures: Figures) -> float:
    """USD per computed token."""
    return usd(figures.used) / _computed(figures)


def _type(one: Offered) -> str:
    return f"{one.accelerator} ({one.capacity_type})" if one.capacity_type else one.accelerator


def _is_as_good(one: Offered, other: Offered) -> bool:
    mine, theirs = one.figures, other.figures
    return one is not other and (
        _alike(mine.input_tokens / mine.requests, theirs.input_tokens / theirs.requests)
        and _alike(mine.output_tokens / mine.requests, theirs.output_tokens / theirs.requests)
        and _kept(mine) >= _kept(theirs) - SLO_TOLERANCE
    )


def _alike(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ALIKE_LENGTHS)


def _kept(figures: Figures) -> float:
    judged = figures.slo_met + figures.slo_missed
    return figures.slo_met / judged if judged else 1.0


def _money(pico: int) -> str:
    return f"{usd(pico):,.2f}"
