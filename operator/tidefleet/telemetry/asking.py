"""Asking a Prometheus from a command: one question at a time, and answers of bounded size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

SECONDS = 60.0
"""Until an answer must be there."""
MOST_BYTES = 256 << 20
"""Of an answer."""
_EXAMPLE = "expected the address of a Prometheus, e.g. http://prometheus:9090"


class PrometheusError(Exception):
    """A Prometheus that cannot be asked, or has nothing; the message is for the user."""


class RefusedError(PrometheusError):
    """It did not take the question."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where a Prometheus is; ``token``: sent as a bearer token, unless it is empty."""

    url: str
    token: str = ""

    @classmethod
    def with_file(cls, url: str, token_file: Path | None, *, option: str = "--prometheus-token-file") -> Self:
        """With the token that is in a file, which ``option`` named.

        Raises:
            PrometheusError: the file cannot be read, or the address is none.
        """
        if not url.startswith(("http://", "https://")):
            raise PrometheusError(f"--prometheus {url}: is no address; expected one like http://prometheus:9090")
        try:
            return cls(url.rstrip("/"), token_file.read_text(encoding="utf-8").strip() if token_file else "")
        except (OSError, UnicodeDecodeError) as error:
            raise PrometheusError(f"{option} {token_file}: cannot be read: {error}") from None


class Asking(AbstractContextManager["Asking"]):
    """A connection to a Prometheus, kept from question to question."""

    def __init__(self, access: Access) -> None:
        self._url = access.url
        headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
        self._client = httpx.Client(timeout=SECONDS, headers=headers, follow_redirects=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def series(self, what: str, form: Mapping[str, str]) -> list[dict[str, Any]]:
        """The series of an answer.

        Args:
            what: ``query`` or ``query_range``.
            form: its parameters, as Prometheus names them.

        Raises:
            RefusedError: what answers does not take the question, or is no Prometheus.
            PrometheusError: nobody answers in time, or with what cannot be read.
        """
        try:
            status, body = self._post(f"{self._url}/api/v1/{what}", form)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
            raise PrometheusError(
                f"--prometheus {self._url}: cannot be asked: {error or type(error).__name__}; {_EXAMPLE}"
            ) from None
        if status != httpx.codes.OK or not isinstance(body, dict) or body.get("status") != "success":
            words = str(body.get("error", "") if isinstance(body, dict) else "")[:300] or "no answer of a Prometheus"
            raise RefusedError(f"--prometheus {self._url}: answered {status}: {words}")
        data = body.get("data")
        found = data.get("result") if isinstance(data, dict) else None
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise PrometheusError(f"--prometheus {self._url}: its answer holds no series; {_EXAMPLE}")
        return found

    def _post(self, url: str, form: Mapping[str, str]) -> tuple[int, Any]:
        """Status and body; no body where it is no JSON."""
        with self._client.stream("POST", url, data=dict(form)) as answer:
            if "json" not in answer.headers.get("content-type", ""):
                return answer.status_code, None
            body = bytearray()
            for part in answer.iter_bytes():
                body += part
                if len(body) > MOST_BYTES:
                    raise ValueError(f"the answer is longer than {MOST_BYTES >> 20} MiB")
            return answer.status_code, json.loads(body)
