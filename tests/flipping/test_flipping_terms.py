"""How long phases may take, on a clock that runs faster than the machines."""

from dataclasses import fields

from tidefleet.flipping.observation import Terms


def test_terms_at_real_pace_are_as_they_were() -> None:
    assert Terms().at_least(5.0) == Terms()


def test_on_a_fast_clock_no_time_out_comes_sooner_than_asked_for() -> None:
    usual, fast = Terms(), Terms(dwell=60.0, evict=30.0, warm=9000.0).at_least(2880.0)
    longer = {one.name for one in fields(Terms) if getattr(fast, one.name) != getattr(usual, one.name)}
    assert {fast.planned, fast.cordon, fast.drain, fast.verify, fast.grace, fast.surge_grace} == {2880.0}
    assert fast.warm == 9000.0
    assert (fast.dwell, fast.settle, fast.evict) == (60.0, usual.settle, usual.evict)
    assert longer == {
        "planned",
        "cordon",
        "replace",
        "drain",
        "kill_drain",
        "verify",
        "grace",
        "surge_grace",
        "warm",
        "dwell",
    }
