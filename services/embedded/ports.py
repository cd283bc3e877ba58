"""Free ports on this machine."""

import socket


def free_port() -> int:
    """Returns a TCP port of 127.0.0.1 that nobody listens on now.

    Somebody else may take it before its user does; whoever starts a server on it looks whether it came up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
