"""`step` driven through a small cluster with faults at every point, by hypothesis and by a long random walk."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import flip_world
import pytest
from flip_world import NODES, UNITS, WISHES, Agree, World
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from machine_builders import EDGES, HOUR, unhurried

from tidefleet.flipping.journal import Journal, agreed
from tidefleet.flipping.machine import Step, step
from tidefleet.flipping.observation import Observation, Terms
from tidefleet.flipping.phase import Phase

LEAST_TRANSITIONS = 100_000


def _something_happens(world: World) -> None:
    """One random event, and a pass of the operator, which may die in it."""
    rng = world.rng
    unit, name = rng.choice(tuple(UNITS)), rng.choice(NODES)
    match rng.choices(range(14), (60, 4, 8, 4, 2, 3, 0.5, 1, 1, 0.5, 1, 2, 1, 2))[0]:
        case 0:
            world.tick(rng.choice((1.0, 15.0, 40.0, 130.0)))
        case 1:
            what = rng.choices(WISHES, (8, 1, 2, 1))[0]
            for each in UNITS if rng.random() < 0.5 else (unit,):
                world.wish(each, what, rng.choice((60.0, 1200.0, 4 * HOUR)))
        case 2:
            for _ in range(3):
                world.submit(
                    gang=rng.random() < 0.4,
                    queued=rng.random() < 0.5,
                    acknowledges=rng.random() < 0.6,
                    seconds=rng.choice((60.0, 1e6)),
                )
        case 3:
            world.required = rng.choice((0, 1, 1, 1, 2, 2, 3, 5))
        case 4:
            world.nodes[name].healthy = rng.random() < 0.8
        case 5:
            world.join(name)
        case 6:
            world.delete(name)
        case 7:
            world.evictions_refused = rng.random() < 0.3
        case 8:
            world.terminations_stuck = rng.random() < 0.3
        case 9:
            world.skew += rng.choice((5.0, 100.0, 2 * HOUR))
        case 10:
            world.skew -= rng.choice((0.5, 5.0, 30.0))
        case 11:
            world.released.add(unit)
        case 12:
            world.vetoed ^= {unit}
        case 13:
            world.nodes[name].answers_badly = rng.random() < 0.5
    world.operate(lives=rng.random() if rng.random() < 0.4 else 1.0, hidden=rng.choice((0.0, 0.0, 0.0, 0.2)))


def _everything_comes_home(world: World) -> None:
    """With the faults that last, to Serving or Quarantined; without any, and after a release, to Serving."""
    world.end_faults(all_of_them=False)
    world.come_home()
    world.end_faults(all_of_them=True)
    world.come_home()
    for unit in UNITS:
        journal = world.journal(unit)
        if journal.phase is Phase.QUARANTINED:
            held = any(one.node in UNITS[unit] for one in world.replicas)
            assert held or journal.cause == "canary", f"{unit} is not released though it has recovered: {journal.why}"
            world.released.add(unit)
    world.tick(2 * HOUR)  # requests that still run on what was quarantined come to their end
    world.come_home()
    assert {world.journal(unit).phase for unit in UNITS} == {Phase.SERVING}


def _walk(world: World, transitions: int, *, lap: int) -> int:
    """Random events until ``step`` was asked so often; now and then all comes home. Gives how often it did."""
    laps = 0
    while world.transitions < transitions:
        end, world.longest_termination = world.transitions + lap, 1800.0
        while world.transitions < end:
            _something_happens(world)
        _everything_comes_home(world)
        laps += 1
    return laps


def _world(seed: int, **more: Any) -> World:
    return World(random.Random(seed), replace(Terms(), dwell=120.0, kill=seed % 2 == 0), **more)  # noqa: S311


def test_a_hundred_thousand_transitions_with_faults_break_nothing_and_go_over_every_edge() -> None:
    walks = [_world(seed) for seed in range(4)]
    for world in walks:
        laps = _walk(world, LEAST_TRANSITIONS // len(walks), lap=2500)
        assert laps >= 5
    assert sum(world.transitions for world in walks) >= LEAST_TRANSITIONS
    assert sum(world.crashes for world in walks) >= 1000
    went = sum((world.edges for world in walks), Counter[tuple[Phase, Phase]]())
    hardly = {f"{start} -> {end}": went[start, end] for start, ends in EDGES.items() for end in ends}
    assert min(hardly.values()) >= 10, hardly
    assert not set(went) - {(start, end) for start, ends in EDGES.items() for end in ends}


def _a_group_is_lent_and_recalled(world: World, *, dies_at: int) -> int:
    """The operator dies at one of its writes, and at that moment everybody else does the worst. Gives the writes made.

    Time stands still between the death and what others do; then its successor carries on.
    """
    made, lives = 0, 0
    for wish, passes in (("lend", 12), ("recall", 30)):
        world.wish("g", wish, 8 * HOUR)
        for _ in range(passes):
            world.tick(15.0)
            left = dies_at - made
            made += world.operate(writes=left if left >= 0 and not lives else None)
            if made == dies_at and not lives:
                lives = 1
                for queued in (False, True):
                    world.submit(gang=False, queued=queued, acknowledges=False, seconds=1e6)
                world.scale += 3
                world.tick(0.0)
            if wish == "lend":
                world.submit(gang=True, queued=True, acknowledges=True, seconds=1e6)
    _everything_comes_home(world)
    return made


def _calm(agree: Agree = agreed) -> World:
    """One replica on each node, of which most are spare, so that the group can go at once."""
    world = World(random.Random(7), agree=agree, required=1, scale=5)  # noqa: S311
    for _ in range(20):
        world.tick(10.0)
    return world


def test_an_operator_that_dies_at_any_of_its_writes_breaks_nothing() -> None:
    whole = _calm()
    writes = _a_group_is_lent_and_recalled(whole, dies_at=10_000)
    assert writes >= 20
    assert whole.edges[Phase.VERIFYING, Phase.TRAINING] == 1
    assert whole.edges[Phase.WARMING, Phase.SERVING] == 1
    deaths = 0
    for number in range(writes):
        world = _calm()
        _a_group_is_lent_and_recalled(world, dies_at=number)
        deaths += world.crashes  # none where the number is that of a pass's last write
    assert deaths >= writes / 2


def _the_oldest(stories: Iterable[Journal]) -> Journal:
    return min(stories, key=lambda one: one.turn)


def test_a_half_written_group_must_not_count_as_where_its_last_node_still_is() -> None:
    """That rule lets training onto nodes of a unit that is rolled back: the same deaths find it out."""
    found = []
    for number in range(60):
        try:
            _a_group_is_lent_and_recalled(_calm(_the_oldest), dies_at=number)
        except AssertionError as error:
            found.append(str(error))
    assert any("in phase Verifying" in one for one in found), found


def _hasty(journal: Journal, seen: Observation, now: float) -> Step:
    """As `step`, but it believes that accelerators are free when it does not know."""
    return step(journal, replace(seen, holders=seen.holders or 0), now)


def _careless(journal: Journal, seen: Observation, now: float) -> Step:
    """As `step`, but reclaims a unit as soon as its jobs say that they have gone."""
    return step(journal, replace(seen, holders=0 if seen.jobs == 0 else seen.holders), now)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (_hasty, "lent while something held it|two owners|training on"),
        (_careless, "lent while something held it|two owners|training on"),
    ],
)
def test_the_walk_finds_a_machine_that_is_wrong(
    wrong: Callable[[Journal, Observation, float], Step], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk that could find nothing would prove nothing."""
    monkeypatch.setattr(flip_world, "step", wrong)
    with pytest.raises(AssertionError, match=words):
        _walk(_world(1), LEAST_TRANSITIONS, lap=2500)


