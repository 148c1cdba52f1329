"""The operator's configuration file: one versioned object, every field with a default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel


class BadConfiguration(ValueError):
    """The configuration cannot be used; the message names every field at fault."""


class _Part(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )


class LeaderElection(_Part):
    """The Lease that one replica holds while it leads."""

    namespace: str = ""
    """Namespace of the Lease; empty: the pod's own, else ``default``."""
    name: str = "tidefleet"
    lease_seconds: Annotated[int, Field(ge=3, le=300)] = 15


class Metrics(_Part):
    """Where /metrics, /healthz and /readyz are served."""

    bind_address: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 takes a free port, which is logged."""


class Prometheus(_Part):
    """A Prometheus that has the engines' metrics; without a url the operator scrapes the engines itself."""

    url: str = ""
    token_file: str = ""
    ca_file: str = ""
    window_seconds: Annotated[int, Field(ge=30, le=3600)] = 120
    """Range over which rates are taken."""


class Router(_Part):
    """Where routers tell how far apart prompts use the same blocks; without it the Prometheus, if any, is asked."""

    metrics_urls: tuple[Annotated[str, Field(pattern="^https?://", max_length=512)], ...] = ()
    """Metrics pages of routers, e.g. ``http://tidefleet-router:9090/metrics``; empty: not read."""
    processes: Annotated[int, Field(ge=1, le=1000)] = 1
    """Router processes that a pool's requests are spread over: each sees so much shorter distances."""


class Forecasting(_Part):
    """How demand is looked ahead for; pools with less than a day of history are planned for what is asked now."""

    quantile: Annotated[float, Field(ge=0.5, le=0.99)] = 0.9
    """Share of 15-minute slots whose demand stays below the forecast that is planned for."""
    lead_seconds: Annotated[float, Field(ge=0, le=14400)] = 600.0
    """How long replicas take to serve, until the starts of a pool have been seen."""


class Calibration(_Part):
    """How estimates learn from the engines' own metrics."""

    enabled: bool = True
    """Whether what engines show corrects the cost model; false plans with profiles and the roofline alone."""
    half_life_seconds: Annotated[float, Field(ge=60, le=604800)] = 7200.0
    """Time after which a measurement counts half."""


class DeviceQuery(_Part):
    """A query of the Prometheus; every series that it answers with is a device that is not well."""

    query: Annotated[str, Field(min_length=1, max_length=2000)]
    why: Annotated[str, Field(min_length=1, max_length=200)]
    """What is wrong, in words, e.g. ``its last XID``; the series' value is told behind it."""


class DeviceHealth(_Part):
    """Errors of devices that keep a node from being lent, call it back or keep it quarantined; asked of the Prometheus.

    The queries that are there read dcgm-exporter as it is installed by default. XIDs 13, 31, 43, 45, 68 and 109 are
    faults of applications, and NVIDIA's device plugin leaves them out of a device's health, too. A device of which the
    Prometheus knows nothing counts as well; while it cannot be asked, its last answer holds.
    """

    node_labels: tuple[str, ...] = ("Hostname", "node", "kubernetes_node")
    """Labels that may have the name of a node; the first that a series has counts."""
    queries: tuple[DeviceQuery, ...] = (
        DeviceQuery(query="DCGM_FI_DEV_ROW_REMAP_FAILURE > 0", why="remapping of memory rows has failed"),
        DeviceQuery(query="DCGM_FI_DEV_ROW_REMAP_PENDING > 0", why="a remapping of memory rows waits for a reset"),
        DeviceQuery(
            query="DCGM_FI_DEV_XID_ERRORS > 0 unless ("
            + " or ".join(f"DCGM_FI_DEV_XID_ERRORS == {xid}" for xid in (13, 31, 43, 45, 68, 109))
            + ")",
            why="its last error is of the device itself, XID",
        ),
    )
    """Empty: no Prometheus is asked."""


