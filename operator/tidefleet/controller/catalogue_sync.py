"""Applies the catalogue's AcceleratorTypes, never against a user's edits.

Server-side apply, unforced: what a user changed is theirs. One contested field rejects a whole apply, so on a conflict
exactly the fields named are left out, once; the rest of the catalogue's news still arrives.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidefleet.api import Metadata
from tidefleet.api.validation import Invalid, parse
from tidefleet.cluster.events import EventSink
from tidefleet.cluster.kinds import ACCELERATOR_TYPE
from tidefleet.cluster.writes import AlreadyExists, Apply, Conflict, Create, Outcome, Writer, Written
from tidefleet.controller.store import Store

log = logging.getLogger(__name__)

AGAIN_SECONDS = 60.0
"""Real time after which a refused type is tried again."""

MANAGER = "tidefleet-catalogue"
HASH_ANNOTATION = "tidefleet.io/catalogue"


@dataclass(slots=True)
class CatalogueSync:
    """Brings the cluster's AcceleratorTypes up to a catalogue."""

    writer: Writer
    store: Store
    events: EventSink
    manifests: Sequence[Mapping[str, Any]]
    _invalid: set[str] = field(default_factory=set)
    _later: dict[str, float] = field(default_factory=dict)
    _tried: dict[str, Metadata] = field(default_factory=dict)
    """Each type as it was after its last apply: what it lacks even then is not asked for again."""

    def step(self) -> int:
        """Apply what is missing or older than the catalogue; returns how many objects were written.

        An object that a user deleted comes back; to take a type out of use, disable its prices.
        """
        written = 0
        for manifest in self.manifests:
            name = str(manifest["metadata"]["name"])
            parsed = parse(manifest)
            if isinstance(parsed, Invalid):
                if name not in self._invalid:
                    log.error("the catalogue holds an invalid AcceleratorType", extra={"why": str(parsed)[:2000]})
                    self._invalid.add(name)
                continue
            written += self._bring(name, manifest)
        return written

    def _bring(self, name: str, manifest: Mapping[str, Any]) -> bool:
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True, default=str).encode()).hexdigest()[:16]
        body = {
            "metadata": {"name": name, "annotations": {HASH_ANNOTATION: digest}},
            "spec": copy.deepcopy(dict(manifest["spec"])),
        }
        seen = self.store.get(ACCELERATOR_TYPE, "", name)
        if seen is None:
            outcome: Outcome = self.writer.execute(
                Create(kind=ACCELERATOR_TYPE, body={"metadata": {"name": name}, "spec": body["spec"]},
                       reason="the catalogue has this type", decision_id="")
            )  # fmt: skip
            if isinstance(outcome, Written):
                self.store.put(ACCELERATOR_TYPE, outcome.object)
                seen = self.store.get(ACCELERATOR_TYPE, "", name)
            if seen is None:
                if not isinstance(outcome, AlreadyExists):
                    log.warning(
                        "an AcceleratorType was not created", extra={"type": name, "outcome": str(outcome)[:500]}
                    )
                return False
        current = seen.metadata.annotations.get(HASH_ANNOTATION) == digest
        if self._later.get(name, 0.0) > time.monotonic():
            return False
        if current and (not lacks(seen.raw.get("spec"), manifest["spec"]) or self._tried.get(name) == seen.metadata):
            return False
        outcome = self._apply(name, body)
        if isinstance(outcome, Conflict) and outcome.fields:
            kept = sorted(set(outcome.fields))
            for path in kept:
                leave_out(body, path)
            outcome = self._apply(name, body)
            if isinstance(outcome, Written):
                self.events.emit(
                    ACCELERATOR_TYPE, "", name, seen.metadata.uid, type_="Normal", reason="UserEditsKept",
                    message=f"the catalogue has other values for {', '.join(kept)}; yours are kept",
                )  # fmt: skip
        if isinstance(outcome, Written):
            self.store.put(ACCELERATOR_TYPE, outcome.object)
            fresh = self.store.get(ACCELERATOR_TYPE, "", name)
            if fresh is not None:
                self._tried[name] = fresh.metadata
            return True
        self._later[name] = time.monotonic() + AGAIN_SECONDS
        log.info("an AcceleratorType was not applied", extra={"type": name, "outcome": str(outcome)[:500]})
        return False

    def _apply(self, name: str, body: Mapping[str, Any]) -> Outcome:
        seen = self.store.get(ACCELERATOR_TYPE, "", name)
        assert seen is not None  # noqa: S101 - the caller has it
        return self.writer.execute(
            Apply(
                kind=ACCELERATOR_TYPE,
                namespace="",
                name=name,
                body=body,
                uid=seen.metadata.uid,
                resource_version=seen.metadata.resource_version,
                reason="the catalogue was changed",
                decision_id="",
            )
        )


def lacks(live: Any, wanted: Any) -> bool:
    """Whether something of the catalogue is absent from a live object; other values than the catalogue's are not.

    List items with the same keys (capacityType, provider, region) are the same item.
    """
    if isinstance(wanted, Mapping):
        return not isinstance(live, Mapping) or any(
            key not in live or lacks(live[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list) and wanted and isinstance(wanted[0], Mapping):
        there = {_item_key(one): one for one in live if isinstance(one, Mapping)} if isinstance(live, list) else {}
        return any(_item_key(one) not in there or lacks(there[_item_key(one)], one) for one in wanted)
    return False


def _item_key(item: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(item.get(name, "")) for name in ("capacityType", "provider", "region", "model", "type"))


_KEYS = re.compile(r"\[((?:[^\]\"]|\"[^\"]*\")*)\]")
_KEY = re.compile(r'([A-Za-z]+)=(?:"([^"]*)"|([^",]+))')


def leave_out(body: dict[str, Any], path: str) -> None:
    """Take the field that an apply conflict names out of a body, e.g. ``.spec.tdpWatts`` or
    ``.spec.prices[capacityType="OnDemand",provider="aws",region="us-east-1"].usdPerChipHour``.

    A required field of a list item cannot be missing: the whole item is left out then. An unknown path changes nothing.
    """
    at: Any = body
    item: tuple[list[Any], Any] | None = None  # the innermost list passed, and its item
    while path:
        if path.startswith("."):
            if not isinstance(at, dict):
                return
            # A label's key holds dots itself: the longest key that fits is the one meant.
            fits = [k for k in at if path[1:] == k or path[1:].startswith((f"{k}.", f"{k}["))]
            if not fits:
                return
            name = max(fits, key=len)
            path = path[1 + len(name) :]
            if not path and item is None:
                del at[name]
                return
            at = at[name]
        else:
            keys = _KEYS.match(path)
            if keys is None or not isinstance(at, list):
                return
            wanted = {k: quoted or bare for k, quoted, bare in _KEY.findall(keys[1])}
            found = [one for one in at if _is(one, wanted, keys[1])]
            if len(found) != 1:
                return
            item, at, path = (at, found[0]), found[0], path[keys.end() :]
    if item is not None:
        items, gone = item
        items[:] = [one for one in items if one is not gone]


def _is(one: Any, wanted: Mapping[str, str], value: str) -> bool:
    """Whether an item of a list is meant: by its keys, or as the value of a set, e.g. ``="Prefill"``."""
    if not isinstance(one, dict):
        return value == f'="{one}"'
    return bool(wanted) and all(str(one.get(key, "")) == text for key, text in wanted.items())
