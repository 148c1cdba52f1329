"""The day's demand: read from the samples' trace, and as the curves that the emulator offers."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DAY_SECONDS = 86400.0
BIN_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Bin:
    """Mean demand of one pool over ten minutes, from ``second`` of the day on."""

    second: float
    requests_per_second: float
    input_tokens: float
    output_tokens: float
    cached_share: float


def read_day(path: Path) -> dict[str, tuple[Bin, ...]]:
    """Each pool's bins in the order of time.

    Raises:
        ValueError: A column is missing or no number, naming the line.
    """
    bins: dict[str, list[Bin]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            try:
                one = Bin(
                    second=float(row["second"]),
                    requests_per_second=float(row["requests_per_second"]),
                    input_tokens=float(row["input_tokens"]),
                    output_tokens=float(row["output_tokens"]),
                    cached_share=float(row["cached_share"]),
                )
                bins.setdefault(row["pool"], []).append(one)
            except (KeyError, TypeError, ValueError) as error:
                example = "600,chat,85.78,1737,117,0.35"
                raise ValueError(f"{path}:{line}: {row}: {error!r}; expected e.g. {example}") from error
    return {pool: tuple(sorted(each, key=lambda one: one.second)) for pool, each in bins.items()}


def load_of(bins: Sequence[Bin], *, midnight: float, begin: float, end: float) -> Mapping[str, Any]:
    """The load that the emulator is given: the day, over and over, from `begin` to `end`.

    A bin's mean stands at its middle, with straight lines between, so that the requests of the day are kept.

    Args:
        bins: A pool's day.
        midnight: Unix seconds of some midnight.
        begin: Unix seconds before which nothing is needed; the day before is the same day.
        end: Unix seconds after which nothing is needed.
    """
    first = int((begin - midnight) // DAY_SECONDS) - 1
    last = int((end - midnight) // DAY_SECONDS) + 1
    points = [
        [
            midnight + day * DAY_SECONDS + one.second + BIN_SECONDS / 2,
            one.requests_per_second,
            one.input_tokens,
            one.output_tokens,
        ]
        for day in range(first, last + 1)
        for one in bins
    ]
    kept = [point for point in points if begin - BIN_SECONDS <= point[0] <= end + BIN_SECONDS]
    return {"curve": kept, "cachedShare": round(sum(one.cached_share for one in bins) / len(bins), 4)}


def rates_from(bins: Sequence[Bin], start_hour: float) -> list[float]:
    """The day's rates bin by bin, beginning at an hour of the day."""
    turn = int(start_hour * 3600.0 // BIN_SECONDS) % len(bins)
    return [one.requests_per_second for one in (*bins[turn:], *bins[:turn])]
