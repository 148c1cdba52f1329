"""The operating point by which needed seconds are counted: its shares sum to one, and objectives hold there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidefleet.routing.rates import Rates
from tidefleet.simulator.operating import KV_SHARE, Part, operating_point

RATES = Rates(
    prefill_seconds_per_token=7.6e-5,
    step_seconds=0.013,
    step_seconds_per_sequence=3.5e-5,
    step_seconds_per_kv_token=2.1e-8,
)
CHAT = Part(rate=1.0, tokens=4000.0, prefill_seconds=0.15, output=300.0, tpot_seconds=0.05)
CODE = Part(rate=4.0, tokens=2000.0, prefill_seconds=0.12, output=30.0, tpot_seconds=0.04)


def test_the_strictest_objective_of_the_mix_holds():
    found = operating_point(RATES, [CHAT, CODE], kv_tokens=1.1e6, max_batch=256)
    assert found.limited_by == "objective"
    assert found.tpot_seconds == pytest.approx(0.04)


def test_needed_seconds_of_all_that_a_full_replica_serves_are_its_time():
    found = operating_point(RATES, [CHAT, CODE], kv_tokens=1.1e6, max_batch=256)
    decoded = found.batch / found.tpot_seconds
    per_mix = CHAT.rate * CHAT.output + CODE.rate * CODE.output
    prefill = decoded / per_mix * (CHAT.rate * CHAT.prefill_seconds + CODE.rate * CODE.prefill_seconds)
    assert prefill == pytest.approx(found.prefill_share)
    assert prefill + decoded * found.seconds_per_output_token == pytest.approx(1.0)


def test_kv_room_and_the_engines_limit_bound_the_batch():
    room = operating_point(RATES, [CHAT], kv_tokens=41_500.0, max_batch=256)
    assert (room.limited_by, room.batch) == ("KV room", pytest.approx(KV_SHARE * 10.0))
    few = operating_point(RATES, [CHAT], kv_tokens=1.1e6, max_batch=4)
    assert (few.limited_by, few.batch) == ("batch limit", 4.0)


@given(tpot=st.floats(0.02, 0.2), output=st.floats(1.0, 5000.0), prefill=st.floats(0.0, 0.004))
def test_a_looser_objective_never_lowers_throughput(tpot, output, prefill):
    part = Part(1.0, 3000.0, prefill * output, output)

    def per_second(limit):
        found = operating_point(RATES, [part], kv_tokens=1.1e6, max_batch=256, tpot_seconds=limit)
        return found.batch / found.tpot_seconds

    assert per_second(tpot * 1.2) >= per_second(tpot) - 1e-9


def test_what_cannot_be_served_is_told():
    with pytest.raises(ValueError, match=r"10.0 ms are promised"):
        operating_point(RATES, [CHAT], kv_tokens=1e6, max_batch=64, tpot_seconds=0.01)
    with pytest.raises(ValueError, match="no output tokens"):
        operating_point(RATES, [], kv_tokens=1e6, max_batch=64)
