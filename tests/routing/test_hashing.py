"""Keys of prompts: chained, whole blocks only, alike for alike content and for nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.routing.hashing import hashed, text_keys, token_keys

ids = st.lists(st.integers(0, 2**32 - 1), max_size=80)


@pytest.mark.parametrize("empty", [[], (), np.empty(0, np.uint32)])
def test_a_prompt_without_a_whole_block_has_no_keys(empty):
    assert len(token_keys(empty, 16)) == 0
    assert len(token_keys(list(range(15)), 16)) == 0
    assert len(text_keys(b"", 64)) == 0
    assert len(text_keys(b"x" * 63, 64)) == 0
    assert token_keys(empty, 16).dtype == np.uint64


@settings(max_examples=100, deadline=None)
@given(ids, st.integers(1, 9), st.integers(0, 2**64 - 1), st.integers(0, 20))
def test_a_longer_prompt_goes_on_from_the_keys_of_a_shorter_one(tokens, block, salt, cut):
    whole = token_keys(tokens, block, salt=salt)
    assert len(whole) == len(tokens) // block
    cut = min(cut, len(whole))
    parent = int(whole[cut - 1]) if cut else 0
    rest = token_keys(tokens[cut * block :], block, salt=salt, parent=parent, start=cut)
    np.testing.assert_array_equal(token_keys(tokens[: cut * block], block, salt=salt), whole[:cut])
    np.testing.assert_array_equal(rest, whole[cut:])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=8, max_size=40), st.lists(st.integers(0, 3), min_size=8, max_size=40))
def test_prompts_share_keys_as_far_as_they_share_content(one, other):
    found = [token_keys(tokens, 2, salt=7).tolist() for tokens in (one, other)]
    blocks = min(len(one), len(other)) // 2
    alike = next((at for at in range(blocks) if one[: 2 * at + 2] != other[: 2 * at + 2]), blocks)
    assert found[0][:alike] == found[1][:alike]
    assert not set(found[0][alike:]) & set(found[1][alike:])


def test_salts_block_sizes_and_the_order_of_tokens_set_prompts_apart():
    tokens = list(range(64))
    every = [token_keys(tokens, 16, salt=salt) for salt in (0, 1, 2**64 - 1)]
    every += [token_keys(tokens, 8), token_keys(tokens[::-1], 16), token_keys(tokens[16:] + tokens[:16], 16)]
    keys = np.concatenate(every)
    assert len(np.unique(keys)) == len(keys)


def test_a_repeated_block_has_another_key_at_each_place():
    assert len(np.unique(token_keys([0] * 16_000, 16))) == 1000
    assert len(np.unique(text_keys(b"\x00" * 64_000, 64))) == 1000


def test_three_hundred_thousand_blocks_have_as_many_keys():
    keys = token_keys(np.random.default_rng(1).integers(0, 50_000, 1_200_000, dtype=np.uint32), 4)
    assert len(np.unique(keys)) == 300_000
    assert keys.all()


@pytest.mark.parametrize("tokens", [[-1], [2**32], [0.5], ["x"], [None], [[1]], [2**70]])
def test_what_is_no_token_id_is_refused(tokens):
    with pytest.raises(ValueError, match=r"expected|setting an array"):
        token_keys(tokens, 1)


@pytest.mark.parametrize("chunk", [0, -8, 7, 12])
def test_a_chunk_is_a_multiple_of_eight_bytes(chunk):
    with pytest.raises(ValueError, match=r"e\.g\. 64"):
        text_keys(b"x" * 100, chunk)
    with pytest.raises(ValueError, match=r"e\.g\. 16"):
        token_keys([1], min(chunk, 0))


def test_identities_are_told_apart_by_the_secret_and_never_zero():
    assert hashed("s", b"a") == hashed(b"s", b"a")
    assert len({hashed("s", b"a"), hashed("s", b"b"), hashed("t", b"a"), hashed("", b"a")}) == 4
    assert hashed("\ud800", b"a") > 0
    with pytest.raises(ValueError, match="at most 64"):
        hashed("s", b"x" * 65)


def test_the_keys_of_a_few_blocks_are_those_that_many_begin_with():
    text = bytes(range(256)) * 40
    many = text_keys(text, 256, salt=5)
    for count in (1, 2, 15, 16, 17, 39):
        assert text_keys(text[: count * 256], 256, salt=5).tolist() == many[:count].tolist()
        rest = text_keys(text[count * 256 :], 256, salt=5, parent=int(many[count - 1]), start=count)
        assert rest.tolist() == many[count:].tolist()
