"""The embedded stack: Postgres, NATS, the services and their workers, each its own process on a free port.

Two sequences start in parallel: Postgres, migrations, owners of records; and NATS, workers, which need an owner only
once there is a task. Shutdown goes from workers through owners and NATS to Postgres, so that each process still
reaches what it needs to end gracefully. This process does none of their work, and does not import gRPC.
"""

import asyncio
import contextlib
import os
import pathlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from polytok import errors
from services.embedded import exec_wrapper, folders, lock, managed_process, nats, ports, postgres, services
from services.embedded.home import Home
from services.embedded.logs import Log
from services.embedded.program import Program, Service
from services.embedded.queue_watch import QueueWatch

_PORT_ATTEMPTS = 3
_TIDY_SECONDS = 10.0
_HOST = "127.0.0.1"


def _inherited() -> dict[str, str]:
    """Return the environment that services inherit: ours, without variables meant for another Postgres server."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment.pop("POLYTOK_WORKER_NAME", None)  # must differ between workers
    environment.setdefault("POLYTOK_LOG_FORMAT", "console")  # people read the logs of one machine
    return environment


def _listening(address: str) -> dict[str, str]:
    host, _, port = address.rpartition(":")
    return {"POLYTOK_GRPC_HOST": host, "POLYTOK_GRPC_PORT": port}


def default_workers() -> int:
    """Return one tokenizer worker for each core, at most four."""
    return max(1, min(4, len(os.sched_getaffinity(0))))


def passwords_of(home: Home, report: Callable[[str], None]) -> dict[str, str]:
    """Return the servers' passwords. Lost ones are replaced, and all data is kept. Needs the lock of the home."""

    def replace(trouble: str, made: Mapping[str, str]) -> None:
        # No process uses the lost ones: everything that an earlier stack started had ended before we got the lock.
        postgres.Postgres(home.postgres, port=0, password=made["postgres"]).replace_password()
        report(f"{home.secrets} {trouble}: the servers have new passwords now, and all data is kept")

    return home.passwords(replace)