class Flipping(_Part):
    """How nodes change between serving and training; what a pool's own terms say goes first."""

    enabled: bool = True
    """Whether nodes are lent at all; false needs no right to change nodes, pods or training."""
    dwell_seconds: Annotated[float, Field(ge=0, le=604800)] = 3600.0
    """Least time that a node serves between two loans."""
    recall_seconds: Annotated[float, Field(ge=0, le=86400)] = 720.0
    """How long a node takes from its recall until it serves; loans end so much before they must."""
    round_trip_seconds: Annotated[float, Field(ge=0, le=86400)] = 360.0
    """What a flip there and back takes of a node's time; a loan lasts ten times as long at least."""
    shortest_warm_seconds: Annotated[float, Field(ge=1, le=86400)] = 300.0
    """Least time that replicas get to become ready on a node that came back, before it is quarantined."""
    penalty: Annotated[float, Field(ge=0, le=1000)] = 4.0
    """How many times its margin a serving accelerator-hour costs that was missing."""
    device_health: DeviceHealth = DeviceHealth()
    pause_config_map: str = "tidefleet-pause"
    """ConfigMap beside the operator that pauses the flips of the whole fleet: scope, by and reason."""


class GatewayPicker(_Part):
    """The endpoint picker that upstream InferencePools are given."""

    service: Annotated[str, Field(min_length=1, max_length=63, pattern="^[a-z]([-a-z0-9]*[a-z0-9])?$")] = (
        "tidefleet-router"
    )
    """Name of a Service in the pool's own namespace, as the upstream reference has no other."""
    port: Annotated[int, Field(ge=1, le=65535)] = 9002


class OperatorConfiguration(_Part):
    """Everything an operator process can be told."""

    api_version: Literal["config.tidefleet.io/v1alpha1"] = "config.tidefleet.io/v1alpha1"
    kind: Literal["OperatorConfiguration"] = "OperatorConfiguration"
    namespaces: tuple[str, ...] = ()
    """Namespaces to serve; empty: all."""
    node_selector: str = ""
    """Only nodes with these labels are seen, e.g. ``fleet=a``."""
    period_seconds: Annotated[float, Field(gt=0, le=3600)] = 15.0
    """Time between two passes of the fleet loop."""
    scale_down_window_seconds: Annotated[float, Field(ge=0, le=86400)] = 600.0
    """Replicas go down only to what the highest demand of this time needs."""
    dwell_seconds: Annotated[float, Field(ge=0, le=604800)] = 1800.0
    """Least time between two changes of a pool's accelerators."""
    capacity_wait_seconds: Annotated[float, Field(ge=0, le=86400)] = 600.0
    """How long replicas may wait for nodes before that capacity counts as refused."""
    capacity_refused_seconds: Annotated[float, Field(ge=0, le=604800)] = 1800.0
    """How long refused capacity is planned around."""
    start_timeout_seconds: Annotated[float, Field(ge=0, le=86400)] = 1800.0
    """How long the first replicas on an accelerator may take to become ready before it is planned around."""
    price_stale_days: Annotated[int, Field(ge=1, le=3650)] = 90
    """Age from which a price is stale."""
    spot_price_stale_days: Annotated[int, Field(ge=1, le=3650)] = 7
    """Age from which a spot price is stale."""
    whole_nodes: bool = False
    """Whether rent counts by whole nodes where chipsPerNode is known, and pools fill each other's; else by the chip."""
    whole_racks: bool = False
    """Whether replicas on types whose `scaleUp.boughtAs` is Domain are planned by whole racks; else by the replica."""
    forecast: Forecasting = Forecasting()
    leader_election: LeaderElection = LeaderElection()
    metrics: Metrics = Metrics()
    prometheus: Prometheus = Prometheus()
    router: Router = Router()
    calibration: Calibration = Calibration()
    flipping: Flipping = Flipping()
    gateway_picker: GatewayPicker = GatewayPicker()
    catalogue_file: str = ""
    """AcceleratorTypes the leader applies; empty: those that ship with tidefleet."""
    price_file: str = ""
    """A price book (YAML, or CSV when it ends in .csv), read again when it changes; empty: none."""
    log_format: Literal["json", "text"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def load_configuration(path: Path | None) -> OperatorConfiguration:
    """The configuration in a YAML file; all defaults without one.

    Raises:
        BadConfiguration: the file cannot be read, is not YAML, or a field is unknown or out of bounds.
    """
    if path is None:
        return OperatorConfiguration()
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise BadConfiguration(f"{path}: cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise BadConfiguration(
            f"{path}: is not a mapping; expected apiVersion, kind and settings, e.g. periodSeconds: 15"
        )
    try:
        return OperatorConfiguration.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in one['loc'])} is {str(one['input'])[:80]!r}: {one['msg']}"
            for one in error.errors()
        )
        raise BadConfiguration(f"{path}: {problems}") from error
