"""Clients stream while nodes change sides, out and back; none of their streams fails or is cut."""

from __future__ import annotations

import pytest
from flip_faults import SLOT
from flip_streams import Streams
from operator_builders import a_class

from tidefleet.cluster.kinds import INFERENCE_POOL
from tidefleet.cluster.writes import Write

pytestmark = [pytest.mark.cluster, pytest.mark.needs_local_pods]

FLIPS = 10
"""Nodes that go out, and come back."""

MOST = 12
"""Streams at once."""


@pytest.mark.long
def test_no_stream_fails_or_is_cut_while_ten_nodes_with_replicas_go_out_and_come_back_with_some(flip_ground, place):
    ground = flip_ground(nodes=16)
    place.create(ground.a_pool(replicas=5, flipping=ground.flipping(drain={"timeoutSeconds": 300})), a_class(rate=1))
    lengths = [50, 200, 1000, 4000]  # tokens, of 20 to 30 ms each

    with Streams(place) as streams:

        def at_worst(write: Write) -> None:
            """One more request before every write of a flip: whatever the operator knows, it does not know this."""
            if write.kind.kind in ("Node", "Pod", "Deployment") and len(streams.open) < MOST:
                streams.route(lengths[len(streams.sent) % len(lengths)])

        ground.start(before_write=at_worst)
        ground.serve(5)
        ground.op.observe(310.0)  # from then on a workload is scaled down
        out: list[int] = []
        while len(out) < FLIPS:
            chosen = [index for index in ground.serving_on() if index not in out][: min(3, FLIPS - len(out))]
            for index in chosen:
                streams.send(ground.pods(index)[0], lengths[-1])
                ground.ask(index, "training")
            ground.until(lambda: all(ground.phase(index) == "Training" for index in chosen), "on loan", step=20.0)
            out += chosen
            ground.step(SLOT)
        assert not set(ground.serving_on()) & set(out)
        place.set_spec(INFERENCE_POOL, "chat", replicas={"min": 15, "max": 15})
        ground.until(lambda: set(ground.phases()) == {"Serving"}, "all are home", step=10.0)
        ground.until(lambda: sum(place.ready_replicas().values()) == 15, "and serve")
        assert sum(1 for index in out if ground.pods(index)) >= 9
        ground.until(lambda: not streams.open, "the last streams end", step=30.0)

        assert streams.broken == []
        assert streams.whole == len(streams.sent) > 40
    for index in out:
        assert ground.watcher.phases[ground.names[index]].count("Training") == 1
    assert ground.sound()
