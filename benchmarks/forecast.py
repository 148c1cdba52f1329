"""How good forecasts of demand are on real traces, against plain rules, and how long they take for a whole fleet.

    python benchmarks/forecast.py --traces DIR [--json]

Every hour from the second day on, the rate of each series is forecast from what was known then, 1, 4 and 24 hours
ahead, and compared with what came. All figures are means over series of equal weight.

pinball       quantile loss at 0.9 over the mean rate of the series (lower is better)
coverage      share of slots below the quantile (0.9 is right)
mape          mean absolute error of the point forecast over the actual value, slots below a tenth of the mean left out
wape          sum of absolute errors over the sum of actual values

seasonal_naive is the value of a day before (a week before where weeks are known), last_value the newest one. Both get a
quantile too: the 0.9-quantile of their own past relative errors, so that the losses can be compared.

Traces hold at most one real week. `weeks` is therefore composed: three weeks of real days in different orders, weekdays
and weekend apart, judged on the third week's weekdays. It shows the weekly step; everything else is as recorded.
"""

# This file has the name of no standard module, but its folder holds one that has: it must leave the path first.
import sys

_HERE = sys.path[0] if __name__ == "__main__" else ""
_ROOT = __file__.rpartition("/benchmarks/")[0] or "."
sys.path[:] = [f"{_ROOT}/operator", *(one for one in sys.path if one != _HERE)]

import argparse  # noqa: E402
import csv  # noqa: E402
import datetime  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from tidefleet.planning.forecast import Step, forecast  # noqa: E402
from tidefleet.planning.slots import DAY_SLOTS, MAX_SLOTS, SLOT_SECONDS, WEEK_SLOTS, SlotSeries  # noqa: E402

Rates = NDArray[np.float64]
QUANTILE = 0.9
AHEAD = {"1h": 4, "4h": 16, "24h": 96}
EVERY = 4
"""Slots between two origins."""
MONDAY = 19_676 * DAY_SLOTS
"""A slot that begins a Monday, for traces without a date."""


