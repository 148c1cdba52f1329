"""The LeaderWorkerSet controller beside a local control plane."""

from localcluster.controllers import Controller, Webhook, only_for_pods_with, start
from localcluster.controlplane import ControlPlane

PROCESS = "lws-controller"
"""Its name among the cluster's processes."""

SET_LABEL = "leaderworkerset.sigs.k8s.io/name"


def start_leader_worker_sets(cluster: ControlPlane) -> None:
    """Serve LeaderWorkerSets in a running cluster; its controller ends with the cluster.

    Its webhooks are reached by url, with a certificate of the cluster's authority, and those about pods are asked only
    about pods of a LeaderWorkerSet, so that all others go on when it does not answer.

    Raises:
        LocalClusterError: The program cannot be had, or it was not ready within a minute.
    """
    start(
        cluster,
        Controller(
            process=PROCESS,
            crds="lws",
            config="config.lws.x-k8s.io/v1alpha1",
            settings={},
            served=["/apis/leaderworkerset.x-k8s.io/v1/leaderworkersets"],
            adapt=_adapt,
        ),
    )


def _adapt(webhook: Webhook) -> bool:
    only_for_pods_with(SET_LABEL, webhook)
    return True
