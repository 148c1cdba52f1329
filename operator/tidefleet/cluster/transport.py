"""One HTTP exchange with the API server, on raw JSON.

The client library's typed calls build a model object per answer (a V1Pod takes 45 kB) and raise before headers such as
Retry-After can be read. The rest of this package needs the bytes, the status and the headers; credentials, TLS and the
connection pool stay the library's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes.client import ApiClient

from tidefleet.cluster.connection import CONNECT_SECONDS, READ_SECONDS

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class Unreachable(Exception):
    """No answer came: refused, reset, timed out. The request may or may not have been carried out."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the API server, of any status."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status <= 299

    def json(self) -> dict[str, Any]:
        """Return the body as an object; an empty one when it is not JSON (a proxy's page, a plain 404)."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def message(self) -> str:
        """What a person should read of a failure, at most 1,000 characters."""
        status = self.json()
        text = status.get("message") or self.body[:1000].decode("utf-8", "replace").strip()
        return f"{self.status} {status.get('reason') or ''}".strip() + f": {str(text)[:1000]}"

    @property
    def retry_after_seconds(self) -> float | None:
        """How long the server asks to wait; None when it does not say."""
        header = self.headers.get("Retry-After", "")
        details = self.json().get("details") if not self.ok else None
        value = header or (details or {}).get("retryAfterSeconds")
        try:
            return max(0.0, float(value)) if value else None
        except (TypeError, ValueError):
            return None


def send(
    api: ApiClient,
    method: str,
    path: str,
    *,
    query: Mapping[str, str | int] | None = None,
    body: object = None,
    content_type: str = JSON,
    timeout_seconds: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS),
) -> Reply:
    """Send one request and return the answer, whatever its status.

    Args:
        api: the connection.
        method: HTTP method.
        path: absolute path on the server (see `kinds.path`).
        query: query parameters; empty values are left out.
        body: what is sent as JSON; None for no body.
        content_type: of the body.
        timeout_seconds: (connect, read).

    Raises:
        Unreachable: when no answer came.
    """
    response = _request(
        api,
        method,
        path,
        query=query,
        body=body,
        content_type=content_type,
        timeout_seconds=timeout_seconds,
        preload=True,
    )
    return Reply(status=response.status, body=response.data, headers=response.headers)


def stream(
    api: ApiClient, path: str, *, query: Mapping[str, str | int], timeout_seconds: tuple[float, float]
) -> urllib3.BaseHTTPResponse:
    """Open a GET whose body is read piece by piece; the caller looks at its status and closes it.

    Raises:
        Unreachable: when no answer came.
    """
    return _request(
        api, "GET", path, query=query, body=None, content_type=JSON, timeout_seconds=timeout_seconds, preload=False
    )


def _request(
    api: ApiClient,
    method: str,
    path: str,
    *,
    query: Mapping[str, str | int] | None,
    body: object,
    content_type: str,
    timeout_seconds: tuple[float, float],
    preload: bool,
) -> urllib3.BaseHTTPResponse:
    headers: dict[str, str] = {**api.default_headers, "Accept": JSON}
    api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
    data = None
    if body is not None:
        headers["Content-Type"] = content_type
        data = json.dumps(body, separators=(",", ":")).encode()
    given = {name: value for name, value in (query or {}).items() if value != ""}
    url = api.configuration.host.rstrip("/") + path + (f"?{urlencode(given)}" if given else "")
    connect, read = timeout_seconds
    try:
        response: urllib3.BaseHTTPResponse = api.rest_client.pool_manager.request(
            method,
            url,
            body=data,
            headers=headers,
            timeout=urllib3.Timeout(connect=connect, read=read),
            retries=False,
            preload_content=preload,
        )
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Unreachable(f"{method} {path}: {type(error).__name__}: {error}") from error
    return response
