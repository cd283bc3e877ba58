"""A stack in which trainings run, and what of it tests break."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import asyncpg

from polytok import errors
from tests.trainings import samples

if TYPE_CHECKING:
    import polytok
    from tests.support.stacks import Stack

SETTINGS = {
    "POLYTOK_JOBS_LEASE_TTL_SECONDS": "6",
    "POLYTOK_JOBS_RECONCILE_SECONDS": "0.5",
    "POLYTOK_JOBS_BACKOFF_SECONDS": "0.1",
    "POLYTOK_TRAINER_THREADS": "1",
    "POLYTOK_TRAINER_PROCESSES": "2",
    "POLYTOK_TRAINER_GARBAGE_COLLECTION_SECONDS": "0.5",
    "POLYTOK_TRAINER_GARBAGE_GRACE_SECONDS": "1",
    "OMP_NUM_THREADS": "1",
}
"""Short times, so that there is little to wait for; one thread, so that runs are equal bit for bit; two processes,
however few cores there are."""

PATIENCE_SECONDS = 90.0
DATASET, MODEL = "corpus", "model"
WORKER = "trainer-1"


async def eventually(
    condition: Callable[[], Awaitable[Any]], what: str, patience_seconds: float = PATIENCE_SECONDS
) -> Any:
    """Wait until `condition` gives something true, and return that."""
    try:
        async with asyncio.timeout(patience_seconds):
            while not (found := await condition()):  # noqa: ASYNC110  it is true in another process
                await asyncio.sleep(0.02)
            return found
    except TimeoutError:
        raise AssertionError(f"not in {patience_seconds:g} s: {what}") from None


class TrainingHarness:
    """The stack, and one tokenization in it that every test trains on."""

    def __init__(self, stack: Stack, client: polytok.AsyncClient) -> None:
        self.stack = stack
        self.client = client
        self.patience_seconds = PATIENCE_SECONDS

    async def create(self, name: str, *, saes: Any = None, **parameters: Any) -> Any:
        """Start a training of 40 steps, or of others."""
        given = {"batch_size": 64, "total_samples": 64 * 40, "log_every": 1, "checkpoint_every": 10}
        return await self.client.trainings.create(
            DATASET, MODEL, name=name, saes=saes or [samples.sae()], **(given | parameters)
        )

    async def end_all(self) -> None:
        """Cancel what still runs."""
        async for record in self.client.trainings.list(states=["QUEUED", "PROCESSING", "PAUSED"]):
            with contextlib.suppress(errors.FailedPrecondition):  # it has ended meanwhile
                await self.client.trainings.cancel(record)

    async def ready(self, name: str) -> Any:
        """Return the training once it is READY."""
        return await self.client.trainings.wait(name, timeout=self.patience_seconds)

    async def state(self, name: str, *states: str) -> Any:
        """Return the training once it is in one of some states."""

        async def found() -> Any:
            record = await self.client.trainings.get(name)
            word = type(record).State.Name(record.state).removeprefix("STATE_")
            return record if word in states else None

        return await eventually(found, f"{name} is {' or '.join(states)}", self.patience_seconds)

    async def beyond(self, name: str, step: int) -> Any:
        """Return the training once its metrics tell of a later step."""

        async def found() -> Any:
            record = await self.client.trainings.get(name)
            return record if record.step > step else None

        return await eventually(found, f"{name} is beyond step {step}", self.patience_seconds)

    async def checkpointed(self, name: str) -> Any:
        """Return the first checkpoint that the owner knows of."""

        async def found() -> Any:
            return await self.client.trainings.checkpoints(name)

        return (await eventually(found, f"{name} has a checkpoint", self.patience_seconds))[0]

    async def metrics(self, name: str, kind: str = "training") -> list[Any]:
        """Return the rows of metrics of a training."""
        return [row async for row in self.client.trainings.metrics(name) if row.WhichOneof("figures") == kind]

    def pid(self, name: str) -> int:
        """Return the process id of a service of the stack."""
        return int(self.stack.facts["pids"][name])

    async def child(self) -> int:
        """Return the process that trains."""

        async def found() -> int:
            return child_of(self.pid(WORKER))

        return int(await eventually(found, "the trainer's worker has a child", self.patience_seconds))

    async def killed(self, name: str) -> None:
        """Kill a service; returns once the supervisor has started another in its place."""
        before = self.pid(name)
        os.kill(before, signal.SIGKILL)

        async def again() -> bool:
            return self.pid(name) not in (0, before)

        await eventually(again, f"{name} runs again", self.patience_seconds)

    @contextlib.asynccontextmanager
    async def stopped(self, pid: int) -> AsyncIterator[None]:
        """Stop a process for a while."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def rows(self, statement: str, *arguments: object) -> list[Any]:
        """Return what the database says."""
        connection = await asyncpg.connect(self.stack.facts["database_url"])
        try:
            found: list[Any] = await connection.fetch(statement, *arguments)
            return found
        finally:
            await connection.close()

    async def outcomes(self, record: Any) -> list[str]:
        """Return how the attempts of a training's present job ended."""
        found = await self.rows(
            "SELECT outcome FROM trainer.job_attempts JOIN trainer.job_tasks ON id = task_id "
            "WHERE job_id = $1::uuid ORDER BY started_at",
            record.job,
        )
        return [str(row["outcome"]) for row in found]

    async def holders(self) -> list[str]:
        """Who holds the tokenization."""
        found = await self.rows("SELECT holder FROM tokenization_holds WHERE expires_at > now()")
        return sorted(str(row["holder"]) for row in found)

    def folder(self, record: Any) -> pathlib.Path:
        """Return the folder of all that belongs to a training."""
        return pathlib.Path(self.stack.facts["storage_root"]) / "trainings" / record.uid


def child_of(pid: int) -> int:
    """Return the task process of the trainer's worker, by its process id; 0 if there is none."""
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for child in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"services.trainer.worker.child" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return 0
