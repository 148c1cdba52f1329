"""How a process reaches the API server: credentials found, every request bounded in time."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
POOL_CONNECTIONS = 32
_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class NoConnection(Exception):
    """No usable credentials; the message says where they were looked for."""


class BoundedApiClient(client.ApiClient):  # type: ignore[misc, unused-ignore]
    """The library's client with a timeout on every request that sets none.

    The library waits for ever by default, also on a half-open connection.
    """

    def call_api(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request, bounded to (connect, read) seconds unless the caller bounded it."""
        if len(args) < 6 and not kwargs.get("_request_timeout"):
            kwargs["_request_timeout"] = (CONNECT_SECONDS, READ_SECONDS)
        return super().call_api(*args, **kwargs)


def connect(kubeconfig: str | None = None, context: str | None = None) -> client.ApiClient:
    """Return a client of the API server.

    Looks, in this order, at `kubeconfig`, the environment variable ``KUBECONFIG``, the pod's own service account, and
    ``~/.kube/config``. Files are only read, never written back.

    Args:
        kubeconfig: path of a kubeconfig file.
        context: its context; the file's current one when None.

    Raises:
        NoConnection: when there are no credentials, or they cannot be read.
    """
    configuration = client.Configuration()
    configuration.connection_pool_maxsize = POOL_CONNECTIONS
    configuration.retries = False  # ours are bounded by a deadline and know what may be repeated
    source = kubeconfig or os.environ.get("KUBECONFIG") or ""
    home = Path("~/.kube/config").expanduser()
    try:
        if not source and not context and _TOKEN.is_file():
            source = f"service account {_TOKEN}"
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        elif source or home.is_file():
            source = source or str(home)
            config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=source, context=context, client_configuration=configuration, persist_config=False
            )
        else:
            raise NoConnection(
                f"no Kubernetes credentials: no kubeconfig given, KUBECONFIG is not set, {_TOKEN} and {home} do not "
                "exist; give a file, e.g. --kubeconfig ~/.kube/config"
            )
    except (ConfigException, OSError, ValueError) as error:
        raise NoConnection(f"cannot use the Kubernetes credentials of {source}: {error}") from error
    api = BoundedApiClient(configuration=configuration)
    api.user_agent = f"tidefleet/{_version()}"
    return api


def _version() -> str:
    try:
        return metadata.version("tidefleet")
    except metadata.PackageNotFoundError:
        return "source"
