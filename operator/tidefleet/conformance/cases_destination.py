"""The choice: where it is written, and how."""

from __future__ import annotations

from envoy.config.core.v3 import base_pb2

from tidefleet.conformance import build
from tidefleet.conformance.build import Request
from tidefleet.conformance.case import Level, expect, fail, registry
from tidefleet.conformance.target import Target, address_of

CASES, case = registry()


def _bodyless(**fields: object) -> Request:
    return Request(method="GET", path="/v1/models", **fields)  # type: ignore[arg-type]


@case("destination.header")
def _header(target: Target) -> None:
    """The destination is in the request header x-gateway-destination-endpoint, once."""
    expect(bool(target.ask(target.request()).in_header), "the header is empty")


@case("destination.metadata")
def _metadata(target: Target) -> None:
    """The destination is in dynamic metadata envoy.lb / x-gateway-destination-endpoint, as a string."""
    expect(bool(target.ask(target.request()).in_metadata), "the metadata entry is empty or no string")


@case("destination.same")
def _same(target: Target) -> None:
    """The header and the metadata have the same value."""
    answer = target.ask(target.request())
    expect(answer.in_header == answer.in_metadata, f"header {answer.in_header!r}, metadata {answer.in_metadata!r}")


@case("destination.form")
def _form(target: Target) -> None:
    """Every destination is ip:port, IPv6 in brackets, and a list of them is separated by commas."""
    for address in target.ask(target.request()).addresses:
        address_of(address)


@case("destination.of-the-pool")
def _of_the_pool(target: Target) -> None:
    """Every destination, fallbacks too, is an endpoint of the pool."""
    known = {address_of(one) for one in target.need_endpoints(1)}
    for _ in range(4):
        for address in target.ask(target.request()).addresses:
            if target.told_endpoints:
                expect(address_of(address) in known, f"{address} is not one of {', '.join(target.endpoints)}")


@case("destination.fallbacks-differ")
def _fallbacks(target: Target) -> None:
    """A list of destinations names no endpoint twice: a retry of the same one is no fallback."""
    addresses = target.ask(target.request()).addresses
    expect(len(set(addresses)) == len(addresses), f"the list is {addresses}")


@case("destination.fallbacks", Level.SHOULD)
def _has_fallbacks(target: Target) -> None:
    """Where the pool has several endpoints the destination has a fallback."""
    target.need_endpoints(2)
    addresses = target.ask(target.request()).addresses
    expect(len(addresses) > 1, f"the only destination is {addresses}")


@case("destination.clears-route-cache")
def _route_cache(target: Target) -> None:
    """The answer to the headers has clear_route_cache, so that routes may match on what it sets."""
    answer = target.ask(target.request()).chosen()
    expect(answer.headers.request_headers.response.clear_route_cache, "clear_route_cache is not set")


@case("destination.replaces-clients")
def _replaces(target: Target) -> None:
    """The header replaces one that the client sent: it overwrites, and the client's value is not in it."""
    spoofed = "203.0.113.9:9"
    answer = target.ask(target.request(headers=((build.DESTINATION, spoofed),))).chosen()
    expect(spoofed not in answer.addresses, "the client's own destination is chosen")
    option = base_pb2.HeaderValueOption
    for one in answer.headers.request_headers.response.header_mutation.set_headers:
        if one.header.key.lower() == build.DESTINATION:
            expect(not one.append.value, "the header is appended to the client's")
            expect(one.append_action != option.ADD_IF_ABSENT, "the client's header wins (ADD_IF_ABSENT)")


@case("destination.client-metadata-header")
def _client_subset(target: Target) -> None:
    """A subset or served endpoint in a client's header is not obeyed: only metadata is the gateway's."""
    headers = ((build.SUBSET, "203.0.113.9:9"), (build.SERVED, "203.0.113.9:9"))
    addresses = target.ask(target.request(headers=headers)).addresses
    expect("203.0.113.9:9" not in addresses, "an address from a client's header is chosen")


@case("bodyless.answered")
def _bodyless_answered(target: Target) -> None:
    """A request without a body is answered at once, with a destination."""
    answer = target.ask(_bodyless())
    expect(answer.in_header == answer.in_metadata, f"header {answer.in_header!r}, metadata {answer.in_metadata!r}")
    expect(answer.kinds == ["request_headers"], f"it is answered by {answer.kinds}")


@case("bodyless.post")
def _bodyless_post(target: Target) -> None:
    """A POST that ends with its headers gets a choice or a refusal, never a gRPC error."""
    answer = target.ask(Request(method="POST"))
    if answer.refused is not None:
        answer.refused_with(400, 422, 429, 503)


@case("bodyless.unknown-path")
def _unknown_path(target: Target) -> None:
    """A path that the picker does not know gets a choice or a refusal below 500, never a gRPC error."""
    answer = target.ask(Request(method="GET", path="/no/such/path?x=1"))
    if answer.refused is not None and answer.status is not None:
        expect(answer.status < 500, f"refused with {answer.status}")


@case("bodyless.nothing-more")
def _nothing_more(target: Target) -> None:
    """After the answer to a request without a body nothing comes until the gateway sends more."""
    answer = target.ask(_bodyless()).chosen()
    answer.exchange.finish()


@case("headers-only.answered", Level.SHOULD)
def _headers_only(target: Target) -> None:
    """A gateway whose protocol_config says that it sends no bodies is answered at the headers."""
    request = Request(pieces=(build.chat(target.model),))
    exchange = target.open()
    exchange.send(build.request_headers(request, body_mode=build.NONE))
    message = exchange.receive("the answer to the headers, since no body will come")
    if message.WhichOneof("response") != "request_headers":
        fail(f"a {message.WhichOneof('response')}; expected request_headers")
    names = [one.header.key.lower() for one in message.request_headers.response.header_mutation.set_headers]
    expect(build.DESTINATION in names, f"the headers set are {names}; expected {build.DESTINATION}")


@case("headers.text-values", Level.SHOULD)
def _text_values(target: Target) -> None:
    """Headers in `value` are read like those in `raw_value`."""
    target.ask(target.request(text_values=True)).chosen()


@case("headers.not-utf-8")
def _not_utf8(target: Target) -> None:
    """A header value that is not UTF-8 does no harm."""
    target.ask(target.request(headers=(("x-note", b"caf\xe9 \xff\xfe"),))).chosen()


@case("headers.many")
def _many(target: Target) -> None:
    """A hundred headers, one of them 8 kB, do no harm."""
    many = tuple((f"x-header-{number}", "v" * 20) for number in range(100))
    target.ask(target.request(headers=(*many, ("x-large", "v" * 8_000)))).chosen()


@case("headers.repeated")
def _repeated(target: Target) -> None:
    """A header that comes twice does no harm."""
    target.ask(target.request(headers=(("cookie", "a=1"), ("cookie", "b=2"), ("accept", "*/*")))).chosen()
