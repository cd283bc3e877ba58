"""The Postgres server over one folder: what it heals, and what it refuses."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import asyncpg
import pytest

from polytok import errors
from services.embedded import ports, supervisor
from services.embedded.home import Home
from services.embedded.postgres import Postgres
from tests.support import processes, servers


def server_in(folder: pathlib.Path, *, durable: bool = False) -> Postgres:
    server = Postgres(folder, port=ports.free_port(), password=servers.PASSWORD, durable=durable)
    server.prepare()
    return server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a folder with a cluster in it, never started."""
    folder = tmp_path_factory.mktemp("made") / "postgres"
    server_in(folder)
    return folder


@pytest.fixture
def folder(made: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a copy of `made` that a test may use and break."""
    with tempfile.TemporaryDirectory(prefix="polytok-test-") as name:
        subprocess.run(["cp", "-a", made, name], check=True)
        yield pathlib.Path(name, "postgres")


async def marks(server: Postgres) -> list[int]:
    connection = await asyncpg.connect(server.url)
    await connection.execute("CREATE TABLE IF NOT EXISTS marks (id serial PRIMARY KEY)")
    await connection.execute("INSERT INTO marks DEFAULT VALUES")
    found = [row["id"] for row in await connection.fetch("SELECT id FROM marks ORDER BY id")]
    await connection.close()
    return found


async def test_data_survives_kill_and_stale_lock_file(folder: pathlib.Path) -> None:
    first = server_in(folder, durable=True)
    with servers.started(first) as process:
        assert await marks(first) == [1]
        process.kill()
        process.wait()
    pid_file = folder / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    # After a restart of a container another process often has the old id; this one lives for sure.
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    second = server_in(folder)
    with servers.started(second):
        after = await marks(second)
        assert after[0] == 1
        assert len(after) == 2  # the number of the second is any: a crash skips some of a sequence


@pytest.mark.parametrize("content", [None, b"", b"\0" * 80, b'{"postgres": "abc'])
async def test_lost_passwords_are_replaced_and_data_is_kept(folder: pathlib.Path, content: bytes | None) -> None:
    first = server_in(folder, durable=True)
    with servers.started(first) as process:
        assert await marks(first) == [1]
        # Its log is still to be replayed.
        process.kill()
        process.wait()
    home, reported = Home(folder.parent), list[str]()
    if content is not None:
        home.secrets.write_bytes(content)
    passwords = supervisor.passwords_of(home, reported.append)
    assert len(reported) == 1
    assert str(home.secrets) in reported[0]
    assert json.loads(home.secrets.read_text()) == passwords
    assert home.secrets.stat().st_mode & 0o777 == 0o600
    second = Postgres(folder, port=ports.free_port(), password=passwords["postgres"])
    second.prepare()
    with servers.started(second):
        assert len(await marks(second)) == 2
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(second.url.replace(passwords["postgres"], servers.PASSWORD))
    assert supervisor.passwords_of(home, reported.append) == passwords
    assert len(reported) == 1


def test_refused_passwords_are_not_written(folder: pathlib.Path) -> None:
    home = Home(folder.parent)
    home.secrets.write_bytes(b"")
    (folder / "data" / "global" / "pg_control").unlink()
    with pytest.raises(errors.FailedPrecondition) as caught:
        supervisor.passwords_of(home, print)
    message = caught.value.message
    assert f"{home.secrets} is empty" in message
    assert "pg_control" in message
    assert "Restore secrets.json" in message
    assert home.secrets.read_bytes() == b""


def test_a_database_without_its_user_is_said(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Alone, Postgres ends with status 0 all the same.
    monkeypatch.setattr("services.embedded.postgres.USER", "nobody_here")
    with pytest.raises(errors.FailedPrecondition, match='refused: role "nobody_here" does not exist'):
        Postgres(folder, port=0, password="a").replace_password()


async def test_orphaned_server_is_stopped_first(folder: pathlib.Path) -> None:
    first = server_in(folder)
    with servers.started(first) as process:
        await marks(first)
        second = server_in(folder)
        assert process.wait(60) == 0
    with servers.started(second):
        assert len(await marks(second)) == 2


def test_it_dies_in_good_order_with_its_parent(folder: pathlib.Path) -> None:
    script = (
        "import pathlib, subprocess, sys, time\n"
        "from services.embedded.postgres import Postgres\n"
        "server = Postgres(pathlib.Path(sys.argv[1]), port=int(sys.argv[2]), password='x')\n"
        "print(subprocess.Popen(server.command(), env=server.environment).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    port = ports.free_port()
    parent = subprocess.Popen(
        [sys.executable, "-c", script, folder, str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stderr is not None
    child = int(parent.stdout.readline())
    server = Postgres(folder, port=port, password="x")
    servers.await_condition(server.is_ready, "Postgres is ready")
    parent.kill()
    _, log = parent.communicate(timeout=60)
    # A process closes its files a moment before the kernel calls it ended.
    servers.await_condition(lambda: not processes.is_alive(child), "Postgres has ended")
    servers.await_condition(lambda: processes.using(folder) == [], "nothing of Postgres is left")
    assert "received fast shutdown request" in log
    assert "database system is shut down" in log
    assert not (folder / "data" / "postmaster.pid").exists()


def test_an_interrupted_creation_starts_over(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "postgres"
    first = Postgres(folder, port=1, password="x", durable=False)
    (folder / "data.new").mkdir(parents=True)
    (folder / "data.new" / "half").touch()
    first.prepare()
    assert sorted(path.name for path in folder.iterdir()) == ["data"]


def test_a_cluster_of_another_version_is_refused(folder: pathlib.Path) -> None:
    (folder / "data" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(errors.FailedPrecondition, match=r"\b9\.6\b.*\b16\."):
        server_in(folder)


def test_failed_start_includes_server_output(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "postgres"
    server_in(folder)
    shutil.rmtree(folder / "data" / "global")
    broken = Postgres(folder, port=ports.free_port(), password="x", durable=False)
    broken.prepare()
    with pytest.raises(OSError, match="could not open file"), servers.started(broken):
        pass


def test_it_can_be_ended_at_once(folder: pathlib.Path) -> None:
    server = server_in(folder)
    with servers.started(server) as process:
        process.send_signal(server.force_signal)
        process.wait(60)
    assert "immediate shutdown" in (folder / "server.log").read_text()
