"""The credentials of a connection, for a library that makes its own requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubernetes.client import ApiClient


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where the API server is and what to show it; ``token`` is read afresh, since service account tokens rotate."""

    server: str
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    token: str = field(default="", repr=False)
    verify: bool = True


def credentials(api: ApiClient) -> Credentials:
    """The credentials that a client uses now."""
    configuration = api.configuration
    # The key's name differs between versions of the client library.
    named = (configuration.get_api_key_with_prefix(name) for name in ("authorization", "BearerToken"))
    header = next((value for value in named if value), "")
    return Credentials(
        server=configuration.host,
        ca_file=configuration.ssl_ca_cert or "",
        certificate_file=configuration.cert_file or "",
        key_file=configuration.key_file or "",
        token=header.removeprefix("Bearer ").removeprefix("bearer "),
        verify=bool(configuration.verify_ssl),
    )
