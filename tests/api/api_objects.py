"""Good and bad objects of every kind, with the field that each bad one is blamed on.

The pydantic validator and a real API server judge the same table. A case is a base object and some fields of it set
otherwise; `OURS` are cases that only we judge, because no schema can.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

Raw = dict[str, Any]


class Absent:
    """Stands for a field that is taken away."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent()
LONG = "x" * 5000


def an_object(kind: str, name: str, spec: Raw, namespace: str | None = None) -> Raw:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": "tidefleet.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


BASES: dict[str, Raw] = {
    "pool": an_object(
        "InferencePool",
        "chat",
        {
            "model": {"name": "llama-3.3-70b"},
            "serving": {"template": {"spec": {"containers": [{"name": "engine", "image": "vllm"}]}}},
        },
        "default",
    ),
    "adopting": an_object(
        "InferencePool",
        "adopted",
        {
            "model": {"name": "llama-3.3-70b"},
            "serving": {"workloads": [{"name": "chat-h100", "accelerator": "h100-sxm", "chipsPerReplica": 2}]},
        },
        "default",
    ),
    "class": an_object("WorkloadClass", "chat", {"poolRef": {"name": "chat"}}, "default"),
    "accelerator": an_object(
        "AcceleratorType",
        "h100-sxm",
        {
            "vendor": "NVIDIA",
            "memoryBytes": 85899345920,
            "memoryBytesPerSecond": 3350000000000,
            "computeFlops": {"bf16": 989000000000000},
            "prices": [{"capacityType": "OnDemand", "usdPerChipHour": "2.10"}],
        },
    ),
    "site": an_object("Site", "frankfurt", {"nodeSelector": {"topology.kubernetes.io/zone": "eu-central-1a"}}),
}


@dataclass(frozen=True)
class Case:
    """One object: a base with fields set otherwise.

    Attributes:
        base: Key of `BASES`.
        changes: Dotted path (list indexes as numbers) to value; ABSENT takes a field away.
        blamed: Path of a problem that must be told; "" for a good object.
    """

    base: str
    changes: tuple[tuple[str, Any], ...]
    blamed: str = ""

    @property
    def raw(self) -> Raw:
        result = copy.deepcopy(BASES[self.base])
        for path, value in self.changes:
            *parents, last = path.split(".")
            place: Any = result
            for step in parents:
                place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
            if value is ABSENT:
                place.pop(last)
            else:
                place[last] = copy.deepcopy(value)
        return result

    def __str__(self) -> str:
        text = ",".join(f"{path.removeprefix('spec.')}={value!r}"[:60] for path, value in self.changes) or "as-it-is"
        return f"{self.base}:{text}"


def good(base: str, **changes: Any) -> Case:
    return Case(base, tuple((f"spec.{path.replace('__', '.')}", value) for path, value in changes.items()))


def bad(blamed: str, base: str, **changes: Any) -> Case:
    return Case(base, good(base, **changes).changes, blamed)


WINDOW = {"start": "22:00", "end": "06:30", "days": ["Mon", "Tue"], "timeZone": "Europe/Berlin"}
BUDGET = {"reasons": ["Loan"], "nodes": "20%", "schedule": "0 22 * * *", "durationSeconds": 3600, "timeZone": "UTC"}
TIER = {"medium": "Host", "maxBytesPerReplica": 549755813888, "bytesPerSecond": 25000000000, "usdPerGibMonth": "0.02"}
TOKENS = {"input": {"mean": 1800, "p95": 6000}, "output": {"mean": 300, "p95": 900}, "cachedShare": "0.4"}
USAGE = {"usdPerMillionInputTokens": "0.90", "usdPerMillionOutputTokens": "3.60"}
SPILL = {"provider": "example-ai", "model": "gpt-oss-120b", **USAGE}
PRICE = {"capacityType": "OnDemand", "usdPerChipHour": "2.10"}
POINT = {"batch": 32, "inputTokens": 1800, "outputTokens": 300, "tpotMilliseconds": 25, "ttftMilliseconds": "240.5"}
PROFILE = {
    "model": "llama-3.3-70b",
    "engine": "VLLM",
    "engineVersion": "0.32.0",
    "tensorParallel": 2,
    "weights": "Fp8",
    "points": [POINT],
    "measuredOn": "2026-11-21",
    "source": "our own benchmark",
}

