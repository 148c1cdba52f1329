"""Which measurement corrects an estimate."""

from __future__ import annotations

import datetime
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidefleet import catalogue
from tidefleet.economics.evidence import (
    UNCORRECTED,
    Correction,
    ProfilePoint,
    best_evidence,
    monotone,
    planning_share,
    profile_sigma,
    roofline_of,
)
from tidefleet.economics.replica import Replica
from tidefleet.economics.roofline import decode_step, prefill
from tidefleet.economics.serving import Estimate, estimate
from tidefleet.economics.shape import TokenShape
from tidefleet.planning.evidence import Evidence, Profile, key_of
from tidefleet.planning.from_api import accelerator_of

H100 = accelerator_of(catalogue.accelerator_types()["h100-sxm"])
REPLICA = Replica(catalogue.models()["llama-3.3-70b"], H100, 4, "Fp8", "Fp8")
MEASURED_ON = datetime.date(2026, 10, 1)


def modelled_tpot(batch: float, input_tokens: float, output_tokens: float) -> float:
    step = float(decode_step(REPLICA, np.array([batch]), input_tokens + output_tokens / 2).seconds[0])
    return step + batch / output_tokens * float(prefill(REPLICA, input_tokens, 0.0).seconds[0])


def a_profile(*factors: tuple[float, float], **changes: object) -> Profile:
    """Points at (batch, measured over modelled)."""
    points = tuple(ProfilePoint(b, 1000, 500, tpot_seconds=f * modelled_tpot(b, 1000, 500)) for b, f in factors)
    return replace(Profile("llama-3.3-70b", "VLLM", "0.32.0", 4, "Fp8", points, MEASURED_ON), **changes)


def test_live_calibration_beats_a_profile_and_a_profile_beats_the_lowest_sigma() -> None:
    live, profile, group = Correction("Live", 0.2), Correction("Profile", 0.1), Correction("Group", 0.01)
    assert best_evidence([group, profile, live]) is live
    assert best_evidence([group, profile]) is profile
    assert best_evidence([group]) is group
    assert best_evidence([replace(group, sigma=0.9)]) is UNCORRECTED
    assert best_evidence([]) is UNCORRECTED


@pytest.mark.parametrize("broken", [math.nan, math.inf, 0.0, -1.0])
def test_a_measurement_that_cannot_be_is_left_out(broken: float) -> None:
    assert best_evidence([Correction("Live", broken)]) is UNCORRECTED
    assert best_evidence([Correction("Live", 0.1, ((1.0, broken),))]) is UNCORRECTED
    assert best_evidence([Correction("Live", 0.1, prefill=broken)]) is UNCORRECTED
    assert best_evidence([Correction("Live", 0.1, ())]) is UNCORRECTED


def test_a_profile_reproduces_its_points_and_interpolates_in_the_logarithm_of_the_batch() -> None:
    found = Evidence().correction(REPLICA, [a_profile((1, 1.0), (100, 1.4))])
    assert found.provenance == "Profile"
    assert found.decode_factor(np.array([1.0, 10.0, 100.0, 1000.0])) == pytest.approx([1.0, 1.2, 1.4, 1.4])


def test_a_profile_moves_the_estimate_by_what_was_measured() -> None:
    plain = estimate(REPLICA, TokenShape(1000, 500), batch=64)
    found = estimate(
        REPLICA,
        TokenShape(1000, 500),
        batch=64,
        correction=Evidence().correction(REPLICA, [a_profile((1, 1.3), (64, 1.3))]),
    )
    assert isinstance(plain, Estimate)
    assert isinstance(found, Estimate)
    assert found.tpot_seconds == pytest.approx(1.3 * plain.tpot_seconds, rel=1e-6)
    assert found.sigma < plain.sigma


def test_another_model_precision_or_engine_is_not_this_ones_measurement() -> None:
    evidence = Evidence(engine="VLLM")
    other_models = [
        a_profile((8, 1.5), model="llama-3.1-8b"),
        a_profile((8, 1.5), weights="Bf16"),
        a_profile((8, 1.5), engine="SGLang"),
    ]
    assert evidence.correction(REPLICA, other_models) == roofline_of(REPLICA)
    assert Evidence(engine="Other").correction(REPLICA, other_models[2:]).provenance == "Profile"


