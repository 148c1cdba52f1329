"""The table of `tidefleet cost`: what an answer says, in the order that people ask, with units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tidefleet.cli.workload import Workload

_SHARES = {"hbm": "memory bandwidth"}


def print_cost(answer: Mapping[str, Any], work: Workload) -> None:
    """An answer of `tidefleet cost` on stdout, readable from 80 columns."""
    console = Console(soft_wrap=False)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    say(f"{answer['model']} on {answer['chips']} x {answer['accelerator']}: {layout_words(answer)}")
    say(lengths_words(work))
    if answer.get("cannot_serve"):
        say(f"cannot serve ({answer['cannot_serve']}): {answer['because']}")
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for justify in ("left", "right", "left"):
            table.add_column(justify=justify, overflow="fold")
        for row in _rows(answer):
            table.add_row(*row)
        console.print(table)
        if answer["cost_share"]:
            parts = sorted(answer["cost_share"].items(), key=lambda part: -part[1])
            say("of each dollar: " + ", ".join(f"{_SHARES.get(n, n)} {v:.0%}" for n, v in parts if v >= 5e-3))
        source = f": {answer['provenance_source']}" if answer["provenance_source"] else ""
        say(f"speed from {answer['provenance']}, sigma {answer['sigma']:.0%}{source}")
        if answer["price_source"]:
            say(f"price: {answer['price_source']}")
        if answer.get("host_or_buy"):
            say(answer["host_or_buy"])
    for note in answer["notes"]:
        say(f"note: {note}")


def layout_words(answer: Mapping[str, Any]) -> str:
    """How a replica is laid out, e.g. ``fp8 weights, bf16 KV, tp2, aggregated``."""
    words = [f"{str(answer['weights']).lower()} weights", f"{str(answer['kv']).lower()} KV"]
    words.append(f"tp{answer['tensor_parallel']}")
    if answer["expert_parallel"] > 1:
        words.append(f"ep{answer['expert_parallel']}")
    return ", ".join([*words, str(answer["role"]).lower()])


def lengths_words(work: Workload) -> str:
    """What is asked, e.g. ``1000 prompt tokens (40% cached), 250 generated; TPOT <= 50 ms``."""
    shape = work.shape
    part = "all" if shape.cached_share == 1.0 else f"{shape.cached_share:.3g}"
    cached = f" ({part} of them cached)" if shape.cached_share else ""
    thought = f", {shape.reasoning_mean:.0f} of them reasoning" if shape.reasoning_mean else ""
    text = f"{shape.input_mean:.0f} prompt tokens{cached}, {shape.output_mean:.0f} generated{thought}"
    promises = [
        f"{one.metric}{'' if one.metric == 'TPOT' else f' p{one.percentile:g}'} <= {one.seconds * 1e3:.4g} ms"
        for one in work.objectives
    ]
    return f"{text}; {', '.join(promises) or 'no objectives'}"


def _rows(a: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Label, value and what goes with it."""
    rows = [
        ("$/1M tokens", usd(a["usd_per_million_tokens"]), "input, cached input and output"),
        ("$/1M input", usd(a["usd_per_million_input_tokens"]), "processed, not cached"),
        ("$/1M cached input", usd(a["usd_per_million_cached_input_tokens"]), ""),
        ("$/1M output", usd(a["usd_per_million_output_tokens"]), ""),
        ("$/hour", usd(a["usd_per_replica_hour"]), f"a replica; {usd(a['usd_per_chip_hour'])} a chip"),
    ]
    for label, name in (("$/request", "usd_per_request"), ("$/task", "usd_per_task")):
        if spread := a[name]:
            tail = ", ".join(f"{each} {usd(spread[each])}" for each in ("p50", "p95", "p99"))
            rows.append((label, usd(spread["mean"]), tail))
    rows += [
        ("$/user-month", usd(a["usd_per_user_month"]), ""),
        ("requests/s", figure(a["requests_per_second"]), f"{figure(a['planned_requests_per_second'])} planned with"),
        ("output tokens/s/chip", figure(a["output_tokens_per_second_per_chip"]), ""),
        ("input tokens/s/chip", figure(a["input_tokens_per_second_per_chip"]), ""),
        ("batch", figure(a["batch"]), f"limited by {a['limited_by']}"),
        ("sessions at once", figure(a["concurrent_sessions"]), "on one replica"),
        ("TTFT", milliseconds(a["ttft_seconds"]), _visible(a)),
        ("TPOT", milliseconds(a["tpot_seconds"]), f"bound by {a['bound_by']}"),
        ("MFU, MBU", f"{a['mfu']:.0%}, {a['mbu']:.0%}", "of peak FLOP/s and memory bandwidth"),
        (
            "KV room",
            f"{a['kv_room_bytes'] / 1e9:.1f} GB",
            f"a chip; {a['kv_room_tokens']:,} tokens in all, {a['max_context_tokens']:,} in one context at most",
        ),
    ]
    if a["watts_per_chip"] is not None:
        whole = f"{a['watts_per_chip']:.0f} W a chip, {a['facility_watts_per_chip']:.0f} W with the facility"
        rows.append(("joules/token", figure(a["joules_per_output_token"]), whole))
    return rows


def _visible(a: Mapping[str, Any]) -> str:
    if a["first_visible_token_seconds"] in (None, a["ttft_seconds"]):
        return ""
    return f"first visible token after {milliseconds(a['first_visible_token_seconds'])}"


def usd(value: float | None) -> str:
    """An amount in USD with three digits that count; ``-`` where it is unknown."""
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def figure(value: float | None) -> str:
    """A number with three digits that count; ``-`` where it is unknown."""
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    """Seconds, in milliseconds or seconds."""
    if value is None:
        return "-"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
