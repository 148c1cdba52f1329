"""A plain HTTPS client for an API server: JSON in, JSON out."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from localcluster import kubeconfig
from localcluster.errors import LocalClusterError

_FIELD_MANAGER = "localcluster"


class ApiError(LocalClusterError):
    """The API server refused a request."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class ApiClient:
    """Requests to one API server; threads may share it."""

    def __init__(self, access: kubeconfig.Access, *, timeout_seconds: float = 30.0) -> None:
        self.url = access.url
        headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
        self._client = httpx.Client(
            base_url=access.url,
            verify=access.tls(),
            headers=headers,
            timeout=timeout_seconds,
            trust_env=False,
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=32),
        )

    @classmethod
    def from_kubeconfig(cls, path: Path) -> Self:
        """A client for the current context of that file."""
        return cls(kubeconfig.read(path))

    def request(self, method: str, path: str, body: Any = None, *, content_type: str = "application/json") -> Any:
        """The decoded answer.

        Raises:
            ApiError: The status is 400 or above.
            httpx.TransportError: There was no answer.
        """
        headers = {"Content-Type": content_type} if body is not None else {}
        response = self._client.request(method, path, json=body, headers=headers)
        if response.status_code >= 400:
            raise ApiError(f"{method} {path}: {response.status_code} {_message(response)}", status=response.status_code)
        return response.json() if response.headers.get("content-type", "").startswith("application/json") else None

    def get(self, path: str) -> Any:
        """The object or list at `path`."""
        return self.request("GET", path)

    def create(self, path: str, body: Any) -> Any:
        """POST `body` to the collection `path`."""
        return self.request("POST", path, body)

    def apply(self, path: str, body: Any) -> Any:
        """Apply `body` to the object `path` on the server's side, taking over contested fields."""
        return self.request(
            "PATCH",
            f"{path}?fieldManager={_FIELD_MANAGER}&force=true",
            body,
            content_type="application/apply-patch+yaml",
        )

    def merge(self, path: str, body: Any) -> Any:
        """Merge-patch the object `path`."""
        return self.request("PATCH", path, body, content_type="application/merge-patch+json")

    def delete(self, path: str, body: Any = None) -> Any:
        """Delete the object `path`."""
        return self.request("DELETE", path, body)

    def exists(self, path: str) -> bool:
        """Whether there is an object at `path`."""
        try:
            self.get(path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def is_ok(self, path: str) -> bool:
        """Whether a health endpoint answers 200; no answer counts as no."""
        try:
            return self._client.get(path, timeout=2.0).status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json().get("message", response.text))
    except ValueError:
        return response.text
