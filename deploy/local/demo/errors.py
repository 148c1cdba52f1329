"""How the demo ends early: a step that failed, or a person who wants it to stop."""

from localcluster.errors import LocalClusterError


class StepFailed(LocalClusterError):
    """A step of the demo failed; the message says which, and shows the end of the log."""


class Stopped(Exception):
    """The demo was told to stop."""
