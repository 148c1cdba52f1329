"""What is read of requests, and what is told of those that cannot be read."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.router.bodies import BadBody, Format, format_of, read

CHAT = "/v1/chat/completions"


def body(path=CHAT, **fields):
    return read(path, json.dumps({"model": "m", **fields}).encode())


def turns(*contents):
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": c} for i, c in enumerate(contents)]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (CHAT, Format.CHAT),
        ("/v1/chat/completions?x=1", Format.CHAT),
        ("/v1/completions/", Format.COMPLETIONS),
        ("/openai/v1/responses", Format.RESPONSES),
        ("/v1/messages", Format.MESSAGES),
        ("/v1/models", None),
        ("/", None),
    ],
)
def test_a_path_tells_the_format(path, found):
    assert format_of(path) is found


def test_a_later_turn_has_the_earlier_ones_text_as_its_prefix():
    first = body(messages=turns("hello"), tools=[{"type": "function", "function": {"name": "f"}}])
    later = body(messages=turns("hello", "hi", "go on"), tools=[{"type": "function", "function": {"name": "f"}}])
    assert "".join(later.pieces).startswith("".join(first.pieces))
    assert later.characters > first.characters


def test_texts_in_parts_and_plain_texts_are_the_same_prompt():
    parts = [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]
    assert "".join(body(messages=parts).pieces) == "".join(body(messages=turns("hello")).pieces)


def test_anthropic_and_openai_bodies_tell_the_same():
    theirs = body("/v1/messages", system="be brief", messages=turns("hello"), max_tokens=7, stream=True)
    ours = body(messages=[{"role": "system", "content": "be brief"}, *turns("hello")], max_tokens=7, stream=True)
    assert theirs.pieces == ours.pieces
    assert theirs.messages == ours.messages
    assert (theirs.output_cap, theirs.stream) == (7, True)


def test_cache_hints_say_how_long_a_prefix_is_kept_and_are_no_part_of_it():
    def system(hint):
        return [{"type": "text", "text": "long", **({"cache_control": hint} if hint else {})}]

    plain = body("/v1/messages", system=system(None), messages=turns("x"))
    short = body("/v1/messages", system=system({"type": "ephemeral"}), messages=turns("x"))
    long = body("/v1/messages", system=system({"type": "ephemeral", "ttl": "1h"}), messages=turns("x"))
    assert [one.cache_seconds for one in (plain, short, long)] == [None, 300.0, 3600.0]
    assert plain.pieces == short.pieces == long.pieces


@pytest.mark.parametrize(
    ("fields", "session"),
    [
        ({"metadata": {"user_id": "user_1_account__session_abc-1"}}, "abc-1"),
        ({"metadata": {"user_id": '{"device_id": "d", "session_id": "s-2"}'}}, "s-2"),
        ({"prompt_cache_key": "k"}, "k"),
        ({"conversation": {"id": "conv_1"}, "prompt_cache_key": "k"}, "conv_1"),
        ({"metadata": {"user_id": "{broken"}}, ""),
        ({"prompt_cache_key": 5}, ""),
        ({}, ""),
    ],
)
def test_the_session_a_body_names_is_found(fields, session):
    assert body(messages=turns("x"), **fields).session == session


def test_a_turn_that_answers_a_tool_call_is_known():
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "42"}]}
    assert body(messages=[*turns("x"), {"role": "tool", "content": "42"}]).after_tool
    assert body("/v1/messages", messages=[*turns("x", "y"), result]).after_tool
    assert body("/v1/responses", input=[{"type": "function_call_output", "output": "42"}]).after_tool
    assert not body(messages=turns("x", "y", "z")).after_tool


def test_prompts_of_tokens_cost_no_tokenizing():
    assert body("/v1/completions", prompt=[1, 2, 3]).token_ids == (1, 2, 3)
    assert body("/v1/completions", prompt=[[1, 2], [3]]).token_ids == (1, 2)
    assert body("/v1/completions", prompt=["a", "b"]).pieces == ("a",)


def test_images_are_counted_and_differ_from_each_other():
    def picture(url):
        return body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])

    assert picture("a").images == 1
    assert picture("a").pieces != picture("b").pieces


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[]", "no JSON object"),
        (b"\xff\xfe", "no JSON"),
        (b'{"messages": []}', '"model" is missing'),
        (b'{"model": 7, "messages": []}', '"model" is missing or no text'),
        (b'{"model": "m"}', '"messages" is missing'),
        (b'{"model": "m", "messages": {"role": "x"}}', '"messages" is an object'),
        (b'{"model": "m", "messages": ["secret words"]}', '"messages[0]" is a text'),
        (b'{"model": "' + b"m" * 600 + b'", "messages": []}', "at most 512"),
        (b"[" * 100_000, "no JSON"),
        (b'{"model": "m", "messages": ' + b"[" * 100_000, "no JSON"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_without_its_content(raw, words):
    with pytest.raises(BadBody) as told:
        read(CHAT, raw)
    assert words in str(told.value)
    assert "secret" not in str(told.value)


def test_half_an_emoji_is_read_as_engines_read_it():
    raw = rb'{"model": "m", "messages": [{"role": "user", "content": "cut \ud83d"}], "tools": [{"d": "\ud83d"}]}'
    assert read(CHAT, raw).pieces[-1] == "cut \ud83d"
    with pytest.raises(BadBody):
        read(CHAT, raw[:-1])


def test_deep_tools_and_huge_numbers_do_no_harm():
    deep: object = "x"
    for _ in range(400):
        deep = {"a": deep}
    assert body(messages=turns("x"), tools=[{"f": deep}], seed=2**70, max_tokens=10**30).output_cap is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        "messages",
        "prompt",
        "input",
        "system",
        "tools",
        "metadata",
        "max_tokens",
        "stream",
        "conversation",
        "instructions",
    ]
)
ROLES = st.fixed_dictionaries({"role": JSON, "content": JSON, "tool_calls": JSON, "cache_control": JSON})


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([CHAT, "/v1/completions", "/v1/responses", "/v1/messages"]),
    st.dictionaries(NAMES, JSON | st.lists(ROLES, max_size=3), max_size=6),
)
def test_whatever_the_shape_it_is_read_or_refused(path, fields):
    try:
        found = read(path, json.dumps({"model": "m", **fields}).encode())
    except BadBody:
        return
    assert found.model == "m"
    assert all(isinstance(one, str) for one in found.pieces)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(raw):
    with pytest.raises(BadBody):
        read(CHAT, raw)
