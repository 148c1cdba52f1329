"""What the API server does with our writes, and what we do with its answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes.client import ApiClient

from localcluster.cluster import Cluster
from tidefleet.cluster.connection import connect
from tidefleet.cluster.events import EventSink
from tidefleet.cluster.kinds import (
    ACCELERATOR_TYPE,
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    LEADER_WORKER_SET,
    NODE,
    Kind,
    path,
)
from tidefleet.cluster.lease import Deposed, NoFence
from tidefleet.cluster.objects import KindAbsent, Objects
from tidefleet.cluster.records import replicas_managers
from tidefleet.cluster.writes import (
    AlreadyExists,
    Apply,
    Conflict,
    Create,
    Delete,
    Denied,
    Failed,
    Fenced,
    Gone,
    Invalid,
    MergePatch,
    Write,
    Writer,
    Written,
)

WHY: dict[str, Any] = {"reason": "a test", "decision_id": "d-1"}
STRANGER = "11111111-2222-3333-4444-555555555555"


@pytest.fixture
def api(cluster: Cluster) -> Iterator[ApiClient]:
    client = connect(str(cluster.kubeconfig))
    yield client
    client.close()


@pytest.fixture
def writer(api: ApiClient) -> Writer:
    return Writer(api, NoFence())


@pytest.fixture
def objects(api: ApiClient) -> Objects:
    return Objects(api)


def a_config_map(namespace: str, name: str = "one", **data: str) -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, "name": name}, "data": data}


def a_deployment(namespace: str, name: str = "chat", replicas: int = 1) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "replicas": replicas,
            "paused": True,  # no controller touches its resourceVersion beyond its status
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "engine", "image": "x"}]}},
        },
    }


def created(writer: Writer, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
    outcome = writer.execute(Create(kind=kind, body=body, **WHY))
    assert isinstance(outcome, Written), outcome
    return dict(outcome.object)


def settled(objects: Objects, namespace: str, name: str = "chat") -> dict[str, Any]:
    """Return a deployment's metadata once its controller has written the status."""
    return until(
        lambda: (
            (found := objects.get(DEPLOYMENT, namespace, name))
            and found["status"].get("observedGeneration") == found["metadata"]["generation"]
            and len(found["status"].get("conditions") or []) > 0
            and found
        )
    )


