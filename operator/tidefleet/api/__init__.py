"""The types of tidefleet.io/v1alpha1: the one source of the CRDs, their documentation and their validation.

Imports nothing of ours, does no I/O, reads no clock and logs nothing. Raw objects enter by `validation.parse`; the
CustomResourceDefinitions leave by `crds.manifests`.
"""

from tidefleet.api.accelerator_type import AcceleratorType, AcceleratorTypeSpec, AcceleratorTypeStatus
from tidefleet.api.base import API_VERSION, GROUP, VERSION, Metadata, Model, Resource
from tidefleet.api.conditions import Condition, ConditionStatus
from tidefleet.api.inference_pool import InferencePool, InferencePoolSpec
from tidefleet.api.inference_pool_status import InferencePoolStatus
from tidefleet.api.reasons import REASONS, ConditionType, Reason
from tidefleet.api.site import Site, SiteSpec, SiteStatus
from tidefleet.api.workload_class import WorkloadClass, WorkloadClassSpec, WorkloadClassStatus

KINDS: tuple[type[Resource], ...] = (InferencePool, WorkloadClass, AcceleratorType, Site)
"""Every kind of the API."""

__all__ = [
    "API_VERSION",
    "GROUP",
    "KINDS",
    "REASONS",
    "VERSION",
    "AcceleratorType",
    "AcceleratorTypeSpec",
    "AcceleratorTypeStatus",
    "Condition",
    "ConditionStatus",
    "ConditionType",
    "InferencePool",
    "InferencePoolSpec",
    "InferencePoolStatus",
    "Metadata",
    "Model",
    "Reason",
    "Resource",
    "Site",
    "SiteSpec",
    "SiteStatus",
    "WorkloadClass",
    "WorkloadClassSpec",
    "WorkloadClassStatus",
]
