"""Fixtures that every test may use: the local cluster and a fresh namespace."""

import os

from hypothesis import settings

pytest_plugins = ["localcluster.pytest_plugin"]

# A developer's run looks for new counterexamples each time; CI judges a change by the same examples every time.
# How long an example takes says how busy the machine is.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")
