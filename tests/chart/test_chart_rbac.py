"""What the operator and users of the cluster may do."""

import os
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.chart

GOLDEN = Path(__file__).parent / "golden" / "rbac.yaml"
UPDATE = "TIDEFLEET_UPDATE_GOLDEN"
TEMPLATES = ("rbac", "rbac-aggregate")
SCOPED = {"scope": {"namespaces": ["team-a", "team-b"]}}


def roles(objects):
    """Rules by the name of the role."""
    return {
        "/".join(part for part in (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) if part): o[
            "rules"
        ]
        for o in objects
        if o["kind"] in ("Role", "ClusterRole")
    }


@pytest.fixture(scope="module")
def by_install(render):
    return {
        "cluster-wide": roles(render({}, show_only=TEMPLATES)),
        "namespaces team-a, team-b": roles(render(SCOPED, show_only=TEMPLATES)),
        "with admission policies": roles(render({"admission": {"enabled": True}}, show_only=(*TEMPLATES, "admission"))),
    }


def every_rule(by_install):
    return [(name, rule) for all_roles in by_install.values() for name, rules in all_roles.items() for rule in rules]


def test_permissions_equal_the_golden_file(by_install):
    if os.environ.get(UPDATE):
        GOLDEN.write_text(yaml.safe_dump(by_install, sort_keys=False, width=120))
    assert by_install == yaml.safe_load(GOLDEN.read_text()), f"if this is meant, set {UPDATE}=1 and read the diff"


def test_no_wildcards(by_install):
    for name, rule in every_rule(by_install):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"], *rule.get("resourceNames", [])], name
        assert not any("*" in resource for resource in rule["resources"]), name
        assert "nonResourceURLs" not in rule


def test_no_access_to_secrets_and_no_way_to_more_rights(by_install):
    forbidden = {
        *(
            "secrets",
            "configmaps",
            "pods/exec",
            "pods/attach",
            "pods/portforward",
            "nodes/proxy",
            "serviceaccounts/token",
        ),
        *("roles", "rolebindings", "clusterroles", "clusterrolebindings"),
    }
    pause = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["tidefleet-pause"], "verbs": ["get"]}
    for name, rule in every_rule(by_install):
        assert rule == pause or not forbidden & set(rule["resources"]), name
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), name


def test_without_flipping_nodes_pods_and_training_are_only_read(by_install, render):
    off = roles(render({"config": {"flipping": {"enabled": False}}}, show_only=TEMPLATES))
    own = [rule for name, rules in off.items() if "view" not in name and "edit" not in name for rule in rules]
    for rule in own:
        assert not {"kueue.x-k8s.io", "batch", "resource.k8s.io"} & set(rule["apiGroups"])
        if {"nodes", "pods", "pods/eviction"} & set(rule["resources"]):
            assert rule["verbs"] == ["get", "list", "watch"]


def test_the_lease_is_bound_to_its_name_and_namespace(by_install, render):
    for all_roles in by_install.values():
        leases = [(n, r) for n, rules in all_roles.items() for r in rules if "leases" in r["resources"]]
        assert {name for name, _ in leases} == {"Role/tidefleet-system/tidefleet-lease"}
        for _, rule in leases:
            assert rule.get("resourceNames") == (None if rule["verbs"] == ["create"] else ["tidefleet"])
    named = roles(render({"config": {"leaseName": "mine"}}, show_only=TEMPLATES))[
        "Role/tidefleet-system/tidefleet-lease"
    ]
    assert named[1]["resourceNames"] == ["mine"]


def test_an_install_for_namespaces_has_no_namespaced_kind_cluster_wide(by_install):
    scoped = by_install["namespaces team-a, team-b"]
    resources = {r for rule in scoped["ClusterRole/tidefleet-system-tidefleet"] for r in rule["resources"]}
    assert resources == {
        *("acceleratortypes", "acceleratortypes/status", "sites", "sites/status", "nodes", "customresourcedefinitions"),
    }, "nodes are flipped only where the whole cluster is served"
    assert scoped["Role/team-a/tidefleet-system-tidefleet"] == scoped["Role/team-b/tidefleet-system-tidefleet"]
    everywhere = by_install["cluster-wide"]["ClusterRole/tidefleet-system-tidefleet"]
    assert all(rule in everywhere for rule in scoped["Role/team-a/tidefleet-system-tidefleet"])


def test_every_binding_names_the_operators_account_and_a_role_that_exists(render):
    for values in ({}, SCOPED, {"serviceAccount": {"create": False, "name": "mine"}}):
        objects = render(values, show_only=TEMPLATES)
        account = values.get("serviceAccount", {}).get("name", "tidefleet")
        there = roles(objects)
        bindings = [o for o in objects if o["kind"].endswith("Binding")]
        assert bindings
        for binding in bindings:
            assert [(s["name"], s["namespace"]) for s in binding["subjects"]] == [(account, "tidefleet-system")]
            ref, namespace = binding["roleRef"], binding["metadata"].get("namespace")
            assert (
                "/".join(p for p in (ref["kind"], namespace if ref["kind"] == "Role" else None, ref["name"]) if p)
                in there
            )


def test_editors_write_pools_and_classes_but_no_status_and_no_prices(by_install):
    edit = by_install["cluster-wide"]["ClusterRole/tidefleet-system-tidefleet-edit"]
    view = by_install["cluster-wide"]["ClusterRole/tidefleet-system-tidefleet-view"]
    assert {r for rule in edit for r in rule["resources"]} == {
        "inferencepools",
        "workloadclasses",
        "inferencepools/scale",
    }
    assert {v for rule in view for v in rule["verbs"]} == {"get", "list", "watch"}


def test_roles_can_be_left_to_the_user(render):
    objects = render({"rbac": {"create": False}})
    assert not [o for o in objects if "Role" in o["kind"]]
    assert not [o for o in render({"rbac": {"aggregate": False}}) if o["metadata"]["name"].endswith(("-view", "-edit"))]
