"""Kubeconfigs written and read back, and certificates that a client accepts."""

import ssl
from pathlib import Path

import pytest

from localcluster import kubeconfig
from localcluster.errors import LocalClusterError
from localcluster.pki import Authority


def test_a_client_certificate_survives_the_round_trip(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.client("system:kube-scheduler")
    path = kubeconfig.write(
        tmp_path / "config", url="https://127.0.0.1:1", authority=authority.certificate.read_bytes(), user=pair
    )
    access = kubeconfig.read(path)
    assert access.url == "https://127.0.0.1:1"
    assert access.certificate == pair.certificate.read_bytes()
    assert access.key == pair.key.read_bytes()
    assert isinstance(access.tls(), ssl.SSLContext)
    assert path.stat().st_mode & 0o777 == 0o600
    assert pair.key.stat().st_mode & 0o777 == 0o600


def test_a_token_survives_the_round_trip(tmp_path: Path) -> None:
    access = kubeconfig.read(kubeconfig.write(tmp_path / "c", url="https://127.0.0.1:1", authority=b"", user="t0k3n"))
    assert (access.token, access.certificate) == ("t0k3n", b"")


def test_a_user_of_a_plugin_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(
        """
clusters: [{name: c, cluster: {server: "https://x"}}]
users: [{name: u, user: {exec: {command: cloud}}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""
    )
    with pytest.raises(LocalClusterError, match="user u authenticates by a plugin"):
        kubeconfig.read(path)
