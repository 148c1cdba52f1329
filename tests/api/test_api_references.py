"""What objects say of each other."""

from __future__ import annotations

from typing import Any

from api_objects import Case

from tidefleet.api import validation
from tidefleet.api.reasons import Reason
from tidefleet.api.references import check
from tidefleet.api.validation import Invalid, Parsed, Problem


def an(base: str, name: str, namespace: str = "default", **spec: Any) -> Parsed:
    changes = [("metadata.name", name), ("metadata.namespace", namespace)]
    changes += [(f"spec.{field}", value) for field, value in spec.items()]
    result = validation.parse(Case(base, tuple(changes)).raw)
    assert not isinstance(result, Invalid), str(result)
    return result


def told(problems: tuple[Problem, ...]) -> list[tuple[str, str, Reason]]:
    return [(problem.object, problem.path, problem.reason) for problem in problems]


def calls(*names: str) -> list[dict[str, str]]:
    return [{"class": name, "perTask": "1"} for name in names]


def test_a_class_on_a_pool_that_is_there_is_right() -> None:
    assert check([an("pool", "chat"), an("class", "web")]) == ()


def test_a_class_on_no_pool_is_told_which_there_are() -> None:
    (problem,) = check([an("pool", "chats"), an("class", "web")])
    assert told((problem,)) == [("WorkloadClass default/web", "spec.poolRef.name", Reason.POOL_NOT_FOUND)]
    assert problem.example == '"chats"'


def test_references_end_at_the_namespace() -> None:
    problems = check([an("pool", "chat", "other"), an("pool", "code"), an("class", "web")])
    assert told(problems) == [("WorkloadClass default/web", "spec.poolRef.name", Reason.POOL_NOT_FOUND)]


def test_a_class_alone_is_believed() -> None:
    assert check([an("class", "web", calls=calls("embed"))]) == ()


def test_unknown_accelerators_and_models_are_told_with_the_nearest_name() -> None:
    pool = an("pool", "chat", model={"name": "llama-3.3-70"}, accelerators=[{"type": "h100"}])
    problems = check([pool], accelerators=["h100-sxm", "l4"], models=["llama-3.3-70b", "gpt-oss-20b"])
    assert told(problems) == [
        ("InferencePool default/chat", "spec.model.name", Reason.UNKNOWN_MODEL),
        ("InferencePool default/chat", "spec.accelerators[0].type", Reason.UNKNOWN_ACCELERATOR),
    ]
    assert [problem.example for problem in problems] == ['"llama-3.3-70b"', '"h100-sxm"']


def test_two_pools_cannot_adopt_one_workload() -> None:
    problems = check([an("adopting", "a"), an("adopting", "b"), an("adopting", "c", "other")])
    assert told(problems) == [("InferencePool default/b", "spec.serving.workloads[0]", Reason.OVERLAPPING_PODS)]


def test_a_circle_of_calls_is_told_once() -> None:
    classes = [
        an("class", "a", calls=calls("b")),
        an("class", "b", calls=calls("c", "d")),
        an("class", "c", calls=calls("a")),
        an("class", "d"),
    ]
    (problem,) = check(classes)
    assert told((problem,)) == [("WorkloadClass default/a", "spec.calls", Reason.CALL_CYCLE)]
    assert problem.got == '"a -> b -> c -> a"'


def test_calls_without_a_circle_are_right() -> None:
    assert check([an("class", "a", calls=calls("b", "c")), an("class", "b", calls=calls("c")), an("class", "c")]) == ()


def test_shares_of_a_pool_add_up_to_no_more_than_one() -> None:
    problems = check([an("class", name, trafficShare="0.4") for name in "abc"])
    assert [(problem.object, problem.path) for problem in problems] == [
        ("WorkloadClass default/c", "spec.trafficShare"),
    ]
    assert check([an("class", name, trafficShare="0.5") for name in "ab"]) == ()
