"""From template and option to a Deployment: golden manifests, and the patches that change a live one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from controller_builders import SHIPPED, TEMPLATE, a_kind, a_pool, an_option
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.api import InferencePool, Reason
from tidefleet.api.validation import parse
from tidefleet.controller import marks
from tidefleet.controller.act import merge_difference
from tidefleet.controller.catalogue_sync import leave_out
from tidefleet.controller.template import (
    UnusableTemplate,
    check_template,
    deployment_for,
    template_hash,
    template_precisions,
)
from tidefleet.planning.options import Option

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.yaml"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_deployment_of_an_option_is_the_golden_one(path: Path) -> None:
    given_, expected = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    pool, one = parse(given_["pool"], strict=True), given_["option"]
    assert isinstance(pool, InferencePool)
    option = Option(one["accelerator"], one["capacityType"], one["tensorParallel"], one["weights"], one["kv"])
    before = copy.deepcopy(pool.spec.serving.template)
    made = deployment_for(
        pool,
        option,
        SHIPPED[option.accelerator],
        native_weights=given_["nativeWeights"],
        replicas=given_["replicas"],
    )
    assert made == expected
    assert pool.spec.serving.template == before
    assert marks.read_option(made["metadata"]["annotations"]) == option


def test_there_is_a_golden_deployment_for_each_engine() -> None:
    engines = {next(yaml.safe_load_all(p.read_text()))["pool"]["spec"]["serving"]["engine"]["type"] for p in GOLDEN}
    assert engines == {"VLLM", "SGLang", "Other"}


def test_a_prices_node_labels_select_its_nodes() -> None:
    spot = {"capacityType": "Spot", "usdPerChipHour": "1.00", "nodeSelector": {"karpenter.sh/capacity-type": "spot"}}
    kind = a_kind("l40s", prices=[spot])
    option = Option("l40s", "Spot", 1, "Bf16", "Bf16")
    made = deployment_for(a_pool(), option, kind, native_weights="Bf16", replicas=1)
    assert made["spec"]["template"]["spec"]["nodeSelector"] == {
        "nvidia.com/gpu.product": "NVIDIA-L40S",
        "karpenter.sh/capacity-type": "spot",
    }


def test_several_containers_need_one_named_engine() -> None:
    with pytest.raises(UnusableTemplate, match=r"containers is a, b; expected one container, or one named engine") as e:
        check_template(_bare({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}))
    assert e.value.reason is Reason.NO_ENGINE_CONTAINER
    check_template(_bare({"spec": {"containers": [{"name": "a"}, {"name": "engine"}]}}))
    for nothing in ({}, {"spec": {}}, {"spec": {"containers": []}}, {"spec": {"containers": "engine"}}, {"spec": 7}):
        with pytest.raises(UnusableTemplate):
            check_template(_bare(nothing))


def test_a_template_that_is_too_large_says_by_how_much() -> None:
    with pytest.raises(UnusableTemplate, match=r"is 2\d{5} bytes; expected at most 131072") as caught:
        check_template(_bare({**TEMPLATE, "metadata": {"annotations": {"big": "x" * 200_000}}}))
    assert caught.value.reason is Reason.TEMPLATE_TOO_LARGE


def _bare(template: dict[str, Any]) -> InferencePool:
    """A pool with a template that the second look would refuse, as the API server may still hold it."""
    pool = a_pool()
    serving = pool.spec.serving.model_copy(update={"template": template})
    return pool.model_copy(update={"spec": pool.spec.model_copy(update={"serving": serving})})


@pytest.mark.parametrize(
    ("arguments", "precisions"),
    [
        ([], ("Bf16", "Bf16")),
        (["--quantization=fp8"], ("Fp8", "Bf16")),
        (["-q", "awq", "--kv-cache-dtype", "fp8_e4m3"], ("Fp4", "Fp8")),
        (["--kv-cache-dtype=auto"], ("Bf16", "Bf16")),
        (["--quantization=awq", "--quantization=fp8"], ("Fp8", "Bf16")),
        (["--quantization"], ("Bf16", "Bf16")),
        (["--quantization=unheard-of"], ("Bf16", "Bf16")),
    ],
)
def test_precisions_are_read_from_the_templates_arguments(arguments: list[str], precisions: tuple[str, str]) -> None:
    pool = _bare({"spec": {"containers": [{"name": "engine", "args": arguments}]}})
    assert template_precisions(pool, "Bf16") == precisions


def test_the_hash_of_a_template_does_not_depend_on_the_order_of_its_fields() -> None:
    assert template_hash({"a": 1, "b": {"c": 2, "d": 3}}) == template_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert template_hash({"a": 1}) != template_hash({"a": 2})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(["containers", "tolerations", "nodeSelector", "volumes"]),
        json_values | st.lists(st.dictionaries(st.sampled_from(["name", "args", "command", "resources"]), json_values)),
    )
)
def test_any_template_gives_a_deployment_or_says_why_not(spec: dict[str, Any]) -> None:
    pool = _bare({"spec": spec})
    try:
        made = deployment_for(
            pool, an_option(tp=2, weights="Fp8"), SHIPPED["h100-sxm"], native_weights="Bf16", replicas=1
        )
    except UnusableTemplate:
        return
    limits = [one.get("resources", {}).get("limits", {}) for one in made["spec"]["template"]["spec"]["containers"]
              if isinstance(one, dict) and isinstance(one.get("resources"), dict)]  # fmt: skip
    assert any(isinstance(one, dict) and one.get("nvidia.com/gpu") == "2" for one in limits)


# --- patches ---------------------------------------------------------------------------------------------------------

leaves = st.integers(0, 3) | st.text("ab", max_size=2) | st.booleans().map(lambda b: "yes" if b else "no")
documents = st.dictionaries(
    st.sampled_from("abcd"),
    st.recursive(
        leaves | st.lists(leaves, max_size=3),
        lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def patched(target: Any, patch: Any) -> Any:
    """RFC 7386, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = patched(result.get(name), value)
    return result


