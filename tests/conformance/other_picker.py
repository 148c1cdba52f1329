"""An endpoint picker on grpcio, which shares nothing with the router, and can be given a fault.

Without a fault it keeps the protocol. `picker_faults.FAULTS` lists them.
"""

import asyncio
import contextlib
import hashlib
import ipaddress
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from picker_faults import FAULTS

ENDPOINTS = ("127.0.0.1:8001", "127.0.0.2:8001", "10.0.0.3:8000", "10.0.0.3:8001", "[fd00::1]:8000", "[fd00::2]:8000")
DESTINATION = "x-gateway-destination-endpoint"
HEALTH = ("", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor")


class OtherPicker:
    """Serves until the block ends."""

    def __init__(self, fault: str = "", endpoints: tuple[str, ...] = ENDPOINTS) -> None:
        if fault and fault not in FAULTS:
            raise ValueError(fault)
        self.fault = fault
        self.endpoints = endpoints
        self.refusals = 0
        self.sessions: set[str] = set()
        self.streams: dict[str, int] = {}
        self.stuck = 0
        self.broken = False
        self.one_at_a_time = asyncio.Lock()

    @contextlib.contextmanager
    def serving(self) -> Iterator[int]:
        """The port."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()

        async def start() -> tuple[Any, int]:
            options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
            server = grpc.aio.server(options=options)
            server.add_generic_rpc_handlers((_Methods(self),))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            return server, port

        server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        try:
            yield port
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(None), loop).result(20)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)


class Abort(Exception):
    """Ends a stream with a gRPC error."""


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, picker: OtherPicker) -> None:
        self._picker = picker

    def service(self, call: Any) -> Any:
        fault = self._picker.fault
        if call.method == "/envoy.service.ext_proc.v3.ExternalProcessor/Process":
            return grpc.stream_stream_rpc_method_handler(
                self._process, lambda raw: _parsed(raw, self._picker), pb.ProcessingResponse.SerializeToString
            )
        if call.method == "/grpc.health.v1.Health/Check" and fault != "no health service":
            return grpc.unary_unary_rpc_method_handler(self._check)
        if fault == "every method exists":
            return grpc.unary_unary_rpc_method_handler(self._anything)
        return None

    async def _process(self, messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        try:
            async for answer in Stream(self._picker, context).run(messages):
                yield answer
        except Abort as error:
            await context.abort(grpc.StatusCode.INTERNAL, str(error))

    async def _anything(self, raw: bytes, context: Any) -> bytes:
        return b""

    async def _check(self, raw: bytes, context: Any) -> bytes:
        if raw[2:].decode() not in HEALTH and self._picker.fault != "every service is healthy":
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown")
        return b"\x08\x01"


def _parsed(raw: bytes, picker: OtherPicker) -> Any:
    try:
        return pb.ProcessingRequest.FromString(raw)
    except Exception:
        picker.broken |= picker.fault == "a message that says nothing is the end"
        raise


class Stream:
    """One request."""

    def __init__(self, picker: OtherPicker, context: Any) -> None:
        self.picker, self.fault, self.context = picker, picker.fault, context
        self.first: Any = None
        self.headers: dict[str, str] = {}
        self.parts: list[bytes] = []
        self.held = b""
        self.response_type = ""
        self.over = False

    async def run(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        picker = self.picker
        peer = self.context.peer()
        if picker.broken:
            self.abort("broken")
        picker.streams[peer] = picker.streams.get(peer, 0) + 1
        if self.fault == "fifty requests a connection" and picker.streams[peer] > 50:
            self.abort("enough")
        if self.fault == "three connections at most" and len(picker.streams) > 3:
            self.abort("enough")
        stays = {"cancelled streams stay": 60, "lost connections stay": 15}
        if self.fault in stays and picker.stuck > stays[self.fault]:
            self.abort("too many streams")
        picker.stuck += self.fault in stays
        ended = False
        try:
            async for message in messages:
                if self.fault == "one stream at a time" and self.first is None:
                    await picker.one_at_a_time.acquire()
                for answer in self.answer(message):
                    yield answer
                if self.over:
                    ended = True
                    return
            await asyncio.sleep(0)
            ended = not self.context.cancelled()
            if self.fault == "ended streams stay":
                await asyncio.sleep(3)
            if self.fault == "an answer too many":
                yield pb.ProcessingResponse(response_headers=pb.HeadersResponse())
        finally:
            if ended and self.fault in stays:
                picker.stuck -= 1
            if self.fault == "one stream at a time" and self.first is not None:
                picker.one_at_a_time.release()

    def abort(self, why: str) -> None:
        raise Abort(why)

    def answer(self, message: Any) -> Iterator[Any]:
        match message.WhichOneof("request"):
            case "request_headers":
                yield from self.on_headers(message)
            case "request_body":
                body = message.request_body
                self.parts.append(body.body)
                empty_end = self.fault == "an empty last piece is dropped" and not body.body
                if body.end_of_stream and not empty_end and self.bodies_come:
                    yield from self.decide(b"".join(self.parts))
            case "request_trailers":
                yield from self.on_trailers()
            case "response_headers":
                yield from self.on_response_headers(message)
            case "response_body":
                yield from self.on_response_body(message.response_body)
            case "response_trailers":
                if self.fault != "response trailers get no answer":
                    yield pb.ProcessingResponse(response_trailers=pb.TrailersResponse())
            case _:
                if self.fault == "a message that says nothing is the end":
                    self.picker.broken = True
                self.abort("nothing asked")

    # The request

    def on_headers(self, message: Any) -> Iterator[Any]:
        self.first = message
        seen: set[str] = set()
        for one in message.request_headers.headers.headers:
            if self.fault == "headers are read as UTF-8":
                one.raw_value.decode()
            if self.fault == "a header may come once" and one.key in seen:
                self.abort("twice")
            seen.add(one.key)
            value = one.raw_value.decode("utf-8", "replace") or one.value
            if self.fault == "raw_value alone is read" and one.value:
                self.abort("no value")
            self.headers[one.key] = value
        if self.fault == "sixty headers at most" and len(self.headers) > 60:
            self.abort("too many headers")
        self.picker.sessions.add(self.headers.get("x-session-id", ""))
        if self.fault == "hundred sessions at most" and len(self.picker.sessions) > 100:
            self.abort("too many sessions")
        self.bodies_come = (
            message.protocol_config.request_body_mode != 0 or self.fault == "the announced modes are not read"
        )
        if message.request_headers.end_of_stream:
            if self.fault == "bodyless requests are a gRPC error":
                self.abort("no body")
            yield from self.decide(None)
        elif not self.bodies_come:
            yield from self.decide(None)

    def on_trailers(self) -> Iterator[Any]:
        if self.fault == "trailers get no answer":
            return
        if self.fault == "trailers alone are a gRPC error" and not self.parts:
            self.abort("no body")
        end = self.fault == "trailers are taken for the end of the body"
        yield from self.decide(b"".join(self.parts), end=end)
        if not self.over:
            yield pb.ProcessingResponse(request_trailers=pb.TrailersResponse())

    def decide(self, body: bytes | None, *, end: bool = True) -> Iterator[Any]:
        if body is not None and (reason := self.bad(body)):
            bad = 500 if self.fault == "bad bodies are 500" else 400
            if self.fault == "bad bodies are a gRPC error":
                self.abort(reason)
            yield self.refusal(bad, reason)
            if self.fault == "a choice after a refusal":
                yield self.choice(list(self.picker.endpoints), body)
            return
        if self.fault == "unknown paths are 500" and self.headers.get(":path", "").startswith("/no/such"):
            yield self.refusal(500, "unknown path")
            return
        allowed = self.allowed(body)
        if not allowed:
            status = 500 if body is None and self.fault == "bodyless requests without an endpoint get 500" else 503
            yield self.refusal(status, "no endpoint")
            return
        pieces = [] if body is None else list(self.pieces(body, end))
        choice = self.choice(self.ranked(allowed, body), body)
        if self.fault == "the body comes before the headers":
            yield from pieces
            yield choice
            return
        yield choice
        yield from pieces

    def bad(self, body: bytes) -> str:
        if self.fault == "large bodies are a gRPC error" and len(body) > 10_000_000:
            self.abort("too large")
        if self.fault == "no body is accepted":
            return "no bodies here"
        try:
            document = json.loads(body)
        except RecursionError:
            if self.fault == "deep JSON is a gRPC error":
                self.abort("too deep")
            return "too deep"
        except ValueError:
            return "no JSON"
        if not isinstance(document, dict):
            return "no object"
        model = document.get("model")
        if not isinstance(model, str):
            return "no model"
        if self.fault == "long names are a gRPC error" and len(model) > 1_000:
            self.abort("long model")
        if self.fault == "chat with plain text only":
            messages = document.get("messages")
            simple = isinstance(messages, list) and all(isinstance(one.get("content"), str) for one in messages)
            if not simple or not self.headers[":path"].endswith("/chat/completions"):
                return "no plain chat"
        return ""

    def allowed(self, body: bytes | None) -> list[str]:
        endpoints = list(self.picker.endpoints)
        if (
            self.fault == "a client's subset header is obeyed"
            and "x-gateway-destination-endpoint-subset" in self.headers
        ):
            return [self.headers["x-gateway-destination-endpoint-subset"]]
        if self.fault == "the client's header is obeyed" and DESTINATION in self.headers:
            return [self.headers[DESTINATION]]
        metadata = self.first.metadata_context.filter_metadata
        if "envoy.lb.subset_hint" not in metadata:
            return endpoints
        fields = metadata["envoy.lb.subset_hint"].fields
        if "x-gateway-destination-endpoint-subset" not in fields:
            return [] if self.fault == "the namespace alone is a hint" else endpoints
        if body is None and self.fault == "bodyless requests ignore the subset":
            return endpoints
        value = fields["x-gateway-destination-endpoint-subset"]
        kind = value.WhichOneof("kind")
        if kind == "string_value" and self.fault == "a subset that is a text is ignored":
            return endpoints
        if kind == "number_value" and self.fault == "a subset that is unreadable is ignored":
            return endpoints
        entries = [one.string_value for one in value.list_value.values] or [value.string_value]
        wanted = [address for entry in entries if (address := self.address(entry))[1]]
        if self.fault == "IPv6 entries never match":
            wanted = [one for one in wanted if ":" not in one[0]]
        if not wanted and self.fault == "a subset that is unreadable is ignored":
            return endpoints
        if not wanted and entries == [""] and self.fault == "an empty subset is none":
            return endpoints
        if self.fault == "ports in subsets are dropped":
            hosts = {one[0] for one in wanted}
            return [one for one in endpoints if self.address(one)[0] in hosts]
        if self.fault == "strangers in a subset are chosen" and len(entries) > 1:
            return entries
        found = [one for one in endpoints if self.address(one) in wanted]
        if self.fault == "repeated entries are repeated":
            return [one for one in entries if one in endpoints]
        if not found and self.fault == "a subset without an endpoint is ignored":
            return endpoints
        if self.fault == "only the first destination is in the subset" and len(wanted) > 1:
            return found[:1] + endpoints
        return found

    def address(self, text: str) -> tuple[str, int]:
        host, _, port = text.rpartition(":")
        try:
            found = str(ipaddress.ip_address(host.strip("[]"))), int(port)
        except ValueError:
            return ("", 0)
        return found if found[1] < 65_536 else ("", 0)

    def ranked(self, allowed: list[str], body: bytes | None) -> list[str]:
        """The home of the prompt first: a hash of a part of it that sessions do not share."""
        if body is None:
            return allowed
        start, size = 2_000, 60_000
        if self.fault == "prefixes are read to 16 kB":
            # only the first 16 kB count, and ties go round
            self.picker.stuck += 1
            return allowed[self.picker.stuck // 3 % len(allowed) :] + allowed[: self.picker.stuck // 3 % len(allowed)]
        if self.fault == "a shared system prompt draws every session":
            start, size = 0, 500
        part = body[start : start + size].removesuffix(b'"}]}')
        at = hashlib.sha256(part[:25_000]).digest()[0] % len(allowed)
        return allowed[at:] + allowed[:at]

    def choice(self, addresses: list[str], body: bytes | None) -> Any:
        match self.fault:
            case "destinations without a port":
                addresses = [one.rpartition(":")[0] for one in addresses]
            case "IPv6 without brackets":
                addresses = [one.replace("[", "").replace("]", "") for one in addresses]
            case "outside the pool":
                addresses = [*addresses, "203.0.113.77:1"]
            case "the same endpoint twice":
                addresses = [addresses[0], *addresses]
            case "no fallbacks":
                addresses = addresses[:1]
        value = ",".join(addresses)
        message = pb.ProcessingResponse()
        common = message.request_headers.response
        common.clear_route_cache = self.fault != "the route cache stays"
        if self.fault != "no header":
            self.set(common.header_mutation, DESTINATION, value)
        if self.fault == "a wrong content-length" and body is not None:
            self.set(common.header_mutation, "content-length", str(len(body) + 1))
        elif body is not None:
            self.set(common.header_mutation, "content-length", str(len(body)))
        if self.fault != "no metadata":
            inside = addresses[0] if self.fault == "two different values" else value
            message.dynamic_metadata.update({"envoy.lb": {DESTINATION: inside}})
        return message

    def set(self, mutation: Any, name: str, value: str) -> None:
        one = mutation.set_headers.add()
        one.header.key = name
        one.header.raw_value = value.encode()
        one.append_action = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

    def pieces(self, body: bytes, end: bool) -> Iterator[Any]:
        if self.fault == "bodies are encoded again":
            document = json.loads(body, parse_int=lambda text: int(float(text)))
            body = json.dumps(document, separators=(",", ":")).encode()
        if self.fault == "fields are sorted" and b"zebra" in body:
            body = json.dumps(json.loads(body), sort_keys=True).encode()
        if self.fault == "only the first piece comes back":
            body = self.parts[0]
        for piece, last in self.cut(body, end):
            yield pb.ProcessingResponse(request_body=pb.BodyResponse(response=_streamed(piece, last)))

    def cut(self, body: bytes, end: bool) -> list[tuple[bytes, bool]]:
        size = len(body) + 1 if self.fault == "pieces of any size" else 62_000
        found = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        every = self.fault == "every piece ends the body"
        return [(piece, end and (every or number == len(found) - 1)) for number, piece in enumerate(found)]

    def refusal(self, status: int, reason: str) -> Any:
        self.over = self.fault != "a choice after a refusal"
        self.picker.refusals += 1
        if self.fault == "the third refusal is the last" and self.picker.refusals > 2:
            self.picker.broken = True
        message = pb.ProcessingResponse()
        message.immediate_response.status.code = status
        if self.fault != "refusals without a reason":
            message.immediate_response.body = json.dumps({"error": reason}).encode()
        return message

    # The response

    def on_response_headers(self, message: Any) -> Iterator[Any]:
        for one in message.response_headers.headers.headers:
            if one.key == "content-type":
                self.response_type = one.raw_value.decode()
            if one.key == ":status":
                self.failed = one.raw_value[:1] in b"45"
        if self.fault == "response headers get no answer":
            return
        metadata = message.metadata_context.filter_metadata
        if self.fault == "a strange served endpoint ends the stream" and "envoy.lb" in metadata:
            served = metadata["envoy.lb"].fields["x-gateway-destination-endpoint-served"].string_value
            if served not in self.picker.endpoints:
                self.abort("strange")
        answer = pb.ProcessingResponse(response_headers=pb.HeadersResponse())
        if self.fault == "internal headers leak":
            self.set(answer.response_headers.response.header_mutation, "x-went-into-resp-headers", "true")
        yield answer

    def on_response_body(self, body: Any) -> Iterator[Any]:
        if self.fault == "a response out of turn is the end" and self.first is None:
            self.picker.broken = True
        piece, end = body.body, body.end_of_stream
        hold = self.fault == "responses are held to the end" or (
            self.fault == "JSON responses are held to the end" and "json" in self.response_type
        )
        whole = self.fault == "events are held until they are whole" and not piece.endswith(b"\n\n")
        if (hold or whole) and not end:
            self.held += piece
            return
        piece, self.held = self.held + piece, b""
        if self.fault == "errors are replaced" and self.failed:
            piece = b'{"error": "something went wrong, we cannot say more"}'
        if self.fault == "responses must be text":
            piece = piece.decode("utf-8", "replace").encode()
        for part, last in self.cut(piece, end):
            yield pb.ProcessingResponse(response_body=pb.BodyResponse(response=_streamed(part, last)))


def _streamed(piece: bytes, end: bool) -> Any:
    streamed = pb.StreamedBodyResponse(body=piece, end_of_stream=end)
    return pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=streamed))