GOOD: tuple[Case, ...] = (
    *(Case(base, ()) for base in BASES),
    good("pool", mode="Recommend"),
    good("pool", model={"architecture": {"hidden_size": 8192, "rope_theta": 500000.0, "x": None}}),
    good("pool", model={"name": "My/Own", "architecture": {"hidden_size": 8192}, "adapters": [{"name": "legal"}]}),
    good("pool", serving__engine={"type": "SGLang", "version": "0.5.1", "port": 30000, "metricsPath": "/metrics"}),
    good("pool", replicas={"min": 0, "max": 0}),
    good("pool", serving__engine={"port": 8000.0}),
    good("pool", replicas=None),
    good("pool", replicas={"min": None, "max": 4}),
    good("pool", pinnedReplicas=4),
    good("pool", qualityFloor="0.97"),
    good("pool", qualityFloor="1.000"),
    good(
        "pool",
        costTarget={
            "usdPerMillionTokens": "0.60",
            "monthlyBudgetUsd": "40000",
            "maxSpendIncreaseUsdPerHour": "50",
        },
    ),
    good(
        "pool",
        accelerators=[
            {
                "type": "h200-sxm",
                "tensorParallel": [1, 2],
                "weights": ["Bf16", "Fp8"],
                "kv": ["Fp8"],
                "capacityTypes": ["OnDemand", "Spot", "Reserved", "Owned"],
                "maxChips": 64,
            },
            {"type": "mi300x"},
        ],
    ),
    good(
        "pool",
        roles={
            "disaggregated": "Auto",
            "prefillOnly": ["rubin-cpx"],
            "prefillToDecode": {"min": "0.5", "max": "4"},
        },
    ),
    good("pool", kvCache={"tiers": [TIER, {**TIER, "medium": "Disk"}], "maxOversubscription": "3"}),
    good("pool", flipping={"policy": "Schedule", "windows": [WINDOW], "budgets": [BUDGET, {"nodes": 2}]}),
    good(
        "pool",
        flipping={
            "policy": "Forecast",
            "drain": {"timeoutSeconds": 30, "onTimeout": "Kill"},
            "training": {
                "queue": {"kind": "Kueue", "clusterQueue": "night"},
                "valueUsdPerChipHour": "1.10",
                "checkpointGraceSeconds": 60,
            },
            "pause": {"scope": "NewLoans", "by": "alice", "reason": "launch day: no loans"},
        },
    ),
    good("pool", flipping__training={"queue": {"kind": "Suspend", "selector": {"matchLabels": {"team": "research"}}}}),
    good(
        "pool",
        flipping__training__queue={
            "kind": "Suspend",
            "selector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]},
        },
    ),
    good("pool", gateway={"inferencePool": {"creation": "Reference", "name": "chat"}, "sessionHeader": "X-Session"}),
    good("pool", gateway={"inferencePool": {"creation": "Create"}}),
    good("pool", deletionPolicy="Delete"),
    good("adopting", serving__workloads__0__kind="StatefulSet"),
    good("class", demand={"requestsPerSecond": "3.5"}, tokens=TOKENS),
    good("class", demand={"requestsPerSecond": "0"}, tokens=TOKENS),
    good("class", demand={"source": "Metrics"}),
    good("class", demand={"volumeTokensPerDay": 2000000000, "deadlineSeconds": 86400}, tokens=TOKENS),
    good(
        "class",
        demand={
            "volumeTokensPerDay": 5,
            "deadlineSeconds": 600,
            "whileTraining": {"kind": "JobSet", "name": "grpo", "pods": 16},
        },
        tokens=TOKENS,
    ),
    good("class", match={"models": ["a"], "adapters": ["b"], "headers": [{"name": "x-class", "value": "batch"}]}),
    good("class", tokens={**TOKENS, "reasoning": {"mean": 0, "p95": 0, "cap": 0}}, trafficShare="0.4"),
    good("pool", kvCache={"tiers": [{**TIER, "sizing": "Planned"}, {**TIER, "medium": "Disk", "sizing": "Fixed"}]}),
    good("class", turnsPerSession="4", turnPauseSeconds=60),
    good("accelerator", scaleUp={"bytesPerSecond": 450000000000, "domainChips": 72, "boughtAs": "Domain"}),
    good("class", callsPerTask="6", turnsPerSession="4", calls=[{"class": "embed", "perTask": "2"}]),
    good(
        "class",
        objectives=[
            {"metric": "TTFT", "percentile": 95, "milliseconds": 800, "perThousandInputTokensMilliseconds": 100},
            {"metric": "TTFT", "percentile": 50, "milliseconds": 300},
            {"metric": "Stall", "milliseconds": 2000.0},
        ],
    ),
    good(
        "class",
        priority=-5,
        tenantKey={"header": "x-tenant"},
        limits={"tokensPerMinutePerTenant": 100000, "usdPerDayPerTenant": "25"},
        penaltyUsdPerMiss="0",
    ),
    good("class", revenue={"usage": {**USAGE, "usdPerMillionCachedInputTokens": "0.09", "batchDiscount": "0.5"}}),
    good(
        "class",
        revenue={
            "seat": {
                "usdPerMonth": "20",
                "seats": 5000,
                "tokensPerSeatMonth": {"mean": 2000000, "p95": 9000000},
                "capTokensPerMonth": 50000000,
            }
        },
    ),
    good("class", revenue={"free": {}}),
    good("class", revenue={"internal": {"usdPerMillionTokens": "0.80"}}),
    good("class", spill=[SPILL, {"provider": "p", "model": "m", "billing": "Provisioned", "usdPerMonth": "5000"}]),
    good("class", quality={"floor": "0.97", "scores": [{"lever": "weights:Fp8", "score": "1.002", "source": "eval"}]}),
    good("accelerator", computeFlops={"bf16": 9.89e14, "fp8": 1.979e15}),
    good("accelerator", memoryBytes=85899345920.0, tdpWatts=700, idleWatts=75, facilityWattsPerChip=1730),
    good("accelerator", scaleUp={"bytesPerSecond": 450000000000, "domainChips": 8}, scaleOutBytesPerSecond=50000000000),
    good("accelerator", resourceName="nvidia.com/gpu", deviceClass="gpu.nvidia.com", chipsPerNode=8),
    good("accelerator", nodeSelector={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "empty": ""}),
    good(
        "accelerator",
        prices=[
            {**PRICE, "asOf": "2026-11-21", "source": "list price", "minimumTermDays": 0},
            {**PRICE, "provider": "aws", "region": "us-east-1", "state": "Disabled"},
            {**PRICE, "capacityType": "Reserved", "usdPerChipHour": "1530", "plausibility": "Override"},
            {**PRICE, "capacityType": "Spot", "nodeSelector": {"karpenter.sh/capacity-type": "spot"}},
        ],
    ),
    good("accelerator", prices=ABSENT),
    good("accelerator", health={"conditions": [{"type": "GpuUnhealthy", "status": "True", "tolerationSeconds": 0}]}),
    good("accelerator", roles=["Prefill"], profiles=[PROFILE, {**PROFILE, "weights": "Bf16"}], notes="", sources={}),
    good(
        "site",
        powerLimitWatts=500000,
        pue="1.25",
        egressUsdPerGib="0.08",
        roundTripToUsersMilliseconds=35,
        tariff=[
            {"usdPerKilowattHour": "0.12", "start": "06:00", "end": "22:00", "days": ["Sat"], "timeZone": "UTC"},
            {"usdPerKilowattHour": "-0.01", "timeZone": "Europe/Berlin"},
        ],
    ),
)

