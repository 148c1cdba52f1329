"""Lifts the operator's finalizers and undoes its flips, for the day it is uninstalled."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tidefleet.api import Metadata
from tidefleet.api.flipping import FlippingPolicy
from tidefleet.cluster.connection import connect
from tidefleet.cluster.kinds import INFERENCE_POOL
from tidefleet.cluster.lease import NoFence
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import Conflict, Gone, MergePatch, Writer, Written
from tidefleet.controller import marks
from tidefleet.controller.flips.undo import undo_flips
from tidefleet.controller.process import CannotStart

ATTEMPTS = 5


def release_finalizers(
    kubeconfig: str | None,
    namespaces: Sequence[str],
    *,
    node_selector: str = "",
    dry_run: bool = False,
    force: bool = False,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Take our finalizer off every pool in these namespaces (all when empty), then our marks off all nodes.

    Pools that lend nodes are marked as released, too: an operator that still runs recalls and lends none.

    Args:
        node_selector: only nodes with these labels; all when empty.
        force: undress also nodes that training holds.

    Returns:
        Pools, nodes and pods released, and those that were not, each with the reason.

    Raises:
        CannotStart: pools cannot be listed.
    """
    api = connect(kubeconfig)
    objects, writer = Objects(api), Writer(api, NoFence(), marks.FIELD_MANAGER, dry_run=dry_run)
    try:
        found = [raw for one in namespaces or (None,) for raw in objects.list(INFERENCE_POOL, one)]
    except KindAbsent:
        found = []
    except (ApiFailed, Unreachable) as error:
        raise CannotStart(f"cannot list {INFERENCE_POOL.plural}: {error}") from error
    released: list[str] = []
    failed: list[tuple[str, str]] = []
    for raw in found:
        meta = Metadata.read(raw.get("metadata"))
        if marks.FINALIZER in meta.finalizers or _lends(raw):
            why = _release(objects, writer, meta)
            name = f"{meta.namespace}/{meta.name}"
            if why:
                failed.append((name, why))
            else:
                released.append(name)
    undone = undo_flips(objects, writer, node_selector=node_selector, force=force)
    return [*released, *undone.done], [*failed, *undone.left]


def _lends(raw: Mapping[str, Any]) -> bool:
    spec = raw.get("spec")
    flipping = spec.get("flipping") if isinstance(spec, Mapping) else None
    policy = flipping.get("policy") if isinstance(flipping, Mapping) else None
    return policy not in (None, str(FlippingPolicy.NEVER))


def _release(objects: Objects, writer: Writer, meta: Metadata) -> str:
    """Lift the finalizer of one pool, again on a conflict; what went wrong, empty when nothing did."""
    why = ""
    for attempt in range(ATTEMPTS):
        outcome = writer.execute(
            MergePatch(
                kind=INFERENCE_POOL,
                namespace=meta.namespace,
                name=meta.name,
                body={
                    "metadata": {
                        "finalizers": [one for one in meta.finalizers if one != marks.FINALIZER],
                        # An operator that still runs must not put it back.
                        "annotations": {marks.RELEASED_ANNOTATION: str(int(time.time()))},
                    }
                },
                uid=meta.uid,
                resource_version=meta.resource_version,
                reason="uninstall",
                decision_id="",
            )
        )
        if isinstance(outcome, Written | Gone):
            return ""
        why = str(outcome)
        if not isinstance(outcome, Conflict):
            return why
        time.sleep(0.2 * (attempt + 1))
        raw = objects.get(INFERENCE_POOL, meta.namespace, meta.name)
        if raw is None:
            return ""
        meta = Metadata.read(raw.get("metadata"))
        if marks.FINALIZER not in meta.finalizers and not _lends(raw):
            return ""
    return why
