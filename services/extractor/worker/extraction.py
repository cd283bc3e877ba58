"""Extract a range of a tokenization's rows: from the model to files on disk, in one pass."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from polytok import errors
from services.activations import activation_stream, device_transfer, finiteness, hooks
from services.activations.models import LoadedModel, ModelDescription
from services.activations.statistics import ActivationStatistics
from services.activations.token_selection import TokenSelection
from services.extractor.worker import arrow_columns, file_writer
from services.runtime.prefetch import PrefetchIterator
from services.runtime.storage import Storage

_ADVICE = (
    "Run the model as float32 or bfloat16 if it runs as float16, exclude the tokens where it happens, or "
    "store and count such numbers (policy keep)."
)

Report = Callable[[int, int], None]
"""Called with the rows done and the total."""


@dataclass(frozen=True)
class RangeSettings:
    """What is extracted, and how it is stored."""

    hooks: tuple[str, ...]
    context_size: int
    """Maximum number of tokens of a row that the model sees, and vectors in a row of the files."""
    max_tokens: int = 0
    """Number of vectors per hook after which the range ends; 0 means no limit."""
    batch_size: int = 0
    """Number of sequences of context_size tokens in a forward pass; 0 chooses by model and device."""
    storage_dtype: str = "float32"
    excluded_token_ids: tuple[int, ...] = ()
    excluded_positions: tuple[int, ...] = ()
    nonfinite: Literal["fail", "keep"] = "fail"
    """Whether NaN or infinity fails the extraction, or is stored and counted."""


@dataclass(frozen=True)
class ExtractionResult:
    """The result of extracting one range."""

    files: tuple[file_writer.WrittenFile, ...]
    statistics: dict[str, ActivationStatistics]
    """Hook → statistics of all computed vectors, including those left over."""
    tokens: int
    """Number of vectors per hook in the files."""
    left_over: int
    """Number of vectors per hook at the end of the range that fill no row and are in no file."""
    sequences: int
    """Number of rows of the tokenization that were read."""
    batch_tokens: int
    """Tokens per forward pass at the end: fewer than at the start if memory did not suffice."""


def extract(
    model: LoadedModel,
    dataset: Any,
    first_row: int,
    num_rows: int,
    settings: RangeSettings,
    folder: pathlib.Path,
    stem: str,
    report: Report,
) -> ExtractionResult:
    """Write the activations of some rows to `{folder}/{stem}-00000.arrow` and so on, synced, with their checksums.

    `dataset` is a `datasets.Dataset` or `pyarrow.Table`. A range that fails leaves only files that were already
    complete. Raises FailedPrecondition for NaN and infinity, and what Stream.pieces raises.
    """
    return extract_to(model, dataset, first_row, num_rows, settings, Storage(str(folder)), stem, report)


def extract_to(
    model: LoadedModel,
    dataset: Any,
    first_row: int,
    num_rows: int,
    settings: RangeSettings,
    storage: Storage,
    prefix: str,
    report: Report,
) -> ExtractionResult:
    """Like `extract`, but write to keys of any storage."""
    stream = activation_stream.ActivationStream(model, dataset, _stream_settings(settings))
    arrivals = device_transfer.DeviceTransfer(model.device, arrow_columns.STORED[settings.storage_dtype])
    gathering = _RowAccumulator(settings, {hook.name: hook.width for hook in stream.hooks})
    done = 0
    with (
        contextlib.ExitStack() as stack,
        contextlib.closing(stream.pieces(first_row, num_rows)) as pieces,
        PrefetchIterator(_until(pieces, settings.max_tokens), "model") as made,
    ):
        writer: file_writer.ActivationWriter | None = None
        for piece in made:
            values = gathering.take(piece, arrivals)
            if writer is None:
                writer = stack.enter_context(
                    file_writer.ActivationWriter(
                        storage, prefix, gathering.widths, settings.context_size, settings.storage_dtype
                    )
                )
            writer.write(piece.token_ids, piece.row, piece.position, values)
            done += piece.num_rows
            report(done, num_rows)
    files = tuple(writer.files) if writer else ()
    return ExtractionResult(
        files=files,
        statistics=gathering.statistics,
        tokens=sum(file.num_rows for file in files) * settings.context_size,
        left_over=writer.left_over if writer else 0,
        sequences=done,
        batch_tokens=stream.batch_tokens,
    )


def widths(settings: RangeSettings, description: ModelDescription) -> dict[str, int]:
    """Return the numbers per vector of each hook.

    A module named by its path has 0: only a forward pass shows its width.
    """
    return {hook.name: hook.width for hook in hooks.parse_hooks(settings.hooks, description)}


def _stream_settings(settings: RangeSettings) -> activation_stream.StreamSettings:
    return activation_stream.StreamSettings(
        hooks=settings.hooks,
        batch_tokens=settings.batch_size * settings.context_size,
        selection=TokenSelection(
            context_size=settings.context_size,
            excluded_token_ids=settings.excluded_token_ids,
            excluded_positions=settings.excluded_positions,
        ),
    )


def _until(pieces: Iterator[activation_stream.Piece], max_tokens: int) -> Iterator[activation_stream.Piece]:
    """End a stream after a number of vectors."""
    left = max_tokens
    for piece in pieces:
        count = len(piece.token_ids)
        if max_tokens and count >= left:
            yield _cut(piece, left)
            return
        left -= count
        yield piece


def _cut(piece: activation_stream.Piece, count: int) -> activation_stream.Piece:
    rows = int(piece.row[count - 1]) - piece.first_row + 1
    return activation_stream.Piece(
        first_row=piece.first_row,
        num_rows=rows,
        token_ids=piece.token_ids[:count],
        row=piece.row[:count],
        position=piece.position[:count],
        values={name: value[:count] for name, value in piece.values.items()},
        made=piece.made,
    )


class _RowAccumulator:
    """Counts the vectors that pass, and rejects those that cannot be stored."""

    def __init__(self, settings: RangeSettings, parsed: Mapping[str, int]) -> None:
        self._settings = settings
        self.widths = dict(parsed)
        self.statistics: dict[str, ActivationStatistics] = {}

    def take(self, piece: activation_stream.Piece, arrivals: device_transfer.DeviceTransfer) -> dict[str, Tensor]:
        """Move a piece's vectors to the CPU in the number format of the files."""

        def look(name: str, value: Tensor) -> None:
            statistics = self.statistics.setdefault(name, ActivationStatistics(value.shape[1]))
            self.widths[name] = value.shape[1]
            before = statistics.nan + statistics.infinite
            statistics.add(value)
            found = statistics.nan + statistics.infinite - before
            if found and self._settings.nonfinite == "fail":
                finiteness.check_finite(name, value, piece.row, piece.position, _ADVICE)
            if self._settings.storage_dtype == "float16":
                self._check_range(name, value, piece, statistics)

        return arrivals.take(piece, look)

    def _check_range(
        self, name: str, value: Tensor, piece: activation_stream.Piece, statistics: ActivationStatistics
    ) -> None:
        limit = torch.finfo(torch.float16).max
        if statistics.count and max(-statistics.low.min(), statistics.high.max()) > limit:
            row, position = _place(value.abs() > limit, piece)
            raise errors.FailedPrecondition(
                f"{name}: a number at row {row}, position {position} exceeds the range of float16 "
                f"({limit:g}). Use float32 or bfloat16 as storage dtype.",
                reason="NOT_FINITE",
            )


def _place(wrong: Tensor, piece: activation_stream.Piece) -> tuple[int, int]:
    """Return the row and position of the first invalid vector."""
    first = int(wrong.any(1).nonzero()[0])
    return int(piece.row[first]), int(piece.position[first])
