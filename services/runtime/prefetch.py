"""Run one step of a pipeline in its own thread, a bounded number of items ahead of the next step."""

import collections
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class PrefetchIterator(Generic[_Item]):
    """Iterate over a source in a thread while the block runs; the thread has ended when the block does."""

    def __init__(self, source: Iterable[_Item], name: str, depth: int = 2) -> None:
        self._source = source
        self._depth = depth
        self._items: collections.deque[_Item] = collections.deque()
        self._changed = threading.Condition()
        self._stopped = self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> "PrefetchIterator[_Item]":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()
        self._thread.join()

    def __iter__(self) -> Iterator[_Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for item in self._source:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._items) < self._depth or self._stopped)
                    if self._stopped:
                        return
                    self._items.append(item)
                    self._changed.notify_all()
        # Raised again where the items are consumed.
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