@settings(deadline=None, max_examples=200)
@given(documents, documents)
def test_a_patch_turns_what_lives_into_what_is_wanted(live: dict[str, Any], wanted: dict[str, Any]) -> None:
    patch = merge_difference(live, wanted)
    assert patched(live, patch) == wanted
    assert (patch == {}) == (live == wanted)


def test_a_patch_names_only_what_differs() -> None:
    live = {"spec": {"containers": [{"name": "engine"}], "dnsPolicy": "ClusterFirst", "nodeSelector": {"a": "1"}}}
    wanted = {"spec": {"containers": [{"name": "engine"}], "nodeSelector": {"a": "1", "b": "2"}}}
    assert merge_difference(live, wanted) == {"spec": {"dnsPolicy": None, "nodeSelector": {"b": "2"}}}


# --- fields that are left to the user --------------------------------------------------------------------------------


def a_body() -> dict[str, Any]:
    return {
        "metadata": {"name": "h100-sxm"},
        "spec": {
            "tdpWatts": 700,
            "nodeSelector": {"nvidia.com/gpu.product": "H100", "nvidia.com/gpu": "yes"},
            "roles": ["Prefill", "Decode"],
            "prices": [
                {"capacityType": "OnDemand", "provider": "aws", "region": "us-east-1", "usdPerChipHour": "6.88"},
                {"capacityType": "OnDemand", "provider": "", "region": "", "usdPerChipHour": "2.50"},
                {"capacityType": "Spot", "provider": "aws", "usdPerChipHour": "2.10", "nodeSelector": {"a.b/c": "d"}},
            ],
            "profiles": [{"model": "m", "tensorParallel": 1, "x": 1}, {"model": "m", "tensorParallel": 2, "x": 2}],
        },
    }


