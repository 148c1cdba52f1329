"""Sites and loans: what a lent node draws, which nodes stand there, and rounds that keep to the power that is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from controller_builders import SHIPPED, a_pool, a_view

from tidefleet.cluster import records
from tidefleet.controller.flips.outlook import Outlook, TypeRound
from tidefleet.controller.flips.sites import held_to_power, kilowatts_on_loan, lent_kilowatts, stands_at
from tidefleet.controller.flips.units import Unit
from tidefleet.flipping.journal import Journal
from tidefleet.flipping.lending import LoanPlan, Needs, TypeDecision
from tidefleet.flipping.observation import Lend, Recall, Stay, Wish
from tidefleet.flipping.phase import Phase
from tidefleet.planning.coordination import SiteLimit
from tidefleet.simulator.fleet.power import node_watts

NOW, LATER = 1_000_000.0, 1_010_000.0
KINDS = {name: SHIPPED[name] for name in ("h100-sxm", "l40s")}
CHIPS = {"h100-sxm": 8, "l40s": 4}


def a_unit(name: str, accelerator: str = "h100-sxm", phase: Phase = Phase.TRAINING, **labels: str) -> Unit:
    """One node."""
    node = records.node({"metadata": {"name": name, "uid": name, "labels": labels}, "spec": {}, "status": {}})
    journal = Journal(
        epoch=1, phase=phase, since=NOW - 5000.0, unit=name, members=(name,), accelerator=accelerator,
        pool="" if phase is Phase.SERVING else f"prod/{accelerator}", until=LATER,
    )  # fmt: skip
    return Unit(name, (node,), accelerator, "nvidia.com/gpu", CHIPS[accelerator], journal)


def a_site(kilowatts: float = 100.0, *types: str, **more: Any) -> SiteLimit:
    return SiteLimit("berlin", kilowatts, 1.25, frozenset(types or ("h100-sxm", "l40s")), **more)


def a_round(accelerator: str, wishes: dict[str, Wish], needed: tuple[int, ...] = ()) -> TypeRound:
    ahead = Outlook(NOW, needed, (0,) * len(needed), LoanPlan(0, (), "the load falls"))
    decision = TypeDecision(wishes, target=0, away=0)
    lenders = frozenset({f"prod/{accelerator}"})
    return TypeRound(accelerator, Needs(0), ahead, decision, allowed=4, recalls=4, at_home=1, lenders=lenders)


def lender(accelerator: str, usd: str | None) -> Any:
    training = {"queue": {"kind": "Suspend", "selector": {"matchLabels": {"a": "b"}}}}
    training |= {} if usd is None else {"valueUsdPerChipHour": usd}
    window = {"start": "22:00", "end": "06:00", "timeZone": "UTC"}
    return a_view(
        a_pool(accelerator, flipping={"policy": "Schedule", "windows": [window], "training": training}),
        SHIPPED[accelerator],
    )


VIEWS = {("prod", name): lender(name, usd) for name, usd in (("h100-sxm", "2.00"), ("l40s", "0.50"))}


def by_name(units: Any, nodes: int) -> list[tuple[str, str]]:
    return [(one.name, "") for one in units[:nodes]]


def held(rounds: list[TypeRound], limit: float, units: list[Unit], lead: int = 2, **more: Any) -> dict[str, TypeRound]:
    return held_to_power(
        {one.accelerator: one for one in rounds},
        [a_site(limit, **more)],
        units,
        views=VIEWS,
        kinds=KINDS,
        decisions=(),
        recall_order=by_name,
        lead_slots=lead,
    )


@pytest.mark.parametrize("name", list(CHIPS))
def test_a_node_on_loan_draws_what_the_simulator_has_it_draw(name: str) -> None:
    watts = node_watts(name, CHIPS[name])
    assert watts is not None
    assert kilowatts_on_loan(KINDS, [name])[name] * CHIPS[name] == pytest.approx(watts.training / 1000.0)
    unknown = KINDS[name].model_copy(update={"spec": KINDS[name].spec.model_copy(update={"tdp_watts": None})})
    assert kilowatts_on_loan({name: unknown}, [name]) == {name: 0.0}


def test_a_site_tells_what_draws_there_until_training_has_gone() -> None:
    each = {name: kilowatts * CHIPS[name] for name, kilowatts in kilowatts_on_loan(KINDS, KINDS).items()}
    units = [
        a_unit("a"),
        a_unit("b", phase=Phase.RECALLING),
        a_unit("c", "l40s"),
        a_unit("d", phase=Phase.WARMING),
        a_unit("e", phase=Phase.DRAINING),
        a_unit("f", phase=Phase.SERVING),
    ]
    assert lent_kilowatts([a_site()], units, KINDS)["berlin"] == pytest.approx(
        1.25 * (2 * each["h100-sxm"] + each["l40s"])
    )
    assert lent_kilowatts([a_site(1.0, "l40s")], units, KINDS)["berlin"] == pytest.approx(1.25 * each["l40s"])


def test_a_node_stands_at_a_site_by_its_own_labels_where_its_type_has_nodes_elsewhere() -> None:
    site = replace(a_site(), types=frozenset({"l40s"}), selector={"hall": "1"})
    assert stands_at(a_unit("a", "l40s"), site)
    assert stands_at(a_unit("b", hall="1"), site)
    assert not stands_at(a_unit("c", hall="2"), site)
    assert not stands_at(a_unit("d"), replace(site, selector={}))


def test_types_share_the_power_that_is_left_and_the_least_worth_comes_back() -> None:
    each = {name: 1.25 * kilowatts * CHIPS[name] for name, kilowatts in kilowatts_on_loan(KINDS, KINDS).items()}
    units = [a_unit("a"), a_unit("b", "l40s"), a_unit("c", "l40s", Phase.SERVING)]
    wishes: dict[str, Wish] = {"b": Stay(), "c": Lend(LATER, "night", pool="prod/l40s")}
    rounds = [a_round("h100-sxm", {"a": Stay()}), a_round("l40s", wishes)]
    both = each["h100-sxm"] + each["l40s"]
    found = held(rounds, both + 0.5 * each["l40s"], units)
    assert found["h100-sxm"] == rounds[0]
    decision = found["l40s"].decision
    assert decision.wishes == {"b": Stay(), "c": Stay()}
    assert [one.unit for one in decision.blocked] == ["c"]
    assert decision.held_by == "the power of berlin"
    found = held(rounds, both - 0.1, units)
    recall = found["l40s"].decision.wishes["b"]
    assert isinstance(recall, Recall)
    assert recall.why.startswith("loans at berlin draw ")
    per_kwh = 0.5 * CHIPS["l40s"] / each["l40s"]
    assert f"worth {per_kwh:.3g} USD/kWh" in recall.why
    assert found["h100-sxm"].decision.wishes == {"a": Stay()}


def test_loans_leave_power_for_the_nodes_that_serving_gets_until_they_could_be_back() -> None:
    each = 1.25 * kilowatts_on_loan(KINDS, ["h100-sxm"])["h100-sxm"] * CHIPS["h100-sxm"]
    units = [a_unit("a"), a_unit("b", phase=Phase.SERVING), a_unit("c", phase=Phase.SERVING)]
    rounds = [a_round("h100-sxm", {"a": Stay()}, needed=(1, 1, 2, 3))]
    assert held(rounds, 1.5 * each, units, lead=1)["h100-sxm"] == rounds[0]
    assert isinstance(held(rounds, 1.5 * each, units, lead=2)["h100-sxm"].decision.wishes["a"], Recall)
