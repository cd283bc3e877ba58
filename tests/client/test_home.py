"""Finding the catalog."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import polytok
from polytok import errors
from polytok.client import home


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("POLYTOK_HOME", str(tmp_path))
    monkeypatch.delenv("POLYTOK_CATALOG_ADDRESS", raising=False)
    return tmp_path


def _write(folder: pathlib.Path, pid: int) -> None:
    (folder / "stack.json").write_text(json.dumps({"catalog_address": "127.0.0.1:3", "pid": pid}))


def test_the_argument_comes_first(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(folder, os.getpid())
    assert home.catalog_address() == "127.0.0.1:3"
    monkeypatch.setenv("POLYTOK_CATALOG_ADDRESS", "127.0.0.1:2")
    assert home.catalog_address() == "127.0.0.1:2"
    assert home.catalog_address("127.0.0.1:1") == "127.0.0.1:1"


def test_no_stack(folder: pathlib.Path) -> None:
    with pytest.raises(errors.Unavailable, match="Start one with `polytok up`") as caught:
        polytok.Client()
    assert str(folder) in str(caught.value)


def test_what_a_killed_stack_left_is_no_stack(folder: pathlib.Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    _write(folder, gone.pid)
    assert home.stack() is None


def test_nobody_answers() -> None:
    with (
        polytok.Client("127.0.0.1:1", patience=0) as client,
        pytest.raises(errors.Unavailable, match="does not answer"),
    ):
        client.datasets.get("docs")


def test_importing_polytok_imports_no_grpc() -> None:
    script = "import sys, polytok, polytok.errors; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
