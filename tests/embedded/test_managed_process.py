"""Keeping one program running."""

import asyncio
import contextlib
import errno
import os
import pathlib
import re
import signal
from collections.abc import AsyncIterator
from unittest.mock import Mock

import pytest

from services.embedded import managed_process
from services.embedded.logs import Log
from services.embedded.program import Service
from tests.support import processes, servers

PROGRAM = """
import http.server, json, os, pathlib, signal, sys, time
mode = pathlib.Path(os.environ["MODE"]).read_text()
print("mode", mode, flush=True)
if mode == "failing":
    sys.exit("meant to fail")
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

class Probe(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if mode == "unready" else 200)
        self.end_headers()

server = http.server.HTTPServer(("127.0.0.1", 0), Probe)
announcement = pathlib.Path(os.environ["POLYTOK_READY_FILE"])
announcement.with_suffix(".new").write_text(json.dumps({"address": "127.0.0.1:1", "metrics": server.server_port}))
if mode != "silent":
    announcement.with_suffix(".new").replace(announcement)
server.serve_forever()
"""


class Kept:
    """A keeper over the program above, and what it reported."""

    def __init__(self, folder: pathlib.Path) -> None:
        (folder / "probe.py").write_text(PROGRAM)
        self.mode = folder / "mode"
        self.mode.write_text("obeying")
        self.reports: list[str] = []
        self.changes = 0
        environment = {**os.environ, "PYTHONPATH": str(folder), "MODE": str(self.mode)}
        self.service = Service("probe", ("probe",), environment, announcements=folder)
        self.inherited = os.open(folder / "lock", os.O_CREAT)
        self.keeper = managed_process.ManagedProcess(
            self.service,
            Log(folder / "probe.log"),
            inherited=self.inherited,
            report=self.reports.append,
            changed=self.count,
        )

    def count(self) -> None:
        self.changes += 1


@pytest.fixture
async def kept(tmp_path: pathlib.Path) -> AsyncIterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.keeper.force()
    await made.keeper.stop()
    os.close(made.inherited)


async def reached(kept: Kept, *words: str) -> str:
    """Wait for a report that has all the words; return the first."""

    def found() -> list[str]:
        return [line for line in kept.reports if all(word in line for word in words)]

    await asyncio.to_thread(servers.await_condition, lambda: bool(found()), f"reported: {words}")
    return found()[0]


async def test_start_waits_for_readiness_and_stop_for_exit(kept: Kept) -> None:
    await kept.keeper.start()
    assert set(kept.service.facts()) == {"address", "metrics"}
    assert kept.service.describe() == "127.0.0.1:1"
    pid = kept.keeper.pid
    assert processes.is_alive(pid)
    assert os.getsid(pid) == pid  # Ctrl-C on our terminal does not reach it
    await kept.keeper.stop()
    assert not processes.is_alive(pid)
    assert kept.keeper.pid == 0
    assert kept.reports == []


async def test_a_killed_program_is_started_again(kept: Kept) -> None:
    await kept.keeper.start()
    keeping = asyncio.create_task(kept.keeper.keep())
    first = kept.keeper.pid
    os.kill(first, signal.SIGKILL)
    await reached(kept, "probe", "ready")
    ended, _ready = kept.reports
    assert re.search(r"^probe .*\bSIGKILL\b.* 0\.5 s", ended)
    assert kept.changes == 1
    assert kept.keeper.pid not in (0, first)
    keeping.cancel()


async def test_failed_restart_is_retried_with_backoff(kept: Kept) -> None:
    await kept.keeper.start()
    keeping = asyncio.create_task(kept.keeper.keep())
    kept.mode.write_text("failing")
    os.kill(kept.keeper.pid, signal.SIGTERM)
    await reached(kept, "probe", "code 1", " 1 s")
    kept.mode.write_text("obeying")
    await reached(kept, "probe", "ready")
    assert any("meant to fail" in line for line in kept.reports)
    keeping.cancel()


async def test_program_restarts_once_disk_has_room(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    await kept.keeper.start()
    keeping = asyncio.create_task(kept.keeper.keep())
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device", str(kept.keeper.log.path))
        patch.setattr(kept.service, "prepare", Mock(side_effect=full))
        os.kill(kept.keeper.pid, signal.SIGKILL)
        line = await reached(kept, "probe", "disk")
    await reached(kept, "probe", "ready")
    assert "\n" not in line
    keeping.cancel()


async def test_a_log_that_cannot_be_written_stops_nothing(kept: Kept) -> None:
    kept.keeper.log.path.mkdir()
    await kept.keeper.start()
    assert processes.is_alive(kept.keeper.pid)
    (line,) = kept.reports
    assert str(kept.keeper.log.path) in line


async def test_invalid_announcement_is_not_ready(kept: Kept) -> None:
    await kept.keeper.start()
    announcement = pathlib.Path(kept.service.environment["POLYTOK_READY_FILE"])
    for content in (b"", b"{", b"[1]", b"\xff", b'{"metrics": "x"}'):
        announcement.write_bytes(content)  # noqa: ASYNC240
        assert not kept.service.is_ready()


async def test_failed_start_includes_log_tail(kept: Kept) -> None:
    kept.mode.write_text("failing")
    with pytest.raises(managed_process.StartFailed, match=r"^probe .*\bcode 1\b") as caught:
        await kept.keeper.start()
    assert caught.value.message.endswith("mode failing\nmeant to fail")
    assert str(kept.keeper.log.path) in caught.value.message


@pytest.mark.parametrize("mode", ["silent", "unready"])
async def test_a_program_that_is_never_ready_is_ended(kept: Kept, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed_process, "START_SECONDS", 0.5)
    kept.mode.write_text(mode)
    with pytest.raises(managed_process.StartFailed, match=r"^probe .*\b0\.5 s\b"):
        await kept.keeper.start()
    assert kept.keeper.pid == 0


async def test_a_program_that_does_not_stop_is_ended(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed_process, "STOP_SECONDS", 0.2)
    kept.mode.write_text("stubborn")
    await kept.keeper.start()
    await kept.keeper.stop()
    assert kept.keeper.pid == 0
    (line,) = kept.reports
    assert re.search(r"^probe .*\b0\.2 s\b", line)


async def test_cancelled_start_can_be_stopped(kept: Kept) -> None:
    kept.mode.write_text("silent")
    starting = asyncio.create_task(kept.keeper.start())
    await asyncio.to_thread(servers.await_condition, lambda: kept.keeper.log.tail() == "mode silent", "it runs")
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    pid = kept.keeper.pid
    await kept.keeper.stop()
    assert not processes.is_alive(pid)
