"""The buffer gives every activation once, mixed, hooks aligned, and goes on exactly from its state."""

import itertools

import pytest
import torch

from polytok import errors
from services.trainer.sae.data.activation_buffer import ActivationBuffer
from services.trainer.sae.data.dataset import Block, CheckpointState
from services.trainer.sae.data.prefetch import Prefetcher
from tests.support import messages
from tests.trainer.numbered import Numbered


def new(seed: int = 7, samples: int = 32, batch: int = 8) -> ActivationBuffer:
    return ActivationBuffer(Numbered(), samples=samples, batch=batch, seed=seed)


def numbers(batch: Block) -> list[int]:
    return [int(value) for value in batch["a"][:, 0]]


def same(one: Block, other: Block) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[hook], other[hook]) for hook in one)


def copied(state: CheckpointState) -> CheckpointState:
    return CheckpointState({name: tensor.clone() for name, tensor in state.tensors.items()}, dict(state.values))


def test_every_activation_comes_once_and_soon() -> None:
    buffer = new()
    seen = [numbers(buffer.take()) for _ in range(200)]
    flat = [number for batch in seen for number in batch]
    assert len(set(flat)) == len(flat) == 1600
    # What is missing is still in the buffer: as many as it holds.
    assert len(set(range(max(flat) + 1)) - set(flat)) <= 32
    assert max(flat) < 1600 + 32


def test_neighbours_are_parted() -> None:
    buffer = new(samples=256)
    for _ in range(20):
        batch = sorted(numbers(buffer.take()))
        assert sum(after - before == 1 for before, after in itertools.pairwise(batch)) <= 3


def test_hooks_stay_aligned() -> None:
    buffer = new()
    for _ in range(50):
        batch = buffer.take()
        assert torch.equal(batch["a"][:, 0], batch["b"][:, 0])
        assert torch.equal(batch["a"][:, 1], batch["a"][:, 0] + 0.25)


def test_the_seed_decides_the_order() -> None:
    assert numbers(new(seed=1).take()) == numbers(new(seed=1).take()) != numbers(new(seed=2).take())


@pytest.mark.parametrize("taken", [0, 1, 2, 3, 17])
def test_a_state_goes_on_exactly(taken: int) -> None:
    buffer = new()
    for _ in range(taken):
        buffer.take()
    state = copied(buffer.state())
    expected = [buffer.take() for _ in range(30)]
    other = new()
    other.load(state)
    assert all(same(other.take(), batch) for batch in expected)


def test_memory_stays_bounded() -> None:
    buffer = new(samples=64, batch=8)
    sizes = set()
    for _ in range(100):
        buffer.take()
        sizes.add(sum(tensor.untyped_storage().nbytes() for tensor in buffer.state().tensors.values()))
    assert max(sizes) <= (64 + 7) * 5 * 4


def test_another_plan_is_refused() -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        new(samples=64).load(new().state())
    messages.check_names(caught.value.message, "samples", "served")


def test_a_buffer_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        new(samples=4)
    messages.check_names(caught.value.message, "buffer_samples", 4, 8)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_reading_ahead_changes_nothing(depth: int) -> None:
    plain = new()
    with Prefetcher(new(), depth) as ahead:
        assert all(same(ahead.take(), plain.take()) for _ in range(100))


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("resumed_depth", [0, 2])
def test_a_state_is_that_of_the_batch_taken_last(depth: int, resumed_depth: int) -> None:
    plain = new()
    with Prefetcher(new(), depth) as ahead:
        for _ in range(10):
            ahead.take()
            plain.take()
        with ahead.paused() as live:
            state = copied(live)
    resumed = Prefetcher(new(), resumed_depth)
    resumed.load(state)
    with resumed:
        assert all(same(resumed.take(), plain.take()) for _ in range(20))


def test_source_errors_come_after_earlier_batches() -> None:
    source = Numbered(fail_at=100)
    with Prefetcher(ActivationBuffer(source, samples=32, batch=8, seed=0), 2) as ahead:
        # 32 fill the buffer, and eight full batches follow them before token 100.
        for _ in range(8):
            ahead.take()
        for _ in range(2):
            with pytest.raises(OSError, match="the shard is gone"):
                ahead.take()
