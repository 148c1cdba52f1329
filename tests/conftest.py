"""Fixtures that every test may use: the local cluster and a fresh namespace."""

import os

from hypothesis import settings

pytest_plugins = ["localcluster.pytest_plugin"]

# A developer's run looks for new counterexamples each time; CI judges a change by the same examples every time.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
