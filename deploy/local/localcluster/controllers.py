"""A controller of another project beside a local control plane: its definitions, its webhooks by url, one process."""

import base64
import json
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from localcluster import binaries
from localcluster.api import ApiError
from localcluster.controlplane import ControlPlane
from localcluster.crds import crd_files
from localcluster.errors import LocalClusterError
from localcluster.loader import LOADER
from localcluster.ports import free_ports

START_SECONDS = 60.0
_POLL_SECONDS = 0.1
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_WEBHOOKS = "/apis/admissionregistration.k8s.io/v1"

Webhook = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """What differs between the controllers of other projects.

    Attributes:
        process: Its name in tools.toml and among the cluster's processes.
        crds: Where its definitions are read from (tools.toml); its webhooks are "<crds>-webhooks".
        config: apiVersion of its configuration.
        settings: Further parts of its configuration.
        flags: Further arguments.
        served: Addresses that answer once its definitions are served.
        adapt: Changes a webhook, or returns False to leave it out.
    """

    process: str
    crds: str
    config: str
    settings: Mapping[str, Any]
    served: Sequence[str]
    adapt: Callable[[Webhook], bool]
    flags: Sequence[str] = ()


def start(cluster: ControlPlane, wanted: Controller) -> None:
    """Serve the controller's kinds in a running cluster; it ends with the cluster.

    Its webhooks are reached by url, with a certificate of the cluster's authority.

    Raises:
        LocalClusterError: The program cannot be had, or it was not ready within a minute.
    """
    program = binaries.find(wanted.process)
    api = cluster.api()
    for definition in (one for file in crd_files(wanted.crds) for one in _documents(file)):
        # Created, not applied: that an earlier start left it is no reason to merge 20,000 lines again.
        try:
            api.create(_CRDS, definition)
        except ApiError as error:
            if error.status != 409:
                raise
    deadline = time.monotonic() + START_SECONDS
    while not all(api.is_ok(address) for address in wanted.served):
        cluster.processes.exit_codes()  # raises once the cluster was stopped
        _wait(deadline, f"{wanted.crds}: its definitions are not served after {START_SECONDS:g} s")
    port, health = free_ports(2)
    _run(cluster, wanted, program, port=port, health=health)
    while not _answers_tls(port, cluster.authority):
        if not cluster.is_running(wanted.process):
            raise LocalClusterError(
                f"{wanted.process} ended while it started; its last lines:\n{cluster.log(wanted.process)}"
            )
        _wait(deadline, f"{wanted.process} is not ready after {START_SECONDS:g} s:\n{cluster.log(wanted.process)}")
    authority = base64.b64encode(cluster.authority.read_bytes()).decode()
    for configuration in (one for file in crd_files(f"{wanted.crds}-webhooks") for one in _documents(file)):
        _point_here(configuration, wanted, url=f"https://127.0.0.1:{port}", authority=authority)
        plural = f"{configuration['kind'].lower()}s"
        try:
            api.apply(f"{_WEBHOOKS}/{plural}/{configuration['metadata']['name']}", configuration)
        except ApiError as error:
            raise LocalClusterError(f"{configuration['kind']} of {wanted.process}: {error}") from error


def only_for_pods_with(label: str, webhook: Webhook) -> None:
    """Ask a webhook about pods that carry the label, and not about all, which would then depend on it."""
    if any("pods" in rule["resources"] for rule in webhook["rules"]):
        webhook["objectSelector"] = {"matchExpressions": [{"key": label, "operator": "Exists"}]}


def _run(cluster: ControlPlane, wanted: Controller, program: Path, *, port: int, health: int) -> None:
    directory = cluster.directory / wanted.process
    directory.mkdir(exist_ok=True)
    pair = cluster.new_serving_certificate(wanted.process)
    shutil.copy(pair.certificate, directory / "tls.crt")
    shutil.copy(pair.key, directory / "tls.key")
    config = directory / "config.yaml"
    settings = {
        "apiVersion": wanted.config,
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(directory)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        **wanted.settings,
    }
    config.write_text(json.dumps(settings), encoding="utf-8")
    arguments: list[str | Path] = [program, f"--config={config}", f"--kubeconfig={cluster.kubeconfig}", *wanted.flags]
    cluster.run(wanted.process, arguments, grace_seconds=2.0)


def _documents(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as text:
        return [one for one in yaml.load_all(text, Loader=LOADER) if one]


def _point_here(configuration: dict[str, Any], wanted: Controller, *, url: str, authority: str) -> None:
    """Turn a webhook configuration for a Service into one for an address."""
    configuration["metadata"]["name"] = f"{wanted.crds}-{configuration['metadata']['name']}"
    configuration["webhooks"] = [one for one in configuration["webhooks"] if wanted.adapt(one)]
    for webhook in configuration["webhooks"]:
        service = webhook["clientConfig"].pop("service")
        webhook["clientConfig"] = {"url": url + service["path"], "caBundle": authority}


def _wait(deadline: float, what: str) -> None:
    if time.monotonic() > deadline:
        raise LocalClusterError(what)
    time.sleep(_POLL_SECONDS)


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
