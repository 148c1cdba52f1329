"""The report: a period's bill divided, its totals, what was wasted, what was left out, as one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tidefleet.reporting.bill import Bill, Row, settle, usd_per_million
from tidefleet.reporting.loading import FAULTS
from tidefleet.reporting.period import told
from tidefleet.reporting.values import Found, usd
from tidefleet.reporting.waste import Waster, wasters

MOST_WASTERS = 10


@dataclass(frozen=True, slots=True)
class Report:
    """What ``tidefleet report`` shows."""

    found: Found
    bill: Bill
    wasters: Sequence[Waster]

    def notes(self) -> list[str]:
        """What the reader must know beside the figures, in sentences."""
        bill, found = self.bill, self.found
        notes = [f"{count} {FAULTS[name]}" for name, count in found.counted.items()]
        if found.lost_records:
            notes.append(
                f"{found.lost_records} records were lost, as the routers counted; what they used is in the idle line"
            )
        if bill.overused:
            notes.append(
                f"usage is ${usd(bill.overused):,.2f} above the bill of some pools and was scaled down to it: "
                "is a price missing there, or did the router judge requests too dear?"
            )
        if bill.unbilled:
            notes.append(
                f"${usd(bill.unbilled):,.2f} were used in pools of which nobody said what was paid; "
                "usage stands for their bill, and their idle time is not known"
            )
        return notes + found.notes

    def as_json(self) -> dict[str, Any]:
        """The report by the names of its JSON form; dollars are USD, on the basis in their name."""
        found, bill = self.found, self.bill
        return {
            "by": str(found.by),
            "from": told(found.period.start),
            "to": told(found.period.end),
            "source": found.source,
            "bill_usd": usd(bill.total),
            "rows": [figures_of(row, found) for row in bill.rows],
            "lines": [{"name": name, "usd": usd(amount)} for name, amount in bill.lines.items()],
            "total": total_of(bill, found),
            "savings_usd": found.savings,
            "wasters": [asdict(one) for one in self.wasters],
            "left_out": dict(found.counted),
            "lost_records": found.lost_records,
            "notes": self.notes(),
        }


def report_of(found: Found) -> Report:
    """The report of what a source knows."""
    bill = settle(found)
    return Report(found, bill, wasters(found, bill, most=MOST_WASTERS))


def figures_of(row: Row, found: Found) -> dict[str, Any]:
    """A row by the names of the JSON form; ``None``: there is nothing to say it from."""
    figures, tasks = row.figures, row.tasks
    judged = figures.slo_met + figures.slo_missed
    earns, knows = figures.revenue > 0, found.knows_waste
    return {
        "name": row.name,
        "requests": figures.requests,
        "input_tokens": figures.input_tokens,
        "cached_tokens": figures.cached_tokens,
        "output_tokens": figures.output_tokens,
        "reasoning_tokens": figures.reasoning_tokens,
        "good_tokens": figures.good_tokens,
        "usage_usd": usd(figures.used),
        "allocated_usd": usd(row.allocated),
        "idle_usd": None if row.idle is None else usd(row.idle),
        "revenue_usd": usd(figures.revenue) if earns else None,
        "margin_usd": usd(figures.revenue - row.allocated) if earns else None,
        "usd_per_million_tokens": usd_per_million(row.allocated, figures.tokens),
        "usd_per_million_good_tokens": usd_per_million(row.allocated, figures.good_tokens),
        "slo_share": figures.slo_met / judged if judged else None,
        "tasks_succeeded": tasks.succeeded if tasks else None,
        "tasks_failed": tasks.failed if tasks else None,
        "usd_per_successful_task": usd(tasks.used) / tasks.succeeded if tasks and tasks.succeeded else None,
        "wasted_usd": usd(row.wasted) if knows else None,
        "wasted_errors_usd": usd(figures.error) if knows else None,
        "wasted_cut_usd": usd(figures.cut) if knows else None,
        "wasted_failed_tasks_usd": usd(figures.failed) if knows else None,
        "wasted_recomputed_usd": {cause: usd(cost) for cause, cost in row.recomputed.items()},
    }


def total_of(bill: Bill, found: Found) -> dict[str, Any]:
    """The totals: the whole bill, idle time and training with it, over what all rows did."""
    whole = bill.whole
    figures = figures_of(whole, found)
    margin = usd(whole.figures.revenue - bill.total) if whole.figures.revenue else None
    return figures | {
        "allocated_usd": usd(bill.total),
        "idle_usd": usd(sum(bill.idle_by_unit.values())),
        "margin_usd": margin,
        "usd_per_million_tokens": usd_per_million(bill.total, whole.figures.tokens),
        "usd_per_million_good_tokens": usd_per_million(bill.total, whole.figures.good_tokens),
    }
