"""The shipped AcceleratorTypes: valid objects, sourced, without a zero, and equal to the table they were made from."""

from __future__ import annotations

import csv
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.loader import LOADER
from tidefleet.api.accelerator_type import AcceleratorType

DATA = Path(__file__).parents[2] / "operator" / "tidefleet" / "catalogue" / "data"
DOCUMENTS: list[dict[str, Any]] = list(yaml.load_all((DATA / "acceleratortypes.yaml").read_text(), LOADER))
SPECS: dict[str, dict[str, Any]] = {document["metadata"]["name"]: document["spec"] for document in DOCUMENTS}

PLAN_ONLY = {"gaudi3", "rubin-cpx", "rubin-vr-nvl72"}
UNPRICED = {
    "arc-pro-b60", "gaudi3", "h100-pcie", "h20", "rubin-cpx", "rubin-vr-nvl72", "tpu-v7-ironwood", "trainium2",
}  # fmt: skip


def numbers(value: object) -> list[object]:
    """Every number in a nested value."""
    match value:
        case dict():
            return [n for v in value.values() for n in numbers(v)]
        case list():
            return [n for v in value for n in numbers(v)]
        case bool():
            return []
        case int() | float():
            return [value]
        case _:
            return []


def table() -> dict[str, dict[str, str]]:
    """The rows of accelerators.csv, by the name they ship under."""
    directory = os.environ.get("TIDEFLEET_CATALOG_DIR")
    if not directory:
        pytest.skip("TIDEFLEET_CATALOG_DIR is not set: no accelerators.csv to compare with")
    with (Path(directory) / "accelerators.csv").open(newline="") as file:
        return {row["name"].lower(): row for row in csv.DictReader(file)}


def scaled(cell: str, factor: int) -> int | None:
    return int(Decimal(cell) * factor) if cell else None


@pytest.mark.parametrize("document", DOCUMENTS, ids=list(SPECS))
def test_every_document_is_a_valid_accelerator_type_and_loses_nothing(document: dict[str, Any]) -> None:
    parsed = AcceleratorType.model_validate(document)
    assert parsed.spec.model_dump(mode="json", by_alias=True, exclude_unset=True) == document["spec"]
    assert (document["apiVersion"], document["kind"]) == ("tidefleet.io/v1alpha1", AcceleratorType.KIND)


def test_thirty_one_types_of_five_vendors_are_shipped() -> None:
    assert len(DOCUMENTS) == len(SPECS) == 31
    assert {spec["vendor"] for spec in SPECS.values()} == {"AMD", "AWS", "Google", "Intel", "NVIDIA"}


def test_documents_are_sorted_by_vendor_then_name() -> None:
    keys = [(document["spec"]["vendor"], document["metadata"]["name"]) for document in DOCUMENTS]
    assert keys == sorted(keys)


def test_the_file_has_no_aliases() -> None:
    events = yaml.parse((DATA / "acceleratortypes.yaml").read_text())
    assert not [event for event in events if isinstance(event, yaml.AliasEvent)]


@pytest.mark.parametrize("name", SPECS)
def test_an_accelerator_name_is_lower_case_with_hyphens(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)


@pytest.mark.parametrize("name", SPECS)
def test_unknown_is_absent_and_never_zero(name: str) -> None:
    assert all(isinstance(number, int) and number > 0 for number in numbers(SPECS[name]))


@pytest.mark.parametrize("name", SPECS)
def test_every_group_of_figures_names_its_source(name: str) -> None:
    sources = SPECS[name]["sources"]
    assert set(sources) == {"memory", "compute", "power", "interconnect"}
    for source in sources.values():
        assert source.strip()
        assert len(source) <= 512
    assert len(SPECS[name]["notes"]) <= 1024


@pytest.mark.parametrize("name", SPECS)
def test_every_price_is_a_positive_decimal_string_with_date_and_source(name: str) -> None:
    prices = SPECS[name].get("prices", [])
    for price in prices:
        assert isinstance(price["usdPerChipHour"], str)
        assert Decimal(price["usdPerChipHour"]) > 0
        assert re.fullmatch(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}", price["asOf"])
        assert price["source"].strip()
        assert (price["capacityType"] == "Reserved") == ("minimumTermDays" in price)
    keys = [(price["capacityType"], price.get("provider", ""), price.get("region", "")) for price in prices]
    assert len(keys) == len(set(keys))
    assert [key[0] for key in keys].count("OnDemand") <= 1, "which list price is the default would be a guess"


