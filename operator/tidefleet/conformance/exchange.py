"""One ext_proc stream from the gateway's side."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from tidefleet.conformance.case import Failed

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


class Exchange:
    """Sends ProcessingRequests and reads ProcessingResponses in order; every wait ends at the deadline."""

    def __init__(self, channel: Any, *, deadline_seconds: float) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._deadline = deadline_seconds
        open_stream = channel.stream_stream(
            PROCESS,
            request_serializer=pb.ProcessingRequest.SerializeToString,
            response_deserializer=pb.ProcessingResponse.FromString,
        )
        self._call = open_stream(self._requests(), timeout=deadline_seconds, wait_for_ready=True)

    def _requests(self) -> Iterator[Any]:
        while (message := self._queue.get()) is not None:
            yield message

    def send(self, *messages: Any) -> None:
        """Send messages."""
        for message in messages:
            self._queue.put(message)

    def receive(self, waiting_for: str = "an answer") -> Any:
        """The next ProcessingResponse.

        Raises:
            Failed: The stream ended, with whatever status, or the deadline passed.
        """
        try:
            return next(self._call)
        except StopIteration:
            raise Failed(f"the picker ended the stream; expected {waiting_for}") from None
        except grpc.RpcError as error:
            raise Failed(self._words(error, waiting_for)) from None

    def finish(self) -> None:
        """Send no more, and see the picker end the stream with OK and without another answer."""
        self._queue.put(None)
        try:
            extra = next(self._call)
        except StopIteration:
            return
        except grpc.RpcError as error:
            raise Failed(self._words(error, "the end of the stream with status OK")) from None
        raise Failed(f"the picker sent a {extra.WhichOneof('response')} that nothing asked for")

    def drain(self) -> None:
        """Send no more, and see the picker end the stream, in whatever way."""
        self._queue.put(None)
        try:
            for _ in self._call:
                pass
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Failed(self._words(error, "the end of the stream")) from None

    def cancel(self) -> None:
        """Reset the stream, as a gateway does when its client goes away."""
        self._queue.put(None)
        self._call.cancel()

    def _words(self, error: grpc.RpcError, waiting_for: str) -> str:
        code = error.code().name if hasattr(error, "code") else type(error).__name__
        if code == "DEADLINE_EXCEEDED":
            return f"no answer within {self._deadline:g} s; expected {waiting_for}"
        details = error.details() if hasattr(error, "details") else ""
        return f"the stream ended with gRPC status {code} ({details}); expected {waiting_for}"
