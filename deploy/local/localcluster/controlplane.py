"""The control plane: servers started in order, waited for, disturbed on request, and ended."""

import contextlib
import functools
import ipaddress
import os
import signal
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from localcluster import binaries, kubeconfig
from localcluster.addresses import PodRange
from localcluster.cluster import Cluster
from localcluster.components import Files, Ports, Settings, command_lines, health_addresses
from localcluster.errors import LocalClusterError
from localcluster.pki import Authority, KeyPair, service_account_keys
from localcluster.ports import free_ports
from localcluster.processes import Processes
from localcluster.toolchain import CONTROL_PLANE

START_TIMEOUT_SECONDS = 120.0
_SERVER_GRACE_SECONDS = 2.0
# The servers are small: we let their heaps grow to four times what lives before garbage is collected, for less CPU.
_SERVER_ENVIRONMENT = {"GOGC": "300"}
_POLL_SECONDS = 0.05
_ATTEMPTS = 3
_PORT_TAKEN = "address already in use"
_AFTER_API = ("kube-controller-manager", "kube-scheduler", "kwok")

Report = Callable[[str], None]


class ServerDied(LocalClusterError):
    """A server ended while the control plane started; the message has the end of its log."""

    def __init__(self, name: str, code: int, log: str) -> None:
        super().__init__(f"{name} ended with exit code {code} while the control plane started; its last lines:\n{log}")
        self.log = log


