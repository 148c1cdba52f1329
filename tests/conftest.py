"""Fixtures that every test may use: the local cluster and a fresh namespace."""

import os
import signal

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