class Flips(RuleBasedStateMachine):
    """The same world, its events and their order chosen by hypothesis, which shrinks what it finds."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.world = _world(seed)

    units = st.sampled_from(tuple(UNITS))
    nodes = st.sampled_from(NODES)

    @rule(
        seconds=st.sampled_from([1.0, 15.0, 60.0, 130.0, 700.0]),
        lives=st.sampled_from([1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]),
        hidden=st.sampled_from([0.0, 0.0, 0.3]),
    )
    def pass_time(self, seconds: float, lives: float, hidden: float) -> None:
        self.world.tick(seconds)
        self.world.operate(lives=lives, hidden=hidden)

    @rule(steps=st.integers(5, 40))
    def let_it_be(self, steps: int) -> None:
        for _ in range(steps):
            self.world.tick(15.0)
            self.world.operate()

    @rule(what=st.sampled_from(WISHES), unit=st.none() | units, seconds=st.sampled_from([-60.0, 600.0, 4 * HOUR]))
    def wish(self, what: str, unit: str | None, seconds: float) -> None:
        for each in UNITS if unit is None else (unit,):
            self.world.wish(each, what, seconds)

    @rule(gang=st.booleans(), queued=st.booleans(), acknowledges=st.booleans())
    def submit(self, gang: bool, queued: bool, acknowledges: bool) -> None:
        self.world.submit(gang=gang, queued=queued, acknowledges=acknowledges, seconds=1e6)

    @rule(required=st.integers(0, 5))
    def demand(self, required: int) -> None:
        self.world.required = required

    @rule(name=nodes, what=st.sampled_from(["fails", "recovers", "goes", "joins", "answers badly", "answers well"]))
    def node(self, name: str, what: str) -> None:
        match what:
            case "fails" | "recovers":
                self.world.nodes[name].healthy = what == "recovers"
            case "goes":
                self.world.delete(name)
            case "joins":
                self.world.join(name)
            case _:
                self.world.nodes[name].answers_badly = what == "answers badly"

    @rule(refused=st.booleans(), stuck=st.booleans())
    def terminations(self, refused: bool, stuck: bool) -> None:
        self.world.evictions_refused, self.world.terminations_stuck = refused, stuck

    @rule(seconds=st.sampled_from([-30.0, -1.0, 60.0, 2 * HOUR]))
    def clock_jumps(self, seconds: float) -> None:
        self.world.skew += seconds

    @rule(unit=units, what=st.sampled_from(["release", "veto", "no veto"]))
    def a_person(self, unit: str, what: str) -> None:
        match what:
            case "release":
                self.world.released.add(unit)
            case "veto":
                self.world.vetoed.add(unit)
            case _:
                self.world.vetoed.discard(unit)

    @invariant()
    def no_accelerator_has_two_owners(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            _everything_comes_home(self.world)


Flips.TestCase.settings = settings(unhurried, max_examples=40, stateful_step_count=30)
TestFlips = Flips.TestCase


@pytest.mark.parametrize(("period", "dwell"), [(60.0, HOUR), (HOUR, HOUR), (HOUR + 60, 3 * HOUR)])
def test_demand_that_oscillates_at_the_threshold_for_a_day_flips_a_unit_no_oftener_than_its_dwell_allows(
    period: float, dwell: float
) -> None:
    world = World(random.Random(5), Terms(dwell=dwell), required=1, scale=1)  # noqa: S311
    plans: dict[str, list[float]] = {unit: [] for unit in UNITS}
    while world.t < flip_world.START + 24 * HOUR:
        low = int((world.t - flip_world.START) / period) % 2 == 0
        for unit in UNITS:
            world.wish(unit, "lend" if low else "recall", 8 * HOUR)
        phases = {unit: world.journal(unit).phase for unit in UNITS}
        world.tick(30.0)
        world.operate()
        for unit, was in phases.items():
            if was is Phase.SERVING and world.journal(unit).phase is Phase.PLANNED:
                plans[unit].append(world.t)
    for unit, times in plans.items():
        assert 2 <= len(times) <= 24 * HOUR / dwell + 1, f"{unit} flipped {len(times)} times"
        apart = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert min(apart) >= dwell
