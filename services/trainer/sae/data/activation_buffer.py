"""The activation buffer, which shuffles activations so that neighbours in the text are not in one batch.

It holds a fixed number of activations. Once full, it is served in a random order; each batch taken makes room for the
next activations of the source. After a part of it has been served (half by default) a new order is drawn over old and
new ones together, as SAELens's mixing buffer does. Orders are drawn from (seed, number of the order), so that no
generator state must be saved.

A checkpoint holds the contents rather than a way to recompute them: they descend from everything read before, and
recomputing them would need the forward passes of many buffers. Their size is that of the buffer, of the order of a
wide autoencoder's weights with Adam's moments.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from polytok import errors
from services.trainer.sae.data.dataset import ActivationIterator, Block, CheckpointState, Position


def _silent(_: int) -> None:
    pass


class ActivationBuffer:
    """Return batches of a source's activations, shuffled over `samples` of them; several hooks stay aligned."""

    def __init__(
        self,
        source: ActivationIterator,
        *,
        samples: int,
        batch: int,
        seed: int,
        fresh: float = 0.5,
        device: str = "cpu",
        on_filled: Callable[[int], None] = _silent,
    ) -> None:
        """`fresh` is the fraction of the buffer that is served and refilled between two orders.

        `on_filled` is called with the number of activations read while the buffer first fills.
        """
        if samples < batch:
            raise errors.InvalidArgument(
                f"buffer_samples is {samples}; it must hold at least one batch of {batch}.",
                violations=[errors.FieldViolation("buffer_samples", f"must be at least {batch}.")],
            )
        self._source = source
        self._samples = samples
        self._batch = batch
        self._seed = seed
        self._served = max(batch, int(samples * fresh)) // batch
        self._device = torch.device(device)
        self._on_filled = on_filled
        self._held: Block = {}
        self._read: Block = {}
        self._used = 0
        self._taken = 0
        self._order: tuple[int, torch.Tensor] = (-1, torch.empty(0, dtype=torch.int64))

    def fill(self) -> None:
        """Fill the buffer; later calls change nothing."""
        if self._held:
            return
        held: Block = {}
        for start, piece in self._pieces(self._samples):
            for hook, values in piece.items():
                if hook not in held:
                    held[hook] = values.new_empty((self._samples, values.shape[1]))
                held[hook][start : start + len(values)] = values
            self._on_filled(start + len(next(iter(piece.values()))))
        self._held = held

    def take(self) -> Block:
        """Return the next batch, and refill its places."""
        self.fill()
        order, index = divmod(self._taken, self._served)
        slots = self._slots(order)[index * self._batch : (index + 1) * self._batch]
        batch = {hook: values.index_select(0, slots) for hook, values in self._held.items()}
        for start, piece in self._pieces(self._batch):
            for hook, values in piece.items():
                self._held[hook].index_copy_(0, slots[start : start + len(values)], values)
        self._taken += 1
        return batch

    def contents(self) -> Block:
        """Return the activations in the buffer, from which the next batches are taken."""
        self.fill()
        return self._held

    def _slots(self, order: int) -> torch.Tensor:
        if self._order[0] != order:
            drawn = np.random.default_rng([self._seed, order]).permutation(self._samples)
            self._order = (order, torch.from_numpy(drawn).to(self._device))
        return self._order[1]

    def _pieces(self, count: int) -> Iterator[tuple[int, Block]]:
        """Yield exactly `count` activations of the source, in its order, as views with the place of their first."""
        start = 0
        while start < count:
            length = 0 if not self._read else len(next(iter(self._read.values())))
            if self._used == length:
                self._read = {hook: values.to(self._device) for hook, values in self._source.read().items()}
                self._used = 0
                continue
            end = min(length, self._used + count - start)
            yield start, {hook: values[self._used : end] for hook, values in self._read.items()}
            start += end - self._used
            self._used = end

    def state(self) -> CheckpointState:
        """Return contents and position; the tensors are shared: copy or write them before the next `take`."""
        return CheckpointState(
            {f"held.{hook}": values for hook, values in self._held.items()}
            | {f"rest.{hook}": values[self._used :] for hook, values in self._read.items()},
            {"taken": self._taken, "source": self._source.position(), "shape": self._shape()},
        )

    def load(self, state: CheckpointState) -> None:
        """Restore a state; raises `errors.FailedPrecondition` if it belongs to a different buffer."""
        shape: Mapping[str, Any] = state.values["shape"]
        if shape != self._shape():
            changed = sorted(name for name, value in self._shape().items() if shape.get(name) != value)
            raise errors.FailedPrecondition(
                f"The checkpoint's buffer has a different {', '.join(changed)}; a training resumes with its "
                "original plan only. Start a new training for other settings."
            )
        position: Position = state.values["source"]
        self._source.seek(position)
        self._held = self._loaded(state, "held")
        self._read, self._used = self._loaded(state, "rest"), 0
        self._taken = int(state.values["taken"])

    def _shape(self) -> dict[str, Any]:
        return {
            "samples": self._samples,
            "batch_size": self._batch,
            "seed": self._seed,
            "served": self._served,
            "widths": dict(self._source.widths),
        }

    def _loaded(self, state: CheckpointState, name: str) -> Block:
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): values.to(self._device, copy=True)
            for key, values in state.tensors.items()
            if key.startswith(prefix)
        }
