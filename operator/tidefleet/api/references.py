"""What objects say of each other: references that lead nowhere, circles of calls, and two owners of one thing.

A reference is judged only where its other end could be seen: names of a kind of which nothing was given are believed.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal

from tidefleet.api.accelerator_type import AcceleratorType
from tidefleet.api.base import Broken, render
from tidefleet.api.inference_pool import InferencePool
from tidefleet.api.reasons import Reason
from tidefleet.api.second_look import Finding
from tidefleet.api.validation import Parsed, Problem, problem
from tidefleet.api.workload_class import WorkloadClass

Key = tuple[str, str]


def check(
    objects: Sequence[Parsed], *, accelerators: Collection[str] = (), models: Collection[str] = ()
) -> tuple[Problem, ...]:
    """What is wrong between the objects.

    Args:
        objects: Every object that is known.
        accelerators: Names of AcceleratorTypes known otherwise, such as the shipped catalogue's.
        models: Names of models in the catalogue; empty: any name is believed.
    """
    pools = {each.key: each for each in objects if isinstance(each, InferencePool)}
    classes = {each.key: each for each in objects if isinstance(each, WorkloadClass)}
    known = {each.name for each in objects if isinstance(each, AcceleratorType)} | set(accelerators)
    found: list[Problem] = []
    for pool in pools.values():
        found.extend(problem(str(pool), each) for each in _of_pool(pool, known, models))
    found.extend(_adopted_twice(pools))
    for each in classes.values():
        found.extend(problem(str(each), finding) for finding in _of_class(each, pools, classes))
    found.extend(_circles(classes))
    found.extend(_shares(classes))
    return tuple(found)


def _of_pool(pool: InferencePool, accelerators: Collection[str], models: Collection[str]) -> Iterator[Finding]:
    model = pool.spec.model
    if models and model.architecture is None and model.name is not None and model.name not in models:
        broken = Broken(
            ("spec", "model", "name"),
            render(model.name),
            "a model of the catalogue, or an architecture beside the name",
            f'"{_nearest(model.name, models)}"',
        )
        yield Finding(broken, Reason.UNKNOWN_MODEL)
    named: list[tuple[tuple[str | int, ...], str]] = [
        (("spec", "accelerators", index, "type"), each.type) for index, each in enumerate(pool.spec.accelerators)
    ]
    for index, workload in enumerate(pool.spec.serving.workloads or ()):
        named.append((("spec", "serving", "workloads", index, "accelerator"), workload.accelerator))
    for index, name in enumerate(pool.spec.roles.prefill_only):
        named.append((("spec", "roles", "prefillOnly", index), name))
    for path, name in named:
        if accelerators and name not in accelerators:
            broken = Broken(path, render(name), "the name of an AcceleratorType", f'"{_nearest(name, accelerators)}"')
            yield Finding(broken, Reason.UNKNOWN_ACCELERATOR)


def _nearest(name: str, names: Collection[str]) -> str:
    """The known name that is most like the given one."""
    return difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.0)[0]


def _of_class(
    each: WorkloadClass, pools: Mapping[Key, InferencePool], classes: Mapping[Key, WorkloadClass]
) -> Iterator[Finding]:
    pool = each.spec.pool_ref.name
    here = sorted(name for namespace, name in pools if namespace == each.namespace)
    if here and pool not in here:
        expected = "the name of an InferencePool in the same namespace"
        broken = Broken(("spec", "poolRef", "name"), render(pool), expected, f'"{_nearest(pool, here)}"')
        yield Finding(broken, Reason.POOL_NOT_FOUND)
    for index, call in enumerate(each.spec.calls):
        if (each.namespace, call.class_name) not in classes:
            others = [name for namespace, name in classes if namespace == each.namespace and name != each.name]
            if not others:
                continue
            expected = "the name of a WorkloadClass in the same namespace"
            path = ("spec", "calls", index, "class")
            broken = Broken(path, render(call.class_name), expected, f'"{_nearest(call.class_name, others)}"')
            yield Finding(broken, Reason.CLASS_NOT_FOUND)


def _adopted_twice(pools: Mapping[Key, InferencePool]) -> Iterator[Problem]:
    owners: dict[tuple[str, str, str], InferencePool] = {}
    for pool in pools.values():
        for index, workload in enumerate(pool.spec.serving.workloads or ()):
            target = (pool.namespace, workload.kind.value, workload.name)
            owner = owners.setdefault(target, pool)
            if owner is not pool:
                broken = Broken(
                    ("spec", "serving", "workloads", index),
                    render(f"{workload.kind.value} {workload.name}"),
                    f"a workload that no other pool adopts ({owner} does)",
                    "another workload",
                )
                yield problem(str(pool), Finding(broken, Reason.OVERLAPPING_PODS))


def _circles(classes: Mapping[Key, WorkloadClass]) -> Iterator[Problem]:
    """One problem for each circle of calls, told of its first class in order of names."""
    settled: set[Key] = set()
    for start in sorted(classes):
        path: list[Key] = [start]
        pending = [iter(_called(classes, start))]
        while pending and start not in settled:
            following = next(pending[-1], None)
            if following is None:
                settled.add(path.pop())
                pending.pop()
            elif following in path:
                circle = [*path[path.index(following) :], following]
                broken = Broken(
                    ("spec", "calls"),
                    render(" -> ".join(name for _, name in circle)),
                    "calls that do not come back to the class",
                    "one call less",
                )
                yield problem(str(classes[following]), Finding(broken, Reason.CALL_CYCLE))
            elif following not in settled:
                path.append(following)
                pending.append(iter(_called(classes, following)))


def _called(classes: Mapping[Key, WorkloadClass], key: Key) -> list[Key]:
    return [(key[0], call.class_name) for call in classes[key].spec.calls if (key[0], call.class_name) in classes]


def _shares(classes: Mapping[Key, WorkloadClass]) -> Iterator[Problem]:
    """Shares of one pool that add up to more than all of it, told of the last class in order of names."""
    by_pool: dict[Key, list[WorkloadClass]] = defaultdict(list)
    for key in sorted(classes):
        if classes[key].spec.traffic_share is not None:
            by_pool[key[0], classes[key].spec.pool_ref.name].append(classes[key])
    for (_, pool), members in by_pool.items():
        total = sum((each.spec.traffic_share or Decimal(0) for each in members), Decimal(0))
        if total > 1:
            broken = Broken(
                ("spec", "trafficShare"),
                render(format(members[-1].spec.traffic_share or Decimal(0), "f")),
                f"shares of the pool {pool} that add up to 1 or less (they add up to {total})",
                '"0.4"',
            )
            yield problem(str(members[-1]), Finding(broken))
