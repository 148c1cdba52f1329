"""What the chart renders, without a cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from localcluster.loader import LOADER
from tidefleet.api import validation
from tidefleet.catalogue import accelerator_manifests, parse_price_book
from tidefleet.cli.main import app
from tidefleet.controller.config import OperatorConfiguration, load_configuration

pytestmark = pytest.mark.chart

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS_KINDS = [
    f"--api-versions=monitoring.coreos.com/v1/{k}" for k in ("PrometheusRule", "ServiceMonitor", "PodMonitor")
]


def one(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    """The only object of that kind (and name)."""
    found = [o for o in objects if o["kind"] == kind and (not name or o["metadata"]["name"] == name)]
    assert len(found) == 1, [(o["kind"], o["metadata"]["name"]) for o in objects]
    return found[0]


def of(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The objects of that kind."""
    return [o for o in objects if o["kind"] == kind]


def pods(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every pod that the chart would run: its owner's kind, its metadata and its spec."""
    for o in objects:
        if o["kind"] == "Pod":
            yield "Pod", o["metadata"], o["spec"]
        elif o["kind"] in ("Deployment", "Job"):
            yield o["kind"], o["spec"]["template"]["metadata"], o["spec"]["template"]["spec"]


def test_lint_finds_nothing(helm, chart):
    assert "0 chart(s) failed" in helm("lint", "--strict", chart).stdout


def test_default_install_has_everything_an_operator_needs(render):
    kinds = {o["kind"] for o in render()}
    assert kinds == {
        *("CustomResourceDefinition", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
        *("ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "Job", "Pod"),
    }


def test_two_renderings_are_the_same(helm, chart):
    first, second = (helm("template", "t", chart).stdout for _ in range(2))
    assert first == second


def test_operator_has_two_replicas_that_avoid_each_other(render):
    objects = render()
    deployment = one(objects, "Deployment")
    assert deployment["spec"]["replicas"] == 2
    spec = deployment["spec"]["template"]["spec"]
    term = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"]
    selector = deployment["spec"]["selector"]
    assert term == {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}
    assert spec["topologySpreadConstraints"][0]["topologyKey"] == "topology.kubernetes.io/zone"
    assert spec["topologySpreadConstraints"][0]["labelSelector"] == selector
    assert one(objects, "PodDisruptionBudget")["spec"]["minAvailable"] == 1


@pytest.mark.parametrize("replicas", [0, 1])
def test_less_than_two_replicas_have_no_disruption_budget(render, replicas):
    objects = render({"replicas": replicas})
    assert one(objects, "Deployment")["spec"]["replicas"] == replicas
    assert not of(objects, "PodDisruptionBudget")


def test_every_pod_is_restricted(render):
    seen = set()
    for owner, _, spec in pods(render()):
        seen.add(owner)
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for container in spec["containers"]:
            inner = container["securityContext"]
            assert inner["allowPrivilegeEscalation"] is False
            assert inner["readOnlyRootFilesystem"] is True
            assert inner["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= container["resources"].keys()
        assert all({"projected", "configMap", "emptyDir"} & volume.keys() for volume in spec["volumes"])
    assert seen == {"Deployment", "Job", "Pod"}


def test_no_selector_finds_the_pods_of_hooks(render):
    objects = render()
    selectors = [
        one(objects, "Service")["spec"]["selector"],
        one(objects, "Deployment")["spec"]["selector"]["matchLabels"],
        one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ]
    for owner, metadata, _ in pods(objects):
        for selector in selectors:
            assert (selector.items() <= metadata["labels"].items()) == (owner == "Deployment")


def test_digest_wins_over_tag(render):
    digest = "sha256:" + "a" * 64
    objects = render({"image": {"digest": digest, "tag": "v9"}})
    assert {c["image"] for _, _, spec in pods(objects) for c in spec["containers"]} == {
        f"ghcr.io/tidefleet/tidefleet@{digest}"
    }


def test_pods_restart_for_new_configuration_and_for_nothing_else(render):
    def template(values):
        return one(render(values), "Deployment")["spec"]["template"]

    before = template({})
    assert template({"service": {"port": 9090}, "rbac": {"aggregate": False}}) == before
    for values in ({"config": {"periodSeconds": 5}}, {"scope": {"namespaces": ["a"]}}):
        assert (
            template(values)["metadata"]["annotations"]["checksum/config"]
            != before["metadata"]["annotations"]["checksum/config"]
        )
    extra = {"apiVersion": "tidefleet.io/v1alpha1", "kind": "AcceleratorType", "metadata": {"name": "x"}, "spec": {}}
    assert (
        template({"catalogue": {"additional": [extra]}})["metadata"]["annotations"]["checksum/catalogue"]
        != (before["metadata"]["annotations"]["checksum/catalogue"])
    )


def test_operator_accepts_its_configuration_and_every_setting_has_a_value(render, tmp_path):
    written = one(render(), "ConfigMap", "tidefleet-config")["data"]["config.yaml"]
    path = tmp_path / "config.yaml"
    path.write_text(written)
    loaded = load_configuration(path)
    by_default = OperatorConfiguration()
    assert loaded.leader_election.namespace == "tidefleet-system"
    assert loaded.catalogue_file == "/etc/tidefleet/catalogue/acceleratortypes.yaml"
    same = {"leader_election", "metrics", "catalogue_file"}
    assert loaded.model_dump(exclude=same) == by_default.model_dump(exclude=same)
    assert yaml.safe_load(written).keys() == loaded.model_dump(by_alias=True).keys()


def test_the_operator_reads_the_router_that_the_chart_runs(render):
    def router(values):
        found = one(render(values), "ConfigMap", "tidefleet-config")["data"]["config.yaml"]
        return yaml.safe_load(found)["router"]

    running = {"router": {"enabled": True, "replicas": 2, "workers": 3}}
    url = "http://tidefleet-router.tidefleet-system.svc:9090/metrics"
    assert router(running) == {"metricsUrls": [url], "processes": 6}
    asked = {"config": {"prometheus": {"url": "http://prometheus:9090"}}}
    assert router({**running, **asked}) == {"metricsUrls": [], "processes": 6}


def test_values_reach_the_configuration(render, tmp_path):
    values = {
        "scope": {"namespaces": ["a", "b"]},
        "config": {
            "nodeSelector": "fleet=a",
            "periodSeconds": 0.5,
            "leaseName": "other",
            "prometheus": {"url": "https://p:9090", "caFile": "/ca/ca.crt", "tokenFile": "/t/token"},
        },
    }
    path = tmp_path / "config.yaml"
    path.write_text(one(render(values), "ConfigMap", "tidefleet-config")["data"]["config.yaml"])
    loaded = load_configuration(path)
    assert loaded.namespaces == ("a", "b")
    assert (loaded.node_selector, loaded.period_seconds, loaded.leader_election.name) == ("fleet=a", 0.5, "other")
    assert (loaded.prometheus.url, loaded.prometheus.ca_file) == ("https://p:9090", "/ca/ca.crt")


def test_files_are_where_the_configuration_says(render):
    spec = one(render(), "Deployment")["spec"]["template"]["spec"]
    volume = next(v for v in spec["volumes"] if v["name"] == "config")
    paths = {item["path"] for source in volume["projected"]["sources"] for item in source["configMap"]["items"]}
    assert paths == {"config.yaml", "catalogue/acceleratortypes.yaml"}
    assert {"name": "config", "mountPath": "/etc/tidefleet", "readOnly": True} in spec["containers"][0]["volumeMounts"]
    assert spec["containers"][0]["args"] == ["operator", "run", "--config", "/etc/tidefleet/config.yaml"]


def test_catalogue_is_the_shipped_one(render):
    written = one(render(), "ConfigMap", "tidefleet-catalogue")["data"]["acceleratortypes.yaml"]
    assert tuple(yaml.load_all(written, LOADER)) == accelerator_manifests()


def test_an_additional_type_is_added_and_replaces_one_of_its_name(render):
    shipped = {m["metadata"]["name"]: m for m in accelerator_manifests()}
    mine = {**shipped["h100-sxm"], "spec": {**shipped["h100-sxm"]["spec"], "vendor": "Me"}}
    new = {**mine, "metadata": {"name": "my-chip"}}
    objects = render({"catalogue": {"additional": [mine, new]}})
    written = list(
        yaml.load_all(one(objects, "ConfigMap", "tidefleet-catalogue")["data"]["acceleratortypes.yaml"], LOADER)
    )
    names = [m["metadata"]["name"] for m in written]
    assert sorted(names) == sorted([*shipped, "my-chip"])
    assert {m["metadata"]["name"]: m["spec"]["vendor"] for m in written}["h100-sxm"] == "Me"
    assert not [m for m in written if isinstance(validation.parse(m), validation.Invalid)]


def test_an_existing_catalogue_is_mounted_instead(render):
    objects = render({"catalogue": {"existingConfigMap": "mine"}})
    assert [o["metadata"]["name"] for o in of(objects, "ConfigMap")] == ["tidefleet-config", "tidefleet-test"]
    spec = one(objects, "Deployment")["spec"]["template"]["spec"]
    assert "mine" in [s["configMap"]["name"] for s in spec["volumes"][0]["projected"]["sources"]]


def test_definitions_are_the_generated_ones_and_kept(render):
    rendered = {
        o["metadata"]["name"]: o for o in of(render({"crds": {"annotations": {"a": "b"}}}), "CustomResourceDefinition")
    }
    wanted = {o["metadata"]["name"]: o for o in (yaml.safe_load(p.read_text()) for p in (ROOT / "crds").glob("*.yaml"))}
    assert rendered.keys() == wanted.keys()
    for name, definition in rendered.items():
        assert definition["spec"] == wanted[name]["spec"]
        assert definition["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep", "a": "b"}


def test_definitions_can_be_left_out_or_not_kept(render):
    assert not of(render({"crds": {"enabled": False}}), "CustomResourceDefinition")
    for definition in of(render({"crds": {"keep": False}}), "CustomResourceDefinition"):
        assert "helm.sh/resource-policy" not in definition["metadata"].get("annotations", {})


def test_without_the_prometheus_operator_there_are_no_monitors_or_rules(render):
    assert not {"ServiceMonitor", "PodMonitor", "PrometheusRule"} & {o["kind"] for o in render()}


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor"])
def test_monitor_keeps_the_pools_namespace_label(render, kind):
    values = {"monitoring": {"monitor": {"kind": kind, "additionalLabels": {"release": "kps"}, "sampleLimit": 7}}}
    objects = render(values, *PROMETHEUS_KINDS)
    monitor = one(objects, kind)
    assert not of(objects, {"ServiceMonitor": "PodMonitor", "PodMonitor": "ServiceMonitor"}[kind])
    endpoint = monitor["spec"]["endpoints" if kind == "ServiceMonitor" else "podMetricsEndpoints"][0]
    assert endpoint["honorLabels"] is True
    assert monitor["spec"]["sampleLimit"] == 7
    assert monitor["metadata"]["labels"]["release"] == "kps"
    ports = one(objects, "Service")["spec"]["ports"]
    if kind == "PodMonitor":
        ports = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert endpoint["port"] in [port["name"] for port in ports]


ALERTS = (
    "FlipStuck",
    "FlipThrash",
    "MarginNegative",
    "MonthlyBudgetForecastExceeded",
    "SpendAnomaly",
    "TokenCostBudgetBurn",
)


def test_rules_are_those_of_the_policies(render):
    values = {"monitoring": {"rules": {"additionalLabels": {"release": "kps"}}}}
    rule = one(render(values, *PROMETHEUS_KINDS), "PrometheusRule")
    files = sorted((ROOT / "policies" / "alerts").glob("*.rules.yaml"))
    assert len(files) > 1
    groups = [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    assert rule["spec"] == {"groups": groups}
    assert rule["metadata"]["labels"]["release"] == "kps"


def test_rules_without_a_cluster_never_and_less_an_alert(render):
    assert of(render({"monitoring": {"enabled": "Always"}}), "PrometheusRule")
    assert not of(render({"monitoring": {"enabled": "Never"}}, *PROMETHEUS_KINDS), "PrometheusRule")
    objects = render({"monitoring": {"rules": {"disabled": list(ALERTS)}}}, *PROMETHEUS_KINDS)
    rules = [rule for group in one(objects, "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    assert rules
    assert all("record" in rule for rule in rules)


def test_runbooks_may_live_elsewhere(render):
    values = {"monitoring": {"rules": {"runbookUrlPrefix": "https://wiki.example.com/books/"}}}
    rule = one(render(values, *PROMETHEUS_KINDS), "PrometheusRule")
    urls = {r["annotations"]["runbook_url"] for g in rule["spec"]["groups"] for r in g["rules"] if "alert" in r}
    assert urls == {f"https://wiki.example.com/books/{name}.md" for name in ALERTS}


def test_network_policy_lets_only_the_named_ones_scrape(render):
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    policy = one(render({"networkPolicy": {"enabled": True, "metricsFrom": [peer]}}), "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"] == [{"from": [peer], "ports": [{"port": "metrics", "protocol": "TCP"}]}]
    rule = {"ports": [{"port": 443}]}
    policy = one(render({"networkPolicy": {"enabled": True, "egress": [rule]}}), "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["egress"] == [rule]


def test_users_labels_are_everywhere_and_selectors_stay(render):
    before = one(render(), "Deployment")["spec"]["selector"]
    objects = render({"commonLabels": {"team": "ml"}, "podLabels": {"sidecar": "no"}}, *PROMETHEUS_KINDS)
    assert not [o["metadata"]["name"] for o in objects if o["metadata"]["labels"].get("team") != "ml"]
    deployment = one(objects, "Deployment")
    assert deployment["spec"]["selector"] == before
    assert deployment["spec"]["template"]["metadata"]["labels"].items() >= {"team": "ml", "sidecar": "no"}.items()


def test_what_users_add_to_the_pod_is_there(render):
    values = {
        "extraEnv": [{"name": "A", "value": "b"}],
        "extraArgs": ["--x"],
        "extraVolumes": [{"name": "ca", "secret": {"secretName": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        "priorityClassName": "high",
        "nodeSelector": {"a": "b"},
        "tolerations": [{"operator": "Exists"}],
        "imagePullSecrets": [{"name": "r"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "k", "whenUnsatisfiable": "ScheduleAnyway"}],
    }
    spec = one(render(values), "Deployment")["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert {"name": "A", "value": "b"} in container["env"]
    assert container["args"][-1] == "--x"
    assert values["extraVolumes"][0] in spec["volumes"]
    assert values["extraVolumeMounts"][0] in container["volumeMounts"]
    for key in ("priorityClassName", "tolerations", "imagePullSecrets", "affinity", "topologySpreadConstraints"):
        assert spec[key] == values[key]
    assert spec["nodeSelector"] == {"a": "b", "kubernetes.io/os": "linux"}


def test_extra_objects_may_be_maps_or_templates(render):
    a_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-map"}}
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-text'}\n"
    names = {o["metadata"]["name"] for o in render({"extraObjects": [a_map, text]})}
    assert {"tidefleet-map", "tidefleet-text"} <= names


def test_uninstall_hook_releases_finalizers_before_anything_is_deleted(render):
    job = one(render(), "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    spec = job["spec"]["template"]["spec"]
    assert spec["containers"][0]["args"] == [
        *("operator", "release-finalizers", "--config", "/etc/tidefleet/config.yaml"),
    ]
    assert spec["serviceAccountName"] == "tidefleet"
    assert not of(render({"uninstall": {"releaseFinalizers": False}}), "Job")


def test_helm_test_validates_a_sample(render):
    objects = render()
    pod = one(objects, "Pod")
    assert pod["spec"]["containers"][0]["args"] == ["validate", "-f", "/samples/sample.yaml"]
    sample = one(objects, "ConfigMap", "tidefleet-test")["data"]["sample.yaml"]
    parsed = [validation.parse(m, strict=True) for m in yaml.safe_load_all(sample)]
    assert {type(p).__name__ for p in parsed} == {"InferencePool", "WorkloadClass"}


def test_the_operators_token_is_only_mounted_where_it_is_used(render):
    objects = render()
    assert one(objects, "ServiceAccount")["automountServiceAccountToken"] is False
    assert {owner: spec["automountServiceAccountToken"] for owner, _, spec in pods(objects)} == {
        "Deployment": True,
        "Job": True,
        "Pod": False,
    }


def test_commands_of_the_chart_exist(render):
    runner = CliRunner()
    for _, _, spec in pods(render()):
        words = [word for word in spec["containers"][0]["args"] if not word.startswith("/")]
        command = [word for word in words if not word.startswith("-")]
        answer = runner.invoke(app, [*command, "--help"])
        assert answer.exit_code == 0, answer.output
        assert all(word in answer.output for word in words if word.startswith("--"))


def test_notes_say_when_nothing_runs_or_watches(helm, chart):
    run = ("install", "tidefleet", chart, "--dry-run=client", "--namespace", "n")
    notes = helm(*run, "--set", "replicas=0").stdout.split("NOTES:")[1]
    assert "0 replicas: no operator runs" in notes
    assert "No monitor and no alert were installed" in notes
    assert "0 replicas" not in helm(*run).stdout.split("NOTES:")[1]


BOOK = {
    "currencies": {"EUR": {"usd": 1.08, "asOf": "2026-11-20"}},
    "prices": [
        {
            "accelerator": "h100-sxm",
            "capacityType": "OnDemand",
            "price": 1168000,
            "currency": "EUR",
            "unit": "node-year",
        }
    ],
}


def test_a_price_book_among_the_values_is_mounted_and_can_be_read(render, tmp_path):
    objects = render({"prices": {"book": BOOK}})
    held = one(objects, "ConfigMap", "tidefleet-prices")["data"]["prices.yaml"]
    (quote,) = parse_price_book(held, chips_per_node={"h100-sxm": 8}).quotes
    assert float(quote.usd_per_chip_hour) == pytest.approx(1168000 * 1.08 / 8760 / 8)
    sources = next(
        v for v in one(objects, "Deployment")["spec"]["template"]["spec"]["volumes"] if v["name"] == "config"
    )
    (mounted,) = [s["configMap"] for s in sources["projected"]["sources"] if s["configMap"]["name"].endswith("-prices")]
    written = tmp_path / "config.yaml"
    written.write_text(one(objects, "ConfigMap", "tidefleet-config")["data"]["config.yaml"])
    assert load_configuration(written).price_file == f"/etc/tidefleet/{mounted['items'][0]['path']}"


def test_a_price_book_of_ones_own_keeps_its_key_and_without_one_nothing_is_mounted(render):
    own = render({"prices": {"existingConfigMap": "finops", "key": "prices.csv"}})
    assert (
        "priceFile: /etc/tidefleet/prices/prices.csv"
        in one(own, "ConfigMap", "tidefleet-config")["data"]["config.yaml"]
    )
    assert "finops" in str(one(own, "Deployment")["spec"]["template"]["spec"]["volumes"])
    assert not [o for o in own if o["metadata"]["name"].endswith("-prices")]
    none = render()
    assert 'priceFile: ""' in one(none, "ConfigMap", "tidefleet-config")["data"]["config.yaml"]
    assert "prices" not in str(one(none, "Deployment")["spec"]["template"]["spec"]["volumes"])


def test_the_router_is_a_deployment_of_its_own_that_only_reads(render):
    values = {"router": {"enabled": True, "exposeIn": ["prod"], "tokenizers": [{"model": "m", "path": "/models/m"}]}}
    objects = render(values, show_only=("router",))
    deployment = one(objects, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"][:2] == ["router", "run"]
    assert "--tokenizer=m=/models/m" in container["args"]
    rules = [rule for role in (*of(objects, "ClusterRole"), *of(objects, "Role")) for rule in role["rules"]]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "watch"}
    assert {"pods", "inferencepools", "workloadclasses", "acceleratortypes"} == {
        name for rule in rules for name in rule["resources"]
    }
    services = {(o["metadata"]["namespace"], o["metadata"]["name"]): o["spec"] for o in of(objects, "Service")}
    assert services["prod", "tidefleet-router"]["externalName"] == "tidefleet-router.tidefleet-system.svc.cluster.local"
    selector = services["tidefleet-system", "tidefleet-router"]["selector"]
    assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    operators = one(render(), "Deployment")["spec"]
    assert not selector.items() <= operators["template"]["metadata"]["labels"].items()
    assert (
        not operators["selector"]["matchLabels"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    )


def test_the_routers_options_exist(render):
    secret = {"name": "h", "key": "k"}
    records = {"usageRecords": {"enabled": True}, "otlpEndpoint": "http://collector:4318"}
    values = {"router": {"enabled": True, "poolHeader": "x-pool", "hashSecret": secret, "tlsSecret": "t", **records}}
    (container,) = one(render(values, show_only=("router",)), "Deployment")["spec"]["template"]["spec"]["containers"]
    given = {argument.partition("=")[0] for argument in container["args"] if argument.startswith("--")}
    said = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["router", "run", "--help"]).output
    assert {name for name in given if name not in said} == set()


def test_the_router_runs_as_many_processes_as_are_asked_for(render):
    def arguments(**values):
        objects = render({"router": {"enabled": True, **values}}, show_only=("router",))
        return one(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"]

    assert not [one for one in arguments() if one.startswith("--workers")]
    assert "--workers=4" in arguments(workers=4)
    assert "--workers" in CliRunner(env={"COLUMNS": "200"}).invoke(app, ["router", "run", "--help"]).output


def test_the_routers_usage_records_have_a_volume_and_its_replicas_share_of_limits_is_told(render):
    def a_pod(**values):
        router = {"enabled": True, "hashSecret": {"name": "h", "key": "k"}, **values}
        return one(render({"router": router}, show_only=("router",)), "Deployment")["spec"]["template"]["spec"]

    pod = a_pod(usageRecords={"enabled": True}, replicas=4)
    (container,) = pod["containers"]
    (mount,) = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "usage"]
    assert f"--usage-records={mount}" in container["args"]
    assert "--limits-share=0.25" in container["args"]
    assert {"name": "usage", "emptyDir": {"sizeLimit": "6Gi"}} in pod["volumes"]
    pod = a_pod(usageRecords={"enabled": True, "existingClaim": "usage"}, limitsShare=1)
    assert {"name": "usage", "persistentVolumeClaim": {"claimName": "usage"}} in pod["volumes"]
    assert "--limits-share=1" in pod["containers"][0]["args"]
    plain = a_pod(replicas=1)
    assert not [one for one in plain["volumes"] if one["name"] == "usage"]
    assert not [one for one in plain["containers"][0]["args"] if one.startswith(("--limits", "--usage", "--otlp"))]


def test_a_router_for_some_namespaces_reads_only_there(render):
    objects = render({"router": {"enabled": True}, "scope": {"namespaces": ["team-a"]}}, show_only=("router",))
    assert {rule["resources"][0] for rule in one(objects, "ClusterRole")["rules"]} == {"acceleratortypes"}
    assert one(objects, "Role")["metadata"]["namespace"] == "team-a"


def test_dashboards_come_as_configmaps_that_a_sidecar_finds(render):
    assert not [one for one in of(render(), "ConfigMap") if "dashboard" in one["metadata"]["name"]]
    values = {"dashboards": {"enabled": True, "annotations": {"grafana_folder": "fleet"}, "namespace": "grafana"}}
    found = [one for one in of(render(values), "ConfigMap") if "dashboard" in one["metadata"]["name"]]
    files = sorted((ROOT / "charts" / "tidefleet" / "files" / "dashboards").glob("*.json"))
    assert len(found) == len(files) > 0
    for one, file in zip(found, files, strict=True):
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["metadata"]["annotations"] == {"grafana_folder": "fleet"}
        assert one["metadata"]["namespace"] == "grafana"
        assert one["data"] == {file.name: file.read_text()}
