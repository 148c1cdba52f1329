"""Published figures as rows, what a calculation of ours is compared with, and the shipped models and accelerators."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tidefleet import catalogue
from tidefleet.planning.from_api import accelerator_of

Row = Mapping[str, str]

PUBLISHED = (
    Path(os.environ.get("TIDEFLEET_CATALOG_DIR", Path(__file__).resolve().parents[2] / "shared" / "catalog"))
    / "validation.csv"
)

MODELS = catalogue.models()
ACCELERATORS = {name: accelerator_of(kind) for name, kind in catalogue.accelerator_types().items()}


@cache
def ownership() -> Mapping[str, float]:
    """Total cost of ownership of a chip-hour at a hyperscaler, by catalogue name, where one was found."""
    return {
        manifest["metadata"]["name"]: float(price["usdPerChipHour"])
        for manifest in catalogue.accelerator_manifests()
        for price in manifest["spec"].get("prices", [])
        if (price["capacityType"], price["provider"]) == ("Owned", "hyperscaler-tco")
    }


@dataclass(frozen=True, slots=True)
class Check:
    """One published figure beside ours.

    ``holds`` is set where the row asks for a relation (an order, a bound) and not for a distance.
    """

    name: str
    published: float
    ours: float
    holds: bool | None = None

    @property
    def ratio(self) -> float:
        """Ours over the published figure."""
        return self.ours / self.published if self.published else float("nan")

    def within(self, tolerance: str) -> bool:
        """Whether it agrees, by the row's tolerance: ``20%`` relative, ``1pp`` in points, ``exact`` or ``0``."""
        if self.holds is not None:
            return self.holds
        size, points = allowed(tolerance)
        distance = abs(self.ours - self.published)
        return distance <= (size if points else size * abs(self.published)) + 1e-9


def allowed(tolerance: str) -> tuple[float, bool]:
    """A tolerance as a number, and whether it is in points rather than relative. The last figure's digits count."""
    found = re.search(r"(\d+(?:\.\d+)?)\s*(%|pp)", tolerance)
    if found is None:
        return 1e-6, False
    size, unit = float(found[1]), found[2]
    return (size, True) if unit == "pp" else (size / 100.0, False)


def numbers(text: str) -> list[float]:
    """The numbers of a text in order; a dash between two is a range, not a sign."""
    return [float(one) for one in re.findall(r"\d+(?:\.\d+)?", text)]


def read(path: Path = PUBLISHED) -> list[dict[str, str]]:
    """The rows of a table of published figures, in its order."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
