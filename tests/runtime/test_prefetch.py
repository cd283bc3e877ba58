"""A step of its own thread: in order, a bounded number ahead, and never left behind."""

import threading
from collections.abc import Iterator

import pytest

from services.runtime.prefetch import PrefetchIterator


def test_items_come_in_order_and_errors_after_them() -> None:
    def items() -> Iterator[int]:
        yield from range(100)
        raise KeyError("gone")

    found: list[int] = []
    with pytest.raises(KeyError, match="gone"), PrefetchIterator(items(), "items") as ahead:
        found.extend(ahead)
    assert found == list(range(100))


def test_prefetch_is_bounded_and_ends_with_block() -> None:
    made: list[int] = []
    enough = threading.Event()

    def items() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            if number == 3:
                enough.set()
            yield number

    with PrefetchIterator(items(), "items", depth=2) as ahead:
        assert next(iter(ahead)) == 0
        assert enough.wait(60)
    # Two that wait, one in hand: the block ended before it took more.
    assert made == [0, 1, 2, 3]
    assert "items" not in {thread.name for thread in threading.enumerate()}


def test_a_chain_ends_when_its_last_step_does() -> None:
    with (
        PrefetchIterator(range(1000), "first") as first,
        PrefetchIterator((number + 1 for number in first), "second") as second,
    ):
        assert next(iter(second)) == 1
    assert not {"first", "second"} & {thread.name for thread in threading.enumerate()}
