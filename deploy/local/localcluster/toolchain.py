"""Which programs the local cluster runs, at which version, and where each comes from (tools/tools.toml)."""

import functools
import platform
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localcluster.errors import LocalClusterError

TOOLS_DIRECTORY = Path(__file__).resolve().parents[1] / "tools"
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")


@dataclass(frozen=True, slots=True)
class Platform:
    """A system and processor in the names Go uses, e.g. linux and amd64."""

    system: str
    machine: str

    @classmethod
    def here(cls) -> "Platform":
        """The platform this interpreter runs on."""
        machine = platform.machine().lower()
        return cls(platform.system().lower(), {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine))

    def __str__(self) -> str:
        return f"{self.system}-{self.machine}"


@dataclass(frozen=True, slots=True)
class Release:
    """An upstream download and where its SHA-256 is published; the templates are filled by `Tool.resolve`."""

    url: str
    checksum: str
    member: str
    systems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: the version wanted, the versions accepted from PATH, and how to get it.

    An optional one is made only when it is asked for by name.
    """

    name: str
    version: str
    accept: tuple[str, ...]
    version_command: tuple[str, ...]
    module: str
    package: str
    tags: str
    ldflags: str
    build_seconds: int
    python_distribution: str
    python_member: str
    optional: bool
    release: Release | None

    def release_for(self, here: Platform) -> Release | None:
        """The release with its templates filled in, or None where upstream publishes none for this system."""
        if self.release is None or here.system not in self.release.systems:
            return None

        def fill(template: str) -> str:
            return template.format(version=self.version, os=here.system, arch=here.machine)

        release = self.release
        return Release(fill(release.url), fill(release.checksum), fill(release.member), release.systems)

    def cache_name(self, here: Platform) -> str:
        """The file name in the cache; versions and platforms lie side by side."""
        return f"{self.name}-{self.version}-{here}"


@dataclass(frozen=True, slots=True)
class CrdSource:
    """Custom resource definitions inside a Go module."""

    name: str
    module: str
    version: str
    glob: str


@functools.cache
def _document() -> Mapping[str, Any]:
    return tomllib.loads((TOOLS_DIRECTORY / "tools.toml").read_text(encoding="utf-8"))


@functools.cache
def tools() -> Mapping[str, Tool]:
    """Every program by name, in the order of tools.toml."""
    found: dict[str, Tool] = {}
    for name, entry in _document()["tool"].items():
        release = entry.get("release")
        found[name] = Tool(
            name=name,
            version=entry["version"],
            accept=tuple(entry["accept"]),
            version_command=tuple(entry["version_command"]),
            module=entry.get("module", ""),
            package=entry.get("package", ""),
            tags=entry.get("tags", ""),
            ldflags=entry.get("ldflags", "").replace("{version}", entry["version"]),
            build_seconds=entry.get("build_seconds", 0),
            python_distribution=entry.get("python_distribution", ""),
            python_member=entry.get("python_member", ""),
            optional=entry.get("optional", False),
            release=release
            and Release(release["url"], release["checksum"], release.get("member", ""), tuple(release["systems"])),
        )
    return found


def tool(name: str) -> Tool:
    """The program of that name.

    Raises:
        LocalClusterError: tools.toml has no such entry.
    """
    try:
        return tools()[name]
    except KeyError:
        raise LocalClusterError(f"tool {name!r} is not in tools.toml; expected one of {', '.join(tools())}") from None


def crd_source(name: str) -> CrdSource:
    """Where the custom resource definitions of that name are read from."""
    try:
        entry = _document()["crds"][name]
    except KeyError:
        raise LocalClusterError(
            f"CRD source {name!r} is not in tools.toml; expected one of {', '.join(_document()['crds'])}"
        ) from None
    return CrdSource(name, entry["module"], entry["version"], entry["glob"])
