"""Histograms of sequence lengths: small enough to send per shard, and additive over shards."""

import itertools
from collections.abc import Iterable

import numpy as np

from polytok.tokenizer.v1 import tasks_pb2
from services.tokenizer.sequences.ragged import Offsets

_EXACT_BITS = 10
_SHARE_BITS = 6
_EXACT = 1 << _EXACT_BITS
_SHARES = 1 << _SHARE_BITS


class Histogram:
    """Counts lengths: exactly up to 1,023, longer ones in 64 equal buckets between powers of two."""

    def __init__(self) -> None:
        self._counts = np.zeros(_EXACT, np.int64)

    def add(self, lengths: Offsets) -> None:
        """Count lengths."""
        self.add_counts(np.bincount(_buckets(lengths)))

    def add_counts(self, counts: Offsets) -> None:
        """Add counts from elsewhere, by bucket."""
        if len(counts) > len(self._counts):
            self._counts = np.pad(self._counts, (0, len(counts) - len(self._counts)))
        self._counts[: len(counts)] += counts

    def message(self) -> tasks_pb2.LengthHistogram:
        """Return the counts as a message."""
        filled = np.flatnonzero(self._counts)
        return tasks_pb2.LengthHistogram(buckets=filled.tolist(), counts=self._counts[filled].tolist())

    def median(self) -> float:
        """Return the median length: of an even number, the mean of the middle two."""
        total = int(self._counts.sum())
        if not total:
            return 0.0
        ends = np.cumsum(self._counts)
        middle = np.searchsorted(ends, [(total - 1) // 2, total // 2], side="right")
        return float(np.mean([_least(int(bucket)) for bucket in middle]))

    def by_powers(self) -> list[int]:
        """Return how many sequences have 0, 1, 2 to 3, 4 to 7, … tokens."""
        edges = [0, 1]
        while edges[-1] < _least(len(self._counts)):
            edges.append(2 * edges[-1])
        places = _buckets(np.array(edges))
        counts = [int(self._counts[start:stop].sum()) for start, stop in itertools.pairwise(places)]
        while counts and not counts[-1]:
            counts.pop()
        return counts


def merge(messages: Iterable[tasks_pb2.LengthHistogram]) -> Histogram:
    """Return the joint histogram of all shards."""
    merged = Histogram()
    for message in messages:
        if message.buckets:
            merged.add_counts(np.bincount(message.buckets, message.counts).astype(np.int64))
    return merged


def _buckets(lengths: Offsets) -> Offsets:
    power = np.maximum(np.frexp(lengths)[1] - 1, _EXACT_BITS).astype(np.int64)
    share = (lengths >> (power - _SHARE_BITS)) - _SHARES
    return np.where(lengths < _EXACT, lengths, _EXACT + (power - _EXACT_BITS) * _SHARES + share)


def _least(bucket: int) -> int:
    """Return the shortest length of a bucket."""
    if bucket < _EXACT:
        return bucket
    power, share = divmod(bucket - _EXACT, _SHARES)
    return (_SHARES + share) << (power + _EXACT_BITS - _SHARE_BITS)
