"""The shipped catalogue in the cluster: it comes, it grows, and it never overrules a person."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from operator_builders import ACCELERATOR_TYPE, Place, a_class, a_pool, an_accelerator

pytestmark = pytest.mark.cluster

ON_DEMAND = {"capacityType": "OnDemand", "provider": "", "region": ""}
Ship = Callable[..., str]


@pytest.fixture
def ours(place: Place) -> dict[str, Any]:
    """A type of our own catalogue, with two prices."""
    made = an_accelerator(place.unique("shipped"), tdpWatts=350, idleWatts=60)
    made["spec"]["prices"] = [
        {**ON_DEMAND, "usdPerChipHour": "2.00", "asOf": "2026-01-01"},
        {**ON_DEMAND, "capacityType": "Spot", "usdPerChipHour": "1.00", "asOf": "2026-01-01"},
    ]
    place.made.append(made)
    return made


@pytest.fixture
def ship(tmp_path: Path, ours: dict[str, Any]) -> Ship:
    """Writes a version of the catalogue; keyword arguments change the type's spec. Returns its path."""

    def write(**spec: Any) -> str:
        changed = copy.deepcopy(ours)
        changed["apiVersion"] = ACCELERATOR_TYPE.group_version
        changed["spec"].update(spec)
        file = tmp_path / f"catalogue-{len(list(tmp_path.iterdir()))}.yaml"
        file.write_text(yaml.safe_dump(changed))
        return str(file)

    return write


def spec_of(place: Place, name: str) -> dict[str, Any]:
    """A type's spec; empty when it does not exist."""
    return (place.get(ACCELERATOR_TYPE, name) or {}).get("spec", {})


def prices_of(place: Place, name: str) -> dict[str, str]:
    """A type's prices by capacity type."""
    return {one["capacityType"]: one["usdPerChipHour"] for one in spec_of(place, name).get("prices", ())}


def test_edits_survive_restarts_and_upgrades_and_the_rest_is_brought_up_to_date(place, operator_in_process, ours, ship):
    name = ours["metadata"]["name"]
    op = operator_in_process(catalogueFile=ship())
    assert prices_of(place, name) == {"OnDemand": "2", "Spot": "1"} or prices_of(place, name)["OnDemand"] == "2.00"
    place.api.apply(place.path(ACCELERATOR_TYPE, name), {
        "apiVersion": ACCELERATOR_TYPE.group_version, "kind": "AcceleratorType", "metadata": {"name": name},
        "spec": {"tdpWatts": 275, "prices": [{**ON_DEMAND, "usdPerChipHour": "1.23"}]},
    })  # fmt: skip
    op.advance()
    op.stop()
    op = operator_in_process(catalogueFile=ship())
    assert spec_of(place, name)["tdpWatts"] == 275
    assert prices_of(place, name)["OnDemand"] == "1.23"
    op.stop()

    newer = [{**ON_DEMAND, "usdPerChipHour": "2.50"}, {**ON_DEMAND, "capacityType": "Spot", "usdPerChipHour": "0.80"}]
    op = operator_in_process(catalogueFile=ship(tdpWatts=360, idleWatts=70, prices=newer))
    after = spec_of(place, name)
    assert after["tdpWatts"] == 275
    assert after["idleWatts"] == 70
    assert prices_of(place, name) == {"OnDemand": "1.23", "Spot": "0.80"}
    op.loop.actor.events.flush()
    notes = [one["note"] for one in place.events("UserEditsKept", about=name)]
    assert notes
    assert ".spec.tdpWatts" in notes[-1]
    assert "usdPerChipHour" in notes[-1]
    op.stop()

    writes: list = []
    op = operator_in_process(catalogueFile=ship(tdpWatts=360, idleWatts=70, prices=newer), before_write=writes.append)
    op.advance(500)
    assert [one for one in writes if one.name == name and getattr(one, "subresource", "") != "status"] == []


def test_a_field_that_was_taken_out_returns(place, operator_in_process, ours, ship):
    name = ours["metadata"]["name"]
    op = operator_in_process(catalogueFile=ship())
    place.set_spec(ACCELERATOR_TYPE, name, idleWatts=None)
    op.until(lambda: spec_of(place, name).get("idleWatts") == 60)


def test_a_type_that_was_deleted_returns(place, operator_in_process, ours, ship):
    name = ours["metadata"]["name"]
    op = operator_in_process(catalogueFile=ship())
    uid = place.get(ACCELERATOR_TYPE, name)["metadata"]["uid"]
    place.delete(ACCELERATOR_TYPE, name)
    op.until(lambda: spec_of(place, name) and place.get(ACCELERATOR_TYPE, name)["metadata"]["uid"] != uid)


def test_a_price_that_is_disabled_stays_disabled(place, operator_in_process, ours, ship):
    name = ours["metadata"]["name"]
    place.create(a_pool(accelerators=[{"type": name}, {"type": "l40s"}]), a_class())
    op = operator_in_process(catalogueFile=ship())
    place.api.apply(place.path(ACCELERATOR_TYPE, name), {
        "apiVersion": ACCELERATOR_TYPE.group_version, "kind": "AcceleratorType", "metadata": {"name": name},
        "spec": {"prices": [{**ON_DEMAND, "usdPerChipHour": "2.00", "state": "Disabled"}]},
    })  # fmt: skip
    op.stop()
    op = operator_in_process(catalogueFile=ship(idleWatts=71))
    assert spec_of(place, name)["idleWatts"] == 71
    (price,) = [one for one in spec_of(place, name)["prices"] if one["capacityType"] == "OnDemand"]
    assert price["state"] == "Disabled"


def test_a_type_tells_its_nodes_and_chips(place, operator_in_process):
    place.create(a_pool(), a_class(rate=8))
    op = operator_in_process()
    op.settle()
    op.advance()
    status = place.get(ACCELERATOR_TYPE, "l40s")["status"]
    assert status["nodes"] == 10
    assert status["chips"] == 80
    assert status["chipsInUse"] == place.replicas()["l40s"]
    assert status["priceUsed"] == "1.861"


def test_a_broken_entry_of_the_catalogue_does_not_stop_the_others(place, operator_in_process, ours, ship, tmp_path):
    name = ours["metadata"]["name"]
    broken = {**copy.deepcopy(ours), "apiVersion": ACCELERATOR_TYPE.group_version}
    broken["metadata"] = {"name": place.unique("broken")}
    broken["spec"]["memoryBytes"] = -1
    file = tmp_path / "with-broken.yaml"
    file.write_text(yaml.safe_dump_all([broken, yaml.safe_load(Path(ship()).read_text())]))
    operator_in_process(catalogueFile=str(file))
    assert spec_of(place, name)
    assert spec_of(place, place.unique("broken")) == {}
