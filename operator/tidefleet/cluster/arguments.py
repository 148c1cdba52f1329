"""What a container's command and arguments say, in a pod or in a pod template as JSON; nothing in them is trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ENGINE_CONTAINER = "engine"
"""Name of the container that serves, where a pod has several."""


def containers_of(spec: object) -> list[Mapping[str, Any]]:
    """The containers of a pod's spec; none where it has no list of such."""
    found = spec.get("containers") if isinstance(spec, Mapping) else None
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def arguments_of(container: Mapping[str, Any]) -> list[str]:
    """Command and arguments, in the order in which the engine reads them."""
    return [one for field in ("command", "args") for one in texts_of(container.get(field))]


def texts_of(arguments: object) -> list[str]:
    """A list of arguments as texts: an unquoted number, e.g. ``- 8192``, is meant as one."""
    listed = arguments if isinstance(arguments, list) else []
    return [str(one) for one in listed if isinstance(one, str | int | float)]


def values_of(arguments: Sequence[str], *names: str) -> list[str]:
    """All values of an option, ``--name value`` and ``--name=value`` alike; the last one is what engines take."""
    found = []
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name not in names:
            continue
        if equals:
            found.append(value)
        elif index + 1 < len(arguments):
            found.append(arguments[index + 1])
    return found


def value_of(arguments: Sequence[str], *names: str) -> str:
    """The value of an option that engines take, the last one; empty where there is none."""
    return next(reversed(values_of(arguments, *names)), "")


def many_of(arguments: Sequence[str], name: str) -> list[str]:
    """Values of an option that takes several: all up to the next option."""
    found: list[str] = []
    for index, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            found.append(argument.partition("=")[2])
        elif argument == name:
            for one in arguments[index + 1 :]:
                if one.startswith("-"):
                    break
                found.append(one)
    return found
