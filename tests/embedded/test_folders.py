"""Private folders and files of the servers."""

import errno
import os
import pathlib
import re
import resource
import signal
import stat
import subprocess
import sys

import pytest

from services.embedded import exec_wrapper, folders
from tests.support import processes


def test_a_new_folder_is_its_owners_alone(tmp_path: pathlib.Path) -> None:
    made = folders.make_private(tmp_path / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert made.stat().st_uid == (exec_wrapper.NOBODY if os.geteuid() == 0 else os.geteuid())


def test_file_is_created_private_with_folder_owner(tmp_path: pathlib.Path) -> None:
    folder = folders.make_private(tmp_path / "private")
    folders.write_private(folder / "secret", "one")
    folders.write_private(folder / "secret", "two")
    found = folder / "secret"
    assert found.read_text() == "two"
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert found.stat().st_uid == folder.stat().st_uid
    assert [path.name for path in folder.iterdir()] == ["secret"]


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: pathlib.Path) -> None:
    folders.write_private(tmp_path / "secret", "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            folders.write_private(tmp_path / "secret", "new" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"secret": "old"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; run the tests as root too")
def test_a_folder_of_another_user_is_refused(tmp_path: pathlib.Path) -> None:
    folder = folders.make_private(tmp_path / "private")
    script = (
        f"import pathlib; from services.embedded import folders; folders.make_private(pathlib.Path({str(folder)!r}))"
    )
    done = subprocess.run(
        [*processes.as_user(12321), sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.search(rf"{folder} .*\b{exec_wrapper.NOBODY}\b.*\b12321\b", done.stderr)
