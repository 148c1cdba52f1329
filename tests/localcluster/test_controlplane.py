"""The control plane as a whole: how it starts, what it serves, what it leaves."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localcluster.api import ApiClient, ApiError
from localcluster.cluster import Cluster
from localcluster.controlplane import ControlPlane, ServerDied
from localcluster.nodes import NodeKind, apply_nodes, nodes_for

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]


def eventually(condition: Callable[[], bool], *, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.1)


def processes_below(directory: Path) -> list[str]:
    """The command lines that name the directory; every server's does."""
    table = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in table.splitlines() if str(directory) in line]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where clusters started by this test have their directories."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def own() -> Iterator[ControlPlane]:
    """A control plane of this module's own, to disturb."""
    with ControlPlane(node_lease_seconds=6) as running:
        yield running


def test_after_stop_nothing_is_left(temporary: Path) -> None:
    with ControlPlane() as running:
        sleeper = running.run("sleeper", ["sleep", "600"])
        directory = running.directory
        assert directory.parent == temporary
        assert len(processes_below(directory)) >= 5
    assert processes_below(directory) == []
    assert list(temporary.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(sleeper, 0)


def test_a_failed_start_shows_the_log_and_leaves_nothing(temporary: Path) -> None:
    with pytest.raises(ServerDied, match=r"kube-apiserver ended with exit code 1[\s\S]*unknown flag: --no-such-flag"):
        ControlPlane(apiserver_flags=["--no-such-flag"]).start()
    assert processes_below(temporary) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["up", "starting"])
def test_whatever_ends_the_command_no_process_remains(how: signal.Signals, when: str, temporary: Path) -> None:
    search = os.pathsep.join(filter(None, sys.path))
    argv = [sys.executable, "-m", "localcluster", "up", "--nodes", "", "--kubeconfig"]
    kubeconfig = temporary / "kubeconfig"
    if how is signal.SIGTERM:  # as a shell starts what it puts in the background: deaf to SIGINT
        argv = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *argv]
    with subprocess.Popen(
        [*argv, str(kubeconfig)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": search},
        text=True,
        start_new_session=True,
    ) as command:
        assert command.stdout is not None
        try:
            if when == "up":
                assert command.stdout.readline() == f"KUBECONFIG={kubeconfig}\n"
            else:
                eventually(lambda: any(temporary.glob("tidefleet-local-*/logs/etcd.log")))
            command.send_signal(how)
            command.wait(60)
        finally:
            command.kill()
    eventually(lambda: not any(temporary.glob("tidefleet-local-*")))
    eventually(lambda: not [line for line in processes_below(temporary) if "defunct" not in line])
    if how is not signal.SIGKILL:
        assert not kubeconfig.exists()


def test_a_service_account_has_its_own_rights_and_no_others(cluster: Cluster, namespace: str) -> None:
    eventually(lambda: cluster.api().exists(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"))
    path = cluster.service_account_kubeconfig(namespace, "default")
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    with ApiClient.from_kubeconfig(path) as api:
        answer = api.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
        assert answer["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:default"
        with pytest.raises(ApiError, match="403"):
            api.get("/api/v1/nodes")


def test_a_restarted_server_keeps_its_address_and_data(own: ControlPlane) -> None:
    own.api().create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kept"}})
    url = own.url
    for server in ("kwok", "kube-apiserver", "etcd"):
        own.kill(server)
        own.restart(server)
    assert own.url == url
    assert own.api().exists("/api/v1/namespaces/kept")


def test_a_restarted_kwok_gives_no_address_twice(own: ControlPlane) -> None:
    kind = NodeKind(accelerator="plain", vendor="", resource_name="example.com/chip", chips_per_node=1)
    apply_nodes(own.kubeconfig, nodes_for({"plain": 2}, kinds={"plain": kind}))
    pods = "/api/v1/namespaces/default/pods"

    def create(name: str) -> None:
        spec = {"containers": [{"name": "c", "image": "c"}]}
        own.api().create(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})

    def addresses() -> list[str]:
        return [pod["status"]["podIP"] for pod in own.api().get(pods)["items"] if "podIP" in pod["status"]]

    for name in ("a", "b"):
        create(name)
    eventually(lambda: len(addresses()) == 2)
    own.restart("kwok")
    for name in ("c", "d"):
        create(name)
    eventually(lambda: len(addresses()) == 4)
    assert len(set(addresses())) == 4


def test_a_paused_api_server_answers_again_when_resumed(own: ControlPlane) -> None:
    own.pause("kube-apiserver")
    assert not own.api().is_ok("/readyz")
    own.resume("kube-apiserver")
    eventually(lambda: own.api().is_ok("/readyz"))


def test_a_process_of_the_cluster_gets_its_kubeconfig(own: ControlPlane) -> None:
    own.run("shell", ["sh", "-c", "echo $KUBECONFIG $GREETING; exit 0"], env={"GREETING": "hello"})
    eventually(lambda: not own.is_running("shell"))
    assert own.log("shell") == f"{own.kubeconfig} hello"
