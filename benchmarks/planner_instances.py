"""Fleet-planning instances: a reader of the ``.npz`` files that planners are compared on, and a generator.

The file's arrays (units in the names): ``type_price_usd_per_chip_hour``, ``type_quota_chips``, ``type_site``,
``site_limit_kw``; ``option_model``, ``option_type``, ``option_role`` (0 aggregated, 1 prefill, 2 decode),
``option_chips``, ``option_spot``, ``option_fabric``, ``option_cost_usd_per_hour``, ``option_kw``; ``cell_class``,
``cell_bucket``, ``cell_rate_rps``, ``cell_spill_usd_per_hour``; ``arc_cell``, ``arc_option``, ``arc_load``.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tidefleet.planning.fleet import AGGREGATED, DECODE, PREFILL, FleetProblem, FleetProblemError

CAPACITY = 0.85  # of a replica that the plan uses
PUE = 1.25
SPOT_LIMIT = 0.5  # of a class's rate
START_COST = 0.25  # of a replica's hourly cost, from no replica running


_NUMBERS = (
    "type_price_usd_per_chip_hour", "type_quota_chips", "site_limit_kw", "option_cost_usd_per_hour", "option_kw",
    "cell_rate_rps", "cell_spill_usd_per_hour", "arc_load",
)  # fmt: skip
_WHOLE = (
    "type_site", "option_model", "option_type", "option_role", "option_chips", "option_spot", "option_fabric",
    "cell_class", "arc_cell", "arc_option",
)  # fmt: skip
_MOST_WHOLE = 10_000_000
"""Largest index or count: beyond it an array as long as that would be made before anything could be refused."""


class UnusableInstance(ValueError):
    """A file is no instance; the message names the array, what came and what is expected."""


def read_instance(path: Path) -> FleetProblem:
    """The problem in a file.

    Raises:
        UnusableInstance: it cannot be read, lacks an array, or has one that makes no sense.
    """
    a = _arrays(path)
    cost = a["option_cost_usd_per_hour"].astype(np.float64)
    classes = int(a["cell_class"].max(initial=-1)) + 1
    try:
        return _problem(a, cost, classes)
    except FleetProblemError as error:
        raise UnusableInstance(str(error)) from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that an instance needs, each a list of numbers, whole ones where they must be."""
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise UnusableInstance("is one array; expected a .npz file of several, e.g. by numpy.savez")
        with opened as f:
            missing = [name for name in (*_NUMBERS, *_WHOLE) if name not in f.files]
            if missing:
                raise UnusableInstance(
                    f"has no array {missing[0]}; expected the {len(_NUMBERS + _WHOLE)} that planner_instances.py names"
                )
            found = {name: f[name] for name in (*_NUMBERS, *_WHOLE)}
    except UnusableInstance:
        raise
    except (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise UnusableInstance(
            f"cannot be read as .npz: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
    for name, array in found.items():
        if array.ndim != 1:
            raise UnusableInstance(f"{name} has shape {array.shape}; expected a list of numbers, e.g. shape (20,)")
        if array.dtype.kind not in "biuf":
            raise UnusableInstance(f"{name} has type {array.dtype}; expected numbers")
    for name in _WHOLE:
        most = 1 if name == "option_spot" else _MOST_WHOLE
        array = found[name].astype(np.float64)
        wrong = np.flatnonzero(~((array >= 0) & (array <= most)) | (array != np.floor(array)))
        if len(wrong):
            i = int(wrong[0])
            raise UnusableInstance(f"{name}[{i}] is {array[i]:g}; expected a whole number from 0 to {most}, e.g. 1")
        found[name] = array.astype(np.int64)
    return found


def _problem(a: Mapping[str, np.ndarray], cost: np.ndarray, classes: int) -> FleetProblem:
    return FleetProblem(
        type_price=a["type_price_usd_per_chip_hour"],
        type_quota=a["type_quota_chips"],
        type_site=a["type_site"],
        site_limit_kw=a["site_limit_kw"],
        site_pue=np.full(len(a["site_limit_kw"]), PUE),
        option_pool=a["option_model"],
        option_type=a["option_type"],
        option_role=a["option_role"],
        option_fabric=a["option_fabric"],
        option_chips=a["option_chips"],
        option_cost=cost,
        option_kw=a["option_kw"],
        option_spot=a["option_spot"] == 1,
        option_start_cost=START_COST * cost,
        class_spot_limit=np.full(classes, SPOT_LIMIT),
        cell_class=a["cell_class"],
        cell_rate=a["cell_rate_rps"],
        cell_spill=a["cell_spill_usd_per_hour"],
        arc_cell=a["arc_cell"],
        arc_option=a["arc_option"],
        arc_load=a["arc_load"],
    )


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large an instance is."""

    types: int = 20
    classes: int = 50
    buckets: int = 10
    models: int = 10


@dataclass(slots=True)
class _Options:
    """Options of all models while they are listed: (model, type, role, chips, spot)."""

    rows: list[tuple[int, int, int, int, bool]]


def generate(sizes: Sizes, *, seed: int = 0, scale: float = 1.0, quota_factor: float = 1.0) -> FleetProblem:
    """An instance: types by memory, bandwidth and price; models by bytes; classes by rate, lengths and how fast they
    want.

    A replica's decode rate follows the bytes it streams per step (weights shared by its batch, KV per request), and its
    prefill rate the chips' compute; an option that streams its weights slower than a class allows is no arc.
    """
    rng = np.random.default_rng((seed, 20))
    memory_gb = rng.choice([24.0, 48.0, 80.0, 141.0, 192.0, 288.0], sizes.types)
    bandwidth = memory_gb * rng.uniform(12.0, 40.0, sizes.types)  # GB/s
    compute = bandwidth * rng.uniform(0.1, 0.4, sizes.types)  # TFLOP/s
    price = 0.35 + 0.0008 * bandwidth * rng.lognormal(0.0, 0.3, sizes.types)
    kw = 0.15 + 0.0002 * bandwidth * rng.lognormal(0.0, 0.2, sizes.types)
    weights_gb = np.exp(rng.uniform(math.log(6.0), math.log(500.0), sizes.models))
    options = _Options([])
    for m in range(sizes.models):
        for t in range(sizes.types):
            _add_options(options, m, t, weights_gb[m] / memory_gb[t], rng)
    o = np.array(options.rows, dtype=np.int64).reshape(-1, 5)
    model, kind, role, chips, spot = o.T
    rent = price[kind] * chips * np.where(spot == 1, 0.45, 1.0)
    cost = rent + kw[kind] * chips * PUE * 0.09
    arcs, rate, spill = _demand(
        sizes, rng, model, role, chips, bandwidth[kind], compute[kind], weights_gb, memory_gb[kind]
    )
    arcs[2] *= scale
    need = np.bincount(kind, minlength=sizes.types) * 0 + scale * max(1, sizes.classes) * rng.uniform(
        0.5, 8.0, sizes.types
    )
    quota = np.maximum(8, np.floor(need * quota_factor))
    site = rng.integers(0, 3, sizes.types)
    cells = np.arange(sizes.classes * sizes.buckets)
    return FleetProblem(
        type_price=price,
        type_quota=quota,
        type_site=site,
        site_limit_kw=np.maximum(1.0, 0.7 * np.bincount(site, kw * quota * PUE, 3)),
        site_pue=np.full(3, PUE),
        option_pool=model,
        option_type=kind,
        option_role=role,
        option_fabric=kind % 4,
        option_chips=chips,
        option_cost=cost,
        option_kw=kw[kind] * chips,
        option_spot=spot == 1,
        option_start_cost=START_COST * cost,
        class_spot_limit=np.full(sizes.classes, SPOT_LIMIT),
        cell_class=cells // sizes.buckets,
        cell_rate=rate.ravel() * scale,
        cell_spill=spill.ravel() * scale,
        arc_cell=arcs[0].astype(np.int64),
        arc_option=arcs[1].astype(np.int64),
        arc_load=arcs[2],
    )


def _add_options(options: _Options, m: int, t: int, chips: float, rng: np.random.Generator) -> None:
    width = 1 << max(0, math.ceil(math.log2(max(chips * 1.25, 1e-9))))
    if width > 16:
        return
    for tp in {width, min(16, 2 * width)}:
        options.rows.append((m, t, AGGREGATED, tp, False))
    if rng.random() < 0.5:
        options.rows += [(m, t, PREFILL, width, False), (m, t, DECODE, width, False)]
    if rng.random() < 0.35:
        options.rows.append((m, t, AGGREGATED, width, True))


def _demand(  # noqa: PLR0917  # the columns of one table
    sizes: Sizes,
    rng: np.random.Generator,
    model: np.ndarray,
    role: np.ndarray,
    chips: np.ndarray,
    bandwidth: np.ndarray,
    compute: np.ndarray,
    weights_gb: np.ndarray,
    memory_gb: np.ndarray,
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Arcs (cell, option, load), rates and spill prices, shape (classes, buckets)."""
    rate = rng.lognormal(0.0, 1.0, (sizes.classes, sizes.buckets)) * 20.0 / sizes.buckets
    inputs = np.geomspace(150.0, 30_000.0, sizes.buckets)
    outputs = 400.0
    spill = np.empty_like(rate)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for k in range(sizes.classes):
        m = int(rng.integers(0, sizes.models))
        usd_per_million = 0.05 * weights_gb[m] ** 0.6
        spill[k] = rate[k] * 3600.0 * (inputs + 4.0 * outputs) / 1e6 * usd_per_million
        mine = np.flatnonzero(model == m)
        step = weights_gb[m] / (bandwidth[mine] * chips[mine] ** 0.85)  # seconds to stream the weights once
        mine = mine[step <= rng.uniform(0.6, 2.5) * (np.median(step) if len(step) else 1.0)]
        room_gb = np.maximum(memory_gb[mine] * chips[mine] * 0.9 - weights_gb[m], 1.0)
        for b in range(sizes.buckets):
            kv_gb = (inputs[b] + outputs) * 3e-6 * weights_gb[m] ** 0.5
            batch = np.clip(room_gb / kv_gb, 1.0, 256.0)
            step = (weights_gb[m] + batch * kv_gb) / (bandwidth[mine] * chips[mine] ** 0.85 * 0.7)
            decode = outputs * step / batch
            prefill = 2.0 * weights_gb[m] * inputs[b] / (compute[mine] * 1e3 * chips[mine] ** 0.9 * 0.5)
            busy = np.where(
                role[mine] == PREFILL, prefill, np.where(role[mine] == DECODE, 0.85 * decode, prefill + decode)
            )
            busy = busy * rng.lognormal(0.0, 0.05, len(mine))
            found.append((np.full(len(mine), k * sizes.buckets + b), mine, np.maximum(rate[k, b] * busy, 1e-9)))
    return [np.concatenate([one[i] for one in found]) for i in range(3)], rate, spill
