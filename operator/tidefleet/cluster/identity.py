"""Who we are to the API server."""

from __future__ import annotations

import getpass
import os

from kubernetes.client import ApiClient

from tidefleet.cluster.kinds import Kind, path
from tidefleet.cluster.transport import Unreachable, send

SELF_SUBJECT_REVIEW = Kind("authentication.k8s.io/v1", "SelfSubjectReview", "selfsubjectreviews", namespaced=False)


def authenticated_user(api: ApiClient) -> str:
    """The name under which the API server knows us; this machine's user where it does not tell.

    Not a proof of anything: whoever writes an object may write any name into it.
    """
    body = {"apiVersion": SELF_SUBJECT_REVIEW.group_version, "kind": SELF_SUBJECT_REVIEW.kind}
    try:
        reply = send(api, "POST", path(SELF_SUBJECT_REVIEW, None), body=body)
    except Unreachable:
        return local_user()
    name = ((reply.json().get("status") or {}).get("userInfo") or {}).get("username") if reply.ok else None
    return name if isinstance(name, str) and name else local_user()


def local_user() -> str:
    """The user of this machine, as ``$USER`` has it."""
    try:
        return os.environ.get("USER") or getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "somebody"
