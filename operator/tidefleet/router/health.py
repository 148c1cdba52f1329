"""The gRPC health service (grpc.health.v1): what a kubelet's probes and a gateway's active health checks ask.

Four names are known. ``liveness``: the process runs. ``readiness``, the empty name and the name of the ext_proc
service: it can choose, and is not about to end. The two messages have one field each and are coded here.
"""

from __future__ import annotations

from tidefleet.router.grpc_calls import INVALID_ARGUMENT, NOT_FOUND, Call, GrpcError, Method, Open

EXT_PROC_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
_FOLLOWS_READINESS = ("", "readiness", EXT_PROC_SERVICE)


class Health:
    """Whether the process can choose; set by its owner, asked and watched by peers."""

    def __init__(self, *, ready: bool = False) -> None:
        self._ready = ready
        self._watchers: set[_Watch] = set()

    @property
    def ready(self) -> bool:
        """Whether requests are wanted."""
        return self._ready

    @ready.setter
    def ready(self, value: bool) -> None:
        if value != self._ready:
            self._ready = value
            for watcher in list(self._watchers):
                watcher.changed()

    def answer(self, service: str) -> bytes | None:
        """The response for a service, None if it is not known."""
        if service == "liveness":
            return _SERVING
        if service in _FOLLOWS_READINESS:
            return _SERVING if self._ready else _NOT_SERVING
        return None

    def methods(self) -> dict[bytes, Open]:
        """The service's methods by path."""
        return {
            b"/grpc.health.v1.Health/Check": lambda call: _Check(call, self),
            b"/grpc.health.v1.Health/Watch": lambda call: _Watch(call, self, self._watchers),
        }


class _Check(Method):
    def __init__(self, call: Call, health: Health) -> None:
        self._call, self._health = call, health

    def message(self, raw: bytes) -> None:
        answer = self._health.answer(service_name(raw))
        if answer is None:
            raise GrpcError(NOT_FOUND, "unknown service")
        self._call.send(answer)
        self._call.finish()

    def ended(self) -> None:
        self._call.finish(INVALID_ARGUMENT, "no request came")

    def closed(self) -> None:
        pass


class _Watch(Method):
    def __init__(self, call: Call, health: Health, watchers: set[_Watch]) -> None:
        self._call, self._health, self._watchers = call, health, watchers
        self._service: str | None = None

    def message(self, raw: bytes) -> None:
        self._service = service_name(raw)
        self._watchers.add(self)
        self.changed()

    def changed(self) -> None:
        if self._service is not None:
            self._call.send(self._health.answer(self._service) or _SERVICE_UNKNOWN)

    def ended(self) -> None:
        if self._service is None:
            self._call.finish(INVALID_ARGUMENT, "no request came")

    def closed(self) -> None:
        self._watchers.discard(self)


def service_name(raw: bytes) -> str:
    """Field 1 of a HealthCheckRequest; a name of 128 bytes or more, or any other field, is refused."""
    if not raw:
        return ""
    if raw[0] != 0x0A or len(raw) < 2 or raw[1] != len(raw) - 2 or raw[1] > 127:
        raise GrpcError(INVALID_ARGUMENT, "not a HealthCheckRequest with a name of at most 127 bytes")
    try:
        return raw[2:].decode()
    except UnicodeDecodeError:
        raise GrpcError(INVALID_ARGUMENT, "the service name is not UTF-8") from None
