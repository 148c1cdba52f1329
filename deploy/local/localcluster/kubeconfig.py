"""Kubeconfig files: written for the cluster's users, read for any cluster."""

import base64
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from localcluster.errors import LocalClusterError
from localcluster.pki import KeyPair

_NAME = "tidefleet-local"


def write(path: Path, *, url: str, authority: bytes, user: KeyPair | str) -> Path:
    """Write a kubeconfig, readable by its owner only, with all it needs inside.

    Args:
        path: File to write.
        url: The API server, e.g. https://127.0.0.1:26443.
        authority: The authority's certificate (PEM); empty for the system's own authorities.
        user: A client certificate, or a bearer token.
    """
    credentials: dict[str, str]
    if isinstance(user, str):
        credentials = {"token": user}
    else:
        credentials = {
            "client-certificate-data": _encode(user.certificate.read_bytes()),
            "client-key-data": _encode(user.key.read_bytes()),
        }
    cluster = {"server": url}
    if authority:
        cluster["certificate-authority-data"] = _encode(authority)
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": _NAME, "cluster": cluster}],
        "users": [{"name": _NAME, "user": credentials}],
        "contexts": [{"name": _NAME, "context": {"cluster": _NAME, "user": _NAME}}],
        "current-context": _NAME,
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        yaml.safe_dump(document, file, sort_keys=False)
    return path


@dataclass(frozen=True, slots=True)
class Access:
    """What a client needs to speak to an API server."""

    url: str
    authority: bytes
    token: str
    certificate: bytes
    key: bytes

    def tls(self) -> ssl.SSLContext:
        """A context that trusts this cluster's authority and presents the client certificate, if there is one."""
        context = ssl.create_default_context(cadata=self.authority.decode() or None)
        if self.certificate:
            # ssl reads client certificates from files only.
            with tempfile.TemporaryDirectory(prefix="tidefleet-client-") as directory:
                certificate, key = Path(directory) / "tls.crt", Path(directory) / "tls.key"
                certificate.write_bytes(self.certificate)
                key.touch(mode=0o600)
                key.write_bytes(self.key)
                context.load_cert_chain(certificate, key)
        return context


def read(path: Path) -> Access:
    """The access that the current context of a kubeconfig gives.

    Raises:
        LocalClusterError: The file has no current context, or its user authenticates by a plugin.
    """
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    context = _named(document, "contexts", "context", document.get("current-context", ""), path)
    cluster = _named(document, "clusters", "cluster", context["cluster"], path)
    user = _named(document, "users", "user", context["user"], path)
    if "exec" in user or "auth-provider" in user:
        raise LocalClusterError(
            f"{path}: user {context['user']} authenticates by a plugin; expected a client certificate or a token"
        )
    token = user.get("token", "")
    if not token and "tokenFile" in user:
        token = (path.parent / user["tokenFile"]).read_text(encoding="utf-8").strip()
    return Access(
        url=cluster["server"].rstrip("/"),
        authority=_content(cluster, "certificate-authority", path),
        token=token,
        certificate=_content(user, "client-certificate", path),
        key=_content(user, "client-key", path),
    )


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _named(document: dict[str, Any], list_key: str, key: str, name: str, path: Path) -> dict[str, Any]:
    for entry in document.get(list_key) or []:
        if entry["name"] == name:
            value: dict[str, Any] = entry[key]
            return value
    raise LocalClusterError(f"{path}: no entry {name!r} under {list_key}")


def _content(entry: dict[str, Any], key: str, path: Path) -> bytes:
    if f"{key}-data" in entry:
        return base64.b64decode(entry[f"{key}-data"])
    if key in entry:
        file: Path = path.parent / entry[key]
        return file.read_bytes()
    return b""
