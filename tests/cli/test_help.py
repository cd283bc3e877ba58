"""What the command line says before it talks to anything."""

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from polytok.cli import main
from tests.cli.conftest import Run


def test_help_teaches() -> None:
    program = pathlib.Path(sys.executable).with_name("polytok")
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    for word in ("polytok up", "dataset add", "tokenize", "Exit codes"):
        assert word in done.stdout


def test_help_is_fast_as_it_imports_no_client() -> None:
    script = "import sys; from polytok.cli import main; sys.exit(bool({'grpc', 'datasets'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    "command",
    [
        ("up",),
        ("demo",),
        ("status",),
        ("tokenize",),
        ("encode",),
        *(("dataset", name) for name in ("add", "list", "show", "watch", "cancel", "retry", "delete")),
        *(("model", name) for name in ("add", "list", "show", "watch", "retry", "delete")),
        ("train",),
        *(("training", name) for name in ("list", "show", "watch", "pause", "resume", "cancel", "retry", "delete")),
        *(("training", name) for name in ("path", "metrics", "checkpoints", "plot")),
        *(("tokenization", name) for name in ("list", "show", "watch", "cancel", "retry", "delete", "path", "verify")),
    ],
    ids=" ".join,
)
def test_every_command_explains_itself(here: Run, command: tuple[str, ...]) -> None:
    result = here(*command, "--help")
    assert result.code == 0
    assert f"Usage: polytok {' '.join(command)}" in result.out
    assert "--json" in result.out or command == ("up",)


def every_command(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command and group of commands."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from every_command(command, (*path, name))


def test_option_names_are_whole_at_80_columns(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    root = typer.main.get_command(main.app)
    found = list(every_command(root))
    assert ("training", "plot") in found
    for command in found:
        shown = here(*command, "--help").out
        assert "…" not in shown, command
        assert all(len(line) <= 80 for line in shown.splitlines()), command
    shown = here("tokenize", "--help").out
    for option in ("--begin-of-sequence ", "--no-generation-prompt ", "none|bos|eos", "max_length|longest"):
        assert option in shown


def test_usage_names_arguments_as_they_are_listed(here: Run) -> None:
    assert "Usage: polytok dataset add [OPTIONS] NAME [FILE]...\n" in re.sub(
        " +\n", "\n", here("dataset", "add", "-h").out
    )
    shown = here("tokenization", "show", "--help").out
    assert "Usage: polytok tokenization show [OPTIONS] DATASET [MODEL]" in shown


def test_help_shows_ranges_defaults_and_variables(here: Run) -> None:
    shown = " ".join(here("up", "--help").out.replace("│", " ").split())
    assert "[1<=x<=64]" in shown
    assert "[env var: POLYTOK_HOME]" in shown
    assert "[required]" in here("dataset", "show", "--help").out


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (("dataset", "show"), "'DATASET'"),
        (("dataset", "sow", "docs"), "'sow'"),
        (("tokenize", "docs"), "'--model'"),
        (("tokenize", "docs", "-m", "gpt2", "--max-length", "many"), "--max-length"),
        (("dataset", "add", "docs", "a.jsonl", "--metadata", "team"), "KEY=VALUE"),
    ],
)
def test_wrong_usage(here: Run, arguments: tuple[str, ...], reported: str) -> None:
    result = here(*arguments, "--catalog", "127.0.0.1:1")
    assert result.code == 2
    assert reported in result.err
    assert result.out == ""
    assert reported in here(*arguments, "--catalog", "127.0.0.1:1", "--json").error()["message"]


def test_no_stack(here: Run) -> None:
    result = here("status")
    assert result.code == 6
    assert "polytok up" in result.err
    failure = here("status", "--json").error()
    assert failure["kind"] == "Unavailable"
    assert failure["retryable"] is False


def test_a_catalog_that_does_not_answer(here: Run) -> None:
    result = here("dataset", "list", "--catalog", "127.0.0.1:1")
    assert result.code == 6
    assert "127.0.0.1:1" in result.err
    assert "`polytok up`" in result.err
    assert "failed to connect" not in result.err
    failure = here("dataset", "list", "--catalog", "127.0.0.1:1", "--json").error()
    assert (failure["kind"], failure["reason"], failure["retryable"]) == ("Unavailable", "UNAVAILABLE", True)


def test_version(here: Run) -> None:
    assert here("--version").out.startswith("polytok 0.")


def test_completion_without_a_stack(here: Run) -> None:
    del here  # its environment is what counts
    program = pathlib.Path(sys.executable).with_name("polytok")
    # As the shell's own hook asks; --show-completion would look at the parent process to find out which shell it is.
    asked = {**os.environ, "_POLYTOK_COMPLETE": "source_bash"}
    script = subprocess.run([program], capture_output=True, text=True, check=False, env=asked).stdout
    assert "_POLYTOK_COMPLETE" in script
    asked = {**os.environ, "_POLYTOK_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    asked["COMP_WORDS"] = "polytok dataset show "
    done = subprocess.run([program], capture_output=True, text=True, check=False, env=asked)
    assert (done.stdout.strip(), done.stderr) == ("", "")
