"""The one error a user of the local cluster sees."""


class LocalClusterError(RuntimeError):
    """Something the local cluster needs is missing or failed; the message says what and what to do."""
