"""The manifests for other gateways say what the configurations of Envoy say."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster import envoy
from localcluster.errors import LocalClusterError

DIRECTORY = Path(__file__).parents[2] / "deploy" / "envoy"
HEADERS = {
    "x-gateway-destination-endpoint",
    "x-gateway-destination-endpoint-served",
    "x-gateway-destination-endpoint-subset",
}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DIRECTORY / name).read_text()))


def manager(configuration: str, listener: str = "inference") -> dict[str, Any]:
    (document,) = documents(f"{configuration}.yaml")
    (found,) = [one for one in document["static_resources"]["listeners"] if one["name"] == listener]
    config: dict[str, Any] = found["filter_chains"][0]["filters"][0]["typed_config"]
    return config


@pytest.mark.parametrize("configuration", ["full-duplex", "headers-only"])
def test_every_destination_header_of_a_client_is_removed_before_routing(configuration: str) -> None:
    (early,) = manager(configuration)["early_header_mutation_extensions"]
    assert {one["remove"] for one in early["typed_config"]["mutations"]} == {*HEADERS, "x-tidefleet-wait"}


def test_envoy_gateway_removes_the_same_headers_before_routing() -> None:
    (policy,) = [one for one in documents("envoy-gateway.yaml") if one["kind"] == "ClientTrafficPolicy"]
    assert set(policy["spec"]["headers"]["earlyRequestHeaders"]["remove"]) == HEADERS


@pytest.mark.parametrize("configuration", ["full-duplex", "headers-only"])
def test_the_endpoint_is_taken_from_metadata_only(configuration: str) -> None:
    (document,) = documents(f"{configuration}.yaml")
    (cluster,) = [one for one in document["static_resources"]["clusters"] if one["name"] == "endpoints"]
    policy = cluster["load_balancing_policy"]["policies"][0]["typed_extension_config"]["typed_config"]
    assert [list(one) for one in policy["override_host_sources"]] == [["metadata"]]


@pytest.mark.parametrize("configuration", ["full-duplex", "headers-only"])
def test_no_circuit_breaker_ends_requests_that_a_picker_lost(configuration: str) -> None:
    (document,) = documents(f"{configuration}.yaml")
    for cluster in document["static_resources"]["clusters"]:
        (limits,) = cluster["circuit_breakers"]["thresholds"]
        assert min(limits.values()) >= 100_000, cluster["name"]
        assert len(limits) == 4, "those that have a default, all of them"


def test_the_inference_pool_fails_open_and_the_route_names_it() -> None:
    pool, route = documents("inference-pool.yaml")
    assert pool["spec"]["endpointPickerRef"]["failureMode"] == "FailOpen"
    (backend,) = route["spec"]["rules"][0]["backendRefs"]
    assert (backend["kind"], backend["name"]) == (pool["kind"], pool["metadata"]["name"])


def test_a_configuration_that_is_not_there_is_named() -> None:
    with pytest.raises(LocalClusterError, match=r"'sideways'.*full-duplex, headers-only"):
        envoy.bootstrap("sideways", listen=("", 1), admin=("", 2), picker=None, endpoints=[])


def test_envoy_alone_has_no_picker_and_the_addresses_of_the_run() -> None:
    document = envoy.bootstrap("full-duplex", listen=("127.0.0.1", 5), admin=("127.0.0.1", 6), picker=None, endpoints=[("127.0.0.2", 7)])  # fmt: skip  # noqa: E501
    managers = [one["filter_chains"][0]["filters"][0] for one in document["static_resources"]["listeners"]]
    assert "ExternalProcessor" not in str([one["typed_config"]["http_filters"] for one in managers])
    assert document["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] == 5
    assert "127.0.0.2" in str(document["static_resources"]["clusters"])
