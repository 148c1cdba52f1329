"""The Kueue controller beside a local control plane, for batch/v1 Jobs and JobSets."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from localcluster.controllers import Controller, Webhook, start
from localcluster.controlplane import ControlPlane
from localcluster.errors import LocalClusterError

PROCESS = "kueue"
"""Its name among the cluster's processes."""

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
METRICS_CERTIFICATES = Path("/etc/kueue/metrics/certs")
"""Where Kueue insists on a certificate (tls.crt, tls.key) as soon as it does not manage its own; it cannot be told
another place. It serves nothing with it here."""

_GROUP = "kueue.x-k8s.io"
_JOBS = frozenset({("batch", "jobs"), ("jobset.x-k8s.io", "jobsets")})


class NoPlaceForCertificate(LocalClusterError):
    """Kueue cannot run here, since nobody may write where it wants a certificate."""


def start_kueue(cluster: ControlPlane) -> None:
    """Serve Kueue's queues in a running cluster; its controller ends with the cluster.

    Its webhooks are reached by url, with a certificate of the cluster's authority. Those about Jobs and JobSets are
    asked only about such as name a queue, so that all others go on when it does not answer. The certificate in
    `METRICS_CERTIFICATES` stays, since other clusters on this machine may use it.

    Raises:
        NoPlaceForCertificate: That directory is empty and cannot be written.
        LocalClusterError: The program cannot be had, or it was not ready within a minute.
    """
    _put_metrics_certificate(cluster)
    served = ("workloads", "clusterqueues", "cohorts", "localqueues", "admissionchecks", "resourceflavors")
    start(
        cluster,
        Controller(
            process=PROCESS,
            crds="kueue",
            config="config.kueue.x-k8s.io/v1beta2",
            settings={"integrations": {"frameworks": ["batch/job", "jobset.x-k8s.io/jobset"]}},
            # The visibility API would be an aggregated one, reached through a Service.
            flags=["--feature-gates=VisibilityOnDemand=false"],
            served=[f"/apis/{_GROUP}/v1beta2/{plural}" for plural in served],
            adapt=_adapt,
        ),
    )


def _adapt(webhook: Webhook) -> bool:
    kinds = {
        (group, plural) for rule in webhook["rules"] for group in rule["apiGroups"] for plural in rule["resources"]
    }
    if kinds & _JOBS:
        webhook["objectSelector"] = {"matchExpressions": [{"key": QUEUE_LABEL, "operator": "Exists"}]}
        return True
    return all(group == _GROUP for group, _ in kinds)


def _put_metrics_certificate(cluster: ControlPlane) -> None:
    """Put a pair there in one step, unless there is one: tests run side by side."""
    if (METRICS_CERTIFICATES / "tls.key").exists():
        return
    pair = cluster.new_serving_certificate("kueue-metrics")
    try:
        METRICS_CERTIFICATES.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".certs-", dir=METRICS_CERTIFICATES.parent))
    except OSError as error:
        raise NoPlaceForCertificate(
            f"Kueue wants a certificate in {METRICS_CERTIFICATES}, which cannot be written: {error.strerror}; let an "
            f"administrator make it yours, e.g. sudo install -d -o {os.environ.get('USER', '$USER')} "
            f"{METRICS_CERTIFICATES.parent}"
        ) from error
    try:
        shutil.copy(pair.certificate, made / "tls.crt")
        shutil.copy(pair.key, made / "tls.key")
        with contextlib.suppress(OSError):  # another process was faster
            made.rename(METRICS_CERTIFICATES)
    finally:
        shutil.rmtree(made, ignore_errors=True)
