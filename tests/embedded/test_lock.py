"""One stack for one home."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from services.embedded import lock
from tests.support import processes, servers

HOLDER = """
import pathlib, subprocess, sys, time
from services.embedded import lock
descriptor = lock.acquire(pathlib.Path(sys.argv[1]), waiting=lambda: None)
child = subprocess.Popen(["/bin/sleep", "600"], pass_fds=(descriptor,))
print(child.pid, flush=True)
time.sleep(600)
"""


def never() -> None:
    raise AssertionError("it waited")


def hold(path: pathlib.Path) -> tuple[subprocess.Popen[str], int]:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    holder.stdout.close()
    return holder, child


def test_lock_names_its_holder(tmp_path: pathlib.Path) -> None:
    holder, child = hold(tmp_path / "lock")
    try:
        with pytest.raises(lock.AlreadyRunning, match=rf"{tmp_path} .*\b{holder.pid}\b"):
            lock.acquire(tmp_path / "lock", waiting=never)
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.wait()


def test_lock_is_held_while_children_live(tmp_path: pathlib.Path) -> None:
    holder, child = hold(tmp_path / "lock")
    holder.kill()
    holder.wait()
    reported: list[bool] = []

    def waiting() -> None:
        reported.append(processes.is_alive(child))
        os.kill(child, signal.SIGKILL)

    os.close(lock.acquire(tmp_path / "lock", waiting=waiting))
    assert reported == [True]


def test_reused_process_id_is_not_holder(tmp_path: pathlib.Path) -> None:
    holder, child = hold(tmp_path / "lock")
    holder.kill()
    holder.wait()
    # This very process lives, but it is not the one that wrote the file.
    (tmp_path / "lock").write_text(f"{os.getpid()} 1")
    reported: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "_WAIT_SECONDS", 0.2)
        with pytest.raises(lock.AlreadyRunning, match="killed"):
            lock.acquire(tmp_path / "lock", waiting=lambda: reported.append("waiting"))
    assert reported == ["waiting"]
    os.kill(child, signal.SIGKILL)
    servers.await_condition(lambda: can_acquire(tmp_path / "lock"), "the lock is free")


def can_acquire(path: pathlib.Path) -> bool:
    os.close(lock.acquire(path, waiting=lambda: None))
    return True
