"""Free ports on this machine, reserved until their servers listen and while those restart."""

import secrets
import socket
import sys

# Below the range of outgoing connections (ip_local_port_range): one of those could take the port of a server that is
# restarting.
_FIRST, _END = 20_000, 32_768
_ATTEMPTS = 200

_given: dict[int, int] = {}
"""The ports that this process returned, and the descriptors that reserve them (-1 for none)."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nothing listens, reserved for as long as this process lives.

    A socket stays bound to it. On Linux, servers that set SO_REUSEADDR (PostgreSQL, NATS and gRPC do) can listen there
    all the same, while no other process gets the port. On other systems another process may take the port first, so
    check whether the server came up.
    """
    for _ in range(_ATTEMPTS):
        port = _FIRST + secrets.randbelow(_END - _FIRST)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                # Without SO_REUSEADDR, or a port that another process has reserved would look free.
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given[port] = _held(probe)
            return port
    raise OSError(f"no free port between {_FIRST} and {_END} on 127.0.0.1")


def _held(bound: socket.socket) -> int:
    if sys.platform != "linux":
        return -1
    # From here on the server may bind the port too. This socket never listens, so connections are refused until then.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return bound.detach()
