"""Encodes a shard's texts with the engine that its first texts choose."""

from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

from services.tokenizer.engines import Engine
from services.tokenizer.rows.ragged import Ragged
from services.tokenizer.text.reading import Slice


class Encoder:
    """Encodes one shard."""

    def __init__(self, choose: Callable[[pa.Array], Engine]) -> None:
        self._choose = choose
        self.engine = ""
        """The name of the engine; empty before the first text."""

    def encoded(self, pieces: Iterable[Slice]) -> Iterator[tuple[Slice, Ragged]]:
        """Yields the pieces with their ids."""
        engine: Engine | None = None
        for piece in pieces:
            engine = engine or self._choose(piece.texts)
            self.engine = engine.name
            yield piece, engine.encode(piece.texts)
