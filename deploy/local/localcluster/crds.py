"""Custom resource definitions of other projects, read from the Go module cache."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from localcluster.errors import LocalClusterError
from localcluster.toolchain import crd_source


def crd_files(name: str) -> tuple[Path, ...]:
    """The files of one source in tools.toml, e.g. "prometheus-operator", in order of their names.

    Raises:
        LocalClusterError: There is no Go toolchain, the module cannot be had, or it holds no such file.
    """
    source = crd_source(name)
    go = shutil.which("go")
    if go is None:
        raise LocalClusterError(f"the CRDs of {name} are read by the Go toolchain, which is not on PATH")
    with tempfile.TemporaryDirectory(prefix="tidefleet-crds-") as outside_any_module:
        answer = subprocess.run(
            [go, "mod", "download", "-json", f"{source.module}@{source.version}"],
            cwd=outside_any_module,
            env={**os.environ, "GOFLAGS": "", "GOWORK": "off"},
            capture_output=True,
            text=True,
            check=False,
        )
    if answer.returncode != 0:
        raise LocalClusterError(f"{source.module}@{source.version}: {answer.stdout}{answer.stderr}")
    files = tuple(sorted(Path(json.loads(answer.stdout)["Dir"]).glob(source.glob)))
    if not files:
        raise LocalClusterError(f"{source.module}@{source.version} has no {source.glob}")
    return files