def to_slots(tens: Rates) -> Rates:
    """Means of 15 minutes from means of 10: three bins are two slots, a bin that both share counts half in each."""
    bins = tens[: len(tens) // 3 * 3].reshape(-1, 3)
    pairs = np.stack([bins[:, 0] * 2 + bins[:, 1], bins[:, 1] + bins[:, 2] * 2], axis=1) / 3.0
    return pairs.reshape(-1)


def azure(directory: Path) -> dict[str, Rates]:
    """Azure's services in May 2024, requests/s."""
    rows: dict[str, dict[int, float]] = {}
    with (directory / "azure2024_rate_10min_digitised.csv").open() as file:
        for row in csv.DictReader(file):
            at = datetime.datetime.fromisoformat(row["utc"].replace("Z", "+00:00")).timestamp()
            rows.setdefault(f"azure-{row['service']}", {})[int(at // 600)] = float(row["rps"])
    found = {}
    for name, rates in rows.items():
        first = min(rates)
        first += -first % 3
        found[name] = to_slots(np.array([rates.get(i, np.nan) for i in range(first, max(rates) + 1)]))
    return found


def shapes(directory: Path) -> dict[str, Rates]:
    """The composed week of a fleet, one series a class."""
    with (directory / "fleet_shape_7d_10min.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {f"shape-{name}": to_slots(np.array([float(row[name]) for row in rows])) for name in rows[0] if name != "t"}


def three_weeks(week: Rates) -> Rates:
    """The week, and two more of the same days in another order: weekdays among themselves, the weekend's apart.

    The trace begins on a Monday as the site counts. The third week ends on Friday: two days of a weekend have no third
    order, and no slot may be forecast from itself.
    """
    days = week.reshape(7, DAY_SLOTS)
    orders = ([0, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 0, 6, 5], [2, 3, 4, 0, 1])
    return np.concatenate([days[order].reshape(-1) for order in orders])


def servegen(directory: Path) -> tuple[dict[str, Rates], dict[str, Rates]]:
    """ServeGen's week: sums of each model and its ten largest clients; and two composed weeks of each model."""
    from pyarrow import parquet  # noqa: PLC0415 - only this benchmark reads it

    table = parquet.read_table(directory / "servegen_rates.parquet").to_pydict()
    gaps: dict[str, set[int]] = {}
    with (directory / "servegen_gaps.csv").open() as file:
        for row in csv.DictReader(file):
            gaps.setdefault(row["model"], set()).add(int(row["t"]) // 600)
    bins = 7 * 144
    clients: dict[str, dict[int, Rates]] = {}
    for model, client, t, n in zip(table["model"], table["client"], table["t"], table["n"], strict=True):
        if model.startswith("m-") and t // 600 < bins:
            clients.setdefault(model, {}).setdefault(client, np.zeros(bins))[t // 600] += n / 600.0
    real: dict[str, Rates] = {}
    composed: dict[str, Rates] = {}
    for model, found in clients.items():
        for rates in found.values():
            rates[[t for t in gaps.get(model, ()) if t < bins]] = np.nan
        real[f"servegen-{model}"] = to_slots(np.sum(list(found.values()), axis=0))
        largest = sorted(found, key=lambda one: -float(np.nansum(found[one])))[:10]
        real |= {f"servegen-{model}-{one}": to_slots(found[one]) for one in largest}
        composed[f"weeks-{model}"] = three_weeks(real[f"servegen-{model}"])
    return real, composed


def quantile_of(errors: Rates) -> float:
    """The 0.9-quantile of the errors known, 0 without any."""
    known = errors[np.isfinite(errors)]
    return float(np.quantile(known, QUANTILE)) if len(known) else 0.0


def judge(rates: Rates, *, begin: int) -> dict[str, dict[str, tuple[Rates, Rates, Rates]]]:
    """Per lead and method: what came, the point forecast and the quantile, over all origins."""
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = {
        lead: {"tidefleet": [], "seasonal_naive": [], "last_value": []} for lead in AHEAD
    }
    series = SlotSeries(MONDAY, rates[:, np.newaxis].copy())
    for origin in range(begin, len(rates), EVERY):
        made = forecast(series, now=(MONDAY + origin) * SLOT_SECONDS, quantile=QUANTILE)
        past = rates[:origin]
        known = past[np.isfinite(past)]
        floor = 0.05 * float(np.mean(known))
        period = WEEK_SLOTS if made.provenance.step is Step.WEEKLY else DAY_SLOTS
        for lead, slots in AHEAD.items():
            target = origin + slots - 1
            if target >= len(rates) or not np.isfinite(rates[target]):
                continue
            actual = float(rates[target])
            row = found[lead]
            if len(made.point):
                row["tidefleet"].append((actual, float(made.point[slots - 1, 0]), float(made.upper[slots - 1, 0])))
            for name, back in (("seasonal_naive", period), ("last_value", slots)):
                point = float(past[target - back]) if name == "seasonal_naive" else float(known[-1])
                if not np.isfinite(point):
                    point = float(known[-1])
                before = past[:-back]
                errors = (past[back:] - before) / np.maximum(before, floor) if back < origin else np.empty(0)
                row[name].append((actual, point, point + quantile_of(errors) * max(point, floor)))
    return {
        lead: {name: tuple(np.array(rows).T) for name, rows in methods.items() if rows}  # type: ignore[misc]
        for lead, methods in found.items()
    }


def figures(actual: Rates, point: Rates, upper: Rates) -> dict[str, float]:
    """The figures of one method on one series."""
    mean = float(np.mean(actual))
    over = actual - upper
    loss = np.maximum(QUANTILE * over, (QUANTILE - 1.0) * over)
    high = actual >= 0.1 * mean
    return {
        "pinball": float(np.mean(loss)) / mean,
        "coverage": float(np.mean(actual <= upper)),
        "mape": float(np.mean(np.abs(point - actual)[high] / actual[high])),
        "wape": float(np.sum(np.abs(point - actual)) / np.sum(actual)),
    }


def measure(series: Mapping[str, Rates], *, begin: int) -> dict[str, Any]:
    """Means over the series, per lead and method."""
    rows: dict[str, dict[str, list[dict[str, float]]]] = {}
    for rates in series.values():
        for lead, methods in judge(rates, begin=begin).items():
            for name, columns in methods.items():
                rows.setdefault(lead, {}).setdefault(name, []).append(figures(*columns))
    return {
        lead: {
            name: {key: round(float(np.mean([one[key] for one in each])), 4) for key in each[0]}
            for name, each in methods.items()
        }
        for lead, methods in rows.items()
    }


HEADROOM = 0.85
"""Share of a replica's rate that plans use."""


def replay(series: Mapping[str, Rates], *, begin: int) -> dict[str, Any]:
    """What planning ahead buys: demand that meets too little capacity, and capacity paid, per unit of demand.

    Capacity that is asked for at the beginning of a slot, knowing the slots before, serves from the next one on (the
    replicas start within 15 minutes); capacity that is not asked for any more is gone at once. Plans keep ``HEADROOM``.
    ``nowcast`` asks for the newest slot, ``forecast`` for the highest of that and of the quantile until then, and
    ``nowcast_same_capacity`` for the newest slot times what makes each series' capacity that of ``forecast``.
    """
    totals = {name: [0.0, 0.0] for name in ("nowcast", "nowcast_same_capacity", "forecast")}
    for rates in series.values():
        week = SlotSeries(MONDAY, rates[:, np.newaxis].copy())
        mean = float(np.nanmean(rates))
        asked: dict[str, list[float]] = {"nowcast": [], "forecast": []}
        slots = range(begin, len(rates))
        newest = float(rates[:begin][np.isfinite(rates[:begin])][-1])
        for slot in slots:
            newest = float(rates[slot - 1]) if np.isfinite(rates[slot - 1]) else newest
            now = (MONDAY + slot) * SLOT_SECONDS
            made = forecast(week, now=now, quantile=QUANTILE).highest(now, SLOT_SECONDS)
            asked["nowcast"].append(newest)
            asked["forecast"].append(max(newest, float(made[0]) if made is not None else 0.0))
        known = np.isfinite(rates[begin + 1 :])
        demand = rates[begin + 1 :][known]
        more = sum(np.array(asked["forecast"])[:-1][known]) / sum(np.array(asked["nowcast"])[:-1][known])
        asked["nowcast_same_capacity"] = [one * more for one in asked["nowcast"]]
        for name, rows in asked.items():
            capacity = np.array(rows)[:-1][known] / HEADROOM
            missing = np.maximum(0.0, demand - capacity).sum()
            for i, value in enumerate((missing, capacity.sum())):
                totals[name][i] += float(value) / mean / len(demand) / len(series)
    return {
        name: {"unserved_share": round(row[0], 5), "capacity_per_demand": round(row[1], 3)}
        for name, row in totals.items()
    }


def speed(pools: int) -> dict[str, float]:
    """Seconds for the forecasts of so many pools with five weeks of history of two quantities, and bytes of these."""
    rng = np.random.default_rng(0)
    slots = np.arange(MAX_SLOTS)
    day = 1.0 + 0.5 * np.sin(2 * np.pi * slots / DAY_SLOTS)
    values = rng.gamma(50.0, day[:, np.newaxis] * np.array([100.0, 20.0]), (MAX_SLOTS, 2))
    series = SlotSeries(MONDAY, values)
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        for _ in range(max(1, pools // 10)):
            forecast(series, now=(MONDAY + MAX_SLOTS) * SLOT_SECONDS)
        best = min(best, (time.process_time() - began) / max(1, pools // 10) * pools)
    return {"pools": pools, "seconds": round(best, 2), "history_mb": round(pools * MAX_SLOTS * 2 * 4 / 1e6, 1)}


def main() -> int:
    """Print the figures; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="directory of the traces (else $TIDEFLEET_SHARED/traces)")
    parser.add_argument("--only", nargs="+", help="only these sets of traces, e.g. azure2024 weeks")
    parser.add_argument("--pools", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shared = os.environ.get("TIDEFLEET_SHARED", "")
    traces = options.traces or (Path(shared) / "traces" if shared else None)
    if traces is None or not (traces / "servegen_rates.parquet").exists():
        print(f"--traces is {traces}; expected a directory with servegen_rates.parquet", file=sys.stderr)
        return 2
    real, composed = servegen(traces)
    sets = {
        "azure2024": (azure(traces), DAY_SLOTS),
        "servegen_models": ({k: v for k, v in real.items() if k.count("-") == 2}, DAY_SLOTS),
        "servegen_clients": ({k: v for k, v in real.items() if k.count("-") == 3}, DAY_SLOTS),
        "fleet_shape": (shapes(traces), DAY_SLOTS),
        "weeks": (composed | {f"weeks-{k}": three_weeks(v) for k, v in shapes(traces).items()}, 2 * WEEK_SLOTS),
    }
    unknown = set(options.only or ()) - sets.keys()
    if unknown:
        print(f"--only names {', '.join(sorted(unknown))}; expected some of {', '.join(sets)}", file=sys.stderr)
        return 2
    sets = {name: pair for name, pair in sets.items() if name in (options.only or sets)}
    found: dict[str, Any] = {"quantile": QUANTILE}
    for name, (series, begin) in sets.items():
        found[name] = {"series": len(series), **measure(series, begin=begin)}
    for name, (series, begin) in sets.items():
        if name != "servegen_clients":  # single clients are no pools
            found[name]["replay"] = replay(series, begin=begin)
    found["speed"] = speed(options.pools)
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"{'traces':18}{'ahead':>6}  {'method':16}{'pinball':>9}{'coverage':>10}{'mape':>8}{'wape':>8}")
    for name in sets:
        for lead in AHEAD:
            for method, row in found[name].get(lead, {}).items():
                print(
                    f"{name:18}{lead:>6}  {method:16}{row['pinball']:9.4f}{row['coverage']:10.3f}"
                    f"{row['mape']:8.3f}{row['wape']:8.3f}"
                )
    for name in sets:
        for method, row in found[name].get("replay", {}).items():
            print(
                f"{name:18}replay  {method:22} unserved {row['unserved_share']:.3%}, "
                f"capacity {row['capacity_per_demand']:.2f} x demand"
            )
    print(f"{found['speed']['pools']} pools: {found['speed']['seconds']} s, {found['speed']['history_mb']} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
