"""Show the help of every command, in a process of its own that no terminal, user or setting reaches."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tests.wording import source

_ENVIRONMENT = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "PYTHONUTF8": "1", "HOME": "/nonexistent"}
_KEPT = ("PATH", "LD_LIBRARY_PATH")
"""What starting Python may take."""


def shown() -> str:
    """Return the help of every command, 100 columns wide and without colours."""
    environment = {**{name: os.environ[name] for name in _KEPT if name in os.environ}, **_ENVIRONMENT}
    program = [sys.executable, "-m", __name__]
    done = subprocess.run(program, cwd=source.ROOT, env=environment, capture_output=True, check=True)
    lines = done.stdout.decode("utf-8").splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines)


def every_command(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command and group of commands."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from every_command(command, (*path, name))


def _main() -> None:
    import typer

    from polytok.cli import main

    for words in every_command(typer.main.get_command(main.app)):
        print("##", *("polytok", *words), flush=True)
        main.run([*words, "--help"])


if __name__ == "__main__":
    _main()
