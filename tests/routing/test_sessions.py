"""Hash states of sessions: the keys of a fresh look, kept within bytes and time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.routing import sessions
from tidefleet.routing.hashing import text_keys, token_keys
from tidefleet.routing.sessions import SessionState, SessionStore


def state(blocks, seed=0):
    return SessionState.of_tokens(np.random.default_rng(seed).integers(0, 99, 16 * blocks, dtype=np.uint32), 16)


turns = st.lists(st.tuples(st.integers(0, 90), st.binary(max_size=90)), max_size=6)


@settings(max_examples=150, deadline=None)
@given(turns, st.lists(st.sampled_from([0, 5]), min_size=6, max_size=6), st.sampled_from([8, 16]))
def test_a_turns_keys_are_those_of_its_whole_prompt_whatever_came_before(done, salts, chunk):
    text, before, before_tokens = b"", None, None
    for (kept, added), salt in zip(done, salts, strict=False):
        text = text[:kept] + added
        before = SessionState.of_text(text, chunk, salt=salt, before=before)
        np.testing.assert_array_equal(before.keys, text_keys(text, chunk, salt=salt))
        tokens = np.frombuffer(text, np.uint8).astype(np.uint32)
        before_tokens = SessionState.of_tokens(tokens, 3, salt=salt, before=before_tokens)
        np.testing.assert_array_equal(before_tokens.keys, token_keys(tokens, 3, salt=salt))


def test_a_state_of_text_is_no_use_to_tokens_and_the_other_way_round():
    text = bytes(range(64))
    of_text = SessionState.of_text(text, 64)
    tokens = np.frombuffer(text, np.uint32)
    fresh = SessionState.of_tokens(tokens, 16)
    np.testing.assert_array_equal(SessionState.of_tokens(tokens, 16, salt=0, before=None).keys, fresh.keys)
    assert of_text.block_bytes == fresh.block_bytes


def test_an_empty_prompt_has_a_state_without_keys():
    for empty in (SessionState.of_text(b"", 64), SessionState.of_tokens(np.empty(0, np.uint32), 16)):
        assert len(empty.keys) == 0
        assert len(SessionState.of_text(b"a" * 64, 64, before=empty).keys) == 1


def test_only_the_turns_own_text_is_hashed(monkeypatch):
    text = b"a" * 64_000
    before = SessionState.of_text(text, 64)
    hashed = []
    monkeypatch.setattr(
        sessions, "text_keys", lambda piece, *args, **more: hashed.append(len(piece)) or text_keys(piece, *args, **more)
    )
    SessionState.of_text(text + b"b" * 200, 64, before=before)
    assert hashed == [200]


def test_a_state_is_found_until_its_time_is_over_and_each_use_renews_it():
    store = SessionStore(limit_bytes=2**20, ttl_seconds=10.0)
    kept = state(4)
    store.put(1, kept, 0.0)
    assert store.get(1, 9.0) is kept
    assert store.get(1, 18.0) is kept
    assert store.get(1, 28.1) is None
    assert (len(store), store.size_bytes) == (0, 0)
    assert store.get(2, 0.0) is None


def test_a_flood_of_sessions_stays_within_the_bytes_and_the_last_ones_stay():
    store = SessionStore(limit_bytes=100_000, ttl_seconds=1e9)
    for session in range(20_000):
        store.put(session, state(1 + session % 3), float(session))
        assert store.size_bytes <= 100_000
    assert 0 < len(store) < 200
    assert store.evicted == 20_000 - len(store)
    assert store.get(19_999, 2e4) is not None
    assert store.get(0, 2e4) is None


def test_a_flood_does_not_push_out_a_session_that_is_used():
    store = SessionStore(limit_bytes=20_000, ttl_seconds=1e9)
    kept = state(2)
    store.put(7, kept, 0.0)
    for session in range(100, 2000):
        store.put(session, state(1), float(session))
        assert store.get(7, float(session)) is kept


def test_old_states_leave_before_there_is_need_of_room():
    store = SessionStore(limit_bytes=2**20, ttl_seconds=10.0)
    for session in range(50):
        store.put(session, state(1), 0.0)
    store.put(99, state(1), 11.0)
    assert len(store) == 1


def test_a_state_in_place_of_another_is_counted_once_and_one_that_is_too_large_is_not_kept():
    store = SessionStore(limit_bytes=80_000, ttl_seconds=10.0)
    for blocks in (1, 50, 3):
        store.put(1, state(blocks), 0.0)
    assert store.size_bytes == state(3).size_bytes
    store.put(1, state(5000), 0.0)
    assert store.get(1, 0.0) is None
    assert store.size_bytes == 0
    store.forget(1)


@pytest.mark.parametrize(("limit", "ttl"), [(0, 1.0), (2**20, 0.0), (-1, -1.0)])
def test_bounds_that_hold_nothing_are_refused(limit, ttl):
    with pytest.raises(ValueError, match=r"e\.g\. 67108864 and 3600"):
        SessionStore(limit_bytes=limit, ttl_seconds=ttl)
