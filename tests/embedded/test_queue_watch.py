"""NATS is restarted on an empty store when the services say for long enough that the queue does not work."""

import asyncio
import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

import pytest

from services.embedded import home, nats, ports, queue_watch
from services.embedded.logs import Log
from services.embedded.managed_process import ManagedProcess
from services.embedded.program import Program, Service
from services.embedded.queue_watch import QueueWatch
from tests.support import servers

OWNER = """
import http.server, json, os, pathlib
class Probe(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        broken = pathlib.Path(os.environ["BROKEN"]).exists() and "exclude" not in self.path
        self.send_response(503 if broken else 200)
        self.end_headers()
        self.wfile.write(b"not ready: queue: It hides messages." if broken else b"ready")
server = http.server.HTTPServer(("127.0.0.1", 0), Probe)
announcement = pathlib.Path(os.environ["POLYTOK_READY_FILE"])
announcement.with_suffix(".new").write_text(json.dumps({"metrics": server.server_port}))
announcement.with_suffix(".new").replace(announcement)
server.serve_forever()
"""


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    # Not under pytest's own folder: NATS gives its rights up, and cannot pass through that.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="polytok-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


async def test_nats_is_restarted_on_an_empty_store(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_watch, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(queue_watch, "PATIENCE_SECONDS", 0.2)
    (folder / "owner.py").write_text(OWNER)
    (folder / "broken").touch()
    environment = {**os.environ, "PYTHONPATH": str(folder), "BROKEN": str(folder / "broken")}
    server = nats.Nats(folder / "nats", port=ports.free_port(), password=servers.PASSWORD)
    programs: list[Program] = [server, Service("catalog", ("owner",), environment, announcements=folder)]
    reports: list[str] = []
    inherited = os.open(folder / "lock", os.O_CREAT)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(os.close, inherited)
        keepers = []
        for program in programs:
            log = Log(folder / f"{program.name}.log")
            kept = ManagedProcess(program, log, inherited=inherited, report=reports.append, changed=lambda: None)
            await kept.start()
            stack.push_async_callback(kept.stop)
            keepers.append(kept)
        before = keepers[0].pid
        (server.store / "kept").touch()
        watch = QueueWatch(home.Home(folder), keepers, reports.append)
        running = [asyncio.create_task(each) for each in (*(kept.keep() for kept in keepers), watch.run())]
        await wait(lambda: any(line.startswith("nats ") and "ready" in line for line in reports))
        (folder / "broken").unlink()
        await wait(lambda: "works" in reports[-1])
        for task in running:
            task.cancel()
        assert "It hides messages." in reports
        assert keepers[0].pid not in (0, before)
        assert not (server.store / "kept").exists()
        assert [path.name for path in server.folder.glob("jetstream.aside-*/kept")] == ["kept"]


async def wait(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(servers.await_condition, condition, "the queue was looked at")


async def test_stores_that_are_set_aside_are_few(folder: pathlib.Path) -> None:
    server = nats.Nats(folder / "nats", port=ports.free_port(), password=servers.PASSWORD)
    assert server.recover() == ""
    for _ in range(5):
        server.prepare()
        assert f"{server.folder}/jetstream.aside-" in server.recover()
    assert len(list(server.folder.glob("jetstream.aside-*"))) == 3
