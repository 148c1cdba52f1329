"""Which model of the time is nearest to public runs of a group of replicas, and how sure it is of others."""

from __future__ import annotations

import datetime
import math
from dataclasses import replace

import pytest

from tidefleet import catalogue
from tidefleet.economics.efficiency import Efficiency
from tidefleet.economics.evidence import OTHER_VERSION_SIGMA, PROFILE_SIGMA, SIGMA_PER_YEAR, Correction, roofline_of
from tidefleet.economics.group_table import GROUPS
from tidefleet.economics.groups import Group, family_of, group_evidence, group_of
from tidefleet.economics.profile import OTHER_WIDTH_SIGMA
from tidefleet.economics.replica import Replica, Speculation
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import TokenShape
from tidefleet.planning.evidence import Evidence, key_of
from tidefleet.planning.from_api import accelerator_of

MODELS = catalogue.models()
CHIPS = {name: accelerator_of(kind) for name, kind in catalogue.accelerator_types().items()}
REPLICA = Replica(MODELS["llama-3.3-70b"], CHIPS["h200-sxm"], 4, "Fp8", "Fp8", engine="vllm")
DAY = datetime.date(2026, 2, 1)
GROUP = Group(
    model="llama-3.1-70b",
    family=family_of(MODELS["llama-3.1-70b"]),
    accelerator="h200-sxm",
    engine="vllm",
    weights="Fp8",
    chips=(1, 4, 8),
    runs=60,
    factor=1.3,
    roofline=0.30,
    scalar=0.10,
    measured_on=DAY,
    versions=("0.18.0",),
)
THEIRS = Correction("AIConfigurator", 1.0, decode=((1.0, 0.9), (64.0, 1.1)), prefill=0.8, source="tables")


def nearest(group: Group, *, replica: Replica = REPLICA, other=None, **known: object) -> Correction:
    found = group_evidence(replica, [group], other=other, **known)
    assert found is not None
    return found


def test_copies_of_a_model_are_one_family_and_other_sizes_are_not() -> None:
    assert family_of(MODELS["llama-3.3-70b"]) == family_of(MODELS["llama-3.1-70b"])
    assert family_of(replace(MODELS["llama-3.3-70b"], name="our-own")) == family_of(MODELS["llama-3.1-70b"])
    assert family_of(MODELS["deepseek-v3"]) == family_of(MODELS["deepseek-r1"])
    assert family_of(MODELS["llama-3.1-8b"]) != family_of(MODELS["llama-3.1-70b"])


def test_the_lowest_measured_error_wins_whichever_model_it_is() -> None:
    by_scalar = nearest(GROUP)
    assert (by_scalar.provenance, by_scalar.decode, by_scalar.prefill) == ("Group", ((1.0, 1.3),), 1.3)
    as_it_is = nearest(replace(GROUP, roofline=0.09))
    assert (as_it_is.provenance, as_it_is.decode, as_it_is.sigma) == ("Roofline", ((1.0, 1.0),), 0.09)
    theirs = nearest(replace(GROUP, other=0.08, beside=0.1), other=lambda _group, _replica: THEIRS)
    assert (theirs.provenance, theirs.decode, theirs.prefill) == ("AIConfigurator", THEIRS.decode, 0.8)
    assert theirs.sigma == 0.08
    assert theirs.source.startswith("tables, by 60 runs of llama-3.1-70b on h200-sxm with vllm 0.18.0")


def test_a_difference_that_may_be_chance_leaves_the_simpler_model() -> None:
    assert nearest(replace(GROUP, roofline=0.10, scalar=0.095)).provenance == "Roofline"
    assert nearest(replace(GROUP, roofline=0.10, scalar=0.095, runs=2000)).provenance == "Group"
    close = replace(GROUP, other=0.095, beside=0.10)
    assert nearest(close, other=lambda _group, _replica: THEIRS).provenance == "Group"


def test_the_other_model_is_asked_only_where_it_is_the_nearest() -> None:
    asked = []

    def other(group: Group, replica: Replica) -> Correction | None:
        asked.append((group, replica))
        return None

    assert nearest(replace(GROUP, other=0.2, beside=0.1), other=other).provenance == "Group"
    assert nearest(GROUP, other=other).provenance == "Group"
    assert asked == []
    nearer = replace(GROUP, other=0.05, beside=0.1)
    assert nearest(nearer).provenance == "Group"  # none is at hand
    assert nearest(nearer, other=other).provenance == "Group"  # it has no tables for this replica
    assert asked == [(nearer, REPLICA)]


