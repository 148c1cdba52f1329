"""Where credentials come from, and that no request can wait for ever."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from kubernetes.client import CoreV1Api

from tidefleet.cluster import connection, transport
from tidefleet.cluster.connection import NoConnection, connect
from tidefleet.cluster.credentials import credentials
from tidefleet.cluster.kinds import POD
from tidefleet.cluster.objects import Objects
from tidefleet.cluster.transport import Unreachable


def a_kubeconfig(path: Path, server: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    }
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(connection, "_TOKEN", tmp_path / "no-token")


def test_a_given_file_wins_over_the_environment_and_the_environment_over_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = a_kubeconfig(tmp_path / "given", "http://given")
    environment = a_kubeconfig(tmp_path / "environment", "http://environment")
    a_kubeconfig(tmp_path / "home/.kube/config", "http://home")
    assert connect().configuration.host == "http://home"
    monkeypatch.setenv("KUBECONFIG", str(environment))
    assert connect().configuration.host == "http://environment"
    api = connect(str(given))
    assert api.configuration.host == "http://given"
    assert api.user_agent.startswith("tidefleet/")


def test_the_credentials_of_a_connection_hold_its_token(tmp_path: Path) -> None:
    given = a_kubeconfig(tmp_path / "given", "http://given")
    found = credentials(connect(str(given)))
    assert (found.server, found.token) == ("http://given", "secret")
    assert "secret" not in repr(found)


def test_no_credentials_say_where_they_were_looked_for() -> None:
    with pytest.raises(NoConnection, match=r"no kubeconfig given, KUBECONFIG is not set.*--kubeconfig"):
        connect()


def test_credentials_that_cannot_be_read_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(NoConnection, match="absent"):
        connect(str(tmp_path / "absent"))
    broken = tmp_path / "broken"
    broken.write_text("{}")
    with pytest.raises(NoConnection, match="broken"):
        connect(str(broken))
    with pytest.raises(NoConnection, match="two"):
        connect(str(a_kubeconfig(tmp_path / "one", "http://x")), context="two")


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "READ_SECONDS", 0.2)
    monkeypatch.setitem(transport.send.__kwdefaults__, "timeout_seconds", (1.0, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        held: list[socket.socket] = []
        threading.Thread(target=lambda: [held.append(silent.accept()[0]) for _ in range(4)], daemon=True).start()
        api = connect(str(a_kubeconfig(tmp_path / "k", f"http://127.0.0.1:{silent.getsockname()[1]}")))
        with pytest.raises(Exception, match="timed out"):
            CoreV1Api(api).list_namespaced_pod("default")
        with pytest.raises(Unreachable, match="timed out"):
            Objects(api).get(POD, "default", "x")
