"""Fixtures that every test may use: the local cluster and a fresh namespace."""

pytest_plugins = ["localcluster.pytest_plugin"]