def test_profiles_of_another_width_correct_by_their_groups_scalar_and_a_profile_of_its_own_comes_first() -> None:
    wider = replace(REPLICA, chips=8)
    many = tuple((float(batch), 1.3) for batch in (1, 2, 4, 8, 16, 32, 64, 128))
    profile = a_profile(*many)
    found = Evidence(engine="VLLM").correction(wider, [profile])
    assert found.provenance == "Group"
    assert found.decode_factor(np.array([1.0, 100.0])) == pytest.approx(1.3, rel=0.03)
    assert found.prefill_factor == pytest.approx(1.3, rel=0.03)
    assert profile_sigma(0.0, True) < found.sigma < roofline_of(wider).sigma
    assert Evidence(engine="VLLM").correction(REPLICA, [profile]).provenance == "Profile"
    own = a_profile((8, 1.1), tensor_parallel=8)
    assert Evidence(engine="VLLM").correction(wider, [profile, own]).provenance == "Profile"


def test_a_group_that_disagrees_or_is_old_leaves_the_roofline_as_it_is() -> None:
    wider = replace(REPLICA, chips=8)
    torn = a_profile(*((float(batch), 1.0 if batch % 2 else 3.0) for batch in range(1, 13)))
    few = a_profile((8, 1.5))
    old = a_profile(*((float(batch), 1.3) for batch in range(1, 13)))
    late = Evidence(today=MEASURED_ON + datetime.timedelta(days=600))
    assert Evidence(engine_version="0.40.0").correction(wider, [few]) == roofline_of(wider)
    assert late.correction(wider, [old]) == roofline_of(wider)
    assert Evidence().correction(wider, [old]).provenance == "Group"
    assert Evidence().correction(wider, [torn]) == roofline_of(wider)


def test_the_scalar_of_a_group_does_not_beat_what_the_engines_show() -> None:
    wider = replace(REPLICA, chips=8)
    live = Correction("Live", 0.3, ((1.0, 1.1),), 1.2)
    profile = a_profile(*((float(batch), 1.3) for batch in range(1, 13)))
    assert Evidence(live={key_of(wider): live}).correction(wider, [profile]) is live


def test_an_old_profile_of_another_version_is_less_sure_and_a_day_changes_nothing() -> None:
    fresh = Evidence(engine_version="0.32.0", today=MEASURED_ON).correction(REPLICA, [a_profile((8, 1.0))])
    old = Evidence(engine_version="0.32.0", today=MEASURED_ON + datetime.timedelta(days=365)).correction(
        REPLICA, [a_profile((8, 1.0))]
    )
    other = Evidence(engine_version="0.40.0", today=MEASURED_ON).correction(REPLICA, [a_profile((8, 1.0))])
    assert fresh.sigma < other.sigma
    assert fresh.sigma < old.sigma
    assert fresh.sigma == pytest.approx(profile_sigma(0.0, True))
    tomorrow = Evidence(engine_version="0.32.0", today=MEASURED_ON + datetime.timedelta(days=1))
    assert tomorrow.correction(REPLICA, [a_profile((8, 1.0))]) == fresh


def test_a_live_calibration_is_kept_by_what_runs() -> None:
    live = Correction("Live", 0.04, ((1.0, 1.1),), 1.2)
    evidence = Evidence(live={key_of(REPLICA): live})
    assert evidence.correction(REPLICA, [a_profile((8, 1.5))]) is live
    wider = replace(REPLICA, chips=8)
    assert evidence.correction(wider) == roofline_of(wider)


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.001, 1)), min_size=1, max_size=12).map(
        lambda pairs: [(f, t) for (f, _), t in zip(pairs, sorted(t for _, t in pairs), strict=True)]
    )
)
def test_corrected_times_never_fall_as_the_batch_grows(pairs: list[tuple[float, float]]) -> None:
    factors, times = zip(*pairs, strict=True)
    corrected = [f * t for f, t in zip(monotone(factors, times), times, strict=True)]
    assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(corrected))
    assert sum(corrected) == pytest.approx(sum(f * t for f, t in pairs))


@given(st.floats(0, 3))
def test_less_is_planned_on_what_is_less_sure(sigma: float) -> None:
    assert 0 < planning_share(sigma) <= 1
    assert planning_share(sigma + 0.1) < planning_share(sigma)
