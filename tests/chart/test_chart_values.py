"""Values that the chart refuses, and what it says."""

import pytest
import yaml

pytestmark = pytest.mark.chart

UNKNOWN_OR_OUT_OF_BOUNDS = [
    ({"router": {"workers": 0}}, "/router/workers"),
    ({"router": {"limitsShare": 1.5}}, "/router/limitsShare"),
    ({"router": {"otlpEndpoint": "collector:4318"}}, "/router/otlpEndpoint"),
    ({"router": {"usageRecords": {"megabytes": 0}}}, "/router/usageRecords/megabytes"),
    ({"replica": 2}, "replica"),
    ({"replicas": -1}, "/replicas"),
    ({"replicas": "2"}, "/replicas"),
    ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
    ({"image": {"repository": "ghcr.io/tidefleet/tidefleet:v1"}}, "/image/repository"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ({"image": {"name": "x"}}, "name"),
    ({"scope": {"namespaces": "a"}}, "/scope/namespaces"),
    ({"scope": {"namespaces": ["a", "a"]}}, "/scope/namespaces"),
    ({"scope": {"namespaces": ["*"]}}, "/scope/namespaces/0"),
    ({"config": {"periodSeconds": 0}}, "/config/periodSeconds"),
    ({"config": {"leaseSeconds": 1}}, "/config/leaseSeconds"),
    ({"config": {"logLevel": "loud"}}, "/config/logLevel"),
    ({"config": {"prometheus": {"url": "prometheus:9090"}}}, "/config/prometheus/url"),
    ({"config": {"prometheus": {"tokenFile": "token"}}}, "/config/prometheus/tokenFile"),
    ({"crds": {"install": True}}, "install"),
    (
        {"catalogue": {"additional": [{"kind": "AcceleratorType", "metadata": {"name": "x"}}]}},
        "/catalogue/additional/0",
    ),
    ({"commonLabels": {"a": 1}}, "/commonLabels/a"),
    ({"extraEnv": [{"value": "x"}]}, "/extraEnv/0"),
    ({"extraVolumes": [{"name": "config"}]}, "/extraVolumes/0/name"),
    ({"resources": {"limit": {}}}, "limit"),
    ({"podDisruptionBudget": {"minAvailable": "half"}}, "/podDisruptionBudget/minAvailable"),
    ({"service": {"port": 70000}}, "/service/port"),
    ({"monitoring": {"enabled": True}}, "/monitoring/enabled"),
    ({"monitoring": {"monitor": {"kind": "Probe"}}}, "/monitoring/monitor/kind"),
    ({"monitoring": {"monitor": {"interval": "1 minute"}}}, "/monitoring/monitor/interval"),
    ({"networkPolicy": {"ingress": []}}, "ingress"),
    ({"admission": {"enabled": True, "disabled": ["price"]}}, "/admission/disabled/0"),
    ({"extraObjects": [1]}, "/extraObjects/0"),
]

AN_ACCELERATOR = {
    "apiVersion": "tidefleet.io/v1alpha1",
    "kind": "AcceleratorType",
    "metadata": {"name": "x"},
    "spec": {},
}

IMPOSSIBLE_TOGETHER = [
    ({"router": {"enabled": True, "usageRecords": {"enabled": True}}}, "need router.hashSecret"),
    ({"router": {"enabled": True, "otlpEndpoint": "http://collector:4318"}}, "need router.hashSecret"),
    ({"serviceAccount": {"create": False}}, "serviceAccount.create is false and serviceAccount.name is empty"),
    ({"crds": {"keep": False}, "uninstall": {"releaseFinalizers": False}}, "would hold that deletion for ever"),
    ({"podDisruptionBudget": {"maxUnavailable": 1}}, "a budget takes exactly one"),
    ({"podDisruptionBudget": {"minAvailable": None}}, "neither minAvailable nor maxUnavailable is set"),
    ({"podDisruptionBudget": {"minAvailable": 2}}, "lower minAvailable to 1 or less"),
    ({"config": {"prometheus": {"tokenFile": "/t"}}}, "config.prometheus.url is empty"),
    ({"config": {"prometheus": {"url": "http://p", "caFile": "/ca"}}}, "certificates are only checked over https"),
    ({"catalogue": {"existingConfigMap": "x", "additional": [AN_ACCELERATOR]}}, "put the types into that ConfigMap"),
    ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "selectors are built on these labels"),
    ({"podLabels": {"app.kubernetes.io/instance": "x"}}, "selectors are built on these labels"),
    ({"podLabels": {"a": "b"}, "commonLabels": {"a": "c"}}, "set it in one of them"),
    ({"monitoring": {"monitor": {"scrapeTimeout": "1m", "interval": "60s"}}}, "lower the timeout"),
    ({"networkPolicy": {"metricsFrom": [{"podSelector": {}}]}}, "set networkPolicy.enabled=true"),
    ({"networkPolicy": {"egress": [{}]}}, "set networkPolicy.enabled=true"),
    ({"monitoring": {"rules": {"enabled": False, "disabled": ["X"]}}}, "remove one of the two"),
    ({"admission": {"disabled": ["marks"]}}, "remove one of the two"),
]


def refusal(helm, chart, values) -> str:
    done = helm("template", "t", chart, "--values", "-", stdin=yaml.safe_dump(values), check=False)
    assert done.returncode != 0, f"accepted: {values}"
    return done.stderr


@pytest.mark.parametrize(("values", "where"), UNKNOWN_OR_OUT_OF_BOUNDS, ids=lambda v: v if isinstance(v, str) else "")
def test_schema_refuses_and_names_the_value(helm, chart, values, where):
    said = refusal(helm, chart, values)
    assert "values don't meet the specifications of the schema" in said
    assert where in said or where.strip("/").replace("/", ".") in said


@pytest.mark.parametrize(("values", "sentence"), IMPOSSIBLE_TOGETHER, ids=lambda v: v if isinstance(v, str) else "")
def test_impossible_pair_ends_with_a_sentence(helm, chart, values, sentence):
    assert sentence in refusal(helm, chart, values)


def test_possible_pairs_that_look_alike_are_accepted(render):
    render({"podDisruptionBudget": {"minAvailable": None, "maxUnavailable": "50%"}})
    render({"podDisruptionBudget": {"minAvailable": 2}, "replicas": 3})
    render({"podDisruptionBudget": {"minAvailable": 2}, "replicas": 0})
    render({"serviceAccount": {"create": False, "name": "mine"}})
    render({"monitoring": {"monitor": {"scrapeTimeout": "500ms", "interval": "1s"}}})
    render({"global": {"anything": 1}})


def test_every_default_value_is_described_by_the_schema(helm, chart):
    """A value that the schema does not know would be refused as soon as a user sets it."""
    values = (chart / "values.yaml").read_text()
    assert helm("template", "t", chart, "--values", "-", stdin=values).returncode == 0
