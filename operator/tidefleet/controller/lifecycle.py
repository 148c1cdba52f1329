"""The life of a pool outside its plan: finalizer, deletion policy, disruption budget, and a new leader's claim."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidefleet.api import InferencePool
from tidefleet.api.inference_pool import DeletionPolicy, Mode
from tidefleet.cluster.kinds import INFERENCE_POOL, PDB
from tidefleet.cluster.objects import ApiFailed
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import AlreadyExists, Delete, Gone, MergePatch, Written
from tidefleet.controller import marks
from tidefleet.controller.act import Actor
from tidefleet.controller.disruption import budget_name, is_ours, list_budgets, missing_budget
from tidefleet.controller.gateway import GatewayPools
from tidefleet.controller.store import Seen
from tidefleet.controller.view import Served


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Writes through an actor; keeps nothing."""

    actor: Actor
    gateways: GatewayPools

    def keep_finalizer(self, seen: Seen, pool: InferencePool) -> bool:
        """Put our finalizer on a pool whose deletion will have work for us, and take it off where it will not."""
        wanted = pool.spec.deletion_policy is not DeletionPolicy.KEEP
        has = marks.FINALIZER in seen.metadata.finalizers
        if wanted == has or seen.metadata.deletion_timestamp or pool.spec.mode is Mode.RECOMMEND:
            return False
        if wanted and marks.was_released(seen.metadata.annotations, time.time()):
            return False  # somebody is uninstalling us
        return self._set_finalizer(seen, present=wanted, why="deletionPolicy")

    def _set_finalizer(self, seen: Seen, *, present: bool, why: str) -> bool:
        others = [one for one in seen.metadata.finalizers if one != marks.FINALIZER]
        outcome = self.actor.execute(
            MergePatch(
                kind=INFERENCE_POOL,
                namespace=seen.metadata.namespace,
                name=seen.metadata.name,
                body={"metadata": {"finalizers": [*others, marks.FINALIZER] if present else others}},
                uid=seen.metadata.uid,
                resource_version=seen.metadata.resource_version,
                reason=why,
                decision_id="",
            )
        )
        if not isinstance(outcome, Written):
            self.actor.hurry()
        return isinstance(outcome, Written)

    def finish(self, seen: Seen, pool: InferencePool | None, served: tuple[Served, ...]) -> None:
        """Carry out the deletion policy of a pool that is being deleted, then lift our finalizer."""
        if marks.FINALIZER not in seen.metadata.finalizers:
            return
        done = True
        keep = pool is None or pool.spec.mode is Mode.RECOMMEND  # Recommend touches nothing, to the end
        policy = DeletionPolicy.KEEP if pool is None or keep else pool.spec.deletion_policy
        for one in served:
            workload = one.workload
            if workload is None or workload.deleting:
                continue
            adopted = marks.read_adopted(workload.annotations)
            common: dict[str, Any] = {
                "kind": workload.kind,
                "namespace": workload.namespace,
                "name": workload.name,
                "uid": workload.uid,
                "resource_version": workload.resource_version,
                "reason": f"deletionPolicy {policy}",
                "decision_id": self.actor.new_decision_id(),
            }
            own = pool is not None and pool.spec.serving.template is not None
            if own and policy is DeletionPolicy.DELETE:
                outcome = self.actor.execute(Delete(**common))
            elif not own and adopted is not None and adopted[0] == seen.metadata.uid:
                body: dict[str, Any] = {"metadata": {"annotations": {marks.ADOPTED_ANNOTATION: None}}}
                if policy is DeletionPolicy.RESTORE:
                    body["spec"] = {"replicas": adopted[1]}
                outcome = self.actor.execute(MergePatch(body=body, **common))
            else:
                continue
            done = done and isinstance(outcome, Written | Gone)
        if pool is not None and policy is DeletionPolicy.DELETE:
            done = self._delete_budget(pool) and done
            done = self.gateways.remove(pool) and done
        if not done:
            self.actor.hurry()
            return
        if pool is not None and pool.spec.serving.workloads is not None and policy is DeletionPolicy.DELETE:
            self.actor.events.emit(
                INFERENCE_POOL, pool.namespace, pool.name, pool.metadata.uid, type_="Warning", reason="Kept",
                message="adopted workloads are never deleted; they keep the replicas they have",
            )  # fmt: skip
        self._set_finalizer(seen, present=False, why="the deletion policy is carried out")

    def _delete_budget(self, pool: InferencePool) -> bool:
        """Delete the PodDisruptionBudget that we made for a pool; whether it is gone."""
        try:
            raw = self.actor.objects.get(PDB, pool.namespace, budget_name(pool))
        except (ApiFailed, Unreachable):
            return False
        if raw is None or raw["metadata"].get("labels", {}).get(marks.POOL_LABEL) != pool.name:
            return True
        outcome = self.actor.execute(
            Delete(
                kind=PDB,
                namespace=pool.namespace,
                name=budget_name(pool),
                uid=raw["metadata"]["uid"],
                resource_version=raw["metadata"]["resourceVersion"],
                reason="deletionPolicy Delete",
                decision_id="",
            )
        )
        return isinstance(outcome, Written | Gone)

    def guard(self, pool: InferencePool, decision_id: str) -> bool:
        """Make a PodDisruptionBudget for a pool that has none; whether it is known now that there is one."""
        budgets = list_budgets(self.actor.objects, (pool.namespace,))
        if budgets is None:
            return False
        write = missing_budget(pool, budgets, decision_id)
        return write is None or isinstance(self.actor.execute(write), Written | AlreadyExists)

    def unguard(self, pool: InferencePool, budgets: Sequence[Mapping[str, Any]]) -> None:
        """Take our budget away where the owner now has one: under two of them no eviction succeeds."""
        ours = [raw for raw in budgets if is_ours(raw, pool)]
        if ours and missing_budget(pool, [raw for raw in budgets if raw not in ours], "") is None:
            self._delete_budget(pool)

    def claim(self, served: Served) -> bool:
        """Put this leader's epoch on a workload of ours, so that a write that another leader decided earlier fails.

        Returns:
            Whether it is there now.
        """
        workload = served.workload
        if workload is None or marks.read_epoch(workload.annotations) >= self.actor.epoch:
            return True
        outcome = self.actor.execute(
            MergePatch(
                kind=workload.kind,
                namespace=workload.namespace,
                name=workload.name,
                body={"metadata": {"annotations": {marks.EPOCH_ANNOTATION: str(self.actor.epoch)}}},
                uid=workload.uid,
                resource_version=workload.resource_version,
                reason="a new leader takes over",
                decision_id="",
            )
        )
        return isinstance(outcome, Written | Gone)