SCHEMA_BAD: tuple[Case, ...] = (
    # InferencePool
    Case("pool", (("spec", ABSENT),), "spec"),
    Case("pool", (("spec", "x"),), "spec"),
    Case("pool", (("metadata.name", "Chat"),), "metadata.name"),
    Case("pool", (("metadata.name", "a" * 41),), "metadata.name"),
    Case("pool", (("metadata.name", "chat.prod"),), "metadata.name"),
    bad("spec.mode", "pool", mode="Dream"),
    bad("spec.mode", "pool", mode=True),
    bad("spec.model", "pool", model=ABSENT),
    bad("spec.model", "pool", model=None),
    bad("spec.model", "pool", model={}),
    bad("spec.model.name", "pool", model={"name": 70}),
    bad("spec.model.name", "pool", model={"name": ""}),
    bad("spec.model.name", "pool", model={"name": 'x"} or up{'}),
    bad("spec.model.architecture", "pool", model={"architecture": "llama"}),
    bad("spec.model.adapters[1]", "pool", model__adapters=[{"name": "a"}, {"name": "a"}]),
    bad("spec.serving", "pool", serving={}),
    bad("spec.serving", "adopting", serving__template={"spec": {}}),
    bad("spec.serving.template", "pool", serving={"template": []}),
    bad("spec.serving.workloads", "pool", serving={"workloads": []}),
    bad("spec.serving.workloads[0].kind", "adopting", serving__workloads__0__kind="Pod"),
    bad("spec.serving.workloads[0].accelerator", "adopting", serving__workloads__0__accelerator=ABSENT),
    bad("spec.serving.workloads[0].chipsPerReplica", "adopting", serving__workloads__0__chipsPerReplica=0),
    bad("spec.serving.workloads[0].chipsPerReplica", "adopting", serving__workloads__0__chipsPerReplica="2"),
    bad("spec.serving.engine.port", "pool", serving__engine={"port": 70000}),
    bad("spec.serving.engine.port", "pool", serving__engine={"port": "8000"}),
    bad("spec.serving.engine.version", "pool", serving__engine={"version": 0.32}),
    bad("spec.serving.engine.metricsPath", "pool", serving__engine={"metricsPath": "metrics"}),
    bad("spec.accelerators", "pool", accelerators={"type": "h100-sxm"}),
    bad("spec.accelerators[0]", "pool", accelerators=["h100-sxm"]),
    bad("spec.accelerators[0]", "pool", accelerators=[None]),
    bad("spec.accelerators", "pool", accelerators=[{"type": f"a{i}"} for i in range(65)]),
    bad("spec.accelerators[1]", "pool", accelerators=[{"type": "h100-sxm"}, {"type": "h100-sxm", "maxChips": 1}]),
    bad("spec.accelerators[0].type", "pool", accelerators=[{"type": "H100-SXM"}]),
    bad("spec.accelerators[0].type", "pool", accelerators=[{}]),
    bad("spec.accelerators[0].tensorParallel[1]", "pool", accelerators=[{"type": "a", "tensorParallel": [2, 2]}]),
    bad("spec.accelerators[0].tensorParallel[0]", "pool", accelerators=[{"type": "a", "tensorParallel": [0]}]),
    bad("spec.accelerators[0].weights[0]", "pool", accelerators=[{"type": "a", "weights": ["FP8"]}]),
    bad("spec.accelerators[0].capacityTypes", "pool", accelerators=[{"type": "a", "capacityTypes": []}]),
    bad("spec.roles.disaggregated", "pool", roles={"disaggregated": False}),
    bad("spec.roles.prefillToDecode.min", "pool", roles={"prefillToDecode": {"min": "5", "max": "4"}}),
    bad("spec.roles.prefillToDecode.min", "pool", roles={"prefillToDecode": {"min": "0", "max": "4"}}),
    bad("spec.replicas", "pool", replicas=3),
    bad("spec.replicas.min", "pool", replicas={"min": 9, "max": 8}),
    bad("spec.replicas.min", "pool", replicas={"min": 65}),
    bad("spec.replicas.min", "pool", replicas={"min": -1}),
    bad("spec.replicas.min", "pool", replicas={"min": 1.5}),
    bad("spec.replicas.min", "pool", replicas={"min": 2.0}),
    bad("spec.replicas.max", "pool", replicas={"max": "8"}),
    bad("spec.replicas.max", "pool", replicas={"max": 10**30}),
    bad("spec.replicas.spare", "pool", replicas={"max": 2, "spare": 3}),
    bad("spec.pinnedReplicas", "pool", pinnedReplicas=-1),
    bad("spec.pinnedReplicas", "pool", pinnedReplicas=4.0),
    bad("spec.qualityFloor", "pool", qualityFloor="97"),
    bad("spec.qualityFloor", "pool", qualityFloor=0.97),
    bad("spec.costTarget.usdPerMillionTokens", "pool", costTarget={"usdPerMillionTokens": "0"}),
    bad("spec.costTarget.usdPerMillionTokens", "pool", costTarget={"usdPerMillionTokens": "0.000"}),
    bad("spec.costTarget.usdPerMillionTokens", "pool", costTarget={"usdPerMillionTokens": "-1"}),
    bad("spec.costTarget.usdPerMillionTokens", "pool", costTarget={"usdPerMillionTokens": 1}),
    bad("spec.costTarget.usdPerMillionTokens", "pool", costTarget={"usdPerMillionTokens": 0.6}),
    bad("spec.costTarget.monthlyBudgetUsd", "pool", costTarget={"monthlyBudgetUsd": "$40,000"}),
    bad("spec.costTarget.monthlyBudgetUsd", "pool", costTarget={"monthlyBudgetUsd": "4e4"}),
    bad("spec.costTarget.monthlyBudgetUsd", "pool", costTarget={"monthlyBudgetUsd": "٤٠"}),
    bad("spec.costTarget.monthlyBudgetUsd", "pool", costTarget={"monthlyBudgetUsd": "40\n"}),
    bad("spec.costTarget.monthlyBudgetUsd", "pool", costTarget={"monthlyBudgetUsd": "NaN"}),
    bad("spec.kvCache.tiers[0].maxBytesPerReplica", "pool", kvCache={"tiers": [{**TIER, "maxBytesPerReplica": 0}]}),
    bad("spec.kvCache.tiers[0].sizing", "pool", kvCache={"tiers": [{**TIER, "sizing": "Auto"}]}),
    bad("spec.turnPauseSeconds", "class", turnPauseSeconds=-1),
    bad("spec.scaleUp.boughtAs", "accelerator", scaleUp={"bytesPerSecond": 5, "domainChips": 8, "boughtAs": "Rack"}),
    bad("spec.kvCache.tiers[1]", "pool", kvCache={"tiers": [TIER, TIER]}),
    bad("spec.kvCache.maxOversubscription", "pool", kvCache={"maxOversubscription": "0.9"}),
    bad("spec.flipping.windows", "pool", flipping={"policy": "Schedule"}),
    bad("spec.flipping.windows[0].end", "pool", flipping={"windows": [{**WINDOW, "end": "22:00"}]}),
    bad("spec.flipping.windows[0].start", "pool", flipping={"windows": [{**WINDOW, "start": 1320}]}),
    bad("spec.flipping.windows[0].start", "pool", flipping={"windows": [{**WINDOW, "start": "24:00"}]}),
    bad("spec.flipping.windows[0].days[0]", "pool", flipping={"windows": [{**WINDOW, "days": ["Monday"]}]}),
    bad("spec.flipping.windows[0].timeZone", "pool", flipping={"windows": [{"start": "22:00", "end": "06:00"}]}),
    bad("spec.flipping.windows[0].timeZone", "pool", flipping={"windows": [{**WINDOW, "timeZone": "../etc"}]}),
    bad("spec.flipping.budgets[0].nodes", "pool", flipping={"budgets": [{"nodes": "120%"}]}),
    bad("spec.flipping.budgets[0].nodes", "pool", flipping={"budgets": [{"nodes": -1}]}),
    bad("spec.flipping.budgets[0].nodes", "pool", flipping={"budgets": [{"nodes": True}]}),
    bad("spec.flipping.budgets[0].nodes", "pool", flipping={"budgets": [{"nodes": 1.5}]}),
    bad("spec.flipping.budgets[0].nodes", "pool", flipping={"budgets": [{}]}),
    bad("spec.flipping.budgets[0].timeZone", "pool", flipping__budgets=[{**BUDGET, "timeZone": None}]),
    bad("spec.flipping.budgets[0].durationSeconds", "pool", flipping__budgets=[{**BUDGET, "durationSeconds": None}]),
    bad("spec.flipping.drain.timeoutSeconds", "pool", flipping={"drain": {"timeoutSeconds": 0}}),
    bad("spec.flipping.drain.timeoutSeconds", "pool", flipping={"drain": {"timeoutSeconds": "10m"}}),
    bad("spec.flipping.training.queue", "pool", flipping={"training": {}}),
    bad("spec.flipping.training.queue.clusterQueue", "pool", flipping__training={"queue": {"kind": "Kueue"}}),
    bad("spec.flipping.training.queue.selector", "pool", flipping__training={"queue": {"kind": "Suspend"}}),
    bad(
        "spec.flipping.training.queue.selector.matchExpressions[0].values",
        "pool",
        flipping__training__queue={
            "kind": "Suspend",
            "selector": {"matchExpressions": [{"key": "team", "operator": "Exists", "values": ["a"]}]},
        },
    ),
    bad(
        "spec.flipping.training.queue.selector.matchLabels",
        "pool",
        flipping__training__queue={"kind": "Suspend", "selector": {"matchLabels": {"not a key": "a"}}},
    ),
    bad("spec.flipping.pause.reason", "pool", flipping={"pause": {"reason": LONG}}),
    bad("spec.gateway.inferencePool.name", "pool", gateway={"inferencePool": {"creation": "Reference"}}),
    bad("spec.gateway.sessionHeader", "pool", gateway={"sessionHeader": "x session\r\nevil: 1"}),
    bad("spec.deletionPolicy", "pool", deletionPolicy="Orphan"),
    # WorkloadClass
    Case("class", (("metadata.name", "a" * 64),), "metadata.name"),
    bad("spec.poolRef", "class", poolRef=ABSENT),
    bad("spec.poolRef.name", "class", poolRef={}),
    bad("spec.poolRef.name", "class", poolRef={"name": "other/chat"}),
    bad("spec.demand", "class", demand={}),
    bad("spec.demand", "class", demand={"source": "Metrics", "requestsPerSecond": "1"}, tokens=TOKENS),
    bad("spec.demand.deadlineSeconds", "class", demand={"volumeTokensPerDay": 5}, tokens=TOKENS),
    bad(
        "spec.demand.whileTraining",
        "class",
        demand={"requestsPerSecond": "1", "whileTraining": {"kind": "Job", "name": "grpo"}},
        tokens=TOKENS,
    ),
    bad(
        "spec.demand.whileTraining.kind",
        "class",
        demand={"volumeTokensPerDay": 5, "deadlineSeconds": 600, "whileTraining": {"kind": "Pod", "name": "grpo"}},
        tokens=TOKENS,
    ),
    bad("spec.demand.deadlineSeconds", "class", demand={"source": "Metrics", "deadlineSeconds": 86400}),
    bad("spec.demand.requestsPerSecond", "class", demand={"requestsPerSecond": "-1"}, tokens=TOKENS),
    bad("spec.demand.requestsPerSecond", "class", demand={"requestsPerSecond": 3.5}, tokens=TOKENS),
    bad("spec.demand.source", "class", demand={"source": "Guess"}),
    bad("spec.tokens", "class", demand={"requestsPerSecond": "3.5"}),
    bad("spec.tokens.input.mean", "class", tokens={**TOKENS, "input": {"mean": 0}}),
    bad("spec.tokens.output", "class", tokens={"input": {"mean": 5}}),
    bad("spec.tokens.cachedShare", "class", tokens={**TOKENS, "cachedShare": "1.01"}),
    bad("spec.tokens.cachedShare", "class", tokens={**TOKENS, "cachedShare": "40%"}),
    bad("spec.tokens.reasoning.mean", "class", tokens={**TOKENS, "reasoning": {"mean": 10, "cap": 5}}),
    bad("spec.tokens.reasoning.mean", "class", tokens={**TOKENS, "reasoning": {"mean": 10.0}}),
    bad("spec.trafficShare", "class", trafficShare="2"),
    bad("spec.callsPerTask", "class", callsPerTask="0"),
    bad("spec.callsPerTask", "class", callsPerTask=1),
    bad("spec.calls", "class", calls=[{"class": "chat", "perTask": "1"}]),
    bad("spec.calls[1]", "class", calls=[{"class": "a", "perTask": "1"}, {"class": "a", "perTask": "2"}]),
    bad("spec.calls[0].class", "class", calls=[{"perTask": "1"}]),
    bad("spec.objectives[0].milliseconds", "class", objectives=[{"metric": "TTFT", "milliseconds": 0}]),
    bad("spec.objectives[0].milliseconds", "class", objectives=[{"metric": "TTFT", "milliseconds": 0.3}]),
    bad("spec.objectives[0].milliseconds", "class", objectives=[{"metric": "TTFT"}]),
    bad("spec.objectives[0].metric", "class", objectives=[{"metric": "ttft", "milliseconds": 300}]),
    bad(
        "spec.objectives[0].percentile", "class", objectives=[{"metric": "TPOT", "percentile": 100, "milliseconds": 9}]
    ),
    bad(
        "spec.objectives[1]",
        "class",
        objectives=[{"metric": "TTFT", "milliseconds": 300}, {"metric": "TTFT", "percentile": 95, "milliseconds": 800}],
    ),
    bad("spec.priority", "class", priority="high"),
    bad("spec.tenantKey", "class", limits={"tokensPerMinutePerTenant": 5}),
    bad("spec.limits.usdPerDayPerTenant", "class", tenantKey={"header": "x"}, limits={"usdPerDayPerTenant": "0"}),
    bad("spec.revenue", "class", revenue={}),
    bad("spec.revenue", "class", revenue={"free": {}, "internal": {"usdPerMillionTokens": "1"}}),
    bad("spec.revenue.usage.usdPerMillionOutputTokens", "class", revenue__usage={"usdPerMillionInputTokens": "1"}),
    bad("spec.revenue.seat.seats", "class", revenue={"seat": {"usdPerMonth": "20", "seats": 0}}),
    *(
        bad(
            "spec.revenue.seat.capTokensPerMonth",
            "class",
            revenue={"seat": {"usdPerMonth": "20", "seats": 5, "tokensPerSeatMonth": use, "capTokensPerMonth": 1000}},
        )
        for use in ({"mean": 1001}, {"mean": 500, "p95": 1001})
    ),
    bad("spec.revenue.free", "class", revenue={"free": True}),
    bad("spec.penaltyUsdPerMiss", "class", penaltyUsdPerMiss="-0.1"),
    bad("spec.spill[0].usdPerMillionInputTokens", "class", spill=[{"provider": "p", "model": "m"}]),
    bad("spec.spill[0].usdPerMonth", "class", spill=[{**SPILL, "billing": "PerSeat"}]),
    bad("spec.spill[1]", "class", spill=[SPILL, SPILL]),
    bad("spec.match.headers[0].value", "class", match={"headers": [{"name": "x", "value": "y" * 257}]}),
    bad("spec.quality.scores[0].score", "class", quality__scores=[{"lever": "kv:Fp8", "score": "98", "source": "s"}]),
    bad("spec.quality.scores[0].lever", "class", quality__scores=[{"lever": "Fp8", "score": "0.98", "source": "s"}]),
    # AcceleratorType
    bad("spec.vendor", "accelerator", vendor=ABSENT),
    bad("spec.memoryBytes", "accelerator", memoryBytes=0),
    bad("spec.memoryBytes", "accelerator", memoryBytes="80Gi"),
    bad("spec.memoryBytes", "accelerator", memoryBytes=1.5),
    bad("spec.memoryBytesPerSecond", "accelerator", memoryBytesPerSecond=ABSENT),
    bad("spec.computeFlops.bf16", "accelerator", computeFlops={"bf16": 0}),
    bad("spec.idleWatts", "accelerator", tdpWatts=700, idleWatts=701),
    bad("spec.tdpWatts", "accelerator", tdpWatts=700.0),
    bad("spec.scaleUp.domainChips", "accelerator", scaleUp={"bytesPerSecond": 5}),
    bad("spec.resourceName", "accelerator", resourceName="nvidia.com/"),
    bad("spec.nodeSelector", "accelerator", nodeSelector={"a b": "c"}),
    bad("spec.nodeSelector.a", "accelerator", nodeSelector={"a": 8}),
    bad("spec.nodeSelector.a", "accelerator", nodeSelector={"a": "b c"}),
    bad("spec.nodeSelector", "accelerator", nodeSelector={f"k{i}": "v" for i in range(33)}),
    bad("spec.prices[0].usdPerChipHour", "accelerator", prices=[{**PRICE, "usdPerChipHour": "0"}]),
    bad("spec.prices[0].usdPerChipHour", "accelerator", prices=[{**PRICE, "usdPerChipHour": 2.1}]),
    bad("spec.prices[0].usdPerChipHour", "accelerator", prices=[{"capacityType": "Spot"}]),
    bad("spec.prices[0].capacityType", "accelerator", prices=[{"usdPerChipHour": "2"}]),
    bad("spec.prices[1]", "accelerator", prices=[PRICE, {**PRICE, "provider": "", "usdPerChipHour": "3"}]),
    bad("spec.prices[0].asOf", "accelerator", prices=[{**PRICE, "asOf": "2026-13-01"}]),
    bad("spec.prices[0].asOf", "accelerator", prices=[{**PRICE, "asOf": "2026-02-30"}]),
    bad("spec.prices[0].asOf", "accelerator", prices=[{**PRICE, "asOf": "21.11.2026"}]),
    bad("spec.prices[0].state", "accelerator", prices=[{**PRICE, "state": False}]),
    bad("spec.prices[0].plausibility", "accelerator", prices=[{**PRICE, "plausibility": "override"}]),
    bad("spec.prices[0].plausibility", "accelerator", prices=[{**PRICE, "plausibility": True}]),
    bad("spec.health.conditions[0].status", "accelerator", health__conditions=[{"type": "X", "status": True}]),
    bad("spec.roles", "accelerator", roles=[]),
    bad("spec.roles[1]", "accelerator", roles=["Prefill", "Prefill"]),
    bad("spec.profiles[1]", "accelerator", profiles=[PROFILE, PROFILE]),
    bad("spec.profiles[0].points", "accelerator", profiles=[{**PROFILE, "points": []}]),
    bad(
        "spec.profiles[0].points[0].tpotMilliseconds",
        "accelerator",
        profiles=[{**PROFILE, "points": [{**POINT, "tpotMilliseconds": 12.5}]}],
    ),
    bad(
        "spec.profiles[0].points[0].tpotMilliseconds",
        "accelerator",
        profiles=[{**PROFILE, "points": [{**POINT, "tpotMilliseconds": "0"}]}],
    ),
    bad("spec.notes", "accelerator", notes=LONG),
    # Site
    Case("site", (("metadata.name", "-x"),), "metadata.name"),
    bad("spec.nodeSelector", "site", nodeSelector=ABSENT),
    bad("spec.powerLimitWatts", "site", powerLimitWatts="500kW"),
    bad("spec.pue", "site", pue="0.9"),
    bad("spec.pue", "site", pue=1.25),
    bad("spec.tariff[0].end", "site", tariff=[{"usdPerKilowattHour": "1", "end": "25:00", "timeZone": "UTC"}]),
    bad("spec.tariff[0].end", "site", tariff=[{"usdPerKilowattHour": "1", "end": "00:00", "timeZone": "UTC"}]),
    bad("spec.tariff[0].usdPerKilowattHour", "site", tariff=[{"usdPerKilowattHour": "--1", "timeZone": "UTC"}]),
    bad("spec.tariff[0].timeZone", "site", tariff=[{"usdPerKilowattHour": "1"}]),
    bad("spec.roundTripToUsersMilliseconds", "site", roundTripToUsersMilliseconds=-1),
)

