"""From a pool's pod template and an option to the Deployment that serves it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tidefleet.api import AcceleratorType, InferencePool, Reason
from tidefleet.api.inference_pool import EngineType, KVMedium, KVSizing
from tidefleet.cluster.arguments import ENGINE_CONTAINER, arguments_of, containers_of, texts_of, value_of
from tidefleet.controller import marks
from tidefleet.controller.engine_tiers import arguments_for, stated, with_memory
from tidefleet.planning.from_api import chosen_price
from tidefleet.planning.options import Option

TEMPLATE_LIMIT = 128 * 1024
"""Bytes of a pod template, as JSON; larger ones are refused."""

DEPTH_LIMIT = 48
_SHAPE: Mapping[str, type] = {
    "metadata": dict,
    "metadata.labels": dict,
    "metadata.annotations": dict,
    "spec": dict,
    "spec.nodeSelector": dict,
    "spec.tolerations": list,
}
"""Fields that we add to, and what they must be when they are there."""

_PRECISION_OF_VALUE: Mapping[str, str] = {
    "auto": "",
    "bfloat16": "Bf16",
    "float16": "Bf16",
    "half": "Bf16",
    "fp8": "Fp8",
    "fp8_e4m3": "Fp8",
    "fp8_e5m2": "Fp8",
    "modelopt": "Fp8",
    "w8a8_int8": "Fp8",
    "awq": "Fp4",
    "gptq": "Fp4",
    "mxfp4": "Fp4",
    "nvfp4": "Fp4",
    "modelopt_fp4": "Fp4",
}


class UnusableTemplate(ValueError):
    """A template cannot become a Deployment; ``reason`` is ``TemplateTooLarge`` or ``NoEngineContainer``."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def template_hash(template: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of a template as the user wrote it."""
    return hashlib.sha256(json.dumps(template, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def check_template(pool: InferencePool) -> None:
    """Raises UnusableTemplate when the pool's template is too large or has no container to put the engine in."""
    template = pool.spec.serving.template or {}
    size = len(json.dumps(template))
    if size > TEMPLATE_LIMIT:
        raise UnusableTemplate(
            Reason.TEMPLATE_TOO_LARGE,
            f"{pool}: spec.serving.template is {size} bytes; expected at most {TEMPLATE_LIMIT}, e.g. by moving files "
            "to a ConfigMap",
        )
    _check_shape(pool, template)
    container = engine_container(pool, template)
    command = container.get("command")
    if isinstance(command, list) and command and str(command[0]).rsplit("/", 1)[-1] in ("sh", "bash"):
        raise UnusableTemplate(
            Reason.INVALID_FIELD,
            f"{pool}: spec.serving.template: the engine's command is a shell; expected the engine itself, so that "
            "arguments can be added, e.g. command: [vllm, serve]",
        )


def _check_shape(pool: InferencePool, template: Mapping[str, Any]) -> None:
    """Refuse what could not be copied or read on: nesting without end, and fields of another type than a pod's."""
    level: list[Any] = [template]
    for _ in range(DEPTH_LIMIT):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, Mapping) else one)
            if isinstance(inner, Mapping | list)
        ]
    if level:
        raise UnusableTemplate(
            Reason.INVALID_FIELD,
            f"{pool}: spec.serving.template is nested deeper than {DEPTH_LIMIT} levels; expected a pod template",
        )
    for path, wanted in _SHAPE.items():
        value: Any = template
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None and not isinstance(value, wanted):
            expected = "a list" if wanted is list else "an object"
            raise UnusableTemplate(
                Reason.INVALID_FIELD,
                f"{pool}: spec.serving.template.{path} is {str(value)[:40]!r}; expected {expected}, as in a pod",
            )


def engine_container(pool: InferencePool, template: Mapping[str, Any]) -> Mapping[str, Any]:
    """The container that serves: the one named ``engine``, else the only one.

    Raises:
        UnusableTemplate: there is no such container.
    """
    listed = containers_of(template.get("spec"))
    if len(listed) == 1:
        return listed[0]
    named = [one for one in listed if one.get("name") == ENGINE_CONTAINER]
    if len(named) == 1:
        return named[0]
    names = ", ".join(str(one.get("name", "?"))[:40] for one in listed[:5]) or "none"
    raise UnusableTemplate(
        Reason.NO_ENGINE_CONTAINER,
        f"{pool}: spec.serving.template.spec.containers is {names}; expected one container, or one named engine, "
        "e.g. name: engine",
    )


