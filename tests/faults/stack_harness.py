"""A stack to break: what goes on in it, which of its processes to stop or kill, and what must be true afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pathlib
import signal
import urllib.request
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg
import datasets
import nats

from polytok import errors
from services.runtime import messaging

if TYPE_CHECKING:
    import polytok
    from tests.support.stacks import Stack

SETTINGS = {
    "POLYTOK_CATALOG_SHARD_BYTES": "8192",
    "POLYTOK_CATALOG_GARBAGE_COLLECTION_SECONDS": "0.5",
    "POLYTOK_CATALOG_GARBAGE_GRACE_SECONDS": "2",
    "POLYTOK_JOBS_LEASE_TTL_SECONDS": "4",
    "POLYTOK_JOBS_RECONCILE_SECONDS": "0.5",
    "POLYTOK_JOBS_DISPATCH_ACK_SECONDS": "2",
    "POLYTOK_JOBS_BACKOFF_SECONDS": "0.1",
}
"""Small shards and short times, so that there is much to break, and little to wait for."""

WORKERS = ("tokenizer-1", "tokenizer-2")
PATIENCE_SECONDS = 120.0
_MANIFESTS = {"state.json", "dataset_info.json", "polytok.json"}
_STREAM = messaging.Subjects("polytok").stream


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until `condition` holds."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await condition():  # noqa: ASYNC110  it is true in another process
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not in {PATIENCE_SECONDS:g} s: {what}") from None


class StackHarness:
    """The stack, and one dataset with one model in it that every test tokenizes in a variant of its own."""

    def __init__(
        self, stack: Stack, client: polytok.AsyncClient, dataset: str, model: str, folder: pathlib.Path
    ) -> None:
        """`folder` has the dataset's file and the model's tokenizer."""
        self.stack = stack
        self.client = client
        self.dataset = dataset
        self.model = model
        self.corpus = folder / "docs.jsonl"
        self.tokenizer = folder / "model"

    async def create(self, variant: str, **more: Any) -> Any:
        """Ask for a tokenization, always with the same rows: the bound on documents, far above them, is each its own.

        With the same parameters it would share the files of the one before it, and there would be nothing to break.
        """
        asked = {"max_length": 32, "max_documents": 1_000_000 + zlib.crc32(variant.encode()), **more}
        return await self.client.tokenizations.create(self.dataset, self.model, variant=variant, **asked)

    async def wait(self, variant: str) -> Any:
        """Return the tokenization once it is READY."""
        return await self.client.tokenizations.wait(self.dataset, self.model, variant=variant, timeout=PATIENCE_SECONDS)

    def pid(self, name: str) -> int:
        """Return the process id of a service of the stack; 0 while it does not run."""
        return int(self.stack.facts["pids"][name])

    def child(self, worker: str) -> int:
        """Return the process that does a worker's tasks; 0 if there is none now."""
        return child_of(self.pid(worker))

    async def replayed(self, variant: str, request_id: str) -> Any:
        """Send a request again and again until it is answered, as one does whose catalog is away for a moment."""
        answers: list[Any] = []

        async def answered() -> bool:
            with contextlib.suppress(errors.Unavailable):
                answers.append(await self.create(variant, request_id=request_id))
            return bool(answers)

        await eventually(answered, f"the request {request_id} is answered")
        return answers[0]

    async def killed(self, name: str) -> None:
        """Kill a service; returns once the supervisor has started another in its place."""
        before = self.pid(name)
        os.kill(before, signal.SIGKILL)
        await self.restarted(name, before)

    async def restarted(self, name: str, before: int) -> None:
        """Wait for another process in the place of the one that was there before."""

        async def again() -> bool:
            return self.pid(name) not in (0, before)

        await eventually(again, f"{name} runs again")

    @contextlib.asynccontextmanager
    async def held(self, *workers: str) -> AsyncIterator[None]:
        """Stop the processes that do these workers' tasks: each worker takes one task and gets nowhere with it."""
        stopped = []
        for worker in workers:

            async def is_ready(worker: str = worker) -> bool:
                ready = await asyncio.to_thread(_is_ready, self.stack.facts["metrics_ports"][worker])
                return ready and self.child(worker) != 0

            await eventually(is_ready, f"{worker} is ready")
            stopped.append((worker, self.child(worker)))
            os.kill(stopped[-1][1], signal.SIGSTOP)
        try:
            yield
        finally:
            for worker, child in stopped:
                if self.pid(worker) and self.child(worker) == child:
                    os.kill(child, signal.SIGCONT)

    async def rows(self, statement: str, *arguments: object) -> list[Any]:
        """Return what the database says."""
        connection = await asyncpg.connect(self.stack.facts["database_url"])
        try:
            found: list[Any] = await connection.fetch(statement, *arguments)
            return found
        finally:
            await connection.close()

    async def tasks(self, record: Any, state: str) -> int:
        """Return how many tasks of a tokenization's job are in a state."""
        ((count,),) = await self.rows(
            "SELECT count(*) FROM job_tasks WHERE job_id = $1::uuid AND state = $2", record.job, state
        )
        return int(count)

    async def busy(self, record: Any, *, running: int, succeeded: int = 0) -> None:
        """Wait until this many tasks run, and at least that many are done."""

        async def is_so() -> bool:
            return await self.tasks(record, "RUNNING") == running and await self.tasks(record, "SUCCEEDED") >= succeeded

        await eventually(is_so, f"{running} tasks run and {succeeded} are done")

    async def in_hand(self, worker: str, kind: str) -> None:
        """Wait until a worker, and no earlier process of that name, has a task of a job of a kind."""
        pid = self.pid(worker)

        async def is_so() -> bool:
            ((count,),) = await self.rows(
                "SELECT count(*) FROM job_tasks JOIN jobs ON jobs.id = job_id WHERE jobs.kind = $1 "
                "AND jobs.state = 'ACTIVE' AND job_tasks.state = 'RUNNING' AND worker LIKE $2",
                kind,
                f"%-{pid}-%",
            )
            return int(count) == 1

        await eventually(is_so, f"{worker} has a task of a job of kind {kind}")

    async def outcomes(self, record: Any) -> dict[str, int]:
        """Return how the attempts of a tokenization's job ended."""
        found = await self.rows(
            "SELECT outcome, count(*) FROM job_attempts JOIN job_tasks ON id = task_id WHERE job_id = $1::uuid "
            "GROUP BY outcome",
            record.job,
        )
        return {str(outcome): int(count) for outcome, count in found}

    async def complaints(self, record: Any) -> list[str]:
        """Return what went wrong with attempts that did not end well."""
        found = await self.rows(
            "SELECT error_reason || ': ' || error_message FROM job_attempts JOIN job_tasks ON id = task_id "
            "WHERE job_id = $1::uuid AND error_reason IS NOT NULL",
            record.job,
        )
        return [str(error) for (error,) in found]

    def ids(self, record: Any) -> list[list[int]]:
        """Return every row of a tokenization."""
        rows: list[list[int]] = datasets.load_from_disk(record.tokenized_path)["input_ids"][:]
        return rows

    def texts(self) -> list[str]:
        """Return every document of the dataset, as the user's file has it."""
        lines = self.corpus.read_text().splitlines()
        return [str(json.loads(line)["text"]) for line in lines]

    async def nothing_left_behind(self, record: Any) -> None:
        """Wait until nothing but what the record needs is there: no file, message, outbox row or lease."""
        published = await self.rows("SELECT key FROM tokenization_files WHERE tokenization_id = $1", record.uid)
        wanted = {str(key).rpartition("/")[2] for (key,) in published} | _MANIFESTS

        async def only_its_files() -> bool:
            return names_in(record.tokenized_path) == wanted

        await eventually(only_its_files, f"nothing but {len(wanted)} files in {record.tokenized_path}")
        await self.at_rest()

    async def at_rest(self) -> None:
        """Wait until no job is under way and nothing tells of one."""

        async def quiet() -> bool:
            ((count,),) = await self.rows(
                "SELECT (SELECT count(*) FROM job_outbox) + "
                "(SELECT count(*) FROM job_tasks WHERE state IN ('READY', 'RUNNING'))"
            )
            return int(count) == 0 and await self._messages() == 0

        await eventually(quiet, "no outbox row, no task under way, no message on the queue")

    async def _messages(self) -> int:
        client = await nats.connect(self.stack.facts["nats_url"])
        try:
            return int((await client.jetstream().stream_info(_STREAM)).state.messages)
        finally:
            await client.close()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10):
            return True
    except OSError:
        return False


def child_of(pid: int) -> int:
    """Return the task process of a worker, by its process id."""
    if not pid:
        return 0
    for child in _words(f"/proc/{pid}/task/{pid}/children", " "):
        if "services.tokenizer.worker.child" in _words(f"/proc/{child}/cmdline", "\0"):
            return int(child)
    return 0


def names_in(folder: str) -> set[str]:
    """Return what lies in a folder; nothing if there is none."""
    place = pathlib.Path(folder)
    return {entry.name for entry in place.iterdir()} if place.exists() else set()


def _words(path: str, separator: str) -> Sequence[str]:
    try:
        return pathlib.Path(path).read_text().strip(separator).split(separator)
    except (FileNotFoundError, ProcessLookupError):
        return ()
