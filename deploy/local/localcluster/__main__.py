"""The command line: `python -m localcluster up` and `python -m localcluster build`."""

import argparse
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from localcluster import binaries, toolchain
from localcluster.controlplane import ControlPlane
from localcluster.errors import LocalClusterError
from localcluster.jobsets import start_job_sets
from localcluster.kueue import start_kueue
from localcluster.leaderworkersets import start_leader_worker_sets
from localcluster.nodes import CATALOGUE, apply_nodes, node_kinds, node_kinds_from_catalogue, nodes_for, parse_counts

DEFAULT_NODES = "h100-sxm=4,h200-sxm=2,b200-sxm=2,l40s=4,a100-sxm-80=2,mi300x=2,mi355x=2,tpu-v6e=2,trainium2=2"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ends us as Ctrl-C does
    try:
        if arguments.command == "build":
            return _build(arguments.names)
        return _up(arguments)
    except KeyboardInterrupt:
        return 130
    except LocalClusterError as error:
        print(f"localcluster: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m localcluster",
        description="A real Kubernetes control plane on loopback with simulated accelerator nodes; needs no Docker.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser(
        "up",
        help="start a cluster, print KUBECONFIG=..., stay until Ctrl-C",
        description="Start a cluster, print KUBECONFIG=... on stdout and stay until Ctrl-C or SIGTERM. "
        "Nothing is left behind afterwards.",
    )
    which = up.add_mutually_exclusive_group()
    which.add_argument(
        "--nodes",
        metavar="NAME=COUNT,...",
        default=DEFAULT_NODES,
        help="simulated nodes by accelerator type, empty for none (default: %(default)s)",
    )
    which.add_argument("--nodes-file", type=Path, metavar="PATH", help="Node manifests (YAML) to create instead")
    up.add_argument(
        "--catalogue",
        type=Path,
        metavar="PATH",
        help=f"AcceleratorType documents that say what nodes look like (default: {CATALOGUE.name} of the operator)",
    )
    up.add_argument(
        "--pod-cidr",
        metavar="CIDR",
        help="loopback addresses for simulated pods, e.g. 127.1.0.1/16 (default: the first that no other cluster has)",
    )
    up.add_argument("--kubeconfig", type=Path, metavar="PATH", help="also write the kubeconfig here, until the end")
    up.add_argument("--unlimited", action="store_true", help="switch off the API server's request limits")
    up.add_argument("--leader-worker-sets", action="store_true", help="also run the LeaderWorkerSet controller")
    up.add_argument("--job-sets", action="store_true", help="also run the JobSet controller")
    up.add_argument("--kueue", action="store_true", help="also run the Kueue controller")
    build = commands.add_parser(
        "build",
        help="find, download or compile the programs, print where they are",
        description="Find, download or compile the programs and print where they are. "
        f"Environment: {binaries.NO_DOWNLOAD}=1 skips downloads.",
    )
    every = ", ".join(toolchain.tools())
    build.add_argument(
        "names", nargs="*", metavar="NAME", help=f"programs, all but optional ones if none is given: {every}"
    )
    return parser


def _build(names: Sequence[str]) -> int:
    rows = [("NAME", "VERSION", "SECONDS", "PATH")]
    for name in names or [one.name for one in toolchain.tools().values() if not one.optional]:
        wanted = toolchain.tool(name)
        begun = time.monotonic()
        path = binaries.find(name)
        rows.append((name, wanted.version, f"{time.monotonic() - begun:.1f}", str(path)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
    return 0


def _up(arguments: argparse.Namespace) -> int:
    nodes = _nodes(arguments)
    with ControlPlane(pod_cidr=arguments.pod_cidr, unlimited_requests=arguments.unlimited) as cluster:
        apply_nodes(cluster.kubeconfig, nodes)
        if arguments.leader_worker_sets:
            start_leader_worker_sets(cluster)
        if arguments.job_sets:
            start_job_sets(cluster)
        if arguments.kueue:
            start_kueue(cluster)
        print(f"localcluster: up in {cluster.start_seconds:.1f} s, {len(nodes)} simulated nodes", file=sys.stderr)
        shown = cluster.kubeconfig
        if arguments.kubeconfig is not None:
            shown = arguments.kubeconfig.absolute()
            shown.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(cluster.kubeconfig, shown)
            shown.chmod(0o600)
        try:
            print(f"KUBECONFIG={shown}", flush=True)
            _stay(cluster)
        finally:
            if arguments.kubeconfig is not None:
                shown.unlink(missing_ok=True)
    return 0


def _nodes(arguments: argparse.Namespace) -> list[Mapping[str, Any]]:
    if arguments.nodes_file is not None:
        documents = yaml.safe_load_all(arguments.nodes_file.read_text(encoding="utf-8"))
        return [document for document in documents if document]
    kinds = node_kinds_from_catalogue(arguments.catalogue) if arguments.catalogue else node_kinds()
    return [*nodes_for(parse_counts(arguments.nodes), kinds=kinds)]


def _stay(cluster: ControlPlane) -> None:
    """Wait for Ctrl-C; a server that ends on its own is an error."""
    forever = threading.Event()
    while not forever.wait(2.0):
        for name, code in cluster.processes.exit_codes().items():
            if code is not None:
                raise LocalClusterError(f"{name} ended with exit code {code}; its last lines:\n{cluster.log(name)}")


if __name__ == "__main__":
    sys.exit(main())
