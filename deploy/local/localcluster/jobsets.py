"""The JobSet controller beside a local control plane."""

from localcluster.controllers import Controller, Webhook, only_for_pods_with, start
from localcluster.controlplane import ControlPlane

PROCESS = "jobset-controller"
"""Its name among the cluster's processes."""

SET_LABEL = "jobset.sigs.k8s.io/jobset-name"


def start_job_sets(cluster: ControlPlane) -> None:
    """Serve JobSets in a running cluster; its controller ends with the cluster.

    Its webhooks are reached by url, with a certificate of the cluster's authority, and those about pods are asked only
    about pods of a JobSet, so that all others go on when it does not answer.

    Raises:
        LocalClusterError: The program cannot be had, or it was not ready within a minute.
    """
    start(
        cluster,
        Controller(
            process=PROCESS,
            crds="jobset",
            config="config.jobset.x-k8s.io/v1alpha1",
            settings={},
            served=["/apis/jobset.x-k8s.io/v1alpha2/jobsets"],
            adapt=_adapt,
        ),
    )


def _adapt(webhook: Webhook) -> bool:
    only_for_pods_with(SET_LABEL, webhook)
    return True