UNKNOWN_FIELDS: tuple[Case, ...] = (
    bad("spec.modle", "pool", modle={"name": "x"}),
    bad("spec.replicas.minimum", "pool", replicas={"minimum": 1}),
    bad("spec.serving.engine.metrics_path", "pool", serving__engine={"metrics_path": "/metrics"}),
    bad("spec.pool_ref", "class", pool_ref={"name": "chat"}),
    bad("spec.revenue.free.usd", "class", revenue={"free": {"usd": 1}}),
    bad("spec.prices[0].usdPerHour", "accelerator", prices=[{**PRICE, "usdPerHour": "1"}]),
    Case("site", (("data", {}),), "data"),
)
"""Refused where unknown fields are refused, and good objects where they are ignored."""

OURS: tuple[Case, ...] = (
    bad("spec.model.name", "pool", model={"name": "meta-llama/Llama-3.3-70B"}),
    bad("spec.serving.template.spec.containers", "pool", serving={"template": {}}),
    bad("spec.serving.template.spec.containers", "pool", serving={"template": {"spec": {"containers": [{}, {}]}}}),
    bad(
        "spec.serving.template",
        "pool",
        serving={"template": {"spec": {"containers": [{"name": "a", "args": ["x" * 131072]}]}}},
    ),
    bad("spec.flipping.windows[0].timeZone", "pool", flipping={"windows": [{**WINDOW, "timeZone": "Europe/Atlantis"}]}),
    bad("spec.flipping.windows[0].timeZone", "pool", flipping={"windows": [{**WINDOW, "timeZone": "Europe"}]}),
    bad("spec.flipping.budgets[0].schedule", "pool", flipping={"budgets": [{**BUDGET, "schedule": "at night"}]}),
    bad("spec.flipping.budgets[0].schedule", "pool", flipping={"budgets": [{**BUDGET, "schedule": "61 22 * * *"}]}),
    bad("spec.tariff[0].timeZone", "site", tariff=[{"usdPerKilowattHour": "1", "timeZone": "Nowhere"}]),
)
"""What only we judge: the API server takes these, and the operator answers with Validated=False."""
