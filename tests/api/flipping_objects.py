"""A status of flipping that is as full as the API allows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tidefleet.api.flipping_status import FlipPhase

START = datetime(2026, 11, 21, 21, 45, tzinfo=UTC)


def a_full_status() -> dict[str, Any]:
    """As much of everything as the API holds, with the longest names."""
    longest = "n" * 250
    change = [
        {"at": (START + timedelta(minutes=5 * step)).isoformat().replace("+00:00", "Z"), "phase": phase}
        for step, phase in enumerate(list(FlipPhase) * 4)
    ][:32]
    units = [
        {
            "name": f"{longest}{index:02}",
            "nodes": [f"{longest}{index:02}"],
            "accelerator": "h100-sxm",
            "phase": "Training",
            "since": "2026-11-21T22:04:10Z",
            "until": "2026-11-22T06:30:00Z",
            "why": "w" * 512,
            "history": change,
        }
        for index in range(64)
    ]
    return {
        "mode": "Forecast",
        "neededNodes": 6,
        "servingNodes": 7,
        "loanedNodes": 64,
        "movingNodes": 1,
        "quarantinedNodes": 0,
        "allowedNow": 1,
        "heldBy": "budget 2 of 2",
        "quantile": "0.96",
        "slotStart": "2026-11-21T21:45:00Z",
        "slotSeconds": 900,
        "needed": [6] * 96,
        "loaned": [1] * 96,
        "neededBefore": [7] * 96,
        "units": units,
        "blocked": [{"unit": longest, "why": "w" * 512, "wouldHaveToChange": "c" * 512}] * 16,
        "waiting": [
            {"job": "Job/research/night-1", "chips": 16, "expectedStart": "2026-11-21T22:15:00Z", "why": "w" * 512}
        ]
        * 16,
        "worth": {"savesUsd": "211.20", "costsUsd": "8.40", "words": "w" * 512},
    }
