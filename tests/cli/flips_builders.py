"""A pool on which nodes went to training last night and will again: the status as the operator writes it."""

from __future__ import annotations

import datetime
import math
from typing import Any

UTC = datetime.UTC
SLOT = 900.0
NOW = datetime.datetime(2026, 11, 24, 21, 0, tzinfo=UTC).timestamp()
"""22:00 in Berlin."""


def rfc3339(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def a_night(begin: float, end: float) -> list[dict[str, str]]:
    """The changes of phase of one loan and its way back."""
    steps = [
        (0.0, "Planned"),
        (30.0, "Cordoned"),
        (45.0, "Draining"),
        (300.0, "Verifying"),
        (320.0, "Training"),
    ]
    changes = [(begin + at, phase) for at, phase in steps]
    changes += [(end, "Recalling"), (end + 90, "Reclaiming"), (end + 120, "Warming"), (end + 420, "Serving")]
    return [{"at": rfc3339(at), "phase": phase} for at, phase in changes if at <= NOW]


def a_unit(name: str, *, begin: float | None = None, end: float = 0.0, **more: Any) -> dict[str, Any]:
    """A unit of one node; with `begin`, one that was lent until `end`."""
    history = a_night(begin, end) if begin is not None else []
    phase = history[-1]["phase"] if history else "Serving"
    since = {"since": history[-1]["at"]} if history else {}
    return {
        "name": name,
        "nodes": [name],
        "accelerator": "h100-sxm",
        "phase": phase,
        **since,
        "history": history,
    } | more


def a_pool(*, count: int = 6, zone: str = "Europe/Berlin", **flipping: Any) -> dict[str, Any]:
    """A pool of `count` nodes; half of them were lent last night, one is in quarantine, one sets out now."""

    def load(moment: float) -> int:
        hour = (moment / 3600 + 1) % 24
        return max(2, round(count * (0.62 - 0.38 * math.cos((hour - 3) / 24 * 2 * math.pi))))

    night = NOW - 24 * 3600
    half = count // 2
    told = [
        a_unit(f"gpu-{index:02}", begin=night + index % 8 * 900, end=night + 8.5 * 3600 - index % 8 * 900)
        for index in range(half)
    ]
    told += [a_unit(f"gpu-{index:02}") for index in range(half, count - 1)]
    told.append(
        a_unit(
            f"gpu-{count - 1:02}",
            phase="Quarantined",
            since=rfc3339(NOW - 7200),
            why="2 pods still hold its accelerators",
        )
    )
    told[0] |= {
        "phase": "Draining",
        "since": rfc3339(NOW - 60),
        "until": rfc3339(NOW + 8.5 * 3600),
        "why": "loan until 06:30",
    }
    told[0]["history"] += [
        {"at": rfc3339(NOW - 120), "phase": "Planned"},
        {"at": rfc3339(NOW - 60), "phase": "Draining"},
    ]
    needed = [load(NOW + index * SLOT) for index in range(96)]
    status = {
        "mode": "Schedule",
        "neededNodes": needed[0],
        "servingNodes": count - 2,
        "loanedNodes": 0,
        "movingNodes": 1,
        "quarantinedNodes": 1,
        "allowedNow": 1,
        "heldBy": "budget 1 of 20%",
        "quantile": "0.96",
        "slotStart": rfc3339(NOW),
        "slotSeconds": 900,
        "needed": needed,
        "loaned": [min(half, max(0, count - 1 - n)) if index < 34 else 0 for index, n in enumerate(needed)],
        "neededBefore": [load(NOW + (index - 96) * SLOT) for index in range(96)],
        "units": told,
        "blocked": [
            {
                "unit": "gpu-03",
                "why": "pod prod/chat-7f <b>is</b> marked tidefleet.io/do-not-flip",
                "wouldHaveToChange": "take the mark off the pod",
            }
        ],
        "waiting": [
            {"job": "Job/research/night-1", "chips": 8, "expectedStart": rfc3339(NOW + 600), "why": "verified nodes"},
            {"job": "JobSet/research/large", "chips": 64, "why": "64 chips; at most 24 are lent"},
        ],
        "worth": {"savesUsd": "211.20", "costsUsd": "8.40", "words": "1.10 $/chip-hour against 0.04 of flips"},
    }
    return {
        "apiVersion": "tidefleet.io/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": "chat", "namespace": "prod"},
        "spec": {
            "model": {"name": "llama-3.1-8b"},
            "serving": {"template": {"spec": {"containers": [{"name": "engine", "image": "vllm"}]}}},
            "flipping": {
                "policy": "Schedule",
                "windows": [{"start": "22:00", "end": "06:30", "timeZone": zone}],
                "training": {"queue": {"kind": "Kueue", "clusterQueue": "night"}},
            },
        },
        "status": {
            "nextFlip": "22:15 Europe/Berlin: 2 nodes to training",
            "conditions": [
                {
                    "type": "Flipping",
                    "status": "True",
                    "reason": "Lending",
                    "message": "1 node on its way to training",
                    "lastTransitionTime": rfc3339(NOW - 60),
                }
            ],
            "flipping": status | flipping,
        },
    }