def template_precisions(pool: InferencePool, native_weights: str) -> tuple[str, str]:
    """Storage precision of weights and KV cache that the template's engine arguments ask for."""
    weights, kv = native_weights, "Bf16"
    try:
        container = engine_container(pool, pool.spec.serving.template or {})
    except UnusableTemplate:
        return weights, kv
    arguments = arguments_of(container)
    weights = _PRECISION_OF_VALUE.get(value_of(arguments, "--quantization", "-q"), "") or weights
    kv = _PRECISION_OF_VALUE.get(value_of(arguments, "--kv-cache-dtype"), "") or kv
    return weights, kv


def can_ask(pool: InferencePool, native_weights: str, weights: str, kv: str) -> bool:
    """Whether arguments of ours can make the engine use these precisions.

    Weights: as the template has them, the model's own, or 16-bit weights quantised to 8 bits on load. The KV cache: as
    the template has it, 16 bits, or 8. Of an engine that we do not know nothing can be asked.
    """
    own_weights, own_kv = template_precisions(pool, native_weights)
    if (weights, kv) == (own_weights, own_kv):
        return True
    if pool.spec.serving.engine.type is EngineType.OTHER:
        return False
    weights_ok = weights in (own_weights, native_weights) or (weights == "Fp8" and native_weights == "Bf16")
    return weights_ok and kv in (own_kv, "Bf16", "Fp8")


