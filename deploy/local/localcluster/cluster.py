"""A cluster as tests and the demo use it: a kubeconfig, tokens of ServiceAccounts, processes bound to it."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from localcluster import kubeconfig
from localcluster.api import ApiClient
from localcluster.errors import LocalClusterError
from localcluster.processes import Processes

_TOKEN_SECONDS = 24 * 3600


class Cluster:
    """Access to one cluster.

    Attributes:
        kubeconfig: File that gives an administrator's access.
        url: The API server's address.
        has_local_pods: Whether simulated pods have loopback addresses that this machine can listen on.
    """

    has_local_pods = False

    def __init__(self) -> None:
        self.kubeconfig: Path = Path()
        self.url = ""
        self._processes: Processes | None = None
        self._api: ApiClient | None = None

    @property
    def directory(self) -> Path:
        """A directory that is removed when the cluster is stopped."""
        return self._running().directory

    def api(self) -> ApiClient:
        """A client with an administrator's rights, shared and closed with the cluster."""
        if self._api is None:
            self._running()
            self._api = ApiClient.from_kubeconfig(self.kubeconfig)
        return self._api

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig with a one-day token of that ServiceAccount, so that a process runs with its RBAC.

        Raises:
            ApiError: There is no such ServiceAccount.
        """
        request: dict[str, Any] = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": _TOKEN_SECONDS},
        }
        answer = self.api().create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", request)
        return kubeconfig.write(
            self.directory / f"{namespace}-{name}.kubeconfig",
            url=self.url,
            authority=kubeconfig.read(self.kubeconfig).authority,
            user=answer["status"]["token"],
        )

    def run(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace_seconds: float = 5.0,
    ) -> int:
        """Start a process that ends with the cluster, whatever ends it, and return its id.

        Args:
            name: What `end`, `send`, `log` call it; free again once the process has ended.
            argv: Program and arguments.
            env: Variables added to this process's environment; KUBECONFIG is the administrator's unless given.
            cwd: Its working directory.
            grace_seconds: How long it may take to end after SIGTERM.
        """
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), **(env or {})}
        return self._running().start(name, argv, env=environment, cwd=cwd, grace_seconds=grace_seconds)

    @property
    def processes(self) -> Processes:
        """All processes of the cluster by name, to signal, end, and read the logs of."""
        return self._running()

    def end(self, name: str) -> None:
        """End a process: SIGTERM, then SIGKILL after its grace."""
        self._running().end(name)

    def is_running(self, name: str) -> bool:
        """Whether a process of that name runs."""
        codes = self._running().exit_codes()
        return name in codes and codes[name] is None

    def log(self, name: str, *, lines: int = 40) -> str:
        """The last lines that process wrote."""
        return self._running().log_tail(name, lines=lines)

    def stop(self) -> None:
        """End every process and remove the directory; safe to call again."""
        if self._api is not None:
            self._api.close()
            self._api = None
        if self._processes is not None:
            processes, self._processes = self._processes, None
            processes.close()

    def _running(self) -> Processes:
        if self._processes is None:
            raise LocalClusterError("the cluster is not started")
        return self._processes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class ExistingCluster(Cluster):
    """A cluster somebody else runs (kind, say), by its kubeconfig; only our own processes are ours to end."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.kubeconfig = path
        self.url = kubeconfig.read(path).url

    def __enter__(self) -> Self:
        self._processes = Processes(Path(tempfile.mkdtemp(prefix="tidefleet-existing-")))
        return self
