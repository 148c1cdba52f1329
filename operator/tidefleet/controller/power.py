"""Power of sites: what pools draw, what is left to them, and no start that would pass a limit on the way to a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from tidefleet.api import ConditionType, Reason
from tidefleet.controller.decision import TRUE, Decision, Target, Verdict
from tidefleet.controller.view import PoolView
from tidefleet.planning.coordination import SiteLimit, kilowatts
from tidefleet.planning.options import Option
from tidefleet.planning.pool import describe
from tidefleet.planning.words import brief

_SOME = 1e-9


def kilowatts_by_option(decision: Decision) -> dict[Option, float]:
    """Power of one replica of each option of a pool, without PUE.

    Of an option that is no candidate any more (it lost its price, or is being replaced) it is that of its chips at full
    load: it draws power as long as it runs.
    """
    found = {one.option: kilowatts(one) for one in decision.market.candidates} if decision.market else {}
    for served in decision.view.served:
        kind = decision.view.kinds.get(served.option.accelerator)
        watts = float((kind.spec.tdp_watts if kind else None) or 0)
        found.setdefault(served.option, watts * served.option.chips / 1000.0)
    return found


def watts_by_site(
    sites: Iterable[SiteLimit], decisions: Iterable[Decision], *, planned: bool = False
) -> dict[str, float]:
    """Estimated power of the replicas asked for, those being phased out included, with PUE, by site with a limit.

    Args:
        planned: count those too that the plan wants and that are not asked for yet, and not those that are there twice
            while nodes are taken for a loan.
    """
    drawn: dict[str, float] = {}
    for decision in decisions:
        each = kilowatts_by_option(decision)
        for option, replicas in _asked_for(decision, planned=planned):
            name = option.accelerator
            drawn[name] = drawn.get(name, 0.0) + replicas * each.get(option, 0.0) * 1000.0
    return {site.name: site.pue * sum(drawn.get(name, 0.0) for name in site.types) for site in sites}


def left_by_watchers(sites: Iterable[SiteLimit], decisions: Iterable[Decision]) -> tuple[SiteLimit, ...]:
    """The power limits less what pools draw that are only watched."""
    sites = tuple(sites)
    drawn = watts_by_site(sites, [one for one in decisions if not one.write])
    return tuple(replace(site, limit_kw=max(0.0, site.limit_kw - drawn[site.name] / 1000.0)) for site in sites)


def hold_starts(
    decisions: Sequence[Decision], sites: Sequence[SiteLimit], lent: Mapping[str, float] = MappingProxyType({})
) -> tuple[Decision, ...]:
    """The decisions, with fewer starts where replicas that run, on their way out or not, leave no power for all.

    Plans hold a site's limit when they are reached. On the way, a pool that moves to another accelerator runs the new
    replicas beside the old ones: as many start as there is power for, and as old ones go the next start. Starts of the
    lowest priority wait first. What runs is never lowered here. Nodes on loan are called back by those who lend; until
    training has gone from them, starts wait for their power too.

    Args:
        lent: kW that training draws on loan, with PUE, by site.
    """
    result = list(decisions)
    for site in sites:
        training = lent.get(site.name, 0.0)
        over = training + watts_by_site([site], result)[site.name] / 1000.0 - site.limit_kw
        order = sorted(range(len(result)), key=lambda i: (_priority(result[i]), str(result[i].view.pool)))
        for index in order:
            if over <= site.limit_kw * _SOME:
                break
            result[index], saved = _with_fewer_starts(result[index], site, over, training)
            over -= saved
    return tuple(result)


def _with_fewer_starts(decision: Decision, site: SiteLimit, over: float, training: float) -> tuple[Decision, float]:
    """The decision with starts at the site taken back until ``over`` kW are saved, and how many were."""
    if not decision.write:
        return decision, 0.0
    each, saved, targets, held = kilowatts_by_option(decision), 0.0, list[Target](), 0
    for target in decision.targets:
        option, starts = target.served.option, target.desired - target.served.desired
        drawn = each.get(option, 0.0) * site.pue if option.accelerator in site.types else 0.0
        back = min(starts, int(-(-(over - saved) // drawn))) if starts > 0 and drawn > 0 and over > saved else 0
        held, saved = held + back, saved + back * drawn
        targets.append(replace(target, desired=target.desired - back))
    if not held:
        return decision, 0.0
    leaving = sum(max(0, one.desired - one.planned) for one in targets)
    others = [f"{leaving} that are being replaced"] if leaving else []
    others += [f"{brief(training)} kW of training on loan"] if training > 0 else []
    beside = f" beside {' and '.join(others)}" if others else ""
    why = f"{held} replicas wait: {brief(site.limit_kw)} kW at {site.name} are not enough for them{beside}"
    told = f"{decision.held}; {why}" if decision.held else why
    waiting = Verdict(ConditionType.RECONCILING, TRUE, Reason.SCALING, why)
    verdicts = tuple(waiting if one.type is ConditionType.RECONCILING else one for one in decision.verdicts)
    return (
        replace(
            decision,
            targets=tuple(targets),
            held=told,
            verdicts=verdicts,
            summary=describe((one.served.option, one.desired) for one in targets),
        ),
        saved,
    )


def _priority(decision: Decision) -> int:
    return max((one.spec.priority for one in decision.view.classes), default=100)


def _asked_for(decision: Decision, *, planned: bool = False) -> Iterable[tuple[Option, int]]:
    """Replicas of each option as the decision leaves them: as they run where it touches nothing."""
    if decision.write and decision.targets and planned:
        twice = decision.view.moving
        return [
            (one.served.option, max(one.planned, one.desired - twice.get(one.served.name, 0)))
            for one in decision.targets
        ]
    if decision.write and decision.targets:
        return [(one.served.option, one.desired) for one in decision.targets]
    return _running(decision.view)


def _running(view: PoolView) -> list[tuple[Option, int]]:
    return [(one.option, one.desired) for one in view.served if one.desired]
