"""Whether a scenario's demand can fit its fleet at all: said before anything is simulated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tidefleet.economics.memory import replica_memory
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill
from tidefleet.simulator.catalogued import replica_of
from tidefleet.simulator.scenario import BIN_SECONDS, Class, Scenario
from tidefleet.simulator.workload.files import rows

SHAPES = "fleet_shape_7d_10min.csv"
"""A week of each class's relative rate in bins of ten minutes."""

_HOUR_BINS = 6
_SHORT_PROMPT = 100.0


def problems(scenario: Scenario, traces: Path | None) -> list[str]:
    """Why the demand cannot fit, each with its figures; empty where it may.

    A pool's model must fit its chips; a lone request must be within its class's objectives; and over the scenario's
    time the work that people wait for and the work that may wait must be less than the fleet.
    """
    found: list[str] = []
    for index, pool in enumerate(scenario.pools):
        replica = replica_of(pool)
        missing = cannot_start(replica)
        if missing:
            found.append(f"pools[{index}] ({pool.name}): {missing}")
            continue
        for place, one in enumerate(scenario.classes):
            if one.pool == pool.name and pool.role == "aggregated":
                found += [f"classes[{place}] ({one.name}): {why}" for why in _too_slow(replica, one)]
    if scenario.kind == "fleet" and not found:
        found += _too_much(scenario, traces)
    return found


def cannot_start(replica: Replica) -> str:
    """Why a replica cannot run at all: a figure of its chip is unknown, or its model does not fit; empty if it can."""
    chip = replica.accelerator
    if "Bf16" not in chip.flops or chip.compute_precision(replica.weights) is None:
        return f"no 16-bit compute figure of {chip.name} is known; expected a type that is profiled, e.g. h200-sxm"
    if replica.chips > 1 and not chip.link_bytes_per_second(replica.chips):
        return f"no link bandwidth is known for {replica.chips} chips of {chip.name}; expected e.g. chipsPerReplica: 1"
    fit = replica_memory(replica)
    if fit.fits:
        return ""
    need = fit.weights + fit.activation + fit.non_torch
    return (
        f"{replica.model.name} in {replica.weights} needs {need / 1e9:.0f} GB on each of {replica.chips} chips of "
        f"{chip.name}, which have {fit.usable / 1e9:.0f} GB; expected more of them, "
        f"e.g. chipsPerReplica: {2 * replica.chips}"
    )


def _too_slow(replica: Replica, one: Class) -> Iterator[str]:
    """Objectives that a request alone on a replica misses."""
    if one.objective is None:
        return
    what = f"{replica.model.name} on {replica.chips} {replica.accelerator.name}"
    step = float(decode_step(replica, 1.0, _SHORT_PROMPT).seconds[0])
    if step > one.objective.tpot_seconds:
        yield (
            f"objective.tpotSeconds is {one.objective.tpot_seconds:g}; {what} takes {step:.4f} s a token with nothing "
            f"else to do; expected at least that, e.g. tpotSeconds: {2 * step:.2g}"
        )
    first = float(prefill(replica, _SHORT_PROMPT, 0.0).seconds[0])
    limit = one.objective.ttft_seconds + one.objective.ttft_seconds_per_thousand * _SHORT_PROMPT / 1000.0
    if first > limit:
        yield (
            f"objective.ttftSeconds is {one.objective.ttft_seconds:g}; {what} prefills {_SHORT_PROMPT:g} tokens in "
            f"{first:.4f} s with nothing else to do; expected at least that, e.g. ttftSeconds: {2 * first:.2g}"
        )


def _too_much(scenario: Scenario, traces: Path | None) -> Iterator[str]:
    """Online work averages ``peakShare`` over the ratio of its peak hour to its mean; what may wait comes on top."""
    online = [one for one in scenario.classes if one.objective is not None]
    waiting = sum(one.volume_share for one in scenario.classes if one.objective is None)
    ratio = peak_over_mean(scenario, online, traces)
    if ratio is None:
        return
    mean = scenario.peak_share / ratio if online else 0.0
    if mean + waiting > 1.0:
        yield (
            f"demand is {mean + waiting:.0%} of the fleet: {mean:.0%} that people wait for, on average (its busiest "
            f"hour is {scenario.peak_share:.0%}), and {waiting:.0%} that may wait; expected at most 100 %, e.g. "
            f"volumeShare of the classes with a deadline at most {max(0.0, 1.0 - mean):.2f} together"
        )


def peak_over_mean(scenario: Scenario, online: Sequence[Class], traces: Path | None) -> float | None:
    """Busiest hour of the online classes over their mean, over the scenario's time; ``None`` where it is not known."""
    named = {one.shape for one in online if one.shape is not None and one.name not in scenario.shapes}
    columns: Mapping[str, Sequence[float]] = {}
    if named:
        path = None if traces is None else traces / SHAPES
        read = None if path is None or not path.is_file() else _columns(path, named)
        if read is None:
            return None
        columns = read
    first = int(scenario.begin_seconds // BIN_SECONDS)
    bins = max(1, round(scenario.seconds / BIN_SECONDS))
    load = [0.0] * bins
    for one in online:
        for index in range(bins):
            shape = scenario.shapes.get(one.name) or columns.get(one.shape or "") or (1.0,)
            load[index] += one.share * shape[(first + index) % len(shape)]
    wide = min(_HOUR_BINS, bins)
    peak = max(sum(load[at : at + wide]) / wide for at in range(bins - wide + 1))
    mean = sum(load) / bins
    return peak / mean if mean > 0.0 else None


def _columns(path: Path, names: set[str]) -> Mapping[str, list[float]] | None:
    """Columns of a CSV; ``None`` where one is missing or no number, which reading the workload will say."""
    found: dict[str, list[float]] = {name: [] for name in names}
    try:
        for _, row in rows(path, tuple(found)):
            for values, came in zip(found.values(), row, strict=True):
                values.append(float(came))
    except ValueError:
        return None
    return found if all(found.values()) else None
