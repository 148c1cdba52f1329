"""Token counts out of responses as they pass."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.router.usage import UsageReader


def event(data, name=""):
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + b"\n\n"


def delta(text, finish=None, **more):
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more})


def read(*pieces, stream=True):
    reader = UsageReader(is_stream=stream)
    for piece in pieces:
        reader.feed(piece)
    return reader


OPENAI = [
    event({"choices": [{"delta": {"role": "assistant", "content": ""}}]}),
    *[delta(f"word{i} ") for i in range(40)],
    event(
        {
            "choices": [],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 41,
                "prompt_tokens_details": {"cached_tokens": 64},
            },
        }
    ),
    b"data: [DONE]\n\n",
]
ANTHROPIC = [
    event(
        {
            "type": "message_start",
            "message": {
                "usage": {"input_tokens": 30, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 10}
            },
        },
        "message_start",
    ),
    event({"type": "ping"}, "ping"),
    *[event({"type": "content_block_delta", "delta": {"type": "text_delta", "text": f"w{i}"}}) for i in range(9)],
    event({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 11}}),
]


def test_an_openai_stream_tells_its_usage_at_the_end():
    usage = read(*OPENAI).usage()
    assert (usage.input_tokens, usage.cached_tokens, usage.output_tokens) == (100, 64, 41)


def test_a_stream_without_usage_is_counted_by_its_events():
    usage = read(*OPENAI[:-2]).usage()
    assert usage.input_tokens is None
    assert usage.output == 40


def test_an_anthropic_stream_tells_its_prompt_first_and_its_answer_last():
    reader = read(*ANTHROPIC)
    usage = reader.usage()
    assert (usage.input_tokens, usage.cached_tokens, usage.output_tokens) == (100, 60, 11)
    assert reader.ends_in_tool_call


def test_a_plain_response_has_its_usage_wherever_it_is():
    long = {
        "id": "x",
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        "choices": [{"message": {"content": "y"}}],
    }
    assert read(json.dumps(long).encode(), stream=False).usage().input_tokens == 7
    last = {"choices": [{"message": {"content": "y" * 100_000}}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    assert read(json.dumps(last, indent=2).encode(), stream=False).usage().output_tokens == 3


def test_reasoning_tokens_are_told_where_the_engine_tells_them():
    usage = {"prompt_tokens": 7, "completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 20}}
    assert read(json.dumps({"usage": usage}).encode(), stream=False).usage().reasoning_tokens == 20
    assert read(*OPENAI).usage().reasoning_tokens is None


def test_the_first_token_is_the_first_output_not_a_greeting():
    reader = read(OPENAI[0], event({"type": "ping"}))
    assert not reader.started
    reader.feed(OPENAI[1])
    assert reader.started


@pytest.mark.parametrize("stream", [OPENAI, ANTHROPIC])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_however_a_stream_is_cut_its_usage_is_the_same(stream, data):
    whole = b"".join(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    usage, expected = read(*pieces).usage(), read(whole).usage()
    assert (usage.input_tokens, usage.cached_tokens, usage.output_tokens) == (
        expected.input_tokens,
        expected.cached_tokens,
        expected.output_tokens,
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=300) | st.just(b'"usage":{"prompt_tokens":-1,'), max_size=6))
def test_rubbish_tells_nothing_and_harms_nothing(pieces):
    usage = read(*pieces).usage()
    assert usage.input_tokens is None


def test_memory_is_bounded():
    reader = UsageReader(is_stream=True)
    for _ in range(200):
        reader.feed(b"data: " + b"x" * 100_000)
    assert len(reader._head) + len(reader._tail) < 64_000