def test_the_types_without_a_price_or_a_label_are_the_known_ones() -> None:
    assert {name for name, spec in SPECS.items() if "prices" not in spec} == UNPRICED
    assert {name for name, spec in SPECS.items() if "nodeSelector" not in spec} == PLAN_ONLY
    for name in PLAN_ONLY:
        assert "plan-only" in SPECS[name]["notes"]


def test_rubin_cpx_only_prefills() -> None:
    assert [name for name, spec in SPECS.items() if "roles" in spec] == ["rubin-cpx"]
    assert SPECS["rubin-cpx"]["roles"] == ["Prefill"]


def test_a_rack_is_scheduled_by_nodes_of_four() -> None:
    for name in ("gb200-nvl72", "gb300-nvl72"):
        assert SPECS[name]["chipsPerNode"] == 4
        assert SPECS[name]["scaleUp"]["domainChips"] == 72


def test_the_h100_has_the_memory_that_it_shows() -> None:
    assert SPECS["h100-sxm"]["memoryBytes"] == pytest.approx(79.18 * 2**30, rel=1e-4)


def test_the_same_accelerators_are_in_the_table() -> None:
    assert set(table()) == set(SPECS)


def test_every_figure_equals_the_table() -> None:
    rows = table()
    assert rows
    for name, row in rows.items():
        spec = SPECS[name]
        shipped = {
            "vendor": spec["vendor"],
            "hbm_tbs": spec["memoryBytesPerSecond"],
            "bf16": spec["computeFlops"].get("bf16"),
            "fp8": spec["computeFlops"].get("fp8"),
            "fp4": spec["computeFlops"].get("fp4"),
            "tdp_w": spec.get("tdpWatts"),
            "allin_kw": spec.get("facilityWattsPerChip"),
            "scaleup_gbs": spec.get("scaleUp", {}).get("bytesPerSecond"),
            "scaleup_domain": spec.get("scaleUp", {}).get("domainChips"),
            "scaleout_gbs": spec.get("scaleOutBytesPerSecond"),
        }
        expected = {
            "vendor": row["vendor"],
            "hbm_tbs": scaled(row["hbm_tbs"], 10**12),
            "bf16": scaled(row["bf16_dense_tflops"], 10**12),
            "fp8": scaled(row["fp8_dense_tflops"], 10**12),
            "fp4": scaled(row["fp4_dense_tflops"], 10**12),
            "tdp_w": scaled(row["tdp_w"], 1),
            "allin_kw": scaled(row["allin_kw_per_gpu"], 1000),
            "scaleup_gbs": scaled(row["scaleup_gbs_unidir"], 10**9),
            # a domain is shipped only with its bandwidth: without it nobody can tell what it is worth
            "scaleup_domain": scaled(row["scaleup_domain"], 1) if row["scaleup_gbs_unidir"] else None,
            "scaleout_gbs": scaled(row["scaleout_gbs"], 10**9),
        }
        assert shipped == expected, name


def test_the_memory_is_the_published_size_in_gb_or_gib() -> None:
    """The table says ``80``; the device shows 79.18 GiB. Shown memory lies between that many 10^9 and 2^30 bytes."""
    for name, row in table().items():
        size = float(row["hbm_gb"])
        assert size * 0.99e9 <= SPECS[name]["memoryBytes"] <= size * 2**30 * 1.005, name


def test_every_price_equals_the_table() -> None:
    for name, row in table().items():
        shipped = {
            (price["capacityType"], price["provider"] if price["capacityType"] == "Owned" else ""): (
                Decimal(price["usdPerChipHour"]),
                price["asOf"],
            )
            for price in SPECS[name].get("prices", [])
        }
        columns = {
            ("OnDemand", ""): "price_on_demand_usd_h",
            ("Spot", ""): "price_spot_usd_h",
            ("Owned", "hyperscaler-tco"): "tco_hyperscaler_usd_h",
            ("Owned", "neocloud-tco"): "tco_neocloud_usd_h",
            ("Reserved", ""): "rent_3yr_usd_h",
        }
        expected = {
            key: (Decimal(row[column]), row["price_collected"]) for key, column in columns.items() if row[column]
        }
        assert shipped == expected, name
