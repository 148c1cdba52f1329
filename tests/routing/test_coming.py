"""What is on its way to endpoints: as much as prompts have in common, as long as they are on their way."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tidefleet.routing.coming import Coming, common
from tidefleet.routing.endpoint import Endpoint, Ticket, Work
from tidefleet.routing.rates import Rates
from tidefleet.routing.request import Ask


def prompt(common, own, length):
    """Keys of a prompt of which the first ``common`` blocks are everybody's."""
    keys = np.arange(1, length + 1, dtype=np.uint64)
    keys[common:] += np.uint64((own + 1) << 32)
    return keys


def ticket_of(keys, address, epoch=1):
    ask = Ask("p", "m", 16 * len(keys), keys=keys)
    return Ticket(ask, address, epoch, 0.0, Work(0.0), 0.0, 0.01, 0.0, Endpoint(address, Rates(1e-4)))


def blocks_of(coming, keys):
    return {where: common(keys, other) for where, _, other in coming.blocks(keys)}


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3), st.integers(1, 300)), max_size=12),
    st.integers(0, 300),
    st.integers(1, 300),
)
@settings(max_examples=200, deadline=None)
def test_what_is_coming_is_what_prompts_begin_with(sent, common, length):
    coming = Coming()
    tickets = [
        ticket_of(prompt(shared, place, size), f"10.0.0.{at}:80") for place, (shared, at, size) in enumerate(sent)
    ]
    for one in tickets:
        coming.begin(one)
    asked = prompt(common, 99, length)
    expected: dict[tuple[str, int], int] = {}
    for (shared, at, size), _ in zip(sent, tickets, strict=True):
        both = min(shared, common, size, length)
        if both:
            where = (f"10.0.0.{at}:80", 1)
            expected[where] = max(both, expected.get(where, 0))
    found = blocks_of(coming, asked)
    assert set(found) == set(expected)
    for where, blocks in expected.items():
        assert blocks / 1.5 <= found[where] <= blocks
    bounds = {where: bound for where, bound, _ in coming.blocks(asked)}
    assert all(found[where] <= bounds[where] for where in found)
    assert {where for where, _, _ in coming.blocks(asked, 40)} >= {one for one, blocks in found.items() if blocks > 40}
    for place, (shared, at, size) in enumerate(sent):
        alone = Coming()
        alone.begin(tickets[place])
        both = min(shared, common, size, length)
        assert blocks_of(alone, asked) == ({(f"10.0.0.{at}:80", 1): both} if both else {})
    for one in tickets:
        coming.end(one)
    assert not coming


def test_a_prompt_without_keys_brings_nothing():
    coming = Coming()
    coming.begin(ticket_of(np.empty(0, np.uint64), "10.0.0.1:80"))
    assert not coming
    assert blocks_of(coming, prompt(5, 0, 5)) == {}