@pytest.fixture
def namespace(cluster: Cluster, namespace: str) -> str:
    """A namespace that takes pods: its default ServiceAccount is there."""
    until(lambda: cluster.api().exists(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"))
    return namespace


def until(probe: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Return what `probe` returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := probe()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return value


def an_apply(meta: dict[str, Any], kind: Kind = CONFIG_MAP, **changes: Any) -> Apply:
    values: dict[str, Any] = {
        "kind": kind,
        "namespace": meta.get("namespace", ""),
        "name": meta["name"],
        "body": {"data": {"a": "2"}},
        "uid": meta["uid"],
        "resource_version": meta["resourceVersion"],
        **WHY,
    }
    return Apply(**values | changes)


def a_patch(meta: dict[str, Any], kind: Kind = CONFIG_MAP, **changes: Any) -> MergePatch:
    values: dict[str, Any] = {
        "kind": kind,
        "namespace": meta.get("namespace", ""),
        "name": meta["name"],
        "body": {"data": {"a": "3"}},
        "uid": meta["uid"],
        "resource_version": meta["resourceVersion"],
        **WHY,
    }
    return MergePatch(**values | changes)


def a_delete(meta: dict[str, Any], kind: Kind = CONFIG_MAP, **changes: Any) -> Delete:
    values: dict[str, Any] = {
        "kind": kind,
        "namespace": meta.get("namespace", ""),
        "name": meta["name"],
        "uid": meta["uid"],
        "resource_version": meta["resourceVersion"],
        **WHY,
    }
    return Delete(**values | changes)


pytestmark = pytest.mark.cluster


def test_a_write_of_each_kind_succeeds_in_turn(writer: Writer, objects: Objects, namespace: str) -> None:
    told: list[Write] = []
    writer.on_write = told.append
    meta = created(writer, CONFIG_MAP, a_config_map(namespace, a="1"))["metadata"]
    applied = writer.execute(an_apply(meta))
    assert isinstance(applied, Written), applied
    patched = writer.execute(a_patch(dict(applied.object["metadata"])))
    assert isinstance(patched, Written), patched
    assert patched.object["data"] == {"a": "3"}
    assert isinstance(writer.execute(a_delete(dict(patched.object["metadata"]))), Written)
    assert objects.get(CONFIG_MAP, namespace, "one") is None
    assert [type(one).__name__ for one in told] == ["Create", "Apply", "MergePatch", "Delete"]


def test_creating_what_exists_says_so_and_changes_nothing(writer: Writer, objects: Objects, namespace: str) -> None:
    before = created(writer, CONFIG_MAP, a_config_map(namespace, a="1"))
    assert isinstance(
        writer.execute(Create(kind=CONFIG_MAP, body=a_config_map(namespace, a="9"), **WHY)), AlreadyExists
    )
    assert objects.get(CONFIG_MAP, namespace, "one") == {"apiVersion": "v1", "kind": "ConfigMap", **before}


@pytest.mark.parametrize("make", [an_apply, a_patch, a_delete])
def test_a_write_to_a_deleted_object_does_not_bring_it_back(
    writer: Writer, objects: Objects, namespace: str, make: Callable[..., Write]
) -> None:
    meta = created(writer, CONFIG_MAP, a_config_map(namespace))["metadata"]
    assert isinstance(writer.execute(a_delete(meta)), Written)
    assert isinstance(writer.execute(make(meta)), Gone)
    assert objects.get(CONFIG_MAP, namespace, "one") is None


@pytest.mark.parametrize("make", [an_apply, a_patch, a_delete])
def test_a_stale_version_is_a_conflict(
    writer: Writer, objects: Objects, namespace: str, make: Callable[..., Write]
) -> None:
    meta = created(writer, CONFIG_MAP, a_config_map(namespace, a="1"))["metadata"]
    assert isinstance(writer.execute(a_patch(meta, body={"data": {"a": "theirs"}})), Written)
    sent = writer.writes_total
    assert isinstance(writer.execute(make(meta)), Conflict)
    found = objects.get(CONFIG_MAP, namespace, "one")
    assert found is not None
    assert found["data"] == {"a": "theirs"}
    assert writer.writes_total <= sent + 2  # an apply may have asked once who owns the field


@pytest.mark.parametrize("make", [an_apply, a_patch, a_delete])
def test_another_object_of_the_same_name_is_a_conflict(
    writer: Writer, objects: Objects, namespace: str, make: Callable[..., Write]
) -> None:
    old = created(writer, CONFIG_MAP, a_config_map(namespace, a="1"))["metadata"]
    assert isinstance(writer.execute(a_delete(old)), Written)
    new = created(writer, CONFIG_MAP, a_config_map(namespace, a="1"))["metadata"]
    assert isinstance(writer.execute(make(old)), Conflict), "uid and version of the old object"
    assert isinstance(writer.execute(make({**new, "uid": STRANGER})), Conflict), "uid alone"
    found = objects.get(CONFIG_MAP, namespace, "one")
    assert found is not None
    assert found["metadata"]["resourceVersion"] == new["resourceVersion"]


def test_a_write_without_uid_or_version_is_a_mistake_of_the_caller(writer: Writer, namespace: str) -> None:
    meta = {"namespace": namespace, "name": "one", "uid": "", "resourceVersion": "1"}
    for write in (an_apply(meta), a_patch(meta), a_delete(meta)):
        with pytest.raises(ValueError, match="needs its uid and resourceVersion"):
            writer.execute(write)
    assert writer.writes_total == 0


def test_an_apply_takes_over_what_only_our_own_creation_holds(writer: Writer, objects: Objects, namespace: str) -> None:
    created(writer, DEPLOYMENT, a_deployment(namespace, replicas=1))
    meta = settled(objects, namespace)["metadata"]
    outcome = writer.execute(an_apply(meta, DEPLOYMENT, body={"spec": {"replicas": 3}}))
    assert isinstance(outcome, Written), outcome
    assert outcome.object["spec"]["replicas"] == 3
    assert outcome.object["spec"]["paused"] is True, "a partial apply leaves the rest of what we created"
    assert replicas_managers(outcome.object) == ("tidefleet",)


def test_an_apply_gives_up_what_it_leaves_out_but_scale_is_counted_apart(
    writer: Writer, objects: Objects, namespace: str
) -> None:
    """The API server's rule that makes a partial apply dangerous, and the way round it."""
    created(writer, DEPLOYMENT, a_deployment(namespace, replicas=1))
    for subresource, after in (("", 1), ("scale", 3)):
        meta = settled(objects, namespace)["metadata"]
        scaled = an_apply(meta, DEPLOYMENT, body={"spec": {"replicas": 3}}, subresource=subresource)
        assert isinstance(writer.execute(scaled), Written)
        meta = settled(objects, namespace)["metadata"]
        annotated = an_apply(meta, DEPLOYMENT, body={"metadata": {"annotations": {"tidefleet.io/x": subresource}}})
        outcome = writer.execute(annotated)
        assert isinstance(outcome, Written), outcome
        assert outcome.object["spec"]["replicas"] == after


def test_scaling_takes_replicas_that_nobody_set(
    cluster: Cluster, writer: Writer, objects: Objects, namespace: str
) -> None:
    body = a_deployment(namespace)
    del body["spec"]["replicas"]
    body |= {"apiVersion": "apps/v1", "kind": "Deployment"}
    # Applied, not created: a creator owns the defaults too.
    cluster.api().apply(path(DEPLOYMENT, namespace, "chat"), body)
    for make, replicas in ((an_apply, 2), (a_patch, 3), (an_apply, 4)):
        meta = settled(objects, namespace)["metadata"]
        write = make(meta, DEPLOYMENT, body={"spec": {"replicas": replicas}}, subresource="scale")
        assert isinstance(outcome := writer.execute(write), Written), outcome
    assert replicas_managers(objects.get(DEPLOYMENT, namespace, "chat") or {}) == ("tidefleet",)


def test_scaling_does_not_take_replicas_from_an_autoscaler(
    api: ApiClient, writer: Writer, objects: Objects, namespace: str
) -> None:
    created(writer, DEPLOYMENT, a_deployment(namespace))
    theirs = Writer(api, NoFence(), field_manager="kube-controller-manager")
    meta = settled(objects, namespace)["metadata"]
    scaled = a_patch(meta, DEPLOYMENT, body={"spec": {"replicas": 5}}, subresource="scale")
    assert isinstance(theirs.execute(scaled), Written)
    meta = settled(objects, namespace)["metadata"]
    outcome = writer.execute(an_apply(meta, DEPLOYMENT, body={"spec": {"replicas": 2}}, subresource="scale"))
    assert isinstance(outcome, Conflict), outcome
    assert outcome.fields == (".spec.replicas",)


def test_an_apply_names_the_fields_that_others_own_unless_forced(
    api: ApiClient, writer: Writer, objects: Objects, namespace: str
) -> None:
    created(writer, DEPLOYMENT, a_deployment(namespace))
    theirs = Writer(api, NoFence(), field_manager="autoscaler")
    meta = settled(objects, namespace)["metadata"]
    body = {"spec": {"replicas": 5}}
    assert isinstance(theirs.execute(an_apply(meta, DEPLOYMENT, body=body, force=True)), Written)
    meta = settled(objects, namespace)["metadata"]
    outcome = writer.execute(an_apply(meta, DEPLOYMENT, body={"spec": {"replicas": 2}}))
    assert isinstance(outcome, Conflict), outcome
    assert outcome.fields == (".spec.replicas",)
    assert "autoscaler" in outcome.message
    forced = writer.execute(an_apply(meta, DEPLOYMENT, body={"spec": {"replicas": 2}}, force=True))
    assert isinstance(forced, Written), forced
    assert replicas_managers(forced.object) == ("tidefleet",)


@pytest.mark.parametrize("make", [an_apply, a_patch])
def test_the_scale_subresource_can_be_written(
    writer: Writer, objects: Objects, namespace: str, make: Callable[..., Write]
) -> None:
    created(writer, DEPLOYMENT, a_deployment(namespace))
    meta = settled(objects, namespace)["metadata"]
    outcome = writer.execute(make(meta, DEPLOYMENT, body={"spec": {"replicas": 4}}, subresource="scale"))
    assert isinstance(outcome, Written), outcome
    found = objects.get(DEPLOYMENT, namespace, "chat")
    assert found is not None
    assert found["spec"]["replicas"] == 4


def test_an_object_that_is_wrong_is_invalid_and_names_the_field(writer: Writer, namespace: str) -> None:
    body = a_deployment(namespace)
    body["spec"]["template"]["spec"]["containers"] = []
    outcome = writer.execute(Create(kind=DEPLOYMENT, body=body, **WHY))
    assert isinstance(outcome, Invalid), outcome
    assert outcome.fields == ("spec.template.spec.containers",)


def test_an_absent_kind_or_namespace_is_told_apart(writer: Writer, objects: Objects, namespace: str) -> None:
    body = a_config_map("no-such-namespace")
    assert isinstance(writer.execute(Create(kind=CONFIG_MAP, body=body, **WHY)), Gone)
    absent = Kind("no.such.group/v1", "Thing", "things")
    outcome = writer.execute(Create(kind=absent, body=a_config_map(namespace), **WHY))
    assert isinstance(outcome, Failed), outcome
    assert not outcome.retriable
    assert objects.get(absent, namespace, "x") is None
    assert not objects.exists(absent)
    assert objects.exists(DEPLOYMENT)
    with pytest.raises(KindAbsent, match="does not serve Thing"):
        objects.list(absent)


def test_a_service_account_without_the_verb_is_denied(cluster: Cluster, namespace: str) -> None:
    kubeconfig = cluster.service_account_kubeconfig(namespace, "default")
    weak = Writer(connect(str(kubeconfig)), NoFence())
    outcome = weak.execute(Create(kind=CONFIG_MAP, body=a_config_map(namespace), **WHY))
    assert isinstance(outcome, Denied), outcome
    assert "cannot create resource" in outcome.message


def test_a_dry_run_is_judged_by_the_api_server_and_stores_nothing(
    writer: Writer, objects: Objects, namespace: str
) -> None:
    told: list[Write] = []
    writer.on_write, writer.dry_run = told.append, True
    assert isinstance(writer.execute(Create(kind=CONFIG_MAP, body=a_config_map(namespace), **WHY)), Written)
    assert isinstance(writer.execute(Create(kind=DEPLOYMENT, body=a_config_map(namespace), **WHY)), Invalid)
    assert objects.get(CONFIG_MAP, namespace, "one") is None
    assert (told, writer.writes_total) == ([], 0)


def test_lists_come_in_pages_and_by_label(
    writer: Writer, objects: Objects, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidefleet.cluster.objects.PAGE", 2)
    for number in range(5):
        body = a_config_map(namespace, f"map-{number}")
        body["metadata"]["labels"] = {"odd": str(number % 2)}
        created(writer, CONFIG_MAP, body)
    found = objects.list(CONFIG_MAP, namespace)
    assert {f"map-{number}" for number in range(5)} <= {one["metadata"]["name"] for one in found}
    assert all((one["apiVersion"], one["kind"]) == ("v1", "ConfigMap") for one in found)
    assert len(objects.list(CONFIG_MAP, namespace, "odd=1")) == 2


class Fenceable:
    def __init__(self) -> None:
        self.lost = False

    def check(self) -> None:
        if self.lost:
            raise Deposed("not the leader")


def test_a_deposed_writer_sends_nothing(api: ApiClient, objects: Objects, namespace: str) -> None:
    fence = Fenceable()
    fence.lost = True
    writer = Writer(api, fence)
    assert isinstance(writer.execute(Create(kind=CONFIG_MAP, body=a_config_map(namespace), **WHY)), Fenced)
    assert writer.writes_total == 0
    assert objects.get(CONFIG_MAP, namespace, "one") is None


def test_a_process_can_die_before_or_after_any_write(writer: Writer, objects: Objects, namespace: str) -> None:
    class Death(BaseException):
        pass

    def die(*_: object) -> None:
        raise Death

    create = Create(kind=CONFIG_MAP, body=a_config_map(namespace), **WHY)
    writer.before_write = die
    with pytest.raises(Death):
        writer.execute(create)
    assert objects.get(CONFIG_MAP, namespace, "one") is None
    writer.before_write, writer.after_write = None, die
    with pytest.raises(Death):
        writer.execute(create)
    assert objects.get(CONFIG_MAP, namespace, "one") is not None


# ---------------------------------------------------------------------- Events


def test_the_same_event_is_written_once_and_then_counted(api: ApiClient, objects: Objects, namespace: str) -> None:
    now = [0.0]
    sink = EventSink(api, now=lambda: now[0])
    pool: tuple[Kind, str, str, str] = (CONFIG_MAP, namespace, "chat", "u-1")
    for _ in range(5):
        sink.emit(*pool, type_="Normal", reason="Planned", message="2 h100", annotations={"tidefleet.io/decision": "d"})
    assert sink.flush()
    events = objects.list(EVENT, namespace)
    assert [(one["reason"], one["note"], one.get("series")) for one in events] == [("Planned", "2 h100", None)]
    assert events[0]["metadata"]["annotations"] == {"tidefleet.io/decision": "d"}
    assert events[0]["regarding"]["uid"] == "u-1"
    now[0] = 601.0
    sink.emit(*pool, type_="Normal", reason="Planned", message="2 h100")
    sink.emit(*pool, type_="Warning", reason="Planned", message="ü" * 2000)
    assert sink.flush()
    series = {one["type"]: one.get("series", {}).get("count") for one in objects.list(EVENT, namespace)}
    assert series == {"Normal": 6, "Warning": None}
    assert (sink.written_total, sink.dropped_total) == (3, 0)
    sink.close()


def test_an_event_that_expired_is_written_anew(api: ApiClient, objects: Objects, namespace: str) -> None:
    sink = EventSink(api, aggregation_seconds=0.0)
    sink.emit(CONFIG_MAP, namespace, "chat", "u", type_="Normal", reason="R", message="m")
    assert sink.flush()
    (event,) = objects.list(EVENT, namespace)
    writer = Writer(api, NoFence())
    assert isinstance(writer.execute(a_delete(event["metadata"], EVENT)), Written)
    sink.emit(CONFIG_MAP, namespace, "chat", "u", type_="Normal", reason="R", message="m")
    assert sink.flush()
    assert len(objects.list(EVENT, namespace)) == 1
    sink.close()


def test_events_of_cluster_scoped_objects_go_to_the_default_namespace(api: ApiClient, objects: Objects) -> None:
    sink = EventSink(api)
    sink.emit(NODE, None, "node-of-this-test", "u", type_="Normal", reason="Loaned", message="to training")
    assert sink.flush()
    found = [one for one in objects.list(EVENT, "default") if one["regarding"]["name"] == "node-of-this-test"]
    assert len(found) == 1
    assert "namespace" not in found[0]["regarding"]
    sink.close()


def test_a_chatty_object_is_limited_and_trouble_never_raises(api: ApiClient, objects: Objects, namespace: str) -> None:
    sink = EventSink(api, burst=3, now=lambda: 0.0)
    for number in range(10):
        sink.emit(CONFIG_MAP, namespace, "chat", "u", type_="Normal", reason="R", message=f"m {number}")
    assert sink.flush()
    assert len(objects.list(EVENT, namespace)) == 3
    assert sink.dropped_total == 7
    sink.emit(CONFIG_MAP, "no-such-namespace", "chat", "u", type_="Normal", reason="R", message="m")
    sink.emit(CONFIG_MAP, namespace, "chat", "u2", type_="NoSuchType", reason="", message="m")
    assert sink.flush()
    assert sink.dropped_total == 9
    sink.close()


def test_kinds_of_the_chart_are_not_assumed(objects: Objects) -> None:
    assert objects.exists(ACCELERATOR_TYPE) in (True, False)
    assert objects.exists(LEADER_WORKER_SET) in (True, False)
