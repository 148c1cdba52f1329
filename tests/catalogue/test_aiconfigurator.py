"""Times by aiconfigurator-core, with the package and without it."""

from __future__ import annotations

from importlib import metadata

import pytest

from tidefleet import catalogue
from tidefleet.catalogue.aiconfigurator import BATCHES, MEASURED_VERSION, PACKAGE, kernel_tables, why_not
from tidefleet.economics.evidence import is_usable
from tidefleet.economics.group_table import GROUPS
from tidefleet.economics.groups import Group
from tidefleet.economics.replica import Replica
from tidefleet.planning.evidence import Evidence
from tidefleet.planning.from_api import accelerator_of

needs_package = pytest.mark.skipif(bool(why_not()), reason=why_not() or "installed")

NEAREST = next(one for one in GROUPS if one.prefers_other and one.model == "llama-3.1-70b")


def a_replica(group: Group, chips: int, kv: str = "Fp8") -> Replica:
    kind = catalogue.accelerator_types()[group.accelerator]
    model = catalogue.models()[group.model]
    return Replica(model, accelerator_of(kind), chips, group.weights, kv, engine=group.engine)


@needs_package
def test_its_times_are_factors_on_the_roofline_and_its_error_is_the_measured_one() -> None:
    tables = kernel_tables()
    replica = a_replica(NEAREST, 4)
    found = Evidence(other=tables).correction(replica)
    assert found.provenance == "AIConfigurator"
    assert found.sigma == max(NEAREST.other or 0.0, 0.08)
    assert is_usable(found)
    assert [batch for batch, _ in found.decode] == list(BATCHES)
    assert all(0.5 < factor < 2.0 for _, factor in found.decode)
    assert 0.3 < found.prefill < 3.0
    assert found.source.startswith(f"{PACKAGE} {MEASURED_VERSION}, by {NEAREST.runs} runs of ")
    assert Evidence(other=tables).correction(replica) == found


@needs_package
def test_what_its_tables_lack_falls_back_to_the_next_best() -> None:
    tables = kernel_tables()
    assert tables is not None
    group = next(one for one in GROUPS if one.model == "gpt-oss-120b" and one.prefers_other)
    lacking = a_replica(group, 4)
    assert tables(group, lacking) is None
    assert Evidence(other=tables).correction(lacking).provenance == "Group"
    elsewhere = Group(
        "a-model", group.family, "mi300x", group.engine, group.weights, group.chips, 10, 1.0, 0.1, 0.1,
        group.measured_on,
    )  # fmt: skip
    assert tables(elsewhere, lacking) is None


def test_without_the_package_the_roofline_and_its_scalars_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)
    assert "tidefleet[aiconfigurator]" in why_not()
    assert kernel_tables() is None
    found = Evidence(other=kernel_tables()).correction(a_replica(NEAREST, 4))
    assert found.provenance == ("Group" if NEAREST.prefers_scalar else "Roofline")
    assert found.source.startswith(f"{NEAREST.runs} runs of ")


def test_a_version_whose_error_nobody_measured_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _name: "9.9.0")
    assert why_not() == f"{PACKAGE} is 9.9.0; its error was measured for {MEASURED_VERSION} only"
    assert kernel_tables() is None
