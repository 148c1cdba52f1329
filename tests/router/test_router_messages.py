"""Messages that are coded by hand are what protobuf makes of them."""

from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.router.chooser import Choice
from tidefleet.router.ext_proc_messages import DESTINATION, METADATA, body_of, choice_message, response_pieces

SIZES = st.sampled_from([0, 1, 126, 127, 128, 16_370, 16_383, 16_384, 61_999, 62_000, 62_001])


@given(st.integers(1, 1200))
def test_the_usual_choice_is_what_protobuf_writes(size):
    addresses = ("10.0.0.1:8000," * 100)[:size]
    raw = choice_message(Choice((addresses,)), addresses)
    expected = pb.ProcessingResponse()
    common = expected.request_headers.response
    common.clear_route_cache = True
    option = common.header_mutation.set_headers.add()
    option.header.key, option.header.raw_value = DESTINATION, addresses.encode()
    option.append_action = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    expected.dynamic_metadata.fields[METADATA].struct_value.fields[DESTINATION].string_value = addresses
    assert raw[:5] == b"\0" + (len(raw) - 5).to_bytes(4, "big")
    assert pb.ProcessingResponse.FromString(raw[5:]) == expected


@given(SIZES, st.booleans())
def test_a_piece_is_what_protobuf_reads(size, end):
    for raw in response_pieces(b"x" * size, end=end)[-1:]:
        said = pb.ProcessingResponse.FromString(raw[5:]).response_body.response.body_mutation.streamed_response
        assert (len(said.body), said.end_of_stream) == (size - 62_000 if size > 62_000 else size, end)


@given(SIZES, st.booleans(), st.booleans(), st.integers(0, 200))
def test_a_piece_that_came_is_read_as_protobuf_reads_it(size, end, of_request, metadata):
    body = pb.HttpBody(body=b"y" * size, end_of_stream=end)
    message = pb.ProcessingRequest(**{"request_body" if of_request else "response_body": body})
    if metadata:
        message.metadata_context.filter_metadata["envoy.lb"].fields["a"].string_value = "b" * metadata
    assert body_of(message.SerializeToString()) == (of_request, b"y" * size, end)


def test_other_messages_are_left_to_protobuf():
    body = pb.HttpBody(body=b"y", end_of_stream=True)
    assert body_of(b"") is None
    assert body_of(pb.ProcessingRequest(request_trailers=pb.HttpTrailers()).SerializeToString()) is None
    assert body_of(pb.ProcessingRequest(request_body=body, observability_mode=True).SerializeToString()) is None
    twice = pb.ProcessingRequest(request_body=body).SerializeToString() * 2
    assert body_of(twice) is None


@given(st.binary(max_size=40).map(lambda rest: b"\x22" + rest) | st.binary(max_size=40))
@settings(max_examples=400, deadline=None)
def test_whatever_is_read_by_hand_is_read_alike_by_protobuf(raw):
    found = body_of(raw)
    if found is None or b"\x42" in raw:  # metadata behind a piece is not looked into
        return
    message = pb.ProcessingRequest.FromString(raw)
    body = message.request_body if found[0] else message.response_body
    assert (body.body, body.end_of_stream) == found[1:]
