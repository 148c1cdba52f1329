"""The gRPC health service, which probes and gateways' active health checks ask."""

from __future__ import annotations

from typing import Any

import grpc

from tidefleet.conformance.case import expect, fail, registry
from tidefleet.conformance.target import Target

CASES, case = registry()
_SERVING = b"\x08\x01"  # HealthCheckResponse.status = SERVING
_EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"


def _request(service: str) -> bytes:
    return b"\x0a" + bytes((len(service),)) + service.encode() if service else b""


def _check(target: Target, service: str) -> bytes:
    call = target.connection.unary_unary("/grpc.health.v1.Health/Check")
    try:
        return bytes(call(_request(service), timeout=target.deadline_seconds, wait_for_ready=True))
    except grpc.RpcError as error:
        fail(f"Check({service!r}) ended with {_code(error)}; expected SERVING")


def _code(error: Any) -> str:
    return str(error.code().name)


def _serving(target: Target, service: str) -> None:
    answer = _check(target, service)
    expect(answer == _SERVING, f"Check({service!r}) answered {answer!r}; expected SERVING")


@case("health.overall")
def _overall(target: Target) -> None:
    """The health service answers SERVING for the whole server (the empty name)."""
    _serving(target, "")


@case("health.ext-proc")
def _ext_proc(target: Target) -> None:
    """The health service answers SERVING for envoy.service.ext_proc.v3.ExternalProcessor, which Envoy asks for."""
    _serving(target, _EXT_PROC)


@case("health.liveness")
def _liveness(target: Target) -> None:
    """The health service answers SERVING for the name `liveness`."""
    _serving(target, "liveness")


@case("health.readiness")
def _readiness(target: Target) -> None:
    """The health service answers SERVING for the name `readiness`."""
    _serving(target, "readiness")


@case("health.unknown")
def _unknown(target: Target) -> None:
    """A check of a service that does not exist ends with NOT_FOUND."""
    call = target.connection.unary_unary("/grpc.health.v1.Health/Check")
    try:
        answer = call(_request("no.such.Service"), timeout=target.deadline_seconds, wait_for_ready=True)
    except grpc.RpcError as error:
        expect(_code(error) == "NOT_FOUND", f"ended with {_code(error)}; expected NOT_FOUND")
    else:
        fail(f"answered {answer!r}; expected NOT_FOUND")


@case("health.unknown-method")
def _unknown_method(target: Target) -> None:
    """A method that does not exist ends with UNIMPLEMENTED, and the connection goes on."""
    call = target.connection.unary_unary("/no.such.Service/Method")
    try:
        answer = call(b"", timeout=target.deadline_seconds, wait_for_ready=True)
    except grpc.RpcError as error:
        expect(_code(error) == "UNIMPLEMENTED", f"ended with {_code(error)}; expected UNIMPLEMENTED")
    else:
        fail(f"answered {answer!r}; expected UNIMPLEMENTED")
    _serving(target, "")
