"""Subset hints: the gateway says where a request may go, and the picker keeps to it."""

from __future__ import annotations

import ipaddress
from typing import Any

from tidefleet.conformance.build import Request
from tidefleet.conformance.case import Level, Skipped, expect, registry
from tidefleet.conformance.target import Answer, Target, address_of

CASES, case = registry()
_ELSEWHERE = "203.0.113.9:8000"


def _bodyless(subset: Any) -> Request:
    return Request(method="GET", path="/v1/models", subset=subset)


def _inside(answer: Answer, *allowed: str) -> None:
    known = {address_of(one) for one in allowed}
    for address in answer.addresses:
        expect(address_of(address) in known, f"chose {address}; the subset is {', '.join(allowed)}")


def _inside_or_503(answer: Answer, *allowed: str) -> None:
    if answer.refused is not None:
        answer.refused_with(503)
    else:
        _inside(answer, *allowed)


def _sixes(target: Target) -> list[str]:
    found = [one for one in target.need_endpoints(1) if one.startswith("[")]
    if not found:
        raise Skipped("needs an IPv6 endpoint (--endpoints)")
    return found


@case("subset.one")
def _one(target: Target) -> None:
    """A subset of one endpoint draws the request there, whichever it is."""
    for endpoint in target.need_endpoints(1)[:10]:
        _inside(target.ask(target.request(subset=[endpoint])), endpoint)


@case("subset.two")
def _two(target: Target) -> None:
    """Every destination is in the subset, fallbacks too."""
    first, *_, last = target.need_endpoints(3)
    for _ in range(4):
        _inside(target.ask(target.request(subset=[first, last])), first, last)


@case("subset.empty")
def _empty(target: Target) -> None:
    """An empty subset is refused with 503."""
    target.ask(target.request(subset=[])).refused_with(503)


@case("subset.none-eligible")
def _none(target: Target) -> None:
    """A subset without an endpoint of the pool is refused with 503."""
    target.ask(target.request(subset=[_ELSEWHERE])).refused_with(503)


@case("subset.some-eligible")
def _some(target: Target) -> None:
    """Of a subset with addresses that are not the pool's, only the pool's are chosen."""
    endpoint = target.need_endpoints(1)[0]
    _inside(target.ask(target.request(subset=[_ELSEWHERE, endpoint])), endpoint)


@case("subset.wrong-port")
def _wrong_port(target: Target) -> None:
    """An endpoint's address with another port is not that endpoint: 503."""
    endpoint = target.need_endpoints(1)[0]
    host = endpoint.rpartition(":")[0]
    ports = {int(one.rpartition(":")[2]) for one in target.endpoints}
    free = next(port for port in range(1, 65_536) if port not in ports)
    target.ask(target.request(subset=[f"{host}:{free}"])).refused_with(503)


@case("subset.unreadable-entries")
def _unreadable(target: Target) -> None:
    """A subset of entries that are no addresses allows nothing: 503."""
    target.ask(target.request(subset=["", "no-address", "1.2.3.4.5:6", "10.0.0.1:99999999"])).refused_with(503)


@case("subset.text")
def _text(target: Target) -> None:
    """A subset that is a text instead of a list does not open the whole pool."""
    endpoint = target.need_endpoints(2)[-1]
    for _ in range(6):
        _inside_or_503(target.ask(target.request(subset=endpoint)), endpoint)


@case("subset.text-elsewhere")
def _text_elsewhere(target: Target) -> None:
    """A subset that is a text without an endpoint of the pool is refused with 503."""
    target.ask(target.request(subset=_ELSEWHERE)).refused_with(503)


@case("subset.number")
def _number(target: Target) -> None:
    """A subset that is neither list nor text allows nothing: 503."""
    target.ask(target.request(subset=7)).refused_with(503)


@case("subset.other-keys")
def _other_keys(target: Target) -> None:
    """The namespace without the key is no hint: the whole pool may be chosen."""
    target.ask(target.request(metadata={"envoy.lb.subset_hint": {"other": ["x"]}})).chosen()


@case("subset.bodyless")
def _subset_bodyless(target: Target) -> None:
    """A request without a body keeps to its subset as any other."""
    for endpoint in target.need_endpoints(2)[:4]:
        _inside(target.ask(_bodyless([endpoint])), endpoint)


@case("subset.bodyless-none-eligible")
def _bodyless_none(target: Target) -> None:
    """A request without a body whose subset has no endpoint of the pool is refused with 503, not 500."""
    target.ask(_bodyless([_ELSEWHERE])).refused_with(503)


@case("subset.bodyless-empty")
def _bodyless_empty(target: Target) -> None:
    """A request without a body whose subset is empty is refused with 503, not 500."""
    target.ask(_bodyless([])).refused_with(503)


@case("subset.ipv6")
def _ipv6(target: Target) -> None:
    """An IPv6 entry matches an IPv6 endpoint."""
    for endpoint in _sixes(target):
        _inside(target.ask(target.request(subset=[endpoint])), endpoint)


@case("subset.ipv6-wrong-port")
def _ipv6_port(target: Target) -> None:
    """An IPv6 endpoint's address with another port is not that endpoint: 503."""
    endpoint = _sixes(target)[0]
    target.ask(target.request(subset=[endpoint.rpartition(":")[0] + ":9"])).refused_with(503)


@case("subset.ipv6-spelling", Level.SHOULD)
def _ipv6_spelling(target: Target) -> None:
    """An IPv6 entry matches however it is spelled."""
    endpoint = _sixes(target)[0]
    host, port = address_of(endpoint)
    long = ipaddress.ip_address(host).exploded.upper()
    _inside(target.ask(target.request(subset=[f"[{long}]:{port}"])), endpoint)


@case("subset.repeated")
def _repeated(target: Target) -> None:
    """An entry that comes twice is one destination."""
    endpoint = target.need_endpoints(1)[0]
    answer = target.ask(target.request(subset=[endpoint, endpoint]))
    expect(answer.addresses == [endpoint], f"chose {answer.addresses}; the subset is {endpoint}, twice")
