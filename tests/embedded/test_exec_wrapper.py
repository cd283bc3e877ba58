"""The exec wrapper: no orphans, and no root."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from services.embedded import exec_wrapper
from tests.support import processes, servers

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; run the tests as root too")

OWNER = 23457  # a user that no machine has
DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2

# A program that both `--version`, which the guard tries, and a real run can call.
PROGRAM = """#!/bin/sh
[ "$1" = --version ] && exit 0
exec cat /proc/self/status
"""


@pytest.fixture
def open_folder() -> Iterator[pathlib.Path]:
    """Yield a folder that everybody can reach, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="polytok-test-") as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        yield folder


def program_in(folder: pathlib.Path) -> tuple[str, str]:
    """Put the program, and a folder of the OWNER's, into `folder`; returns both."""
    program, owned = folder / "program", folder / "owned"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    owned.mkdir(mode=0o700)
    os.chown(owned, OWNER, OWNER)
    return str(program), str(owned)


def run(argv: list[str], *, owner: str | None = None, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = exec_wrapper.command(argv, on_parent_death=signal.SIGKILL, owner=owner)
    return subprocess.run([*prefix, *command], capture_output=True, text=True, check=False)


def status_of(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    assert done.returncode == 0, done.stderr
    lines = (line.split(":", 1) for line in done.stdout.splitlines())
    return {key: value.split() for key, value in lines}


def test_the_program_dies_with_its_parent() -> None:
    script = (
        "import signal, subprocess, sys, time\n"
        "from services.embedded import exec_wrapper\n"
        "child = subprocess.Popen(exec_wrapper.command(['/bin/sleep', '600'], on_parent_death=signal.SIGTERM))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    servers.await_condition(lambda: pathlib.Path(f"/proc/{child}/comm").read_text() == "sleep\n", "the program runs")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    servers.await_condition(lambda: not processes.is_alive(child), "the program has ended")


def test_guard_detects_dead_parent(tmp_path: pathlib.Path) -> None:
    command = exec_wrapper.command(["/usr/bin/touch", str(tmp_path / "ran")], on_parent_death=signal.SIGTERM)
    command[command.index(str(os.getpid()))] = "1"  # as if this process had been another
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "ran").exists()


def test_without_an_owner_it_stays_who_it_is() -> None:
    status = status_of(run(["/bin/cat", "/proc/self/status"]))
    assert status["Uid"][0] == str(os.geteuid())


@as_root
def test_root_drops_to_folder_owner(open_folder: pathlib.Path) -> None:
    program, owned = program_in(open_folder)
    status = status_of(run([program], owner=owned))
    assert status["Uid"] == status["Gid"] == [str(OWNER)] * 4
    assert status["Groups"] == []
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status[name][0], 16) == 0, name


@as_root
def test_root_becomes_nobody_for_a_folder_of_its_own(open_folder: pathlib.Path) -> None:
    program, owned = program_in(open_folder)
    os.chown(owned, 0, 0)
    pathlib.Path(owned).chmod(0o755)
    assert status_of(run([program], owner=owned))["Uid"] == [str(exec_wrapper.NOBODY)] * 4


@as_root
@pytest.mark.parametrize(
    ("prefix", "power"),
    [((), DAC_READ_SEARCH), (("setpriv", "--bounding-set", "-dac_read_search"), DAC_OVERRIDE)],
    ids=["all of root's powers", "those that containers usually give"],
)
def test_unreachable_folder_keeps_one_capability(
    open_folder: pathlib.Path, prefix: tuple[str, ...], power: int
) -> None:
    program, owned = program_in(open_folder)
    open_folder.chmod(0o700)
    status = status_of(run([program], owner=owned, prefix=prefix))
    assert status["Uid"] == [str(OWNER)] * 4
    assert int(status["CapEff"][0], 16) == int(status["CapAmb"][0], 16) == power
    assert open_folder.stat().st_mode & 0o777 == 0o700
    assert open_folder.stat().st_uid == 0


@as_root
def test_unreachable_program_is_explained(open_folder: pathlib.Path) -> None:
    program, owned = program_in(open_folder)
    open_folder.chmod(0o700)
    done = run([program], owner=owned, prefix=("setpriv", "--bounding-set", "-dac_read_search,-dac_override"))
    assert done.returncode == 1
    assert re.search(rf"{program} .*\b{OWNER}\b", done.stderr)
    assert "POLYTOK_HOME" in done.stderr
    assert done.stdout == ""


@as_root
def test_an_ordinary_user_drops_nothing(open_folder: pathlib.Path) -> None:
    program, owned = program_in(open_folder)
    command = exec_wrapper.command([program], on_parent_death=signal.SIGKILL, owner=owned)
    done = subprocess.run([*processes.as_user(12321), *command], capture_output=True, text=True, check=False)
    assert status_of(done)["Uid"] == ["12321"] * 4
