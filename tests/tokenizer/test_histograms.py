"""Histograms of lengths against plain Python, however the lengths are spread over shards."""

import bisect
import statistics

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.tokenizer.sequences import histograms

LENGTHS = st.lists(st.integers(0, 1023) | st.integers(0, 1 << 22), max_size=60)


def of(lengths: list[int]) -> histograms.Histogram:
    made = histograms.Histogram()
    made.add(np.array(lengths[:7], np.int64))
    made.add(np.array(lengths[7:], np.int64))
    return made


@given(parts=st.lists(LENGTHS, max_size=4))
def test_merged_shards_equal_python(parts: list[list[int]]) -> None:
    whole = [length for part in parts for length in part]
    merged = histograms.merge(of(part).message() for part in parts)
    assert merged.message() == of(whole).message()
    expected = statistics.median(whole) if whole else 0
    assert expected * (1 - 1 / 64) <= merged.median() <= expected
    if all(length < 1024 for length in whole):
        assert merged.median() == expected
    powers = [1 << power for power in range(24)]
    places = [bisect.bisect_right(powers, length) for length in whole]
    assert merged.by_powers() == [places.count(place) for place in range(max(places, default=-1) + 1)]


def test_powers_of_two_are_exact() -> None:
    for length in (1024, 2048, 4096, 131_072, 524_288):
        assert of([length] * 3).median() == length
        assert of([length - 1, length]).by_powers()[-2:] == [1, 1]


def test_a_message_is_small() -> None:
    assert of(list(range(0, 1 << 20, 7))).message().ByteSize() < 8000
