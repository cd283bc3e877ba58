"""Sends documents that hold certain texts to the reference, the others to a fast engine."""

from collections.abc import Sequence

import pyarrow as pa

from services.tokenizer.engines import Engine, attempt, searching
from services.tokenizer.rows import ragged
from services.tokenizer.rows.ragged import Ragged


class Routed:
    """An engine that is exact but for documents with one of some texts, such as an added token's."""

    def __init__(self, fast: Engine, reference: Engine, needles: Sequence[str]) -> None:
        self._fast = fast
        self._reference = reference
        self._needles = tuple(needles)

    @property
    def name(self) -> str:
        """The fast engine's."""
        return self._fast.name

    def encode(self, texts: pa.Array) -> Ragged:
        """Returns the ids of each text."""
        found = searching.holding(texts, self._needles)
        if not found.any():
            return attempt(self._fast, texts)
        fast = attempt(self._fast, texts.filter(pa.array(~found)))
        return ragged.interleave(fast, self._reference.encode(texts.filter(pa.array(found))), found)
