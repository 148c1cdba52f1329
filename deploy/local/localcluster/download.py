"""A program from its upstream release, refused unless it matches the checksum published with it."""

import hashlib
import json
import os
import re
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from localcluster.errors import LocalClusterError
from localcluster.toolchain import Release

REACH_SECONDS = 3.0
_unreachable: set[str] = set()

Fetch = Callable[[str], bytes]


class NotReachable(Exception):
    """The upstream project cannot be reached from here; compiling is the other way."""


def download(release: Release, into: Path, *, fetch: Fetch | None = None) -> None:
    """Write the release's program to `into` (not yet executable).

    Args:
        release: What to fetch, with its templates filled in.
        into: File to write; its directory must exist.
        fetch: Returns the body at an address; tests pass their own.

    Raises:
        NotReachable: The host did not answer within three seconds, or has no such file.
        LocalClusterError: The download does not match the published checksum, or lacks the program.
    """
    get = fetch or _fetch
    name = release.url.rsplit("/", 1)[1]
    expected = published_sha256(get(release.checksum), name)
    if expected is None:
        raise NotReachable(f"{release.checksum} lists no SHA-256 for {name}")
    body = get(release.url)
    actual = hashlib.sha256(body).hexdigest()
    if actual != expected:
        raise LocalClusterError(
            f"{release.url}: SHA-256 is {actual}; {release.checksum} says {expected}. The download was discarded."
        )
    if not release.member:
        into.write_bytes(body)
        return
    archive = into.with_name(into.name + ".tar.gz")
    archive.write_bytes(body)
    try:
        with tarfile.open(archive) as tar:
            member = tar.extractfile(release.member)
            if member is None:
                raise LocalClusterError(f"{release.url}: {release.member} is not a file")
            into.write_bytes(member.read())
    except KeyError:
        raise LocalClusterError(f"{release.url}: no {release.member} in the archive") from None
    finally:
        archive.unlink(missing_ok=True)


def published_sha256(document: bytes, name: str) -> str | None:
    """The SHA-256 that `document` publishes for the file `name`, or None.

    Understands lines of "digest  name" (or "digest *name"), a lone digest, and a GitHub release whose assets carry
    `digest: "sha256:..."`.
    """
    text = document.decode("utf-8", "replace").strip()
    if text.startswith("{"):
        for asset in json.loads(text).get("assets", []):
            if asset.get("name") == name and str(asset.get("digest", "")).startswith("sha256:"):
                return str(asset["digest"]).removeprefix("sha256:").lower()
        return None
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return text.lower()
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64})\s+\*?(\S+)", line.strip())
        if match and match[2].rsplit("/", 1)[-1] == name:
            return match[1].lower()
    return None


def _fetch(url: str) -> bytes:
    """The body at `url`; a host that once did not answer is not asked again by this process."""
    host = urlsplit(url).netloc
    if host in _unreachable:
        raise NotReachable(f"{host} did not answer")
    if not _answers(url):
        _unreachable.add(host)
        raise NotReachable(f"{host} did not answer within {REACH_SECONDS:g} s")
    try:
        response = httpx.get(url, follow_redirects=True, timeout=httpx.Timeout(60.0, connect=REACH_SECONDS))
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise NotReachable(f"{url}: {error}") from error
    return response.content


def _answers(url: str) -> bool:
    """Whether the host answers in time. A name lookup can outlast any socket timeout, hence the thread."""
    answered = threading.Event()

    def ask() -> None:
        try:
            httpx.head(url, timeout=REACH_SECONDS)
        except httpx.HTTPError:
            return
        answered.set()

    thread = threading.Thread(target=ask, name=f"reach-{os.getpid()}", daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return answered.is_set()
