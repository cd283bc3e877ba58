"""Encode a shard's texts with the engine chosen for its first texts."""

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

from polytok.catalog.v1 import tokenizations_pb2
from services.tokenizer.engines import Engine, reference, versions
from services.tokenizer.sequences.ragged import Ragged
from services.tokenizer.text.shard_reader import TextSlice


class ShardEncoder:
    """Encodes one shard."""

    def __init__(self, choose: Callable[[pa.Array], Engine]) -> None:
        self._choose = choose
        self.statistics = tokenizations_pb2.TokenizationStatistics(reference_version=reference.VERSION)
        """What made the ids; no engine is set before the first text."""

    def encoded(self, pieces: Iterable[TextSlice]) -> Iterator[tuple[TextSlice, Ragged]]:
        """Yield the pieces with their ids."""
        engine: Engine | None = None
        for piece in pieces:
            engine = engine or self._chosen(piece.texts)
            yield piece, engine.encode(piece.texts)

    def _chosen(self, texts: pa.Array) -> Engine:
        engine = self._choose(texts)
        self.statistics.engine = engine.name
        if engine.name != reference.Reference.name:
            self.statistics.engine_versions.append(versions.format_name_and_version(engine.name))
        return engine
