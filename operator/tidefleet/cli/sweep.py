"""`tidefleet cost --sweep` and `--levers`: the price floor per speed, and what software changes do to the cost."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tidefleet.cli.output import Form, fail, print_json, print_table
from tidefleet.cli.workload import Workload, seconds
from tidefleet.economics.evidence import Correction
from tidefleet.economics.levers import levers
from tidefleet.economics.money import ChipCost, token_cost
from tidefleet.economics.replica import Replica
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import Objective

_POINTS = 14
_PRICED = (
    "usd_per_million_tokens",
    "usd_per_million_output_tokens",
    "usd_per_million_input_tokens",
    "batch",
    "chips",
    "output_tokens_per_second_per_chip",
)
"""What a speed has beside itself; ``None`` where it is out of reach."""
_PER_FLOOR, _BAR = 3, 24
"""Bars: so many cells for the lowest price of all, and the most."""


def _range(text: str) -> tuple[float, float]:
    match = re.fullmatch(r"tpot=([^.]*(?:\.\d[^.]*)?)\.\.(.+)", text)
    if match is None:
        fail(f"--sweep is {text!r}; expected tpot=FROM..TO, e.g. tpot=5ms..100ms", 2)
    low, high = seconds("--sweep", match[1]), seconds("--sweep", match[2])
    if low >= high:
        fail(f"--sweep is {text!r}; expected a range that rises, e.g. tpot=5ms..100ms", 2)
    return low, high


def print_sweep(
    text: str,
    replicas: Sequence[Replica],
    work: Workload,
    chip: ChipCost,
    correction: Callable[[Replica], Correction],
    *,
    role: str,
    utilisation: float,
    memory_utilisation: float,
    form: Form,
) -> None:
    """The cheapest USD per million tokens at each speed, over the replicas that may serve."""
    low, high = _range(text)
    others = [one for one in work.objectives if one.metric != "TPOT"]
    corrections = [(each, correction(each)) for each in replicas]
    model, accelerator = replicas[0].model.name, replicas[0].accelerator.name
    rows: list[dict[str, Any]] = []
    for tpot in np.geomspace(low, high, _POINTS):
        asked = [*others, Objective("TPOT", float(tpot))]
        tried = (
            estimate(each, work.shape, asked, role=role, correction=corrected, memory_utilisation=memory_utilisation)
            for each, corrected in corrections
        )
        found = [one for one in tried if isinstance(one, Estimate)]
        priced = [(token_cost(one, chip, utilisation=utilisation), one) for one in found]
        row: dict[str, Any] = {"tpot_seconds": float(tpot), "tokens_per_second_per_user": 1.0 / float(tpot)}
        row |= dict.fromkeys(_PRICED)
        if priced:
            money, best = min(priced, key=lambda pair: pair[0].blended)
            row |= {
                "usd_per_million_tokens": money.blended,
                "usd_per_million_output_tokens": money.output,
                "usd_per_million_input_tokens": money.input,
                "batch": best.batch,
                "chips": best.replica.chips,
                "output_tokens_per_second_per_chip": best.output_tokens_per_second / best.replica.chips,
            }
        rows.append(row)
    if form is Form.JSON:
        print_json({"model": model, "accelerator": accelerator, "role": role, "sweep": rows})
        return
    least = min((row["usd_per_million_tokens"] for row in rows if row["batch"] is not None), default=1.0)
    shown = []
    for row in rows:
        start = (f"{row['tpot_seconds'] * 1e3:.3g}", f"{row['tokens_per_second_per_user']:.3g}")
        if row["batch"] is None:
            shown.append((*start, "-", "-", "-", "-", "out of reach"))
            continue
        usd = row["usd_per_million_tokens"]
        out = row["usd_per_million_output_tokens"] or 0.0
        bar = "█" * max(1, min(_BAR, round(_PER_FLOOR * usd / least)))
        shown.append((*start, f"{usd:.3g}", f"{out:.3g}", f"{row['batch']:.0f}", str(row["chips"]), bar))
    columns = ("#TPOT MS", "#TOK/S/USER", "#$/1M", "#$/1M OUT", "#BATCH", "#CHIPS", "")
    print_table(f"price floor of {model} on {accelerator}", columns, shown)


def print_levers(
    replica: Replica,
    work: Workload,
    chip: ChipCost,
    correction: Callable[[Replica], Correction],
    *,
    role: str,
    utilisation: float,
    memory_utilisation: float,
    form: Form,
) -> None:
    """What each software change does, on top of those above it."""
    stack = levers(
        replica,
        work.shape,
        work.objectives,
        chip,
        role=role,
        utilisation=utilisation,
        memory_utilisation=memory_utilisation,
        correction=correction,
    )
    if form is Form.JSON:
        print_json(
            {
                "model": replica.model.name,
                "accelerator": replica.accelerator.name,
                "chips": replica.chips,
                "levers": [asdict(one) for one in stack],
            }
        )
        return
    rows = [
        (
            one.name,
            "-" if one.usd_per_million_tokens is None else f"{one.usd_per_million_tokens:.3g}",
            "-" if one.usd_per_million_tokens is None else f"{one.step - 1:+.0%}",
            "-" if one.usd_per_million_tokens is None else f"{one.total - 1:+.0%}",
            one.note,
        )
        for one in stack
    ]
    title = f"{replica.model.name} on {replica.chips} x {replica.accelerator.name}"
    print_table(title, ("LEVER", "#$/1M", "#STEP", "#IN ALL", ""), rows)
