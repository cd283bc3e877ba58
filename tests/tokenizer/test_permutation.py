"""The shuffled order is one of all rows, the same wherever it is asked for, and what its description says."""

import numpy as np
import pytest

from services.tokenizer.sequences.permutation import Permutation

_MASK = (1 << 64) - 1


def mixed(value: int) -> int:
    """SplitMix64's output function."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def shuffled(seed: int, size: int) -> list[int]:
    """Return the order in plain Python: the row at every place."""
    bits = 8
    while 4**bits < size:
        bits += 1
    keys = [mixed((seed + number * 0x9E3779B97F4A7C15) & _MASK) for number in range(1, 9)]
    found = []
    for place in range(size):
        value = place
        while True:
            left, right = divmod(value, 1 << bits)
            for key in keys:
                left, right = right, left ^ (mixed((right + key) & _MASK) >> (64 - bits))
            value = (left << bits) + right
            if value < size:
                break
        found.append(value)
    return found


@pytest.mark.parametrize(("seed", "size"), [(0, 1), (1, 2), (7, 100), (2**63 - 1, 1000), (42, 70_000)])
def test_it_is_the_described_order(seed: int, size: int) -> None:
    rows = Permutation(seed, size).rows(np.arange(size))
    if size > 1000:
        assert np.array_equal(np.sort(rows), np.arange(size))
    else:
        assert rows.tolist() == shuffled(seed, size)


def test_inverse() -> None:
    permutation = Permutation(5, 12_345)
    chosen = np.array([12_344, 0, 77, 9_999])
    assert permutation.places(permutation.rows(chosen)).tolist() == chosen.tolist()
    assert permutation.rows(permutation.places(chosen)).tolist() == chosen.tolist()


def test_orders_differ_between_seeds() -> None:
    size = 10_000
    first, second = (Permutation(seed, size).rows(np.arange(size)) for seed in (1, 2))
    assert np.count_nonzero(first == second) < 10
    # Where neighbours go has nothing to do with where they were: the mean way is a third of all.
    assert abs(np.abs(np.diff(first)).mean() / size - 1 / 3) < 0.02
    assert abs(np.corrcoef(np.arange(size), first)[0, 1]) < 0.05
