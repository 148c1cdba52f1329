"""The LeaderWorkerSet controller beside a local control plane: definitions, webhooks, one process."""

import base64
import json
import shutil
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import yaml

from localcluster import binaries
from localcluster.api import ApiError
from localcluster.controlplane import ControlPlane
from localcluster.crds import crd_files
from localcluster.errors import LocalClusterError
from localcluster.ports import free_ports

PROCESS = "lws-controller"
"""Its name among the cluster's processes."""

SET_LABEL = "leaderworkerset.sigs.k8s.io/name"
_START_SECONDS = 60.0
_POLL_SECONDS = 0.1
_WEBHOOKS = "/apis/admissionregistration.k8s.io/v1"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def start_leader_worker_sets(cluster: ControlPlane) -> None:
    """Serve LeaderWorkerSets in a running cluster; its controller ends with the cluster.

    Its webhooks are reached by url, with a certificate of the cluster's authority, and those about pods are asked only
    about pods of a LeaderWorkerSet, so that all others go on when it does not answer.

    Raises:
        LocalClusterError: The program cannot be had, or it was not ready within a minute.
    """
    program = binaries.find(PROCESS)
    (definition,) = (one for file in crd_files("lws") for one in _documents(file))
    api = cluster.api()
    api.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}", definition)
    port, health = free_ports(2)
    _run(cluster, program, port=port, health=health)
    deadline = time.monotonic() + _START_SECONDS
    while not (
        _answers_tls(port, cluster.authority) and api.is_ok("/apis/leaderworkerset.x-k8s.io/v1/leaderworkersets")
    ):
        if not cluster.is_running(PROCESS):
            raise LocalClusterError(f"{PROCESS} ended while it started; its last lines:\n{cluster.log(PROCESS)}")
        if time.monotonic() > deadline:
            raise LocalClusterError(f"{PROCESS} is not ready after {_START_SECONDS:g} s:\n{cluster.log(PROCESS)}")
        time.sleep(_POLL_SECONDS)
    authority = base64.b64encode(cluster.authority.read_bytes()).decode()
    for configuration in (one for file in crd_files("lws-webhooks") for one in _documents(file)):
        _point_here(configuration, url=f"https://127.0.0.1:{port}", authority=authority)
        plural = f"{configuration['kind'].lower()}s"
        try:
            api.apply(f"{_WEBHOOKS}/{plural}/{configuration['metadata']['name']}", configuration)
        except ApiError as error:
            raise LocalClusterError(f"{configuration['kind']} of {PROCESS}: {error}") from error


def _run(cluster: ControlPlane, program: Path, *, port: int, health: int) -> None:
    directory = cluster.directory / PROCESS
    directory.mkdir()
    pair = cluster.new_serving_certificate(PROCESS)
    shutil.copy(pair.certificate, directory / "tls.crt")
    shutil.copy(pair.key, directory / "tls.key")
    config = directory / "config.yaml"
    settings = {
        "apiVersion": "config.lws.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(directory)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
    }
    config.write_text(json.dumps(settings), encoding="utf-8")
    cluster.run(PROCESS, [program, f"--config={config}", f"--kubeconfig={cluster.kubeconfig}"], grace_seconds=2.0)


def _documents(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as text:
        return [one for one in yaml.load_all(text, Loader=_LOADER) if one]


def _point_here(configuration: dict[str, Any], *, url: str, authority: str) -> None:
    """Turn a webhook configuration for a Service into one for an address."""
    configuration["metadata"]["name"] = f"lws-{configuration['metadata']['name']}"
    for webhook in configuration["webhooks"]:
        service = webhook["clientConfig"].pop("service")
        webhook["clientConfig"] = {"url": url + service["path"], "caBundle": authority}
        if any("pods" in rule["resources"] for rule in webhook["rules"]):
            webhook["objectSelector"] = {"matchExpressions": [{"key": SET_LABEL, "operator": "Exists"}]}


def _answers_tls(port: int, authority: Path) -> bool:
    context = ssl.create_default_context(cafile=str(authority))
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 2.0) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1"),
        ):
            return True
    except OSError:
        return False
