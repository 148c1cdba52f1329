"""Addresses as gateways write them, IPv6 and ports included, and whether a subset allows one."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


def canonical(address: str) -> str | None:
    """An address in one spelling: ``10.0.0.1:8000``, ``[fd00::1]:8000``, without a port ``10.0.0.1``, ``fd00::1``.

    None where it is none; a host name is none, since an endpoint is an address.
    """
    text = address.strip()
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None
        port = rest[1:] if rest else None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, None
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if port is None:
        return str(ip)
    if not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 65_536:
        return None
    return f"[{ip}]:{int(port)}" if ip.version == 6 else f"{ip}:{int(port)}"


def canonical_all(addresses: Iterable[str]) -> tuple[str, ...]:
    """Every address that is one, in order, without repetition; an entry may itself be a list by commas."""
    found = (canonical(one) for entry in addresses for one in entry.split(","))
    return tuple(dict.fromkeys(one for one in found if one is not None))


def allows(subset: tuple[str, ...] | None, address: str) -> bool:
    """Whether a canonical subset has the address: with its port, or without any; no subset allows all."""
    if subset is None:
        return True
    one = canonical(address)
    return one is not None and (one in subset or host_of(one) in subset)


def host_of(address: str) -> str:
    """A canonical address without its port."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