def with_argument(arguments: Sequence[str], value: str, *names: str) -> list[str]:
    """Arguments with ``names[0] value`` in place of whatever they said before."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in names:
            skip = True
        elif not any(argument.startswith(f"{name}=") for name in names):
            kept.append(argument)
    return [*kept, f"{names[0]}={value}"]


def _engine_arguments(
    pool: InferencePool, option: Option, arguments: list[str], *, every: Sequence[str], native: str
) -> list[str]:
    """Arguments for an option; ``every`` are those of command and args together, of which the last one counts."""
    defaults = template_precisions(pool, native)
    engine = pool.spec.serving.engine.type
    if engine is EngineType.OTHER:
        return arguments
    width = (
        ("--tensor-parallel-size", "-tp")
        if engine is EngineType.VLLM
        else ("--tp", "--tp-size", "--tensor-parallel-size")
    )
    if option.tensor_parallel > 1 or value_of(every, *width):
        arguments = with_argument(arguments, str(option.tensor_parallel), *width)
    if option.weights != defaults[0] and option.weights == "Fp8":
        arguments = with_argument(arguments, "fp8", "--quantization", "-q")
    elif option.weights != defaults[0] and option.weights == native:
        arguments = with_argument(arguments, "", "--quantization", "-q")[:-1]
    if option.kv != defaults[1]:
        wide = "auto" if option.kv == "Bf16" else ("fp8" if engine is EngineType.VLLM else "fp8_e5m2")
        arguments = with_argument(arguments, wide, "--kv-cache-dtype")
    return arguments


def deployment_name(pool: str, option: Option) -> str:
    """Name of the Deployment that serves an option of a pool."""
    return f"{pool}-{option.key(pool)}"


def deployment_for(
    pool: InferencePool,
    option: Option,
    kind: AcceleratorType,
    *,
    native_weights: str,
    replicas: int,
    host_bytes: float = 0.0,
) -> dict[str, Any]:
    """The Deployment of one option, complete.

    We add the node selector of the accelerator and of its price, a toleration for its resource, the resource itself,
    and engine arguments; everything else is the user's template.

    Args:
        host_bytes: room of the KV tier in host memory that the engine is started with.

    Raises:
        UnusableTemplate: no container to put the engine in.
    """
    template = copy.deepcopy(dict(pool.spec.serving.template or {}))
    defaults = template_precisions(pool, native_weights)
    name, key = deployment_name(pool.name, option), option.key(pool.name)
    selector = {marks.POOL_LABEL: pool.name, marks.OPTION_LABEL: key}

    metadata = _mapping(template, "metadata")
    metadata["labels"] = {**_mapping(metadata, "labels"), **selector, marks.ROUTABLE_LABEL: "true"}
    metadata["annotations"] = {
        **_mapping(metadata, "annotations"),
    }
    spec = _mapping(template, "spec")
    price = chosen_price(kind, option.capacity_type)
    spec["nodeSelector"] = {
        **_mapping(spec, "nodeSelector"),
        **dict(kind.spec.node_selector),
        **(dict(price.node_selector) if price else {}),
    }
    resource = kind.spec.resource_name or ""
    tolerations = spec.get("tolerations") or []
    if isinstance(tolerations, list):  # anything else is the API server's to refuse
        if not any(isinstance(one, Mapping) and one.get("key") in (resource, None) for one in tolerations):
            tolerations = [*tolerations, {"key": resource, "operator": "Exists", "effect": "NoSchedule"}]
        spec["tolerations"] = tolerations

    chosen = engine_container(pool, template)
    containers = []
    for container in spec["containers"]:
        if container is not chosen:
            containers.append(container)
            continue
        resources = _mapping(container, "resources")
        amount = str(option.chips)
        engine = {
            **container,
            "resources": {
                **resources,
                "limits": {**_mapping(resources, "limits"), resource: amount},
                "requests": {**_mapping(resources, "requests"), resource: amount},
            },
        }
        field = "args" if "args" in container or "command" not in container else "command"
        given = container.get(field)
        arguments = texts_of(given)
        if arguments or option.tensor_parallel > 1 or (option.weights, option.kv) != defaults:
            every = arguments_of(container)
            engine[field] = _engine_arguments(pool, option, arguments, every=every, native=native_weights)
        added = arguments_for(pool.spec.serving.engine.type, host_bytes, ranks=option.tensor_parallel)
        if added:
            engine[field] = [*texts_of(engine.get(field)), *added]
            engine["resources"] = with_memory(engine["resources"], host_bytes)
        metadata["annotations"][marks.ENGINE_ANNOTATION] = _engine_facts(pool, option, arguments_of(engine))
        containers.append(engine)
    spec["containers"] = containers
    return {
        "metadata": {
            "name": name,
            "namespace": pool.namespace,
            "labels": dict(selector),
            "annotations": {
                marks.OPTION_ANNOTATION: marks.write_option(option),
                marks.TEMPLATE_ANNOTATION: template_hash(pool.spec.serving.template or {}),
                **({marks.HOST_TIER_ANNOTATION: str(round(host_bytes))} if host_bytes else {}),
            },
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector},
            "template": template,
        },
    }


def plans_host_tier(pool: InferencePool) -> bool:
    """Whether the plan says how large the tier in host memory is."""
    return any(one.medium is KVMedium.HOST and one.sizing is KVSizing.PLANNED for one in pool.spec.kv_cache.tiers)


def _engine_facts(pool: InferencePool, option: Option, arguments: Sequence[str]) -> str:
    """What a pod serves, for whoever finds the pod: an emulator of engines, a router, a person."""
    facts: dict[str, Any] = {
        "model": pool.spec.model.name or pool.name,
        "accelerator": option.accelerator,
        "tensorParallel": option.tensor_parallel,
        "weights": option.weights,
        "kv": option.kv,
        "port": pool.spec.serving.engine.port,
    }
    tier = stated(pool.spec.serving.engine.type, arguments, ranks=option.tensor_parallel)
    if tier is not None and tier.host_bytes:
        facts["hostKvBytes"] = int(tier.host_bytes)
    elif tier is None and pool.spec.serving.engine.type is not EngineType.OTHER and plans_host_tier(pool):
        facts["hostKvBytes"] = 0  # not as large as the pool names it: the plan may do without
    if pool.spec.model.architecture is not None:
        facts["config"] = pool.spec.model.architecture
    return json.dumps(facts, separators=(",", ":"))


def _mapping(parent: Any, name: str) -> dict[str, Any]:
    """The mapping under a name, made where it is missing."""
    value = parent.get(name)
    if not isinstance(value, dict):
        value = {}
        if isinstance(parent, dict):
            parent[name] = value
    return value
