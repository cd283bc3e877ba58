"""Finding the catalog."""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import pytest

import polytok
from polytok import errors
from polytok.client import discovery


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("POLYTOK_HOME", str(tmp_path))
    monkeypatch.delenv("POLYTOK_CATALOG_ADDRESS", raising=False)
    return tmp_path


def _write(folder: pathlib.Path, pid: int) -> None:
    (folder / "stack.json").write_text(json.dumps({"catalog_address": "127.0.0.1:3", "pid": pid}))


def test_the_argument_comes_first(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(folder, os.getpid())
    assert discovery.catalog_address() == "127.0.0.1:3"
    monkeypatch.setenv("POLYTOK_CATALOG_ADDRESS", "127.0.0.1:2")
    assert discovery.catalog_address() == "127.0.0.1:2"
    assert discovery.catalog_address("127.0.0.1:1") == "127.0.0.1:1"


def test_no_stack(folder: pathlib.Path) -> None:
    with pytest.raises(errors.Unavailable, match="`polytok up`") as caught:
        polytok.Client()
    assert str(folder) in caught.value.message
    assert (caught.value.reason, caught.value.retryable) == ("UNAVAILABLE", False)


def test_what_a_killed_stack_left_is_no_stack(folder: pathlib.Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    _write(folder, gone.pid)
    assert discovery.stack() is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"catalog_address": 3, "pid": 1}',
        b'{"catalog_address": "127.0.0.1:3", "pid": "x"}',
        b'{"catalog_address": "127.0.0.1:3", "pid": 99999999999999999999}',
    ],
)
def test_a_damaged_file_means_no_stack(folder: pathlib.Path, content: bytes) -> None:
    (folder / "stack.json").write_bytes(content)
    assert discovery.stack() is None


def test_queue_problems_are_reported() -> None:
    class Probe(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b"not ready: queue: It is full.\n")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Probe) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert discovery.queue_problem({"metrics_ports": {"away": 1, "catalog": server.server_port}}) == "It is full."
        thread.join()
    assert discovery.queue_problem({}) == ""


def test_unreachable_services() -> None:
    with (
        polytok.Client("127.0.0.1:1", patience=0) as client,
        pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:1") as caught,
    ):
        client.datasets.get("docs")
    assert (caught.value.reason, caught.value.retryable) == ("UNAVAILABLE", True)


def test_importing_polytok_imports_no_grpc() -> None:
    script = "import sys, polytok, polytok.errors; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
