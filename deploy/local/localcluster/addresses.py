"""Loopback addresses for simulated pods that no other cluster on this machine uses.

A cluster's pods have the addresses 127.N.0.2 and up. Who uses which N is told by locks on files of the per-user cache,
which the kernel gives up when the last process that holds one is gone, whatever ended it.
"""

import contextlib
import fcntl
import ipaddress
import os
from pathlib import Path
from typing import IO, Self

from localcluster.binaries import cache_directory
from localcluster.errors import LocalClusterError

FIRST, LAST = 1, 254
"""127.0 is everybody's, and 127.255 ends in the broadcast address."""


class PodRange:
    """A range of addresses, held until `release`, or until every process that inherited `fds` has ended.

    Attributes:
        cidr: First address and size, as kwok takes them: 127.1.0.1/16.
    """

    def __init__(self, cidr: str, files: list[IO[str]]) -> None:
        self.cidr = cidr
        self._files = files

    @classmethod
    def claim(cls, cidr: str | None = None) -> Self:
        """Hold the given range, or the lowest one that is free.

        A range outside 127.0.0.0/8 is taken as it is: this machine's other clusters have none of those.

        Raises:
            LocalClusterError: The given range, or every range, is in use.
        """
        if cidr is None:
            for number in range(FIRST, LAST + 1):
                file = _lock(number)
                if file is not None:
                    return cls(f"127.{number}.0.1/16", [file])
            raise LocalClusterError(f"all of 127.{FIRST} to 127.{LAST} is in use by other clusters on this machine")
        files: list[IO[str]] = []
        for number in _numbers(cidr):
            file = _lock(number)
            if file is None:
                for one in files:
                    one.close()
                raise LocalClusterError(
                    f"pod range {cidr}: 127.{number} is in use by {_holder(number)}; expected a range that no other "
                    f"cluster on this machine has, e.g. 127.{number % LAST + 1}.0.1/16, or none, for any that is free"
                )
            files.append(file)
        return cls(cidr, files)

    @property
    def fds(self) -> tuple[int, ...]:
        """What a process must inherit to hold the range as well."""
        return tuple(file.fileno() for file in self._files)

    def release(self) -> None:
        """Hold it no longer; safe to call again."""
        for file in self._files:
            file.close()
        self._files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _path(number: int) -> Path:
    return cache_directory().parent / "pod-ranges" / f"127.{number}"


def _lock(number: int) -> IO[str] | None:
    """The file of a range, locked and with this process's id in it; None when somebody else has it.

    The file stays when it is given up, since removing it would let two holders in.
    """
    path = _path(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate(0)
    file.write(f"process {os.getpid()}")
    file.flush()
    return file


def _holder(number: int) -> str:
    with contextlib.suppress(OSError):
        return _path(number).read_text(encoding="utf-8") or "another cluster"
    return "another cluster"


def _numbers(cidr: str) -> list[int]:
    """The second bytes of all loopback addresses in a range.

    Raises:
        LocalClusterError: It is no range of IPv4 addresses.
    """
    try:
        network = ipaddress.IPv4Interface(cidr).network
    except ValueError as error:
        raise LocalClusterError(f"pod range {cidr!r}: {error}; expected e.g. 127.1.0.1/16") from None
    loopback = ipaddress.IPv4Network("127.0.0.0/8")
    if not network.overlaps(loopback):
        return []
    first, last = (int(address) >> 16 & 0xFF for address in (network.network_address, network.broadcast_address))
    return list(range(0, 256)) if network.supernet_of(loopback) else list(range(first, last + 1))
