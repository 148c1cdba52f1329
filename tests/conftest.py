"""Fixtures that every test may use: the local cluster and a fresh namespace."""

import os
import signal

import pytest
from hypothesis import settings

pytest_plugins = ["localcluster.pytest_plugin"]

# A run that a script put in the background is deaf to SIGINT, and so would be the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A developer's run looks for new counterexamples each time; CI judges a change by the same examples every time.
# How long an example takes says how busy the machine is. Fifty a property, for what does not ask for more: with the
# hundreds of properties that there are, the default of a hundred takes minutes.
settings.register_profile("here", deadline=None, max_examples=50)
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin what takes long first on every worker, or one of them would end with it alone.

    Of three workers each is dealt a third of the tests, in their order.
    """
    long = [one for one in items if one.get_closest_marker("long") is not None]
    others = [one for one in items if one.get_closest_marker("long") is None]
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    left, ordered = len(items), list[pytest.Item]()
    for worker in range(workers):
        mine, share = long[worker::workers], left // (workers - worker)
        room = max(0, share - len(mine))
        ordered += mine + others[:room]
        del others[:room]
        left -= share
    items[:] = ordered + others
