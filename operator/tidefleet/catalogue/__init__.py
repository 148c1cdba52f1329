"""Loads the accelerators and the model facts that ship with tidefleet.

The only package below the processes that reads files. May import ``tidefleet.api`` and ``tidefleet.economics``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from tidefleet.economics.architecture import Architecture, architecture_from_config

_PRECISIONS = {"Mxfp4": "Fp4"}


def accelerator_manifests(path: Path | None = None) -> tuple[Mapping[str, Any], ...]:
    """The AcceleratorType manifests of a catalogue file; the shipped one by default.

    Raises:
        OSError: the file cannot be read.
        yaml.YAMLError: it is not YAML.
    """
    text = path.read_text() if path else (files(__name__) / "data" / "acceleratortypes.yaml").read_text()
    return tuple(one for one in yaml.safe_load_all(text) if one)


@cache
def models() -> Mapping[str, Architecture]:
    """The shipped models by catalogue name, e.g. ``llama-3.3-70b``."""
    text = (files(__name__) / "data" / "models.yaml").read_text()
    found: dict[str, Architecture] = {}
    for name, entry in yaml.safe_load(text).items():
        counts, native = entry["parameters"], entry["nativeWeights"]
        found[name] = architecture_from_config(
            name,
            {"max_position_embeddings": entry["contextTokens"], **entry["config"]},
            parameters=float(counts["total"]),
            active_parameters=float(counts["active"]),
            native_weights=_PRECISIONS.get(native, native),
            fp8_block=entry.get("fp8Block"),
        )
    return found
