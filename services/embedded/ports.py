"""Free ports on this machine, held until their servers listen, and while those are being started again."""

import secrets
import socket
import sys

# Below what Linux gives to outgoing connections (ip_local_port_range): there, one of those could take the port of a
# server that is just being started again.
_FIRST, _END = 20_000, 32_768
_ATTEMPTS = 200

_given: dict[int, int] = {}
"""What this process has given out, and the descriptors that hold it; -1 where nothing does."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on now, and keeps others off it for as long as this process.

    A socket stays bound to it, which on Linux lets a server that sets SO_REUSEADDR listen there (PostgreSQL, NATS and
    gRPC do), and lets nobody draw it here or in another process. Elsewhere somebody else may take it before its server
    does; whoever starts one looks whether it came up.
    """
    for _ in range(_ATTEMPTS):
        port = _FIRST + secrets.randbelow(_END - _FIRST)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                # Without SO_REUSEADDR, or a port that another process holds would look free.
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given[port] = _held(probe)
            return port
    raise OSError(f"no port from {_FIRST} to {_END} is free on 127.0.0.1")


def _held(bound: socket.socket) -> int:
    if sys.platform != "linux":
        return -1
    # From here on the server may bind it too; it never listens itself, so that connections are refused meanwhile.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return bound.detach()
