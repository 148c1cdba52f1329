"""The night in figures: what was lent, what training made of it, and what each accelerator-second went to."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from demo import words
from demo.counters import Totals
from demo.ledger import CAUSES, LENT, Account, NodeStory, account
from demo.witness import Witness

FLIPS = "tidefleet_flips_total"
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Ribbon:
    """One node's phases over the day: when each began, with the operator's reason where one was read."""

    node: str
    phases: tuple[tuple[float, str, str], ...]


@dataclass(frozen=True, slots=True)
class NightDay:
    """A day of the nodes that may be lent. Ratios are shares of ``paid_chip_seconds``.

    Attributes:
        queue: who trained, in words.
        window: when loans are allowed, in words.
        nodes, chips: that may be lent.
        loaned_node_hours: in which training could use a node; ``away_node_hours`` with the ways there and back.
        flips: that ended, by direction and result, e.g. ``training done``; from the operator's own counters.
        trained_gpu_hours: that are kept; ``lost_gpu_hours`` those after a last checkpoint.
        pods_trained: pods of jobs that ran, and how many of them ended well.
        failed_requests: that were cut, refused or given up because of a flip.
        lost_seconds: accelerator-seconds by cause; with those needed they add up to what was paid.
        blocked: what the operator said kept it from lending more, the most frequent first.
    """

    queue: str
    window: str
    nodes: int
    chips: int
    loaned_node_hours: float
    away_node_hours: float
    flips: Mapping[str, float]
    trained_gpu_hours: float
    lost_gpu_hours: float
    pods_trained: tuple[int, int]
    failed_requests: float
    paid_chip_seconds: float
    needed_serving_seconds: float
    needed_training_seconds: float
    needed_ratio: float
    needed_ratio_without_loans: float
    busy_ratio: float
    busy_ratio_without_loans: float
    lost_seconds: Mapping[str, float]
    ribbon: tuple[Ribbon, ...] = ()
    blocked: tuple[str, ...] = ()


def night_day(
    witness: Witness, totals: Totals, *, queue: str, window: str, start: float, end: float
) -> NightDay | None:
    """The figures of a stretch of time; ``None`` when too little was seen.

    Args:
        witness: what was seen.
        totals: the operators' counters.
        queue: who trains, in words; `window` likewise.
        start, end: Unix seconds of the fleet's clock.
    """
    if len(witness.looks) < 2 or not witness.nodes:
        return None
    nodes = [witness.nodes[name] for name in sorted(witness.nodes, key=_natural)]
    made = account(witness.looks, nodes, witness.training, start=start, end=end)
    ran = [one for one in witness.training.values() if one.last > one.first or one.succeeded]
    return NightDay(
        queue=queue,
        window=window,
        nodes=len(nodes),
        chips=sum(one.chips for one in nodes),
        loaned_node_hours=made.loaned_node_seconds / HOUR,
        away_node_hours=made.away_node_seconds / HOUR,
        flips=_flips(totals),
        trained_gpu_hours=made.needed_training / HOUR,
        lost_gpu_hours=made.lost["work lost"] / HOUR,
        pods_trained=(len(ran), sum(one.succeeded for one in ran)),
        failed_requests=round(witness.cut + witness.short, 1) + witness.streams_failed,
        paid_chip_seconds=made.paid,
        needed_serving_seconds=made.needed_serving,
        needed_training_seconds=made.needed_training,
        needed_ratio=made.needed_ratio,
        needed_ratio_without_loans=made.needed_ratio_without_loans,
        busy_ratio=made.busy_ratio,
        busy_ratio_without_loans=made.busy_ratio_without_loans,
        lost_seconds=_largest_first(made),
        blocked=tuple(
            f"{kind}: {why}" for (kind, why), _ in sorted(witness.blocked.items(), key=lambda pair: -pair[1])[:8]
        ),
        ribbon=tuple(_ribbon(one, witness, end) for one in nodes),
    )


def _flips(totals: Totals) -> dict[str, float]:
    found: dict[str, float] = {}
    for direction in totals.by(FLIPS, "direction"):
        for result, count in totals.by(FLIPS, "result", direction=direction).items():
            if count:
                found[f"{direction} {result}"] = count
    return found


def _largest_first(made: Account) -> dict[str, float]:
    return dict(sorted(made.lost.items(), key=lambda pair: (-pair[1], CAUSES.index(pair[0]))))


def _ribbon(node: NodeStory, witness: Witness, end: float) -> Ribbon:
    told = [(at, phase, witness.reasons.get((node.name, at), "")) for at, phase in sorted(node.phases.items())]
    return Ribbon(node.name, tuple(one for one in told if one[0] <= end))


def _natural(name: str) -> tuple[str, int]:
    kind, _, number = name.rpartition("-")
    return kind, int(number) if number.isdecimal() else 0


def in_words(night: NightDay) -> list[tuple[str, str]]:
    """The figures as pairs of name and value, for terminal and page alike."""
    there = night.flips.get("training done", 0.0)
    back = night.flips.get("serving done", 0.0)
    other = {name: count for name, count in night.flips.items() if name not in ("training done", "serving done")}
    ran, well = night.pods_trained
    return [
        ("training queue", night.queue),
        ("loans allowed", night.window),
        ("nodes that may be lent", f"{night.nodes} with {night.chips} accelerators"),
        ("node-hours loaned", f"{night.loaned_node_hours:.1f}, {night.away_node_hours:.1f} with the ways to and fro"),
        ("flips", ", ".join([f"{there:.0f} to training", f"{back:.0f} back",
                             *(f"{count:.0f} {name}" for name, count in sorted(other.items()))])),
        ("training, GPU-hours", f"{night.trained_gpu_hours:.1f} kept, {night.lost_gpu_hours:.1f} lost"),
        ("training pods", f"{ran} ran, {well} ended by themselves"),
        ("requests failed by flips", f"{night.failed_requests:g}"),
        ("utilisation, needed / paid", _both(night.needed_ratio, night.needed_ratio_without_loans)),
        ("busy / paid", _both(night.busy_ratio, night.busy_ratio_without_loans)),
    ]  # fmt: skip


def _both(with_loans: float, without: float) -> str:
    return f"{words.percent(with_loans)} with loans, {words.percent(without)} without"


def where_it_went(night: NightDay) -> list[tuple[str, float]]:
    """Needed and lost accelerator-hours, by what they went to; they add up to those paid."""
    needed = [
        ("needed for serving", night.needed_serving_seconds),
        ("needed for training", night.needed_training_seconds),
    ]
    return [(name, seconds / HOUR) for name, seconds in (*needed, *night.lost_seconds.items())]


def render(night: NightDay) -> RenderableType:
    """The night for a terminal."""
    figures = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    figures.add_column(no_wrap=True)
    figures.add_column(overflow="fold")
    for name, value in in_words(night):
        figures.add_row(name, value, style="bold" if "paid" in name else "")
    paid = night.paid_chip_seconds / HOUR
    causes = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    causes.add_column(f"what {paid:,.0f} accelerator-hours paid went to", no_wrap=True)
    for title in ("hours", "share"):
        causes.add_column(title, justify="right", no_wrap=True)
    for name, hours in where_it_went(night):
        if hours > 0:
            shown = "bold" if name.startswith("needed") else ""
            causes.add_row(name, f"{hours:,.1f}", words.percent(hours / paid) if paid else "-", style=shown)
    return Group(Text("\nNodes that train at night", style="bold"), figures, Text(), causes)


def lent_now(witness: Witness) -> str:
    """How many nodes are where, in a few words; empty while all serve."""
    counts = {name: count for name, count in witness.phase_counts().items() if name not in ("Serving", "Planned")}
    if not counts:
        return ""
    order = (LENT, "Cordoned", "Draining", "Verifying", "Recalling", "Reclaiming", "Warming", "Quarantined")
    return ", ".join(f"{counts[name]} {name}" for name in order if name in counts)
