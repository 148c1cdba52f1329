"""Free loopback ports below the range the kernel hands out by itself."""

import random
import socket

# Linux hands out 32768 and above, macOS 49152 and above, to outgoing connections.
_LOWEST, _HIGHEST = 20000, 32000


def free_ports(count: int) -> list[int]:
    """Distinct ports of 127.0.0.1 that nothing listens on.

    Another process may take one before it is used; callers start again with other ports when a server says so.
    """
    chosen: list[int] = []
    source = random.SystemRandom()
    while len(chosen) < count:
        port = source.randint(_LOWEST, _HIGHEST)
        if port not in chosen and _is_free(port):
            chosen.append(port)
    return chosen


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
