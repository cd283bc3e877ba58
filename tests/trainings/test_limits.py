"""What a machine does not have enough of: what the user reads, and that a training goes on once there is more."""

import contextlib
import resource
from collections.abc import Iterator

import pytest

from polytok.client import watch_stream
from tests.support import messages
from tests.trainings import samples
from tests.trainings.training_harness import TrainingHarness

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture
def harness(harness: TrainingHarness) -> TrainingHarness:
    """With patience: thousands of steps, each reported, are slow on a machine that does much else."""
    harness.patience_seconds = 400.0
    return harness


@contextlib.contextmanager
def limited(pid: int, kind: int, value: int) -> Iterator[None]:
    """Limits what a process may have for a while."""
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (value, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, kind, before)


async def test_full_disk(harness: TrainingHarness) -> None:
    long = {"total_samples": 64 * 3000, "checkpoint_every": 100}
    await harness.create("full", **long)
    first = await harness.checkpointed("full")
    child = await harness.child()
    # As a full disk: no file can grow beyond the first bytes.
    with limited(child, resource.RLIMIT_FSIZE, 4096):
        record = await harness.state("full", "ERROR")
    assert record.error_reason == "DISK_FULL"
    (*_, kept) = await harness.client.trainings.checkpoints("full")
    assert kept.step >= first.step
    messages.check_names(record.error_message, f"step {kept.step:,}", f"step {kept.step + 100:,}")
    again = await harness.client.trainings.retry("full")
    assert (watch_stream.state(again), again.step > 0) == ("QUEUED", True)
    made = await harness.ready("full")
    assert [row.step for row in await harness.metrics("full")] == list(range(1, 3001))
    assert made.results[0].evaluation.figures["l0"] > 0


async def test_out_of_memory(harness: TrainingHarness) -> None:
    await harness.create("small")
    await harness.ready("small")
    child = await harness.child()
    with limited(child, resource.RLIMIT_DATA, 4 << 30):
        await harness.create("large", saes=[samples.sae(d_sae=1 << 20, k=32)], batch_size=8192, total_samples=8192 * 3)
        record = await harness.state("large", "ERROR")
    assert record.error_reason == "WORKER_LOST"
    messages.check_names(record.error_message, "cpu", "d_sae", "batch_size", "8,192", "buffer_samples")
    assert (await harness.outcomes(record)).count("FAILED") == 1  # nobody tries the same again
