"""Prefetching: batches are prepared while the step before them computes.

A thread takes batches from the buffer, which reads its source, and keeps a few ready. The order of batches is the
buffer's, whatever the timing of the thread. A state includes the batches that are ready but not yet taken, so it is
the state of the training step and not of the thread.
"""

import collections
import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import torch

from services.trainer.sae.data.activation_buffer import ActivationBuffer
from services.trainer.sae.data.dataset import Block, CheckpointState


class Prefetcher:
    """Prefetches up to `depth` batches of a buffer in a thread; with depth 0, batches are made on demand."""

    def __init__(self, buffer: ActivationBuffer, depth: int = 2) -> None:
        self._buffer = buffer
        self._depth = depth
        self._ready: collections.deque[Block] = collections.deque()
        self._changed = threading.Condition()
        # Held while the buffer is used; acquired with no other lock held.
        self._using = threading.Lock()
        self._error: BaseException | None = None
        self._ended = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._depth:
            self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        # OpenMP's number of threads is a setting of each thread; PyTorch applies its own when asked.
        torch.set_num_threads(torch.get_num_threads())
        try:
            while self._room():
                with self._using:
                    batch = self._buffer.take()
                    with self._changed:
                        self._ready.append(batch)
                        self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._ready) < self._depth)
            return not self._ended

    def take(self) -> Block:
        """Return the next batch; an error of the source is raised after the batches before it."""
        if self._thread is None:
            return self._ready.popleft() if self._ready else self._buffer.take()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._error is not None)
            if not self._ready:
                assert self._error is not None
                raise self._error
            batch = self._ready.popleft()
            self._changed.notify_all()
            return batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[CheckpointState]:
        """Yield the state before the next batch; its tensors do not change until the block ends."""
        with self._using:
            state = CheckpointState()
            state.add("buffer", self._buffer.state())
            state.values["ready"] = len(self._ready)
            for index, batch in enumerate(self._ready):
                state.tensors |= {f"ready.{index}.{hook}": values for hook, values in batch.items()}
            yield state

    def load(self, state: CheckpointState) -> None:
        """Restore a state; must be called before the thread starts."""
        assert self._thread is None
        self._buffer.load(state.part("buffer"))
        self._ready.clear()
        for index in range(int(state.values["ready"])):
            prefix = f"ready.{index}."
            self._ready.append(
                {key.removeprefix(prefix): each for key, each in state.tensors.items() if key.startswith(prefix)}
            )
