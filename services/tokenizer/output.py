"""What happens to token ids after the engine: sequences are made of documents, counted and written."""

from polytok.catalog.v1 import tokenizations_pb2
from services.tokenizer import sequences, statistics, writing
from services.tokenizer.ragged import Ragged


class Output:
    """Takes a shard's documents in order; `finish` gives the statistics of what was written."""

    def __init__(self, sequencer: sequences.Sequencer, writer: writing.ShardWriter, unknown: int | None) -> None:
        self._sequencer = sequencer
        self._writer = writer
        self._unknown = unknown
        self._total = statistics.merge([])

    def add(self, documents: Ragged) -> None:
        """Writes the sequences that are complete with these documents."""
        for rows in self._sequencer.add(documents):
            self._total = statistics.merge([self._total, statistics.count(rows.ids, self._unknown)])
            self._writer.write(rows)

    def finish(self) -> tokenizations_pb2.TokenizationStatistics:
        """Writes what was kept back until all documents were there, and returns what was counted."""
        self._total.num_truncated = self._sequencer.num_truncated
        return self._total