def test_sigma_grows_with_age_version_and_width_up_to_that_of_the_roofline() -> None:
    year = DAY + datetime.timedelta(days=365)
    assert nearest(GROUP).sigma == 0.10
    assert nearest(replace(GROUP, scalar=0.02)).sigma == PROFILE_SIGMA
    aged = nearest(GROUP, today=year).sigma
    assert aged == pytest.approx(math.hypot(0.10, SIGMA_PER_YEAR * 360 / 365))
    assert nearest(GROUP, today=year + datetime.timedelta(days=24)).sigma == aged  # in steps, so memos hold
    assert nearest(GROUP, engine_version="0.18.0").sigma == 0.10
    assert nearest(GROUP, engine_version="0.19.0").sigma == pytest.approx(math.hypot(0.10, OTHER_VERSION_SIGMA))
    unstated = replace(GROUP, versions=())
    assert nearest(unstated, engine_version="0.19.0").sigma == 0.10
    two = replace(REPLICA, chips=2)
    assert nearest(GROUP, replica=two).sigma == pytest.approx(math.hypot(0.10, OTHER_WIDTH_SIGMA))
    late = DAY + datetime.timedelta(days=2000)
    assert nearest(GROUP, today=late).sigma == roofline_of(REPLICA).sigma
    unsure = replace(GROUP, roofline=0.6, scalar=0.5)
    assert nearest(unsure, today=late).sigma == 0.5  # what was measured is never made smaller


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": ""},
        {"engine": "sglang"},
        {"weights": "Bf16"},
        {"accelerator": CHIPS["h100-sxm"]},
        {"model": MODELS["qwen3-32b"]},
        {"chips": 16},
        {"tensor_parallel": 1},
        {"compute": "Bf16"},
        {"efficiency": Efficiency()},
        {"speculation": Speculation(tokens=4, accept_length=2.0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_runs_say_nothing_about_replicas_unlike_those_that_ran(changes: dict[str, object]) -> None:
    assert group_of(REPLICA, [GROUP]) is GROUP
    assert group_evidence(replace(REPLICA, **changes), [GROUP]) is None


def test_the_engine_is_found_in_any_case() -> None:
    assert group_of(replace(REPLICA, engine="VLLM"), [GROUP]) is GROUP


def test_measurements_of_ones_own_beat_public_runs() -> None:
    one = next(each for each in GROUPS if each.prefers_scalar)
    replica = Replica(MODELS[one.model], CHIPS[one.accelerator], one.chips[-1], one.weights, "Fp8", engine=one.engine)
    assert Evidence().correction(replica).provenance == "Group"
    live = Correction("Live", 0.3)
    assert Evidence(live={key_of(replica): live}).correction(replica) is live
    assert Evidence(engine="Other").correction(replace(replica, engine="other")) == roofline_of(replica)


def test_public_runs_make_no_estimate_less_sure() -> None:
    for one in GROUPS:
        replica = Replica(
            MODELS[one.model], CHIPS[one.accelerator], one.chips[-1], one.weights, "Fp8", engine=one.engine
        )
        for today in (None, datetime.date(2026, 11, 26), datetime.date(2030, 1, 1)):
            assert Evidence(today=today).correction(replica).sigma <= roofline_of(replica).sigma


def test_every_group_corrects_an_estimate_of_each_width_that_ran() -> None:
    for one in GROUPS:
        for chips in one.chips:
            replica = Replica(MODELS[one.model], CHIPS[one.accelerator], chips, one.weights, "Fp8", engine=one.engine)
            correction = Evidence().correction(replica)
            assert correction.source.startswith(f"{one.runs} runs of {one.model} on {one.accelerator}")
            assert 0.2 < one.factor < 5.0
            found = estimate(replica, TokenShape(1024.0, 256.0), correction=correction)
            if isinstance(found, Estimate):
                assert found.provenance == correction.provenance


def test_no_two_groups_speak_for_the_same_replica() -> None:
    keys = [(one.family, one.accelerator, one.engine, one.weights) for one in GROUPS]
    assert len(set(keys)) == len(keys)
    assert {one.family for one in GROUPS} == {family_of(MODELS[one.model]) for one in GROUPS}
