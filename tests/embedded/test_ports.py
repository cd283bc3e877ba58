"""Ports for servers that do not listen yet."""

import contextlib
import itertools
import secrets
import socket
import subprocess
import sys
from concurrent import futures

import grpc
import pytest

from services.embedded import ports

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone lets a server listen where a port is held")


def test_no_two_servers_get_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    # Chance gives every number twice.
    draws = itertools.chain.from_iterable((number, number) for number in itertools.count(5000))
    monkeypatch.setattr(secrets, "randbelow", lambda _: next(draws))
    given = [ports.free_port() for _ in range(8)]
    assert len(set(given)) == len(given)


@LINUX
def test_free_port_is_reserved_until_used(monkeypatch: pytest.MonkeyPatch) -> None:
    port = ports.free_port()
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port))
    # Nor does another process that draws one as this one does.
    program = (
        "import itertools, secrets; from services.embedded import ports;"
        f"draws = itertools.chain([{port} - ports._FIRST], itertools.count(7));"
        "secrets.randbelow = lambda _: next(draws); print(ports.free_port())"
    )
    drawn = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(drawn) != port


@LINUX
def test_server_can_reuse_its_port() -> None:
    port = ports.free_port()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        server = grpc.server(futures.ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
        assert server.add_insecure_port(f"127.0.0.1:{port}") == port
        server.start()
        with contextlib.closing(socket.create_connection(("127.0.0.1", port))):
            pass
        with socket.socket() as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                stranger.bind(("127.0.0.1", port))
        server.stop(0).wait()
