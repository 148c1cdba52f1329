"""An operator process that gets SIGKILL once in every phase of a flip: its successor carries the flip on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flip_demand import train
from flip_faults import Ground
from flip_streams import Streams
from operator_builders import FLEET, HandClock, Place, RealOperator, a_class, eventually
from operator_engines import Engines

pytestmark = [pytest.mark.cluster, pytest.mark.chart, pytest.mark.needs_local_pods]

SCALE = 20.0
OUT = ("Planned", "Cordoned", "Draining", "Verifying", "Training")
BACK = ("Recalling", "Reclaiming", "Quarantined", "Warming", "Serving")


@pytest.fixture
def streams(place: Place) -> Iterator[Streams]:
    """Clients of this test."""
    with Streams(place) as running:
        yield running


class Fast(Ground):
    """Nodes whose time runs with that of operators in processes of their own."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.begun, self.real = self.clock.now(), time.time()

    def follow(self) -> None:
        """Show what their clock shows, and look at the invariants."""
        self.clock.tick(max(0.0, self.begun + (time.time() - self.real) * SCALE - self.clock.now()))
        self.watcher.look("at some moment")

    def seen(self, check: Callable[[], object], what: str) -> None:
        """Wait for something while time passes and the invariants are looked at."""

        def followed() -> object:
            self.follow()
            return check()

        eventually(followed, what, pause=0.1)


@pytest.fixture
def ground(place: Place, clock: HandClock, engines: Engines, operator_in_process) -> Iterator[Fast]:
    """Four nodes, on which no operator runs yet."""
    made = Fast(place, clock, operator_in_process, nodes=4)
    yield made
    made.clean()


@pytest.mark.timeout(280)
@pytest.mark.long
def test_an_operator_that_is_killed_in_every_phase_is_succeeded_and_nothing_is_lost(
    ground: Fast, real_operator: Callable[..., RealOperator], released: Any, streams: Streams
) -> None:
    place = ground.place
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{released.namespace}/leases/tidefleet"
    settings = {
        "namespaces": [],
        "nodeSelector": f"{FLEET}={ground.fleet}",
        "flipping": {"dwellSeconds": 0.0, "shortestWarmSeconds": 600.0},
    }

    def start() -> RealOperator:
        return real_operator(simulated=ground.begun, **settings)

    place.create(ground.a_pool(), a_class(rate=1))
    operator = start()
    ground.seen(lambda: place.settled() and sum(place.ready_replicas().values()) == 1, "it serves")
    ground.watcher.required[place.namespace, "chat"] = 1
    (index,) = ground.serving_on()
    (pod,) = ground.pods(index)
    streams.send(pod, 4000)
    train(ground, "night")
    killed: list[str] = []

    def die_in(phases: tuple[str, ...], then: Callable[[str], None]) -> None:
        nonlocal operator
        for phase in phases:
            ground.seen(lambda phase=phase: phase in turns(), phase)
            killed.append(ground.phase(index))
            operator.send(signal.SIGKILL)
            eventually(lambda: operator.exit_code is not None)
            place.api.delete(lease)
            then(phase)
            operator = start()

    def turns() -> list[str]:
        story = ground.journal(index)
        return [phase for _, phase in story.get("history", ())] + [story.get("phase", "")]

    ground.ask(index, "training")
    die_in(OUT, lambda _: None)
    ground.seen(lambda: ground.job_pods("night"), "a job trains")
    (worker,) = ground.job_pods("night")
    ground.finalize(worker, "test/held")

    def let_go(phase: str) -> None:
        if phase == "Quarantined":
            ground.finalize(worker)

    ground.ask(index, "serving")
    die_in(BACK[:-1], let_go)
    ground.seen(lambda: ground.phase(index) == "Serving", "it serves again")
    assert len(set(killed)) >= 7, killed
    assert streams.broken == []
    ground.seen(lambda: all(one.is_whole for one in streams.sent), "the stream is whole")
    node = ground.node(index)
    assert not node["spec"].get("taints")
    assert node["metadata"]["labels"]["tidefleet.io/duty"] == "serving"
    assert [line for line in operator.lines() if line["level"] == "error"] == []
    ground.sound()
