"""The kinds of object the operator touches, and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Kind:
    """One served resource: enough to build its address and its ``apiVersion``/``kind`` pair."""

    group_version: str
    """``apps/v1``, or ``v1`` for the core group."""
    kind: str
    plural: str
    namespaced: bool = True

    def __str__(self) -> str:
        return self.kind

    @property
    def group(self) -> str:
        """The API group; empty for the core group."""
        group, separator, _ = self.group_version.rpartition("/")
        return group if separator else ""


INFERENCE_POOL = Kind("tidefleet.io/v1alpha1", "InferencePool", "inferencepools")
UPSTREAM_POOL = Kind("inference.networking.k8s.io/v1", "InferencePool", "inferencepools")
"""The Gateway API Inference Extension's own kind of that name."""
WORKLOAD_CLASS = Kind("tidefleet.io/v1alpha1", "WorkloadClass", "workloadclasses")
ACCELERATOR_TYPE = Kind("tidefleet.io/v1alpha1", "AcceleratorType", "acceleratortypes", namespaced=False)
SITE = Kind("tidefleet.io/v1alpha1", "Site", "sites", namespaced=False)
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
STATEFUL_SET = Kind("apps/v1", "StatefulSet", "statefulsets")
LEADER_WORKER_SET = Kind("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets")
POD = Kind("v1", "Pod", "pods")
NODE = Kind("v1", "Node", "nodes", namespaced=False)
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
EVENT = Kind("events.k8s.io/v1", "Event", "events")
HPA = Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
SCALED_OBJECT = Kind("keda.sh/v1alpha1", "ScaledObject", "scaledobjects")
PDB = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
JOB = Kind("batch/v1", "Job", "jobs")
JOB_SET = Kind("jobset.x-k8s.io/v1alpha2", "JobSet", "jobsets")
TRAIN_JOB = Kind("trainer.kubeflow.org/v1alpha1", "TrainJob", "trainjobs")
PYTORCH_JOB = Kind("kubeflow.org/v1", "PyTorchJob", "pytorchjobs")
_KUEUE = "kueue.x-k8s.io/v1beta2"
KUEUE_WORKLOAD = Kind(_KUEUE, "Workload", "workloads")
LOCAL_QUEUE = Kind(_KUEUE, "LocalQueue", "localqueues")
CLUSTER_QUEUE = Kind(_KUEUE, "ClusterQueue", "clusterqueues", namespaced=False)
COHORT = Kind(_KUEUE, "Cohort", "cohorts", namespaced=False)
RESOURCE_FLAVOR = Kind(_KUEUE, "ResourceFlavor", "resourceflavors", namespaced=False)
ADMISSION_CHECK = Kind(_KUEUE, "AdmissionCheck", "admissionchecks", namespaced=False)
RESOURCE_CLAIM = Kind("resource.k8s.io/v1", "ResourceClaim", "resourceclaims")
RESOURCE_SLICE = Kind("resource.k8s.io/v1", "ResourceSlice", "resourceslices", namespaced=False)
PRIORITY_CLASS = Kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", namespaced=False)
CRD = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)
PROMETHEUS_RULE = Kind("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules")


def root(kind: Kind) -> str:
    """Return the address of the kind's group and version, e.g. ``/apis/apps/v1`` or ``/api/v1``."""
    return f"/apis/{kind.group_version}" if kind.group else f"/api/{kind.group_version}"


def path(kind: Kind, namespace: str | None, name: str | None = None, subresource: str = "") -> str:
    """Return the address of a collection (no `name`) or of one object.

    Args:
        kind: the resource.
        namespace: its namespace; None or empty for a cluster-scoped kind, and for a list over all namespaces.
        name: the object; None for the collection.
        subresource: e.g. ``status`` or ``scale``; needs a name.

    Raises:
        ValueError: when a part is missing that the address needs.
    """
    parts = [root(kind)]
    if kind.namespaced and namespace:
        parts += ["namespaces", quote(namespace, safe="")]
    elif kind.namespaced and name:
        raise ValueError(f"{kind.kind} {name}: a namespaced object's address needs its namespace")
    parts.append(kind.plural)
    if name:
        parts.append(quote(name, safe=""))
        if subresource:
            parts.append(quote(subresource, safe=""))
    elif subresource:
        raise ValueError(f"{kind.kind}: subresource {subresource!r} needs the name of an object")
    return "/".join(parts)
