"""Loads the accelerators and the model facts that ship with tidefleet.

The only package below the processes that reads files. May import ``tidefleet.api`` and ``tidefleet.economics``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import yaml

from tidefleet.api import AcceleratorType
from tidefleet.api.validation import parse
from tidefleet.catalogue.price_book import load_price_book, parse_price_book
from tidefleet.economics.architecture import Architecture, architecture_from_config

__all__ = ["accelerator_manifests", "accelerator_types", "load_price_book", "models", "parse_price_book"]

_PRECISIONS = {"Mxfp4": "Fp4"}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where it is there: the same safe values, a second sooner."""


def accelerator_manifests(path: Path | None = None) -> tuple[Mapping[str, Any], ...]:
    """The AcceleratorType manifests of a catalogue file; the shipped one by default.

    Raises:
        OSError: the file cannot be read.
        yaml.YAMLError: it is not YAML.
    """
    text = path.read_text() if path else (files(__name__) / "data" / "acceleratortypes.yaml").read_text()
    return tuple(one for one in yaml.load_all(text, Loader=_LOADER) if one)


@cache
def accelerator_types() -> Mapping[str, AcceleratorType]:
    """The shipped accelerator types by name."""
    kinds = (parse(raw) for raw in accelerator_manifests())
    return {kind.name: kind for kind in kinds if isinstance(kind, AcceleratorType)}


# What publishers append to a checkpoint of the same architecture: tuning, date and precision.
_VARIANT = re.compile(r"(-(instruct|thinking|chat|it|hf|base|exp|terminus|fp8|nvfp4|fp4|bf16|v0\.\d|\d{4}))+$")


@cache
def _facts() -> Mapping[str, Any]:
    text = (files(__name__) / "data" / "models.yaml").read_text()
    return cast("Mapping[str, Any]", yaml.load(text, Loader=_LOADER))  # noqa: S506 - it is a safe loader


def model_of(hugging_face: str) -> Architecture | None:
    """The architecture behind a Hugging Face id, e.g. ``Qwen/Qwen3-32B``; ``None`` when it does not ship.

    Another tuning, date or precision of a shipped model has the same architecture:
    ``Qwen/Qwen3-235B-A22B-Thinking-2507-FP8`` is ``qwen3-235b-a22b``.
    """

    wanted = hugging_face.lower()
    ids = {str(entry["huggingFace"]).lower(): name for name, entry in _facts().items()}
    name = ids.get(wanted) or next((one for key, one in ids.items() if _plain(key) == _plain(wanted)), None)
    return models()[name] if name else None


def _plain(name: str) -> str:
    return _VARIANT.sub("", name.lower())


def plain_name(hugging_face: str) -> str:
    """A Hugging Face id without its owner, tuning, date and precision, as a model of the catalogue may be called."""
    return _plain(hugging_face.rsplit("/", 1)[-1]).removeprefix("meta-")


@cache
def models() -> Mapping[str, Architecture]:
    """The shipped models by catalogue name, e.g. ``llama-3.3-70b``."""
    found: dict[str, Architecture] = {}
    for name, entry in _facts().items():
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
