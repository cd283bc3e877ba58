"""`python -m services.embedded`, where it does not get as far as running."""

import errno
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from services.embedded import home, supervisor


def up(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.embedded", "up", *arguments]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("workers", ["0", "-1", "65", "many"])
def test_workers_must_be_a_sensible_number(workers: str, tmp_path: pathlib.Path) -> None:
    done = up("--workers", workers, "--home", str(tmp_path / "home"))
    assert done.returncode == 2
    assert "--workers" in done.stderr
    assert not (tmp_path / "home").exists()


def test_home_that_cannot_be_created(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    done = up("--home", str(tmp_path / "file" / "home"))
    assert done.returncode == 1
    assert f"{tmp_path}/file/home" in done.stderr
    assert os.strerror(errno.ENOTDIR) in done.stderr
    assert "Traceback" not in done.stderr


def test_lost_passwords(tmp_path: pathlib.Path) -> None:
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    done = up(POLYTOK_HOME=str(tmp_path))
    assert done.returncode == 1
    assert re.search(rf"{tmp_path}/secrets\.json\b.*\bmissing\b", done.stderr)
    assert "secrets.json from a backup" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b'{"postgres": "a', "damaged"),
        (b"\xff\x00garbage", "damaged"),
        (b"[]", "damaged"),
        (b'{"postgres": "a", "nats": 1}', "damaged"),
    ],
)
def test_damaged_passwords_are_one_line(content: bytes, what: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    (tmp_path / "secrets.json").write_bytes(content)
    done = up(POLYTOK_HOME=str(tmp_path))
    assert done.returncode == 1
    assert re.search(rf"{tmp_path}/secrets\.json\b.*\b{what}\b", done.stderr)
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "secrets.json").read_bytes() == content
    # Without a database nothing needs them.
    (tmp_path / "postgres" / "data").rmdir()
    assert set(home.Home(tmp_path).passwords()) == {"postgres", "nats"}


def test_a_full_disk_is_one_line(tmp_path: pathlib.Path) -> None:
    limited = "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); sys.argv = ['up', 'up']; "
    limited += "runpy.run_module('services.embedded', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", limited],
        env={**os.environ, "POLYTOK_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert os.strerror(errno.EFBIG) in done.stderr
    assert f"{tmp_path}/home" in done.stderr
    assert "Traceback" not in done.stderr


def test_passwords_are_made_once_and_kept_private(tmp_path: pathlib.Path) -> None:
    made = home.Home(tmp_path)
    first = made.passwords()
    assert set(first) == {"postgres", "nats"}
    assert len(set(first.values())) == 2
    assert made.passwords() == first
    assert made.secrets.stat().st_mode & 0o777 == 0o600
    made.publish({"catalog_address": "127.0.0.1:1"})
    assert made.stack.stat().st_mode & 0o777 == 0o600
    assert json.loads(made.stack.read_text()) == {"catalog_address": "127.0.0.1:1"}


def test_home_defaults_to_user_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYTOK_HOME", "/somewhere/else")
    assert home.default() == pathlib.Path("/somewhere/else")
    monkeypatch.delenv("POLYTOK_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data/of/mine")
    assert home.default() == pathlib.Path("/data/of/mine/polytok")


def test_there_are_as_many_workers_as_cores_up_to_four() -> None:
    assert supervisor.default_workers() == min(4, len(os.sched_getaffinity(0)))


def test_the_supervisor_stays_small() -> None:
    script = "import sys, services.embedded.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"grpc", "google.protobuf", "sqlalchemy", "asyncpg", "nats", "pyarrow", "pydantic", "structlog"}
    assert heavy.isdisjoint(loaded)
