"""Any interleaving of what workers, users, the queue and the reconciler do keeps the invariants of state_machine.py."""

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import hypothesis
import pytest
from hypothesis import stateful
from hypothesis import strategies as st

from polytok import errors
from services.embedded.postgres import Postgres
from tests.jobs.state_machine import WORKERS, JobStateMachine
from tests.support import databases


class Queue(JobStateMachine):
    """The machine with a queue between outbox and workers, which may repeat messages and lose all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: set[uuid.UUID] = set()
        """Tasks with a message that waits."""
        self.held: set[uuid.UUID] = set()
        """Tasks with a message that a worker took, and has not acknowledged."""
        self.wiped = False

    @stateful.rule()
    def dispatch(self) -> None:
        """Dispatch go from the outbox to the queue, which has one for each task."""
        self.queue |= self.run(self.ring_due())

    @stateful.rule(data=st.data(), worker=WORKERS, dies=st.booleans())
    def answer_the_door(self, data: st.DataObject, worker: str, dies: bool) -> None:
        """A worker takes a message, and dies before it asks for the task, or asks, even if another has it by now."""
        if not self.queue:
            return
        task_id = data.draw(st.sampled_from(sorted(self.queue)))
        self.queue.discard(task_id)
        self.held.add(task_id)
        known = {task.id: task for job in self.jobs for task in job.tasks}
        if dies:
            return
        if task_id not in known:
            with pytest.raises(errors.NotFound):
                self.run(self.harness.acquire(task_id, worker))
        else:
            self.acquire(known[task_id], worker)
        if task_id not in known or known[task_id].state != "RUNNING":
            self.held.discard(task_id)

    @stateful.rule()
    def redeliver(self) -> None:
        """The worker that took a message is silent: it waits again, though the task may be another's."""
        self.queue |= self.held
        self.held.clear()

    @stateful.rule()
    def wipe(self) -> None:
        """The queue is lost."""
        self.wiped = True
        self.queue.clear()
        self.held.clear()

    @stateful.rule()
    def redispatch(self) -> None:
        """The reconciler dispatches tasks that are due and dispatched nowhere, and no others."""
        dispatches = {row.id: row.dispatch for row in self.run(self.find_undispatched())}
        lost = {task_id: each for task_id, each in dispatches.items() if task_id not in self.queue | self.held}
        assert not lost or self.wiped
        assert self.run(self.rung_again(lost)) == len(lost)
        self.wiped = False

    async def ring_due(self) -> set[uuid.UUID]:
        async with self.harness.database.transaction() as conn:
            due = await self.harness.store.outbox.lock_due(conn, 100)
            await self.harness.store.outbox.drop(conn, due)
        return {row.task_id for row in due if row.live}

    async def find_undispatched(self) -> Sequence[Any]:
        async with self.harness.database.connection() as conn:
            return await self.harness.store.outbox.find_undispatched(conn)

    async def rung_again(self, lost: dict[uuid.UUID, int]) -> int:
        async with self.harness.database.transaction() as conn:
            return await self.harness.store.outbox.redispatch(conn, lost)

    def dispatched_elsewhere(self, task_id: uuid.UUID) -> bool:
        """Return whether a task has a message, or had one when all were lost."""
        return self.wiped or task_id in self.queue | self.held


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """Yield a database for a test that has no event loop running: the machine brings its own."""
    with asyncio.Runner() as runner:
        opened = databases.fresh(postgres)
        yield runner.run(opened.__aenter__())
        runner.run(opened.__aexit__(None, None, None))


def explore(database_url: str, examples: int) -> None:
    stateful.run_state_machine_as_test(
        type("Machine", (Queue,), {"url": database_url}),
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )


def test_any_interleaving_keeps_what_is_always_true(database_url: str) -> None:
    explore(database_url, examples=30)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_interleavings_keep_what_is_always_true(database_url: str) -> None:
    explore(database_url, examples=400)
