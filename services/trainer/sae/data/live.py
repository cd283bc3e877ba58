"""Activations computed during training: a model reads a tokenization's rows, in a different order each epoch.

Rows are shuffled by (seed, epoch); the last rows of an order drawn from the seed alone are held out. A position is an
epoch, a row and the number of tokens in a forward pass: from there `activation_stream` continues with the same
batches.
"""

import functools
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polytok import errors
from services.activations import activation_stream, finiteness, hooks
from services.activations.models import LoadedModel
from services.activations.rows import TokenRows
from services.activations.token_selection import TokenSelection
from services.trainer.sae import configs
from services.trainer.sae.data.dataset import Block, Position, SpliceTarget, TokenSequences

_SPLIT = 0
_EPOCHS = 1
_SEQUENCES = 4
_COUNTED_ROWS = 1024


class LiveIterator:
    """The activations of some rows, in an order given by seed and epoch."""

    def __init__(
        self,
        model: LoadedModel,
        dataset: Any,
        settings: activation_stream.StreamSettings,
        rows: NDArray[np.int64],
        seed: int,
    ) -> None:
        """`dataset` is a `datasets.Dataset`; `rows` are the indices to read."""
        found = hooks.parse_hooks(settings.hooks, model.description)
        self.widths = {hook.name: hook.width for hook in found}
        self._model = model
        self._dataset = dataset
        self._rows = self._order = rows
        self._seed = seed
        self._settings = replace(
            settings, batch_tokens=settings.batch_tokens or activation_stream.automatic_batch_tokens(model, len(found))
        )
        self._epoch = 0
        self._row = 0
        self._tokens = 0
        self._pieces: Generator[activation_stream.Piece] | None = None
        self._stream: activation_stream.ActivationStream | None = None

    def read(self) -> Block:
        """Return the next piece that holds tokens.

        Raises `errors.FailedPrecondition` if no row holds any, and for activations that are not finite.
        """
        while True:
            pieces = self._opened()
            piece = next(pieces, None)
            if piece is None:
                self._next_epoch()
                continue
            assert self._stream is not None
            self._row = piece.next_row
            self._settings = replace(self._settings, batch_tokens=self._stream.batch_tokens)
            self._tokens += len(piece.token_ids)
            if len(piece.token_ids):
                return _checked(piece, self._order, self._model)

    def _opened(self) -> Generator[activation_stream.Piece]:
        if self._pieces is None:
            drawn = np.random.default_rng([self._seed, _EPOCHS, self._epoch])
            self._order = self._rows[drawn.permutation(len(self._rows))]
            self._stream = activation_stream.ActivationStream(
                self._model, self._dataset.select(self._order), self._settings
            )
            self._pieces = self._stream.pieces(first_row=self._row)
        return self._pieces

    def _next_epoch(self) -> None:
        if not self._tokens:
            raise errors.FailedPrecondition(
                f"None of the {len(self._rows):,} sequences to train on has a selected token. Exclude fewer "
                "tokens, or train on another tokenization.",
                reason="SOURCE_EMPTY",
            )
        self.release()
        self._epoch, self._row, self._tokens = self._epoch + 1, 0, 0

    def release(self) -> None:
        """Remove the hooks from the model until the next `read`, so that the model can run otherwise."""
        if self._pieces is not None:
            self._pieces.close()
        self._pieces = self._stream = None

    def position(self) -> Position:
        """Return the position of the next row."""
        return {
            "epoch": self._epoch,
            "row": self._row,
            "tokens": self._tokens,
            "batch_tokens": self._settings.batch_tokens,
        }

    def seek(self, position: Position) -> None:
        """Move to a row of an epoch."""
        epoch, row, tokens, batch_tokens = (int(position[name]) for name in ("epoch", "row", "tokens", "batch_tokens"))
        if epoch < 0 or not 0 <= row <= len(self._rows) or batch_tokens < 1:
            raise errors.DataLoss(
                f"The checkpoint continues at row {row} of epoch {epoch}, but there are {len(self._rows)} "
                "rows. Start the training over, without resuming."
            )
        self.release()
        self._epoch, self._row, self._tokens = epoch, row, tokens
        self._settings = replace(self._settings, batch_tokens=batch_tokens)


