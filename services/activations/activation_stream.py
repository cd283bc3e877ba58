"""Stream a tokenization's activations: one forward pass for all hooks, in row order, without padding."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytok import errors
from services.activations import forward_capture, hooks, memory, row_batches
from services.activations.models import LoadedModel, ModelDescription
from services.activations.rows import TokenRows
from services.activations.token_selection import EVERY_TOKEN, TokenSelection
from services.runtime.telemetry import logging

_log = logging.get(__name__)
_WINDOW_BATCHES = 8
_WINDOW_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}
"""Limits of the window in which rows of different lengths are batched: number of batches, and size
of their activations.
"""


@dataclass(frozen=True)
class StreamSettings:
    """What is streamed, and how."""

    hooks: tuple[str, ...]
    batch_tokens: int = 0
    """Maximum number of tokens in a forward pass, including padding; 0 chooses by model and device."""
    selection: TokenSelection = EVERY_TOKEN
    """The tokens whose activations are returned."""


@dataclass(frozen=True)
class Piece:
    """The activations of some rows, concatenated in row order."""

    first_row: int
    num_rows: int
    token_ids: Tensor
    """int32 [n], on the CPU: the selected tokens."""
    row: Tensor
    """int64 [n], on the CPU: the row of the tokenization of each token."""
    position: Tensor
    """int32 [n], on the CPU: the position in its row, not counting padding."""
    values: dict[str, Tensor]
    """Hook → [n, width] in the model's dtype, on its device, in the order of the requested hooks.

    These are inference tensors: autograd works on a copy of them, such as `torch.cat` or `clone` make.
    """
    made: torch.cuda.Event | None = None
    """On a GPU, an event that is recorded when the values are ready: another CUDA stream has to wait for it."""

    @property
    def next_row(self) -> int:
        """Row at which to resume a stream so that the next piece is identical."""
        return self.first_row + self.num_rows


class ActivationStream:
    """Activations of a tokenization's rows.

    A stream that starts at a piece's `next_row`, with the same settings and `batch_tokens`, yields the very pieces
    that followed it: bit for bit on one processor with one number of threads.
    """

    def __init__(self, model: LoadedModel, dataset: Any, settings: StreamSettings) -> None:
        """`dataset` is a `datasets.Dataset` or a `pyarrow.Table` with `input_ids` and optionally `attention_mask`."""
        self._model = model
        self._rows = TokenRows(dataset, settings.selection.context_size)
        self._selection = settings.selection
        self.hooks = hooks.parse_hooks(settings.hooks, model.description)
        self.batch_tokens = settings.batch_tokens or automatic_batch_tokens(model, len(self.hooks))
        """Tokens in a forward pass; halved whenever memory does not suffice. Needed to resume a stream."""

    def __len__(self) -> int:
        return len(self._rows)

    def pieces(self, first_row: int = 0, num_rows: int | None = None) -> Generator[Piece]:
        """Yield the activations of the rows, in order. Holds the model's hooks until it is exhausted or closed.

        Raises InvalidArgument for token ids that the model does not know and rows beyond its context,
        ResourceExhausted if there is no memory for a single row.
        """
        end = len(self._rows) if num_rows is None else min(first_row + num_rows, len(self._rows))
        with forward_capture.ActivationCapture(self._model, self.hooks) as capture:
            while first_row < end:
                for window in row_batches.windows(self._rows, first_row, end, self.batch_tokens, self._window_tokens()):
                    piece = self._fitting(capture, window)
                    if piece is None:
                        # Smaller batches have smaller windows, whose activations take less memory: split again.
                        break
                    yield piece
                    first_row = piece.next_row

    def _window_tokens(self) -> int:
        width = sum(hook.width or self._model.description.d_model for hook in self.hooks)
        fitting = _WINDOW_BYTES[self._model.device.type] // (width * self._model.dtype.itemsize)
        return max(self.batch_tokens, min(self.batch_tokens * _WINDOW_BATCHES, fitting))

    def _fitting(self, capture: forward_capture.ActivationCapture, window: row_batches.Window) -> Piece | None:
        """Return the activations of a window's rows.

        None if memory did not suffice; batches are then smaller from now on.
        """
        try:
            return self._piece(capture, window)
        except Exception as error:
            if not memory.is_exhausted(error):
                raise
            self._halve(window.rows.lengths, error)
        # Outside of the handler: the error keeps the tensors of the failed batch alive.
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _piece(self, capture: forward_capture.ActivationCapture, window: row_batches.Window) -> Piece:
        ids, lengths, offsets, device = window.rows.values, window.rows.lengths, window.rows.offsets, self._model.device
        self._check(window, ids, lengths)
        position = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)
        keep = self._selection.kept(ids, position)
        order = np.cumsum(keep) - 1
        parts: dict[str, list[Tensor]] = {hook.name: [] for hook in self.hooks}
        targets: list[NDArray[np.int64]] = []
        for batch in row_batches.batches(lengths, self.batch_tokens):
            taken, chosen = self._forward(capture, ids, offsets, lengths[batch], batch, keep)
            targets.append(order[chosen])
            for name, value in taken.items():
                parts[name].append(value)
        row = np.repeat(np.arange(len(lengths)), lengths)
        return Piece(
            first_row=window.first_row,
            num_rows=len(lengths),
            token_ids=torch.from_numpy(ids[keep].astype(np.int32)),
            row=torch.from_numpy(row[keep] + window.first_row),
            position=torch.from_numpy(position[keep].astype(np.int32)),
            values={hook.name: self._joined(parts[hook.name], targets, hook.width) for hook in self.hooks},
            made=torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None,
        )

    def _forward(
        self,
        capture: forward_capture.ActivationCapture,
        ids: NDArray[np.int64],
        offsets: NDArray[np.int64],
        lengths: NDArray[np.int64],
        batch: NDArray[np.int64],
        keep: NDArray[np.bool_],
    ) -> tuple[dict[str, Tensor], NDArray[np.int64]]:
        """Run a batch; return the selected activations, [n, width], and their tokens in the window."""
        longest = int(lengths.max())
        within = np.arange(longest) < lengths[:, None]
        # Padded with the row's own first token: NaN of another token would get through even where attention gives it
        # weight 0.
        source = offsets[batch][:, None] + np.where(within, np.arange(longest), 0)
        padded = not within.all()
        # No causal model sees padding after the text: without a mask it uses its fast path.
        mask = self._moved(within.astype(np.int64)) if padded and self._model.description.masked else None
        seen = capture.run(self._moved(ids[source]), mask)
        wanted = within & keep[source]
        if wanted.all():
            return {name: value.flatten(0, 1) for name, value in seen.items()}, source.ravel()
        index = self._moved(np.flatnonzero(wanted))
        with torch.inference_mode():
            return {name: value.flatten(0, 1).index_select(0, index) for name, value in seen.items()}, source[wanted]

    def _moved(self, values: NDArray[np.int64]) -> Tensor:
        """Return numbers on the model's device. On a GPU the copy is asynchronous: the next batch starts meanwhile."""
        tensor, device = torch.from_numpy(values), self._model.device
        return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)

    def _joined(self, parts: Sequence[Tensor], targets: Sequence[NDArray[np.int64]], width: int) -> Tensor:
        """Concatenate the batches' vectors in row order."""
        if not parts:
            return torch.empty(0, width, dtype=self._model.dtype, device=self._model.device)
        if len(parts) == 1 and (np.diff(targets[0]) == 1).all():
            return parts[0]
        with torch.inference_mode():
            target = self._moved(np.argsort(np.concatenate(targets)))
            return torch.cat(list(parts)).index_select(0, target)

    def _halve(self, lengths: NDArray[np.int64], error: Exception) -> None:
        """Halve the batch size, after memory did not suffice for a window of rows of these lengths."""
        longest = int(lengths.max())
        if len(lengths) == 1:
            raise errors.ResourceExhausted(
                f"There is not enough memory on {self._model.device} for a single row of {longest} tokens. "
                "Use a smaller context_size, bfloat16, fewer hooks, or a worker with more memory.",
                reason="MODEL_INVALID",
            ) from error
        self.batch_tokens = max(1, min(self.batch_tokens, longest * len(lengths)) // 2)
        _log.warning("batch_halved", batch_tokens=self.batch_tokens, device=str(self._model.device))

    def _check(self, window: row_batches.Window, ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        description = self._model.description
        rows = f"rows {window.first_row} to {window.first_row + len(lengths) - 1}"
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < description.embedding_rows:
            wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
            raise errors.InvalidArgument(
                f"Token id {wrong} in {rows}, but the model has {description.embedding_rows} embedding rows "
                f"(ids 0 to {description.embedding_rows - 1}). Use the tokenization that was made for this "
                "model.",
                reason="MODEL_MISFIT",
            )
        longest = int(lengths.max(initial=0))
        if description.context_length and longest > description.context_length:
            raise errors.InvalidArgument(
                f"A row of {longest} tokens among {rows}, but the model takes at most "
                f"{description.context_length}. Set context_size to at most {description.context_length}.",
                reason="MODEL_MISFIT",
            )


def automatic_batch_tokens(model: LoadedModel, num_hooks: int) -> int:
    """Return a power of two of tokens that suits a model: the same on every run on the same kind of machine."""
    description: ModelDescription = model.description
    if model.device.type == "cpu":
        # Larger batches are no faster: the matrices are large enough, and smaller ones stay in the caches.
        return 2048
    # Roughly what a block allocates per token, and what the hooks store of it over a window.
    each = model.dtype.itemsize * (12 * description.d_model + 4 * description.d_mlp)
    each += model.dtype.itemsize * description.d_model * num_hooks * 2 * _WINDOW_BATCHES
    left = memory.total_bytes(model.device) - description.num_parameters * model.dtype.itemsize
    fitting = max(1, int(left * 0.5) // each)
    return int(min(1 << 15, 1 << (fitting.bit_length() - 1)))
