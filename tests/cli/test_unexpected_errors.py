"""What nobody foresaw ends in one line and an exit code, not in a traceback."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from polytok.cli import session
from tests.cli.conftest import Run

HUGE = "99999999999"
PROGRAM = pathlib.Path(sys.executable).with_name("polytok")


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("sample", ("tokenization", "verify", "docs/gpt2", "--sample", HUGE)),
        ("batch_size", ("extract", "docs", "-m", "gpt2", "-H", "hook", "--batch-size", HUGE)),
        ("excluded_token_ids", ("extract", "docs", "-m", "gpt2", "-H", "hook", "--exclude", HUGE)),
        ("max_sequences", ("extraction", "estimate", "docs", "-m", "gpt2", "-H", "hook", "--max-sequences", "9" * 30)),
        ("d_sae", ("train", "docs", "-m", "gpt2", "--hook", "hook", "--latents", "9" * 30)),
        ("seed", ("train", "docs", "-m", "gpt2", "--hook", "hook", "--latents", "8", "--seed", "9" * 30)),
        ("after_step", ("training", "metrics", "first", "--after-step", "9" * 30)),
    ],
)
def test_numbers_that_are_too_large(
    here: Run, monkeypatch: pytest.MonkeyPatch, field: str, arguments: tuple[str, ...]
) -> None:
    for service in ("TOKENIZER", "EXTRACTOR", "TRAINER"):
        monkeypatch.setenv(f"POLYTOK_{service}_ADDRESS", "127.0.0.1:1")
    reported = here(*arguments, "--catalog", "127.0.0.1:1")
    assert reported.code == 2
    assert reported.err.startswith(f"Error: {field} ")
    assert len(reported.err.splitlines()) == 1
    failure = here(*arguments, "--catalog", "127.0.0.1:1", "--json").error()
    assert failure["kind"] == "InvalidArgument"
    assert failure["violations"][0]["field"] == field


def test_an_exception_of_pythons_own(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(session, "start", fail)
    monkeypatch.delenv("POLYTOK_TRACEBACK", raising=False)
    reported = here("status")
    assert (reported.code, reported.out) == (1, "")
    (line,) = reported.err.splitlines()
    assert [named for named in ("ZeroDivisionError: by zero", "POLYTOK_TRACEBACK=1") if named not in line] == []
    failure = here("status", "--json").error()
    assert (failure["kind"], failure["retryable"]) == ("Internal", False)
    monkeypatch.setenv("POLYTOK_TRACEBACK", "1")
    assert "Traceback" in here("status").err


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
@pytest.mark.parametrize("arguments", [["--version"], ["status", "--help"]])
def test_a_full_disk(arguments: list[str]) -> None:
    with pathlib.Path("/dev/full").open("wb") as full:
        done = subprocess.run([PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "No space left on device" in line


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_full_disk_for_scripts() -> None:
    with pathlib.Path("/dev/full").open("wb") as full:
        command = [PROGRAM, "status", "--help", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["kind"] == "ResourceExhausted"


def test_a_reader_that_went_away() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([PROGRAM, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
