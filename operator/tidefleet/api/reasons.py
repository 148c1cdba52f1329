"""The closed vocabulary of conditions: every type and every reason the operator ever writes.

Both are part of the API: scripts and alerts match on them, so they are only ever added to.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Word(StrEnum):
    """A word of the vocabulary; `meaning` says what it means."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """A member whose value is the word."""
        word = str.__new__(cls, value)
        word._value_ = value
        word.meaning = meaning
        return word


class ConditionType(Word):
    """What a condition speaks of. True is the good state, except for Reconciling and Flipping, which are neutral."""

    READY = "Ready", "Validated and the planned replicas available. A flip or a missed target does not take it away."
    RECONCILING = (
        "Reconciling",
        "The cluster is on its way from one decision to the next (read by kstatus, Flux and Argo CD).",
    )
    VALIDATED = "Validated", "The object, and what it refers to, can be planned."
    PRICING_FRESH = (
        "PricingFresh",
        "The prices behind the plan are recent and somebody's own, not only the shipped catalogue's.",
    )
    DEMAND_KNOWN = "DemandKnown", "Demand is measured or declared. While False, capacity is never lowered."
    CAPACITY_AVAILABLE = "CapacityAvailable", "Nodes for the planned replicas exist."
    TARGETS_MET = "TargetsMet", "Cost target, budget and latency objectives hold."
    FLIPPING = "Flipping", "Nodes of the pool are on their way to or from training, or there."
    ADOPTED = "Adopted", "The existing workloads of the pool are ours to scale, and nothing else scales them."
    KV_TIERS_FOUND = (
        "KvTiersFound",
        "Engines find in KV tiers what the plan counts on; only of pools with a tier whose sizing is Planned. While "
        "False, the plan does without.",
    )


class Reason(Word):
    """Why a condition has its status. One word may serve several condition types; `REASONS` says which."""

    # Validated
    VALID = "Valid", "Nothing to complain about."
    INVALID_FIELD = (
        "InvalidField",
        "A field has a value that cannot be: the message names field, value, expectation and example.",
    )
    UNKNOWN_MODEL = "UnknownModel", "The model is not in the catalogue and no architecture is given."
    UNKNOWN_ACCELERATOR = "UnknownAccelerator", "An accelerator is named that no AcceleratorType describes."
    NO_CANDIDATE_FITS = (
        "NoCandidateFits",
        "No accelerator, at any degree of parallelism, holds the model or meets the objectives.",
    )
    NO_CANDIDATE_PRICED = (
        "NoCandidatePriced",
        "Accelerators fit, but none has an enabled price of an allowed capacity type.",
    )
    PRICE_IMPLAUSIBLE = (
        "PriceImplausible",
        "A price looks like a price per month, per day or per second; annotate the AcceleratorType if it is right.",
    )
    POOL_NOT_FOUND = "PoolNotFound", "The InferencePool that a WorkloadClass refers to does not exist in its namespace."
    CLASS_NOT_FOUND = "ClassNotFound", "A WorkloadClass calls another that does not exist."
    CALL_CYCLE = "CallCycle", "WorkloadClasses call each other in a circle."
    OVERLAPPING_PODS = "OverlappingPods", "Two pools select the same pods or the same workload."
    WORKLOAD_NOT_FOUND = "WorkloadNotFound", "A workload to adopt does not exist."
    TEMPLATE_TOO_LARGE = "TemplateTooLarge", "The pod template exceeds 128 KiB."
    TEMPLATE_REJECTED = (
        "TemplateRejected",
        "The API server refuses a workload with this pod template; the message is its own.",
    )
    NO_ENGINE_CONTAINER = "NoEngineContainer", "The pod template has several containers and none is named `engine`."

    # Ready
    PLAN_AVAILABLE = "PlanAvailable", "The planned replicas are available."
    WAITING_FOR_REPLICAS = "WaitingForReplicas", "Some planned replicas are not available yet."
    NOT_VALIDATED = "NotValidated", "The object is invalid; see the condition Validated. What runs goes on running."
    NO_PLAN = "NoPlan", "No decision was taken yet."
    HELD = "Held", "An input is missing or stale, so the last safe state is held."
    RECOMMEND_ONLY = "RecommendOnly", "The pool's mode is Recommend: the plan is reported and nothing is changed."
    SCALED_TO_ZERO = "ScaledToZero", "The plan is zero replicas."
    APPLY_FAILED = "ApplyFailed", "The API server refused a write; the message is its own."
    TERMINATING = "Terminating", "The object is being deleted."

    # Reconciling
    STABLE = "Stable", "The cluster is as decided."
    SCALING = "Scaling", "Replicas are being started or stopped."
    ROLLING_OUT = "RollingOut", "A changed template is being rolled out."
    DWELLING = "Dwelling", "A cheaper plan is known and waits for the end of its dwell."

    # PricingFresh
    FRESH = "Fresh", "The prices used are recent."
    CATALOGUE_ONLY = "CatalogueOnly", "Only list prices of the shipped catalogue were used."
    STALE = "Stale", "An input is older than it may be; the last known value is held."
    DATED_IN_FUTURE = "DatedInFuture", "A price used is dated more than a day ahead of the operator's clock."
    UNPRICED = "Unpriced", "No price is known."
    PRICE_BOOK_FAULTY = (
        "PriceBookFaulty",
        "The price book cannot be used as it is: the last good one counts, else the prices of the AcceleratorTypes.",
    )
    MIXED_BASES = "MixedBases", "Rented and owned prices were compared with each other."

    # DemandKnown
    KNOWN = "Known", "Demand is measured."
    DECLARED = "Declared", "Demand is what the WorkloadClasses declare."
    ASSUMED = "Assumed", "The pool's measured demand was split between classes by their shares."
    NO_CLASSES = "NoClasses", "No WorkloadClass refers to the pool: it holds its minimum."
    EMPTY = "Empty", "The source answered, and had nothing to say: not the same as no demand."
    UNREACHABLE = "Unreachable", "The source does not answer."
    NOT_A_NUMBER = "NotANumber", "The source answered NaN, Inf, a negative value or more than any engine can do."

    # CapacityAvailable
    AVAILABLE = "Available", "Nodes for all planned replicas exist."
    PENDING = "Pending", "Replicas wait for nodes; the message says for which since when."
    REFUSED = "Refused", "Capacity was refused, is remembered and planned around."
    INVENTORY_UNKNOWN = "InventoryUnknown", "Nodes could not be observed."

    # TargetsMet
    MET = "Met", "Every target holds."
    COST_TARGET_MISSED = "CostTargetMissed", "The blended cost per million tokens is above its target."
    BUDGET_EXCEEDED = "BudgetExceeded", "The month's forecast is above its budget."
    OBJECTIVE_MISSED = "ObjectiveMissed", "A latency objective is missed."
    SPEND_CAP_REACHED = (
        "SpendCapReached",
        "More capacity is needed than `maxSpendIncreaseUsdPerHour` lets one hour add.",
    )
    REPLICA_BOUND_REACHED = "ReplicaBoundReached", "More replicas are needed than `replicas.max`."
    NO_TARGET = "NoTarget", "No target is set."
    UNKNOWN = "Unknown", "There is not enough data to tell."

    # Flipping
    NEVER = "Never", "The flipping policy is Never."
    SERVING = "Serving", "Every node serves, and no loan is due."
    OUTSIDE_WINDOW = "OutsideWindow", "Every node serves, and no window is open; the message says when the next one is."
    WINDOW_OPEN = "WindowOpen", "Loans are allowed now, and serving needs every node that could go."
    LENDING = "Lending", "Nodes are on their way to training."
    LOANED = "Loaned", "Some nodes train."
    RECALLING = "Recalling", "Nodes are on their way back from training."
    BLOCKED = "Blocked", "A loan is due and a budget, a gate or a mark speaks against it; the message says which."
    PAUSED = "Paused", "Flipping is paused; the message says by whom and why."
    SURGE = "Surge", "Demand surged: loans are called back, and there is no further one for an hour."
    HISTORY_TOO_SHORT = (
        "HistoryTooShort",
        "The forecast has less than 14 days of demand behind it, so loans are only recommended.",
    )
    METRICS_STALE = "MetricsStale", "Demand is not measured at present, so loans are only recommended."
    WINDOWS_INVALID = "WindowsInvalid", "The windows cannot be used as they are; the message names which and why."
    QUEUE_MISSING = "QueueMissing", "No training queue is named, or the ClusterQueue does not exist."
    QUEUE_NOT_IN_COHORT = (
        "QueueNotInCohort",
        "The ClusterQueue does not borrow from the pool's Cohort; set its cohort as the message says.",
    )
    KUEUE_ABSENT = "KueueAbsent", "The API server does not serve Kueue's kinds."
    QUOTA_IN_USE = (
        "QuotaInUse",
        "Jobs use more of the loaned quota than is published; nothing more is let in until they end.",
    )
    LABELS_REVERTED = (
        "LabelsReverted",
        "Somebody else changes our labels or taints on a node again and again; the message names who, where known.",
    )
    NOT_CLUSTER_WIDE = (
        "NotClusterWide",
        "The operator sees only some namespaces and cannot tell what else runs on a node, so it lends none.",
    )
    QUARANTINED = "Quarantined", "A node failed a check and waits for somebody."

    # Adopted
    ADOPTED = "Adopted", "The workloads are scaled by us alone."
    NOTHING_TO_ADOPT = "NothingToAdopt", "The pool has a template: its workloads are our own."
    HPA_ON_TARGET = (
        "HpaOnTarget",
        "A HorizontalPodAutoscaler scales a workload of the pool; remove it, or keep it and use mode Recommend.",
    )
    SCALED_OBJECT_ON_TARGET = "ScaledObjectOnTarget", "A KEDA ScaledObject scales a workload of the pool."
    FOREIGN_OWNER = "ForeignOwner", "A workload belongs to another controller."
    ANOTHER_POOL = "AnotherPool", "A workload is adopted by another InferencePool."

    # KvTiersFound
    HITS_SEEN = "HitsSeen", "Engines fetched prompt tokens from the tiers."
    NOT_SEEN_YET = "NotSeenYet", "The plan counts on the tiers, and engines have not shown yet that they have them."
    NOTHING_COUNTED = "NothingCounted", "No size of a tier pays for itself, so nothing is counted on."
    NO_HITS = (
        "NoHits",
        "For half an hour or longer engines looked for prompt tokens in the tiers and found next to nothing.",
    )
    NOT_SET_UP = "NotSetUp", "For as long, engines did not look for anything in a tier: they run without."

    # AcceleratorType and Site
    PLAN_ONLY = "PlanOnly", "No resource name or node labels are known: the type is planned with, never placed."
    NO_NODES = "NoNodes", "No node matches."


REASONS: dict[ConditionType, tuple[Reason, ...]] = {
    ConditionType.READY: (
        Reason.PLAN_AVAILABLE,
        Reason.WAITING_FOR_REPLICAS,
        Reason.NOT_VALIDATED,
        Reason.NO_PLAN,
        Reason.HELD,
        Reason.RECOMMEND_ONLY,
        Reason.SCALED_TO_ZERO,
        Reason.APPLY_FAILED,
        Reason.TERMINATING,
        Reason.VALID,
        Reason.POOL_NOT_FOUND,
        Reason.PLAN_ONLY,
        Reason.NO_NODES,
        Reason.UNPRICED,
        Reason.AVAILABLE,
    ),
    ConditionType.RECONCILING: (
        Reason.STABLE,
        Reason.SCALING,
        Reason.ROLLING_OUT,
        Reason.DWELLING,
        Reason.HELD,
        Reason.RECOMMEND_ONLY,
        Reason.NOT_VALIDATED,
        Reason.APPLY_FAILED,
        Reason.TERMINATING,
    ),
    ConditionType.VALIDATED: (
        Reason.VALID,
        Reason.INVALID_FIELD,
        Reason.UNKNOWN_MODEL,
        Reason.UNKNOWN_ACCELERATOR,
        Reason.NO_CANDIDATE_FITS,
        Reason.NO_CANDIDATE_PRICED,
        Reason.PRICE_IMPLAUSIBLE,
        Reason.POOL_NOT_FOUND,
        Reason.CLASS_NOT_FOUND,
        Reason.CALL_CYCLE,
        Reason.OVERLAPPING_PODS,
        Reason.WORKLOAD_NOT_FOUND,
        Reason.TEMPLATE_TOO_LARGE,
        Reason.TEMPLATE_REJECTED,
        Reason.NO_ENGINE_CONTAINER,
    ),
    ConditionType.PRICING_FRESH: (
        Reason.FRESH,
        Reason.CATALOGUE_ONLY,
        Reason.STALE,
        Reason.DATED_IN_FUTURE,
        Reason.UNPRICED,
        Reason.PRICE_BOOK_FAULTY,
        Reason.MIXED_BASES,
        Reason.UNKNOWN,
    ),
    ConditionType.DEMAND_KNOWN: (
        Reason.KNOWN,
        Reason.DECLARED,
        Reason.ASSUMED,
        Reason.NO_CLASSES,
        Reason.EMPTY,
        Reason.STALE,
        Reason.UNREACHABLE,
        Reason.NOT_A_NUMBER,
    ),
    ConditionType.CAPACITY_AVAILABLE: (
        Reason.AVAILABLE,
        Reason.PENDING,
        Reason.REFUSED,
        Reason.INVENTORY_UNKNOWN,
        Reason.NO_NODES,
        Reason.UNKNOWN,
    ),
    ConditionType.TARGETS_MET: (
        Reason.MET,
        Reason.COST_TARGET_MISSED,
        Reason.BUDGET_EXCEEDED,
        Reason.OBJECTIVE_MISSED,
        Reason.SPEND_CAP_REACHED,
        Reason.REPLICA_BOUND_REACHED,
        Reason.NO_TARGET,
        Reason.UNKNOWN,
    ),
    ConditionType.FLIPPING: (
        Reason.NEVER,
        Reason.SERVING,
        Reason.OUTSIDE_WINDOW,
        Reason.WINDOW_OPEN,
        Reason.LENDING,
        Reason.LOANED,
        Reason.RECALLING,
        Reason.BLOCKED,
        Reason.PAUSED,
        Reason.SURGE,
        Reason.RECOMMEND_ONLY,
        Reason.HISTORY_TOO_SHORT,
        Reason.METRICS_STALE,
        Reason.WINDOWS_INVALID,
        Reason.QUEUE_MISSING,
        Reason.QUEUE_NOT_IN_COHORT,
        Reason.KUEUE_ABSENT,
        Reason.QUOTA_IN_USE,
        Reason.LABELS_REVERTED,
        Reason.NOT_CLUSTER_WIDE,
        Reason.QUARANTINED,
        Reason.UNKNOWN,
    ),
    ConditionType.ADOPTED: (
        Reason.ADOPTED,
        Reason.NOTHING_TO_ADOPT,
        Reason.WORKLOAD_NOT_FOUND,
        Reason.HPA_ON_TARGET,
        Reason.SCALED_OBJECT_ON_TARGET,
        Reason.FOREIGN_OWNER,
        Reason.ANOTHER_POOL,
        Reason.INVALID_FIELD,
        Reason.HELD,
    ),
    ConditionType.KV_TIERS_FOUND: (
        Reason.HITS_SEEN,
        Reason.NOT_SEEN_YET,
        Reason.NOTHING_COUNTED,
        Reason.NO_HITS,
        Reason.NOT_SET_UP,
    ),
}
"""Which reasons go with which condition type; nothing else is ever written."""