def without(path: str) -> dict[str, Any]:
    body = a_body()
    leave_out(body, path)
    return body["spec"]


def test_a_plain_field_is_left_out() -> None:
    spec = without(".spec.tdpWatts")
    assert spec == {key: value for key, value in a_body()["spec"].items() if key != "tdpWatts"}


def test_a_label_whose_key_has_dots_is_left_out() -> None:
    assert without(".spec.nodeSelector.nvidia.com/gpu.product")["nodeSelector"] == {"nvidia.com/gpu": "yes"}
    assert without(".spec.nodeSelector.nvidia.com/gpu")["nodeSelector"] == {"nvidia.com/gpu.product": "H100"}


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        ('.spec.prices[capacityType="OnDemand",provider="aws",region="us-east-1"].usdPerChipHour', 0),
        ('.spec.prices[capacityType="OnDemand",provider="aws",region="us-east-1"]', 0),
        ('.spec.prices[capacityType="OnDemand",provider="",region=""].asOf', None),
        ('.spec.prices[capacityType="OnDemand",provider="",region=""].usdPerChipHour', 1),
        ('.spec.prices[capacityType="Spot",provider="aws",region=""].nodeSelector.a.b/c', 2),
        ('.spec.prices[capacityType="OnDemand"].usdPerChipHour', None),  # two such: neither is meant for certain
        ('.spec.prices[capacityType="Reserved"].usdPerChipHour', None),
        (".spec.prices[0].usdPerChipHour", None),
    ],
)
def test_a_field_of_a_list_item_takes_the_whole_item_along(path: str, gone: int | None) -> None:
    prices = a_body()["spec"]["prices"]
    assert without(path)["prices"] == [one for index, one in enumerate(prices) if index != gone]


def test_items_are_known_by_numbers_and_values_too() -> None:
    assert without('.spec.profiles[model="m",tensorParallel=2].x')["profiles"] == [
        {"model": "m", "tensorParallel": 1, "x": 1}
    ]
    assert without('.spec.roles[="Prefill"]')["roles"] == ["Decode"]


@settings(deadline=None, max_examples=150)
@given(
    st.text(max_size=30)
    | st.lists(
        st.sampled_from(
            [
                ".spec",
                ".prices",
                ".roles",
                ".nodeSelector",
                ".nvidia.com/gpu",
                ".tdpWatts",
                "[",
                "]",
                "[0]",
                "[]",
                ".",
                '[="Prefill"]',
                '[capacityType="Spot"]',
                '[a="b"]',
                ".usdPerChipHour",
                '"',
                ".nope",
            ]
        ),
        max_size=6,
    ).map("".join)
)
def test_an_unknown_path_changes_nothing_and_no_path_fails(path: str) -> None:
    body = a_body()
    leave_out(body, path)
    if not path.startswith(".spec"):
        assert body == a_body()


# --- marks -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(json_values | st.text(max_size=60))
def test_forged_marks_are_ignored(value: Any) -> None:
    import json

    text = value if isinstance(value, str) else json.dumps(value)
    annotations = dict.fromkeys((marks.OPTION_ANNOTATION, marks.ADOPTED_ANNOTATION, marks.EPOCH_ANNOTATION), text)
    assert marks.read_option(annotations) is None
    assert marks.read_adopted(annotations) is None
    assert marks.read_epoch(annotations) >= 0
    assert marks.decision_epoch(value) >= 0


def test_marks_are_read_as_they_were_written() -> None:
    option = Option("h200-sxm", "Spot", 4, "Fp8", "Bf16")
    assert marks.read_option({marks.OPTION_ANNOTATION: marks.write_option(option)}) == option
    assert marks.read_adopted({marks.ADOPTED_ANNOTATION: marks.write_adopted("prod/chat", "uid-1", 3)}) == ("uid-1", 3)
    assert marks.read_epoch({marks.EPOCH_ANNOTATION: "17"}) == 17
    assert marks.decision_epoch("e7-00001c") == 7
