"""Power of a site while pools move: what is being replaced draws until it is gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from controller_builders import NOW, SHIPPED, a_class, a_pool, a_served, a_view, an_option

from tidefleet.api import ConditionType, Reason
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.decide import decide
from tidefleet.controller.decision import Decision
from tidefleet.controller.power import hold_starts, kilowatts_by_option, watts_by_site
from tidefleet.controller.view import Fault, PoolMemory
from tidefleet.planning.coordination import SiteLimit
from tidefleet.planning.demand import DemandHistory, Known
from tidefleet.planning.options import EstimateMemo, Option

ON_H100, ON_L40S = an_option("h100-sxm"), an_option("l40s")
SETTINGS, MEMO = OperatorConfiguration(), EstimateMemo()
FAULT = Fault(Reason.UNKNOWN_MODEL, "prod/chat: no such model")


def moving(name: str = "chat", *, old: int = 4, rate: float = 40.0, priority: int = 100, **spec: Any) -> Decision:
    """A pool that runs on L40S, which it may not use any more, and is to run on H100."""
    pool = a_pool(name, accelerators=[{"type": "h100-sxm", "tensorParallel": [1]}], **spec)
    view = a_view(
        pool,
        SHIPPED["h100-sxm"],
        SHIPPED["l40s"],
        classes=(a_class(pool=name, priority=priority),),
        served=(a_served(pool, ON_L40S, replicas=old),) if old else (),
        reading=Known(NOW, rate, "Engines", 1000.0, 250.0),
    )
    return decide(view, PoolMemory(DemandHistory(600.0)), SETTINGS, MEMO)


def asked(decision: Decision) -> dict[Option, int]:
    return {one.served.option: one.desired for one in decision.targets}


def a_site(kilowatts: float, *types: str, pue: float = 1.0) -> SiteLimit:
    return SiteLimit("berlin", kilowatts, pue, frozenset(types or ("h100-sxm", "l40s")))


def drawn(*decisions: Decision, site: SiteLimit) -> float:
    return watts_by_site([site], decisions)["berlin"] / 1000.0


def test_what_is_being_replaced_counts_until_it_is_gone() -> None:
    one = moving()
    wanted = asked(one)
    each = kilowatts_by_option(one)
    assert wanted[ON_L40S] == 4
    assert wanted[ON_H100] > 2
    assert each[ON_L40S] == pytest.approx(0.35)  # no candidate any more: its chips at full load
    assert drawn(one, site=a_site(99.0, pue=1.5)) == pytest.approx(
        1.5 * (4 * each[ON_L40S] + wanted[ON_H100] * each[ON_H100])
    )


def test_as_many_start_as_there_is_power_for_beside_those_that_are_replaced() -> None:
    one = moving()
    each, wanted = kilowatts_by_option(one), asked(one)
    site = a_site(4 * each[ON_L40S] + 2.5 * each[ON_H100])
    (held,) = hold_starts([one], [site])
    assert asked(held) == {ON_L40S: 4, ON_H100: 2}
    assert [t.planned for t in held.targets] == [t.planned for t in one.targets]
    assert drawn(held, site=site) <= site.limit_kw < drawn(one, site=site)
    waiting = wanted[ON_H100] - 2
    assert f"{waiting} replicas wait: " in held.reason
    assert "at berlin are not enough for them beside 4 that are being replaced" in held.reason
    verdict = held.verdict(ConditionType.RECONCILING)
    assert verdict is not None
    assert verdict.reason is Reason.SCALING
    assert "replicas wait" in verdict.message


def test_with_power_for_all_of_it_or_elsewhere_nothing_waits() -> None:
    one = moving()
    assert hold_starts([one], [a_site(drawn(one, site=a_site(1.0)))]) == (one,)
    assert hold_starts([one], [a_site(0.1, "b200")]) == (one,)
    assert hold_starts([one], []) == (one,)


def test_what_runs_is_never_lowered_for_power_that_is_not_there() -> None:
    (held,) = hold_starts([moving()], [a_site(0.0)])
    assert asked(held) == {ON_L40S: 4, ON_H100: 0}


def test_starts_of_the_lowest_priority_wait_first() -> None:
    low, high = moving("batch", old=0, priority=1), moving("chat", priority=500)
    each = kilowatts_by_option(high)[ON_H100]
    site = a_site(drawn(low, high, site=a_site(1.0)) - 1.5 * each)
    first, second = hold_starts([low, high], [site])
    assert asked(first)[ON_H100] == asked(low)[ON_H100] - 2
    assert second == high
    assert "that are being replaced" not in first.held


def test_a_pool_that_is_watched_or_invalid_draws_what_it_runs_and_is_not_touched() -> None:
    watched = moving(mode="Recommend")
    site = a_site(0.5)
    assert drawn(watched, site=site) == pytest.approx(4 * 0.35)
    assert hold_starts([watched], [site]) == (watched,)
    unusable = decide(
        a_view(a_pool(), served=(a_served(a_pool(), ON_L40S, replicas=3),), architecture=None, faults=(FAULT,)),
        PoolMemory(DemandHistory(600.0)),
        SETTINGS,
        MEMO,
    )
    assert drawn(unusable, site=site) == pytest.approx(3 * 0.35)


def test_starts_wait_for_power_that_training_on_loan_still_draws() -> None:
    one = moving()
    each = kilowatts_by_option(one)[ON_H100]
    site = a_site(drawn(one, site=a_site(1.0)) + 1.0)
    assert hold_starts([one], [site], {"berlin": 1.0}) == (one,)
    (held,) = hold_starts([one], [site], {"berlin": 1.0 + 1.5 * each})
    assert asked(held)[ON_H100] == asked(one)[ON_H100] - 2
    assert "beside 4 that are being replaced and 2" in held.held
    assert "kW of training on loan" in held.held


def test_what_serving_will_draw_counts_starts_that_wait_and_not_what_is_there_twice_for_a_loan() -> None:
    one = moving()
    each = kilowatts_by_option(one)
    planned = {t.served.option: t.planned for t in one.targets}
    (held,) = hold_starts([one], [a_site(0.0)])
    sites = [a_site(1.0)]
    old = 4 * each[ON_L40S]  # desired, and none of them planned
    assert watts_by_site(sites, [held], planned=True)["berlin"] / 1000.0 == pytest.approx(
        old + planned[ON_H100] * each[ON_H100]
    )
    name = next(t.served.name for t in one.targets if t.served.option == ON_L40S)
    twice = replace(held, view=replace(held.view, moving={name: 1}))
    assert watts_by_site(sites, [twice], planned=True)["berlin"] / 1000.0 == pytest.approx(
        old - each[ON_L40S] + planned[ON_H100] * each[ON_H100]
    )