class LiveDataset:
    """A model and a tokenization to train on, with some of its rows held out."""

    def __init__(
        self,
        model: LoadedModel,
        dataset: Any,
        settings: activation_stream.StreamSettings,
        *,
        seed: int,
        held_out_rows: int,
    ) -> None:
        """`dataset` is the result of `datasets.load_from_disk`.

        At least one and at most a tenth of its rows are held out.

        Raises `errors.InvalidArgument` for hooks that the model does not have.
        """
        self._model = model
        self._dataset = dataset
        self._settings = settings
        self._seed = seed
        self._hooks = {hook.name: hook for hook in hooks.parse_hooks(settings.hooks, model.description)}
        self.widths = {name: hook.width for name, hook in self._hooks.items()}
        train, held = split(len(dataset), held_out_rows, seed)
        self._train, self._held = train, held
        self._sources: list[LiveIterator] = []
        # On a processor, model and step use the same cores. Taking turns, neither waits for the other's threads, and
        # both find their memory blocks where they left them.
        self.ahead = 0 if model.device.type == "cpu" else 2
        self.description = {
            "source": "live",
            "rows": len(dataset),
            "held_out_rows": len(held),
            "held_out": f"the last {len(held)} rows of a permutation seeded with {seed}; never trained on",
        }

    @functools.cached_property
    def available_samples(self) -> int:
        """Number of activations of each hook to train on, each counted once; reads all ids."""
        selection = self._settings.selection
        rows = TokenRows(self._dataset.select(self._train), selection.context_size)
        total = 0
        for first in range(0, len(rows), _COUNTED_ROWS):
            ragged = rows.read(first, _COUNTED_ROWS)
            positions = np.arange(len(ragged.values)) - np.repeat(ragged.offsets[:-1], ragged.lengths)
            total += int(selection.kept(ragged.values, positions).sum())
        return total

    def source(self, rank: int, size: int) -> LiveIterator:
        """Return every `size`-th row, starting with the `rank`-th."""
        rows = part(self._train, rank, size, "sequences")
        source = LiveIterator(self._model, self._dataset, self._settings, rows, self._seed)
        self._sources.append(source)
        return source

    def held_out(self) -> Iterator[Block]:
        """Run the model on the held-out rows."""
        self._release()
        stream = activation_stream.ActivationStream(self._model, self._dataset.select(self._held), self._settings)
        for piece in stream.pieces():
            if len(piece.token_ids):
                yield _checked(piece, self._held, self._model)

    def splice_target(self, hook: str) -> SpliceTarget | None:
        """Return the model, or None if it has no head or predicts no next tokens."""
        if not self._model.has_head or self._model.description.masked:
            return None
        self._release()
        return SpliceTarget(self._model, self._hooks[hook], self._sequences)

    def _sequences(self) -> Iterator[TokenSequences]:
        return sequences(self._dataset.select(self._held), self._settings.selection, self._model.device)

    def _release(self) -> None:
        for source in self._sources:
            source.release()


def _checked(piece: activation_stream.Piece, rows: NDArray[np.int64], model: LoadedModel) -> Block:
    """Return the vectors of a piece; `rows` are the rows of the tokenization that were streamed."""
    for hook, values in piece.values.items():
        streamed = torch.from_numpy(rows)[piece.row]
        finiteness.check_finite(hook, values, streamed, piece.position, finiteness.suggest_dtype(model.dtype))
    return piece.values


def split(rows: int, held_out: int, seed: int, unit: str = "sequences") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on and the held-out rows, each in ascending order.

    Raises `errors.FailedPrecondition` if there are too few to hold any out.
    """
    if rows < 2:
        raise errors.FailedPrecondition(
            f"There is too little data: {rows} {unit}, but at least one to train on and one to evaluate on "
            "are needed. Use a larger dataset, or shorter sequences.",
            reason="SOURCE_EMPTY",
        )
    held = configs.num_held_out(rows, held_out)
    order = np.random.default_rng([seed, _SPLIT]).permutation(rows)
    return np.sort(order[: rows - held]), np.sort(order[rows - held :])


def part(items: NDArray[np.int64], rank: int, size: int, unit: str) -> NDArray[np.int64]:
    """Return every `size`-th item, starting with the `rank`-th; raises `errors.FailedPrecondition` if there is none."""
    found = items[rank::size]
    if not len(found):
        raise errors.FailedPrecondition(
            f"There are {len(items)} {unit} to train on, too few for {size} processes. Use fewer processes, "
            "or more data.",
            reason="SOURCE_EMPTY",
        )
    return found


def sequences(dataset: Any, selection: TokenSelection, device: torch.device) -> Iterator[TokenSequences]:
    """Yield the rows of a tokenization a few at a time, padded at the end, with the selected tokens marked."""
    rows = TokenRows(dataset, selection.context_size)
    for first in range(0, len(rows), _SEQUENCES):
        ragged = rows.read(first, _SEQUENCES)
        longest = int(ragged.lengths.max(initial=0))
        if longest < 2:
            continue
        places = np.arange(longest)
        mask = places < ragged.lengths[:, None]
        ids = np.zeros(mask.shape, np.int64)
        ids[mask] = ragged.values
        kept = mask & selection.kept(ids, np.broadcast_to(places, ids.shape))
        yield TokenSequences(*(torch.from_numpy(each).to(device) for each in (ids, mask.astype(np.int64), kept)))
