"""Runs `polytok` as a process, and reads what a user reads."""

import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

TIMEOUT_SECONDS = 180
_LONGEST = 700
"""More than that nobody reads."""


class Bystander(NamedTuple):
    """A dataset, a model and their tokenization, all READY."""

    dataset: str
    model: str
    tokenized_path: str


@dataclasses.dataclass(frozen=True)
class Command:
    """The command line of one stack."""

    environment: Mapping[str, str]

    def __call__(self, *arguments: str | pathlib.Path) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        program = pathlib.Path(sys.executable).with_name("polytok")
        return subprocess.run(
            [program, *arguments],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    def done(self, *arguments: str | pathlib.Path) -> str:
        """Return what a command prints that goes well."""
        result = self(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def refused(self, *arguments: str | pathlib.Path, code: int) -> str:
        """Return the message of a command that ends with `code`: one complete sentence or more, and nothing else."""
        result = self(*arguments)
        assert result.returncode == code, result.stdout + result.stderr
        message = result.stderr.strip()
        assert message.startswith("Error: "), message
        assert "\n" not in message
        assert message.endswith((".", "?", "`")), message
        assert len(message) < _LONGEST
        assert not {"Traceback", "None", "grpc", "asyncpg"} & set(message.replace(".", " ").split()), message
        return message.removeprefix("Error: ")
