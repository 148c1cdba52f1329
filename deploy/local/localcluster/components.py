"""The servers of the control plane and their arguments."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localcluster.pki import KeyPair

STAGES_DIRECTORY = Path(__file__).resolve().parent / "stages"

# Controllers with nothing to do here: no cloud, no volumes, no bootstrap tokens, no node addresses to hand out.
_CONTROLLERS_OFF = (
    "bootstrap-signer-controller",
    "token-cleaner-controller",
    "node-ipam-controller",
    "node-route-controller",
    "service-lb-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-expander-controller",
    "ephemeral-volume-controller",
)


@dataclass(frozen=True, slots=True)
class Ports:
    """One loopback port for each listener of the control plane."""

    etcd: int
    etcd_peer: int
    apiserver: int
    controller_manager: int
    scheduler: int
    kwok: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a caller may choose about a control plane.

    Attributes:
        pod_cidr: First address and size of the range that simulated pods take their loopback addresses from.
        apiserver_flags: Further flags of kube-apiserver; a later flag wins over ours.
        unlimited_requests: Switch off request limits, for load tests.
        node_lease_seconds: How long a node's Lease lasts; kwok renews each at a quarter of it.
        fast: Give up durability that a temporary cluster has no use for (etcd does not wait for the disk), and memory
            for less CPU.
    """

    pod_cidr: str = "127.1.0.1/16"
    apiserver_flags: tuple[str, ...] = ()
    unlimited_requests: bool = False
    node_lease_seconds: int = 40
    fast: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files the servers share; all below the cluster's directory."""

    directory: Path
    authority: Path
    serving: KeyPair
    service_accounts: KeyPair
    kubeconfigs: Mapping[str, Path]


def command_lines(binaries: Mapping[str, Path], ports: Ports, files: Files, settings: Settings) -> dict[str, list[str]]:
    """Program and arguments of each server, in the order they start."""
    arguments = {
        "etcd": _etcd(ports, files, settings),
        "kube-apiserver": _apiserver(ports, files, settings),
        "kube-controller-manager": _controller_manager(ports, files, settings),
        "kube-scheduler": _scheduler(ports, files),
        "kwok": _kwok(ports, files, settings),
    }
    return {name: [str(binaries[name]), *flags] for name, flags in arguments.items()}


def health_addresses(ports: Ports) -> dict[str, str]:
    """Where each server says that it is healthy; the API server's own is asked with a client certificate."""
    return {
        "kube-controller-manager": f"https://127.0.0.1:{ports.controller_manager}/healthz",
        "kube-scheduler": f"https://127.0.0.1:{ports.scheduler}/healthz",
        "kwok": f"http://127.0.0.1:{ports.kwok}/healthz",
    }


def _etcd(ports: Ports, files: Files, settings: Settings) -> list[str]:
    client, peer = f"http://127.0.0.1:{ports.etcd}", f"http://127.0.0.1:{ports.etcd_peer}"
    return [
        f"--data-dir={files.directory / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--log-level=warn",
        *(["--unsafe-no-fsync"] if settings.fast else []),
    ]


def _apiserver(ports: Ports, files: Files, settings: Settings) -> list[str]:
    limits = ["--max-requests-inflight=0", "--max-mutating-requests-inflight=0", "--enable-priority-and-fairness=false"]
    return [
        f"--etcd-servers=http://127.0.0.1:{ports.etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--secure-port={ports.apiserver}",
        # No kubelet and no proxy: the kubernetes Service gets no endpoints (loopback is not allowed there).
        "--endpoint-reconciler-type=none",
        "--authorization-mode=Node,RBAC",
        f"--client-ca-file={files.authority}",
        f"--tls-cert-file={files.serving.certificate}",
        f"--tls-private-key-file={files.serving.key}",
        f"--cert-dir={files.directory}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={files.service_accounts.certificate}",
        f"--service-account-signing-key-file={files.service_accounts.key}",
        "--service-cluster-ip-range=10.0.0.0/16",
        "--allow-privileged=true",
        *(limits if settings.unlimited_requests else []),
        *settings.apiserver_flags,
    ]


def _controller_manager(ports: Ports, files: Files, settings: Settings) -> list[str]:
    return [
        f"--kubeconfig={files.kubeconfigs['kube-controller-manager']}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports.controller_manager}",
        f"--cert-dir={files.directory / 'kube-controller-manager'}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={files.service_accounts.key}",
        f"--root-ca-file={files.authority}",
        f"--node-monitor-grace-period={max(50, settings.node_lease_seconds * 5 // 4)}s",
        "--controllers=*," + ",".join(f"-{name}" for name in _CONTROLLERS_OFF),
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]


def _scheduler(ports: Ports, files: Files) -> list[str]:
    return [
        f"--kubeconfig={files.kubeconfigs['kube-scheduler']}",
        "--bind-address=127.0.0.1",
        f"--secure-port={ports.scheduler}",
        f"--cert-dir={files.directory / 'kube-scheduler'}",
        "--leader-elect=false",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]


def _kwok(ports: Ports, files: Files, settings: Settings) -> list[str]:
    return [
        f"--kubeconfig={files.kubeconfigs['kwok']}",
        "--manage-all-nodes=true",
        f"--cidr={settings.pod_cidr}",
        "--node-ip=127.0.0.1",
        f"--node-lease-duration-seconds={settings.node_lease_seconds}",
        f"--server-address=127.0.0.1:{ports.kwok}",
        *(f"--config={stage}" for stage in sorted(STAGES_DIRECTORY.glob("*.yaml"))),
    ]
