"""Processing of token ids after the engine: sequences are built from documents, counted, padded and written."""

from collections.abc import Iterable
from typing import Protocol

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.tokenizer.files import sequence_factory, statistics, token_counts
from services.tokenizer.models import loader
from services.tokenizer.sequences import histograms, packing
from services.tokenizer.sequences.base import SequenceRows
from services.tokenizer.sequences.ragged import Ragged


class Writer(Protocol):
    """Takes sequences in order: writes them, or compares them with what was written."""

    def write(self, rows: SequenceRows) -> None:
        """Write the next sequences."""


class Output:
    """Takes a shard's documents in order; `finish` returns the statistics of what was written."""

    def __init__(
        self,
        parameters: tokenizations_pb2.TokenizationParameters,
        tokenizer: loader.Tokenizer,
        writer: Writer,
    ) -> None:
        self._sequencer = sequence_factory.create_sequencer(parameters, tokenizer)
        self._padder = sequence_factory.create_padder(parameters, tokenizer)
        self._writer = writer
        self._unknown = tokenizer.unknown
        self._total = statistics.merge([])
        self.lengths = histograms.Histogram()
        """Lengths of the sequences."""
        self.counts = token_counts.TokenCounts(tokenizer.vocab_size)
        """Number of occurrences of each token."""

    def skip(self, phase: int) -> None:
        """Skip the tokens of a sequence that an earlier file began."""
        self._packed().skip(phase)

    def add(self, documents: Ragged) -> None:
        """Write the sequences that these documents complete."""
        self._write(self._sequencer.add(documents))

    def complete(self, following: Iterable[Ragged]) -> None:
        """Write the unfinished sequence, if the following documents, which belong to another file, fill it."""
        self._write(self._packed().complete(following))

    def _packed(self) -> packing.Packer:
        if not isinstance(self._sequencer, packing.Packer):
            raise errors.Internal("Only concatenated documents continue in another file.", retryable=False)
        return self._sequencer

    def _write(self, made: Iterable[SequenceRows]) -> None:
        for rows in made:
            # Counted before padding.
            self._total = statistics.merge([self._total, statistics.count(rows.ids, self._unknown)])
            self.lengths.add(rows.ids.lengths)
            self.counts.add(rows.ids.values)
            for padded in self._padder.add(rows):
                self._writer.write(padded)

    def finish(self) -> tokenizations_pb2.TokenizationStatistics:
        """Write what was buffered until all documents were there, and return the statistics."""
        for padded in self._padder.finish():
            self._writer.write(padded)
        self._total.num_truncated = self._sequencer.num_truncated
        self._total.num_padded = self._padder.num_padded
        return self._total

    def close(self) -> None:
        """Release the buffers."""
        self._padder.close()
