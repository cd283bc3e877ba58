"""The command line as users run it: as a process, and within the test for speed."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import polytok
from polytok.cli import main
from tests.client import samples

if TYPE_CHECKING:
    from tests.support.stacks import Stack


@dataclasses.dataclass
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Stdout as the one JSON document that it must be."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def error(self) -> Any:
        """Stderr as an error document."""
        assert self.out == ""
        return json.loads(self.err)["error"]


Run = Callable[..., Result]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process, with no stack to find."""
    monkeypatch.setenv("POLYTOK_HOME", "/nonexistent")
    monkeypatch.delenv("POLYTOK_CATALOG_ADDRESS", raising=False)

    def run(*arguments: str | pathlib.Path) -> Result:
        capsys.readouterr()
        code = main.run([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def polytok_(here: Run, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process, where the session's stack is found by its home."""
    monkeypatch.setenv("POLYTOK_HOME", str(stack.home))
    return here


@pytest.fixture
def process(stack: Stack) -> Run:
    """Run a command line as a process."""

    def run(*arguments: str | pathlib.Path) -> Result:
        program = pathlib.Path(sys.executable).with_name("polytok")
        done = subprocess.run(
            [program, *arguments], env=stack.env, capture_output=True, text=True, timeout=180, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def documents(tmp_path: pathlib.Path) -> pathlib.Path:
    return samples.write_jsonl(tmp_path / "docs.jsonl")


@pytest.fixture(scope="session")
def ready(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the ids of a dataset and a model that are READY; tests leave them be."""
    dataset, model = samples.unique("docs"), samples.unique("model")
    folder = tmp_path_factory.mktemp("material")
    with polytok.Client(stack.catalog_address) as client:
        client.datasets.create(dataset, files=samples.write_jsonl(folder / "docs.jsonl"))
        client.models.create(model, str(samples.write_model(folder / "model")))
        client.datasets.wait(dataset, timeout=120)
        client.models.wait(model, timeout=120)
    return dataset, model
