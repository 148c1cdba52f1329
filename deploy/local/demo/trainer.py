"""The training in the jobs' pods, which kwok only pretends to run: a checkpoint now and then, and one when asked."""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from demo.night import TRAINS_LABEL
from demo.stage import Stage, Time
from localcluster.api import ApiError

CHECKPOINT_BY = "tidefleet.io/checkpoint-by"
CHECKPOINTED_AT = "tidefleet.io/checkpointed-at"
EVERY_SECONDS = 3600.0
"""Of the fleet's time between two checkpoints of a job."""


def is_due(pod: Mapping[str, Any], now: float) -> bool:
    """Whether a pod writes a checkpoint now: when it was asked since the last one, or that is long ago."""
    notes = pod["metadata"].get("annotations") or {}
    if (pod.get("status") or {}).get("phase") != "Running" or "deletionTimestamp" in pod["metadata"]:
        return False
    last, told = read_time(notes.get(CHECKPOINTED_AT)), notes.get("tidefleet.io/checkpoint-answered")
    if notes.get(CHECKPOINT_BY) and notes[CHECKPOINT_BY] != told:
        return True
    return last is None or now - last >= EVERY_SECONDS


def read_time(text: str | None) -> float | None:
    """Unix seconds of an RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp() if text else None


class Trainer(threading.Thread):
    """Answers for all training pods, several times a real second, until stopped."""

    def __init__(self, stage: Stage, clock: Time, namespace: str, *, seconds: float) -> None:
        super().__init__(name="trainer", daemon=True)
        self._stage, self._clock, self._namespace, self._seconds = stage, clock, namespace, seconds
        self._halt = threading.Event()

    def stop(self) -> None:
        """End the thread."""
        self._halt.set()
        self.join(10.0)

    def run(self) -> None:
        """The thread's body."""
        while not self._halt.wait(self._seconds) and not self._stage.stopping.is_set():
            try:
                self.answer()
            except (httpx.HTTPError, ApiError, RuntimeError, ValueError):
                continue  # a pod that has ended since, or a cluster on its way out: the next turn tells

    def answer(self) -> None:
        """Write the checkpoints that are due."""
        api = self._stage.cluster.api()
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        for pod in api.get(f"{path}?labelSelector={TRAINS_LABEL}=true")["items"]:
            now = self._clock.now()
            if is_due(pod, now):
                notes = {CHECKPOINTED_AT: datetime.fromtimestamp(now, tz=UTC).isoformat(timespec="seconds")}
                asked = (pod["metadata"].get("annotations") or {}).get(CHECKPOINT_BY)
                if asked:
                    notes["tidefleet.io/checkpoint-answered"] = asked
                api.merge(f"{path}/{pod['metadata']['name']}", {"metadata": {"annotations": notes}})
