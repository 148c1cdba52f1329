"""The benchmark of what accounting costs the router runs, and both sides do the same work."""

from benchmarks.router_accounting import measure


def test_both_sides_serve_every_request_and_each_is_recorded() -> None:
    found = measure(1_000, 4, 7)
    assert found["requests"] == 400
    assert found["decision_us_on"] > 0.0
    assert found["request_us_on"] >= found["decision_us_on"]
    assert 300 < found["record_bytes"] < 1_500