class Supervisor:
    """Runs one stack on one home. Every process inherits `held`, the descriptor of the home's lock."""

    def __init__(self, home: Home, *, held: int, workers: int, report: Callable[[str], None]) -> None:
        self._home = home
        self._workers = workers
        self._report = report
        self._stop = asyncio.Event()
        self._forced = False
        self._keepers: list[managed_process.ManagedProcess] = []
        self._held = held
        self._began = time.monotonic()
        self._facts: dict[str, Any] = {}
        self._untold = ""
        self._addresses: dict[str, str] = {}

    async def run(self) -> None:
        """Run the stack until a signal stops it."""
        self._home.withdraw()
        self._handle_signals()
        asked = asyncio.create_task(self._stop.wait())
        up = asyncio.create_task(self._up())
        try:
            await asyncio.wait({asked, up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (asked, up):
                task.cancel()
            await asyncio.wait({asked, up})
            await self._down()
        if not up.cancelled():
            up.result()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays in effect
                loop.add_signal_handler(number, self._asked)

    def _asked(self) -> None:
        if not self._stop.is_set():
            self._report("stopping; press Ctrl-C again to force it")
            self._stop.set()
            return
        self._forced = True
        for each in self._keepers:
            each.force()

    async def _up(self) -> None:
        passwords = await asyncio.to_thread(passwords_of, self._home, self._report)
        database = postgres.Postgres(self._home.postgres, port=ports.free_port(), password=passwords["postgres"])
        queue = nats.Nats(self._home.nats, port=ports.free_port(), password=passwords["nats"])
        self._addresses = {owner.name: f"{_HOST}:{ports.free_port()}" for owner in services.SERVERS}
        processes = list(services.processes(self._workers))
        listening = {process.name: f"{_HOST}:{ports.free_port() if process.listens else 0}" for process in processes}
        prompt = [process for process in processes if not process.late]
        async with asyncio.TaskGroup() as group:
            migrated = group.create_task(self._start_database(database))
            await self._start_on_free_port(queue)
            for process in prompt:
                group.create_task(self._start(self._make_worker(process, queue, listening[process.name])))
            await migrated
            for owner in services.SERVERS:
                if not owner.late:
                    group.create_task(self._start(self._make_owner(owner, database, queue)))
        self._facts = {
            **{f"{name}_address": address for name, address in self._addresses.items()},
            **{
                f"{process.name.removesuffix('-1')}_address": listening[process.name]
                for process in processes
                if process.listens
            },
            "nats_url": queue.url,
            "database_url": database.url,
            "storage_root": str(self._home.data),
        }
        self._publish()
        took = time.monotonic() - self._began
        self._report(f"ready in {took:.1f} s: catalog at {self._addresses['catalog']}. Press Ctrl-C to stop.")
        async with asyncio.TaskGroup() as group:
            for each in self._keepers:
                group.create_task(each.keep())
            group.create_task(self._tidy())
            late = [self._make_owner(owner, database, queue) for owner in services.SERVERS if owner.late]
            late += [self._make_worker(each, queue, listening[each.name]) for each in processes if each.late]
            group.create_task(QueueWatch(self._home, self._keepers, self._report).run())
            for service in late:
                kept = await self._start_late(service)
                group.create_task(kept.keep())

    async def _start_database(self, database: postgres.Postgres) -> None:
        if not database.data.exists():
            self._report(f"creating a database in {self._home.postgres}")
        await self._start_on_free_port(database)
        await self._migrate({**_inherited(), **self._stores(database)})

    async def _start_on_free_port(self, server: postgres.Postgres | nats.Nats) -> None:
        """Start a server, on another port if it does not come up: another process may have taken the first one."""
        for _ in range(_PORT_ATTEMPTS - 1):
            with contextlib.suppress(managed_process.StartFailed):
                await self._start(server)
                return
            server.port = ports.free_port()
        try:
            await self._start(server)
        except managed_process.StartFailed:
            did = server.recover()
            if not did:
                raise
            self._report(f"{server.name}: {did}")
            await self._start(server)

    async def _start(self, program: Program) -> managed_process.ManagedProcess:
        kept = self._keep(program)
        try:
            await kept.start()
        except managed_process.StartFailed:
            self._keepers.remove(kept)
            raise
        self._report(f"{program.name} is ready {program.describe()}".rstrip())
        return kept

    async def _start_late(self, program: Program) -> managed_process.ManagedProcess:
        """Start a program that the rest can do without. If it fails, its ManagedProcess tries again."""
        kept = self._keep(program)
        try:
            await kept.start()
        except (errors.PolytokError, OSError) as error:
            await kept.fail(error)
        else:
            self._report(f"{program.name} is ready {program.describe()}".rstrip())
            self._publish()
        return kept

    def _keep(self, program: Program) -> managed_process.ManagedProcess:
        log = Log(self._home.logs / f"{program.name}.log")
        kept = managed_process.ManagedProcess(
            program, log, inherited=self._held, report=self._report, changed=self._publish
        )
        self._keepers.append(kept)
        return kept

    def _make_owner(self, owner: services.Server, database: postgres.Postgres, queue: nats.Nats) -> Service:
        address = self._addresses[owner.name]
        environment = {**self._environment(queue), **self._stores(database), **_listening(address)}
        return Service(owner.name, owner.module, environment, announcements=self._home.run)

    def _make_worker(self, process: services.Process, queue: nats.Nats, address: str) -> Service:
        environment = {**self._environment(queue), **_listening(address), **process.environment}
        return Service(process.name, process.module, environment, announcements=self._home.run)

    def _stores(self, database: postgres.Postgres) -> dict[str, str]:
        return {
            "POLYTOK_DATABASE_URL": database.url,
            "POLYTOK_STORAGE_ROOT": str(self._home.data),
            "POLYTOK_CATALOG_CHECK_PATHS": "true",
        }

    def _environment(self, queue: nats.Nats) -> dict[str, str]:
        return {
            **_inherited(),
            "POLYTOK_NATS_URL": queue.url,
            "POLYTOK_NATS_NAMESPACE": "polytok",
            "POLYTOK_METRICS_HOST": _HOST,
            "POLYTOK_METRICS_PORT": "0",
            "POLYTOK_STORAGE_ROOT": str(self._home.data),
            **{owner.variable: self._addresses[owner.name] for owner in services.SERVERS},
        }

    async def _migrate(self, environment: Mapping[str, str]) -> None:
        """Migrate all schemas, in one process."""
        log = Log(self._home.logs / "migrate.log")
        log.rotate()
        argv = [sys.executable, "-m", "services.runtime.migrations", *(owner.schema for owner in services.SERVERS)]
        with log.open() as stream:
            process = await asyncio.create_subprocess_exec(
                *exec_wrapper.command(argv, on_parent_death=signal.SIGKILL),
                env=dict(environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                pass_fds=(self._held,),
                start_new_session=True,
            )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.kill()  # a migration is one transaction
            await process.wait()
            raise
        if code != 0:
            raise managed_process.StartFailed(
                f"The database migration failed (exit code {code})",
                f"See the log {log.path}, which ends with:\n{log.tail()}",
            )
        self._report("the database is up to date")

    def _publish(self) -> None:
        """Write stack.json. If that fails, report the reason once; `_tidy` tries again."""
        try:
            self._write_facts()
        except OSError as error:
            trouble = folders.explain(error, f"writing {self._home.stack}, by which clients find this stack")
            if trouble != self._untold:
                self._report(trouble)
            self._untold = trouble
        else:
            self._untold = ""

    def _write_facts(self) -> None:
        running = [each.program for each in self._keepers if isinstance(each.program, Service)]
        self._home.publish(
            {
                **self._facts,
                "pid": os.getpid(),
                "pids": {each.program.name: each.pid for each in self._keepers},
                "metrics_ports": {each.name: each.facts().get("metrics", 0) for each in running},
            }
        )

    async def _tidy(self) -> None:
        """Rotate large logs, and write stack.json again if it is missing."""
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            for each in self._keepers:
                before = each.log.trouble
                await asyncio.to_thread(each.log.rotate)
                if each.log.trouble not in ("", before):
                    self._report(each.log.trouble)
            if self._untold or not self._home.is_published():
                self._publish()

    async def _down(self) -> None:
        """Stop all processes in reverse order of their start, workers together."""
        with contextlib.suppress(OSError):
            self._home.withdraw()
        owners = [owner.name for owner in services.SERVERS]
        workers = {each.program.name for each in self._keepers} - {*owners, "nats", "postgres"}
        for stage in (workers, *({name} for name in reversed(owners)), {"nats"}, {"postgres"}):
            stops: list[Awaitable[None]] = [each.stop() for each in self._keepers if each.program.name in stage]
            await asyncio.gather(*stops)
        if self._keepers and not self._forced:
            self._report("stopped")


def run(root: pathlib.Path, *, workers: int, report: Callable[[str], None]) -> None:
    """Run a stack on that home until a signal stops it."""
    home = Home(root)
    home.create()
    held = lock.acquire(home.lock, waiting=lambda: report("waiting for the processes of a killed stack to end"))
    report(f"starting the stack in {root}")

    async def main() -> None:
        await Supervisor(home, held=held, workers=workers, report=report).run()

    asyncio.run(main())
