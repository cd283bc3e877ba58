"""Encode spans with the reference in batches: one text of many spans costs far less than many texts."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers
from numpy.typing import NDArray

from services.tokenizer.sequences import ragged
from services.tokenizer.sequences.ragged import Ragged

_GROUP = 128


class ReferenceBatches:
    """Encodes spans joined by a separator on both sides of which a cut is always exact."""

    def __init__(self, plain: tokenizers.Tokenizer, separators: Iterable[str]) -> None:
        self._plain = plain
        self._separator, self._token = "", -1
        for separator in separators:
            ids = plain.encode(separator, add_special_tokens=False).ids
            if len(ids) == 1:
                self._separator, self._token = separator, ids[0]
                break

    def encode(self, spans: Sequence[str]) -> Ragged:
        """Return the ids of each span."""
        groups = [spans[start : start + _GROUP] for start in range(0, len(spans), _GROUP)]
        if not self._separator:
            return ragged.concatenate([self._alone(group) for group in groups])
        joined = [self._separator.join(group) for group in groups]
        encodings = self._plain.encode_batch_fast(joined, add_special_tokens=False)
        return ragged.concatenate(
            [
                self._parted(np.array(encoding.ids, np.int32), group)
                for encoding, group in zip(encodings, groups, strict=True)
            ]
        )

    def _parted(self, ids: NDArray[np.int32], group: Sequence[str]) -> Ragged:
        places = np.flatnonzero(ids == self._token)
        # Every separator has its id. If there are more of these, a span produces one too, and the boundaries are
        # ambiguous.
        if len(places) != len(group) - 1:
            return self._alone(group)
        lengths = np.diff(places, prepend=-1, append=len(ids)) - 1
        return Ragged(np.delete(ids, places), ragged.offsets_of(lengths))

    def _alone(self, group: Sequence[str]) -> Ragged:
        rows = [encoding.ids for encoding in self._plain.encode_batch_fast(group, add_special_tokens=False)]
        offsets = ragged.offsets_of(np.array([len(row) for row in rows], np.int64))
        return Ragged(np.array(list(itertools.chain.from_iterable(rows)), np.int32), offsets)
