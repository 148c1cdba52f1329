"""One ext_proc stream: a request and its response, between Envoy and a `Chooser`.

Full duplex (both body modes FULL_DUPLEX_STREAMED): the request's headers are answered when the whole body has come,
then the body goes back as it came, in pieces; a body may end by trailers. The response's pieces go back at once.
Headers only, or another body mode: the headers are answered at once and bodies are left as they are; in BUFFERED mode
the answer comes with the body. The modes are in the first message of the stream (`protocol_config`); a gateway that
does not send them is taken to be in full duplex, unless `headers_only` says otherwise.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf.message import DecodeError

from tidefleet.router import ext_proc_messages as messages
from tidefleet.router.chooser import Answer, Choice, Chooser, Hold, Refusal, RequestHead
from tidefleet.router.grpc_calls import INVALID_ARGUMENT, Budget, Call, GrpcError, Open
from tidefleet.router.subset import allows

PATH = b"/envoy.service.ext_proc.v3.ExternalProcessor/Process"
_NONE, _STREAMED, _BUFFERED, _BUFFERED_PARTIAL, _FULL_DUPLEX = range(5)  # ProcessingMode.BodySendMode

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How streams are served."""

    body_bytes: int = 33_554_432
    """The largest request body; a larger one is refused with 413."""
    headers_only: bool = False
    """What a gateway that does not tell its modes is taken to do."""