class ControlPlane(Cluster):
    """etcd, kube-apiserver, kube-controller-manager, kube-scheduler and kwok on loopback.

    A context manager. Nothing of it outlives this process: the servers belong to a supervisor that ends them and
    removes the directory when this process is gone, however it went.

    Attributes:
        kubeconfig: File with an administrator's access (group system:masters).
        url: The API server, https://127.0.0.1:<port>.
        authority: Certificate of the cluster's authority (PEM file); `new_serving_certificate` issues from it.
        start_seconds: How long the start took, 0 before.
    """

    has_local_pods = True

    def __init__(
        self,
        *,
        pod_cidr: str | None = None,
        apiserver_flags: Sequence[str] = (),
        unlimited_requests: bool = False,
        node_lease_seconds: int = 40,
        fast: bool = True,
        report: Report | None = None,
    ) -> None:
        """Choose what to start; nothing runs before `start` or `with`.

        Args:
            pod_cidr: First address and size of the range for simulated pods; the first 127.N.0.1/16 that no other
                cluster on this machine has if not given.
            apiserver_flags: Further flags of kube-apiserver, e.g. "--feature-gates=...".
            unlimited_requests: Switch off the API server's request limits, for load tests.
            node_lease_seconds: How long a node's Lease lasts; renewed at a quarter of it. More for many nodes.
            fast: etcd does not wait for the disk, and servers take more memory for less CPU.
            report: Receives lines of progress; they go to stderr if not given.
        """
        super().__init__()
        self.settings = Settings(
            apiserver_flags=tuple(apiserver_flags),
            unlimited_requests=unlimited_requests,
            node_lease_seconds=node_lease_seconds,
            fast=fast,
        )
        self.authority = Path()
        self.start_seconds = 0.0
        self._report = report
        self._wanted_cidr = pod_cidr
        self._range: PodRange | None = None
        self._authority: Authority | None = None
        self._command_lines: dict[str, list[str]] = {}

    def __enter__(self) -> Self:
        return self.start()

    def start(self) -> Self:
        """Start the servers and return when all are healthy and pods can be created.

        Raises:
            ServerDied: A server ended; nothing is left running.
            LocalClusterError: It took longer than two minutes, a program could not be had, or another cluster has the
                range of addresses that was asked for.
        """
        programs = binaries.ensure(CONTROL_PLANE, report=self._report)
        for attempt in range(1, _ATTEMPTS + 1):
            begun = time.monotonic()
            try:
                self._start(programs)
            except ServerDied as died:
                self.stop()
                if _PORT_TAKEN not in died.log or attempt == _ATTEMPTS:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                self.start_seconds = time.monotonic() - begun
                break
        return self

    def stop(self) -> None:
        """End every process, remove the directory and give up the range of addresses; safe to call again."""
        super().stop()
        if self._range is not None:
            self._range.release()
            self._range = None

    def restart(self, server: str) -> None:
        """End one server (SIGTERM, SIGKILL after two seconds) and start it again on the same port and data.

        To restart kwok the API server has to answer: kwok forgets which addresses pods have, so we look them up.
        """
        self._running().end(server)
        if server == "kwok":
            self._pass_over_addresses_in_use()
        self._start_server(server)
        self._wait_until_healthy()

    def kill(self, server: str) -> None:
        """SIGKILL one server; `restart` brings it back."""
        self._running().send(server, signal.SIGKILL)

    def pause(self, server: str) -> None:
        """SIGSTOP one server: connections stay open and nobody answers."""
        self._running().send(server, signal.SIGSTOP)

    def resume(self, server: str) -> None:
        """SIGCONT a paused server."""
        self._running().send(server, signal.SIGCONT)

    def new_serving_certificate(self, name: str) -> KeyPair:
        """A certificate for 127.0.0.1 and localhost by the cluster's authority, for webhooks reached by url."""
        if self._authority is None:
            raise LocalClusterError("the cluster is not started")
        return self._authority.server(name, dns=("localhost",))

    def _start(self, programs: dict[str, Path]) -> None:
        self._range = PodRange.claim(self._wanted_cidr)
        self.settings = replace(self.settings, pod_cidr=self._range.cidr)
        self._processes = Processes(Path(tempfile.mkdtemp(prefix="tidefleet-local-")), hold=self._range.fds)
        directory = self._processes.directory
        ports = Ports(*free_ports(6))
        self._authority = Authority(directory)
        self.authority = self._authority.certificate
        self.url = f"https://127.0.0.1:{ports.apiserver}"
        clients = {
            "admin": self._authority.client("tidefleet-local-admin", organisation="system:masters"),
            "kube-controller-manager": self._authority.client("system:kube-controller-manager"),
            "kube-scheduler": self._authority.client("system:kube-scheduler"),
            "kwok": self._authority.client("kwok", organisation="system:masters"),
        }
        files = Files(
            directory=directory,
            authority=self.authority,
            serving=self._authority.server(
                "kube-apiserver",
                dns=("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"),
                ips=("127.0.0.1", "10.0.0.1"),
            ),
            service_accounts=service_account_keys(directory),
            kubeconfigs={
                name: kubeconfig.write(
                    directory / f"{name}.kubeconfig",
                    url=self.url,
                    authority=self.authority.read_bytes(),
                    user=pair,
                )
                for name, pair in clients.items()
            },
        )
        self.kubeconfig = files.kubeconfigs["admin"]
        self._ports = ports
        self._command_lines = command_lines(programs, ports, files, self.settings)
        self._start_server("etcd")
        self._start_server("kube-apiserver")
        self._wait(lambda: self.api().is_ok("/readyz"), "kube-apiserver to become ready")
        for server in _AFTER_API:
            self._start_server(server)
        self._wait_until_healthy()
        # Without its ServiceAccount a namespace takes no pods.
        self._wait(
            lambda: self.api().exists("/api/v1/namespaces/default/serviceaccounts/default"),
            "the default ServiceAccount",
        )

    def _start_server(self, server: str) -> None:
        environment = {**os.environ, **(_SERVER_ENVIRONMENT if self.settings.fast else {})}
        self._running().start(
            server, self._command_lines[server], env=environment, grace_seconds=_SERVER_GRACE_SECONDS, server=True
        )

    def _pass_over_addresses_in_use(self) -> None:
        """Have kwok count on from the highest address of a pod; afresh it would hand out the first ones again."""
        network = ipaddress.ip_interface(self.settings.pod_cidr)
        pods = self.api().get("/api/v1/pods")["items"]
        in_use = (ipaddress.ip_address(pod["status"]["podIP"]) for pod in pods if "podIP" in pod["status"])
        highest = max((int(address) for address in in_use if address in network.network), default=int(network.ip))
        cidr = f"--cidr={ipaddress.ip_address(highest)}/{network.network.prefixlen}"
        flags = self._command_lines["kwok"]
        self._command_lines["kwok"] = [cidr if flag.startswith("--cidr=") else flag for flag in flags]

    def _wait_until_healthy(self) -> None:
        self._wait(lambda: self.api().is_ok("/readyz"), "kube-apiserver to become ready")
        for server, address in health_addresses(self._ports).items():
            self._wait(functools.partial(_is_healthy, address), f"{server} to become healthy")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until the condition holds; a server that ends meanwhile is an error with its log."""
        processes = self._running()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not condition():
            for server, code in processes.exit_codes().items():
                if server in self._command_lines and code is not None:
                    raise ServerDied(server, code, processes.log_tail(server))
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {name}\n{processes.log_tail(name, lines=5)}" for name in self._command_lines)
                raise LocalClusterError(f"waited {START_TIMEOUT_SECONDS:g} s for {what}\n{tails}")
            time.sleep(_POLL_SECONDS)


def _is_healthy(address: str) -> bool:
    """Whether a health endpoint answers 200; its self-signed certificate tells us nothing, so it is not checked."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with contextlib.suppress(urllib.error.URLError, OSError), opener.open(address, timeout=2.0) as answer:
        return bool(answer.status == 200)
    return False
