"""Free ports on this machine."""

import secrets
import socket

# Below what Linux gives to outgoing connections (ip_local_port_range): there, one of those could take the port of a
# server that is just being started again.
_FIRST, _END = 20_000, 32_768
_ATTEMPTS = 200

_given: set[int] = set()
"""What this process has given out: several servers get their ports before the first of them listens."""


def free_port() -> int:
    """Returns a TCP port of 127.0.0.1 that nobody listens on now.

    Somebody else may take it before its user does; whoever starts a server on it looks whether it came up.
    """
    for _ in range(_ATTEMPTS):
        port = _FIRST + secrets.randbelow(_END - _FIRST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port in _given:
                continue
            _given.add(port)
            return port
    raise OSError(f"no port from {_FIRST} to {_END} is free on 127.0.0.1")