class Session:
    """The server's end of one stream."""

    def __init__(self, call: Call, chooser: Chooser, options: Options, budget: Budget) -> None:
        self._call, self._chooser, self._options, self._budget = call, chooser, options, budget
        self._clock = asyncio.get_running_loop().time
        self._request_mode = self._response_mode = _NONE if options.headers_only else _FULL_DUPLEX
        self._started = False
        self._head: RequestHead | None = None
        self._parts: list[bytes] = []
        self._held = 0
        self._request_ended = False
        self._trailers = False
        self._choice: Choice | None = None
        self._task: asyncio.Future[Answer] | None = None
        self._peer_done = self._closed = False

    # grpc_calls.Method

    def message(self, raw: bytes) -> None:
        """Act on one ProcessingRequest."""
        try:
            request = pb.ProcessingRequest.FromString(raw)
        except DecodeError:
            raise GrpcError(INVALID_ARGUMENT, "not a ProcessingRequest") from None
        kind = request.WhichOneof("request")
        if not self._started:
            self._started = True
            if request.HasField("protocol_config"):
                self._request_mode = request.protocol_config.request_body_mode
                self._response_mode = request.protocol_config.response_body_mode
        if request.observability_mode:
            return  # nothing that is sent would be read
        match kind:
            case "response_body":
                self._on_response_body(request.response_body)
            case "request_body":
                self._on_request_body(request.request_body)
            case "request_headers":
                self._on_request_headers(request)
            case "response_headers":
                self._on_response_headers(request)
            case "request_trailers":
                self._on_request_trailers()
            case "response_trailers":
                self._call.send_framed(messages.RESPONSE_TRAILERS_AS_THEY_ARE)
                self._passed(b"", True)
            case _:
                raise GrpcError(INVALID_ARGUMENT, "a ProcessingRequest without a request")

    def ended(self) -> None:
        """The gateway is done with the stream; an answer that is not decided yet is still sent."""
        self._peer_done = True
        if self._task is None:
            self._call.finish()

    def closed(self) -> None:
        """Whatever was begun ends."""
        self._closed = True
        self._release()
        if self._task is not None:
            self._task.cancel()
        elif self._choice is not None:
            choice, self._choice = self._choice, None
            self._chooser.closed(choice.ticket, self._clock())

    # The request

    def _on_request_headers(self, request: Any) -> None:
        if self._head is not None:
            raise GrpcError(INVALID_ARGUMENT, "request headers came twice")
        head = request.request_headers
        fields = messages.headers_of(head)
        self._head = RequestHead(
            method=fields.get(":method", ""),
            path=fields.get(":path", ""),
            headers=fields,
            subset=messages.subset_of(request),
            may_hold=messages.may_hold(request, fields),
        )
        if head.end_of_stream:
            self._request_ended = True
            self._ask(None)
        elif self._request_mode == _BUFFERED:
            self._call.send_framed(messages.REQUEST_HEADERS_AS_THEY_ARE)
        elif self._request_mode != _FULL_DUPLEX:
            self._ask(None)

    def _on_request_body(self, body: Any) -> None:
        if self._head is None or self._request_ended:
            raise GrpcError(INVALID_ARGUMENT, "a request body out of turn")
        self._request_ended = body.end_of_stream or self._request_mode == _BUFFERED  # buffered bodies come in one piece
        if self._request_mode not in (_FULL_DUPLEX, _BUFFERED):
            self._call.send_framed(messages.REQUEST_BODY_AS_IT_IS)
            return
        piece = body.body
        size = self._held + len(piece)
        if size > self._options.body_bytes:
            self._refuse(Refusal(413, f"the body is larger than {self._options.body_bytes} bytes"))
        elif not self._budget.take(len(piece)):
            self._refuse(Refusal(503, "too many request bodies are held at this moment", (("retry-after", "1"),)))
        else:
            self._held = size
            self._parts.append(piece)
            if self._request_ended:
                self._ask(b"".join(self._parts))

    def _on_request_trailers(self) -> None:
        if self._head is None or self._trailers:
            raise GrpcError(INVALID_ARGUMENT, "request trailers out of turn")
        self._trailers = True
        if self._request_mode == _FULL_DUPLEX and not self._request_ended:
            self._request_ended = True
            self._ask(b"".join(self._parts))
        else:
            self._call.send_framed(messages.REQUEST_TRAILERS_AS_THEY_ARE)

    def _ask(self, body: bytes | None) -> None:
        assert self._head is not None  # noqa: S101 - for the type checker
        try:
            answer = self._chooser.choose(self._head, body)
        except Exception:
            self._decided(_failed(), body)
            return
        if isinstance(answer, Answer):
            self._decided(answer, body)
            return
        self._task = asyncio.ensure_future(_awaited(answer))
        self._task.add_done_callback(lambda task: self._task_done(task, body, answer))

    def _task_done(self, task: asyncio.Future[Answer], body: bytes | None, awaited: Awaitable[Answer]) -> None:
        self._task = None
        if task.cancelled():
            if inspect.iscoroutine(awaited):
                awaited.close()  # where it was cancelled before it began
            return
        answer = task.result()
        if not self._closed:
            self._decided(answer, body)
            if self._peer_done:
                self._call.finish()
        elif isinstance(answer, Choice):
            self._chooser.closed(answer.ticket, self._clock())

    def _decided(self, answer: Answer, body: bytes | None) -> None:
        if isinstance(answer, Refusal):
            self._refuse(answer)
            return
        if isinstance(answer, Hold):
            if body is not None and self._request_mode == _BUFFERED:
                self._back(messages.HOLD_TO_BODY, None)
            else:
                self._back(messages.HOLD, body)
            return
        assert self._head is not None  # noqa: S101 - for the type checker
        self._choice = answer
        allowed = [address for address in answer.addresses if allows(self._head.subset, address)]
        if not allowed:
            self._refuse(Refusal(503, "no endpoint is ready where this request may go", (("retry-after", "1"),)))
            return
        addresses = ",".join(allowed)
        replaced = answer.body if body is not None else None
        length = len(replaced) if replaced is not None and "content-length" in self._head.headers else None
        if body is not None and self._request_mode == _BUFFERED:
            self._call.send_framed(messages.choice_message(answer, addresses, to_body=True, length=length))
            self._release()
            return
        self._back(messages.choice_message(answer, addresses, length=length), body if replaced is None else replaced)

    def _back(self, headers: bytes, body: bytes | None) -> None:
        """Answer the headers, and send the body back behind them."""
        out = [headers]
        if body is not None:
            end = not self._trailers
            out += messages.request_pieces(body, end=end)
            if self._trailers:
                out.append(messages.REQUEST_TRAILERS_AS_THEY_ARE)
        self._release()
        self._call.send_framed(b"".join(out))

    def _refuse(self, refusal: Refusal) -> None:
        self._release()
        self._call.send_framed(messages.refusal_message(refusal))
        self._call.finish()

    def _release(self) -> None:
        self._budget.take(-self._held)
        self._held = 0
        self._parts.clear()

    # The response

    def _on_response_headers(self, request: Any) -> None:
        head = request.response_headers
        self._call.send_framed(messages.RESPONSE_HEADERS_AS_THEY_ARE)
        if self._choice is None:
            return
        status = next((_number(one) for one in head.headers.headers if one.key == ":status"), None)
        self._tell(self._chooser.served, self._choice.ticket, messages.served_of(request), status, self._clock())
        if head.end_of_stream:
            self._passed(b"", True)

    def _on_response_body(self, body: Any) -> None:
        piece, end = body.body, body.end_of_stream
        if self._response_mode == _FULL_DUPLEX:
            pieces = messages.response_pieces(piece, end=end)
            if pieces:
                self._call.send_framed(b"".join(pieces))
        else:
            self._call.send_framed(messages.RESPONSE_BODY_AS_IT_IS)
        self._passed(piece, end)

    def _passed(self, piece: bytes, end: bool) -> None:
        if self._choice is not None:
            self._tell(self._chooser.body, self._choice.ticket, piece, end, self._clock())

    def _tell(self, listener: Callable[..., None], *arguments: Any) -> None:
        """A listener that fails does not fail the request."""
        try:
            listener(*arguments)
        except Exception:
            _log.exception("the chooser failed on a response")


async def _awaited(answer: Awaitable[Answer]) -> Answer:
    try:
        return await answer
    except Exception:
        return _failed()


def _failed() -> Refusal:
    _log.exception("the chooser failed on a request")
    return Refusal(503, "the router could not choose an endpoint", (("retry-after", "1"),))


def _number(header: Any) -> int | None:
    text = header.raw_value.decode("ascii", "replace") or header.value
    return int(text) if text.isascii() and text.isdigit() else None


def methods(chooser: Chooser, options: Options, budget: Budget) -> dict[bytes, Open]:
    """The service's one method by its path."""
    return {PATH: lambda call: Session(call, chooser, options, budget)}
